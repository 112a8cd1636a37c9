-- Outbox, version 2 to version 3.

ALTER TABLE outbox ADD COLUMN continues_after INTEGER;
