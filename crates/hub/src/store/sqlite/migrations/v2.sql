-- Two clocks, commands to many, and a queue that is read by its window.
--
-- - Times that decide something are of the monotonic clock (created, expires, updated, due_at, retry_at, run_until,
--   cancelling_since), stamps that people read of the wall clock (…_at). The monotonic clock of an older file is its wall
--   clock: it goes on from there.
-- - deliveries_live becomes three indexes: what is active (1 to 4), what is ready in the queue, and what waits there for the
--   wall clock. Each is as small as what it holds, and each is read from its beginning, whatever the others hold.
-- - Columns that each read needs stand before data and output, which may fill pages of their own.

ALTER TABLE commands RENAME TO commands_v1;
CREATE TABLE commands (
    seq            INTEGER NOT NULL PRIMARY KEY,
    id             BLOB NOT NULL UNIQUE,
    action         TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    run_timeout_ms INTEGER NOT NULL,
    not_before     INTEGER,
    created        INTEGER NOT NULL,
    total          INTEGER NOT NULL,
    online_only    INTEGER NOT NULL,
    created_by     TEXT,
    data           TEXT NOT NULL
) STRICT;
INSERT INTO commands
    SELECT seq, id, action, created_at, expires_at, run_timeout_ms, not_before, created_at, total, 0, created_by, data
    FROM commands_v1;
DROP TABLE commands_v1;

DROP INDEX deliveries_live;
DROP INDEX deliveries_due;
DROP INDEX deliveries_ended;
ALTER TABLE deliveries RENAME TO deliveries_v1;
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
    updated          INTEGER NOT NULL,
    expires          INTEGER NOT NULL,
    flags            INTEGER NOT NULL,
    scheduled_at     INTEGER,
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
INSERT INTO deliveries
    SELECT d.seq, d.device, d.state, d.attempt, d.sends, d.counted, d.rev, d.version, d.updated_at, d.updated_at,
           c.expires_at, d.flags, iif(d.state = 0, c.not_before, NULL), d.retry_at, d.run_until, d.cancelling_since,
           iif(d.state = 0 AND c.not_before IS NOT NULL, NULL, d.due_at), d.progress, d.exit_code, d.error_code,
           d.error_message, d.result, d.stdout, d.stderr
    FROM deliveries_v1 d JOIN commands c ON c.seq = d.seq;
DROP TABLE deliveries_v1;
CREATE INDEX deliveries_active    ON deliveries (device, seq, state) WHERE state BETWEEN 1 AND 4;
CREATE INDEX deliveries_ready     ON deliveries (device, seq) WHERE state = 0 AND scheduled_at IS NULL;
CREATE INDEX deliveries_scheduled ON deliveries (scheduled_at, device) WHERE scheduled_at IS NOT NULL;
CREATE INDEX deliveries_due       ON deliveries (due_at, device) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_ended     ON deliveries (device, updated, seq, state) WHERE state >= 5;

-- How many deliveries of a device are queued; none is no row.
CREATE TABLE queues (
    device TEXT NOT NULL PRIMARY KEY,
    queued INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO queues SELECT device, count(*) FROM deliveries WHERE state = 0 GROUP BY device;

-- How many deliveries of a command to many are in which state.
CREATE TABLE counts (
    seq        INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    PRIMARY KEY (seq, state)
) STRICT, WITHOUT ROWID;

-- Targets of commands to many that have no delivery yet: chunks of names, one to a line, named by their first.
CREATE TABLE targets (
    seq     INTEGER NOT NULL,
    first   TEXT NOT NULL,
    last    TEXT NOT NULL,
    devices TEXT NOT NULL,
    PRIMARY KEY (seq, first)
) STRICT, WITHOUT ROWID;

-- Commands to many that are being cancelled.
CREATE TABLE cancels (
    seq   INTEGER NOT NULL PRIMARY KEY,
    force INTEGER NOT NULL
) STRICT;

ALTER TABLE idempotency RENAME TO idempotency_v1;
CREATE TABLE idempotency (
    caller      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    command     BLOB NOT NULL,
    device      TEXT,
    expires     INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;
INSERT INTO idempotency SELECT caller, key, fingerprint, command, device, expires_at FROM idempotency_v1;
DROP TABLE idempotency_v1;
CREATE INDEX idempotency_expiry ON idempotency (expires);
