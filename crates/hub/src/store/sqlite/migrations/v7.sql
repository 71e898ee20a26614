-- The audit log in blocks; that of version 4 had a row for each entry.
--
-- No release had version 4, so what its log holds is dropped and not rewritten.
--
-- - A row is a block: the entries that were committed together, 256 at most and of one second, so that a commit of many
--   commands costs one row. docs/store.md has its format.
-- - Rows are added at the end and deleted at the beginning, by age and by bytes. Entries are numbered, from the id of their
--   row on, and no number is given twice: the last row stays until there is another.
-- - at: of the first entry. bytes: of all rows from the first ever to this one, so that two rows tell what lies between them.
-- - count: of a refusal that is still being counted, which has a row by itself. The one index is for those: each more would
--   cost every command a page.

DROP TABLE audit;

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
