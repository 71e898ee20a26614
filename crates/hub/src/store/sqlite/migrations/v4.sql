-- Targets that are found in the store, and where a command comes from.
--
-- - selector is the target as it was written; parent the id of the command that is retried.

ALTER TABLE commands ADD COLUMN selector TEXT;
ALTER TABLE commands ADD COLUMN parent   BLOB;
