//! `Sessions` in Redis: each call one script.

use ::redis::AsyncCommands;
use async_trait::async_trait;
use uuid::Uuid;

use super::link::unavailable;
use super::{Clock, Redis, milliseconds};
use crate::clock::Timestamp;
use crate::store::{Family, FamilyState, RefreshPolicy, Result, Rotation, SessionId, Sessions, SessionsCut};

#[async_trait]
impl Sessions for Redis {
    fn clock(&self, now: Timestamp) -> Timestamp {
        match self.clock {
            Clock::Server => self.delivery.by_server_clock(now),
            Clock::Caller => now,
        }
    }

    async fn open(&self, family: Family) -> Result<()> {
        let began = family.began;
        let since = |instant: Timestamp| instant.0.saturating_sub(began.0);
        let mut call = self.scripts.open.arg(self.instant(began));
        call.arg(name(family.id)).arg(self.age(began)).arg(family.generation);
        call.arg(since(family.rotated_at)).arg(since(family.idle_expiry)).arg(since(family.absolute_expiry));
        call.arg(family.address).arg(family.device);
        self.decide(&family.user, &mut call).await.map(drop)
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
        let mut call = self.scripts.rotate.arg(self.instant(now));
        call.arg(user).arg(name(family)).arg(presented);
        call.arg(milliseconds(policy.grace)).arg(milliseconds(policy.idle_ttl));
        call.arg(milliseconds(policy.access_lifetime)).arg(address);
        let (decision, detail) = self.decide(user, &mut call).await?;
        let generation = || detail.parse().map_err(|_| unavailable("an odd script reply"));
        Ok(match decision.as_str() {
            "rotated" => Rotation::Rotated { generation: generation()? },
            "replay" => Rotation::Replay { generation: generation()? },
            "reuse" => Rotation::Reuse,
            "lost_history" => Rotation::LostHistory,
            "dead" => Rotation::Dead,
            "unknown" => Rotation::Unknown,
            _ => return Err(unavailable("an odd script reply")),
        })
    }

    async fn end(
        &self,
        user: &str,
        family: SessionId,
        policy: RefreshPolicy,
        now: Timestamp,
    ) -> Result<bool> {
        let mut call = self.scripts.end.arg(self.instant(now));
        call.arg(user).arg(name(family)).arg(milliseconds(policy.access_lifetime));
        let (decision, _) = self.decide(user, &mut call).await?;
        Ok(decision == "ended")
    }

    async fn end_all(&self, user: &str, cut: SessionsCut, policy: RefreshPolicy) -> Result<()> {
        let mut call = self.scripts.end_all.arg(self.instant(cut.at));
        call.arg(user).arg(cut.at.0).arg(self.age(cut.at));
        call.arg(cut.keep.map(name).unwrap_or_default()).arg(milliseconds(policy.access_lifetime));
        self.decide(user, &mut call).await.map(drop)
    }

    async fn list(&self, user: &str, now: Timestamp) -> Result<Vec<Family>> {
        let key = self.user_key(user);
        let all: Vec<(String, String)> =
            self.link.call(async |mut connection| connection.hgetall(key).await).await?;
        let sessions = all.iter().filter_map(|(field, text)| Some((field.strip_prefix("s:")?, text)));
        let mut live = Vec::new();
        for (id, text) in sessions {
            let family = family(user, id, text).ok_or_else(|| unavailable("a damaged session"))?;
            if family.state == FamilyState::Active && !family.expired(now) {
                live.push(family);
            }
        }
        live.sort_by_key(|family| std::cmp::Reverse((family.began, family.id)));
        Ok(live)
    }

    async fn check(&self) -> Result<()> {
        let mut write = ::redis::cmd("SET");
        write.arg(format!("{}:check", self.prefix)).arg("").arg("PX").arg(1_000);
        let write = &write;
        self.link.call(async |mut connection| write.query_async(&mut connection).await).await
    }

    /// Keys expire by themselves, and what has expired inside one goes with the next login.
    async fn sweep(&self, _now: Timestamp) -> Result<usize> {
        Ok(0)
    }
}

/// A session in the scripts and keys: 32 hexadecimal digits.
fn name(session: SessionId) -> String {
    session.simple().to_string()
}

/// What `lua/session.lua` wrote.
fn family(user: &str, id: &str, text: &str) -> Option<Family> {
    let mut parts = text.splitn(8, ' ');
    let mut part = || parts.next();
    let generation = part()?.parse().ok()?;
    let state = match part()? {
        "a" => FamilyState::Active,
        _ => FamilyState::Revoked,
    };
    let mut instant = || Some(Timestamp(part()?.parse().ok()?));
    Some(Family {
        id: Uuid::try_parse(id).ok()?,
        user: user.to_owned(),
        generation,
        state,
        rotated_at: instant()?,
        idle_expiry: instant()?,
        absolute_expiry: instant()?,
        began: instant()?,
        address: parts.next()?.to_owned(),
        device: parts.next()?.to_owned(),
    })
}
