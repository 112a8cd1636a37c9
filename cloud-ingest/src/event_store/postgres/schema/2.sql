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
