-- The event store on PostgreSQL, schema version 2: what sqlite/schema/2.sql changes, column by column.

-- Versions: who may go on beside this one, and records that nobody could read when they came.

-- Programs that know this schema version or a later one may write: looked at in every writer's turn.
ALTER TABLE store ADD COLUMN oldest_program BIGINT NOT NULL DEFAULT 2;

-- Up to which position what was stored before a destination was added is none of its business.
ALTER TABLE destinations ADD COLUMN added_after BIGINT NOT NULL DEFAULT 0;
UPDATE destinations SET added_after = make_through;

-- One row: how far older events have been looked through for records that could not be read, and how many there are.
CREATE TABLE rereading (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    looked_through BIGINT NOT NULL,
    look_through BIGINT NOT NULL,
    unread BIGINT NOT NULL CHECK (unread >= 0),
    reread BIGINT NOT NULL
);

INSERT INTO rereading SELECT 1, 0, last_position, 0, 0 FROM store;
INSERT INTO rereading VALUES (1, 0, 0, 0, 0) ON CONFLICT (one) DO NOTHING;

-- Each event that could not be read when it was stored. With `kind` it was read since.
CREATE TABLE opaque (
    position BIGINT PRIMARY KEY,
    -- The edition of the meanings that has tried last.
    tried BIGINT NOT NULL,
    kind TEXT COLLATE "C",
    read_ms BIGINT
);

CREATE INDEX opaque_unread ON opaque (position) WHERE kind IS NULL;

-- Archiving: old events leave the store in whole ranges of positions, for files (docs/archive.md).

CREATE TABLE archiving (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    -- How many positions a new range has. A million records are about a gigabyte with their indexes: a file that can be
    -- handled, and few enough partitions that looking into each of them costs nothing.
    range_size BIGINT NOT NULL CHECK (range_size > 0),
    -- Events up to this position are archived.
    through BIGINT NOT NULL
);

INSERT INTO archiving VALUES (1, 1000000, 0);

-- The partitions of `events` and `taps`, both named by where they begin: events_1, taps_1.
CREATE TABLE ranges (
    from_position BIGINT PRIMARY KEY,
    until_position BIGINT NOT NULL UNIQUE CHECK (until_position > from_position)
);

-- What there is becomes the first partition as it lies; that its positions are in the range is known (2-before.sql).
DO $$
DECLARE
    bound BIGINT;
BEGIN
    SELECT (regexp_match(pg_get_constraintdef(oid), '< ''?(\d+)'))[1]::BIGINT INTO STRICT bound
    FROM pg_constraint WHERE conrelid = 'events'::regclass AND conname = 'events_in_range' AND convalidated;

    ALTER TABLE events RENAME TO events_1;
    ALTER TABLE events_1 RENAME CONSTRAINT events_pkey TO events_1_pkey;
    ALTER INDEX events_by_seq RENAME TO events_1_by_seq;
    CREATE TABLE events (LIKE events_1, PRIMARY KEY (position)) PARTITION BY RANGE (position);
    EXECUTE format('ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES FROM (1) TO (%s)', bound);
    ALTER TABLE events_1 DROP CONSTRAINT events_in_range;

    ALTER TABLE taps RENAME TO taps_1;
    ALTER TABLE taps_1 RENAME CONSTRAINT taps_pkey TO taps_1_pkey;
    ALTER INDEX taps_by_badge RENAME TO taps_1_by_badge;
    ALTER INDEX taps_without_time RENAME TO taps_1_without_time;
    CREATE TABLE taps (LIKE taps_1, PRIMARY KEY (position)) PARTITION BY RANGE (position);
    CREATE INDEX taps_by_badge ON taps (token, occurred_ms, position);
    CREATE INDEX taps_without_time ON taps (boot_no, position) WHERE occurred_ms IS NULL;
    EXECUTE format('ALTER TABLE taps ATTACH PARTITION taps_1 FOR VALUES FROM (1) TO (%s)', bound);
    ALTER TABLE taps_1 DROP CONSTRAINT taps_in_range;

    INSERT INTO ranges VALUES (1, bound);
END
$$;

