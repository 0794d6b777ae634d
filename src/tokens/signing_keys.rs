//! The gateway's own keys: kept in `{data_dir}/keys`, created at the first start, rotated.
//!
//! `keys.json` names the keys (algorithm, times, never material); each key is a file of its own, mode 0600.
//! The one key that is not retired signs. A retired key verifies until no token it signed can be alive.
//!
//! Several processes may share the folder: changes are made under a file lock, and `keys.json` is replaced
//! in one step after the key it names is on disk. A process notices a rotation made elsewhere through
//! [`SigningKeys::reload_if_changed`]; the verifier also calls it when it meets a `kid` it does not know, so
//! that a token signed by a sibling a moment ago is not refused.
//!
//! A rotation changes the signer at once. Backends that verify tokens themselves must therefore fetch the
//! JWKS again when they meet an unknown `kid` (as OpenID Connect Core section 10.1.1 asks, and as the usual
//! libraries do), and gateways on several machines must share the folder or get its copy before the
//! new key signs. Absent: keys held in an HSM or a cloud service.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::keys::{Key, KeyError, KeySet};
use super::private_key::{PrivateKey, PrivateKeyError};
use super::secret_files::{self, SecretFileError};
use crate::clock::Timestamp;
use crate::config::{Algorithm, Tokens};

const MANIFEST: &str = "keys.json";
/// A retired key verifies for at least this long.
const MIN_RETENTION: Duration = Duration::from_secs(3600);
/// For this long a process that has not noticed a rotation may still sign with the retired key.
const NOTICE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    File(#[from] SecretFileError),
    #[error("{}: {cause}; restore the file from a backup, or move the folder away: a new key is made at the next start, and everybody's access tokens are renewed", path.display())]
    Key { path: PathBuf, cause: PrivateKeyError },
    #[error("{}: named in keys.json but missing; restore it from a backup, or remove its entry", path.display())]
    Missing { path: PathBuf },
    #[error("{}: {cause}; restore the file from a backup, or move the folder away: new keys are made at the next start", path.display())]
    Manifest { path: PathBuf, cause: String },
    #[error("a key cannot be made: {0}")]
    Generate(PrivateKeyError),
}

/// What may be said about a key, for `keys list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    pub kid: String,
    pub algorithm: Algorithm,
    pub created: Timestamp,
    /// When it stopped signing; `None`: it is the signer.
    pub retired: Option<Timestamp>,
    /// When it stops verifying.
    pub not_after: Option<Timestamp>,
}

/// Everything in force at one moment, published as one value.
pub(super) struct Keyring {
    pub(super) set: KeySet,
    pub(super) signer: Signer,
    infos: Vec<KeyInfo>,
    jwks: String,
}

/// The private key that signs, with the JWS header its tokens have.
pub(super) struct Signer {
    private: PrivateKey,
    /// base64url of the header (RFC 9068 section 2.1).
    header: String,
}

