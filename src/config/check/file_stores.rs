//! `[file_stores.NAME]`: a folder, or a bucket and how it is reached.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::super::file::{self, Section, Span, Written};
use super::super::{FileStore, S3Credentials, S3Settings};
use super::names::Named;
use super::{Check, address, urls};
use crate::store::settings::Secret;

pub(super) const FILE_STORE: Named = Named {
    kind: "file store",
    misnamed: "not a name for a file store",
    example: "[file_stores.NAME] with kind = \"directory\" and path = \"files\"",
    used_by: "files = { store = \"NAME\", prefix = \"users/{sub}/\" }",
};

impl Check<'_> {
    pub(super) fn file_stores(
        &mut self,
        written: &BTreeMap<Written<String>, Section<file::FileStore>>,
        data_dir: &Path,
    ) -> BTreeMap<String, FileStore> {
        written
            .iter()
            .map(|(name, table)| (name.value.clone(), self.file_store(name, table, data_dir)))
            .collect()
    }

    fn file_store(
        &mut self,
        name: &Written<String>,
        table: &Section<file::FileStore>,
        data_dir: &Path,
    ) -> FileStore {
        self.table_name(name, FILE_STORE);
        let nowhere = FileStore::Directory { path: self.folder.to_owned() };
        let Some(kind) = &table.kind else {
            self.missing(
                &table.span,
                "a file store without its kind",
                "add kind = \"s3\", or kind = \"directory\" with a path",
            );
            return nowhere;
        };
        match self.word("kind", kind, &["s3", "directory"], &[]) {
            Some(0) => {
                let path = [("path", table.path.as_ref().map(|path| &path.span))];
                self.of_another_kind("bucket", "directory", path);
                FileStore::S3(Box::new(self.s3(table, kind)))
            }
            Some(_) => {
                self.of_another_kind("folder", "s3", keys_of_s3(table));
                FileStore::Directory { path: self.directory(table, kind, data_dir) }
            }
            // Which keys belong here cannot be told.
            None => nowhere,
        }
    }

    /// Keys of the other kind of store: left in silence they would seem to count.
    fn of_another_kind<const N: usize>(
        &mut self,
        chosen: &str,
        other: &str,
        keys: [(&str, Option<&Span>); N],
    ) {
        for (key, span) in keys {
            if let Some(span) = span {
                self.error(span, format!("a {chosen} has no `{key}`"))
                    .help(format!("write kind = \"{other}\", or remove it"));
            }
        }
    }

    fn directory(
        &mut self,
        table: &Section<file::FileStore>,
        kind: &Written<String>,
        data_dir: &Path,
    ) -> PathBuf {
        let Some(written) = &table.path else {
            if !self.damaged.contains(&table.span) {
                self.error(&kind.span, "a folder without its path").help("add path = \"files\"");
            }
            return self.folder.to_owned();
        };
        let path = self.path_of_file(written);
        if written.value.is_empty() {
            self.error(&written.span, "an empty path for files").help("write a folder, \"files\"");
        } else if !path.exists() {
            let help = self.make_it(written, &path);
            self.error(&written.span, "this folder does not exist").help(help);
        } else if !path.is_dir() {
            self.error(&written.span, "files lie in a folder, and this is none").help("write a folder");
        } else if overlap(&path, data_dir) {
            self.error(&written.span, "keys and users would lie among the files, in `server.data_dir`")
                .help("write a folder beside `server.data_dir`, neither around nor within it");
        } else if real(self.folder).starts_with(real(&path)) {
            self.error(&written.span, "the configuration file would lie among the files")
                .help("write a folder of files only: \"files\"");
        }
        path
    }

    /// How a folder that is not there is made. Its path is shown unless some of it came out of a variable.
    fn make_it(&self, written: &Written<String>, path: &Path) -> String {
        let path = path.to_string_lossy();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
        if self.has_variable(&written.span) {
            "create it, or look at what its variables hold".to_owned()
        } else if path.bytes().all(plain) && !path.starts_with('-') {
            format!("create it: mkdir -p {path}")
        } else {
            format!("create it: mkdir -p -- '{}'", path.replace('\'', r"'\''"))
        }
    }

    fn s3(&mut self, table: &Section<file::FileStore>, kind: &Written<String>) -> S3Settings {
        let bucket = self.bucket(table, kind);
        let endpoint = table.endpoint.as_ref().and_then(|endpoint| self.endpoint(endpoint));
        if let (Some(written), Some(endpoint)) = (&table.endpoint, &endpoint)
            && endpoint.is_ip
            && !table.path_style.value
            && !self.damaged.contains(&table.span)
        {
            self.error(&written.span, "the name of a bucket cannot stand before an IP address")
                .help("add path_style = true");
        }
        let tls = endpoint.as_ref().is_none_or(|endpoint| endpoint.tls);
        let ca = match &table.ca {
            Some(ca) if !tls => {
                self.error(&ca.span, "authorities for an endpoint without TLS")
                    .help("write https for http in `endpoint`, or remove it");
                None
            }
            Some(ca) => self.authorities(ca),
            None => None,
        };
        S3Settings {
            bucket,
            region: self.region(&table.region),
            endpoint: endpoint.map(|endpoint| endpoint.text),
            path_style: table.path_style.value,
            credentials: self.credentials(table),
            ca,
            timeouts: self.timeouts(&table.timeouts),
            multipart_above: self.size(&table.multipart_above, "5MiB", "5GiB"),
        }
    }

    fn bucket(&mut self, table: &Section<file::FileStore>, kind: &Written<String>) -> String {
        let Some(written) = &table.bucket else {
            if !self.damaged.contains(&table.span) {
                self.error(&kind.span, "`s3` without its bucket").help("add bucket = \"media\"");
            }
            return String::new();
        };
        if !is_bucket(&written.value) {
            self.error(&written.span, "not a name a bucket can have").help(
                "write 3 to 63 lower-case letters, digits, `-` and single `.`, a letter or digit at both ends: \"media\"",
            );
        }
        written.value.clone()
    }

    fn region(&mut self, written: &Written<String>) -> String {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if !(1..=64).contains(&written.value.len()) || !written.value.bytes().all(fits) {
            self.error(&written.span, "not a name a region can have")
                .help("write letters, digits and `-`: \"eu-west-1\"");
        }
        written.value.clone()
    }

    fn endpoint(&mut self, written: &Written<String>) -> Option<Endpoint> {
        match Endpoint::parse(&written.value) {
            Some(endpoint) if !endpoint.has_more => Some(endpoint),
            Some(_) => {
                self.error(&written.span, "an endpoint is a server, without path and query")
                    .help("write \"https://host:port\"; `bucket` names the bucket");
                None
            }
            None => {
                self.error(&written.span, "not the address of an S3 server").help(
                    "write http or https, a host and perhaps a port, without credentials: \"https://minio.internal:9000\"",
                );
                None
            }
        }
    }

    fn credentials(&mut self, table: &Section<file::FileStore>) -> S3Credentials {
        let (id, secret) = (&table.access_key_id, &table.secret_access_key);
        let whole = !self.damaged.contains(&table.span);
        if let Some(profile) = &table.profile {
            if id.is_some() || secret.is_some() {
                self.error(&profile.span, "a profile beside an access key")
                    .help("keep one of the two and remove the other");
            }
            let odd = |c: char| c.is_control() || c == '[' || c == ']';
            if profile.value.is_empty() || profile.value.contains(odd) {
                self.error(&profile.span, "not the name of a profile")
                    .help("write a name as it stands in brackets in ~/.aws/config: \"default\"");
            }
        }
        match (id, secret) {
            (Some(id), None) if whole => {
                self.error(&id.span, "`access_key_id` without its secret")
                    .help("add secret_access_key = \"${S3_SECRET}\"");
            }
            (None, Some(secret)) if whole => {
                self.error(&secret.span, "`secret_access_key` without the id it belongs to")
                    .help("add access_key_id = \"...\"");
            }
            _ => {}
        }
        // The id is a part of a slash-separated scope in each signature; neither holds a line break out of some file.
        if let Some(id) = id.as_ref().filter(|id| !is_key(&id.value) || id.value.contains(['/', ','])) {
            self.error(&id.span, "not the id of an access key")
                .help("write it as it was given to you, without spaces and line breaks");
        }
        if let Some(secret) = secret.as_ref().filter(|secret| !is_key(&secret.value)) {
            self.error(&secret.span, "not the secret of an access key")
                .help("write it as it was given to you, without spaces and line breaks");
        }
        match (id, secret) {
            (Some(id), Some(secret)) => {
                S3Credentials::Keys { id: id.value.clone(), secret: Secret::new(secret.value.clone()) }
            }
            _ => {
                S3Credentials::Chain { profile: table.profile.as_ref().map(|profile| profile.value.clone()) }
            }
        }
    }
}

