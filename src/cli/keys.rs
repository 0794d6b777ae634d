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
use crate::tokens::SigningKeys;

#[derive(Subcommand)]
pub enum KeysCommand {
    /// Show the keys: which one signs, which ones still verify
    List,
    /// Sign with a new key from now on; the old one verifies as long as its tokens may live
    Rotate,
}

impl KeysCommand {
    pub fn run(self, config: &Config) -> Result<ExitCode, StartError> {
        let now = Timestamp::now();
        let keys = SigningKeys::open(&config.server.data_dir, &config.tokens, now)?;
        if matches!(self, Self::Rotate) {
            let kid = keys.rotate(now)?;
            println!("{kid} signs from now on; a running gateway takes it up within a second");
            return Ok(ExitCode::SUCCESS);
        }
        for key in keys.list() {
            let role = match key.not_after {
                None => "signs".to_owned(),
                Some(at) => format!("verifies until {}", rfc3339(at)),
            };
            println!("{}  {:5}  {role}", key.kid, key.algorithm.name());
        }
        Ok(ExitCode::SUCCESS)
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
        let _stores = server::open_stores(config, parts.revocations.clone())?;
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

fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map(|t| t.to_string()).unwrap_or_default()
}
