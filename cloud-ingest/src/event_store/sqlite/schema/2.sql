-- The event store, schema version 2.

-- How far controllers are complete, and order across them.

-- Of the true time at the earliest: the moment that the last hello speaks for, and the one before which every tap that
-- happened at this controller is stored.
ALTER TABLE controllers ADD COLUMN said_ms INTEGER;
ALTER TABLE controllers ADD COLUMN complete_ms INTEGER;

-- Where it ends, as its controller said when it last named it, and whether it was the one being written then; and whether a
-- person has said that nobody is to wait for what it still holds.
ALTER TABLE outboxes ADD COLUMN told_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outboxes ADD COLUMN is_written INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outboxes ADD COLUMN is_waived INTEGER NOT NULL DEFAULT 0;

-- What is followed of its deliveries: 0 nothing, 1 when and where their taps happened, 2 that too, and lanes are in that
-- order. What is open from `follow_next` to `follow_through` is still to be brought into that form.
ALTER TABLE destinations ADD COLUMN follows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN follow_next INTEGER NOT NULL DEFAULT 1;
ALTER TABLE destinations ADD COLUMN follow_through INTEGER NOT NULL DEFAULT 0;

-- Its place in its lane, before the position: zero, or when its tap happened at the earliest.
ALTER TABLE deliveries ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
-- Where its tap happened, and when at the earliest, if the destination's deliveries are followed.
ALTER TABLE deliveries ADD COLUMN controller_no INTEGER;
ALTER TABLE deliveries ADD COLUMN happened_ms INTEGER;
-- It went before all controllers of its site were known to be complete.
ALTER TABLE deliveries ADD COLUMN is_early INTEGER NOT NULL DEFAULT 0;

DROP INDEX deliveries_lane;
CREATE INDEX deliveries_lane ON deliveries (destination_no, order_key, rank, position)
    WHERE (state IN ('held', 'pending', 'in_flight', 'unknown', 'parked') OR blocks_until_ms IS NOT NULL) AND held_for IS DISTINCT FROM 'time_unresolved';

-- What a destination has not been told, by controller, the earliest first.
CREATE INDEX deliveries_untold ON deliveries (destination_no, controller_no, happened_ms)
    WHERE controller_no IS NOT NULL AND state NOT IN ('delivered', 'discarded');

-- What waits for other controllers: by its own, and by how long.
CREATE INDEX deliveries_incomplete ON deliveries (destination_no, controller_no, happened_ms)
    WHERE held_for = 'completeness';
CREATE INDEX deliveries_incomplete_since ON deliveries (destination_no, due_ms)
    WHERE held_for = 'completeness';

-- How far a destination was told that taps are complete, by what it goes by there.
CREATE TABLE watermarks (
    destination_no INTEGER NOT NULL REFERENCES destinations (no),
    name TEXT NOT NULL,
    -- In the destination's own words.
    stands_at TEXT,
    moved_ms INTEGER,
    -- How far it could go when it was last looked at, and who holds it there.
    complete_ms INTEGER,
    held_back_by TEXT,
    held_back_why TEXT,
    looked_ms INTEGER NOT NULL,
    -- Why it could not be moved, how often in a row, and not before when it is tried again.
    trouble TEXT,
    failures INTEGER NOT NULL,
    next_ms INTEGER NOT NULL,
    PRIMARY KEY (destination_no, name)
) STRICT, WITHOUT ROWID;
