-- The event store, schema version 1. Frozen once released: a change is a new migration.
--
-- Random ids are never indexed but in small tables: hot tables are keyed by position, which only grows, or by small
-- numbers of rows elsewhere. Unsigned 64-bit numbers that a controller made up stay inside `events.bytes`.

-- One row: what this store is, and every number that must never be given twice or be counted by a scan.
CREATE TABLE store (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL,
    last_position INTEGER NOT NULL,
    last_lease INTEGER NOT NULL,
    records INTEGER NOT NULL,
    taps INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    quarantined INTEGER NOT NULL,
    badges INTEGER NOT NULL,
    disputed INTEGER NOT NULL CHECK (disputed >= 0),
    unresolved INTEGER NOT NULL CHECK (unresolved >= 0)
) STRICT;

CREATE TABLE sites (
    id TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    zone TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE controllers (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    label TEXT NOT NULL,
    site TEXT NOT NULL REFERENCES sites (id),
    -- The last hello as version byte and postcard.
    hello BLOB,
    hello_received_ms INTEGER,
    gone_ms INTEGER
) STRICT;

-- All that a controller ever had: those of old stay, because a proof needs them.
CREATE TABLE record_keys (
    no INTEGER PRIMARY KEY,
    controller_no INTEGER NOT NULL REFERENCES controllers (no),
    key BLOB NOT NULL,
    -- Until when messages under it are taken.
    good_until_ms INTEGER,
    UNIQUE (controller_no, key)
) STRICT;

CREATE TABLE outboxes (
    no INTEGER PRIMARY KEY,
    controller_no INTEGER NOT NULL REFERENCES controllers (no),
    id BLOB NOT NULL,
    -- What all event ids of this outbox begin with: an event id is found through it and seq.
    prefix BLOB NOT NULL UNIQUE,
    stored_through INTEGER NOT NULL,
    hash BLOB NOT NULL,
    last_seq INTEGER NOT NULL,
    last_stored_ms INTEGER,
    last_occurred_ms INTEGER,
    UNIQUE (controller_no, id)
) STRICT;

-- Append-only: the truth. Everything below can be worked out from it, from `badges` and from what destinations said.
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    outbox_no INTEGER NOT NULL REFERENCES outboxes (no),
    seq INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    bytes BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX events_by_seq ON events (outbox_no, seq);

-- One boot of a controller, over all outboxes that it wrote to, and what is known of it as a whole.
CREATE TABLE boots (
    no INTEGER PRIMARY KEY,
    controller_no INTEGER NOT NULL REFERENCES controllers (no),
    -- The kernel's boot id, once an agent's start has told it.
    id BLOB,
    last_boottime_ms INTEGER NOT NULL,
    began_by_ms INTEGER,
    seen_ms INTEGER,
    UNIQUE (controller_no, id)
) STRICT;

-- What stands behind the boot numbers of an outbox's records, from the last start under that number on.
CREATE TABLE outbox_boots (
    outbox_no INTEGER NOT NULL REFERENCES outboxes (no),
    number INTEGER NOT NULL,
    boot_no INTEGER NOT NULL REFERENCES boots (no),
    PRIMARY KEY (outbox_no, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_boots_by_boot ON outbox_boots (boot_no, outbox_no, number);

CREATE TABLE taps (
    position INTEGER PRIMARY KEY REFERENCES events (position),
    boot_no INTEGER NOT NULL REFERENCES boots (no),
    reader TEXT NOT NULL,
    token BLOB NOT NULL,
    direction TEXT NOT NULL,
    verdict TEXT NOT NULL,
    -- True time, once known; never changed after.
    occurred_ms INTEGER,
    uncertainty_ms INTEGER,
    estimated INTEGER,
    -- Else why not, and what is known instead: 'unknown', 'between', 'disputed'.
    timeless TEXT,
    not_before_ms INTEGER,
    not_after_ms INTEGER
) STRICT;

-- The taps of one badge in the order of their time. Tokens are random but few: an index has as many places that grow as
-- there are badges.
CREATE INDEX taps_by_badge ON taps (token, occurred_ms, position);

CREATE INDEX taps_without_time ON taps (boot_no, position) WHERE occurred_ms IS NULL;

-- What is known of the time within each boot, in the order of its boottime.
CREATE TABLE anchors (
    boot_no INTEGER NOT NULL REFERENCES boots (no),
    latest_ms INTEGER NOT NULL,
    position INTEGER NOT NULL REFERENCES events (position),
    earliest_ms INTEGER NOT NULL,
    utc_ms INTEGER NOT NULL,
    uncertainty_ms INTEGER NOT NULL,
    -- 'kernel' or 'receipt'.
    witness TEXT NOT NULL,
    PRIMARY KEY (boot_no, latest_ms, position)
) STRICT, WITHOUT ROWID;

-- Time that has passed for sure, for leases and limits: one row.
CREATE TABLE ticks (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    ticks INTEGER NOT NULL,
    -- The process that moved it on last.
    ticked_by INTEGER NOT NULL
) STRICT;

INSERT INTO ticks VALUES (1, 0, 0);

CREATE TABLE destinations (
    no INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    -- What it is, as JSON; each change makes another version of it.
    settings TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- Where its credentials are; never they themselves.
    credentials_file TEXT,
    -- If a person stopped it.
    paused_ms INTEGER,
    paused_by TEXT,
    paused_why TEXT,
    -- Nothing is sent before so many ticks, and when that is about, for people.
    held_until INTEGER NOT NULL,
    held_until_ms INTEGER,
    held_why TEXT,
    -- Deliveries of old events are still to be made: of positions from `make_next` to `make_through`, if they happened
    -- at `make_from_ms` or later.
    make_next INTEGER NOT NULL,
    make_through INTEGER NOT NULL,
    make_from_ms INTEGER,
    -- What all replicas share, as JSON: what was called, whether calls flow, which kind of work is next.
    limiter TEXT,
    breaker TEXT,
    shares TEXT
) STRICT;

CREATE TABLE deliveries (
    destination_no INTEGER NOT NULL REFERENCES destinations (no),
    position INTEGER NOT NULL REFERENCES taps (position),
    -- 'p' and the person's id, or 't' and the 16 bytes of the token.
    order_key BLOB NOT NULL,
    state TEXT NOT NULL,
    held_for TEXT,
    -- Not before this; kept while the delivery is held or parked.
    due_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    -- Those of them that make the next wait longer.
    failures INTEGER NOT NULL DEFAULT 0,
    class TEXT NOT NULL DEFAULT 'live',
    lease INTEGER,
    -- In ticks.
    lease_until INTEGER,
    -- If it is dead and those behind it wait: until when.
    blocks_until_ms INTEGER,
    body TEXT,
    -- Which way it was told to go, where that is not as its reader is placed.
    direction TEXT,
    PRIMARY KEY (destination_no, position)
) STRICT, WITHOUT ROWID;

-- What to send next.
CREATE INDEX deliveries_due ON deliveries (destination_no, class, due_ms, position)
    WHERE state IN ('pending', 'unknown') AND held_for IS NULL;

-- Who stands in line: not what was set aside because its time did not become known, and of the dead only who is in the way.
CREATE INDEX deliveries_lane ON deliveries (destination_no, order_key, position)
    WHERE (state IN ('held', 'pending', 'in_flight', 'unknown', 'parked') OR blocks_until_ms IS NOT NULL) AND held_for IS DISTINCT FROM 'time_unresolved';

-- Who is dead and in the way of those behind.
CREATE INDEX deliveries_blocking ON deliveries (destination_no, order_key)
    WHERE blocks_until_ms IS NOT NULL;

CREATE INDEX deliveries_unblocking ON deliveries (destination_no, blocks_until_ms)
    WHERE blocks_until_ms IS NOT NULL;

-- Who waits for the time, the longest first: `due_ms` is when it was received, as long as it was never sent.
CREATE INDEX deliveries_without_time ON deliveries (destination_no, due_ms, position)
    WHERE held_for = 'time';

-- What is not delivered, by state: for lists, leases that run out and the oldest open one.
CREATE INDEX deliveries_undone ON deliveries (destination_no, state, position)
    WHERE state <> 'delivered';

-- Maintained with every change, so that nothing is ever counted by a scan.
CREATE TABLE delivery_counts (
    destination_no INTEGER NOT NULL REFERENCES destinations (no),
    state TEXT NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 0),
    PRIMARY KEY (destination_no, state)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    destination_no INTEGER NOT NULL,
    position INTEGER NOT NULL,
    number INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    finished_ms INTEGER,
    outcome TEXT,
    status INTEGER,
    answer TEXT,
    PRIMARY KEY (destination_no, position, number),
    FOREIGN KEY (destination_no, position) REFERENCES deliveries (destination_no, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    no INTEGER PRIMARY KEY,
    received_ms INTEGER NOT NULL,
    topic TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    bytes BLOB NOT NULL
) STRICT;

-- Trust: who may speak, with which certificate, and who decided it. Small tables: rows per controller and deed.

-- Where a controller is not simply active, or somebody made it so.
CREATE TABLE standings (
    controller_no INTEGER PRIMARY KEY REFERENCES controllers (no),
    standing TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    why TEXT NOT NULL
) STRICT;

-- The times in which a controller was revoked: what was stored in one is flagged.
CREATE TABLE revocations (
    controller_no INTEGER NOT NULL REFERENCES controllers (no),
    from_ms INTEGER NOT NULL,
    until_ms INTEGER,
    PRIMARY KEY (controller_no, from_ms)
) STRICT, WITHOUT ROWID;

-- Of a revoked controller's outboxes, up to where they are still stored.
CREATE TABLE revoked_outboxes (
    outbox_no INTEGER PRIMARY KEY REFERENCES outboxes (no),
    trusted_through INTEGER NOT NULL
) STRICT;

CREATE TABLE certificates (
    no INTEGER PRIMARY KEY,
    serial BLOB NOT NULL UNIQUE,
    controller_no INTEGER NOT NULL REFERENCES controllers (no),
    tls_key BLOB NOT NULL,
    issued_ms INTEGER NOT NULL,
    not_after_ms INTEGER NOT NULL,
    revoked_ms INTEGER
) STRICT;

CREATE INDEX certificates_of ON certificates (controller_no, no);

-- What each controller's last bundle held.
CREATE TABLE fetches (
    controller_no INTEGER PRIMARY KEY REFERENCES controllers (no),
    at_ms INTEGER NOT NULL,
    -- Names of keys and roots, with spaces between.
    holds TEXT NOT NULL,
    agent_version TEXT NOT NULL
) STRICT;

CREATE TABLE enroll_tokens (
    no INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    secret_sha256 BLOB NOT NULL,
    controller TEXT NOT NULL,
    site TEXT NOT NULL REFERENCES sites (id),
    label TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    used_ms INTEGER,
    used_tls_key BLOB,
    used_record_key BLOB,
    withdrawn_ms INTEGER
) STRICT;

-- Who did what, when and why. Append-only.
CREATE TABLE fleet_log (
    no INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    about TEXT NOT NULL,
    why TEXT NOT NULL
) STRICT;

-- Proof.

-- The record keys that signed what is stored: few, and none is ever forgotten.
CREATE TABLE signers (
    no INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE
) STRICT;

-- The signature over each batch of which something was stored. With the records `first_seq` to `last_seq` and the hash
-- before them it gives the signed message again.
CREATE TABLE batches (
    outbox_no INTEGER NOT NULL REFERENCES outboxes (no),
    last_seq INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    signer_no INTEGER NOT NULL REFERENCES signers (no),
    signature BLOB NOT NULL,
    -- The message as received, where writing it again gives other bytes.
    message BLOB,
    PRIMARY KEY (outbox_no, last_seq)
) STRICT, WITHOUT ROWID;
-- Badges and the roster.

-- One badge; `bindings` says whose it was and is.
CREATE TABLE badges (
    no INTEGER PRIMARY KEY,
    revoked_ms INTEGER,
    revoked_why TEXT,
    -- The first roster that says so.
    revoked_in INTEGER
) STRICT;

CREATE INDEX badges_revoked ON badges (no) WHERE revoked_ms IS NOT NULL;

-- A badge under each token key under which it was imported or sealed again: it stays one person's while the key changes.
CREATE TABLE seals (
    token BLOB PRIMARY KEY,
    badge_no INTEGER NOT NULL REFERENCES badges (no),
    key_id INTEGER NOT NULL,
    ciphertext BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX seals_by_badge ON seals (badge_no);

-- One row: the newest roster, and how often badges had been changed when it was made and have been now.
CREATE TABLE roster (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER,
    changes INTEGER NOT NULL,
    made_of INTEGER NOT NULL,
    -- The token keys that it lists, two bytes each.
    made_for BLOB
) STRICT;

INSERT INTO roster VALUES (1, NULL, 0, 0, NULL);
-- Commands to controllers, and what contradicts itself. A bounded number of each per controller.

CREATE TABLE commands (
    controller_no INTEGER NOT NULL REFERENCES controllers (no),
    number INTEGER NOT NULL,
    -- The order as version byte and postcard.
    what BLOB NOT NULL,
    why TEXT NOT NULL,
    issued_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    outcome TEXT,
    detail TEXT,
    PRIMARY KEY (controller_no, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE troubles (
    controller_no INTEGER NOT NULL REFERENCES controllers (no),
    kind TEXT NOT NULL,
    -- Empty if it is about no outbox.
    outbox BLOB NOT NULL,
    at_seq INTEGER,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (controller_no, kind, outbox)
) STRICT, WITHOUT ROWID;
-- Capture: who brings taps over HTTP, and which were brought.

-- Controllers that the cloud itself signs for.
CREATE TABLE sources (
    controller_no INTEGER PRIMARY KEY REFERENCES controllers (no)
) STRICT;

CREATE TABLE api_keys (
    no INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    secret_sha256 BLOB NOT NULL,
    controller_no INTEGER NOT NULL REFERENCES sources (controller_no),
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    -- To the hour.
    last_used_ms INTEGER,
    revoked_ms INTEGER
) STRICT;

-- Idempotency keys of the last weeks, by their hashes. Random ids in a table that grows, and bounded: those whose time is
-- over go.
CREATE TABLE captured (
    controller_no INTEGER NOT NULL REFERENCES sources (controller_no),
    key_sha256 BLOB NOT NULL,
    -- Where the tap stands.
    outbox BLOB NOT NULL,
    seq INTEGER NOT NULL,
    -- What it meant, and under which token key that was hashed.
    token_key INTEGER NOT NULL,
    print BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (controller_no, key_sha256)
) STRICT, WITHOUT ROWID;

CREATE INDEX captured_by_age ON captured (at_ms);

-- People: who held a badge when, which way taps go, and what came out otherwise.

-- The history of each badge: spans that do not overlap. The lowest and the highest number there are mean ever and for ever.
CREATE TABLE bindings (
    badge_no INTEGER NOT NULL REFERENCES badges (no),
    from_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL CHECK (until_ms > from_ms),
    person TEXT NOT NULL,
    PRIMARY KEY (badge_no, from_ms)
) STRICT, WITHOUT ROWID;

CREATE INDEX bindings_by_person ON bindings (person, badge_no);

-- Which way taps go at a site, from a moment on. Append-only: a direction is worked out by the rule of the tap's time.
CREATE TABLE site_rules (
    site TEXT NOT NULL REFERENCES sites (id),
    version INTEGER NOT NULL,
    from_ms INTEGER NOT NULL,
    policy TEXT NOT NULL,
    reset_after_h INTEGER NOT NULL,
    double_within_s INTEGER NOT NULL,
    PRIMARY KEY (site, version)
) STRICT, WITHOUT ROWID;

-- In which ways numbers are printed on the cards of a site.
CREATE TABLE card_profiles (
    site TEXT NOT NULL REFERENCES sites (id),
    profile TEXT NOT NULL,
    PRIMARY KEY (site, profile)
) STRICT, WITHOUT ROWID;

-- What a destination was told of a tap and came out otherwise, until it does not any more.
CREATE TABLE differences (
    position INTEGER NOT NULL REFERENCES taps (position),
    destination_no INTEGER NOT NULL REFERENCES destinations (no),
    what TEXT NOT NULL,
    told TEXT NOT NULL,
    -- Null: nobody.
    is_so TEXT,
    noted_ms INTEGER NOT NULL,
    PRIMARY KEY (position, destination_no, what)
) STRICT, WITHOUT ROWID;

-- Which of several processes takes in from a broker.

CREATE TABLE intake_claims (
    broker TEXT PRIMARY KEY,
    -- Counts who took in, one after the other.
    fence INTEGER NOT NULL,
    -- For people; nobody after an orderly end.
    holder TEXT,
    -- Changes as long as the holder lives.
    beat INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
