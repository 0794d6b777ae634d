//! Tokens, passwords, throttle, mail and identity headers.

use super::super::file::{self, Section, Written};
use super::super::{Algorithm, Identity, Mail, Passwords, Tokens};
use super::server::or_cores;
use super::{Check, headers, urls};
use crate::store::ThrottlePolicy;

impl Check<'_> {
    pub(super) fn tokens(&mut self, written: &Section<file::Tokens>) -> Tokens {
        let access_ttl = self.duration(&written.access_ttl, "10s", "24h");
        let refresh_ttl = self.duration(&written.refresh_ttl, "1m", "3650d");
        let mut refresh_idle_ttl = self.duration(&written.refresh_idle_ttl, "1m", "3650d");
        if refresh_idle_ttl > refresh_ttl && !written.refresh_idle_ttl.is_written() {
            refresh_idle_ttl = refresh_ttl;
        }
        if refresh_idle_ttl > refresh_ttl {
            self.error(&written.refresh_idle_ttl.span, "longer than `refresh_ttl`, so it would never count")
                .help("write a shorter time, or remove this line");
        }
        if access_ttl > refresh_ttl {
            let later =
                if written.access_ttl.is_written() { &written.access_ttl } else { &written.refresh_ttl };
            self.error(&later.span, "an access token would outlive its session")
                .help("`access_ttl` is at most `refresh_ttl`");
        }
        let cache_bytes = self.size(&written.cache_size, "0B", "64GiB");
        Tokens {
            issuer: self.issuer_name(&written.issuer),
            audience: self.audience(&written.audience),
            algorithm: self.algorithm(&written.algorithm, &Algorithm::OWN).unwrap_or(Algorithm::Es256),
            access_ttl,
            refresh_ttl,
            refresh_idle_ttl,
            refresh_grace: self.duration(&written.refresh_grace, "0s", "60s"),
            leeway: self.duration(&written.leeway, "0s", "60s"),
            cache_bytes: usize::try_from(cache_bytes).unwrap_or(usize::MAX),
        }
    }

    /// An `iss`: compared byte for byte, so it only has to be text that means to be one.
    pub(super) fn issuer_name(&mut self, written: &Written<String>) -> String {
        let text = written.value.as_str();
        if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            self.error(&written.span, "not the name of an issuer").help(
                "write the URL clients know it by, \"https://login.example.com\", or text without spaces",
            );
        } else if text.contains(':') && urls::absolute(text).is_none() && !text.starts_with("urn:") {
            self.error(&written.span, "not a URL an issuer can have")
                .help("write http(s)://host with nothing after a `#`, or text without a colon");
        }
        text.to_owned()
    }

    pub(super) fn audience(&mut self, written: &Written<String>) -> String {
        if written.value.is_empty() || written.value.chars().any(|c| c.is_control() || c.is_whitespace()) {
            self.error(&written.span, "not an audience").help("write text without spaces: \"api\"");
        }
        written.value.clone()
    }

    pub(super) fn mail(&mut self, written: &file::Mail) -> Mail {
        let transport = self.word("transport", &written.transport, &["log"], &["sendgrid", "smtp"]);
        for (key, later) in [("from", &written.from), ("api_key", &written.api_key), ("url", &written.url)] {
            if let Some(later) = later.as_ref().filter(|_| transport.is_some()) {
                self.later(later, key, "mail that is written to the log needs no account; remove it");
            }
        }
        Mail::Log
    }

    pub(super) fn passwords(&mut self, written: &file::Passwords) -> Passwords {
        let cost = self.number(&written.cost, 4, 16);
        if (4..10).contains(&written.cost.value) {
            self.warning(
                &written.cost.span,
                "passwords hashed at this cost are quickly guessed once the database leaks",
            )
            .help("write 10 or more; 12 is the default");
        }
        let min_length = self.number(&written.min_length, 1, 128);
        if (1..8).contains(&written.min_length.value) {
            self.warning(&written.min_length.span, "passwords this short are quickly guessed")
                .help("write 8 or more");
        }
        Passwords {
            cost,
            min_length: min_length as usize,
            concurrency: or_cores(self.number(&written.concurrency, 0, 256)),
            queue: self.number(&written.queue, 0, 100_000) as usize,
        }
    }

    pub(super) fn throttle(&mut self, written: &file::Throttle) -> ThrottlePolicy {
        let policy = ThrottlePolicy {
            free_failures: self.number(&written.free_failures, 1, 100),
            first_delay: self.duration(&written.first_delay, "100ms", "1h"),
            max_delay: self.duration(&written.max_delay, "100ms", "24h"),
            max_failures: self.number(&written.max_failures, 1, 100),
            address_failures: self.number(&written.address_failures, 1, 1_000_000),
            address_window: self.duration(&written.address_window, "1s", "24h"),
        };
        if policy.first_delay > policy.max_delay {
            let later =
                if written.max_delay.is_written() { &written.max_delay } else { &written.first_delay };
            self.error(&later.span, "the first delay is longer than the longest")
                .help("write a longer `max_delay`");
        }
        if policy.free_failures > policy.max_failures {
            let later = if written.max_failures.is_written() {
                &written.max_failures
            } else {
                &written.free_failures
            };
            self.error(&later.span, "the account would be closed before delays begin")
                .help("`free_failures` is at most `max_failures`");
        }
        policy
    }

    pub(super) fn identity(&mut self, written: &file::Identity) -> Identity {
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, claim) in &written.headers {
            let claim = self.claim_path(claim);
            if !self.header_name(name) {
                continue;
            }
            if headers::is_reserved(&name.value) {
                self.error(&name.span, "a header the gateway itself or HTTP needs cannot carry an identity")
                    .help("write a name of your own: X-User-Id");
            }
            if let Some((other, _)) = headers.iter().find(|(other, _)| headers::same(other, &name.value)) {
                let message = format!("a backend may not tell this header from `{other}`");
                self.error(&name.span, message).help(
                    "names that differ only in case, `-`, `_` or `.` reach some backends as one; rename one",
                );
            }
            headers.push((name.value.clone(), claim));
        }
        Identity { headers }
    }
}
