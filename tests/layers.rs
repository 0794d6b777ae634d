//! The layer rules of DESIGN section 2, read off the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const STAGES: [&str; 5] = ["route", "auth", "endpoints", "files", "upstream"];
/// Modules that may speak pingora, and the files of others in which a header map is edited.
const PINGORA: [&str; 13] = [
    "gateway.rs",
    "gateway/",
    "files/s3/",
    "server.rs",
    "connection.rs",
    "request_stream.rs",
    "upstream/",
    "reply.rs",
    "body.rs",
    "admin.rs",
    "edit.rs",
    "auth/headers.rs",
    "background.rs",
];
/// HTTP crates that `tokens` and `store` must not know.
const HTTP: [&str; 5] = ["http::", "pingora", "crate::reply", "crate::fault", "hyper"];
const MAX_LINES: usize = 450;

struct Source {
    /// Relative to src, with `/`.
    name: String,
    text: String,
}

impl Source {
    /// The top-level module the file belongs to.
    fn module(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap()
    }

    /// Code without comments and without what follows `#[cfg(test)]`.
    fn code(&self) -> String {
        let code = self.text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Top-level modules named as `crate::NAME`, grouped uses included.
    fn uses(&self) -> BTreeSet<String> {
        let code = self.code();
        let mut names = BTreeSet::new();
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            let items = match rest.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap().split(',').map(str::trim).collect(),
                None => vec![rest],
            };
            for item in items {
                let name: String = item.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                names.insert(name);
            }
        }
        names
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    assert!(found.len() > 30, "the source tree was not found");
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            found.push(Source { name, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

fn fail_on(problems: Vec<String>) {
    assert!(problems.is_empty(), "layer rules broken:\n{}", problems.join("\n"));
}

#[test]
fn stages_do_not_import_each_other() {
    let allowed =
        |from: &str, to: &str| from == to || (from == "endpoints" && matches!(to, "auth" | "route"));
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| STAGES.contains(&s.module())) {
        for used in source.uses() {
            if STAGES.contains(&used.as_str()) && !allowed(source.module(), &used) {
                problems.push(format!("{} imports {used}", source.name));
            }
        }
    }
    fail_on(problems);
}

#[test]
fn only_the_composition_root_names_a_concrete_store() {
    let concrete = ["store::embedded", "store::mongodb", "store::redis", "Embedded::open", "Redis::open"];
    let mut problems = Vec::new();
    for source in sources() {
        if source.name == "server/stores.rs" || source.module() == "store" {
            continue;
        }
        for name in concrete.iter().filter(|c| source.code().contains(*c)) {
            problems.push(format!("{} names {name}", source.name));
        }
    }
    let concrete_files = ["files::s3", "files::directory"];
    for source in sources().iter().filter(|s| s.module() != "files" && s.name != "server/file_stores.rs") {
        for name in concrete_files.iter().filter(|c| source.code().contains(*c)) {
            problems.push(format!("{} names {name}", source.name));
        }
    }
    fail_on(problems);
}

#[test]
fn pingora_appears_only_where_it_may() {
    let mut problems = Vec::new();
    for source in sources() {
        let may =
            PINGORA.iter().any(|p| source.name == *p || (p.ends_with('/') && source.name.starts_with(p)));
        if !may && source.code().contains("pingora_") {
            problems.push(source.name);
        }
    }
    fail_on(problems);
}

#[test]
fn tokens_and_store_know_no_http() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| matches!(s.module(), "tokens" | "store")) {
        let code = source.code();
        for name in HTTP
            .iter()
            .filter(|h| code.lines().any(|l| l.contains(&format!("use {h}")) || l.contains(&format!(" {h}"))))
        {
            problems.push(format!("{} names {name}", source.name));
        }
    }
    fail_on(problems);
}

#[test]
fn configuration_imports_nothing_that_runs() {
    let allowed =
        ["claim_path", "config", "route", "store", "clock", "header_alias", "key_prefix", "percent"];
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| s.module() == "config") {
        for used in source.uses().iter().filter(|u| !allowed.contains(&u.as_str())) {
            problems.push(format!("{} imports {used}", source.name));
        }
    }
    fail_on(problems);
}

#[test]
fn no_file_outgrows_a_room() {
    let long = |s: &Source| s.text.lines().count() > MAX_LINES;
    fail_on(sources().iter().filter(|s| long(s)).map(|s| format!("{} is too long", s.name)).collect());
}
