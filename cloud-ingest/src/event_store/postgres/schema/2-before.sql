-- Before schema version 2, while an older service may still run: says of the tables that are to become the first
-- partitions which positions they hold. Each part is a transaction of its own and may be run again. Looking at all rows
-- takes as long as it takes and keeps nobody waiting; the rest needs a lock for a moment.
DO $$
DECLARE
    bound BIGINT;
BEGIN
    SELECT ((last_position + 500000) / 1000000 + 1) * 1000000 + 1 INTO bound FROM store;
    ALTER TABLE events DROP CONSTRAINT IF EXISTS events_in_range;
    ALTER TABLE taps DROP CONSTRAINT IF EXISTS taps_in_range;
    EXECUTE format('ALTER TABLE events ADD CONSTRAINT events_in_range CHECK (position >= 1 AND position < %s) NOT VALID', bound);
    EXECUTE format('ALTER TABLE taps ADD CONSTRAINT taps_in_range CHECK (position >= 1 AND position < %s) NOT VALID', bound);
END
$$
-- Then:
ALTER TABLE events VALIDATE CONSTRAINT events_in_range
-- Then:
ALTER TABLE taps VALIDATE CONSTRAINT taps_in_range
