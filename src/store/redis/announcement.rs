//! An entry of the stream of revocations.

use std::time::Duration;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::{RevocationSink, SessionId, SessionsCut, UserId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    Session { user: UserId, session: SessionId, until: Timestamp },
    User { user: UserId, cut: SessionsCut, until: Timestamp },
}

impl Announcement {
    /// Reads names and values in turn; `None` when it is nothing we write. Unknown names are passed over: a newer gateway may
    /// have more to say.
    pub fn parse(fields: &[String]) -> Option<Self> {
        let value = |name: &str| {
            let pair = fields.chunks_exact(2).find(|pair| pair[0] == name)?;
            Some(pair[1].as_str())
        };
        let user = value("user")?.to_owned();
        let until = Timestamp(value("until")?.parse().ok()?);
        if let Some(session) = value("session") {
            return Some(Self::Session { user, session: Uuid::try_parse(session).ok()?, until });
        }
        let at = Timestamp(value("at")?.parse().ok()?);
        let keep = match value("keep")? {
            "" => None,
            id => Some(Uuid::try_parse(id).ok()?),
        };
        Some(Self::User { user, cut: SessionsCut { at, keep }, until })
    }

    pub fn until(&self) -> Timestamp {
        match self {
            Self::Session { until, .. } | Self::User { until, .. } => *until,
        }
    }

    #[must_use]
    pub fn at_least_until(mut self, instant: Timestamp) -> Self {
        match &mut self {
            Self::Session { until, .. } | Self::User { until, .. } => *until = instant.max(*until),
        }
        self
    }

    #[must_use]
    pub fn later(mut self, by: Duration) -> Self {
        match &mut self {
            Self::Session { until, .. } | Self::User { until, .. } => *until = until.plus(by),
        }
        self
    }

    pub fn pass_on(&self, sink: &dyn RevocationSink) {
        match self {
            Self::Session { user, session, until } => sink.session(user, *session, *until),
            Self::User { user, cut, until } => sink.user(user, *cut, *until),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Option<Announcement> {
        Announcement::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn entries_of_both_kinds_are_read_and_others_are_not() {
        let id = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);
        let session = format!("user u1 session {} until 7 more 1", id.simple());
        assert_eq!(
            parse(&session),
            Some(Announcement::Session { user: "u1".into(), session: id, until: Timestamp(7) })
        );
        let cut = SessionsCut { at: Timestamp(-5), keep: None };
        let expected = Announcement::User { user: "u1".into(), cut, until: Timestamp(7) };
        assert_eq!(parse("user u1 at -5 keep  until 7"), Some(expected));
        for odd in
            ["", "user u1", "user u1 session x until 7", "user u1 at 5 until 7", "session x until 7 user"]
        {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn nothing_in_a_stream_can_hurt(fields in prop::collection::vec(any::<String>(), 0..8)) {
            let _ = Announcement::parse(&fields);
        }
    }
}
