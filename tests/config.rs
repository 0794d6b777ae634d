//! The configuration as a user meets it: right files load, wrong ones are explained.
//!
//! Every `tests/config/wrong/*.toml` has its complaints beside it in a `.out`; `UPDATE_SNAPSHOTS=1` rewrites
//! them. Look at what changed before you commit it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portcullis::config::{
    self, AuthMode, Config, FileStore, Files, Loaded, Problems, Quota, Route, S3Credentials, Target,
};
use proptest::prelude::*;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("tests/config").join(folder)).unwrap();
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

/// The environment of every snapshot.
fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" | "MONGODB_PASSWORD" | "REDIS_PASSWORD" | "S3_SECRET" => Some("hunter2".to_owned()),
        "EMPTY" => Some(String::new()),
        "PORT" => Some("8081".to_owned()),
        _ => None,
    }
}

const FILES: &str = "tests/config/files";

fn parse(text: &str) -> Result<Loaded, Problems> {
    Config::parse(text, "gateway.toml", Path::new(FILES), &env)
}

/// A copy of [`FILES`] with what must not, or cannot, lie in a repository: a certificate with its key, `a.pem` and
/// `a.key`, the key of another one, `b.key`, and the empty folders `media` and `data/gateway`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(root().join(FILES)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let [a, b] = [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.pem", a.cert.pem());
        write("a.key", a.signing_key.serialize_pem());
        write("b.key", b.signing_key.serialize_pem());
        for empty in ["media", "data/gateway"] {
            std::fs::create_dir_all(folder.path().join(empty)).unwrap();
        }
        Self(folder)
    }

    fn parse(&self, text: &str) -> Result<Loaded, Problems> {
        Config::parse(text, "gateway.toml", self.0.path(), &env)
    }

    /// As the problems would read with [`FILES`] for this folder.
    fn shown(&self, problems: &Problems) -> String {
        problems.to_string().replace(self.0.path().to_str().unwrap(), FILES)
    }
}

