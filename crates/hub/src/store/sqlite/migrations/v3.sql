-- Tokens, and devices that an operator has yet to approve.
--
-- - Of a secret only its SHA-256 is kept. role: 0 admin, 1 operator, 2 device, 3 join, 4 metrics; columns of other roles
--   are null.
-- - The index is for the end of a device, which takes its tokens with it.

CREATE TABLE tokens (
    id           TEXT NOT NULL PRIMARY KEY,
    digest       BLOB NOT NULL,
    role         INTEGER NOT NULL,
    device       TEXT,
    selector     TEXT,
    actions      TEXT,
    labels       TEXT,
    uses_left    INTEGER,
    flags        INTEGER NOT NULL,
    expires_at   INTEGER,
    note         TEXT,
    created_at   INTEGER NOT NULL,
    created_by   TEXT,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_device ON tokens (device) WHERE device IS NOT NULL;
CREATE INDEX tokens_admin ON tokens (id) WHERE role = 0;

ALTER TABLE devices ADD COLUMN pending INTEGER NOT NULL DEFAULT 0;
