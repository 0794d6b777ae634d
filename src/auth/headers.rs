//! Identity headers: what a backend may believe (invariant 2).
//!
//! Every field of the client that reads as an identity header is removed from every request that goes
//! upstream, on public routes too; then ours are set. Both happen after pingora has dealt with hop-by-hop
//! fields, so that a client cannot name our headers in `Connection` and have them dropped.
//!
//! # Values
//! Text is UTF-8, percent-encoded outside visible ASCII and inner spaces; `%` itself is `%25`. Items of a list are
//! separated by `,`, and a `,` inside an item is `%2C`. So no claim can end a header or forge a list item,
//! and a backend that percent-decodes gets the exact text back.

use http::header::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use serde_json::Value;

use super::Identity;
use crate::header_alias::{fold, reads_as};
use crate::percent;
use crate::tokens::Claims;

/// The configured mapping from header to claim.
pub struct IdentityHeaders {
    fields: Vec<Field>,
    /// Bit n is set when some identity header is n bytes long; most fields end at this test.
    lengths: u64,
}

struct Field {
    name: HeaderName,
    folded: String,
    claim: String,
}

impl IdentityHeaders {
    /// `mapping` holds header names, checked to be valid, and claim paths. An invalid name is left out, which
    /// the configuration check has made impossible.
    pub fn new(mapping: &[(String, String)]) -> Self {
        let fields: Vec<Field> = mapping
            .iter()
            .filter_map(|(name, claim)| {
                let folded = String::from_utf8(name.bytes().map(fold).collect()).ok()?;
                Some(Field { name: HeaderName::try_from(name.as_str()).ok()?, folded, claim: claim.clone() })
            })
            .collect();
        let lengths = fields.iter().fold(0, |mask, f| mask | 1 << (f.folded.len() & 63));
        Self { fields, lengths }
    }

    /// Removes whatever a client sent that a backend could take for an identity header.
    pub fn strip(&self, request: &mut RequestHeader) {
        while let Some(name) = request.headers.keys().find(|n| self.owns(n.as_str())).cloned() {
            request.remove_header(&name);
        }
    }

    /// Whether `name` reads as an identity header.
    pub fn owns(&self, name: &str) -> bool {
        self.lengths & (1 << (name.len() & 63)) != 0 && self.fields.iter().any(|f| reads_as(name, &f.folded))
    }

    /// Removes the client's and sets ours: the whole of invariant 2 for one request.
    ///
    /// # Errors
    /// When the header map is full, which fails the request.
    pub fn apply(
        &self,
        request: &mut RequestHeader,
        identity: Option<&Identity>,
    ) -> pingora_core::Result<()> {
        self.strip(request);
        for (name, value) in identity.map(|i| i.headers.as_slice()).unwrap_or_default() {
            request.insert_header(name.clone(), value.clone())?;
        }
        Ok(())
    }

    /// The headers `claims` amount to. A claim that is absent, null or an object gives no header.
    pub fn render(&self, claims: &Claims) -> Vec<(HeaderName, HeaderValue)> {
        let render = |f: &Field| Some((f.name.clone(), header_value(claims.lookup(&f.claim)?)?));
        self.fields.iter().filter_map(render).collect()
    }
}

fn header_value(claim: &Value) -> Option<HeaderValue> {
    let mut text = String::new();
    match claim {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                encode(&scalar(item)?, &mut text, true);
            }
        }
        single => encode(&scalar(single)?, &mut text, false),
    }
    HeaderValue::try_from(text).ok()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn encode(text: &str, out: &mut String, in_list: bool) {
    let last = text.len().saturating_sub(1);
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'%' => out.push_str("%25"),
            // White space at the edges of a value is not part of it (RFC 9110 section 5.5): it would be lost.
            b' ' if i == 0 || i == last => out.push_str("%20"),
            b',' if in_list => out.push_str("%2C"),
            b' '..=b'~' => out.push(char::from(b)),
            _ => percent::escape(out, b),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn mapping() -> IdentityHeaders {
        IdentityHeaders::new(&[("X-User-Id".into(), "sub".into()), ("X-User-Roles".into(), "roles".into())])
    }

    fn text(v: &Value) -> Option<String> {
        header_value(v).map(|h| h.to_str().unwrap().to_owned())
    }

    #[test]
    fn strips_every_alias_and_duplicate() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in
            ["X-User-Id", "x_user_id", "X.User.Id", "X-USER-ROLES", "x_user.roles", "X-Other", "X-User-Ids"]
        {
            request.append_header(name.to_owned(), "evil").unwrap();
            request.append_header(name.to_owned(), "evil too").unwrap();
        }
        mapping().strip(&mut request);
        let mut left: Vec<_> = request.headers.keys().map(|n| n.as_str().to_owned()).collect();
        left.sort();
        assert_eq!(left, ["x-other", "x-user-ids"]);
    }

    #[test]
    fn values_cannot_end_a_header_or_forge_a_list_item() {
        assert_eq!(text(&json!("a\r\nX-Admin: 1")).unwrap(), "a%0D%0AX-Admin: 1");
        assert_eq!(text(&json!(["user,admin", "b"])).unwrap(), "user%2Cadmin,b");
        assert_eq!(text(&json!("Zoë 100%")).unwrap(), "Zo%C3%AB 100%25");
        assert_eq!(text(&json!(" a b ")).unwrap(), "%20a b%20");
        assert_eq!(text(&json!([" admin", "b "])).unwrap(), "%20admin,b%20");
        assert_eq!(text(&json!(" ")).unwrap(), "%20");
        assert_eq!(text(&json!(7)).unwrap(), "7");
        assert_eq!(text(&json!([])).unwrap(), "");
        assert_eq!(text(&json!({"a": 1})), None);
        assert_eq!(text(&json!(null)), None);
        assert_eq!(text(&json!([{"a": 1}])), None);
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_header_value(s in any::<String>()) {
            let value = text(&json!(s)).unwrap();
            prop_assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)));
            prop_assert_eq!(value.trim(), &value);
        }
    }
}
