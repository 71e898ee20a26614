-- The audit log: who did what, to whom, from where, and how it ended.
--
-- - Rows are added at the end and deleted at the beginning, by age and by bytes. Numbers rise and are never given twice:
--   the last row stays until there is another.
-- - bytes: of all rows from the first ever to this one, so that two rows tell what lies between them.
-- - No index but one, of refusals that are still being counted: each would cost every command a page.
-- - role: as in tokens.

CREATE TABLE audit (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    actor   TEXT,
    role    INTEGER,
    address TEXT,
    verb    TEXT NOT NULL,
    device  TEXT,
    command BLOB,
    action  TEXT,
    token   TEXT,
    status  INTEGER NOT NULL,
    code    TEXT,
    count   INTEGER NOT NULL,
    refusal INTEGER
) STRICT;
CREATE UNIQUE INDEX audit_refusal ON audit (refusal) WHERE refusal IS NOT NULL;
