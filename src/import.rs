//! Users as JSON lines, for `user import` and `user export`: one object a line, the same form both ways.
//!
//! `{"email": "ann@example.com", "password_hash": "$2b$12$...", "roles": ["admin"]}`
//!
//! Nothing is stored here. All problems of a file are found at once, each with its line; what they say
//! never repeats a password or a hash.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::passwords::{PasswordHash, check_new};
use crate::store::{Email, User, UserId, is_display_name, is_role};

/// A line that was read and found good.
pub struct UserImport {
    /// Counted from 1.
    pub line: usize,
    /// `None`: one is made.
    pub id: Option<UserId>,
    pub email: Email,
    pub name: Option<String>,
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
    pub secret: Secret,
    pub disabled: bool,
    /// `None`: the time of the import.
    pub created_at: Option<Timestamp>,
}

pub enum Secret {
    /// In a format that `passwords` verifies.
    Hash(String),
    /// Still to be hashed.
    Password(Zeroizing<String>),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LineProblem {
    pub line: usize,
    pub problem: String,
}

/// What may stand in a line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    email: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password_hash: Option<String>,
    #[serde(default, skip_serializing)]
    password: Option<String>,
    #[serde(default)]
    disabled: bool,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

/// The line from which [`UserImport::parse_lines`] makes `user` again, its sessions apart, without the line
/// break.
pub fn export_line(user: &User) -> String {
    let record = Record {
        id: Some(user.id.clone()),
        email: user.email.as_str().to_owned(),
        name: user.name.clone(),
        roles: user.roles.clone(),
        scopes: user.scopes.clone(),
        password_hash: Some(user.password_hash.clone()),
        password: None,
        disabled: user.disabled,
        // A date beyond the calendar of RFC 3339 is not worth an account that cannot be imported.
        created_at: jiff::Timestamp::from_millisecond(user.created_at.0).ok().map(|time| time.to_string()),
    };
    serde_json::json!(record).to_string()
}

impl UserImport {
    /// Reads all lines of `text` (empty ones are skipped), or says everything that is wrong with them. Plain
    /// passwords must satisfy the policy with `min_length`.
    pub fn parse_lines(text: &str, min_length: usize) -> Result<Vec<Self>, Vec<LineProblem>> {
        let mut users = vec![];
        let mut problems = vec![];
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            match parse_line(line, text, min_length) {
                Ok(user) => users.push(user),
                Err(problem) => problems.push(LineProblem { line, problem }),
            }
        }
        problems.extend(repeated(&users, "address", |user| Some(user.email.as_str())));
        problems.extend(repeated(&users, "id", |user| user.id.as_deref()));
        if problems.is_empty() {
            return Ok(users);
        }
        problems.sort_by_key(|problem| problem.line);
        Err(problems)
    }

    /// Whether `user` was made from this line: it has the address and the id, or where the line names no id, the
    /// address and the password's hash.
    pub fn became(&self, user: &User) -> bool {
        let same = match (&self.id, &self.secret) {
            (Some(id), _) => *id == user.id,
            (None, Secret::Hash(hash)) => *hash == user.password_hash,
            (None, Secret::Password(_)) => false,
        };
        same && self.email == user.email
    }

    /// The user to create; `new_id` makes an id where the line has none, `hash` hashes a plain password.
    pub fn into_user<E>(
        self,
        now: Timestamp,
        new_id: impl FnOnce() -> UserId,
        hash: impl FnOnce(&[u8]) -> Result<String, E>,
    ) -> Result<User, E> {
        let password_hash = match self.secret {
            Secret::Hash(hash) => hash,
            Secret::Password(password) => hash(password.as_bytes())?,
        };
        Ok(User {
            id: self.id.unwrap_or_else(new_id),
            email: self.email,
            name: self.name,
            roles: self.roles,
            scopes: self.scopes,
            password_hash,
            disabled: self.disabled,
            created_at: self.created_at.unwrap_or(now),
            sessions_cut: None,
        })
    }
}

