//! The part of a query that speaks about files. What else it holds is nobody's business here.

use std::borrow::Cow;

use crate::fault::Fault;

/// Parameters by name, each at most once.
#[derive(Debug, Default)]
pub struct Query<'q> {
    pub list: bool,
    pub delimiter: Option<Cow<'q, str>>,
    pub limit: Option<Cow<'q, str>>,
    pub cursor: Option<Cow<'q, str>>,
    /// The name to save under; empty: the file's own.
    pub download: Option<Cow<'q, str>>,
    /// Empty in the request for a link; in a link, its token.
    pub share: Option<Cow<'q, str>>,
    pub prefix: Option<Cow<'q, str>>,
}

impl<'q> Query<'q> {
    /// # Errors
    /// 400: one of ours stands there twice, since two readers might take different ones.
    pub fn parse(query: Option<&'q str>) -> Result<Self, Fault> {
        let mut found = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let place = match &*name {
                "list" if found.list => return Err(twice()),
                "list" => {
                    found.list = true;
                    continue;
                }
                "delimiter" => &mut found.delimiter,
                "limit" => &mut found.limit,
                "cursor" => &mut found.cursor,
                "download" => &mut found.download,
                "share" => &mut found.share,
                "prefix" => &mut found.prefix,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(twice());
            }
        }
        Ok(found)
    }
}

/// The token of the share link that a request was made by.
pub fn link_token(method: &str, query: Option<&str>) -> Option<String> {
    // POST with `share` asks for a link.
    if method == "POST" || !query.is_some_and(|q| q.contains("share=")) {
        return None;
    }
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(name, value)| name == "share" && !value.is_empty()).map(|(_, value)| value.into_owned())
}

fn twice() -> Fault {
    Fault::bad_request("invalid_query", "A parameter of the query stands there twice.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse(Some("list&delimiter=%2F&limit=5&x=1&x=2&download=a+b")).unwrap();
        assert!(query.list);
        assert_eq!(query.delimiter.as_deref(), Some("/"));
        assert_eq!(query.download.as_deref(), Some("a b"));
        assert_eq!(query.share, None);
        for twice in ["list&list", "cursor=a&cursor=b", "share=&share=x", "prefix=a&pre%66ix=b"] {
            assert_eq!(Query::parse(Some(twice)).unwrap_err().status, 400, "{twice}");
        }
        assert!(!Query::parse(None).unwrap().list);
    }

    #[test]
    fn tokens_of_links() {
        assert_eq!(link_token("GET", Some("share=abc")).as_deref(), Some("abc"));
        assert_eq!(link_token("PUT", Some("a=b&share=abc")).as_deref(), Some("abc"));
        for (method, query) in
            [("POST", Some("share=abc")), ("GET", Some("share=")), ("GET", Some("shares=a")), ("GET", None)]
        {
            assert_eq!(link_token(method, query), None, "{method} {query:?}");
        }
    }
}
