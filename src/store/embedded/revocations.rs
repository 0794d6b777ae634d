//! Revocations: written with the decision that causes them, announced in the order of their numbers.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::columns::{session_id, timestamp};
use crate::clock::Timestamp;
use crate::store::{RevocationSink, SessionId, SessionsCut};

/// Records at `now` that the access tokens of `user`'s `session`, which live for `lifetime`, are dead. Once is enough: none is made for
/// a session after its end, so whoever repeats himself does not fill the store.
pub fn revoke_session(
    connection: &Connection,
    user: &str,
    session: SessionId,
    now: Timestamp,
    lifetime: Duration,
) -> rusqlite::Result<()> {
    let until = longest_until(connection, now, lifetime)?;
    connection.execute(
        "INSERT INTO revocations (user, session, until) SELECT ?1, ?2, ?3
         WHERE NOT EXISTS (SELECT 1 FROM revocations WHERE session = ?2 AND user = ?1)",
        params![user, session.as_bytes(), until.0],
    )?;
    Ok(())
}

/// Notes that access tokens which live for `lifetime` are being made at `now`.
pub fn note_lifetime(connection: &Connection, lifetime: Duration, now: Timestamp) -> rusqlite::Result<()> {
    let milliseconds = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
    connection.execute("DELETE FROM token_lifetimes WHERE last_used + milliseconds <= ?1", [now.0])?;
    connection.execute(
        "INSERT INTO token_lifetimes (milliseconds, last_used) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET last_used = max(last_used, ?2)",
        [milliseconds, now.0],
    )?;
    Ok(())
}

/// When the last access token made until `now` is over: those of `lifetime`, and those of a longer one that was configured before.
fn longest_until(connection: &Connection, now: Timestamp, lifetime: Duration) -> rusqlite::Result<Timestamp> {
    let longest: Option<i64> = connection.query_row(
        "SELECT max(milliseconds) FROM token_lifetimes WHERE last_used + milliseconds > ?1",
        [now.0],
        |row| row.get(0),
    )?;
    let earlier = Duration::from_millis(longest.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0));
    Ok(now.plus(lifetime.max(earlier)))
}

pub fn revoke_user(
    connection: &Connection,
    user: &str,
    cut: SessionsCut,
    lifetime: Duration,
) -> rusqlite::Result<()> {
    let until = longest_until(connection, cut.at, lifetime)?;
    connection.execute(
        "INSERT INTO revocations (user, cut_at, keep, until) VALUES (?1, ?2, ?3, ?4)",
        params![user, cut.at.0, cut.keep.as_ref().map(SessionId::as_bytes), until.0],
    )?;
    Ok(())
}

/// Whether a recorded cut of `user` does not spare the session `id` that began at `began`.
pub fn is_cut_off(
    connection: &Connection,
    user: &str,
    id: SessionId,
    began: Timestamp,
) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM revocations WHERE user = ?1 AND cut_at IS NOT NULL AND cut_at >= ?2 AND keep IS NOT ?3)",
        params![user, began.0, id.as_bytes()],
        |row| row.get(0),
    )
}

/// Passes revocations on to the sink, ours and those of other processes alike, each once.
pub struct Announcer {
    sink: Arc<dyn RevocationSink>,
    last: i64,
}

impl Announcer {
    /// Replays what is still in force at `now`.
    pub fn start(
        sink: Arc<dyn RevocationSink>,
        connection: &Connection,
        now: Timestamp,
    ) -> rusqlite::Result<Self> {
        let mut announcer = Self { sink, last: 0 };
        announcer.announce_until_after(connection, now)?;
        Ok(announcer)
    }

    /// Announces what was written since the last time. On an error the rest is left for the next call.
    pub fn announce(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.announce_until_after(connection, Timestamp(i64::MIN))
    }

    fn announce_until_after(&mut self, connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        let mut statement = connection.prepare(
            "SELECT number, session, user, cut_at, keep, until FROM revocations WHERE number > ?1 ORDER BY number",
        )?;
        let mut rows = statement.query([self.last])?;
        while let Some(row) = rows.next()? {
            let until = timestamp(row, "until")?;
            if until > now {
                self.pass_on(row, until)?;
            }
            self.last = row.get("number")?;
        }
        Ok(())
    }

    fn pass_on(&self, row: &Row<'_>, until: Timestamp) -> rusqlite::Result<()> {
        let user: String = row.get("user")?;
        if let Some(session) = session_id(row, "session")? {
            self.sink.session(&user, session, until);
            return Ok(());
        }
        let cut = SessionsCut { at: timestamp(row, "cut_at")?, keep: session_id(row, "keep")? };
        self.sink.user(&user, cut, until);
        Ok(())
    }
}
