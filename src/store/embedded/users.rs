//! `Users` on SQLite.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Embedded;
use super::columns::{damaged, json, session_id, strings, timestamp};
use super::revocations::revoke_user;
use crate::clock::Timestamp;
use crate::store::{CreateError, Email, Result, SessionId, SessionsCut, User, UserChange, Users};

#[async_trait]
impl Users for Embedded {
    async fn create(&self, user: User) -> Result<(), CreateError> {
        self.write(move |connection| insert(connection, &user)).await?
    }

    async fn by_id(&self, id: &str) -> Result<Option<User>> {
        let id = id.to_owned();
        self.read(move |connection| select(connection, &id)).await
    }

    /// A miss reads and decodes a row like a hit does: at login the difference would tell who has an account.
    async fn by_email(&self, email: &Email) -> Result<Option<User>> {
        let email = email.as_str().to_owned();
        self.read(move |connection| {
            let found = connection.query_row(BY_EMAIL, [&email], |row| Ok((row.get("miss")?, user(row)?)));
            let found: Option<(bool, User)> = found.optional()?;
            Ok(found.and_then(|(miss, user)| (!miss).then_some(user)))
        })
        .await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<User>> {
        let after = after.map(str::to_owned);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |connection| {
            connection
                .prepare("SELECT * FROM users WHERE ?1 IS NULL OR id > ?1 ORDER BY id LIMIT ?2")?
                .query_map(params![after, limit], user)?
                .collect()
        })
        .await
    }

    async fn update(&self, id: &str, change: UserChange) -> Result<Option<User>> {
        let id = id.to_owned();
        self.write(move |connection| {
            let Some(mut user) = select(connection, &id)? else { return Ok(None) };
            if change.if_password_hash.as_ref().is_some_and(|expected| *expected != user.password_hash) {
                return Ok(None);
            }
            // A cut is a revocation in the same instant: were the process killed before it ends the sessions one by
            // one, their access tokens would live on.
            if let Some(cut) = change.sessions_cut {
                revoke_user(connection, &id, cut, LONGEST_ACCESS_LIFETIME)?;
            }
            apply(&mut user, change);
            replace(connection, &user)?;
            Ok(Some(user))
        })
        .await
    }

    async fn delete(&self, id: &str) -> Result<bool> {
        let id = id.to_owned();
        self.write(move |connection| Ok(connection.execute("DELETE FROM users WHERE id = ?1", [&id])? == 1))
            .await
    }
}

/// The user with an address, or else any user, marked as a miss. Both are looked for in either case.
const BY_EMAIL: &str = "SELECT 0 AS miss, * FROM users WHERE email = ?1
    UNION ALL SELECT 1, * FROM (SELECT * FROM users LIMIT 1) ORDER BY miss LIMIT 1";

/// The most `tokens.access_ttl` and `tokens.leeway` may be together; this module is not told what they are.
const LONGEST_ACCESS_LIFETIME: Duration = Duration::from_secs(24 * 3600 + 60);

/// The outer error is the store's, the inner one the caller's.
fn insert(connection: &Connection, user: &User) -> rusqlite::Result<Result<(), CreateError>> {
    let taken = |sql, value: &str| connection.query_row(sql, [value], |row| row.get::<_, bool>(0));
    if taken("SELECT EXISTS (SELECT 1 FROM users WHERE id = ?1)", &user.id)? {
        return Ok(Err(CreateError::IdTaken));
    }
    if taken("SELECT EXISTS (SELECT 1 FROM users WHERE email = ?1)", user.email.as_str())? {
        return Ok(Err(CreateError::AddressTaken));
    }
    connection.execute(
        "INSERT INTO users (id, email, name, roles, scopes, password_hash, disabled, created_at, cut_at, cut_keep)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            user.id,
            user.email.as_str(),
            user.name,
            json(&user.roles),
            json(&user.scopes),
            user.password_hash,
            user.disabled,
            user.created_at.0,
            user.sessions_cut.map(|cut| cut.at.0),
            keep(user),
        ],
    )?;
    Ok(Ok(()))
}

fn select(connection: &Connection, id: &str) -> rusqlite::Result<Option<User>> {
    connection.query_row("SELECT * FROM users WHERE id = ?1", [id], user).optional()
}

fn replace(connection: &Connection, user: &User) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE users SET name = ?2, roles = ?3, scopes = ?4, password_hash = ?5, disabled = ?6, cut_at = ?7,
             cut_keep = ?8 WHERE id = ?1",
        params![
            user.id,
            user.name,
            json(&user.roles),
            json(&user.scopes),
            user.password_hash,
            user.disabled,
            user.sessions_cut.map(|cut| cut.at.0),
            keep(user),
        ],
    )
}

fn apply(user: &mut User, change: UserChange) {
    let UserChange { name, roles, scopes, password_hash, if_password_hash: _, disabled, sessions_cut } =
        change;
    if let Some(name) = name {
        user.name = name;
    }
    if let Some(roles) = roles {
        user.roles = roles;
    }
    if let Some(scopes) = scopes {
        user.scopes = scopes;
    }
    if let Some(hash) = password_hash {
        user.password_hash = hash;
    }
    if let Some(disabled) = disabled {
        user.disabled = disabled;
    }
    if let Some(cut) = sessions_cut {
        let at = user.sessions_cut.map_or(cut.at, |old| old.at.max(cut.at));
        user.sessions_cut = Some(SessionsCut { at, ..cut });
    }
}

fn keep(user: &User) -> Option<&[u8; 16]> {
    user.sessions_cut.as_ref().and_then(|cut| cut.keep.as_ref()).map(SessionId::as_bytes)
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    let email: String = row.get("email")?;
    let cut_at: Option<i64> = row.get("cut_at")?;
    let keep = session_id(row, "cut_keep")?;
    Ok(User {
        id: row.get("id")?,
        email: Email::parse(&email).ok_or_else(|| damaged(row, "email", "not an e-mail address"))?,
        name: row.get("name")?,
        roles: strings(row, "roles")?,
        scopes: strings(row, "scopes")?,
        password_hash: row.get("password_hash")?,
        disabled: row.get("disabled")?,
        created_at: timestamp(row, "created_at")?,
        sessions_cut: cut_at.map(|at| SessionsCut { at: Timestamp(at), keep }),
    })
}
