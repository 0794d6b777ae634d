//! The way in: a file, its `.env`, and everything that is wrong with either.

use std::collections::HashMap;
use std::path::Path;

use super::Config;
use super::check::check;
use super::dotenv;
use super::problem::{Problem, Problems, Severity, Source};
use super::read::read;

/// A good configuration, and what deserves a second look.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Problems,
}

impl Config {
    /// Reads `.env` beside `path`, which does not override the environment, then `path` itself.
    pub fn load(path: &Path) -> Result<Loaded, Problems> {
        let name = path.display().to_string();
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut problems = Vec::new();
        let variables = variables_beside(folder).unwrap_or_else(|found| {
            problems = found;
            HashMap::new()
        });
        let env = |variable: &str| std::env::var(variable).ok().or_else(|| variables.get(variable).cloned());
        let text = match read_text(path) {
            Ok(text) => text,
            Err(message) => {
                problems.push(Problem::with_file(&name, message));
                return Err(Problems::new(problems));
            }
        };
        match Self::parse(&text, &name, folder, &env) {
            Ok(loaded) if problems.is_empty() => Ok(loaded),
            Ok(_) => Err(Problems::new(problems)),
            // What is unset may stand in the `.env` that could not be read.
            Err(found) => Err(Problems::new(problems.into_iter().chain(found.iter().cloned()).collect())),
        }
    }

    /// `text` as if it stood in a file named `file_name`, where relative paths begin at `base_dir` and
    /// `${VAR}` is asked of `env`.
    pub fn parse(
        text: &str,
        file_name: &str,
        base_dir: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Loaded, Problems> {
        let source = Source::new(file_name, text);
        let read = read(&source, env);
        let mut problems = read.problems;
        // What is missing, and what refers to it, can only be judged in a file that was read to its end.
        if !read.whole {
            return Err(Problems::new(problems));
        }
        let (config, found) = check(&read.file, &source, base_dir, &read.damaged);
        // A value whose variable is unset has its problem already.
        let unread =
            |p: &Problem| problems.iter().any(|r| p.span.start <= r.span.start && r.span.end <= p.span.end);
        let found: Vec<Problem> = found.into_iter().filter(|p| !unread(p)).collect();
        problems.extend(found);
        let sound = problems.iter().all(|p| p.severity == Severity::Warning);
        let problems = Problems::new(problems);
        if sound { Ok(Loaded { config, warnings: problems }) } else { Err(problems) }
    }
}

fn variables_beside(folder: &Path) -> Result<HashMap<String, String>, Vec<Problem>> {
    let path = folder.join(".env");
    let name = path.display().to_string();
    match std::fs::metadata(&path) {
        Ok(about) if about.is_file() => {}
        _ => return Ok(HashMap::new()),
    }
    let text = read_text(&path).map_err(|message| vec![Problem::with_file(&name, message)])?;
    dotenv::parse(&text, &name)
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|cause| format!("cannot be read: {cause}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|b| **b == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })
}
