-- The event store on PostgreSQL, schema version 2: what sqlite/schema/2.sql changes, column by column.

-- How far controllers are complete, and order across them.

ALTER TABLE controllers ADD COLUMN said_ms BIGINT;
ALTER TABLE controllers ADD COLUMN complete_ms BIGINT;

ALTER TABLE outboxes ADD COLUMN told_seq BIGINT NOT NULL DEFAULT 0;
ALTER TABLE outboxes ADD COLUMN is_written BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE outboxes ADD COLUMN is_waived BOOLEAN NOT NULL DEFAULT FALSE;

ALTER TABLE destinations ADD COLUMN follows BIGINT NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN follow_next BIGINT NOT NULL DEFAULT 1;
ALTER TABLE destinations ADD COLUMN follow_through BIGINT NOT NULL DEFAULT 0;

ALTER TABLE deliveries ADD COLUMN rank BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN controller_no BIGINT;
ALTER TABLE deliveries ADD COLUMN happened_ms BIGINT;
ALTER TABLE deliveries ADD COLUMN is_early BOOLEAN NOT NULL DEFAULT FALSE;

DROP INDEX deliveries_lane;
CREATE INDEX deliveries_lane ON deliveries (destination_no, order_key, rank, position)
    WHERE (state IN ('held', 'pending', 'in_flight', 'unknown', 'parked') OR blocks_until_ms IS NOT NULL) AND held_for IS DISTINCT FROM 'time_unresolved';

CREATE INDEX deliveries_untold ON deliveries (destination_no, controller_no, happened_ms)
    WHERE controller_no IS NOT NULL AND state NOT IN ('delivered', 'discarded');

CREATE INDEX deliveries_incomplete ON deliveries (destination_no, controller_no, happened_ms)
    WHERE held_for = 'completeness';
CREATE INDEX deliveries_incomplete_since ON deliveries (destination_no, due_ms)
    WHERE held_for = 'completeness';

CREATE TABLE watermarks (
    destination_no BIGINT NOT NULL REFERENCES destinations (no),
    name TEXT COLLATE "C" NOT NULL,
    stands_at TEXT COLLATE "C",
    moved_ms BIGINT,
    complete_ms BIGINT,
    held_back_by TEXT COLLATE "C",
    held_back_why TEXT COLLATE "C",
    looked_ms BIGINT NOT NULL,
    trouble TEXT COLLATE "C",
    failures BIGINT NOT NULL,
    next_ms BIGINT NOT NULL,
    PRIMARY KEY (destination_no, name)
);