#[test]
fn wrong_files_are_refused_and_explained() {
    let update = std::env::var_os("UPDATE_SNAPSHOTS").is_some();
    let mut first_messages: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut faults = Vec::new();
    let (files, folder) = (files("wrong"), Folder::new());
    assert!(files.len() >= 140, "only {} wrong files", files.len());
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let Err(problems) = folder.parse(&text) else {
            faults.push(format!("{} was accepted", path.display()));
            continue;
        };
        let (errors, _) = problems.count();
        let shown = format!("{}\n", folder.shown(&problems));
        if errors == 0 || !shown.contains("error: ") {
            faults.push(format!("{} has no error", path.display()));
        }
        if shown.contains("hunter2") {
            faults.push(format!("{} shows a secret", path.display()));
        }
        for problem in problems.iter().filter(|p| p.help.is_none() && p.line > 0) {
            if !path.file_name().unwrap().to_str().unwrap().starts_with("syntax") {
                faults.push(format!("{}: no help with {:?}", path.display(), problem.message));
            }
        }
        let first = problems.iter().next().unwrap().message.clone();
        if let Some(other) = first_messages.insert(first.clone(), path.clone()) {
            faults.push(format!("{} and {} say the same: {first}", other.display(), path.display()));
        }
        let snapshot = path.with_extension("out");
        if update {
            std::fs::write(&snapshot, &shown).unwrap();
        } else if std::fs::read_to_string(&snapshot).unwrap_or_default() != shown {
            faults.push(format!("{} differs from:\n{shown}", snapshot.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn right_files_load_without_a_warning() {
    let folder = Folder::new();
    for path in files("right") {
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = folder.parse(&text).unwrap_or_else(|problems| panic!("{}:\n{problems}", path.display()));
        assert!(loaded.warnings.is_empty(), "{}:\n{}", path.display(), loaded.warnings);
    }
}

#[test]
fn the_file_of_the_repository_loads() {
    let loaded = Config::load(&root().join("gateway.toml")).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(loaded.config.routes.len(), 2);
}

#[test]
fn a_file_that_is_not_there_is_a_problem() {
    let problems = Config::load(Path::new("/nowhere/gateway.toml")).unwrap_err();
    assert!(problems.to_string().starts_with("/nowhere/gateway.toml: error: cannot be read"), "{problems}");
}

#[test]
fn dotenv_is_read_and_does_not_override() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, "tokens = { audience = \"${PORTCULLIS_TEST_AUDIENCE}\", issuer = \"${PATH:-x}\" }")
        .unwrap();
    assert!(Config::load(&file).unwrap_err().to_string().contains("`PORTCULLIS_TEST_AUDIENCE` is not set"));
    std::fs::write(folder.path().join(".env"), "PORTCULLIS_TEST_AUDIENCE=from-dotenv\nPATH=from-dotenv\n")
        .unwrap();
    match Config::load(&file) {
        Ok(loaded) => {
            assert_eq!(loaded.config.tokens.audience, "from-dotenv");
            assert_eq!(loaded.config.tokens.issuer, std::env::var("PATH").unwrap());
        }
        // The real PATH holds a colon, so it is no issuer; what matters is that it was the one looked at.
        Err(problems) => assert!(problems.to_string().contains("not a URL an issuer can have"), "{problems}"),
    }
    std::fs::write(folder.path().join(".env"), "hunter2\n").unwrap();
    let shown = Config::load(&file).unwrap_err().to_string();
    assert!(shown.contains(".env:1:1: error") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = parse("").unwrap().config;
    assert_eq!(config.server.listen[0].address, "0.0.0.0:8080".parse().unwrap());
    assert_eq!(config.server.admin, Some("127.0.0.1:9901".parse().unwrap()));
    assert_eq!(config.tokens.refresh_idle_ttl.as_secs(), 90 * 86_400);
    assert!(config.routes.is_empty());
    let table = parse("server = {}\ntokens = {}\n[passwords]\n[identity]\n").unwrap().config;
    assert_eq!(format!("{table:?}"), format!("{config:?}"));
}

#[test]
fn variables_are_filled_in() {
    let text = "server.listen = [\"127.0.0.1:${PORT}\"]\ntokens.audience = \"$${PORT}${EMPTY:-b}${NONE:-}\"";
    let config = parse(text).unwrap().config;
    assert_eq!(config.server.listen[0].address.port(), 8081);
    assert_eq!(config.tokens.audience, "${PORT}b");
}

#[test]
fn a_shorter_session_shortens_the_idle_time_that_nobody_wrote() {
    let config = parse("tokens.refresh_ttl = \"7d\"").unwrap().config;
    assert_eq!(config.tokens.refresh_idle_ttl, config.tokens.refresh_ttl);
}

/// What `files` of a route amounts to.
fn files_of(loaded: &Loaded, path: &str) -> (Route, Files) {
    let route = loaded.config.routes.iter().find(|route| route.path.as_str() == path).unwrap();
    match &route.target {
        Target::Files(files) => (route.clone(), (**files).clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn file_routes_mean_what_they_say() {
    let text = std::fs::read_to_string(root().join("tests/config/right/files.toml")).unwrap();
    let loaded = Folder::new().parse(&text).unwrap();
    let (route, files) = files_of(&loaded, "/files/{*key}");
    // POST asks for links, and nothing but what is said here gets past the route table.
    assert_eq!(route.methods.iter().collect::<Vec<_>>(), ["DELETE", "GET", "HEAD", "POST", "PUT"]);
    assert_eq!(files.methods, route.methods);
    assert_eq!((route.max_body, files.max_size), (Some(1 << 40), 1 << 40));
    assert_eq!(files.types, ["image/*", "application/vnd.api+json"]);
    assert_eq!(files.cache_control, "private, max-age=60");
    assert_eq!((files.write_roles, files.admin_roles), (vec!["editor".into()], vec!["support".into()]));
    assert_eq!((files.public, files.list, files.share.unwrap().as_secs()), (false, false, 7 * 86_400));
    assert_eq!(files.quota, Some(Quota { bytes: Some(10 << 30), objects: Some(10_000) }));

    let (route, files) = files_of(&loaded, "/public/{*key}");
    assert_eq!(route.methods.iter().collect::<Vec<_>>(), ["GET", "HEAD"]);
    assert_eq!((route.auth, route.max_body), (AuthMode::None, Some(100 << 20)));
    assert_eq!(
        (files.public, files.list, files.cache_control.as_str()),
        (true, false, "public, max-age=300")
    );
    assert!(files.prefix.is_fixed());

    let (route, files) = files_of(&loaded, "/publish/{*key}");
    assert!(!files.list && !route.methods.contains("POST") && !route.methods.contains("GET"));
    assert_eq!(files.quota, Some(Quota { bytes: None, objects: Some(1) }));
    assert!(files_of(&loaded, "/leaflets/{*key}").1.list);
    let (_, files) = files_of(&loaded, "/backup/{*key}");
    assert_eq!((files.list, files.cache_control.as_str()), (true, "private, no-cache"));
    assert_eq!(files.prefix.claims().collect::<Vec<_>>(), ["tenant.id", "sub"]);
}

#[test]
fn file_stores_mean_what_they_say() {
    let text = std::fs::read_to_string(root().join("tests/config/right/files.toml")).unwrap();
    let folder = Folder::new();
    let stores = folder.parse(&text).unwrap().config.file_stores;
    let FileStore::S3(media) = &stores["media"] else { panic!() };
    assert_eq!((media.bucket.as_str(), media.region.as_str()), ("media.example-1", "eu-west-1"));
    assert_eq!((media.endpoint.as_deref(), media.path_style), (Some("https://minio.internal:9000"), true));
    assert_eq!((media.timeouts.read.as_secs(), media.multipart_above), (10, 64 << 20));
    assert_eq!(media.ca, Some(folder.0.path().join("a.pem")));
    let S3Credentials::Keys { id, secret } = &media.credentials else { panic!() };
    assert_eq!((id.as_str(), secret.expose()), ("AKIAIOSFODNN7EXAMPLE", "hunter2"));
    assert!(!format!("{stores:?}").contains("hunter2"));
    let FileStore::S3(backup) = &stores["backup"] else { panic!() };
    assert_eq!((&backup.endpoint, backup.multipart_above), (&None, 5 << 30));
    assert!(
        matches!(&backup.credentials, S3Credentials::Chain { profile } if profile.as_deref() == Some("portcullis"))
    );
    assert!(
        matches!(&stores["local"], FileStore::Directory { path } if *path == folder.0.path().join("media"))
    );
}

#[test]
fn a_file_store_that_no_route_uses_is_warned_of() {
    let warnings = parse("[file_stores.media]\nkind = \"s3\"\nbucket = \"media\"\n").unwrap().warnings;
    assert_eq!(warnings.count(), (0, 1));
    assert!(warnings.to_string().contains("no route uses the file store `media`"), "{warnings}");
    let route = "[[routes]]\npath = \"/{*key}\"\nfiles = { store = \"media\", prefix = \"\" }\n";
    let shown = parse(route).unwrap_err().to_string();
    assert!(shown.contains("add [file_stores.NAME] with kind = \"directory\""), "{shown}");
}

fn schema() -> Value {
    serde_json::from_str(&config::schema()).unwrap()
}

/// Key, as `a.b.c`, and its schema with references followed.
fn keys(schema: &Value) -> Vec<(String, Value)> {
    fn walk(root: &Value, node: &Value, name: &str, found: &mut Vec<(String, Value)>) {
        if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
            return walk(root, root.pointer(&reference[1..]).unwrap(), name, found);
        }
        for variant in ["anyOf", "oneOf"].iter().filter_map(|k| node.get(k)?.as_array()).flatten() {
            walk(root, variant, name, found);
        }
        if let Some(items) = node.get("items") {
            walk(root, items, name, found);
        }
        if let Some(values) = node.get("additionalProperties").filter(|v| v.is_object()) {
            walk(root, values, &format!("{name}.NAME"), found);
        }
        for (key, inner) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            found.push((name.clone(), inner.clone()));
            walk(root, inner, &name, found);
        }
    }
    let mut found = Vec::new();
    walk(schema, schema, "", &mut found);
    found
}

/// A default as the documentation writes it.
fn in_toml(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(in_toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) if table.is_empty() => "{}".to_owned(),
        Value::Object(table) => {
            let pairs: Vec<String> = table.iter().map(|(k, v)| format!("{k} = {}", in_toml(v))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

#[test]
fn every_key_is_documented_with_its_default() {
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let rows: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).collect();
    let schema = schema();
    let keys = keys(&schema);
    assert!(keys.len() > 60, "the schema is not read to its end");
    let mut missing = Vec::new();
    for (name, node) in &keys {
        assert!(
            node.get("description").is_some() || node.get("$ref").is_some(),
            "{name} has no description for editors"
        );
        let is_table = keys.iter().any(|(other, _)| other.starts_with(&format!("{name}.")));
        if is_table && !rows.contains_key(name.as_str()) {
            if ![format!("[{name}]"), format!("[{name}.NAME]")].iter().any(|heading| text.contains(heading)) {
                missing.push(format!("{name}: no heading [{name}]"));
            }
            continue;
        }
        let Some(row) = rows.get(name.as_str()) else {
            missing.push(format!("{name}: no row"));
            continue;
        };
        let default = node.get("default").filter(|_| !is_table).map(in_toml);
        if let Some(default) =
            default.filter(|default| default != "none" && !row.contains(&format!("`{default}`")))
        {
            missing.push(format!("{name}: the row does not say its default `{default}`"));
        }
    }
    let known: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
    for row in rows.keys().filter(|row| !known.contains(*row)) {
        missing.push(format!("{row}: documented, but there is no such key"));
    }
    assert!(missing.is_empty(), "docs/configuration.md:\n{}", missing.join("\n"));
}

#[test]
fn the_examples_of_the_documentation_are_right() {
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() > 8);
    let folder = Folder::new();
    for example in examples {
        // One shows certificates that are not there, another a route whose upstream stands elsewhere.
        let text = example.replace("tls/key.pem", "a.key");
        let text = text.replace("tls/cert.pem", "a.pem").replace("tls/authorities.pem", "a.pem");
        let upstream =
            if text.contains("upstream = \"api\"") { "[upstreams.api]\nservers = [\"a:1\"]\n" } else { "" };
        if let Err(problems) = folder.parse(&format!("{text}{upstream}")) {
            panic!("{example}\n{problems}");
        }
    }
}

#[test]
fn the_schema_names_no_key_of_a_later_version() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let names: Vec<String> = keys(&schema).into_iter().map(|(name, _)| name).collect();
    for absent in ["routes.cors", "mail.url", "upstreams.NAME.health"] {
        assert!(!names.iter().any(|name| name == absent), "{absent}");
    }
}

/// Fragments that fit together often enough to get past the parser.
fn fragments() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "[server]\n",
        "[[routes]]\n",
        "[upstreams.a]\n",
        "[[issuers]]\n",
        "[tokens]\n",
        "[server.limits]\n",
        "[identity.headers]\n",
        "[file_stores.a]\n",
        "kind = ",
        "\"s3\"",
        "\"directory\"",
        "bucket = ",
        "endpoint = ",
        "files = ",
        "{ store = \"a\", prefix = \"{b}/\" }",
        "cache_control = ",
        "listen = ",
        "path = ",
        "upstream = ",
        "servers = ",
        "body = ",
        "access_ttl = ",
        "strip_prefix = ",
        "host = ",
        "jwks = ",
        "require = ",
        "{ roles = [\"a\"] }",
        "\"/a/{b}\"",
        "\"${X:-é}\"",
        "\"$${\"",
        "\"${\"",
        "[",
        "]",
        "{",
        "}",
        "\"é\"",
        "'",
        "\"\"\"",
        "1",
        "-9223372036854775808",
        "true",
        "1979-05-27",
        "nan",
        "\n",
        "\t",
        "=",
        ".",
        "#",
        "\u{1b}",
        "漢",
        "\"10s\"",
        "\"1KiB\"",
        ", ",
    ]);
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_is_answered(text in prop_oneof![any::<String>(), fragments()]) {
        if let Err(problems) = parse(&text) {
            prop_assert!(problems.count().0 > 0);
            let shown = problems.to_string();
            prop_assert!(!shown.contains('\x1b'), "a control character reaches the terminal");
        }
    }
}

/// A quadratic step, of any kind, would take minutes here.
#[test]
fn ten_thousand_routes_load() {
    let route =
        |n: usize| format!("[[routes]]\npath = \"/service-{n}/{{id}}\"\nupstream = \"u{}\"\n", n % 100);
    let upstream = |n: usize| format!("[upstreams.u{n}]\nservers = [\"a:1\"]\n");
    let text: String = (0..100).map(upstream).chain((0..10_000).map(route)).collect();
    let began = std::time::Instant::now();
    assert_eq!(parse(&text).unwrap().config.routes[9_999].line, 200 + 3 * 9_999 + 1);
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}
