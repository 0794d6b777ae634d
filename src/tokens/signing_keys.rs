//! The gateway's own keys: kept in `{data_dir}/keys`, created at the first start, rotated.
//!
//! `keys.json` names the keys (algorithm, times, never material); each key is a file of its own, mode 0600.
//! A key is published first and signs [`PUBLISH_AHEAD`] later: whoever verifies our tokens with a cached JWKS
//! has fetched it anew by then. At that moment the key before it retires, and verifies until no token
//! it signed can be alive. Which key signs is decided by the clock at each signature, so the switch needs no
//! reload. A published key verifies from the first, since a sibling's clock may be ahead.
//!
//! Several processes may share the folder: changes are made under a file lock, and `keys.json` is replaced
//! in one step after the key it names is on disk. A process notices a rotation made elsewhere through
//! [`SigningKeys::reload_if_changed`]; the verifier also calls it when it meets a `kid` it does not know, so
//! that a token signed by a sibling a moment ago is not refused.
//!
//! Gateways on several machines must share the folder or get its copy before the new key signs. Absent: keys
//! held in an HSM or a cloud service, rotation by timetable (a timer may run `keys rotate`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;

use self::manifest::{Entry, Manifest};
use super::keys::{KeyError, KeySet};
use super::private_key::{PrivateKey, PrivateKeyError};
use super::secret_files::{self, SecretFileError};
use crate::clock::Timestamp;
use crate::config::{Algorithm, Tokens};

mod manifest;

/// How long a key is published before it signs. Verifiers keep our JWKS for its `max-age` of 300 s, and
/// libraries do not fetch it again within 30 s of the last time, whatever `kid` they meet.
pub const PUBLISH_AHEAD: Duration = Duration::from_secs(600);
/// A retired key verifies for at least this long.
const MIN_RETENTION: Duration = Duration::from_secs(3600);
/// For this long a process that has not noticed a rotation, or whose clock is behind, may still sign with the
/// retired key.
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
    #[error(
        "no key was made: {kid} is published already and signs from {signs_from}; rotate again after that, or use --now, which makes another key sign at once"
    )]
    Pending { kid: String, signs_from: Timestamp },
}

/// What may be said about a key, for `keys list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    pub kid: String,
    pub algorithm: Algorithm,
    pub role: KeyRole,
}

/// What a key does at one moment. In each role it verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRole {
    /// Published, for others to know it before it signs.
    Pending { signs_from: Timestamp },
    /// `until`: when the pending key takes its place.
    Signs { until: Option<Timestamp> },
    /// Retired; gone at `until`.
    Verifies { until: Timestamp },
}

/// What becomes of the keys there are when another one signs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldKeys {
    /// They verify until no token they signed is alive.
    Verify,
    /// They are deleted; every token they signed is refused from now on.
    Drop,
}

/// Everything in force at one moment, published as one value.
pub(super) struct Keyring {
    pub(super) set: KeySet,
    manifest: Manifest,
    /// One for every entry of the manifest, in its order.
    signers: Vec<Signer>,
    jwks: String,
}

impl Keyring {
    /// The key that signs at `now`.
    pub(super) fn signer(&self, now: Timestamp) -> &Signer {
        &self.signers[self.manifest.signer(now)]
    }

    /// Reads the key files of every entry whose time is not over.
    fn load(mut manifest: Manifest, folder: &Path, now: Timestamp) -> Result<Self, KeysError> {
        manifest.keys.retain(|entry| !entry.is_over(now));
        let (mut keys, mut signers, mut public) = (Vec::new(), Vec::new(), Vec::new());
        for entry in &manifest.keys {
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
            public.extend(jwk(entry, &private));
            signers.push(Signer::new(entry, private));
        }
        let wrong = |cause: String| KeysError::Manifest { path: Manifest::path(folder), cause };
        let set = KeySet::new(keys).map_err(|error: KeyError| wrong(error.to_string()))?;
        if manifest.last().is_none() {
            return Err(wrong("no key in it may sign".into()));
        }
        let jwks = serde_json::json!({ "keys": public }).to_string();
        Ok(Self { set, manifest, signers, jwks })
    }
}

/// A private key that signs, with the JWS header its tokens have.
pub(super) struct Signer {
    private: PrivateKey,
    /// base64url of the header (RFC 9068 section 2.1).
    header: String,
}

