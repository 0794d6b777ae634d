//! `portcullis keys ...` and `portcullis token inspect`.

use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;
use serde_json::Value;

use super::{argument_or_stdin, block_on};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::server::{self, StartError};
use crate::tokens::{KeyRole, OldKeys, SigningKeys};

#[derive(Subcommand)]
pub enum KeysCommand {
    /// Show the keys: which one signs, which one will, which ones still verify
    List,
    /// Publish a new key; it signs ten minutes later, when everybody's copy of the key set has it
    Rotate {
        /// Sign with the new key at once, because the old one is in the wrong hands. Backends that verify
        /// tokens themselves may refuse new ones until they fetch the key set again
        #[arg(long)]
        now: bool,
        /// Also refuse every token signed until now: the old keys are deleted
        #[arg(long, requires = "now")]
        drop_old: bool,
    },
}

impl KeysCommand {
    pub fn run(self, config: &Config) -> Result<ExitCode, StartError> {
        let now = Timestamp::now();
        let keys = SigningKeys::open(&config.server.data_dir, &config.tokens, now)?;
        match self {
            Self::List => list(&keys, now),
            Self::Rotate { now: false, .. } => {
                let (kid, signs_from) = keys.rotate(now)?;
                println!("{kid} is published now and signs from {signs_from}; nothing else is to be done");
            }
            Self::Rotate { now: true, drop_old: false } => {
                let kid = keys.rotate_now(OldKeys::Verify, now)?;
                println!("{kid} signs from now on; a running gateway takes it up within a second");
                println!("tokens of the old keys are accepted until they expire; --now --drop-old ends them");
            }
            Self::Rotate { now: true, drop_old: true } => {
                let kid = keys.rotate_now(OldKeys::Drop, now)?;
                println!("{kid} signs from now on; a running gateway refuses all other keys within a second");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(keys: &SigningKeys, now: Timestamp) {
    for key in keys.list(now) {
        let role = match key.role {
            KeyRole::Pending { signs_from } => format!("pending, signs from {signs_from}"),
            KeyRole::Signs { until: None } => "signs".to_owned(),
            KeyRole::Signs { until: Some(at) } => format!("signs until {at}"),
            KeyRole::Verifies { until } => format!("verifies until {until}"),
        };
        println!("{}  {:5}  {role}", key.kid, key.algorithm.name());
    }
}

/// Prints header and claims of `token` and whether it would be accepted now. The signature is not printed.
pub fn inspect(config: &Config, token: &str) -> Result<ExitCode, StartError> {
    let token = argument_or_stdin(token)?;
    let now = Timestamp::now();
    for (name, part) in ["header", "claims"].iter().zip(token.split('.')) {
        match decode(part) {
            Some(json) => println!("{name} {json:#}"),
            None => println!("{name} cannot be decoded: not base64url of a JSON value"),
        }
    }
    let parts = server::token_parts(config, now)?;
    let verdict = block_on(async {
        let stores = server::Stores::open(config, parts.revocations.clone()).await?;
        stores.catch_up(server::CATCH_UP).await;
        Ok(parts.verifier.verify_or_refetch(&token, now).await)
    })?;
    match verdict {
        Ok(claims) => {
            let left = claims.expires_at.until(now).as_secs();
            println!("valid: yes, for another {left} s");
            Ok(ExitCode::SUCCESS)
        }
        Err(rejection) => {
            println!("valid: no: {rejection}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
