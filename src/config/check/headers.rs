//! Names and values of headers.

use std::collections::BTreeMap;

use super::super::file::{self, Written};
use super::super::{HeaderEdits, Identity};
use super::Check;

/// Headers that say where a message ends or goes; a changed one makes two parties read two messages.
const FRAMING: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "expect",
    "http2-settings",
];

/// A name as a backend may read it: CGI and WSGI turn `-`, `_` and `.` into one another, in upper case.
pub(super) fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

pub(super) fn same(a: &str, b: &str) -> bool {
    folded(a) == folded(b)
}

fn is_framing(name: &str) -> bool {
    let name = folded(name);
    FRAMING.contains(&name.as_str()) || name.starts_with("proxy-")
}

/// Headers that cannot carry an identity.
pub(super) fn is_reserved(name: &str) -> bool {
    let folded = folded(name);
    is_framing(name)
        || matches!(folded.as_str(), "authorization" | "cookie" | "forwarded")
        || folded.starts_with("x-forwarded-")
}

impl Check<'_> {
    /// Whether it is a name (RFC 9110 section 5.1); a problem when it is not.
    pub(super) fn header_name(&mut self, name: &Written<String>) -> bool {
        let good = name.value.len() <= 128 && http::HeaderName::from_bytes(name.value.as_bytes()).is_ok();
        if !good {
            self.error(&name.span, "not the name of a header")
                .help("write letters, digits and `-`: X-Tenant");
        }
        good
    }

    /// Edits of a request on its way to the target.
    pub(super) fn request_edits(&mut self, written: &file::HeaderEdits, identity: &Identity) -> HeaderEdits {
        for name in written.set.keys().chain(&written.remove) {
            if identity.headers.iter().any(|(ours, _)| same(ours, &name.value)) {
                self.error(&name.span, "an identity header: only a verified token sets it")
                    .help("remove it here, or rename it under [identity]");
            }
        }
        self.edits(written)
    }

    pub(super) fn edits(&mut self, written: &file::HeaderEdits) -> HeaderEdits {
        for name in written.set.keys().chain(&written.remove) {
            if self.header_name(name) && is_framing(&name.value) {
                self.error(&name.span, "this header belongs to the connection and cannot be edited")
                    .help("remove it");
            }
        }
        for removed in &written.remove {
            if written.set.keys().any(|set| set.value.eq_ignore_ascii_case(&removed.value)) {
                self.error(&removed.span, "a header both set and removed")
                    .help("`set` already replaces what was there; remove it here");
            }
        }
        let mut set: BTreeMap<String, (String, String)> = BTreeMap::new();
        for (name, value) in &written.set {
            if http::HeaderValue::from_str(&value.value).is_err() {
                self.error(&value.span, "not the value of a header")
                    .help("write visible ASCII text without line breaks");
            }
            let pair = (name.value.clone(), value.value.clone());
            if set.insert(name.value.to_ascii_lowercase(), pair).is_some() {
                self.error(&name.span, "this header is set twice")
                    .help("names of headers do not differ in case");
            }
        }
        HeaderEdits {
            set: set.into_values().collect(),
            remove: written.remove.iter().map(|name| name.value.clone()).collect(),
        }
    }
}
