-- A revocation of one session says whose it is as well, so that nobody ends another's by naming it. Where the
-- owner of an older record is not known any more, an empty user stands for whoever it is.
ALTER TABLE revocations RENAME TO revocations_1;
DROP INDEX revocations_of_session;
DROP INDEX revocations_of_user;
DROP INDEX revocations_by_end;
CREATE TABLE revocations (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    user    TEXT NOT NULL,
    session BLOB CHECK (length(session) = 16),
    cut_at  INTEGER,
    keep    BLOB CHECK (length(keep) = 16),
    until   INTEGER NOT NULL,
    CHECK ((session IS NULL) = (cut_at IS NOT NULL))
) STRICT;
INSERT INTO revocations (number, user, session, cut_at, keep, until)
    SELECT number, coalesce(old.user, (SELECT user FROM families WHERE id = old.session), ''), session, cut_at, keep, until
    FROM revocations_1 AS old;
DROP TABLE revocations_1;
CREATE INDEX revocations_of_session ON revocations (session) WHERE session IS NOT NULL;
CREATE INDEX revocations_of_user ON revocations (user) WHERE cut_at IS NOT NULL;
CREATE INDEX revocations_by_end ON revocations (until);

-- How long access tokens live that may be out, and when such were made last: after the configured time was made shorter, the
-- older ones must stay revoked for as long as they live.
CREATE TABLE token_lifetimes (
    milliseconds INTEGER NOT NULL PRIMARY KEY,
    last_used    INTEGER NOT NULL
) STRICT;
