-- Schedules, and maintenance windows.
--
-- - plan is what was posted, as JSON. decided_at: every time up to this is decided. run_at: the time of a run that was decided
--   and whose command is not stored yet. last_at and last_command: the last run. skipped_at and skipped_reason: the last time
--   that was left out. All times are of the wall clock.

CREATE TABLE schedules (
    id             BLOB    NOT NULL PRIMARY KEY,
    plan           TEXT    NOT NULL,
    paused         INTEGER NOT NULL,
    reason         TEXT,
    created_at     INTEGER NOT NULL,
    created_by     TEXT,
    decided_at     INTEGER NOT NULL,
    run_at         INTEGER,
    last_at        INTEGER,
    last_command   BLOB,
    skipped_at     INTEGER,
    skipped_reason TEXT,
    version        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- When a command may be sent, and when a batch of a rollout may begin: a window as JSON; NULL is at any time. Of a delivery
-- that waits for one, scheduled_at is when it opens, and flags has 8.
ALTER TABLE commands ADD COLUMN window TEXT;
ALTER TABLE rollouts ADD COLUMN window TEXT;