-- Makes partitions until a whole range is ahead of the last position; says where they end. The service calls it and needs
-- no right to make tables. A table is filled with all that it needs before it is attached, which keeps no insert waiting.
-- That no record of an outbox is there twice is each partition's own index: over all of them the store's marks see to it.
DO $outer$
BEGIN
    EXECUTE format($function$
        CREATE FUNCTION make_ranges() RETURNS BIGINT LANGUAGE plpgsql SECURITY DEFINER SET search_path = %I, pg_temp AS $$
        DECLARE
            size BIGINT;
            wanted BIGINT;
            begins BIGINT;
        BEGIN
            PERFORM pg_advisory_xact_lock(1415671923);
            SELECT range_size INTO STRICT size FROM archiving;
            SELECT last_position + size INTO STRICT wanted FROM store;
            SELECT max(until_position) INTO STRICT begins FROM ranges;
            WHILE begins <= wanted LOOP
                EXECUTE format('CREATE TABLE %%I (LIKE events, PRIMARY KEY (position))', 'events_' || begins);
                EXECUTE format('CREATE UNIQUE INDEX ON %%I (outbox_no, seq)', 'events_' || begins);
                EXECUTE format('ALTER TABLE events ATTACH PARTITION %%I FOR VALUES FROM (%%s) TO (%%s)',
                    'events_' || begins, begins, begins + size);
                EXECUTE format('CREATE TABLE %%I (LIKE taps, PRIMARY KEY (position))', 'taps_' || begins);
                EXECUTE format('ALTER TABLE taps ATTACH PARTITION %%I FOR VALUES FROM (%%s) TO (%%s)',
                    'taps_' || begins, begins, begins + size);
                INSERT INTO ranges VALUES (begins, begins + size);
                begins := begins + size;
            END LOOP;
            RETURN begins;
        END
        $$
    $function$, current_schema());
END
$outer$;

REVOKE ALL ON FUNCTION make_ranges() FROM PUBLIC;
SELECT make_ranges();

-- Of each outbox, how far it is archived, and the hash there.
ALTER TABLE outboxes ADD COLUMN archived_through BIGINT NOT NULL DEFAULT 0;
ALTER TABLE outboxes ADD COLUMN archived_hash BYTEA;

-- What left the store, where it went, and who took it out. Append-only, but for how far the rows are removed by now.
CREATE TABLE segments (
    no BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    from_position BIGINT NOT NULL UNIQUE,
    to_position BIGINT NOT NULL UNIQUE,
    file TEXT COLLATE "C" NOT NULL UNIQUE,
    sha256 BYTEA NOT NULL,
    bytes BIGINT NOT NULL,
    records BIGINT NOT NULL,
    taps BIGINT NOT NULL,
    deliveries BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    received_from_ms BIGINT NOT NULL,
    received_to_ms BIGINT NOT NULL,
    made_ms BIGINT NOT NULL,
    made_by TEXT COLLATE "C" NOT NULL,
    removed_through BIGINT NOT NULL
);

CREATE TABLE segment_outboxes (
    segment_no BIGINT NOT NULL REFERENCES segments (no),
    outbox_no BIGINT NOT NULL REFERENCES outboxes (no),
    from_seq BIGINT NOT NULL,
    to_seq BIGINT NOT NULL,
    hash_before BYTEA NOT NULL,
    hash_after BYTEA NOT NULL,
    PRIMARY KEY (outbox_no, to_seq)
);

CREATE TABLE segment_deliveries (
    segment_no BIGINT NOT NULL REFERENCES segments (no),
    destination_no BIGINT NOT NULL REFERENCES destinations (no),
    state TEXT COLLATE "C" NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (segment_no, destination_no, state)
);

-- Badges that were shown in archived taps: a card is recognised by its number, and can be bound, however long ago it was
-- seen. Random ids in a table that grows with the badges, not with the taps.
CREATE TABLE past_badges (
    token BYTEA PRIMARY KEY,
    key_id BIGINT NOT NULL,
    ciphertext BYTEA NOT NULL
);

-- Taps by their time, for the list of a day: most are stored in that order, so it grows at its end.
CREATE INDEX taps_by_time ON taps (occurred_ms, position);

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

