//! Revocations: written with the decision that causes them, announced in the order of their numbers.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use super::columns::{session_id, timestamp};
use crate::clock::Timestamp;
use crate::store::{RevocationSink, SessionId, SessionsCut};

/// Records that the access tokens of `user`'s `session` are dead until `until`. Once is enough: none is made for
/// a session after its end, so whoever repeats himself does not fill the store.
pub fn revoke_session(
    connection: &Connection,
    user: &str,
    session: SessionId,
    until: Timestamp,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO revocations (user, session, until) SELECT ?1, ?2, ?3
         WHERE NOT EXISTS (SELECT 1 FROM revocations WHERE session = ?2 AND user = ?1)",
        params![user, session.as_bytes(), until.0],
    )?;
    Ok(())
}

pub fn revoke_user(
    connection: &Connection,
    user: &str,
    cut: SessionsCut,
    until: Timestamp,
) -> rusqlite::Result<()> {
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
