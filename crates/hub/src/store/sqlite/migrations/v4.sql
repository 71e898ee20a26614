-- The audit log: who did what, to whom, from where, and how it ended.
--
-- - A row is a block: the entries that were committed together, 256 at most and of one second, so that a commit of many
--   commands costs one row. docs/store.md has its format.
-- - Rows are added at the end and deleted at the beginning, by age and by bytes. Entries are numbered, from the id of their
--   row on, and no number is given twice: the last row stays until there is another.
-- - at: of the first entry. bytes: of all rows from the first ever to this one, so that two rows tell what lies between them.
-- - count: of a refusal that is still being counted, which has a row by itself. The one index is for those: each more would
--   cost every command a page.

CREATE TABLE audit (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    refusal INTEGER,
    count   INTEGER,
    entries INTEGER NOT NULL,
    block   BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX audit_refusal ON audit (refusal) WHERE refusal IS NOT NULL;