-- Dead letters and replays.

-- Why a delivery waits for a person: an outcome's word where it is dead, 'unknown' where only a person can find out whether
-- it was processed. Null: it does not.
ALTER TABLE deliveries ADD COLUMN dead_reason TEXT COLLATE "C";

UPDATE deliveries SET dead_reason = coalesce((SELECT a.outcome FROM attempts a
    WHERE a.destination_no = deliveries.destination_no AND a.position = deliveries.position
    ORDER BY a.number DESC LIMIT 1), 'refused') WHERE state = 'dead';
UPDATE deliveries SET dead_reason = 'unknown' WHERE state = 'unknown' AND held_for = 'person';

-- In the order in which they were stored, and by reason.
CREATE INDEX deliveries_letters ON deliveries (destination_no, position) WHERE dead_reason IS NOT NULL;

CREATE INDEX deliveries_by_reason ON deliveries (destination_no, dead_reason, position) WHERE dead_reason IS NOT NULL;

-- Maintained with every change, as `delivery_counts` is.
CREATE TABLE dead_counts (
    destination_no BIGINT NOT NULL REFERENCES destinations (no),
    reason TEXT COLLATE "C" NOT NULL,
    count BIGINT NOT NULL CHECK (count >= 0),
    PRIMARY KEY (destination_no, reason)
);

INSERT INTO dead_counts SELECT destination_no, dead_reason, count(*) FROM deliveries
    WHERE dead_reason IS NOT NULL GROUP BY destination_no, dead_reason;

-- What a person decided about many deliveries at once.
CREATE TABLE replays (
    no BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    destination_no BIGINT NOT NULL REFERENCES destinations (no),
    -- 'replay', 'discard' or 'said_delivered'.
    what TEXT COLLATE "C" NOT NULL,
    -- Which deliveries, as JSON.
    filter TEXT COLLATE "C" NOT NULL,
    who TEXT COLLATE "C" NOT NULL,
    why TEXT COLLATE "C" NOT NULL,
    made_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    -- 'running', 'paused', 'cancelled' or 'done'.
    state TEXT COLLATE "C" NOT NULL,
    -- Positions that are still to be gone through for members, from `gather_next` to `gather_through`: until then none is
    -- touched.
    gather_next BIGINT NOT NULL,
    gather_through BIGINT NOT NULL,
    -- Up to which row it was looked last what can go next.
    looked_through BIGINT NOT NULL,
    members BIGINT NOT NULL,
    -- How many of them came to what: these always sum up to `members`.
    waiting BIGINT NOT NULL CHECK (waiting >= 0),
    sending BIGINT NOT NULL CHECK (sending >= 0),
    delivered BIGINT NOT NULL,
    dead BIGINT NOT NULL,
    discarded BIGINT NOT NULL,
    skipped BIGINT NOT NULL
);

-- Those that a dispatcher has something to do for.
CREATE INDEX replays_active ON replays (destination_no, no) WHERE state = 'running' OR sending > 0;

CREATE TABLE replay_rows (
    replay_no BIGINT NOT NULL REFERENCES replays (no),
    -- 1, 2, 3 … in the order of positions.
    n BIGINT NOT NULL,
    position BIGINT NOT NULL,
    -- In whose line it stood when it became a member: none of a line overtakes another.
    order_key BYTEA NOT NULL,
    -- 'waiting', 'sending', 'delivered', 'dead', 'discarded' or 'skipped'.
    outcome TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C",
    ended_ms BIGINT,
    -- How it was when its turn came.
    state_before TEXT COLLATE "C",
    key_before BYTEA,
    body_before TEXT COLLATE "C",
    direction_before TEXT COLLATE "C",
    PRIMARY KEY (replay_no, n)
);

CREATE INDEX replay_rows_waiting ON replay_rows (replay_no, n) WHERE outcome = 'waiting';

CREATE INDEX replay_rows_lane ON replay_rows (replay_no, order_key, n) WHERE outcome = 'waiting';

CREATE INDEX replay_rows_sending ON replay_rows (replay_no, n) WHERE outcome = 'sending';