impl Signer {
    fn new(entry: &Entry, private: PrivateKey) -> Self {
        let header = serde_json::json!({ "typ": "at+jwt", "alg": entry.algorithm.name(), "kid": entry.kid });
        Self { private, header: URL_SAFE_NO_PAD.encode(header.to_string()) }
    }

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
    /// Reads the keys in `{data_dir}/keys`. When there is none, makes the folder and a key of the configured
    /// algorithm, which signs at once: nobody can have cached a JWKS without it. When another algorithm is
    /// configured than that of the last key, this is a rotation like any other: the new key is published ahead,
    /// since a restart here empties no cache elsewhere. When the last but one is still pending, they take turns.
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
            match manifest.last() {
                Some(key) if key.algorithm == tokens.algorithm => {}
                last => {
                    let signs_from = last.map(|_| now.plus(PUBLISH_AHEAD));
                    let entry = new_key(&folder, tokens.algorithm, signs_from, now)?;
                    manifest.append(entry, retention, now);
                    manifest.write(&folder, now)?;
                }
            }
            let stamp = stamp(&folder);
            (Keyring::load(manifest, &folder, now)?, stamp)
        };
        Ok(Self {
            folder,
            algorithm: tokens.algorithm,
            retention,
            ring: ArcSwap::from_pointee(ring),
            seen: Mutex::new(stamp),
        })
    }

    /// Publishes a new key of the configured algorithm, which signs from [`PUBLISH_AHEAD`] after `now`. The key
    /// that signs retires at that moment and verifies until no token it signed is alive, at least an hour.
    /// Keys whose time is over are deleted. Answers the kid of the new key and when it begins to sign.
    ///
    /// # Errors
    /// [`KeysError`], [`KeysError::Pending`] when such a key waits already; the keys in force stay as they were.
    pub fn rotate(&self, now: Timestamp) -> Result<(String, Timestamp), KeysError> {
        let signs_from = now.plus(PUBLISH_AHEAD);
        let kid = self.change(now, |manifest| {
            if let Some((kid, signs_from)) = manifest.pending(now) {
                return Err(KeysError::Pending { kid: kid.to_owned(), signs_from });
            }
            let entry = new_key(&self.folder, self.algorithm, Some(signs_from), now)?;
            Ok(manifest.append(entry, self.retention, now))
        })?;
        Ok((kid, signs_from))
    }

    /// Makes a new key of the configured algorithm the signer at once, for when the one that signs is in the
    /// wrong hands; a pending key, which lay beside it, never signs. Answers the kid of the new key.
    ///
    /// # Errors
    /// [`KeysError`]; the keys in force stay as they were.
    pub fn rotate_now(&self, old: OldKeys, now: Timestamp) -> Result<String, KeysError> {
        self.change(now, |manifest| {
            let entry = new_key(&self.folder, self.algorithm, None, now)?;
            if old == OldKeys::Drop {
                manifest.end_all(now);
            }
            Ok(manifest.append(entry, self.retention, now))
        })
    }

    /// Changes the manifest on disk, alone among all processes, and takes the result over.
    fn change<T>(
        &self,
        now: Timestamp,
        change: impl FnOnce(&mut Manifest) -> Result<T, KeysError>,
    ) -> Result<T, KeysError> {
        let changed = {
            let _lock = secret_files::lock(&self.folder)?;
            let mut manifest = Manifest::read(&self.folder)?;
            let changed = change(&mut manifest)?;
            manifest.write(&self.folder, now)?;
            changed
        };
        self.reload_if_changed(now)?;
        Ok(changed)
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
        let mut ring = Keyring::load(Manifest::read(&self.folder)?, &self.folder, now)?;
        ring.set = ring.set.following(&before.set);
        self.ring.store(Arc::new(ring));
        *seen = current;
        Ok(true)
    }

    /// The JWKS document (RFC 7517) of the public keys, the newest first. Secrets are never in it.
    pub fn jwks_json(&self) -> String {
        self.ring.load().jwks.clone()
    }

    /// Every key in force and what it does at `now`, the newest first.
    pub fn list(&self, now: Timestamp) -> Vec<KeyInfo> {
        let ring = self.ring.load();
        let signer = ring.manifest.signer(now);
        let info = |(index, entry): (usize, &Entry)| KeyInfo {
            kid: entry.kid.clone(),
            algorithm: entry.algorithm,
            role: entry.role(index == signer, now),
        };
        ring.manifest.keys.iter().enumerate().map(info).collect()
    }

    pub(super) fn current(&self) -> Guard<Arc<Keyring>> {
        self.ring.load()
    }
}

/// Makes a key and writes its file. The caller holds the lock.
fn new_key(
    folder: &Path,
    algorithm: Algorithm,
    signs_from: Option<Timestamp>,
    now: Timestamp,
) -> Result<Entry, KeysError> {
    let file = PrivateKey::generate(algorithm).map_err(KeysError::Generate)?;
    let kid = PrivateKey::parse(algorithm, &file)
        .map_err(KeysError::Generate)?
        .thumbprint()
        .unwrap_or_else(|| URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4()));
    let entry = Entry { kid, algorithm, created: now, signs_from, retired: None, not_after: None };
    secret_files::write(&entry.path(folder), &file)?;
    Ok(entry)
}

fn stamp(folder: &Path) -> Option<Stamp> {
    let meta = fs::metadata(Manifest::path(folder)).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
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

#[cfg(test)]
#[path = "signing_keys_tests.rs"]
mod tests;
