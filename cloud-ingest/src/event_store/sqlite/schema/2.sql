-- The event store, schema version 2.

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
