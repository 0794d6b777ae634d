//! `keys.json`: which keys there are and when each begins to sign, retires and ends. Never key material.
//!
//! Keys sign one after the other: exactly one, the last, has no `retired`, and a key retires when its successor
//! begins. This holds with a key that is still pending, so a further one only continues the chain.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{KeyRole, KeysError};
use crate::clock::Timestamp;
use crate::config::Algorithm;
use crate::tokens::secret_files;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The newest first.
    pub(super) keys: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) kid: String,
    #[serde(with = "algorithm_name")]
    pub(super) algorithm: Algorithm,
    #[serde(with = "rfc3339")]
    pub(super) created: Timestamp,
    /// `None`: from the moment it was there, whatever the clock says.
    #[serde(default, with = "rfc3339_option", skip_serializing_if = "Option::is_none")]
    pub(super) signs_from: Option<Timestamp>,
    /// When it stops signing.
    #[serde(default, with = "rfc3339_option", skip_serializing_if = "Option::is_none")]
    pub(super) retired: Option<Timestamp>,
    /// When it stops verifying.
    #[serde(default, with = "rfc3339_option", skip_serializing_if = "Option::is_none")]
    pub(super) not_after: Option<Timestamp>,
}

impl Entry {
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        let extension = if self.algorithm == Algorithm::Hs256 { "key" } else { "pem" };
        folder.join(format!("key-{}.{extension}", self.kid))
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.not_after.is_some_and(|end| end <= now)
    }

    pub(super) fn role(&self, signs: bool, now: Timestamp) -> KeyRole {
        match (self.signs_from, self.not_after) {
            _ if signs => KeyRole::Signs { until: self.retired },
            (Some(signs_from), _) if signs_from > now && !self.is_retired(now) => {
                KeyRole::Pending { signs_from }
            }
            (_, Some(until)) => KeyRole::Verifies { until },
            // Not retired, not pending: this is the signer, whatever the caller thinks.
            (_, None) => KeyRole::Signs { until: None },
        }
    }

    fn is_retired(&self, now: Timestamp) -> bool {
        self.retired.is_some_and(|at| at <= now)
    }

    fn has_begun(&self, now: Timestamp) -> bool {
        self.signs_from.is_none_or(|from| from <= now)
    }
}

impl Manifest {
    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join("keys.json")
    }

    /// No keys when there is no file.
    pub(super) fn read(folder: &Path) -> Result<Self, KeysError> {
        let path = Self::path(folder);
        let Some(content) = secret_files::read(&path)? else { return Ok(Self::default()) };
        let manifest: Self = serde_json::from_slice(&content)
            .map_err(|error| KeysError::Manifest { path: path.clone(), cause: error.to_string() })?;
        let wrong = |cause: &str| Err(KeysError::Manifest { path: path.clone(), cause: cause.into() });
        // A kid becomes part of a file name.
        if manifest.keys.iter().any(|entry| entry.kid.is_empty() || !entry.kid.bytes().all(is_base64url)) {
            return wrong("a kid is not base64url");
        }
        if manifest.keys.iter().any(|entry| entry.retired.is_some() != entry.not_after.is_some()) {
            return wrong("a key has only one of `retired` and `not_after`");
        }
        if manifest.keys.iter().filter(|entry| entry.retired.is_none()).count() > 1 {
            return wrong("two keys are not retired, so it is not clear which one signs");
        }
        Ok(manifest)
    }

    /// Replaces `keys.json` in one step, without the keys whose time is over, and deletes their files.
    /// The caller holds the lock.
    pub(super) fn write(&mut self, folder: &Path, now: Timestamp) -> Result<(), KeysError> {
        let path = Self::path(folder);
        let (over, kept): (Vec<Entry>, _) = self.keys.drain(..).partition(|entry| entry.is_over(now));
        self.keys = kept;
        let json = serde_json::to_vec_pretty(self)
            .map_err(|error| KeysError::Manifest { path: path.clone(), cause: error.to_string() })?;
        secret_files::write(&path, &json)?;
        for entry in over {
            // Nobody needs these any more; one that cannot be deleted now does no harm.
            let _ = fs::remove_file(entry.path(folder));
        }
        Ok(())
    }

    /// The key that signs when all that is planned has come to pass.
    pub(super) fn last(&self) -> Option<&Entry> {
        self.keys.iter().find(|entry| entry.retired.is_none())
    }

    /// Where in `keys` the one is that signs at `now`. There is one as long as there is a [`Self::last`].
    pub(super) fn signer(&self, now: Timestamp) -> usize {
        let mut able = self.keys.iter().enumerate().filter(|(_, entry)| !entry.is_retired(now));
        let newest_begun = able.clone().find(|(_, entry)| entry.has_begun(now));
        // An operator who took the signer out by hand must not leave us without one.
        newest_begun.or_else(|| able.next_back()).map_or(0, |(index, _)| index)
    }

    /// The kid that will sign, and from when, if that is not yet at `now`.
    pub(super) fn pending(&self, now: Timestamp) -> Option<(&str, Timestamp)> {
        let last = self.last()?;
        last.signs_from.filter(|from| *from > now).map(|from| (last.kid.as_str(), from))
    }

    /// Adds a key that signs from its time on; the others retire at that moment and end `retention` later.
    /// Answers its kid.
    pub(super) fn append(&mut self, entry: Entry, retention: Duration, now: Timestamp) -> String {
        let at = entry.signs_from.unwrap_or(now);
        for other in self.keys.iter_mut().filter(|other| !other.is_retired(at)) {
            other.retired = Some(at);
            other.not_after = Some(at.plus(retention));
        }
        let kid = entry.kid.clone();
        self.keys.insert(0, entry);
        kid
    }

    /// Ends every key, retired ones included.
    pub(super) fn end_all(&mut self, now: Timestamp) {
        for entry in &mut self.keys {
            entry.retired = entry.retired.filter(|at| *at <= now).or(Some(now));
            entry.not_after = Some(now);
        }
    }
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

mod algorithm_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::config::Algorithm;

    pub fn serialize<S: Serializer>(algorithm: &Algorithm, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(algorithm.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Algorithm, D::Error> {
        let name = String::deserialize(deserializer)?;
        Algorithm::from_name(&name).ok_or_else(|| D::Error::custom("unknown algorithm"))
    }
}

mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error, ser::Error as _};

    use crate::clock::Timestamp;

    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        let time = jiff::Timestamp::from_millisecond(time.0).map_err(S::Error::custom)?;
        serializer.collect_str(&time)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<jiff::Timestamp>().map(|time| Timestamp(time.as_millisecond())).map_err(D::Error::custom)
    }
}

mod rfc3339_option {
    use serde::{Deserializer, Serializer};

    use crate::clock::Timestamp;

    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::rfc3339::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        super::rfc3339::deserialize(deserializer).map(Some)
    }
}
