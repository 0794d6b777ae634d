CREATE TABLE users (
    id            TEXT NOT NULL PRIMARY KEY,
    email         TEXT NOT NULL UNIQUE,
    name          TEXT,
    roles         TEXT NOT NULL,
    scopes        TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    disabled      INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    created_at    INTEGER NOT NULL,
    cut_at        INTEGER,
    cut_keep      BLOB CHECK (length(cut_keep) = 16)
) STRICT, WITHOUT ROWID;

CREATE TABLE families (
    id              BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    user            TEXT NOT NULL,
    generation      INTEGER NOT NULL CHECK (generation > 0),
    began           INTEGER NOT NULL,
    rotated_at      INTEGER NOT NULL,
    idle_expiry     INTEGER NOT NULL,
    absolute_expiry INTEGER NOT NULL,
    revoked         INTEGER NOT NULL CHECK (revoked IN (0, 1)),
    device          TEXT NOT NULL,
    address         TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX families_of_user ON families (user, began);
CREATE INDEX families_active_by_expiry ON families (idle_expiry) WHERE revoked = 0;
CREATE INDEX families_by_expiry ON families (absolute_expiry);

-- Either of one session, or of all sessions of a user that (cut_at, keep) does not spare.
-- Numbers are never used twice, so that "after the last one I saw" finds every new one.
CREATE TABLE revocations (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    session BLOB CHECK (length(session) = 16),
    user    TEXT,
    cut_at  INTEGER,
    keep    BLOB CHECK (length(keep) = 16),
    until   INTEGER NOT NULL,
    CHECK ((session IS NULL) = (user IS NOT NULL) AND (user IS NULL) = (cut_at IS NULL))
) STRICT;
CREATE INDEX revocations_of_session ON revocations (session) WHERE session IS NOT NULL;
CREATE INDEX revocations_of_user ON revocations (user) WHERE user IS NOT NULL;
CREATE INDEX revocations_by_end ON revocations (until);

-- Runs of consecutive failed logins. Accounts and devices are digests: people type passwords into the wrong
-- field, and those must not be found on disk. An empty device stands for all unknown ones.
CREATE TABLE login_runs (
    account         BLOB NOT NULL,
    device          BLOB NOT NULL,
    failures        INTEGER NOT NULL,
    last_failure    INTEGER NOT NULL,
    earlier_failure INTEGER NOT NULL,
    PRIMARY KEY (account, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX login_runs_by_time ON login_runs (last_failure);

CREATE TABLE login_addresses (
    address    TEXT NOT NULL PRIMARY KEY,
    failures   INTEGER NOT NULL,
    window_end INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX login_addresses_by_end ON login_addresses (window_end);
