-- The event store, schema version 2.

-- Versions: who may go on beside this one, and records that nobody could read when they came.

-- Programs that know this schema version or a later one may write: looked at in every writer's turn.
ALTER TABLE store ADD COLUMN oldest_program INTEGER NOT NULL DEFAULT 2;

-- Up to which position what was stored before a destination was added is none of its business.
ALTER TABLE destinations ADD COLUMN added_after INTEGER NOT NULL DEFAULT 0;
UPDATE destinations SET added_after = make_through;

-- One row: how far older events have been looked through for records that could not be read, and how many there are.
CREATE TABLE rereading (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    looked_through INTEGER NOT NULL,
    look_through INTEGER NOT NULL,
    unread INTEGER NOT NULL CHECK (unread >= 0),
    reread INTEGER NOT NULL
) STRICT;

INSERT INTO rereading SELECT 1, 0, last_position, 0, 0 FROM store;
INSERT INTO rereading VALUES (1, 0, 0, 0, 0) ON CONFLICT (one) DO NOTHING;

-- Each event that could not be read when it was stored. With `kind` it was read since.
CREATE TABLE opaque (
    position INTEGER PRIMARY KEY,
    -- The edition of the meanings that has tried last.
    tried INTEGER NOT NULL,
    kind TEXT,
    read_ms INTEGER
) STRICT;

CREATE INDEX opaque_unread ON opaque (position) WHERE kind IS NULL;

-- Archiving: old events leave the store in whole ranges of positions, for files (docs/archive.md).

CREATE TABLE archiving (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- How many positions a range has. There are no partitions here, so it can be small: some weeks of a small company.
    range_size INTEGER NOT NULL CHECK (range_size > 0),
    -- Events up to this position are archived.
    through INTEGER NOT NULL
) STRICT;

INSERT INTO archiving VALUES (1, 10000, 0);

-- Anchors outlive the records that brought them: what comes late from the same boot is timed by them.
CREATE TABLE lasting_anchors (
    boot_no INTEGER NOT NULL REFERENCES boots (no),
    latest_ms INTEGER NOT NULL,
    position INTEGER NOT NULL,
    earliest_ms INTEGER NOT NULL,
    utc_ms INTEGER NOT NULL,
    uncertainty_ms INTEGER NOT NULL,
    -- 'kernel' or 'receipt'.
    witness TEXT NOT NULL,
    PRIMARY KEY (boot_no, latest_ms, position)
) STRICT, WITHOUT ROWID;

INSERT INTO lasting_anchors SELECT boot_no, latest_ms, position, earliest_ms, utc_ms, uncertainty_ms, witness FROM anchors;
DROP TABLE anchors;
ALTER TABLE lasting_anchors RENAME TO anchors;

-- Of each outbox, how far it is archived, and the hash there.
ALTER TABLE outboxes ADD COLUMN archived_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outboxes ADD COLUMN archived_hash BLOB;

-- What left the store, where it went, and who took it out. Append-only, but for how far the rows are removed by now.
CREATE TABLE segments (
    no INTEGER PRIMARY KEY,
    from_position INTEGER NOT NULL UNIQUE,
    to_position INTEGER NOT NULL UNIQUE,
    file TEXT NOT NULL UNIQUE,
    sha256 BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    records INTEGER NOT NULL,
    taps INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    received_from_ms INTEGER NOT NULL,
    received_to_ms INTEGER NOT NULL,
    made_ms INTEGER NOT NULL,
    made_by TEXT NOT NULL,
    removed_through INTEGER NOT NULL
) STRICT;

