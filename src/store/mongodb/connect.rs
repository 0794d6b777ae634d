//! From the connection string to a client that waits no longer than it may and trusts no single server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mongodb::Client;
use mongodb::error::{Error, ErrorKind};
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongodb::options::{
    Acknowledgment, ClientOptions, ConnectionString, HostInfo, ReadConcern, ReadPreference,
    SelectionCriteria, WriteConcern,
};
use parking_lot::Mutex;

use super::fault;
use crate::store::settings::Secret;

/// Connections to one server unless `maxPoolSize` says otherwise; each carries one call at a time.
const CONNECTIONS: u32 = 20;
const MOST_CONNECTIONS: u32 = 1000;

/// How often a server is asked how it is, unless `heartbeatFrequencyMS` says otherwise. One that does not answer is
/// left, and the calls that hang on it are ended: the driver's ten seconds would be the length of every outage.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Why the store cannot be used, whatever the state of its servers, and what to do about it. Shows no credentials.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the MongoDB of `users.uri`: {cause}; {remedy}")]
pub struct OpenError {
    pub cause: String,
    pub remedy: &'static str,
}

/// Servers that do not answer, with the reason; kept by the driver's monitors.
#[derive(Default)]
pub struct Silent(Mutex<BTreeMap<String, String>>);

impl Silent {
    /// Why no server could be chosen.
    fn cause(&self) -> String {
        let silent = self.0.lock();
        if silent.is_empty() {
            return "no primary among the servers of `users.uri`".into();
        }
        silent.iter().map(|(server, cause)| format!("{server}: {cause}")).collect::<Vec<_>>().join("; ")
    }

    /// What went wrong, as [`fault::describe`] says it, and with the servers that do not answer when none did.
    pub fn describe(&self, error: &Error) -> String {
        match &*error.kind {
            ErrorKind::ServerSelection { .. } => self.cause(),
            _ => fault::describe(error),
        }
    }

    fn hear(&self, event: SdamEvent) {
        match event {
            SdamEvent::ServerHeartbeatFailed(event) => {
                let (server, cause) = (event.server_address.to_string(), fault::describe(&event.failure));
                let before = self.0.lock().insert(server.clone(), cause.clone());
                if before.as_ref() != Some(&cause) {
                    tracing::warn!(server, cause, "MongoDB server not reached");
                }
            }
            SdamEvent::ServerHeartbeatSucceeded(event) => {
                let server = event.server_address.to_string();
                if self.0.lock().remove(&server).is_some() {
                    tracing::info!(server, "MongoDB server reached again");
                }
            }
            SdamEvent::ServerClosed(event) => drop(self.0.lock().remove(&event.address.to_string())),
            _ => {}
        }
    }
}

/// How long one step of a call may take, so that the caller, who waits for `timeout`, hears the true cause.
pub fn below(timeout: Duration) -> Duration {
    timeout * 3 / 4
}

/// What can be told of a connection string without asking anybody.
pub struct Address {
    /// The servers are listed in the DNS, which may be down as any server may.
    pub in_dns: bool,
    /// Connections to one server, at most.
    pub connections: u32,
}

pub fn address(uri: &Secret) -> Result<Address, OpenError> {
    let parsed = ConnectionString::parse(uri.expose()).map_err(|error| unusable(uri, &error))?;
    Ok(Address {
        in_dns: matches!(parsed.host_info, HostInfo::DnsRecord(_)),
        connections: connections(parsed.max_pool_size),
    })
}

fn connections(asked: Option<u32>) -> u32 {
    asked.map_or(CONNECTIONS, |asked| asked.clamp(1, MOST_CONNECTIONS))
}

/// A client of the deployment; its tasks run in the runtime of the caller. Waits for DNS, for no server.
pub async fn client(uri: &Secret, timeout: Duration, silent: Arc<Silent>) -> Result<Client, Error> {
    let mut options = ClientOptions::parse(uri.expose()).await?;
    bound(&mut options, timeout);
    options.sdam_event_handler = Some(EventHandler::callback(move |event| silent.hear(event)));
    Client::with_options(options)
}

/// Sets limits below those of the caller, and the guarantees that the store's answers rest on: a write that was
/// answered outlives the loss of a server (majority), and nothing is read that such a loss could take back. A
/// connection string that asks for less was written for another program: what it says about this is passed over.
fn bound(options: &mut ClientOptions, timeout: Duration) {
    let limit = below(timeout);
    let at_most = |asked: Option<Duration>| asked.filter(|d| !d.is_zero()).map_or(limit, |d| d.min(limit));
    options.server_selection_timeout = Some(at_most(options.server_selection_timeout));
    options.connect_timeout = Some(at_most(options.connect_timeout));

    options.max_pool_size = Some(connections(options.max_pool_size));
    options.heartbeat_freq.get_or_insert(HEARTBEAT);

    let mut passed_over = vec![];
    let written = options.write_concern.take();
    let weaker = |w: &Acknowledgment| *w != Acknowledgment::Majority;
    if written.as_ref().and_then(|written| written.w.as_ref()).is_some_and(weaker) {
        passed_over.push("w");
    }
    let mut majority = WriteConcern::majority();
    majority.w_timeout = Some(limit);
    majority.journal = written.and_then(|written| written.journal).filter(|journal| *journal);
    options.write_concern = Some(majority);
    if options
        .read_concern
        .replace(ReadConcern::majority())
        .is_some_and(|asked| asked != ReadConcern::majority())
    {
        passed_over.push("readConcernLevel");
    }
    let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
    if options.selection_criteria.replace(primary.clone()).is_some_and(|asked| asked != primary) {
        passed_over.push("readPreference");
    }
    if !passed_over.is_empty() {
        let options = passed_over.join(", ");
        tracing::warn!(
            options,
            "options of `users.uri` are passed over: writes and reads are of a majority, by the primary"
        );
    }
    options.app_name.get_or_insert_with(|| "portcullis".into());
}

/// Says what is wrong with a connection string. The driver's own message may quote a part of it, so it is asked
/// again about a copy without credentials.
pub fn unusable(uri: &Secret, error: &Error) -> OpenError {
    if !matches!(&*error.kind, ErrorKind::InvalidArgument { .. }) {
        let remedy = "see that the files and names in it are right, and readable for this user";
        return OpenError { cause: fault::describe(error), remedy };
    }
    const REMEDY: &str = "it must look like mongodb://user:password@host:27017/?option=value";
    let Some((scheme, rest)) = uri.expose().split_once("://") else {
        return OpenError { cause: "it has no scheme".into(), remedy: REMEDY };
    };
    // Whatever is before the last `@`, in the options too, may be a piece of a password.
    let public = rest.rsplit_once('@').map_or(rest, |(_, public)| public);
    let secret_option = |option: &&str| {
        let option = option.to_ascii_lowercase();
        !option.contains("password") && !option.contains("properties")
    };
    let public = match public.split_once('?') {
        Some((hosts, options)) => {
            let options: Vec<&str> = options.split('&').filter(secret_option).collect();
            format!("{hosts}?{}", options.join("&"))
        }
        None => public.to_owned(),
    };
    match ConnectionString::parse(format!("{scheme}://{public}")).map_err(|error| *error.kind) {
        Err(ErrorKind::InvalidArgument { message, .. }) => OpenError { cause: message, remedy: REMEDY },
        _ => OpenError {
            cause: "its user name, password or options cannot be read".into(),
            remedy: "write the characters : / ? # [ ] @ % in a user name or password as %3A %2F %3F %23 %5B %5D %40 %25",
        },
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
