-- What selectors and sorted lists look up, in rows of their own.
--
-- - labels and facts hold what devices.labels and devices.facts hold, as far as a selector can name it, and change with them
--   in the same transaction. Of a fact whose value no selector can name, the value is a space.
-- - Each is ordered twice: by key and device, to look at one device or at all that have the key; by key, value and device, to
--   look at all that have the value. Both give devices by name.
-- - label_counts: how many devices have a value; label_keys: a key. None is no row.
-- - queues_long holds queues of two and more alone: an online device's is 0, 1, 0 with each command, and costs nothing here.

CREATE TABLE labels (
    key    TEXT NOT NULL,
    device TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (key, device)
) STRICT, WITHOUT ROWID;
INSERT INTO labels SELECT j.key, d.device, j.value FROM devices d, json_each(iif(json_valid(d.labels), d.labels, '{}')) j;
CREATE INDEX labels_value ON labels (key, value, device);

CREATE TABLE facts (
    key    TEXT NOT NULL,
    device TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (key, device)
) STRICT, WITHOUT ROWID;
INSERT OR REPLACE INTO facts
    SELECT key, device, iif(
        length(value) <= 63 AND value NOT GLOB '*[^A-Za-z0-9._-]*'
            AND (value = '' OR value GLOB '[A-Za-z0-9]*' AND value GLOB '*[A-Za-z0-9]'),
        value, ' ')
    FROM (
        -- A number as it was written, and not as SQLite would write it.
        SELECT d.device, j.key, CASE j.type
            WHEN 'text' THEN j.value WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' ELSE d.facts -> j.fullkey
        END AS value
        FROM devices d, json_each(iif(json_valid(d.facts), d.facts, '{}')) j
        WHERE j.type IN ('text', 'integer', 'real', 'true', 'false')
            AND length(j.key) BETWEEN 1 AND 63 AND j.key NOT GLOB '*[^A-Za-z0-9._/-]*'
    );
CREATE INDEX facts_value ON facts (key, value, device);

CREATE TABLE label_counts (
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    devices INTEGER NOT NULL,
    PRIMARY KEY (key, value)
) STRICT, WITHOUT ROWID;
INSERT INTO label_counts SELECT key, value, count(*) FROM labels GROUP BY key, value;
CREATE INDEX label_counts_frequent ON label_counts (key, devices DESC, value);

CREATE TABLE label_keys (
    key     TEXT NOT NULL PRIMARY KEY,
    devices INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO label_keys SELECT key, count(*) FROM labels GROUP BY key;

CREATE INDEX devices_seen ON devices (seen_at, device);
CREATE INDEX devices_pending ON devices (device) WHERE pending = 1;
CREATE INDEX queues_long ON queues (queued, device) WHERE queued > 1;