CREATE TABLE segment_outboxes (
    segment_no INTEGER NOT NULL REFERENCES segments (no),
    outbox_no INTEGER NOT NULL REFERENCES outboxes (no),
    from_seq INTEGER NOT NULL,
    to_seq INTEGER NOT NULL,
    hash_before BLOB NOT NULL,
    hash_after BLOB NOT NULL,
    PRIMARY KEY (outbox_no, to_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE segment_deliveries (
    segment_no INTEGER NOT NULL REFERENCES segments (no),
    destination_no INTEGER NOT NULL REFERENCES destinations (no),
    state TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (segment_no, destination_no, state)
) STRICT, WITHOUT ROWID;

-- Badges that were shown in archived taps: a card is recognised by its number, and can be bound, however long ago it was
-- seen. Random ids in a table that grows with the badges, not with the taps.
CREATE TABLE past_badges (
    token BLOB PRIMARY KEY,
    key_id INTEGER NOT NULL,
    ciphertext BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Taps by their time, for the list of a day: most are stored in that order, so it grows at its end.
CREATE INDEX taps_by_time ON taps (occurred_ms, position);

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

-- Dead letters and replays.

-- Why a delivery waits for a person: an outcome's word where it is dead, 'unknown' where only a person can find out whether
-- it was processed. Null: it does not.
ALTER TABLE deliveries ADD COLUMN dead_reason TEXT;

UPDATE deliveries SET dead_reason = coalesce((SELECT a.outcome FROM attempts a
    WHERE a.destination_no = deliveries.destination_no AND a.position = deliveries.position
    ORDER BY a.number DESC LIMIT 1), 'refused') WHERE state = 'dead';
UPDATE deliveries SET dead_reason = 'unknown' WHERE state = 'unknown' AND held_for = 'person';

-- In the order in which they were stored, and by reason.
CREATE INDEX deliveries_letters ON deliveries (destination_no, position) WHERE dead_reason IS NOT NULL;

CREATE INDEX deliveries_by_reason ON deliveries (destination_no, dead_reason, position) WHERE dead_reason IS NOT NULL;

-- Maintained with every change, as `delivery_counts` is.
CREATE TABLE dead_counts (
    destination_no INTEGER NOT NULL REFERENCES destinations (no),
    reason TEXT NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 0),
    PRIMARY KEY (destination_no, reason)
) STRICT, WITHOUT ROWID;

INSERT INTO dead_counts SELECT destination_no, dead_reason, count(*) FROM deliveries
    WHERE dead_reason IS NOT NULL GROUP BY destination_no, dead_reason;

-- What a person decided about many deliveries at once.
CREATE TABLE replays (
    no INTEGER PRIMARY KEY,
    destination_no INTEGER NOT NULL REFERENCES destinations (no),
    -- 'replay', 'discard' or 'said_delivered'.
    what TEXT NOT NULL,
    -- Which deliveries, as JSON.
    filter TEXT NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    made_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    -- 'running', 'paused', 'cancelled' or 'done'.
    state TEXT NOT NULL,
    -- Positions that are still to be gone through for members, from `gather_next` to `gather_through`: until then none is
    -- touched.
    gather_next INTEGER NOT NULL,
    gather_through INTEGER NOT NULL,
    -- Up to which row it was looked last what can go next.
    looked_through INTEGER NOT NULL,
    members INTEGER NOT NULL,
    -- How many of them came to what: these always sum up to `members`.
    waiting INTEGER NOT NULL CHECK (waiting >= 0),
    sending INTEGER NOT NULL CHECK (sending >= 0),
    delivered INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    discarded INTEGER NOT NULL,
    skipped INTEGER NOT NULL
) STRICT;

-- Those that a dispatcher has something to do for.
CREATE INDEX replays_active ON replays (destination_no, no) WHERE state = 'running' OR sending > 0;

CREATE TABLE replay_rows (
    replay_no INTEGER NOT NULL REFERENCES replays (no),
    -- 1, 2, 3 … in the order of positions.
    n INTEGER NOT NULL,
    position INTEGER NOT NULL,
    -- In whose line it stood when it became a member: none of a line overtakes another.
    order_key BLOB NOT NULL,
    -- 'waiting', 'sending', 'delivered', 'dead', 'discarded' or 'skipped'.
    outcome TEXT NOT NULL,
    detail TEXT,
    ended_ms INTEGER,
    -- How it was when its turn came.
    state_before TEXT,
    key_before BLOB,
    body_before TEXT,
    direction_before TEXT,
    PRIMARY KEY (replay_no, n)
) STRICT, WITHOUT ROWID;

CREATE INDEX replay_rows_waiting ON replay_rows (replay_no, n) WHERE outcome = 'waiting';

CREATE INDEX replay_rows_lane ON replay_rows (replay_no, order_key, n) WHERE outcome = 'waiting';

CREATE INDEX replay_rows_sending ON replay_rows (replay_no, n) WHERE outcome = 'sending';
