-- The aggregator's state. Digests are hexadecimal text and details are JSON, so that `sqlite3 state.db` can audit it.
-- Times end in _ms: milliseconds since 1970, UTC. Each row's `seal` is a digest of its other columns (seals.rs): triggers
-- write it, and `sqlite3` without them reads but does not write.

CREATE TABLE federation (
    name          TEXT NOT NULL,
    address       TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    -- How far the ledger goes, and the digest of its last entry.
    ledger_entries INTEGER NOT NULL DEFAULT 0,
    ledger_digest  TEXT NOT NULL DEFAULT '0000000000000000000000000000000000000000000000000000000000000000',
    seal          TEXT NOT NULL DEFAULT ''
) STRICT;

-- What happened, each line with the digest of the line before: nothing is taken out of it or changed.
CREATE TABLE ledger (
    entry INTEGER PRIMARY KEY,
    line  TEXT NOT NULL,
    seal  TEXT NOT NULL DEFAULT ''
) STRICT;

-- Invitations: the SHA-256 of each token, never the token.
CREATE TABLE tokens (
    hash          TEXT PRIMARY KEY,
    holder        TEXT NOT NULL,  -- who may enrol with it: a site, or a person with the office (`coordinator/alice`)
    expires_at_ms INTEGER NOT NULL,
    used_at_ms    INTEGER,
    request       TEXT,           -- digest of the signing request that used it
    certificate   TEXT,           -- what was issued for it
    serial        TEXT,
    signing_certificate TEXT,     -- a coordinator's: for the key that signs plans
    cert_expires_at_ms INTEGER,
    anchors       TEXT,
    seal          TEXT NOT NULL DEFAULT ''
) STRICT;

-- Sites and persons that are enrolled.
CREATE TABLE members (
    holder                TEXT PRIMARY KEY,
    serial                TEXT NOT NULL, -- of the newest certificate that the holder used
    expires_at_ms         INTEGER NOT NULL,
    enrolled_at_ms        INTEGER NOT NULL,
    revoked_at_ms         INTEGER,
    anchors               TEXT NOT NULL, -- digest of the CAs that it knows
    signing_key           TEXT,          -- Ed25519, public: what updates are signed with, or plans
    signing_certificate   TEXT,          -- a coordinator's: that this key is its own
    renewal_serial        TEXT,          -- of a newer one that it did not use yet; both count until then
    renewal_expires_at_ms INTEGER,
    renewal_request       TEXT,          -- digest of the key it was issued for
    renewal_certificate   TEXT,
    renewal_signing       TEXT,          -- the signing key's certificate that was issued along
    renewal_anchors       TEXT,
    seal                  TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE runs (
    ordinal       INTEGER PRIMARY KEY,
    run           TEXT NOT NULL UNIQUE,
    plan          BLOB NOT NULL,  -- canonical bytes
    plan_digest   TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('awaiting', 'running', 'finished', 'failed')),
    because       TEXT,
    trouble       TEXT,
    seal          TEXT NOT NULL DEFAULT ''
) STRICT;

-- Coordinators' hands under the plans of runs.
CREATE TABLE signatures (
    run          TEXT NOT NULL REFERENCES runs (run),
    coordinator  TEXT NOT NULL,
    signing_key  TEXT NOT NULL,   -- Ed25519, public
    signature    TEXT NOT NULL,   -- Ed25519
    certificate  TEXT NOT NULL,   -- of the signing key, as it was then
    signed_at_ms INTEGER NOT NULL,
    counted      INTEGER NOT NULL DEFAULT 0, -- 1: it counted when the run began, or was given after that
    seal         TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, coordinator)
) STRICT;

-- What the coordinator asked of a run; the server heeds it within a second.
CREATE TABLE wishes (
    run    TEXT PRIMARY KEY REFERENCES runs (run),
    paused INTEGER NOT NULL,
    abort  TEXT,                  -- the reason
    seal   TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE rounds (
    run          TEXT NOT NULL REFERENCES runs (run),
    round        INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('gathering', 'training', 'merging', 'closed', 'abandoned')),
    base         TEXT NOT NULL,
    model        TEXT,
    remaining_ms INTEGER,
    spent_ms     INTEGER NOT NULL, -- of the round, over all attempts at it: without pauses, and without times when no server ran
    began_at_ms  INTEGER NOT NULL,
    ended_at_ms  INTEGER,
    outcome      TEXT,            -- who reported, who is left out and why: frozen with the set
    merged       TEXT,            -- shares, norms and cosines
    seal         TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, round, attempt)
) STRICT;

-- What a site said in a try at a round, beside reporting.
CREATE TABLE words (
    run     TEXT NOT NULL,
    round   INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    site    TEXT NOT NULL,
    decline TEXT,                 -- the reason; null if it joined
    revoked INTEGER NOT NULL DEFAULT 0, -- said for it: its certificate was revoked
    spent_ms INTEGER NOT NULL,    -- of the round, when it was said
    seal    TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, round, attempt, site)
) STRICT;

-- Acknowledged updates. The key has one digest for ever.
CREATE TABLE updates (
    run            TEXT NOT NULL,
    round          INTEGER NOT NULL,
    site           TEXT NOT NULL,
    blob           TEXT NOT NULL,
    bytes          INTEGER NOT NULL,
    manifest       TEXT NOT NULL,
    received_at_ms INTEGER NOT NULL,
    spent_ms       INTEGER NOT NULL, -- of the round, when it was acknowledged
    retired        INTEGER NOT NULL DEFAULT 0, -- 1: its file is gone or damaged
    seal           TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, round, site)
) STRICT;

CREATE TABLE uploads (
    run           TEXT NOT NULL,
    round         INTEGER NOT NULL,
    site          TEXT NOT NULL,
    blob          TEXT NOT NULL,
    bytes         INTEGER NOT NULL,
    manifest      TEXT NOT NULL,
    durable_bytes INTEGER NOT NULL,
    seal          TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, round, site)
) STRICT;

-- What a site measured of a model: scalars and counts.
CREATE TABLE scores (
    run            TEXT NOT NULL,
    model          TEXT NOT NULL,
    site           TEXT NOT NULL,
    scores         TEXT NOT NULL,
    received_at_ms INTEGER NOT NULL,
    seal           TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, model, site)
) STRICT;

CREATE TABLE progress (
    site        TEXT NOT NULL,
    run         TEXT NOT NULL,    -- empty when idle
    progress    TEXT NOT NULL,
    heard_at_ms INTEGER NOT NULL,
    seal        TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (site, run)
) STRICT;
