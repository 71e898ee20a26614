-- Targets that are found in the store, where a command comes from, and rollouts.
--
-- - selector is the target as it was written; parent the id of the command that is retried.
-- - Of a rollout, targets wait in targets until their batch begins; canary marks those of its first batch. size and begun
--   count targets: of the batch that began last, and of all that have begun. state: 0 running, 1 paused, 2 aborted, 3 done.
--   ended is null in the first two.
-- - batch and began_at of a delivery are null where its command has no rollout. The time to live counts from began_at.

ALTER TABLE commands ADD COLUMN selector TEXT;
ALTER TABLE commands ADD COLUMN parent   BLOB;

ALTER TABLE targets ADD COLUMN canary INTEGER NOT NULL DEFAULT 0;
ALTER TABLE targets ADD COLUMN count  INTEGER NOT NULL DEFAULT 0;
UPDATE targets SET count = 1 + length(devices) - length(replace(devices, char(10), ''));

CREATE TABLE rollouts (
    seq        INTEGER NOT NULL PRIMARY KEY,
    state      INTEGER NOT NULL,
    batch      INTEGER NOT NULL,
    batches    INTEGER NOT NULL,
    canaries   INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    begun      INTEGER NOT NULL,
    began      INTEGER NOT NULL,
    began_at   INTEGER NOT NULL,
    not_before INTEGER,
    ended      INTEGER,
    reason     TEXT,
    plan       TEXT NOT NULL
) STRICT;

ALTER TABLE deliveries ADD COLUMN batch    INTEGER;
ALTER TABLE deliveries ADD COLUMN began_at INTEGER;