impl Signer {
    #[cfg(test)]
    pub(super) fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// A compact JWS over `payload`.
    pub(super) fn sign(&self, payload: &[u8]) -> Result<String, PrivateKeyError> {
        let mut token = String::with_capacity(self.header.len() + payload.len() * 4 / 3 + 100);
        token.push_str(&self.header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = self.private.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

pub struct SigningKeys {
    folder: PathBuf,
    algorithm: Algorithm,
    retention: Duration,
    ring: ArcSwap<Keyring>,
    /// The manifest the ring was read from. Held while the ring is replaced.
    seen: Mutex<Option<Stamp>>,
}

/// Distinguishes one version of a file from the next: every write makes a new inode or a new time.
type Stamp = (u64, i64, i64, u64);

impl SigningKeys {
    /// Reads the keys in `{data_dir}/keys`, making the folder and a key of the configured algorithm when
    /// there is none. A configured algorithm other than the signer's retires the signer, as a rotation does.
    ///
    /// # Errors
    /// [`KeysError`], with the remedy: files open to others, missing, malformed or too weak.
    pub fn open(data_dir: &Path, tokens: &Tokens, now: Timestamp) -> Result<Self, KeysError> {
        let folder = data_dir.join("keys");
        secret_files::folder(&folder)?;
        let retention = MIN_RETENTION.max(tokens.access_ttl + tokens.leeway + NOTICE);
        let (ring, stamp) = {
            let _lock = secret_files::lock(&folder)?;
            let mut manifest = Manifest::read(&folder)?;
            if manifest.signer().is_none_or(|signer| signer.algorithm != tokens.algorithm) {
                manifest.replace_signer(&folder, tokens.algorithm, retention, now)?;
            }
            let stamp = stamp(&folder);
            (manifest.load(&folder, now)?, stamp)
        };
        Ok(Self {
            folder,
            algorithm: tokens.algorithm,
            retention,
            ring: ArcSwap::from_pointee(ring),
            seen: Mutex::new(stamp),
        })
    }

    /// Makes a new key of the configured algorithm the signer. The old one verifies until no token it signed
    /// is alive, at least an hour. Keys whose time is over are deleted. Answers the kid of the new key.
    ///
    /// # Errors
    /// [`KeysError`]; the keys in force stay as they were.
    pub fn rotate(&self, now: Timestamp) -> Result<String, KeysError> {
        let created = {
            let _lock = secret_files::lock(&self.folder)?;
            Manifest::read(&self.folder)?.replace_signer(&self.folder, self.algorithm, self.retention, now)?
        };
        self.reload_if_changed(now)?;
        Ok(created)
    }

    /// Takes over what another process changed, and drops keys whose time is over; whether anything did
    /// change. When nothing did, this costs one `stat`: call it every second.
    ///
    /// # Errors
    /// [`KeysError`]; the keys in force stay as they were, and the next call tries again.
    pub fn reload_if_changed(&self, now: Timestamp) -> Result<bool, KeysError> {
        let mut seen = self.seen.lock();
        // Taken before reading: a change in between shows as another stamp at the next call.
        let current = stamp(&self.folder);
        let before = self.ring.load_full();
        let over = before.set.keys().iter().any(|key| key.not_after().is_some_and(|end| end <= now));
        if *seen == current && !over {
            return Ok(false);
        }
        let mut ring = Manifest::read(&self.folder)?.load(&self.folder, now)?;
        ring.set = ring.set.following(&before.set);
        self.ring.store(Arc::new(ring));
        *seen = current;
        Ok(true)
    }

    /// The JWKS document (RFC 7517) of the public keys, the signer's first. Secrets are never in it.
    pub fn jwks_json(&self) -> String {
        self.ring.load().jwks.clone()
    }

    /// Every key in force, the signer first.
    pub fn list(&self) -> Vec<KeyInfo> {
        self.ring.load().infos.clone()
    }

    pub(super) fn current(&self) -> Guard<Arc<Keyring>> {
        self.ring.load()
    }
}

fn stamp(folder: &Path) -> Option<Stamp> {
    let meta = fs::metadata(folder.join(MANIFEST)).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
}

/// `keys.json`.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    keys: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kid: String,
    #[serde(with = "algorithm_name")]
    algorithm: Algorithm,
    #[serde(with = "rfc3339")]
    created: Timestamp,
    #[serde(default, with = "rfc3339_option", skip_serializing_if = "Option::is_none")]
    retired: Option<Timestamp>,
    #[serde(default, with = "rfc3339_option", skip_serializing_if = "Option::is_none")]
    not_after: Option<Timestamp>,
}

impl Entry {
    fn path(&self, folder: &Path) -> PathBuf {
        let extension = if self.algorithm == Algorithm::Hs256 { "key" } else { "pem" };
        folder.join(format!("key-{}.{extension}", self.kid))
    }

    fn info(&self) -> KeyInfo {
        KeyInfo {
            kid: self.kid.clone(),
            algorithm: self.algorithm,
            created: self.created,
            retired: self.retired,
            not_after: self.not_after,
        }
    }
}

impl Manifest {
    fn read(folder: &Path) -> Result<Self, KeysError> {
        let path = folder.join(MANIFEST);
        let Some(content) = secret_files::read(&path)? else { return Ok(Self::default()) };
        let manifest: Self = serde_json::from_slice(&content)
            .map_err(|error| KeysError::Manifest { path: path.clone(), cause: error.to_string() })?;
        let wrong = |cause: &str| Err(KeysError::Manifest { path: path.clone(), cause: cause.into() });
        // A kid becomes part of a file name below.
        if manifest.keys.iter().any(|entry| entry.kid.is_empty() || !entry.kid.bytes().all(is_base64url)) {
            return wrong("a kid is not base64url");
        }
        if manifest.keys.iter().filter(|entry| entry.retired.is_none()).count() > 1 {
            return wrong("two keys are not retired, so it is not clear which one signs");
        }
        Ok(manifest)
    }

    fn signer(&self) -> Option<&Entry> {
        self.keys.iter().find(|entry| entry.retired.is_none())
    }

    /// Writes a new key and a manifest that makes it the signer, and deletes keys whose time is over.
    /// The caller holds the lock.
    fn replace_signer(
        &mut self,
        folder: &Path,
        algorithm: Algorithm,
        retention: Duration,
        now: Timestamp,
    ) -> Result<String, KeysError> {
        let file = PrivateKey::generate(algorithm).map_err(KeysError::Generate)?;
        let kid = PrivateKey::parse(algorithm, &file)
            .map_err(KeysError::Generate)?
            .thumbprint()
            .unwrap_or_else(|| URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4()));
        for entry in self.keys.iter_mut().filter(|entry| entry.retired.is_none()) {
            entry.retired = Some(now);
            entry.not_after = Some(now.plus(retention));
        }
        let created = Entry { kid: kid.clone(), algorithm, created: now, retired: None, not_after: None };
        secret_files::write(&created.path(folder), &file)?;
        let (over, kept): (Vec<Entry>, _) =
            self.keys.drain(..).partition(|entry| entry.not_after.is_some_and(|end| end <= now));
        self.keys = kept;
        self.keys.insert(0, created);
        let json = serde_json::to_vec_pretty(self)
            .map_err(|error| KeysError::Manifest { path: folder.join(MANIFEST), cause: error.to_string() })?;
        secret_files::write(&folder.join(MANIFEST), &json)?;
        for entry in over {
            // Nobody needs these any more; one that cannot be deleted now does no harm.
            let _ = fs::remove_file(entry.path(folder));
        }
        Ok(kid)
    }

    /// Reads the key files of every entry whose time is not over.
    fn load(&self, folder: &Path, now: Timestamp) -> Result<Keyring, KeysError> {
        let manifest = || folder.join(MANIFEST);
        let mut keys: Vec<Key> = Vec::new();
        let mut infos = Vec::new();
        let mut public = Vec::new();
        let mut signer = None;
        for entry in self.keys.iter().filter(|entry| entry.not_after.is_none_or(|end| end > now)) {
            let path = entry.path(folder);
            let file = secret_files::read(&path)?.ok_or_else(|| KeysError::Missing { path: path.clone() })?;
            let unfit = |cause| KeysError::Key { path: path.clone(), cause };
            let private = PrivateKey::parse(entry.algorithm, &file).map_err(unfit)?;
            let key = private.verifying(entry.kid.clone()).map_err(|error| unfit(error.into()))?;
            if private.thumbprint().is_some_and(|thumbprint| thumbprint != entry.kid) {
                return Err(KeysError::Manifest {
                    path,
                    cause: "holds another key than its name says".into(),
                });
            }
            keys.push(key.until(entry.not_after));
            infos.push(entry.info());
            public.extend(jwk(entry, &private));
            if entry.retired.is_none() {
                let header = serde_json::json!({
                    "typ": "at+jwt", "alg": entry.algorithm.name(), "kid": entry.kid,
                });
                signer = Some(Signer { private, header: URL_SAFE_NO_PAD.encode(header.to_string()) });
            }
        }
        let duplicate = |error: KeyError| KeysError::Manifest { path: manifest(), cause: error.to_string() };
        let set = KeySet::new(keys).map_err(duplicate)?;
        let signer = signer
            .ok_or_else(|| KeysError::Manifest { path: manifest(), cause: "no key in it may sign".into() })?;
        let jwks = serde_json::json!({ "keys": public }).to_string();
        Ok(Keyring { set, signer, infos, jwks })
    }
}

fn jwk(entry: &Entry, private: &PrivateKey) -> Option<serde_json::Value> {
    let members = private.public_members();
    if members.is_empty() {
        return None;
    }
    let mut jwk: serde_json::Map<_, _> =
        members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    jwk.insert("kid".into(), entry.kid.clone().into());
    jwk.insert("alg".into(), entry.algorithm.name().into());
    jwk.insert("use".into(), "sig".into());
    Some(jwk.into())
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
#[path = "signing_keys_tests.rs"]
mod tests;

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
