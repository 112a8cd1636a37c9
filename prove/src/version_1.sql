-- Outbox, version 1. One file, one outbox. Small pages: a tap's commit writes one page to the log, and an SD card
-- lives longer. The id is minted with the file; `seq` is the rowid, so there is no second index to write.

CREATE TABLE outbox (
    only_row          INTEGER PRIMARY KEY CHECK (only_row = 1),
    outbox_id         BLOB    NOT NULL CHECK (length(outbox_id) = 16),
    controller        TEXT    NOT NULL,
    machine           BLOB    NOT NULL,          -- what pins it to this machine: a clone is told from the original
    ordinal           INTEGER NOT NULL,          -- 1, 2, 3 … per controller: which outbox is the newest
    pruned_through    INTEGER NOT NULL DEFAULT 0,
    pruned_hash       BLOB    NOT NULL CHECK (length(pruned_hash) = 32),   -- h(pruned_through)
    receipted_through INTEGER NOT NULL DEFAULT 0,
    store_epoch       INTEGER,                   -- of the receipt that gave the mark
    stopped_cleanly   INTEGER NOT NULL DEFAULT 0,
    continues         BLOB CHECK (length(continues) = 16)  -- the rewound outbox that this one says again, if any
) STRICT;

CREATE TABLE boot (
    boot    INTEGER PRIMARY KEY,                 -- Stamp::boot
    boot_id BLOB NOT NULL UNIQUE CHECK (length(boot_id) = 16)
) STRICT;

CREATE TABLE record (
    seq   INTEGER PRIMARY KEY,
    hash  BLOB NOT NULL,                         -- h(seq)
    bytes BLOB NOT NULL
) STRICT;