fn parse_line(line: usize, text: &str, min_length: usize) -> Result<UserImport, String> {
    // serde would also take an array, field by field.
    if !text.trim_start().starts_with('{') {
        return Err("not one JSON object, see column 1".into());
    }
    let record: Record = serde_json::from_str(text).map_err(|error| describe(&error))?;
    let password = record.password.map(Zeroizing::new);
    let email = Email::parse(&record.email).ok_or("`email` is not an e-mail address")?;
    if record.id.as_deref().is_some_and(|id| !is_user_id(id)) {
        return Err("`id` must have 1 to 64 characters of visible ASCII".into());
    }
    if !record.name.as_deref().is_none_or(is_display_name) {
        return Err("`name` is longer than 200 characters or has a control character".into());
    }
    for (field, names) in [("roles", &record.roles), ("scopes", &record.scopes)] {
        if !names.iter().all(|name| is_role(name)) {
            return Err(format!("a name in `{field}` is empty or has a space, comma or control character"));
        }
    }
    let created_at = record.created_at.as_deref().map(rfc3339).transpose()?;
    let secret = match (record.password_hash, password) {
        (Some(hash), None) => {
            PasswordHash::parse(&hash).map_err(|error| format!("`password_hash`: {error}"))?;
            Secret::Hash(hash)
        }
        (None, Some(password)) => {
            check_new(&password, &email, min_length).map_err(|problem| format!("`password`: {problem}"))?;
            Secret::Password(password)
        }
        _ => return Err("exactly one of `password_hash` and `password` is needed".into()),
    };
    Ok(UserImport {
        line,
        id: record.id,
        email,
        name: record.name,
        roles: record.roles,
        scopes: record.scopes,
        secret,
        disabled: record.disabled,
        created_at,
    })
}

fn rfc3339(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| "`created_at` is not a time as in RFC 3339, such as 2024-01-31T08:00:00Z")?;
    Ok(Timestamp(time.as_millisecond()))
}

fn is_user_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What `error` says, less the values it cites: one of them may be a password.
fn describe(error: &serde_json::Error) -> String {
    let column = error.column();
    if !error.is_data() {
        return format!("not one JSON object, see column {column}");
    }
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let cites = text.starts_with("invalid type") || text.starts_with("invalid value");
    match text.rsplit_once(", expected ") {
        Some((_, expected)) if cites => format!("expected {expected}, see column {column}"),
        _ if cites => format!("wrong type, see column {column}"),
        _ => text.to_owned(),
    }
}

