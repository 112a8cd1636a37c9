-- Outbox, version 1 to version 2. Columns at the ends of the rows: no row of a million is written again.

ALTER TABLE outbox ADD COLUMN written_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN salvage INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN mended_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN mended_hash BLOB;
ALTER TABLE outbox ADD COLUMN days BLOB;
ALTER TABLE outbox ADD COLUMN own_check INTEGER;
ALTER TABLE boot ADD COLUMN own_check INTEGER;
ALTER TABLE record ADD COLUMN own_check INTEGER;
