//! `Sessions` on SQLite: each call one transaction.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Embedded;
use super::columns::{damaged, session_id, timestamp};
use super::revocations::{is_cut_off, note_lifetime, revoke_session, revoke_user};
use super::throttle;
use crate::clock::Timestamp;
use crate::store::rotation::decide;
use crate::store::{Family, FamilyState, RefreshPolicy, Result, Rotation, SessionId, Sessions, SessionsCut};

/// Records that one step of a sweep removes at most, so that other writers get their turn in between.
const SWEEP_STEP: usize = 2_000;

#[async_trait]
impl Sessions for Embedded {
    async fn open(&self, mut family: Family) -> Result<()> {
        self.write(move |connection| {
            if is_cut_off(connection, &family.user, family.id, family.began)? {
                family.state = FamilyState::Revoked;
            }
            insert(connection, &family)
        })
        .await
    }

    async fn rotate(
        &self,
        user: &str,
        family: SessionId,
        presented: u64,
        address: &str,
        policy: RefreshPolicy,
        now: Timestamp,
    ) -> Result<Rotation> {
        let (user, address) = (user.to_owned(), address.to_owned());
        self.write(move |connection| {
            let Some(kept) = select(connection, family)?.filter(|kept| kept.user == user) else {
                return Ok(Rotation::Unknown);
            };
            let decision = decide(&kept, presented, policy, now);
            match decision {
                Rotation::Rotated { generation } => {
                    update(connection, &kept.succeed(generation, &address, policy, now))?;
                }
                Rotation::Reuse | Rotation::LostHistory => {
                    update(connection, &Family { state: FamilyState::Revoked, ..kept })?;
                    revoke_session(connection, &user, family, now, policy.access_lifetime)?;
                }
                Rotation::Replay { .. } | Rotation::Dead | Rotation::Unknown => {}
            }
            Ok(decision)
        })
        .await
    }

    async fn end(
        &self,
        user: &str,
        family: SessionId,
        policy: RefreshPolicy,
        now: Timestamp,
    ) -> Result<bool> {
        let user = user.to_owned();
        self.write(move |connection| {
            let kept = select(connection, family)?;
            if kept.as_ref().is_some_and(|kept| kept.user != user) {
                return Ok(false);
            }
            connection.execute("DELETE FROM families WHERE id = ?1", [family.as_bytes()])?;
            revoke_session(connection, &user, family, now, policy.access_lifetime)?;
            Ok(kept.is_some())
        })
        .await
    }

    async fn end_all(&self, user: &str, cut: SessionsCut, policy: RefreshPolicy) -> Result<()> {
        let user = user.to_owned();
        self.write(move |connection| {
            connection.execute(
                "UPDATE families SET revoked = 1 WHERE user = ?1 AND began <= ?2 AND id IS NOT ?3",
                params![user, cut.at.0, cut.keep.as_ref().map(SessionId::as_bytes)],
            )?;
            revoke_user(connection, &user, cut, policy.access_lifetime)
        })
        .await
    }

    async fn list(&self, user: &str, now: Timestamp) -> Result<Vec<Family>> {
        let user = user.to_owned();
        self.read(move |connection| {
            connection
                .prepare(
                    "SELECT * FROM families
                     WHERE user = ?1 AND revoked = 0 AND idle_expiry > ?2 AND absolute_expiry > ?2
                     ORDER BY began DESC, id DESC",
                )?
                .query_map(params![user, now.0], family)?
                .collect()
        })
        .await
    }

    async fn check(&self) -> Result<()> {
        // Nothing matches, but the write lock is taken and the transaction committed.
        self.write(|connection| connection.execute("DELETE FROM families WHERE id = x''", []).map(drop)).await
    }

    /// Revoked families stay until their absolute expiry. Runs of failed logins and address windows go too.
    async fn sweep(&self, now: Timestamp) -> Result<usize> {
        if let Some(lifetime) = self.token_lifetime {
            self.write(move |connection| note_lifetime(connection, lifetime, now)).await?;
        }
        let mut removed = 0;
        for sql in [
            "DELETE FROM families WHERE id IN (SELECT id FROM families WHERE absolute_expiry <= ?1 LIMIT ?2)",
            "DELETE FROM families WHERE id IN
                 (SELECT id FROM families WHERE revoked = 0 AND idle_expiry <= ?1 LIMIT ?2)",
            "DELETE FROM revocations WHERE number IN
                 (SELECT number FROM revocations WHERE until <= ?1 LIMIT ?2)",
        ] {
            removed += self.remove_in_steps(sql, now).await?;
        }
        for (sql, before) in throttle::expired(now) {
            removed += self.remove_in_steps(sql, before).await?;
        }
        Ok(removed)
    }
}

impl Embedded {
    /// Repeats `sql` (?1 an instant, ?2 how many at most) until nothing is left to remove.
    async fn remove_in_steps(&self, sql: &'static str, before: Timestamp) -> Result<usize> {
        let mut removed = 0;
        loop {
            let step = self
                .write(move |connection| {
                    connection.execute(sql, params![before.0, i64::try_from(SWEEP_STEP).unwrap_or(i64::MAX)])
                })
                .await?;
            removed += step;
            if step < SWEEP_STEP {
                return Ok(removed);
            }
        }
    }
}

fn insert(connection: &Connection, family: &Family) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO families (id, user, generation, began, rotated_at, idle_expiry, absolute_expiry, revoked,
             device, address) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            family.id.as_bytes(),
            family.user,
            i64::try_from(family.generation).unwrap_or(i64::MAX),
            family.began.0,
            family.rotated_at.0,
            family.idle_expiry.0,
            family.absolute_expiry.0,
            family.state == FamilyState::Revoked,
            family.device,
            family.address,
        ],
    )?;
    Ok(())
}

fn select(connection: &Connection, id: SessionId) -> rusqlite::Result<Option<Family>> {
    connection.query_row("SELECT * FROM families WHERE id = ?1", [id.as_bytes()], family).optional()
}

fn update(connection: &Connection, family: &Family) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE families SET generation = ?2, rotated_at = ?3, idle_expiry = ?4, revoked = ?5, address = ?6
         WHERE id = ?1",
        params![
            family.id.as_bytes(),
            i64::try_from(family.generation).unwrap_or(i64::MAX),
            family.rotated_at.0,
            family.idle_expiry.0,
            family.state == FamilyState::Revoked,
            family.address,
        ],
    )?;
    Ok(())
}

fn family(row: &Row<'_>) -> rusqlite::Result<Family> {
    let id = session_id(row, "id")?.ok_or_else(|| damaged(row, "id", "missing"))?;
    let generation: i64 = row.get("generation")?;
    let revoked: bool = row.get("revoked")?;
    Ok(Family {
        id,
        user: row.get("user")?,
        generation: u64::try_from(generation).map_err(|error| damaged(row, "generation", error))?,
        began: timestamp(row, "began")?,
        rotated_at: timestamp(row, "rotated_at")?,
        idle_expiry: timestamp(row, "idle_expiry")?,
        absolute_expiry: timestamp(row, "absolute_expiry")?,
        state: if revoked { FamilyState::Revoked } else { FamilyState::Active },
        device: row.get("device")?,
        address: row.get("address")?,
    })
}