/// A problem for every user whose `key` an earlier line has.
fn repeated<'a>(
    users: &'a [UserImport],
    what: &str,
    key: impl Fn(&'a UserImport) -> Option<&'a str>,
) -> Vec<LineProblem> {
    let mut first = HashMap::new();
    let mut problems = vec![];
    for user in users {
        let Some(key) = key(user) else { continue };
        let earlier = *first.entry(key).or_insert(user.line);
        if earlier != user.line {
            problems.push(LineProblem {
                line: user.line,
                problem: format!("the same {what} as in line {earlier}"),
            });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passwords::{self, HashError};

    const HASH: &str = "$2b$04$CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC";

    fn hash_now(password: &[u8]) -> Result<String, HashError> {
        passwords::hash_now(password, 4)
    }

    fn new_id() -> UserId {
        "new".into()
    }

    fn problems(text: &str) -> Vec<String> {
        let problems = UserImport::parse_lines(text, 8).err().expect("refused");
        problems.iter().map(LineProblem::to_string).collect()
    }

    #[test]
    fn good_lines_are_read() {
        let text = format!(
            "{{\"email\":\" Ann@Example.com\",\"password_hash\":\"{HASH}\"}}\r\n\n\
             {{\"id\":\"u2\",\"email\":\"bob@example.com\",\"name\":\"Bob\",\"roles\":[\"admin\"],\
             \"scopes\":[\"orders:read\"],\"password\":\"correct horse\",\"disabled\":true}}"
        );
        let mut users = UserImport::parse_lines(&text, 8).ok().unwrap();
        let bob = users.pop().unwrap();
        assert_eq!((bob.line, bob.id.as_deref(), bob.disabled), (3, Some("u2"), true));
        assert!(matches!(&bob.secret, Secret::Password(password) if password.as_str() == "correct horse"));
        let ann = users.pop().unwrap();
        assert!(matches!(&ann.secret, Secret::Hash(hash) if hash == HASH));
        let ann = ann.into_user(Timestamp(7), new_id, hash_now).unwrap();
        assert_eq!((ann.email.as_str(), ann.created_at), ("ann@example.com", Timestamp(7)));
        assert_eq!(ann.id, "new");
    }

    #[test]
    fn what_is_exported_is_imported_again() {
        let user = User {
            id: "u\"1".into(),
            email: Email::parse("ann@example.com").unwrap(),
            name: Some("Ann \"O'Neil\" \u{e9}".into()),
            roles: vec!["admin".into(), "ops".into()],
            scopes: vec!["a:b".into()],
            password_hash: HASH.into(),
            disabled: true,
            created_at: Timestamp(1_706_688_000_123),
            sessions_cut: None,
        };
        let line = export_line(&user);
        assert!(!line.contains('\n'));
        let again = UserImport::parse_lines(&line, 8)
            .ok()
            .unwrap()
            .pop()
            .unwrap()
            .into_user(Timestamp(7), new_id, hash_now)
            .unwrap();
        assert!(again == user);
    }

    #[test]
    fn times_of_other_programs() {
        for (written, millis) in [
            ("1970-01-01T00:00:05Z", 5000),
            ("1970-01-01T01:00:05.25+01:00", 5250),
            ("1969-12-31T23:59:59.999Z", -1),
        ] {
            assert_eq!(rfc3339(written), Ok(Timestamp(millis)), "{written}");
        }
        for bad in ["", "5", "1970-01-01T00:00:05", "1970-01-01", "now", "+10000-01-01T00:00:00Z"] {
            assert!(rfc3339(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_is_known_by_what_it_became() {
        let record = |text: &str| UserImport::parse_lines(text, 8).ok().unwrap().pop().unwrap();
        let user = |text: &str| record(text).into_user(Timestamp(7), new_id, hash_now).unwrap();
        let other_hash = HASH.replace("2b$04$C", "2b$04$D");
        let hashed = format!(r#"{{"email":"a@b","password_hash":"{HASH}"}}"#);
        let elsewhere = hashed.replace(HASH, &other_hash);
        let with_id = r#"{"id":"u1","email":"a@b","password":"correct horse"}"#;
        let plain = r#"{"email":"a@b","password":"correct horse"}"#;
        assert!(record(&hashed).became(&user(&hashed)));
        assert!(!record(&hashed).became(&user(&elsewhere)));
        assert!(record(with_id).became(&user(with_id)));
        assert!(!record(with_id).became(&user(&with_id.replace("u1", "u2"))));
        assert!(!record(with_id).became(&user(&with_id.replace("a@b", "c@d"))));
        assert!(!record(plain).became(&user(plain)));
    }

    #[test]
    fn every_problem_is_named_with_its_line() {
        let text = [
            "{",
            r#"{"email":"a@b"}"#,
            r#"{"email":"a@b","password":"correct horse","password_hash":"x"}"#,
            r#"{"email":"nobody","password":"correct horse"}"#,
            r#"{"email":"a@b","password":"password"}"#,
            r#"{"email":"a@b","password":"correct horse","role":"admin"}"#,
            r#"{"email":"a@b","password":"correct horse","email":"c@d"}"#,
            r#"{"email":"a@b","password_hash":"5f4dcc3b5aa765d61d8327deb882cf99"}"#,
            r#"{"email":"a@b","password":"correct horse","roles":["a,b"]}"#,
            r#"{"email":"a@b","password":"correct horse","id":"with space"}"#,
            r#"{"email":"a@b","password":"correct horse"}"#,
            r#"{"email":"A@B","password":"correct horse"}"#,
            r#"{"email":"c@d","password":"correct horse","id":"u1"}"#,
            r#"{"email":"e@f","password":"correct horse","id":"u1"}"#,
            r#"{"email":"g@h","password":"correct horse","created_at":"2024-01-31"}"#,
            r#"{"email":"g@h","password":"correct horse","created_at":0}"#,
        ]
        .join("\n");
        let expected = [
            "line 1: not one JSON object, see column 1",
            "line 2: exactly one of `password_hash` and `password` is needed",
            "line 3: exactly one of `password_hash` and `password` is needed",
            "line 4: `email` is not an e-mail address",
            "line 5: `password`: the password is one of the most common ones",
            "line 6: unknown field `role`, expected one of `id`, `email`, `name`, `roles`, `scopes`, \
             `password_hash`, `password`, `disabled`, `created_at`",
            "line 7: duplicate field `email`",
            "line 8: `password_hash`: unknown hash format; known are $bcrypt-sha256$ (v=2,t=2b), $2a$, $2b$, \
             $2y$ and $argon2id$",
            "line 9: a name in `roles` is empty or has a space, comma or control character",
            "line 10: `id` must have 1 to 64 characters of visible ASCII",
            "line 12: the same address as in line 11",
            "line 14: the same id as in line 13",
            "line 15: `created_at` is not a time as in RFC 3339, such as 2024-01-31T08:00:00Z",
            "line 16: expected a string, see column 56",
        ];
        assert_eq!(problems(&text), expected);
    }

    #[test]
    fn no_problem_repeats_a_secret() {
        for text in [
            r#"{"email":"a@b","password":918273645}"#,
            r#"{"email":"a@b","password":["hunter2, expected"]}"#,
            r#"{"email":"a@b","password_hash":"hunter2"}"#,
            r#"{"email":"a@b","roles":"hunter2, expected hunter2"}"#,
            r#"{"email":"a@b","disabled":"hunter2"}"#,
            r#"{"email":"a@b","password":"hunter2"#,
            r#""hunter2""#,
            r#"["hunter2"]"#,
        ] {
            let said = problems(text).concat();
            assert!(!said.contains("hunter2") && !said.contains("918273645"), "{said}");
        }
    }
}
