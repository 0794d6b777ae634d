//! `[[routes]]`: each by itself, then all of them against each other.

use super::super::file::{self, File, Section, Span, Written};
use super::super::values;
use super::super::{AuthMode, Endpoints, Identity, Rate, Require, Route, Target};
use super::file_stores::FILE_STORE;
use super::upstreams::UPSTREAM;
use super::{Check, endpoints, urls};
use crate::route::{HostPattern, Methods, Pattern, Table};

const TARGETS: &str = "upstream = \"name\", files = { store = \"name\", prefix = \"users/{sub}/\" }, echo = true, respond = { status = 200 } or redirect = { to = \"/\" }";

impl Check<'_> {
    pub(super) fn routes(
        &mut self,
        written: &[Section<file::Route>],
        file: &File,
        identity: &Identity,
        endpoints: &Endpoints,
    ) -> Vec<Route> {
        let mut routes = Vec::with_capacity(written.len());
        let mut paths = Vec::with_capacity(written.len());
        for table in written {
            let Some(route) = self.route(table, file, identity, endpoints) else { continue };
            paths.extend(table.path.as_ref().map(|path| &path.span));
            routes.push(route);
        }
        self.told_apart(&routes, &paths);
        self.unused(&file.upstreams, written, |route| route.upstream.as_ref(), UPSTREAM);
        self.unused(&file.file_stores, written, |route| route.files.as_ref()?.store.as_ref(), FILE_STORE);
        routes
    }

    /// `paths` says where the path of each of `routes` is written.
    fn told_apart(&mut self, routes: &[Route], paths: &[&Span]) {
        let rows = routes.iter().map(|r| (r.host.clone(), r.path.clone(), r.methods.clone(), ()));
        for conflict in Table::build(rows).err().unwrap_or_default() {
            let first = self.source.line(paths[conflict.first].start);
            let message = format!("no request can tell this route from the one at line {first}");
            self.error(paths[conflict.second], message).help(
                "give the two different paths, hosts or methods, or remove one; names in braces do not count",
            );
        }
    }

    /// `None` when it has no path that can be matched.
    fn route(
        &mut self,
        table: &Section<file::Route>,
        file: &File,
        identity: &Identity,
        endpoints: &Endpoints,
    ) -> Option<Route> {
        let path = self.route_path(table, endpoints);
        let host = self.host(table);
        let target = self.target(table, file);
        let mut methods = self.methods(table);
        let mut max_body = table.max_body.as_ref().map(|size| self.size(size, "0B", "1024GiB"));
        if let Target::Files(files) = &target {
            self.beside_files(table, path.as_ref());
            methods = files.methods.clone();
            max_body = Some(files.max_size);
        }
        let auth = self.auth(table);
        let strip_prefix = path.as_ref().and_then(|path| self.strip_prefix(table, path, &target));
        if let Some(cors) = &table.cors {
            self.later(
                cors,
                "cors",
                "let the backend answer, or set the headers under `response_headers`; remove it",
            );
        }
        let require = self.require(table);
        let rate_limit = table.rate_limit.as_ref().and_then(|rate| self.rate(rate));
        let request_headers = self.request_edits(&table.request_headers, identity);
        let response_headers = self.edits(&table.response_headers);
        Some(Route {
            line: self.source.line(table.span.start),
            path: path?,
            host,
            methods,
            target,
            auth,
            require,
            strip_prefix,
            rate_limit,
            max_body,
            request_headers,
            response_headers,
        })
    }

    fn route_path(&mut self, table: &Section<file::Route>, endpoints: &Endpoints) -> Option<Pattern> {
        let Some(written) = &table.path else {
            self.missing(&table.span, "a route without a path", "add path = \"/api/{*rest}\"");
            return None;
        };
        let path = match Pattern::parse(&written.value) {
            Ok(path) => path,
            Err(error) => {
                self.told(&written.span, &error.to_string(), "not a path pattern");
                return None;
            }
        };
        if let Some(endpoint) = endpoints::taken(&path, endpoints) {
            self.error(&written.span, format!("this path is the gateway's own endpoint {endpoint}"))
                .help("write another path; `endpoints.prefix` moves the gateway's own");
        }
        Some(path)
    }

    fn host(&mut self, table: &Section<file::Route>) -> HostPattern {
        let text = table.host.as_ref().map(|host| host.value.as_str());
        HostPattern::parse(text).unwrap_or_else(|error| {
            let span = table.host.as_ref().map(|host| host.span.clone()).unwrap_or_default();
            self.told(&span, error.reason(), "not a host");
            HostPattern::Any
        })
    }

    fn methods(&mut self, table: &Section<file::Route>) -> Methods {
        let Some(written) = &table.methods else { return Methods::any() };
        // One after another, so that the one at fault can be pointed at; then all, for what they are together.
        for method in &written.value {
            if let Err(text) = Methods::parse(std::slice::from_ref(&method.value)) {
                self.told(&method.span, &text, "not a method");
                return Methods::any();
            }
        }
        let all: Vec<String> = written.value.iter().map(|method| method.value.clone()).collect();
        Methods::parse(&all).unwrap_or_else(|text| {
            self.told(&written.span, &text, "not a set of methods");
            Methods::any()
        })
    }

    fn target(&mut self, table: &Section<file::Route>, file: &File) -> Target {
        let echo = table.echo.as_ref().filter(|echo| echo.value);
        let spans = [
            table.upstream.as_ref().map(|target| &target.span),
            echo.map(|target| &target.span),
            table.respond.as_ref().map(|target| &target.span),
            table.redirect.as_ref().map(|target| &target.span),
            table.files.as_ref().map(|target| &target.span),
        ];
        let mut named: Vec<_> = spans.into_iter().flatten().collect();
        named.sort_by_key(|span| span.start);
        if named.is_empty() {
            self.missing(&table.span, "a route without a target", &format!("add {TARGETS}"));
        }
        for second in named.iter().skip(1) {
            self.error(second, "a second target in one route")
                .help("a route has exactly one target; remove the others");
        }
        if let Some(files) = &table.files {
            return Target::Files(Box::new(self.files(table, files, file)));
        }
        if let Some(upstream) = &table.upstream {
            self.reference(upstream, &file.upstreams, UPSTREAM);
            return Target::Upstream(upstream.value.clone());
        }
        if let Some(respond) = &table.respond {
            return self.respond(respond);
        }
        if let Some(redirect) = &table.redirect {
            return self.redirect(redirect);
        }
        Target::Echo
    }

    fn respond(&mut self, written: &file::Respond) -> Target {
        let status = self.number(&written.status, 200, 599);
        if http::HeaderValue::from_str(&written.content_type.value).is_err()
            || !written.content_type.value.contains('/')
        {
            self.error(&written.content_type.span, "not a media type")
                .help("write \"text/plain; charset=utf-8\"");
        }
        if matches!(status, 204 | 205 | 304) && !written.body.value.is_empty() {
            self.error(&written.body.span, "an answer with this status has no body")
                .help("remove the body, or write status = 200");
        }
        Target::Respond {
            status: u16::try_from(status).unwrap_or(200),
            body: written.body.value.clone(),
            content_type: written.content_type.value.clone(),
        }
    }

    fn redirect(&mut self, written: &Section<file::Redirect>) -> Target {
        let status = written.status.value;
        if ![301, 302, 303, 307, 308].contains(&status) {
            self.error(&written.status.span, "not the status of a redirect").help(
                "write 308 (for good) or 307 (for now), which keep the method; 301, 302 and 303 exist too",
            );
        }
        let Some(to) = &written.to else {
            self.missing(&written.span, "a redirect to nowhere", "add to = \"/somewhere\"");
            return Target::Echo;
        };
        let text = to.value.as_str();
        let visible = text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains('\\');
        // Browsers read `//host` and `/\host` as another site.
        let path = text.starts_with('/') && !text.starts_with("//") && visible;
        if !path && urls::absolute(text.split('#').next().unwrap_or_default()).is_none_or(|_| !visible) {
            self.error(&to.span, "not a place to redirect to")
                .help("write a path that begins with one `/`, or an http(s) URL without credentials");
        }
        Target::Redirect { status: u16::try_from(status).unwrap_or(308), to: text.to_owned() }
    }

    fn auth(&mut self, table: &Section<file::Route>) -> AuthMode {
        const MODES: [AuthMode; 3] = [AuthMode::None, AuthMode::Optional, AuthMode::Required];
        let Some(written) = &table.auth else { return AuthMode::Required };
        let Some(at) = self.word("auth", written, &["none", "optional", "required"], &[]) else {
            return AuthMode::Required;
        };
        if let Some(require) = table.require.as_ref().filter(|_| MODES[at] != AuthMode::Required) {
            let span = if require.span.is_empty() { &written.span } else { &require.span };
            self.error(span, "`require` on a route that is open to callers without a token")
                .help("write auth = \"required\", or remove `require`");
        }
        MODES[at]
    }

    fn require(&mut self, table: &Section<file::Route>) -> Require {
        let Some(written) = &table.require else { return Require::default() };
        if written.roles.is_empty() && written.scopes.is_empty() && written.claims.is_empty() {
            self.missing(
                &written.span,
                "`require` without a requirement",
                "add roles = [\"admin\"], or remove it",
            );
        }
        for role in &written.roles {
            self.role(role);
        }
        for scope in &written.scopes {
            let token = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
            if scope.value.is_empty() || !scope.value.bytes().all(token) {
                self.error(&scope.span, "not a scope")
                    .help("one scope a string, without spaces: [\"orders:read\", \"orders:write\"]");
            }
        }
        let mut claims = Vec::with_capacity(written.claims.len());
        for (path, value) in &written.claims {
            claims.push((self.claim_path(path), value.value.clone()));
        }
        Require { roles: text(&written.roles), scopes: text(&written.scopes), claims }
    }

    pub(super) fn role(&mut self, role: &Written<String>) {
        if role.value.is_empty() || role.value.contains(char::is_control) {
            self.error(&role.span, "not the name of a role").help("write a name: \"admin\"");
        }
    }

    fn strip_prefix(
        &mut self,
        table: &Section<file::Route>,
        path: &Pattern,
        target: &Target,
    ) -> Option<String> {
        let written = table.strip_prefix.as_ref()?;
        if !matches!(target, Target::Upstream(_) | Target::Echo) {
            self.error(&written.span, "`strip_prefix` on a route that forwards no path").help("remove it");
            return None;
        }
        match path.strippable(&written.value) {
            Ok(prefix) => Some(prefix),
            Err(error) => {
                self.told(&written.span, &error.to_string(), "not a beginning of this route's path");
                None
            }
        }
    }

    fn rate(&mut self, written: &Written<String>) -> Option<Rate> {
        values::rate(&written.value).map_err(|bad| self.bad(&written.span, bad)).ok()
    }

    /// A complaint of `route`'s, "what is wrong: what to write", which may quote the value: where that came
    /// out of a variable, `instead` is said.
    pub(super) fn told(&mut self, span: &Span, complaint: &str, instead: &str) {
        if self.has_variable(span) {
            self.error(span, instead).help("look at what its variables hold");
            return;
        }
        match complaint.split_once(": ") {
            Some((message, help)) => self.error(span, message).help(help),
            None => self.error(span, complaint),
        };
    }
}

pub(super) fn text(list: &[Written<String>]) -> Vec<String> {
    list.iter().map(|item| item.value.clone()).collect()
}
