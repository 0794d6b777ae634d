//! `.env`: variables for `${VAR}`, one `NAME=value` a line.
//!
//! Nothing is exported: the values reach the configuration file and no child process. A problem names the
//! line and does not show it, since it may hold a password.

use std::collections::HashMap;

use super::problem::Problem;
use super::read::is_name;

/// Reads `NAME=value`, `export NAME=value`, `NAME="with \n escapes"`, `NAME='as it is'` and `# comments`.
/// An unquoted value ends at ` #`. The last of several lines for one name counts.
pub(super) fn parse(text: &str, file_name: &str) -> Result<HashMap<String, String>, Vec<Problem>> {
    let mut variables = HashMap::new();
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match assignment(line) {
            Ok((name, value)) => {
                variables.insert(name.to_owned(), value);
            }
            Err((message, help)) => {
                let mut problem = Problem::unshown(file_name, number + 1, message);
                problem.help(help);
                problems.push(problem);
            }
        }
    }
    if problems.is_empty() { Ok(variables) } else { Err(problems) }
}

fn assignment(line: &str) -> Result<(&str, String), (&'static str, &'static str)> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=').ok_or(("no `=` in this line", "write NAME=value"))?;
    let (name, value) = (name.trim(), value.trim());
    if !is_name(name) {
        return Err(("not the name of a variable", "a name holds letters, digits and `_`: NAME=value"));
    }
    Ok((name, unquoted(value)?))
}

fn unquoted(value: &str) -> Result<String, (&'static str, &'static str)> {
    let open = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => quote,
        _ => return Ok(value.split(" #").next().unwrap_or_default().trim_end().to_owned()),
    };
    let mut text = String::new();
    let mut chars = value[1..].chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if open == '"' => match chars.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(c) => text.push(c),
                None => break,
            },
            c if c == open => {
                let after = chars.as_str().trim_start();
                if after.is_empty() || after.starts_with('#') {
                    return Ok(text);
                }
                return Err(("text after the closing quote", "write \\\" for a quote within double quotes"));
            }
            c => text.push(c),
        }
    }
    Err(("the closing quote is missing", "a value ends in the line it begins in; write \\n for a new line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_line() {
        let text = "# c\n\nA=1\nexport B = two words # c\nC=\"a\\n\\\"b\" # c\nD='a\\n#b'\nE=\nA=2\nF=a#b\n";
        let got = parse(text, ".env").unwrap();
        let want =
            [("A", "2"), ("B", "two words"), ("C", "a\n\"b"), ("D", "a\\n#b"), ("E", ""), ("F", "a#b")];
        assert_eq!(got, want.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    }

    #[test]
    fn a_bad_line_is_named_and_not_shown() {
        let problems = parse("A=1\nhunter2\n1B=hunter2\nC=\"hunter2\nD='hunter2'x\n", ".env").unwrap_err();
        assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert!(problems.iter().all(|p| !p.to_string().contains("hunter2")));
    }
}
