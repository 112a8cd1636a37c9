-- The event store, schema version 2.

-- Taps by their time, for the list of a day: most are stored in that order, so it grows at its end.
CREATE INDEX taps_by_time ON taps (occurred_ms, position);
