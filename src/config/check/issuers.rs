//! `[[issuers]]`: tokens minted elsewhere.

use super::super::file::{self, OneOrMany, Section, Written};
use super::super::{Algorithm, Issuer, JwksSource};
use super::tls::read_small;
use super::{Check, urls};

/// Members of a JWK that only its owner may know (RFC 7518 sections 6.2.2, 6.3.2 and 6.4).
const PRIVATE_MEMBERS: [&str; 3] = ["d", "k", "p"];

impl Check<'_> {
    pub(super) fn issuers(&mut self, written: &[Section<file::Issuer>], our_own: &str) -> Vec<Issuer> {
        let mut issuers: Vec<Issuer> = Vec::new();
        for table in written {
            let issuer = self.issuer(table);
            if let Some(name) = &table.issuer {
                if name.value == our_own {
                    self.error(&name.span, "this is our own issuer, `tokens.issuer`").help(
                        "our own tokens are always accepted; remove this table or rename one of the two",
                    );
                } else if issuers.iter().any(|other| other.issuer == name.value) {
                    self.error(&name.span, "this issuer is already there")
                        .help("one table an issuer; it may name several audiences and algorithms");
                }
            }
            issuers.push(issuer);
        }
        issuers
    }

    fn issuer(&mut self, table: &Section<file::Issuer>) -> Issuer {
        let issuer = match &table.issuer {
            Some(name) => self.issuer_name(name),
            None => {
                self.missing(
                    &table.span,
                    "an issuer without its `issuer`",
                    "add issuer = \"https://login.example.com\"",
                );
                String::new()
            }
        };
        let jwks = match &table.jwks {
            Some(jwks) => self.jwks(jwks),
            None => {
                let help = "add jwks = \"https://login.example.com/.well-known/jwks.json\", or a file";
                self.missing(&table.span, "an issuer without its keys", help);
                None
            }
        };
        let claims = [
            ("sub", &table.claims.sub),
            ("email", &table.claims.email),
            ("roles", &table.claims.roles),
            ("scope", &table.claims.scope),
        ];
        if ["email", "preferred_username"].contains(&table.claims.sub.value.as_str()) {
            self.error(
                &table.claims.sub.span,
                "an address or name can change hands, and its next owner would be this user",
            )
            .help("write a claim the issuer never gives to somebody else, such as \"sub\"");
        }
        Issuer {
            issuer,
            jwks: jwks.unwrap_or_else(|| JwksSource::File(self.folder.to_owned())),
            audience: self.audiences(table),
            algorithms: self.algorithms(&table.algorithms),
            claims: claims.into_iter().map(|(ours, path)| (ours.to_owned(), self.claim_path(path))).collect(),
            max_stale: self.duration(&table.max_stale, "0s", "30d"),
            refresh_interval: self.duration(&table.refresh_interval, "30s", "24h"),
        }
    }

    fn audiences(&mut self, table: &Section<file::Issuer>) -> Vec<String> {
        match table.audience.as_ref().map(|written| (&written.value, &written.span)) {
            Some((OneOrMany::One(audience), span)) => {
                vec![self.audience(&Written { value: audience.clone(), span: span.clone() })]
            }
            Some((OneOrMany::Many(several), _)) if !several.is_empty() => {
                several.iter().map(|audience| self.audience(audience)).collect()
            }
            Some((_, span)) => {
                self.error(span, "no audience: tokens meant for anybody would be accepted")
                    .help("write audience = \"api\"");
                Vec::new()
            }
            None => {
                let message = "an issuer without an audience: tokens meant for anybody would be accepted";
                self.missing(&table.span, message, "add audience = \"api\"");
                Vec::new()
            }
        }
    }

    fn algorithms(&mut self, written: &Written<Vec<Written<String>>>) -> Vec<Algorithm> {
        if written.value.is_empty() {
            self.error(&written.span, "no algorithm is allowed").help("write algorithms = [\"RS256\"]");
        }
        let public: Vec<Algorithm> = Algorithm::ALL.into_iter().filter(|a| *a != Algorithm::Hs256).collect();
        let mut algorithms = Vec::new();
        for name in &written.value {
            if name.value == Algorithm::Hs256.name() {
                self.error(&name.span, "a published key cannot be an HMAC secret")
                    .help("write what the issuer signs with: \"RS256\", \"ES256\", \"EdDSA\"");
                continue;
            }
            if name.value.eq_ignore_ascii_case("none") {
                self.error(&name.span, "an unsigned token says nothing").help("remove it");
                continue;
            }
            if let Some(algorithm) = self.algorithm(name, &public).filter(|a| !algorithms.contains(a)) {
                algorithms.push(algorithm);
            }
        }
        algorithms
    }

    fn jwks(&mut self, written: &Written<String>) -> Option<JwksSource> {
        if !written.value.contains("://") {
            return self.jwks_file(written);
        }
        match urls::absolute(&written.value) {
            Some(url) if url.https || url.loopback => Some(JwksSource::Url(written.value.clone())),
            Some(_) => {
                self.error(&written.span, "keys fetched without TLS can be replaced on the way")
                    .help("write an https URL; plain http is for this machine only");
                None
            }
            None => {
                self.error(&written.span, "not a URL keys can be fetched from")
                    .help("write \"https://host/path\", without credentials or fragment");
                None
            }
        }
    }

    fn jwks_file(&mut self, written: &Written<String>) -> Option<JwksSource> {
        let path = self.path_of_file(written);
        let bytes = match read_small(&path) {
            Ok(bytes) => bytes,
            Err(cause) => {
                self.error(&written.span, format!("cannot read {}: {cause}", self.shown(written)))
                    .help("write a file that exists, or an https URL");
                return None;
            }
        };
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let Some(keys) = document.get("keys").and_then(serde_json::Value::as_array) else {
            self.error(&written.span, format!("{} is not a JWK Set", self.shown(written)))
                .help("a JWK Set is a JSON object with an array `keys` (RFC 7517 section 5)");
            return None;
        };
        if keys.iter().any(|key| PRIVATE_MEMBERS.iter().any(|member| key.get(member).is_some())) {
            self.error(&written.span, format!("{} holds a private key", self.shown(written))).help(
                "the issuer publishes a set without private members; use that one, and replace this key",
            );
            return None;
        }
        Some(JwksSource::File(path))
    }
}
