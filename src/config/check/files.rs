//! `files` of a route: which files, who may read and write them, and who may keep a copy.

use super::super::Files;
use super::super::file::{self, File, Section, Written};
use super::super::values::closest;
use super::Check;
use super::cache_control::{CacheControl, cache_control};
use super::file_stores::FILE_STORE;
use super::routes::text;
use crate::claim_path::ClaimPath;
use crate::key_prefix::KeyPrefix;
use crate::route::{Methods, Pattern, Segment};

/// What HEAD is part of goes without saying it.
const METHODS: [&str; 4] = ["GET", "PUT", "DELETE", "HEAD"];

impl Check<'_> {
    pub(super) fn files(
        &mut self,
        table: &Section<file::Route>,
        written: &Section<file::Files>,
        file: &File,
    ) -> Files {
        // What is judged by a key's absence is not, where it may have been lost.
        let whole = !self.damaged.contains(&written.span);
        match &written.store {
            Some(store) => self.reference(store, &file.file_stores, FILE_STORE),
            None => self.missing(&written.span, "`files` without a store", "add store = \"name\""),
        }
        let prefix = self.file_prefix(written, file);
        let methods = self.file_methods(written);
        let share = written.share.as_ref().map(|share| self.duration(share, "1m", "365d"));
        self.open(table, written, prefix.as_ref());
        if let Some(methods) = methods.as_ref().filter(|_| whole) {
            self.idle_keys(written, methods);
        }
        if let Some(roles) = written.admin_roles.written_at()
            && prefix.as_ref().is_some_and(KeyPrefix::is_fixed)
        {
            self.error(roles, "`admin_roles` with a prefix that all callers share")
                .help("there is no other prefix to name; remove it");
        }
        for role in written.write_roles.value.iter().chain(&written.admin_roles.value) {
            self.role(role);
        }
        let methods = methods.unwrap_or_default();
        let post = share.map(|_| "POST".to_owned());
        // Where nobody need say who he is, a listing would tell anybody what there is, unless it was asked for.
        let list = written.list.as_ref().map_or(!is_open(table, written), |list| list.value);
        Files {
            store: written.store.as_ref().map_or_else(String::new, |store| store.value.clone()),
            prefix: prefix.unwrap_or_default(),
            list: list && methods.iter().any(|m| m == "GET"),
            methods: Methods::parse(&methods.into_iter().chain(post).collect::<Vec<_>>())
                .unwrap_or_else(|_| Methods::any()),
            max_size: self.size(&written.max_size, "1B", "5TiB"),
            types: written.types.value.iter().map(|media| self.media_type(media)).collect(),
            cache_control: self.cache_control(written, whole),
            public: written.public.value,
            write_roles: text(&written.write_roles.value),
            admin_roles: text(&written.admin_roles.value),
            share,
            quota: written.quota.as_ref().map(|quota| self.quota(quota)),
        }
    }

    /// Keys of the route itself that do not go with `files`.
    pub(super) fn beside_files(&mut self, table: &Section<file::Route>, path: Option<&Pattern>) {
        if let (Some(written), Some(path)) = (&table.path, path)
            && !matches!(path.segments().split_last(), Some((Segment::Rest(_), before))
                if before.iter().all(|segment| segment.name().is_none()))
        {
            let help = match path.literal_prefix().trim_end_matches('/') {
                literal if self.has_variable(&written.span) || literal.is_empty() => {
                    "write path = \"/files/{*key}\"".to_owned()
                }
                literal => format!("write path = \"{literal}/{{*key}}\""),
            };
            self.error(&written.span, "files are named by the rest of the path, and by nothing else in it")
                .help(help);
        }
        if let Some(methods) = &table.methods {
            self.error(&methods.span, "`methods` beside `files`").help("write it inside `files`");
        }
        if let Some(max_body) = &table.max_body {
            self.error(&max_body.span, "`max_body` beside `files`").help("write `max_size` inside `files`");
        }
        let edits = &table.request_headers;
        let first = edits.set.keys().chain(&edits.remove).next().map(|name| &name.span);
        let whole = Some(&edits.span).filter(|span| !span.is_empty());
        if let Some(span) = whole.or(first) {
            self.error(span, "`request_headers` on a route that forwards no request").help("remove it");
        }
    }

    fn file_prefix(&mut self, written: &Section<file::Files>, file: &File) -> Option<KeyPrefix> {
        let Some(text) = &written.prefix else {
            self.missing(
                &written.span,
                "`files` without a prefix",
                "add prefix = \"users/{sub}/\" for files of each user's own, or \"\" for the whole store",
            );
            return None;
        };
        let prefix = KeyPrefix::parse(&text.value)
            .map_err(|error| self.told(&text.span, &error.to_string(), "not a prefix for files"))
            .ok()?;
        self.claims_of_prefix(text, &prefix, &file.issuers);
        Some(prefix)
    }

    /// Whether the claims of a prefix stay with one user for good.
    fn claims_of_prefix(
        &mut self,
        text: &Written<String>,
        prefix: &KeyPrefix,
        issuers: &[Section<file::Issuer>],
    ) {
        // Compared as paths: `{"sub"}` is the same claim as `{sub}`.
        let named: Vec<ClaimPath> =
            prefix.claims().filter_map(|claim| ClaimPath::parse(claim).ok()).collect();
        let has = |claim: &str| ClaimPath::parse(claim).is_ok_and(|claim| named.contains(&claim));
        let mapped = |key: fn(&file::Claims) -> &Written<String>| {
            issuers.iter().map(move |issuer| key(&issuer.claims).value.as_str())
        };
        if ["email", "preferred_username"].into_iter().chain(mapped(|claims| &claims.email)).any(has) {
            let message = "an address or name can change hands, and its next owner would get the files";
            self.error(&text.span, message).help(match issuers {
                [] => "write {sub}, which stays with its user: prefix = \"users/{sub}/\"",
                _ => "write {iss} and {sub}, which stay with their user: prefix = \"users/{iss}/{sub}/\"",
            });
        }
        let by_subject = ["sub"].into_iter().chain(mapped(|claims| &claims.sub)).any(has);
        if by_subject && !has("iss") && !issuers.is_empty() {
            let message = "two callers of different issuers may have the same `sub`, and one prefix";
            self.error(&text.span, message).help("write prefix = \"users/{iss}/{sub}/\"");
        }
    }

    /// Those that were written, GET instead of HEAD; `None` when one is wrong.
    fn file_methods(&mut self, written: &file::Files) -> Option<Vec<String>> {
        let list = &written.methods;
        let known = |method: &str| METHODS.contains(&method);
        for method in list.value.iter().filter(|method| !known(&method.value)) {
            let help = match (method.value.as_str(), closest(&method.value, METHODS)) {
                ("POST", _) => "remove it: POST is added by `share`; files are written with PUT".to_owned(),
                (_, Some(meant)) => format!("did you mean `{meant}`?"),
                _ => "write \"GET\", \"PUT\" or \"DELETE\"".to_owned(),
            };
            self.error(&method.span, "not a method of files").help(help);
        }
        if !list.value.iter().all(|method| known(&method.value)) {
            return None;
        }
        let has = |method: &str| list.value.iter().any(|m| m.value == method);
        if list.value.is_empty() {
            self.error(&list.span, "files that nobody can read or write").help("write methods = [\"GET\"]");
            return None;
        }
        if has("HEAD") && !has("GET") {
            self.error(&list.span, "HEAD without GET").help("write \"GET\", which includes HEAD");
            return None;
        }
        Some(text(&list.value).into_iter().filter(|method| method != "HEAD").collect())
    }

    /// A route that lets callers in without a token can tell neither whose files are meant nor who wrote one.
    fn open(
        &mut self,
        table: &Section<file::Route>,
        written: &Section<file::Files>,
        prefix: Option<&KeyPrefix>,
    ) {
        let public = written.public.value;
        let auth = table.auth.as_ref().map_or("required", |auth| auth.value.as_str());
        let auth_lost = table.auth.is_none() && self.damaged.contains(&table.span);
        if public && ["required", "optional"].contains(&auth) && !auth_lost {
            self.error(&written.public.span, "public files on a route that looks at tokens")
                .help("write auth = \"none\" in the route, or remove `public`");
        }
        if !is_open(table, written) {
            return;
        }
        if let (Some(text), Some(false)) = (&written.prefix, prefix.map(KeyPrefix::is_fixed)) {
            if public {
                self.error(&text.span, "public files with a prefix that differs from caller to caller")
                    .help("write one without braces: \"public/\"");
            } else {
                self.error(&text.span, "a caller without a token has no claims to fill this prefix with")
                    .help("write auth = \"required\", or a prefix without braces: \"public/\"");
            }
        }
        let writes = |method: &&Written<String>| ["PUT", "DELETE"].contains(&method.value.as_str());
        if let Some(method) = written.methods.value.iter().find(writes) {
            if public {
                self.error(&method.span, "public files can only be read here").help(
                    "write methods = [\"GET\"]; those who write need a route of their own, with auth = \"required\"",
                );
            } else {
                self.error(
                    &method.span,
                    "callers without a token could write, and nobody could tell who did",
                )
                .help("write auth = \"required\"; links of `share` let others upload");
            }
        }
        if let Some(share) = &written.share {
            self.error(&share.span, "callers without a token could hand out links")
                .help("write auth = \"required\", or remove `share`");
        }
    }

    /// Keys that would never count, given the methods.
    fn idle_keys(&mut self, written: &file::Files, methods: &[String]) {
        let has = |method: &str| methods.iter().any(|m| m == method);
        let of_put = [
            ("max_size", written.max_size.written_at()),
            ("types", written.types.written_at()),
            ("quota", written.quota.as_ref().map(|quota| &quota.span)),
        ];
        for (key, span) in of_put.into_iter().filter(|_| !has("PUT")) {
            if let Some(span) = span {
                self.error(span, format!("`{key}` on a route that takes no files"))
                    .help("add \"PUT\" to `methods` of `files`, or remove it");
            }
        }
        if let Some(roles) = written.write_roles.written_at().filter(|_| !has("PUT") && !has("DELETE")) {
            self.error(roles, "`write_roles` on a route that writes nothing")
                .help("add \"PUT\" or \"DELETE\" to `methods` of `files`, or remove it");
        }
        if let Some(list) = written.list.as_ref().filter(|list| list.value && !has("GET")) {
            self.error(&list.span, "a listing is read with GET, which this route does not answer")
                .help("add \"GET\" to `methods` of `files`, or remove it");
        }
        if let Some(share) = written.share.as_ref().filter(|_| !has("GET") && !has("PUT")) {
            self.error(&share.span, "links to read or write, on a route that does neither")
                .help("add \"GET\" or \"PUT\" to `methods` of `files`, or remove it");
        }
    }

    /// In lower case, as types are compared.
    fn media_type(&mut self, written: &Written<String>) -> String {
        let token = |text: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&b);
            !text.is_empty() && text.bytes().all(fits)
        };
        let media = written.value.to_ascii_lowercase();
        let good = media.split_once('/').is_some_and(|(main, sub)| token(main) && (sub == "*" || token(sub)));
        if !good {
            let help = match media.as_str() {
                "*/*" | "*" => "leave `types` out, and any type is taken",
                media if media.contains(';') => "write it without parameters: \"text/plain\"",
                _ => "write \"image/png\", or \"image/*\" for all images",
            };
            self.error(&written.span, "not a type of files").help(help);
        }
        media
    }

    fn cache_control(&mut self, written: &file::Files, whole: bool) -> String {
        let public = written.public.value;
        let Some(value) = &written.cache_control else {
            return if public { "public, max-age=300" } else { "private, no-cache" }.to_owned();
        };
        let span = &value.span;
        match cache_control(&value.value) {
            None => {
                self.error(span, "not a value of Cache-Control")
                    .help("write directives with commas between: \"private, max-age=60\"");
            }
            Some(CacheControl { kept_by_nobody_else: true, .. }) if public => {
                self.error(span, "public files that no shared cache may keep")
                    .help("write \"public, max-age=300\", or remove `public`");
            }
            Some(_) if public || !whole => {}
            Some(CacheControl { shared: true, .. }) => {
                self.error(span, "shared caches would keep files that are not public")
                    .help("write \"private, max-age=60\", or public = true where anybody may read");
            }
            Some(CacheControl { kept_by_nobody_else: false, .. }) => {
                self.error(span, "without `private` a shared cache may keep files that are not public")
                    .help("add it: \"private, max-age=60\"");
            }
            Some(_) => {}
        }
        value.value.clone()
    }

    fn quota(&mut self, written: &Section<file::Quota>) -> super::super::Quota {
        if written.bytes.is_none() && written.objects.is_none() {
            self.missing(
                &written.span,
                "a quota without a limit",
                "add bytes = \"10GiB\", or objects = 10000",
            );
        }
        super::super::Quota {
            bytes: written.bytes.as_ref().map(|bytes| self.size(bytes, "1B", "1048576TiB")),
            objects: written.objects.as_ref().map(|objects| self.number(objects, 1, u32::MAX).into()),
        }
    }
}

/// Whether callers without a token get in.
fn is_open(table: &file::Route, written: &file::Files) -> bool {
    written.public.value
        || table.auth.as_ref().is_some_and(|auth| ["none", "optional"].contains(&auth.value.as_str()))
}
