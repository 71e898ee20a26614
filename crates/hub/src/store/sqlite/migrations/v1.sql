-- - commands grows at its end. The data is last, so that a scan by action does not read it.
-- - deliveries too grows at its end: a new one and the change that follows at once meet on the same page, whatever the
--   device.
-- - deliveries_live and deliveries_due hold what is not terminal and stay as small as that.
-- - deliveries_ended is the one index that grows with history: a device's history, and the order of delivery for a replay.
-- - States are the numbers of rows::state_number; 0 to 4 are live.
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('last_seq', 0);

CREATE TABLE devices (
    device       TEXT NOT NULL PRIMARY KEY,
    created_at   INTEGER NOT NULL,
    seen_at      INTEGER,
    seen_address TEXT,
    seen_agent   TEXT,
    labels       TEXT NOT NULL,
    facts        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE commands (
    seq            INTEGER NOT NULL PRIMARY KEY,
    id             BLOB NOT NULL UNIQUE,
    action         TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    run_timeout_ms INTEGER NOT NULL,
    not_before     INTEGER,
    created_by     TEXT,
    total          INTEGER NOT NULL,
    data           TEXT NOT NULL
) STRICT;

CREATE TABLE deliveries (
    seq              INTEGER NOT NULL,
    device           TEXT NOT NULL,
    state            INTEGER NOT NULL,
    attempt          INTEGER NOT NULL,
    sends            INTEGER NOT NULL,
    counted          INTEGER NOT NULL,
    rev              INTEGER,
    version          INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    flags            INTEGER NOT NULL,
    retry_at         INTEGER,
    run_until        INTEGER,
    cancelling_since INTEGER,
    due_at           INTEGER,
    progress         REAL,
    exit_code        INTEGER,
    error_code       TEXT,
    error_message    TEXT,
    result           TEXT,
    stdout           TEXT,
    stderr           TEXT,
    PRIMARY KEY (seq, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_live  ON deliveries (device, seq, state) WHERE state < 5;
CREATE INDEX deliveries_due   ON deliveries (due_at, device) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_ended ON deliveries (device, updated_at, seq, state) WHERE state >= 5;

CREATE TABLE idempotency (
    caller      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    command     BLOB NOT NULL,
    device      TEXT NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_expiry ON idempotency (expires_at);
