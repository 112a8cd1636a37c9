-- Outbox, version 3. One file, one outbox. Small pages: a tap's commit writes one page to the log, and an SD card
-- lives longer. The id is minted with the file; `seq` is the rowid, so there is no second index to write.
--
-- Every row carries a check over itself (`own_check`): a row that was carved out of a damaged file proves itself, and a
-- flipped bit in the small tables, which no chain covers, is noticed. Rows of version 1 have none.

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
    continues         BLOB CHECK (length(continues) = 16),  -- the rewound outbox that this one says again, if any
    written_through   INTEGER NOT NULL DEFAULT 0,  -- a last seq of some time ago: fewer records are a loss
    salvage           INTEGER NOT NULL DEFAULT 0,  -- see `Stage`
    mended_through    INTEGER NOT NULL DEFAULT 0,  -- how far the holes of a salvaged outbox are filled
    mended_hash       BLOB,                        -- the chain's hash there
    days              BLOB,                        -- how far receipts went, day by day: see `history.rs`
    own_check         INTEGER,
    continues_after   INTEGER                      -- after which of its records: what is up to there is still sent from there
) STRICT;

CREATE TABLE boot (
    boot      INTEGER PRIMARY KEY,               -- Stamp::boot
    boot_id   BLOB NOT NULL UNIQUE CHECK (length(boot_id) = 16),
    own_check INTEGER
) STRICT;

CREATE TABLE record (
    seq       INTEGER PRIMARY KEY,
    hash      BLOB NOT NULL,                     -- h(seq)
    bytes     BLOB NOT NULL,
    own_check INTEGER
) STRICT;