fn keys_of_s3(table: &file::FileStore) -> [(&'static str, Option<&Span>); 10] {
    fn span<T>(written: &Option<Written<T>>) -> Option<&Span> {
        written.as_ref().map(|written| &written.span)
    }
    let timeouts = &table.timeouts.span;
    [
        ("bucket", span(&table.bucket)),
        ("region", table.region.written_at()),
        ("endpoint", span(&table.endpoint)),
        ("path_style", table.path_style.written_at()),
        ("access_key_id", span(&table.access_key_id)),
        ("secret_access_key", span(&table.secret_access_key)),
        ("profile", span(&table.profile)),
        ("ca", span(&table.ca)),
        ("timeouts", Some(timeouts).filter(|span| !span.is_empty())),
        ("multipart_above", table.multipart_above.written_at()),
    ]
}

/// Names that AWS and others take for a bucket, and that can stand in a host name.
fn is_bucket(name: &str) -> bool {
    let outer = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inner = |b: u8| outer(b) || b == b'-' || b == b'.';
    (3..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.contains("..")
        && name.bytes().next().is_some_and(outer)
        && name.bytes().last().is_some_and(outer)
}

fn is_key(text: &str) -> bool {
    (1..=1024).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The address of a server that speaks S3.
struct Endpoint {
    /// `http(s)://host[:port]`.
    text: String,
    tls: bool,
    is_ip: bool,
    /// A path or a query follows.
    has_more: bool,
}

impl Endpoint {
    fn parse(text: &str) -> Option<Self> {
        let tls = urls::absolute(text)?.https;
        let uri: http::Uri = text.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let (host, _) = match address::servers(authority, 443).ok()?.as_slice() {
            [server] => server.clone(),
            _ => return None,
        };
        let scheme = if tls { "https" } else { "http" };
        Some(Self {
            text: format!("{scheme}://{authority}"),
            tls,
            is_ip: host.parse::<std::net::IpAddr>().is_ok(),
            has_more: !matches!(uri.path(), "" | "/") || uri.query().is_some(),
        })
    }
}

/// Whether one of the two folders is, or lies in, the other.
fn overlap(a: &Path, b: &Path) -> bool {
    let (a, b) = (real(a), real(b));
    a.starts_with(&b) || b.starts_with(&a)
}

/// Where a path leads, links followed as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = path.ancestors().find_map(|known| Some((known, known.canonicalize().ok()?)));
    let Some((known, mut real)) = known else { return path };
    for part in path.strip_prefix(known).unwrap_or(Path::new("")).components() {
        // What is not there yet holds no links.
        match part {
            Component::ParentDir => _ = real.pop(),
            part => real.push(part),
        }
    }
    real
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets() {
        for good in ["abc", "a-b.c", "0123456789", &"a".repeat(63)] {
            assert!(is_bucket(good), "{good}");
        }
        for bad in ["", "ab", "Abc", "a_b", "-ab", "ab-", ".ab", "ab.", "a..b", "a/b", "äbc", &"a".repeat(64)]
        {
            assert!(!is_bucket(bad), "{bad}");
        }
    }

    #[test]
    fn endpoints() {
        let text = |text: &str| Endpoint::parse(text).filter(|e| !e.has_more).map(|e| e.text);
        for (written, meant) in [
            ("http://minio:9000", "http://minio:9000"),
            ("https://s3.example.com/", "https://s3.example.com"),
            ("HTTP://[::1]:9000/", "http://[::1]:9000"),
        ] {
            assert_eq!(text(written).as_deref(), Some(meant), "{written}");
        }
        for bad in [
            "",
            "minio:9000",
            "s3://media",
            "http://",
            "http://u@h",
            "http://h:0",
            "http://h:65536",
            "http://h:",
            "http://a,b",
            "http://h/media",
            "http://h?x",
            "http://h/#x",
            "http://h ",
        ] {
            assert_eq!(text(bad), None, "{bad}");
        }
        assert!(Endpoint::parse("http://[::1]:9000").is_some_and(|e| e.is_ip && !e.tls));
        assert!(Endpoint::parse("https://a").is_some_and(|e| !e.is_ip && e.tls));
    }

    #[test]
    fn folders_that_overlap() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        for (a, b) in [
            ("a", "a"),
            ("a", "a/b"),
            ("a/b", "a"),
            ("a", "link/b"),
            ("link", "a"),
            ("a", "link/none/yet"),
            ("a", "none/../a"),
        ] {
            assert!(overlap(&at(a), &at(b)), "{a} {b}");
        }
        for (a, b) in [("a/b", "a/bc"), ("a", "none"), ("a/b", "link/none"), ("a", "a/../none")] {
            assert!(!overlap(&at(a), &at(b)), "{a} {b}");
        }
    }
}
