//! Step 9 of 12: every statement of the event store, in words that both databases understand. Knows no types of ours: the
//! modules beside it bind and read.
//!
//! PostgreSQL gets `$1` for `?1` and no `INDEXED BY`; all else is the same. A partial index can be used only where a statement repeats the index's condition word for word, hence the macros;
//! and without statistics SQLite would rather walk a primary key, hence `INDEXED BY`. The test at the bottom asks
//! SQLite itself whether any statement scans or sorts a table that grows.

use super::session::{Bulk, Changes};

/// The condition of `deliveries_due`.
macro_rules! due {
    () => {
        "state IN ('pending', 'unknown') AND held_for IS NULL"
    };
}

/// The condition of `deliveries_lane`.
macro_rules! open {
    () => {
        "(state IN ('held', 'pending', 'in_flight', 'unknown', 'parked') OR blocks_until_ms IS NOT NULL) AND held_for IS DISTINCT FROM 'time_unresolved'"
    };
}

/// The condition of `deliveries_without_time`.
macro_rules! without_time {
    () => {
        "held_for = 'time'"
    };
}

/// The condition of `deliveries_undone`.
macro_rules! undone {
    () => {
        "state <> 'delivered'"
    };
}

/// The condition of `deliveries_untold`.
macro_rules! untold {
    () => {
        "controller_no IS NOT NULL AND state NOT IN ('delivered', 'discarded')"
    };
}

/// The condition of `deliveries_incomplete` and `deliveries_incomplete_since`.
macro_rules! incomplete {
    () => {
        "held_for = 'completeness'"
    };
}

/// All that a list of events needs of one event, for `event_row`.
macro_rules! event_columns {
    () => {
        "e.position, e.seq, e.received_ms, CASE WHEN e.kind = 'opaque' \
         THEN coalesce((SELECT q.kind FROM opaque q WHERE q.position = e.position), e.kind) ELSE e.kind END, e.bytes, e.hash, o.id, c.id, t.occurred_ms, t.uncertainty_ms, \
         t.estimated, t.timeless, t.not_before_ms, t.not_after_ms, EXISTS (SELECT 1 FROM revocations r \
         WHERE r.controller_no = o.controller_no AND r.from_ms <= e.received_ms \
         AND (r.until_ms IS NULL OR r.until_ms > e.received_ms)) \
         FROM events e \
         JOIN outboxes o ON o.no = e.outbox_no \
         JOIN controllers c ON c.no = o.controller_no \
         LEFT JOIN taps t ON t.position = e.position "
    };
}

/// All of an API key.
macro_rules! api_key_columns {
    () => {
        "k.id, k.secret_sha256, c.id, k.created_ms, k.expires_ms, k.last_used_ms, k.revoked_ms \
         FROM api_keys k JOIN controllers c ON c.no = k.controller_no "
    };
}

// The store itself.

pub const CREATE_STORE: &str = "INSERT INTO store VALUES (1, ?1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)";
pub const EPOCH: &str = "SELECT epoch FROM store";
pub const COUNTERS: &str = "SELECT last_position, last_lease, records, taps, deliveries, attempts, quarantined, badges, disputed, unresolved, oldest_program FROM store";
/// Holds the one row until the transaction ends: that is how writers take turns. What time it is, the server says when it is
/// this one's turn, and not when it began to wait: hence a query around the one that waits.
pub const COUNTERS_TO_WRITE: &str = "SELECT held.*, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) FROM \
     (SELECT last_position, last_lease, records, taps, deliveries, attempts, quarantined, badges, disputed, unresolved, oldest_program FROM store FOR UPDATE) AS held";
/// PostgreSQL's alone: what time it is.
pub const CLOCK: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
pub const PUT_COUNTERS: &str = "UPDATE store SET last_position = ?1, last_lease = ?2, records = ?3, taps = ?4, \
     deliveries = ?5, attempts = ?6, quarantined = ?7, badges = ?8, disputed = ?9, unresolved = ?10";

// Fleet.

pub const PUT_SITE: &str = "INSERT INTO sites VALUES (?1, ?2, ?3) \
     ON CONFLICT (id) DO UPDATE SET label = excluded.label, zone = excluded.zone";
pub const SITES: &str = "SELECT id, label, zone FROM sites ORDER BY id";
pub const SITE_EXISTS: &str = "SELECT 1 FROM sites WHERE id = ?1";
pub const PUT_CONTROLLER: &str = "INSERT INTO controllers (id, label, site) VALUES (?1, ?2, ?3) \
     ON CONFLICT (id) DO UPDATE SET label = excluded.label, site = excluded.site";
pub const END_RECORD_KEYS: &str =
    "UPDATE record_keys SET good_until_ms = 0 WHERE controller_no = ?1 AND good_until_ms IS DISTINCT FROM 0";
pub const PUT_RECORD_KEY: &str = "INSERT INTO record_keys (controller_no, key, good_until_ms) VALUES (?1, ?2, ?3) \
     ON CONFLICT (controller_no, key) DO UPDATE SET good_until_ms = excluded.good_until_ms";
pub const RECORD_KEYS: &str =
    "SELECT key, good_until_ms FROM record_keys WHERE controller_no = ?1 ORDER BY no DESC";
pub const CONTROLLER: &str = "SELECT no, label, site FROM controllers WHERE id = ?1";
pub const CONTROLLER_NO: &str = "SELECT no FROM controllers WHERE id = ?1";
pub const CONTROLLERS: &str = "SELECT no, id, label, site, hello, hello_received_ms, gone_ms FROM controllers \
     WHERE no NOT IN (SELECT controller_no FROM sources) ORDER BY id";

// Intake.

pub const PUT_HELLO: &str =
    "UPDATE controllers SET hello = ?2, hello_received_ms = ?3, gone_ms = NULL WHERE no = ?1";
pub const PUT_GONE: &str = "UPDATE controllers SET gone_ms = ?2 WHERE id = ?1";
pub const OUTBOX: &str =
    "SELECT no, stored_through, hash, last_seq FROM outboxes WHERE controller_no = ?1 AND id = ?2";
pub const NEW_OUTBOX: &str = "INSERT INTO outboxes (controller_no, id, prefix, stored_through, hash, last_seq) \
     VALUES (?1, ?2, ?3, 0, ?4, 0) RETURNING no";
pub const OUTBOX_STORED: &str = "UPDATE outboxes SET stored_through = ?2, hash = ?3, last_seq = CASE WHEN last_seq < ?2 THEN ?2 ELSE last_seq END, \
     last_stored_ms = ?4, last_occurred_ms = ?5 WHERE no = ?1";
pub const OUTBOX_SPOKEN_OF: &str = "UPDATE outboxes SET last_seq = ?2 WHERE no = ?1 AND last_seq < ?2";
pub const OUTBOXES: &str = "SELECT id, last_seq, stored_through, last_stored_ms, last_occurred_ms FROM outboxes \
     WHERE controller_no = ?1 ORDER BY no";
pub const OUTBOX_NOS: &str =
    "SELECT o.no FROM outboxes o JOIN controllers c ON c.no = o.controller_no WHERE c.id = ?1";
pub const MARKS: &str = "SELECT c.id, o.id, o.stored_through, o.hash FROM outboxes o \
     JOIN controllers c ON c.no = o.controller_no \
     WHERE c.no NOT IN (SELECT controller_no FROM sources) ORDER BY o.no";
pub const HASH_AT: &str = "SELECT hash FROM events WHERE outbox_no = ?1 AND seq = ?2";
pub const EVENTS: Bulk = Bulk {
    into: "INSERT INTO events (position, outbox_no, seq, received_ms, kind, bytes, hash)",
    types: &["bigint", "bigint", "bigint", "bigint", "text", "bytea", "bytea"],
};
pub const TAPS: Bulk = Bulk {
    into: "INSERT INTO taps (position, boot_no, reader, token, direction, verdict, occurred_ms, uncertainty_ms, estimated, \
           timeless, not_before_ms, not_after_ms)",
    types: &[
        "bigint", "bigint", "text", "bytea", "text", "text", "bigint", "bigint", "boolean", "text", "bigint",
        "bigint",
    ],
};
pub const BOOT_OF: &str = "SELECT boot_no FROM outbox_boots WHERE outbox_no = ?1 AND number = ?2";
pub const BOOT_NAMED: &str = "SELECT no FROM boots WHERE controller_no = ?1 AND id = ?2";
pub const BOOT_IS_NAMED: &str = "SELECT id IS NOT NULL FROM boots WHERE no = ?1";
pub const NEW_BOOT: &str =
    "INSERT INTO boots (controller_no, id, last_boottime_ms) VALUES (?1, ?2, 0) RETURNING no";
pub const NAME_BOOT: &str = "UPDATE boots SET id = ?2 WHERE no = ?1";
pub const PUT_BOOT_OF: &str = "INSERT INTO outbox_boots VALUES (?1, ?2, ?3) \
     ON CONFLICT (outbox_no, number) DO UPDATE SET boot_no = excluded.boot_no";
pub const BOOT_TIME: &str = "SELECT last_boottime_ms, began_by_ms, seen_ms FROM boots WHERE no = ?1";
pub const PUT_BOOT_TIME: &str =
    "UPDATE boots SET last_boottime_ms = ?2, began_by_ms = ?3, seen_ms = ?4 WHERE no = ?1";
pub const BOOTS_BEFORE: &str = "SELECT (SELECT p.boot_no FROM outbox_boots p WHERE p.outbox_no = b.outbox_no \
     AND p.number < b.number ORDER BY p.number DESC LIMIT 1) FROM outbox_boots b WHERE b.boot_no = ?1";
pub const BOOTS_AFTER: &str = "SELECT (SELECT n.boot_no FROM outbox_boots n WHERE n.outbox_no = b.outbox_no \
     AND n.number > b.number ORDER BY n.number LIMIT 1) FROM outbox_boots b WHERE b.boot_no = ?1";
pub const NEW_ANCHOR: &str = "INSERT INTO anchors VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
pub const SOME_ANCHORS: &str = "SELECT latest_ms, position, earliest_ms, utc_ms, uncertainty_ms, witness FROM anchors \
     WHERE boot_no = ?1 ORDER BY latest_ms, position LIMIT ?2";
pub const ANCHORS_BEFORE: &str = "SELECT latest_ms, position, earliest_ms, utc_ms, uncertainty_ms, witness FROM anchors \
     WHERE boot_no = ?1 AND latest_ms <= ?2 ORDER BY latest_ms DESC, position DESC LIMIT ?3";
pub const ANCHORS_AFTER: &str = "SELECT latest_ms, position, earliest_ms, utc_ms, uncertainty_ms, witness FROM anchors \
     WHERE boot_no = ?1 AND latest_ms > ?2 ORDER BY latest_ms, position LIMIT ?3";
/// What is archived stays as it was then, though its rows may still be there.
pub const TAPS_WITHOUT_TIME: &str = "SELECT t.position, e.bytes, t.timeless, t.not_before_ms, t.not_after_ms FROM taps t \
     JOIN events e ON e.position = t.position \
     WHERE t.boot_no = ?1 AND t.position > ?2 AND t.occurred_ms IS NULL \
     AND t.position > (SELECT through FROM archiving WHERE one = 1) ORDER BY t.position LIMIT ?3";
pub const TAP_TIME: &str = "UPDATE taps SET occurred_ms = ?2, uncertainty_ms = ?3, estimated = ?4, timeless = ?5, \
     not_before_ms = ?6, not_after_ms = ?7 WHERE position = ?1";
pub const NEW_DEAD_LETTER: &str = "INSERT INTO dead_letters (received_ms, topic, kind, reason, bytes) VALUES (?1, ?2, ?3, ?4, ?5) RETURNING no";
pub const FORGET_DEAD_LETTERS: &str = "DELETE FROM dead_letters WHERE no <= ?1";
pub const DEAD_LETTERS: &str =
    "SELECT received_ms, topic, kind, reason, bytes FROM dead_letters ORDER BY no DESC LIMIT ?1";

// Capture.

pub const IS_SOURCE: &str =
    "SELECT 1 FROM sources s JOIN controllers c ON c.no = s.controller_no WHERE c.id = ?1";
pub const PUT_SOURCE: &str = "INSERT INTO sources VALUES (?1) ON CONFLICT (controller_no) DO NOTHING";
pub const SOURCES: &str =
    "SELECT c.id, c.label, c.site FROM sources s JOIN controllers c ON c.no = s.controller_no ORDER BY c.id";
pub const RECORD_KEY_IS_GOOD: &str =
    "SELECT 1 FROM record_keys WHERE controller_no = ?1 AND key = ?2 AND good_until_ms IS NULL";
pub const NEW_API_KEY: &str = "INSERT INTO api_keys (id, secret_sha256, controller_no, created_ms, expires_ms) \
     VALUES (?1, ?2, ?3, ?4, ?5)";
pub const API_KEYS: &str = concat!("SELECT ", api_key_columns!(), "ORDER BY k.no DESC");
pub const API_KEY: &str = concat!("SELECT ", api_key_columns!(), "WHERE k.id = ?1");
pub const USE_API_KEY: &str = "UPDATE api_keys SET last_used_ms = ?2 WHERE id = ?1";
pub const REVOKE_API_KEY: &str = "UPDATE api_keys SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL";
pub const CAPTURED: &str =
    "SELECT outbox, seq, token_key, print FROM captured WHERE controller_no = ?1 AND key_sha256 = ?2";
pub const NEW_CAPTURED: &str = "INSERT INTO captured VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
pub const FORGET_CAPTURED: &str = "DELETE FROM captured WHERE (controller_no, key_sha256) IN \
     (SELECT controller_no, key_sha256 FROM captured WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)";

// Delivery.

pub const NEW_COUNT: &str = "INSERT INTO delivery_counts VALUES (?1, ?2, 0)";
pub const ADD_TO_COUNT: Changes = Changes {
    update: "UPDATE delivery_counts SET count = count + ?3 WHERE destination_no = ?1 AND state = ?2",
    types: &["bigint", "text", "bigint"],
};
pub const COUNT: &str = "SELECT count FROM delivery_counts WHERE destination_no = ?1 AND state = ?2";
pub const DELIVERIES: Bulk = Bulk {
    into: "INSERT INTO deliveries (destination_no, position, order_key, state, held_for, due_ms, attempts, rank, \
           controller_no, happened_ms)",
    types: &["bigint", "bigint", "bytea", "text", "text", "bigint", "bigint", "bigint", "bigint", "bigint"],
};
/// Whether anybody stands in a lane: its key, or no row.
pub const OCCUPIED_LANE: &str = concat!(
    "SELECT order_key FROM deliveries INDEXED BY deliveries_lane WHERE destination_no = ?1 AND order_key = ?2 AND ",
    open!(),
    " LIMIT 1"
);
pub const LANE_FIRST: &str = concat!(
    "SELECT position, state, held_for, rank, is_early, order_key FROM deliveries INDEXED BY deliveries_lane WHERE destination_no = ?1 AND order_key = ?2 AND ",
    open!(),
    " ORDER BY rank, position LIMIT 1"
);
pub const LANE: &str = concat!(
    "SELECT position, state, held_for, rank, is_early FROM deliveries INDEXED BY deliveries_lane WHERE destination_no = ?1 AND order_key = ?2 AND ",
    open!(),
    " ORDER BY rank, position"
);
pub const LANE_BEFORE: &str = concat!(
    "SELECT position FROM deliveries INDEXED BY deliveries_lane WHERE destination_no = ?1 AND order_key = ?2 AND (rank, position) < (?3, ?4) AND ",
    open!(),
    " ORDER BY rank DESC, position DESC LIMIT 1"
);
pub const LANE_SENT: &str = concat!(
    "SELECT position FROM deliveries INDEXED BY deliveries_lane WHERE destination_no = ?1 AND order_key = ?2 AND ",
    open!(),
    " AND state IN ('in_flight', 'unknown') LIMIT 1"
);
pub const WITHOUT_TIME: &str = concat!(
    "SELECT position, order_key FROM deliveries INDEXED BY deliveries_without_time WHERE destination_no = ?1 AND ",
    without_time!(),
    " AND due_ms <= ?2 ORDER BY due_ms, position LIMIT ?3"
);
pub const GIVE_UP: &str = "UPDATE deliveries SET state = 'parked', held_for = 'time_unresolved' \
     WHERE destination_no = ?1 AND position = ?2";
pub const STATE: Changes = Changes {
    update: "UPDATE deliveries SET state = ?3 WHERE destination_no = ?1 AND position = ?2",
    types: &["bigint", "bigint", "text"],
};
pub const HOLD: &str = "UPDATE deliveries SET held_for = ?3 WHERE destination_no = ?1 AND position = ?2";
pub const REKEY: &str = "UPDATE deliveries SET order_key = ?3 WHERE destination_no = ?1 AND position = ?2";
pub const HELD: &str =
    "SELECT order_key, held_for FROM deliveries WHERE destination_no = ?1 AND position = ?2";
/// The first that is not told again at a person's wish: that says nothing of how late taps are.
pub const FIRST_IN_STATE: &str = concat!(
    "SELECT position FROM deliveries INDEXED BY deliveries_undone WHERE destination_no = ?1 AND state = ?2 AND ",
    undone!(),
    " AND held_for IS DISTINCT FROM 'time_unresolved' AND class NOT IN ('replay', 'corrections') ORDER BY position LIMIT 1"
);
pub const RECEIVED: &str = "SELECT received_ms FROM events WHERE position = ?1";

// Deliveries: a dispatcher's turn.

pub const TICKS: &str = "SELECT ticks, ticked_by FROM ticks";
pub const PUT_TICKS: &str = "UPDATE ticks SET ticks = ?1, ticked_by = ?2";
pub const ADD_DESTINATION: &str = "INSERT INTO destinations \
     (name, settings, version, credentials_file, held_until, make_next, make_through, make_from_ms, added_after) \
     VALUES (?1, ?2, 1, ?3, 0, 1, ?4, ?5, ?6) ON CONFLICT (name) DO NOTHING RETURNING no";
pub const CHANGE_SETTINGS: &str =
    "UPDATE destinations SET settings = ?2, version = version + 1 WHERE name = ?1";
pub const CHANGE_CREDENTIALS: &str = "UPDATE destinations SET credentials_file = ?2, version = version + 1, \
     breaker = NULL, held_until = 0, held_until_ms = NULL, held_why = NULL WHERE name = ?1";
pub const PAUSE: &str =
    "UPDATE destinations SET paused_ms = ?2, paused_by = ?3, paused_why = ?4 WHERE name = ?1";
pub const RESUME: &str = "UPDATE destinations SET paused_ms = NULL, paused_by = NULL, paused_why = NULL, \
     breaker = NULL, held_until = 0, held_until_ms = NULL, held_why = NULL WHERE name = ?1";
/// A backup does not know what was called since it was made: nobody is called for so long as a call counts.
pub const HOLD_ALL: &str = "UPDATE destinations SET held_until = (SELECT ticks FROM ticks) + ?1, held_until_ms = ?2, \
     held_why = ?3";
pub const DESTINATIONS: &str = "SELECT no, name, follows FROM destinations ORDER BY no";
pub const DESTINATION_STATES: &str = "SELECT no, name, settings, version, credentials_file, paused_ms, paused_by, \
     paused_why, held_until_ms, held_why, breaker, make_next, make_through, follows, \
     follow_next, follow_through FROM destinations ORDER BY no";
pub const DESTINATION: &str = "SELECT no, version, paused_ms IS NOT NULL, held_until, held_until_ms, held_why, make_next, \
     make_through, make_from_ms, limiter, breaker, shares, follows, follow_next, follow_through, \
     EXISTS (SELECT 1 FROM replays r WHERE r.destination_no = destinations.no AND (r.state = 'running' OR r.sending > 0)) \
     FROM destinations WHERE name = ?1";
pub const PUT_DESTINATION: &str = "UPDATE destinations SET held_until = ?2, held_until_ms = ?3, held_why = ?4, \
     make_next = ?5, limiter = ?6, breaker = ?7, shares = ?8, follows = ?9, follow_next = ?10, follow_through = ?11 \
     WHERE no = ?1";
/// The first that are due of one class.
macro_rules! claimable {
    ($class:literal) => {
        concat!(
            "SELECT * FROM (SELECT d.class, d.position, d.order_key, d.state, d.due_ms, d.attempts, d.failures, d.body, ",
            "e.seq, e.bytes, t.occurred_ms, t.uncertainty_ms, o.id, c.id AS controller, s.id AS site, s.label, s.zone, d.is_early ",
            "FROM deliveries d INDEXED BY deliveries_due ",
            "JOIN events e ON e.position = d.position ",
            "JOIN taps t ON t.position = d.position ",
            "JOIN outboxes o ON o.no = e.outbox_no ",
            "JOIN controllers c ON c.no = o.controller_no ",
            "JOIN sites s ON s.id = c.site ",
            "WHERE d.destination_no = ?1 AND d.class = '",
            $class,
            "' AND d.",
            due!(),
            " AND d.due_ms <= ?2 ORDER BY d.due_ms, d.position LIMIT ?3) AS found"
        )
    };
}

macro_rules! first_due {
    ($class:literal) => {
        concat!(
            "SELECT * FROM (SELECT due_ms FROM deliveries INDEXED BY deliveries_due WHERE destination_no = ?1 AND class = '",
            $class,
            "' AND ",
            due!(),
            " ORDER BY due_ms, position LIMIT 1) AS found"
        )
    };
}

/// Of each class the first that are due. One question, because a server's answer is mostly its way.
pub const CLAIMABLE: &str = concat!(
    claimable!("live"),
    " UNION ALL ",
    claimable!("corrections"),
    " UNION ALL ",
    claimable!("backfill"),
    " UNION ALL ",
    claimable!("replay")
);
pub const MEND_DUES: &str = concat!(
    "UPDATE deliveries SET due_ms = ?3 WHERE destination_no = ?1 AND class = ?2 AND ",
    due!(),
    " AND due_ms > ?4"
);
pub const FIRST_DUE: &str = concat!(
    first_due!("live"),
    " UNION ALL ",
    first_due!("corrections"),
    " UNION ALL ",
    first_due!("backfill"),
    " UNION ALL ",
    first_due!("replay")
);
pub const CLAIM: Changes = Changes {
    update: "UPDATE deliveries SET state = 'in_flight', lease = ?3, lease_until = ?4, attempts = ?5, body = ?6 \
     WHERE destination_no = ?1 AND position = ?2",
    types: &["bigint", "bigint", "bigint", "bigint", "bigint", "text"],
};
pub const NEW_ATTEMPTS: Bulk = Bulk {
    into: "INSERT INTO attempts (destination_no, position, number, lease, started_ms, finished_ms, outcome, answer)",
    types: &["bigint", "bigint", "bigint", "bigint", "bigint", "bigint", "text", "text"],
};
pub const TAKE_OUT: &str = "UPDATE deliveries SET state = ?3, attempts = ?4, body = coalesce(?5, body), \
     blocks_until_ms = CASE WHEN class IN ('replay', 'corrections') THEN NULL ELSE CAST(?6 AS BIGINT) END, dead_reason = ?7 \
     WHERE destination_no = ?1 AND position = ?2";
/// The lease is in it: whoever comes late touches no row.
pub const UNLEASE: Changes = Changes {
    update: "UPDATE deliveries SET state = ?4, due_ms = coalesce(?5, due_ms), held_for = ?6, \
     failures = failures + ?7, dead_reason = ?9, \
     blocks_until_ms = CASE WHEN class IN ('replay', 'corrections') THEN NULL ELSE CAST(?8 AS BIGINT) END, \
     lease = NULL, lease_until = NULL \
     WHERE destination_no = ?1 AND position = ?2 AND lease = ?3 AND state = 'in_flight' RETURNING position, order_key",
    types: &["bigint", "bigint", "bigint", "text", "bigint", "text", "bigint", "bigint", "text"],
};
pub const EXTEND: &str = "UPDATE deliveries SET lease_until = ?4 \
     WHERE destination_no = ?1 AND position = ?2 AND lease = ?3 AND state = 'in_flight'";
pub const EXPIRED: &str = concat!(
    "SELECT position, lease FROM deliveries INDEXED BY deliveries_undone WHERE destination_no = ?1 AND state = 'in_flight' AND ",
    undone!(),
    " AND lease_until <= ?2 ORDER BY position"
);
pub const END_ATTEMPT: Changes = Changes {
    update: "UPDATE attempts SET finished_ms = ?5, outcome = ?6, status = ?7, answer = ?8 \
     WHERE destination_no = ?1 AND position = ?2 AND number = ?3 AND lease = ?4 AND finished_ms IS NULL",
    types: &["bigint", "bigint", "bigint", "bigint", "bigint", "text", "bigint", "text"],
};
/// The lane's key, if somebody dead is in the way.
pub const LANE_BLOCKED: &str = "SELECT order_key FROM deliveries INDEXED BY deliveries_blocking \
     WHERE destination_no = ?1 AND order_key = ?2 AND blocks_until_ms IS NOT NULL LIMIT 1";
pub const UNBLOCKED: &str = "SELECT position, order_key FROM deliveries INDEXED BY deliveries_unblocking \
     WHERE destination_no = ?1 AND blocks_until_ms IS NOT NULL AND blocks_until_ms <= ?2 \
     ORDER BY blocks_until_ms LIMIT ?3";
pub const UNBLOCK: &str =
    "UPDATE deliveries SET blocks_until_ms = NULL WHERE destination_no = ?1 AND position = ?2";
pub const OLD_TAPS: &str = "SELECT t.position, t.token, e.received_ms, t.occurred_ms, t.uncertainty_ms, t.estimated, \
     t.timeless, t.not_before_ms, t.not_after_ms, d.position, o.controller_no FROM taps t \
     JOIN events e ON e.position = t.position JOIN outboxes o ON o.no = e.outbox_no \
     LEFT JOIN deliveries d ON d.destination_no = ?1 AND d.position = t.position \
     WHERE t.position >= ?2 AND t.position <= ?3 AND t.position > (SELECT through FROM archiving WHERE one = 1) \
     ORDER BY t.position LIMIT ?4";
pub const NEW_OLD_DELIVERY: &str = "INSERT INTO deliveries \
     (destination_no, position, order_key, state, held_for, due_ms, attempts, class, rank, controller_no, happened_ms) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 'backfill', ?7, ?8, ?9)";

// Reading.

pub const NEWEST: &str = "SELECT position FROM events WHERE position < ?1 AND (NOT ?2 OR kind = 'tap' OR (kind = 'opaque' \
     AND EXISTS (SELECT 1 FROM taps t WHERE t.position = events.position))) ORDER BY position DESC LIMIT ?3";
pub const NEWEST_OF_OUTBOX: &str = "SELECT position FROM events WHERE outbox_no = ?4 AND position < ?1 \
     AND (NOT ?2 OR kind = 'tap' OR (kind = 'opaque' AND EXISTS (SELECT 1 FROM taps t WHERE t.position = events.position))) \
     ORDER BY seq DESC LIMIT ?3";
pub const NEWEST_UNDONE: &str = concat!(
    "SELECT d.position FROM deliveries d INDEXED BY deliveries_undone JOIN events e ON e.position = d.position ",
    "JOIN outboxes o ON o.no = e.outbox_no JOIN controllers c ON c.no = o.controller_no ",
    "WHERE d.destination_no = ?4 AND d.state = ?5 AND d.",
    undone!(),
    " AND d.position < ?1 AND (c.id = ?2 OR ?2 IS NULL) ORDER BY d.position DESC LIMIT ?3"
);
pub const NEWEST_IN_STATE: &str = "SELECT d.position FROM deliveries d JOIN events e ON e.position = d.position \
     JOIN outboxes o ON o.no = e.outbox_no JOIN controllers c ON c.no = o.controller_no \
     WHERE d.destination_no = ?4 AND d.state = ?5 AND d.position < ?1 AND (c.id = ?2 OR ?2 IS NULL) \
     ORDER BY d.position DESC LIMIT ?3";
pub const EVENT: &str = concat!("SELECT ", event_columns!(), "WHERE e.position = ?1");
pub const POSITION_OF: &str = "SELECT e.position FROM outboxes o JOIN events e ON e.outbox_no = o.no AND e.seq = ?2 WHERE o.prefix = ?1";
pub const RECORD_BYTES: &str = "SELECT e.bytes FROM controllers c \
     JOIN outboxes o ON o.controller_no = c.no AND o.id = ?2 \
     JOIN events e ON e.outbox_no = o.no AND e.seq = ?3 WHERE c.id = ?1";
pub const DELIVERY: &str = "SELECT order_key, state, held_for, due_ms, attempts, blocks_until_ms, class, rank, is_early FROM deliveries \
     WHERE destination_no = ?1 AND position = ?2";
pub const BODY: &str = "SELECT body FROM deliveries WHERE destination_no = ?1 AND position = ?2";
pub const ATTEMPTS: &str = "SELECT number, started_ms, finished_ms, outcome, status, answer FROM attempts \
     WHERE destination_no = ?1 AND position = ?2 ORDER BY number";

// Trust.

pub const STANDING: &str = "SELECT standing, since_ms, why FROM standings WHERE controller_no = ?1";
pub const PUT_STANDING: &str = "INSERT INTO standings VALUES (?1, ?2, ?3, ?4) \
     ON CONFLICT (controller_no) DO UPDATE SET standing = excluded.standing, since_ms = excluded.since_ms, why = excluded.why";
pub const BEGIN_REVOCATION: &str = "INSERT INTO revocations VALUES (?1, ?2, NULL) ON CONFLICT (controller_no, from_ms) DO UPDATE SET until_ms = NULL";
pub const END_REVOCATION: &str =
    "UPDATE revocations SET until_ms = ?2 WHERE controller_no = ?1 AND until_ms IS NULL";
pub const REVOKE_OUTBOXES: &str = "INSERT INTO revoked_outboxes \
     SELECT no, last_seq FROM outboxes WHERE controller_no = ?1 ON CONFLICT (outbox_no) DO NOTHING";
pub const UNREVOKE_OUTBOXES: &str =
    "DELETE FROM revoked_outboxes WHERE outbox_no IN (SELECT no FROM outboxes WHERE controller_no = ?1)";
pub const TRUSTED_THROUGH: &str = "SELECT r.trusted_through FROM outboxes o \
     JOIN revoked_outboxes r ON r.outbox_no = o.no WHERE o.controller_no = ?1 AND o.id = ?2";
pub const NEW_CERTIFICATE: &str = "INSERT INTO certificates (serial, controller_no, tls_key, issued_ms, not_after_ms) \
     VALUES (?1, ?2, ?3, ?4, ?5)";
pub const LAST_CERTIFICATE: &str = "SELECT serial, issued_ms, not_after_ms FROM certificates \
     WHERE controller_no = ?1 ORDER BY no DESC LIMIT 1";
pub const REVOKE_CERTIFICATES: &str = "UPDATE certificates SET revoked_ms = ?2 \
     WHERE controller_no = ?1 AND revoked_ms IS NULL AND tls_key IS DISTINCT FROM ?3";
pub const FORGET_CERTIFICATES: &str =
    "DELETE FROM certificates WHERE controller_no = ?1 AND not_after_ms < ?2";
pub const REVOKED_CERTIFICATES: &str = "SELECT serial, revoked_ms FROM certificates \
     WHERE revoked_ms IS NOT NULL AND not_after_ms > ?1 ORDER BY serial";
pub const FETCH: &str = "SELECT at_ms, holds, agent_version FROM fetches WHERE controller_no = ?1";
pub const PUT_FETCH: &str = "INSERT INTO fetches VALUES (?1, ?2, ?3, ?4) ON CONFLICT (controller_no) \
     DO UPDATE SET at_ms = excluded.at_ms, holds = excluded.holds, agent_version = excluded.agent_version";
pub const CONTROLLER_IDS: &str =
    "SELECT id FROM controllers WHERE no NOT IN (SELECT controller_no FROM sources) ORDER BY id";
pub const OVERLAP_RECORD_KEYS: &str = "UPDATE record_keys SET good_until_ms = CASE WHEN good_until_ms < ?3 THEN good_until_ms ELSE ?3 END \
     WHERE controller_no = ?1 AND key IS DISTINCT FROM ?2";
pub const NEW_TOKEN: &str = "INSERT INTO enroll_tokens (id, secret_sha256, controller, site, label, created_ms, expires_ms) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
pub const TOKENS: &str = "SELECT id, secret_sha256, controller, site, label, created_ms, expires_ms, used_ms, \
     used_tls_key, used_record_key, withdrawn_ms FROM enroll_tokens WHERE id = ?1 OR ?1 IS NULL ORDER BY no DESC";
pub const USE_TOKEN: &str = "UPDATE enroll_tokens SET used_ms = ?2, used_tls_key = ?3, used_record_key = ?4 WHERE id = ?1 AND used_ms IS NULL";
pub const WITHDRAW_TOKEN: &str =
    "UPDATE enroll_tokens SET withdrawn_ms = ?2 WHERE id = ?1 AND withdrawn_ms IS NULL";
pub const WITHDRAW_TOKENS_OF: &str = "UPDATE enroll_tokens SET withdrawn_ms = ?2 WHERE controller = ?1 AND withdrawn_ms IS NULL AND id IS DISTINCT FROM ?3";
pub const NEW_DEED: &str = "INSERT INTO fleet_log (at_ms, who, what, about, why) VALUES (?1, ?2, ?3, ?4, ?5)";
pub const DEEDS: &str = "SELECT at_ms, who, what, about, why FROM fleet_log ORDER BY no DESC LIMIT ?1";
pub const DEED_COUNT: &str = "SELECT coalesce(max(no), 0) FROM fleet_log";

// Proof.

pub const SIGNER: &str = "SELECT no FROM signers WHERE key = ?1";
pub const NEW_SIGNER: &str = "INSERT INTO signers (key) VALUES (?1) RETURNING no";
pub const BATCHES: Bulk = Bulk {
    into: "INSERT INTO batches (outbox_no, last_seq, first_seq, signer_no, signature, message)",
    types: &["bigint", "bigint", "bigint", "bigint", "bytea", "bytea"],
};
pub const CHECK_FILE: &str = "PRAGMA integrity_check(1)";
pub const RECORDS_MARKED: &str = "SELECT CAST(coalesce(sum(o.stored_through - o.archived_through), 0) AS BIGINT) FROM outboxes o \
     JOIN controllers c ON c.no = o.controller_no WHERE c.id = ?1 OR ?1 IS NULL";
pub const WALKED_OUTBOXES: &str = "SELECT o.no, c.id, o.id, o.prefix, o.stored_through, o.hash, c.no, o.archived_through, o.archived_hash \
     FROM outboxes o JOIN controllers c ON c.no = o.controller_no \
     WHERE c.id = ?1 OR ?1 IS NULL ORDER BY c.id, o.no";
pub const WALKED_RECORDS: &str = "SELECT e.position, e.seq, e.received_ms, CASE WHEN e.kind = 'opaque' \
     THEN coalesce((SELECT q.kind FROM opaque q WHERE q.position = e.position), e.kind) ELSE e.kind END, e.bytes, e.hash, t.token, t.occurred_ms \
     FROM events e LEFT JOIN taps t ON t.position = e.position WHERE e.outbox_no = ?1 AND e.seq > ?2 ORDER BY e.seq LIMIT ?3";
pub const WALKED_BATCHES: &str = "SELECT b.first_seq, b.last_seq, s.key, b.signature, b.message FROM batches b \
     JOIN signers s ON s.no = b.signer_no WHERE b.outbox_no = ?1 AND b.last_seq > ?2 ORDER BY b.last_seq LIMIT ?3";
pub const WALKED_POSITIONS: &str =
    "SELECT position FROM events WHERE position > ?1 ORDER BY position LIMIT ?2";
pub const BACK_UP: &str = "VACUUM INTO ?1";
pub const PUT_EPOCH: &str = "UPDATE store SET epoch = ?1";
pub const IS_QUARANTINED: &str = "SELECT 1 FROM dead_letters WHERE kind = ?1 AND bytes = ?2 LIMIT 1";
// Badges and the roster.

pub const BADGE_OF: &str = "SELECT badge_no FROM seals WHERE token = ?1";
pub const IS_REVOKED: &str = "SELECT revoked_ms IS NOT NULL FROM badges WHERE no = ?1";
pub const BADGES_OF: &str = "SELECT DISTINCT badge_no FROM bindings WHERE person = ?1 AND from_ms <= ?2 AND until_ms > ?2 ORDER BY badge_no";
pub const NEW_BADGE: &str = "INSERT INTO badges (revoked_ms) VALUES (NULL) RETURNING no";
pub const MOVE_SEALS: &str = "UPDATE seals SET badge_no = ?2 WHERE badge_no = ?1";
pub const TAKE_OVER_REVOCATION: &str = "UPDATE badges SET (revoked_ms, revoked_why, revoked_in) = \
     (SELECT revoked_ms, revoked_why, revoked_in FROM badges WHERE no = ?1) WHERE no = ?2 AND revoked_ms IS NULL";
pub const FORGET_BADGE: &str = "DELETE FROM badges WHERE no = ?1";
pub const PUT_SEAL: &str = "INSERT INTO seals VALUES (?1, ?2, ?3, ?4) ON CONFLICT (token) DO NOTHING";
pub const REVOKE: &str =
    "UPDATE badges SET revoked_ms = ?2, revoked_why = ?3 WHERE no = ?1 AND revoked_ms IS NULL";
pub const REINSTATE: &str = "UPDATE badges SET revoked_ms = NULL, revoked_why = NULL, revoked_in = NULL \
     WHERE no = ?1 AND revoked_ms IS NOT NULL";
pub const BADGE_ROW: &str = "SELECT no, revoked_ms, revoked_why, revoked_in FROM badges WHERE no = ?1";
pub const BADGE_ROWS: &str = "SELECT no, revoked_ms, revoked_why, revoked_in FROM badges \
     WHERE no > ?1 ORDER BY no LIMIT ?2";
pub const BADGE_ROWS_OF: &str = "SELECT no, revoked_ms, revoked_why, revoked_in FROM badges \
     WHERE no IN (SELECT badge_no FROM bindings WHERE person = ?1) AND no > ?2 ORDER BY no LIMIT ?3";
pub const REVOKED_ROWS: &str = "SELECT no, revoked_ms, revoked_why, revoked_in FROM badges \
     WHERE revoked_ms IS NOT NULL AND no > ?1 ORDER BY no LIMIT ?2";
pub const SEALS_OF: &str = "SELECT token, key_id, ciphertext FROM seals WHERE badge_no = ?1 ORDER BY token";
pub const ROSTER_STATE: &str = "SELECT version, changes, made_of FROM roster";
pub const ROSTER: &str = "SELECT version, changes, made_of, made_for FROM roster";
pub const BADGES_CHANGED: &str = "UPDATE roster SET changes = changes + ?1";
pub const PUT_ROSTER: &str = "UPDATE roster SET version = ?1, made_of = ?2, made_for = ?3";
pub const REVOKED_IN: &str =
    "UPDATE badges SET revoked_in = ?1 WHERE revoked_ms IS NOT NULL AND revoked_in IS NULL";
/// The keys' numbers take the place of `{keys}`. Whose last binding has ended is nobody's badge.
pub const ENTRIES: &str = "SELECT s.token, b.revoked_ms IS NOT NULL FROM seals s JOIN badges b ON b.no = s.badge_no \
     WHERE s.key_id IN ({keys}) AND EXISTS (SELECT 1 FROM bindings h WHERE h.badge_no = b.no AND h.until_ms > ?1) \
     ORDER BY s.token";
// Commands, and what contradicts itself.

pub const PLACE: &str = "SELECT e.hash FROM controllers c JOIN outboxes o ON o.controller_no = c.no AND o.id = ?2 \
     JOIN events e ON e.outbox_no = o.no AND e.seq = ?3 WHERE c.id = ?1";
pub const COMMANDS: &str = "SELECT number, what, why, issued_ms, ended_ms, outcome, detail FROM commands \
     WHERE controller_no = ?1 ORDER BY number DESC";
pub const COMMANDS_OF: &str = "SELECT number, what, why, issued_ms, ended_ms, outcome, detail FROM commands \
     WHERE controller_no = (SELECT no FROM controllers WHERE id = ?1) ORDER BY number DESC";
pub const NEXT_COMMAND: &str = "SELECT number, what, why, issued_ms, ended_ms, outcome, detail FROM commands \
     WHERE controller_no = (SELECT no FROM controllers WHERE id = ?1) AND ended_ms IS NULL ORDER BY number LIMIT 1";
pub const NEW_COMMAND: &str = "INSERT INTO commands VALUES (?1, ?2, ?3, ?4, ?5, NULL, NULL, NULL)";
pub const FORGET_COMMAND: &str = "DELETE FROM commands WHERE controller_no = ?1 AND number <= ?2";
pub const END_COMMAND: &str = "UPDATE commands SET ended_ms = ?3, outcome = ?4, detail = ?5 \
     WHERE controller_no = ?1 AND number = ?2 AND ended_ms IS NULL";
pub const TROUBLE_AGAIN: &str = "UPDATE troubles SET last_ms = ?4, count = count + 1 \
     WHERE controller_no = ?1 AND kind = ?2 AND outbox = ?3";
pub const NEW_TROUBLE: &str = "INSERT INTO troubles VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1)";
pub const FORGET_TROUBLE: &str = "DELETE FROM troubles WHERE controller_no = ?1 AND (kind, outbox) IN \
     (SELECT kind, outbox FROM troubles WHERE controller_no = ?1 ORDER BY last_ms DESC, kind DESC, outbox DESC LIMIT 1000000 OFFSET ?2)";
pub const TROUBLES_OF: &str = "SELECT kind, outbox, at_seq, first_ms, last_ms, count FROM troubles \
     WHERE controller_no = (SELECT no FROM controllers WHERE id = ?1) ORDER BY last_ms DESC, kind, outbox";

// People.

/// Whether a destination may have been told of a tap: the body names the person and the direction, and one is made for
/// what is under way. What was refused, or set aside by a person, was told to nobody.
macro_rules! told {
    () => {
        "(d.body IS NOT NULL OR d.state IN ('in_flight', 'unknown')) AND d.state NOT IN ('dead', 'discarded')"
    };
}

/// What [`TAP_BEFORE`] and [`TAP_AFTER`] have in common.
macro_rules! taps_of_badge_at_site {
    () => {
        "SELECT t.occurred_ms, t.position, t.direction FROM taps t \
         JOIN events e ON e.position = t.position JOIN outboxes o ON o.no = e.outbox_no \
         JOIN controllers c ON c.no = o.controller_no \
         WHERE t.token = ?1 AND t.occurred_ms >= ?2 AND t.occurred_ms <= ?3 AND c.site = ?6 "
    };
}

/// All that is told of a difference.
macro_rules! difference_columns {
    () => {
        "SELECT f.position, d.name, f.what, f.told, f.is_so, f.noted_ms, t.occurred_ms, c.id, o.id, e.seq \
         FROM differences f JOIN destinations d ON d.no = f.destination_no JOIN taps t ON t.position = f.position \
         JOIN events e ON e.position = f.position JOIN outboxes o ON o.no = e.outbox_no \
         JOIN controllers c ON c.no = o.controller_no "
    };
}

pub const BINDINGS: &str =
    "SELECT from_ms, until_ms, person FROM bindings WHERE badge_no = ?1 ORDER BY from_ms";
/// Behind a parameter that says nothing, because many are asked for at once.
pub const BINDINGS_OF_MANY: &str = "SELECT s.token, b.from_ms, b.until_ms, b.person FROM seals s \
     JOIN bindings b ON b.badge_no = s.badge_no WHERE b.badge_no > ?1 AND s.token = ?2 ORDER BY b.from_ms";
pub const BINDINGS_OF: &str = "SELECT b.from_ms, b.until_ms, b.person FROM seals s \
     JOIN bindings b ON b.badge_no = s.badge_no WHERE s.token = ?1 ORDER BY b.from_ms";
pub const FORGET_BINDINGS: &str = "DELETE FROM bindings WHERE badge_no = ?1";
pub const NEW_BINDING: &str =
    "INSERT INTO bindings (badge_no, from_ms, until_ms, person) VALUES (?1, ?2, ?3, ?4)";
pub const TOKENS_OF: &str = "SELECT token FROM seals WHERE badge_no = ?1";
pub const TOKENS_OF_PERSON: &str = "SELECT s.token, b.from_ms, b.until_ms FROM bindings b \
     JOIN seals s ON s.badge_no = b.badge_no WHERE b.person = ?1 ORDER BY s.token, b.from_ms";
pub const LANE_WITH_TAPS: &str = concat!(
    "SELECT d.position, d.state, d.held_for, d.body IS NOT NULL, t.token, t.occurred_ms, t.uncertainty_ms, t.estimated, ",
    "t.timeless, t.not_before_ms, t.not_after_ms FROM deliveries d INDEXED BY deliveries_lane ",
    "JOIN taps t ON t.position = d.position WHERE d.destination_no = ?1 AND d.order_key = ?2 AND ",
    open!(),
    " ORDER BY d.rank, d.position"
);
pub const TOLD_OF_BADGE: &str = concat!(
    "SELECT t.position, d.order_key, t.occurred_ms FROM taps t ",
    "JOIN deliveries d ON d.destination_no = ?1 AND d.position = t.position ",
    "WHERE t.token = ?2 AND t.occurred_ms >= ?3 AND t.occurred_ms <= ?4 AND ",
    told!()
);
pub const IS_TOLD: &str = concat!(
    "SELECT ",
    told!(),
    ", d.direction FROM deliveries d WHERE d.destination_no = ?1 AND d.position = ?2"
);
pub const TOLD_DIRECTION: &str =
    "SELECT direction FROM deliveries WHERE destination_no = ?1 AND position = ?2";
pub const TELL_DIRECTION: &str =
    "UPDATE deliveries SET direction = ?3 WHERE destination_no = ?1 AND position = ?2";
pub const TAP_BEFORE: &str = concat!(
    taps_of_badge_at_site!(),
    "AND (t.occurred_ms < ?4 OR t.position < ?5) ORDER BY t.occurred_ms DESC, t.position DESC LIMIT 1"
);
pub const TAP_AFTER: &str = concat!(
    taps_of_badge_at_site!(),
    "AND (t.occurred_ms > ?4 OR t.position > ?5) ORDER BY t.occurred_ms, t.position LIMIT 1"
);
pub const RULES: &str = "SELECT version, from_ms, policy, reset_after_h, double_within_s FROM site_rules WHERE site = ?1 ORDER BY version";
pub const NEW_RULE: &str = "INSERT INTO site_rules (site, version, from_ms, policy, reset_after_h, double_within_s) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
pub const ALTERNATING_SITES: &str =
    "SELECT DISTINCT site FROM site_rules WHERE policy = 'alternating' ORDER BY site";
pub const ALTERNATING_SITE_OF: &str = "SELECT c.site FROM controllers c WHERE c.no = ?1 \
     AND EXISTS (SELECT 1 FROM site_rules r WHERE r.site = c.site AND r.policy = 'alternating')";
pub const SITE_OF: &str = "SELECT site FROM controllers WHERE id = ?1";
pub const CARD_PROFILES: &str = "SELECT profile FROM card_profiles WHERE site = ?1 ORDER BY profile";
pub const FORGET_CARD_PROFILES: &str = "DELETE FROM card_profiles WHERE site = ?1";
pub const NEW_CARD_PROFILE: &str =
    "INSERT INTO card_profiles (site, profile) VALUES (?1, ?2) ON CONFLICT (site, profile) DO NOTHING";
/// The tokens' places take the place of `{tokens}`.
pub const SEEN_IN_TAPS: &str = "SELECT DISTINCT token FROM taps WHERE token IN ({tokens})";
/// As [`SEEN_IN_TAPS`].
pub const SEEN_IN_SEALS: &str = "SELECT token FROM seals WHERE token IN ({tokens})";
pub const SEAL: &str = "SELECT key_id, ciphertext FROM seals WHERE token = ?1";
pub const TAP_OF_TOKEN: &str = "SELECT e.bytes FROM taps t JOIN events e ON e.position = t.position \
     WHERE t.token = ?1 ORDER BY t.occurred_ms DESC, t.position DESC LIMIT 1";
pub const PUT_DIFFERENCE: &str = "INSERT INTO differences (position, destination_no, what, told, is_so, noted_ms) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (position, destination_no, what) DO UPDATE \
     SET told = excluded.told, is_so = excluded.is_so, noted_ms = excluded.noted_ms \
     WHERE differences.told IS DISTINCT FROM excluded.told OR differences.is_so IS DISTINCT FROM excluded.is_so";
pub const FORGET_DIFFERENCE: &str =
    "DELETE FROM differences WHERE destination_no = ?1 AND position = ?2 AND what = ?3";
pub const DIFFERENCES: &str = concat!(
    difference_columns!(),
    "WHERE f.position IN (SELECT DISTINCT position FROM differences WHERE position < ?1 ORDER BY position DESC LIMIT ?2) ",
    "ORDER BY f.position DESC, f.destination_no, f.what"
);
pub const DIFFERENCES_OF: &str =
    concat!(difference_columns!(), "WHERE f.position = ?1 ORDER BY f.destination_no, f.what");

// Reading anew.

pub const REREADING: &str = "SELECT looked_through, look_through, unread, reread FROM rereading";
pub const FIND_OPAQUE: &str = "INSERT INTO opaque (position, tried) SELECT position, 0 FROM events \
     WHERE position > ?1 AND position <= ?2 AND kind = 'opaque' ON CONFLICT (position) DO NOTHING";
pub const LOOKED_THROUGH: &str = "UPDATE rereading SET looked_through = ?1, unread = unread + ?2";
pub const NEW_OPAQUE: &str = "INSERT INTO opaque (position, tried) VALUES (?1, ?2)";
pub const COUNT_OPAQUE: &str = "UPDATE rereading SET unread = unread + ?1";
pub const COUNT_READ: &str = "UPDATE rereading SET unread = unread - ?1, reread = reread + ?1";
pub const UNTRIED: &str = "SELECT q.position, e.outbox_no, o.controller_no, e.received_ms, e.bytes FROM opaque q \
     JOIN events e ON e.position = q.position JOIN outboxes o ON o.no = e.outbox_no \
     WHERE q.kind IS NULL AND q.position > 0 AND q.tried < ?1 ORDER BY q.position LIMIT ?2";
pub const TRIED: &str = "UPDATE opaque SET tried = ?2 WHERE position = ?1";
pub const READ_NOW: &str = "UPDATE opaque SET tried = ?2, kind = ?3, read_ms = ?4 WHERE position = ?1";
pub const REREAD_AT: &str = "SELECT read_ms FROM opaque WHERE position = ?1";
pub const MOVE_TAPS: &str = "UPDATE taps SET boot_no = ?2 WHERE boot_no = ?1 AND occurred_ms IS NULL";
pub const MOVE_ANCHORS: &str = "UPDATE anchors SET boot_no = ?2 WHERE boot_no = ?1";
/// `no, make_next, make_through, make_from_ms, added_after`.
pub const DESTINATIONS_OF_LATE: &str =
    "SELECT no, make_next, make_through, make_from_ms, added_after FROM destinations ORDER BY no";

// Taps by their time, for lists.

/// Of no site in particular where `?4` is null.
pub const TAPS_BY_TIME: &str = "SELECT t.position, t.occurred_ms, t.uncertainty_ms, t.estimated, t.reader, t.token, \
     t.direction, t.verdict, e.seq, e.received_ms, o.id, c.id, s.id, s.zone FROM taps t INDEXED BY taps_by_time \
     JOIN events e ON e.position = t.position \
     JOIN outboxes o ON o.no = e.outbox_no \
     JOIN controllers c ON c.no = o.controller_no \
     JOIN sites s ON s.id = c.site \
     WHERE (t.occurred_ms, t.position) > (?1, ?2) AND t.occurred_ms < ?3 AND c.site = coalesce(?4, c.site) \
     ORDER BY t.occurred_ms, t.position LIMIT ?5";
pub const DELIVERIES_BY_TIME: &str = concat!(
    "SELECT d.position, d.state, d.direction, ",
    told!(),
    " FROM taps t INDEXED BY taps_by_time JOIN deliveries d ON d.destination_no = ?5 AND d.position = t.position \
     WHERE (t.occurred_ms, t.position) > (?1, ?2) AND (t.occurred_ms, t.position) <= (?3, ?4)"
);
pub const COUNT_WITHOUT_TIME: &str =
    "SELECT count(*) FROM taps INDEXED BY taps_without_time WHERE occurred_ms IS NULL";

// Letters and replays.

/// The condition of `deliveries_letters` and `deliveries_by_reason`.
macro_rules! letter {
    () => {
        "dead_reason IS NOT NULL"
    };
}

/// What filters look at.
macro_rules! candidate_columns {
    () => {
        "d.position, d.order_key, d.state, d.dead_reason, t.occurred_ms, t.reader, e.seq, o.id, c.id, c.site "
    };
}

/// Where that stands.
macro_rules! candidate_joins {
    () => {
        "JOIN taps t ON t.position = d.position JOIN events e ON e.position = d.position \
         JOIN outboxes o ON o.no = e.outbox_no JOIN controllers c ON c.no = o.controller_no "
    };
}

/// All of a delivery and its tap that it takes to tell it anew.
macro_rules! again {
    () => {
        "d.state, d.dead_reason, d.blocks_until_ms, d.order_key, d.attempts, d.body, d.direction, e.seq, e.bytes, \
         t.token, t.occurred_ms, t.uncertainty_ms, t.estimated, t.timeless, t.not_before_ms, t.not_after_ms, o.id, c.id, \
         s.id, s.label, s.zone"
    };
}

/// All of a replay.
macro_rules! replay_columns {
    () => {
        "SELECT r.no, d.name, r.what, r.filter, r.who, r.why, r.made_ms, r.ended_ms, r.state, r.gather_next, r.gather_through, \
         r.members, r.waiting, r.sending, r.delivered, r.dead, r.discarded, r.skipped, r.destination_no, r.looked_through \
         FROM replays r JOIN destinations d ON d.no = r.destination_no "
    };
}

pub const ADD_TO_DEAD: &str =
    "UPDATE dead_counts SET count = count + ?3 WHERE destination_no = ?1 AND reason = ?2";
pub const NEW_DEAD: &str = "INSERT INTO dead_counts (destination_no, reason, count) VALUES (?1, ?2, ?3)";
pub const DEAD_COUNTS: &str = "SELECT d.no, d.name, k.reason, k.count FROM dead_counts k \
     JOIN destinations d ON d.no = k.destination_no WHERE k.count > 0 ORDER BY d.no, k.reason";
pub const NEWEST_LETTER: &str = concat!(
    "SELECT d.position, e.seq, o.id, c.id FROM deliveries d INDEXED BY deliveries_by_reason ",
    candidate_joins!(),
    "WHERE d.destination_no = ?1 AND d.dead_reason = ?2 AND d.",
    letter!(),
    " ORDER BY d.position DESC LIMIT 1"
);
pub const LAST_ATTEMPT: &str = "SELECT outcome, status, answer FROM attempts \
     WHERE destination_no = ?1 AND position = ?2 ORDER BY number DESC LIMIT 1";
pub const LETTERS_AFTER: &str = concat!(
    "SELECT ",
    candidate_columns!(),
    "FROM deliveries d INDEXED BY deliveries_letters ",
    candidate_joins!(),
    "WHERE d.destination_no = ?1 AND d.position > ?2 AND d.position <= ?3 AND d.",
    letter!(),
    " ORDER BY d.position LIMIT ?4"
);
pub const DELIVERIES_AFTER: &str = concat!(
    "SELECT ",
    candidate_columns!(),
    "FROM deliveries d ",
    candidate_joins!(),
    "WHERE d.destination_no = ?1 AND d.position > ?2 AND d.position <= ?3 ORDER BY d.position LIMIT ?4"
);
pub const AGAIN: &str = concat!(
    "SELECT ",
    again!(),
    " FROM deliveries d ",
    candidate_joins!(),
    "JOIN sites s ON s.id = c.site WHERE d.destination_no = ?1 AND d.position = ?2"
);
pub const NEW_REPLAY: &str = "INSERT INTO replays (destination_no, what, filter, who, why, made_ms, state, gather_next, \
     gather_through, looked_through, members, waiting, sending, delivered, dead, discarded, skipped) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'running', ?7, ?8, 0, 0, 0, 0, 0, 0, 0, 0) RETURNING no";
pub const REPLAY: &str = concat!(replay_columns!(), "WHERE r.no = ?1");
pub const REPLAYS: &str = concat!(replay_columns!(), "ORDER BY r.no DESC LIMIT ?1");
pub const ACTIVE_REPLAYS: &str = concat!(
    replay_columns!(),
    "WHERE r.destination_no = ?1 AND (r.state = 'running' OR r.sending > 0) ORDER BY r.no"
);
pub const PUT_REPLAY_COUNTS: &str = "UPDATE replays SET looked_through = ?2, waiting = ?3, sending = ?4, delivered = ?5, \
     dead = ?6, discarded = ?7, skipped = ?8 WHERE no = ?1";
pub const REPLAY_GATHERED: &str =
    "UPDATE replays SET gather_next = ?2, members = ?3, waiting = ?4 WHERE no = ?1";
pub const PUT_REPLAY_STATE: &str = "UPDATE replays SET state = ?2, ended_ms = ?3 WHERE no = ?1";
pub const NEW_REPLAY_ROWS: Bulk = Bulk {
    into: "INSERT INTO replay_rows (replay_no, n, position, order_key, outcome)",
    types: &["bigint", "bigint", "bigint", "bytea", "text"],
};
/// What may go next: of a line, only the first that waits.
pub const WAITING_ROWS: &str = "SELECT r.n, r.position, EXISTS (SELECT 1 FROM replay_rows b INDEXED BY replay_rows_lane \
     WHERE b.replay_no = r.replay_no AND b.order_key = r.order_key AND b.outcome = 'waiting' AND b.n < r.n) \
     FROM replay_rows r INDEXED BY replay_rows_waiting \
     WHERE r.replay_no = ?1 AND r.outcome = 'waiting' AND r.n > ?2 ORDER BY r.n LIMIT ?3";
pub const SENDING_ROWS: &str = "SELECT r.n, r.position, d.state, d.held_for, d.dead_reason, d.order_key, d.direction, \
     r.state_before, r.key_before, r.direction_before, t.direction, \
     (SELECT a.outcome FROM attempts a WHERE a.destination_no = d.destination_no AND a.position = d.position \
     ORDER BY a.number DESC LIMIT 1) \
     FROM replay_rows r INDEXED BY replay_rows_sending JOIN deliveries d ON d.destination_no = ?1 AND d.position = r.position \
     JOIN taps t ON t.position = r.position WHERE r.replay_no = ?2 AND r.outcome = 'sending' ORDER BY r.n";
pub const BEGIN_ROW: &str = "UPDATE replay_rows SET outcome = 'sending', detail = ?3, state_before = ?4, key_before = ?5, \
     body_before = ?6, direction_before = ?7 WHERE replay_no = ?1 AND n = ?2";
pub const END_ROW: &str = "UPDATE replay_rows SET outcome = ?3, detail = ?4, ended_ms = ?5, \
     state_before = coalesce(state_before, ?6) WHERE replay_no = ?1 AND n = ?2";
pub const FEED: &str = "UPDATE deliveries SET state = ?3, held_for = NULL, due_ms = ?4, failures = 0, class = ?5, body = NULL, \
     direction = NULL, blocks_until_ms = NULL, dead_reason = NULL, order_key = ?6 \
     WHERE destination_no = ?1 AND position = ?2";
pub const ASK_AGAIN: &str = "UPDATE deliveries SET held_for = NULL, due_ms = ?3, dead_reason = NULL \
     WHERE destination_no = ?1 AND position = ?2";
pub const DECIDE: &str = "UPDATE deliveries SET state = ?3, held_for = NULL, attempts = ?4, blocks_until_ms = NULL, \
     dead_reason = NULL WHERE destination_no = ?1 AND position = ?2";
/// A person's word, as an attempt that needed no request.
pub const NEW_WORD: &str = "INSERT INTO attempts \
     (destination_no, position, number, lease, started_ms, finished_ms, outcome, answer) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7)";
pub const FORGET_DIFFERENCES: &str = "DELETE FROM differences WHERE destination_no = ?1 AND position = ?2";
pub const IS_OTHERWISE: &str =
    "SELECT 1 FROM differences WHERE destination_no = ?1 AND position = ?2 LIMIT 1";
pub const REPLAY_ROWS: &str = "SELECT r.n, r.position, e.seq, o.id, c.id, r.outcome, r.detail, r.ended_ms, r.state_before, \
     r.body_before FROM replay_rows r JOIN events e ON e.position = r.position JOIN outboxes o ON o.no = e.outbox_no \
     JOIN controllers c ON c.no = o.controller_no WHERE r.replay_no = ?1 AND r.n > ?2 ORDER BY r.n LIMIT ?3";

// Who takes in.

/// `fence, holder, beat`.
pub const INTAKE_CLAIM: &str = "SELECT fence, holder, beat FROM intake_claims WHERE broker = ?1";
pub const TAKE_INTAKE: &str = "INSERT INTO intake_claims (broker, fence, holder, beat) VALUES (?1, ?2, ?3, 0)
    ON CONFLICT (broker) DO UPDATE SET fence = excluded.fence, holder = excluded.holder, beat = 0";
pub const BEAT_INTAKE: &str =
    "UPDATE intake_claims SET beat = beat + 1 WHERE broker = ?1 AND fence = ?2 AND holder IS NOT NULL";
pub const LEAVE_INTAKE: &str = "UPDATE intake_claims SET holder = NULL WHERE broker = ?1 AND fence = ?2";

// Archiving.

/// `range_size, through`.
pub const ARCHIVING: &str = "SELECT range_size, through FROM archiving";
pub const ARCHIVED_SUMS: &str = "SELECT count(*), CAST(coalesce(sum(records), 0) AS BIGINT), CAST(coalesce(sum(taps), 0) AS BIGINT), \
     CAST(coalesce(sum(deliveries), 0) AS BIGINT), CAST(coalesce(sum(attempts), 0) AS BIGINT) FROM segments";
/// PostgreSQL's alone: where the partition ends that begins there.
pub const RANGE_FROM: &str = "SELECT until_position FROM ranges WHERE from_position = ?1";
pub const MAKE_RANGES: &str = "SELECT make_ranges()";
pub const RANGE_RECEIVED: &str =
    "SELECT count(*), min(received_ms), max(received_ms) FROM events WHERE position >= ?1 AND position <= ?2";
pub const RANGE_IN_STATE: &str = concat!(
    "SELECT count(*), min(position) FROM deliveries INDEXED BY deliveries_undone WHERE destination_no = ?1 AND state = ?2 AND ",
    undone!(),
    " AND position >= ?3 AND position <= ?4"
);
pub const RANGE_COUNTS: &str = "SELECT state, count(*), CAST(coalesce(sum(attempts), 0) AS BIGINT) FROM deliveries \
     WHERE destination_no = ?1 AND position >= ?2 AND position <= ?3 GROUP BY state ORDER BY state";
pub const RANGE_REPLAYED: &str = "SELECT count(*), min(position) FROM replay_rows \
     WHERE outcome IN ('waiting', 'sending') AND position >= ?1 AND position <= ?2";
pub const RANGE_UNREAD: &str =
    "SELECT count(*), min(position) FROM opaque WHERE kind IS NULL AND position >= ?1 AND position <= ?2";
pub const RANGE_DISPUTED: &str =
    "SELECT count(*) FROM taps WHERE position >= ?1 AND position <= ?2 AND timeless = 'disputed'";
pub const RANGE_OUTBOXES: &str = "SELECT o.no, c.id, o.id, o.prefix, o.archived_through, o.archived_hash, c.no FROM outboxes o \
     JOIN controllers c ON c.no = o.controller_no WHERE o.stored_through > o.archived_through ORDER BY c.id, o.no";
pub const RANGE_RECORDS: &str = "SELECT e.position, e.seq, e.received_ms, e.kind, e.bytes, e.hash, t.token, t.occurred_ms, \
     t.uncertainty_ms, t.estimated, t.timeless, t.not_before_ms, t.not_after_ms FROM events e \
     LEFT JOIN taps t ON t.position = e.position WHERE e.outbox_no = ?1 AND e.seq > ?2 ORDER BY e.seq LIMIT ?3";
/// Signatures over records on both sides of a place.
pub const STRADDLING: &str = "SELECT b.first_seq, b.last_seq, s.key, b.signature, b.message FROM batches b \
     JOIN signers s ON s.no = b.signer_no WHERE b.outbox_no = ?1 AND b.last_seq > ?2 AND b.first_seq <= ?2 \
     AND b.last_seq <= ?2 + ?3 ORDER BY b.last_seq";
pub const RECORDS_BETWEEN: &str =
    "SELECT bytes FROM events WHERE outbox_no = ?1 AND seq >= ?2 AND seq <= ?3 ORDER BY seq";
pub const RANGE_DELIVERIES: &str = "SELECT position, order_key, state, due_ms, attempts, failures, class, body, direction \
     FROM deliveries WHERE destination_no = ?1 AND position > ?2 AND position <= ?3 ORDER BY position LIMIT ?4";
pub const RANGE_ATTEMPTS: &str = "SELECT position, number, started_ms, finished_ms, outcome, status, answer FROM attempts \
     WHERE destination_no = ?1 AND (position, number) > (?2, ?3) AND position <= ?4 ORDER BY position, number LIMIT ?5";
/// The sign keeps SQLite from taking the destination for a constant, and the order of the key for another one.
pub const RANGE_DIFFERENCES: &str = "SELECT position, what, told, is_so, noted_ms FROM differences \
     WHERE position >= ?2 AND position <= ?3 AND +destination_no = ?1 ORDER BY position, destination_no, what";
pub const NEW_SEGMENT: &str = "INSERT INTO segments (from_position, to_position, file, sha256, bytes, records, taps, deliveries, \
     attempts, received_from_ms, received_to_ms, made_ms, made_by, removed_through) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, CAST(?1 AS BIGINT) - 1) RETURNING no";
pub const NEW_SEGMENT_OUTBOX: &str = "INSERT INTO segment_outboxes (segment_no, outbox_no, from_seq, to_seq, hash_before, hash_after) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
pub const NEW_SEGMENT_DELIVERIES: &str =
    "INSERT INTO segment_deliveries (segment_no, destination_no, state, count) VALUES (?1, ?2, ?3, ?4)";
pub const OUTBOX_ARCHIVED: &str =
    "UPDATE outboxes SET archived_through = ?2, archived_hash = ?3 WHERE no = ?1 AND archived_through = ?4";
pub const KEEP_MESSAGE: &str =
    "UPDATE batches SET message = ?3 WHERE outbox_no = ?1 AND last_seq = ?2 AND message IS NULL";
pub const NEW_PAST_BADGE: &str =
    "INSERT INTO past_badges (token, key_id, ciphertext) VALUES (?1, ?2, ?3) ON CONFLICT (token) DO NOTHING";
pub const PAST_BADGE: &str = "SELECT key_id, ciphertext FROM past_badges WHERE token = ?1";
/// As [`SEEN_IN_TAPS`].
pub const SEEN_IN_THE_PAST: &str = "SELECT token FROM past_badges WHERE token IN ({tokens})";
pub const ARCHIVED_THROUGH: &str = "UPDATE archiving SET through = ?1";
pub const SEGMENTS: &str = "SELECT no, from_position, to_position, file, sha256, bytes, records, taps, deliveries, attempts, \
     received_from_ms, received_to_ms, made_ms, made_by, removed_through FROM segments ORDER BY from_position";
pub const SEGMENT_OUTBOXES: &str = "SELECT c.id, o.id, s.from_seq, s.to_seq, s.hash_before, s.hash_after FROM segment_outboxes s \
     JOIN outboxes o ON o.no = s.outbox_no JOIN controllers c ON c.no = o.controller_no WHERE s.segment_no = ?1 ORDER BY c.id, o.no";
pub const SEGMENT_DELIVERIES: &str = "SELECT d.name, s.state, s.count FROM segment_deliveries s \
     JOIN destinations d ON d.no = s.destination_no WHERE s.segment_no = ?1 ORDER BY s.destination_no, s.state";
/// Which segment has that record, by the prefix of its event id.
pub const SEGMENT_WITH: &str = "SELECT g.file FROM outboxes o JOIN segment_outboxes s ON s.outbox_no = o.no AND s.to_seq >= ?2 \
     JOIN segments g ON g.no = s.segment_no WHERE o.prefix = ?1 AND s.from_seq <= ?2 ORDER BY s.to_seq LIMIT 1";
pub const TO_REMOVE: &str = "SELECT no, from_position, to_position, removed_through FROM segments \
     WHERE removed_through < to_position ORDER BY from_position LIMIT 1";
pub const SEGMENT_OUTBOX_NOS: &str = "SELECT outbox_no, to_seq FROM segment_outboxes WHERE segment_no = ?1";
pub const REMOVE_ATTEMPTS: &str =
    "DELETE FROM attempts WHERE destination_no = ?1 AND position >= ?2 AND position <= ?3";
pub const REMOVE_DELIVERIES: &str =
    "DELETE FROM deliveries WHERE destination_no = ?1 AND position >= ?2 AND position <= ?3";
pub const REMOVE_DIFFERENCES: &str = "DELETE FROM differences WHERE position >= ?1 AND position <= ?2";
pub const REMOVE_TAPS: &str = "DELETE FROM taps WHERE position >= ?1 AND position <= ?2";
pub const REMOVE_EVENTS: &str = "DELETE FROM events WHERE position >= ?1 AND position <= ?2";
pub const REMOVE_BATCHES: &str = "DELETE FROM batches WHERE outbox_no = ?1 AND last_seq <= ?2";
/// PostgreSQL's alone, with where the partition begins in the place of `{from}`.
pub const DROP_RANGE: [&str; 4] = [
    "SET LOCAL lock_timeout = '1s'",
    "DROP TABLE IF EXISTS taps_{from}",
    "DROP TABLE IF EXISTS events_{from}",
    "DELETE FROM ranges WHERE from_position = {from}",
];
pub const REMOVED: &str = "UPDATE segments SET removed_through = ?2 WHERE no = ?1";

// How far controllers are complete, and order across them.

pub const SAID: &str = "SELECT hello, said_ms, complete_ms FROM controllers WHERE no = ?1";
pub const PUT_COMPLETE: &str = "UPDATE controllers SET said_ms = ?2, complete_ms = ?3 WHERE no = ?1";
pub const KNOWN_OUTBOXES: &str = "SELECT no, id, stored_through, told_seq, is_written, is_waived FROM outboxes \
     WHERE controller_no = ?1 ORDER BY no";
pub const PUT_TOLD: &str =
    "UPDATE outboxes SET told_seq = ?2, is_written = ?3, is_waived = FALSE WHERE no = ?1";
pub const WAIVE: &str = "UPDATE outboxes SET is_waived = TRUE WHERE no = ?1";
pub const FOLLOWS: &str = "SELECT no, follows, make_next > make_through AND follow_next > follow_through FROM destinations WHERE name = ?1";
/// Of each controller what [`crate::delivery::complete::Door`] needs, behind a parameter that is the destination.
pub const DOORS: &str = concat!(
    "SELECT c.id, c.site, s.standing, EXISTS (SELECT 1 FROM sources x WHERE x.controller_no = c.no), c.complete_ms, ",
    "EXISTS (SELECT 1 FROM outboxes o WHERE o.controller_no = c.no AND NOT o.is_waived AND o.told_seq > o.stored_through), ",
    "(SELECT d.happened_ms FROM deliveries d INDEXED BY deliveries_untold WHERE d.destination_no = ?1 ",
    "AND d.controller_no = c.no AND d.",
    untold!(),
    " ORDER BY d.happened_ms LIMIT 1) ",
    "FROM controllers c LEFT JOIN standings s ON s.controller_no = c.no ORDER BY c.id"
);
pub const HAPPENED: &str = "UPDATE deliveries SET rank = ?3, happened_ms = ?4 WHERE destination_no = ?1 AND position = ?2 \
     AND controller_no IS NOT NULL";
pub const FOLLOW: &str = "UPDATE deliveries SET rank = ?3, controller_no = ?4, happened_ms = ?5, held_for = ?6 \
     WHERE destination_no = ?1 AND position = ?2";
pub const TO_FOLLOW: &str = concat!(
    "SELECT d.position, d.order_key, d.held_for, o.controller_no, t.occurred_ms, t.uncertainty_ms, t.estimated, ",
    "t.timeless, t.not_before_ms, t.not_after_ms FROM deliveries d INDEXED BY deliveries_undone ",
    "JOIN events e ON e.position = d.position JOIN outboxes o ON o.no = e.outbox_no ",
    "JOIN taps t ON t.position = d.position WHERE d.destination_no = ?1 AND d.state = ?2 AND d.",
    undone!(),
    " AND d.position >= ?3 AND d.position <= ?4 ORDER BY d.position LIMIT ?5"
);
/// The controllers whose taps wait for others, with the earliest of these.
pub const INCOMPLETE: &str = concat!(
    "SELECT c.id, d.controller_no, min(d.happened_ms) FROM deliveries d INDEXED BY deliveries_incomplete ",
    "JOIN controllers c ON c.no = d.controller_no WHERE d.destination_no = ?1 AND ",
    incomplete!(),
    " GROUP BY d.controller_no, c.id"
);
pub const INCOMPLETE_BEFORE: &str = concat!(
    "SELECT position, order_key FROM deliveries INDEXED BY deliveries_incomplete WHERE destination_no = ?1 ",
    "AND controller_no = ?2 AND ",
    incomplete!(),
    " AND happened_ms < ?3 ORDER BY happened_ms LIMIT ?4"
);
/// Who has waited since then or longer, the longest first.
pub const INCOMPLETE_SINCE: &str = concat!(
    "SELECT position, order_key FROM deliveries INDEXED BY deliveries_incomplete_since WHERE destination_no = ?1 AND ",
    incomplete!(),
    " AND due_ms <= ?2 ORDER BY due_ms LIMIT ?3"
);
/// These wait for other controllers no more.
pub const LET_GO: Changes = Changes {
    update: concat!(
        "UPDATE deliveries SET held_for = NULL, is_early = ?3 WHERE destination_no = ?1 AND position = ?2 AND ",
        incomplete!()
    ),
    types: &["bigint", "bigint", "boolean"],
};
/// Whoever was stored by a clock that was ahead waits from now on.
pub const MEND_INCOMPLETE: &str = concat!(
    "UPDATE deliveries SET due_ms = ?2 WHERE destination_no = ?1 AND ",
    incomplete!(),
    " AND due_ms > ?3"
);
pub const LIMITER: &str = "SELECT limiter FROM destinations WHERE name = ?1";
pub const PUT_LIMITER: &str = "UPDATE destinations SET limiter = ?2 WHERE name = ?1";
pub const WATERMARKS: &str = "SELECT d.name, w.name, w.stands_at, w.moved_ms, w.complete_ms, w.held_back_by, w.held_back_why, \
     w.looked_ms, w.trouble, w.failures, w.next_ms FROM watermarks w JOIN destinations d ON d.no = w.destination_no \
     ORDER BY d.no, w.name";
pub const PUT_WATERMARK: &str = "INSERT INTO watermarks SELECT no, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 \
     FROM destinations WHERE name = ?1 ON CONFLICT (destination_no, name) DO UPDATE SET stands_at = excluded.stands_at, \
     moved_ms = excluded.moved_ms, complete_ms = excluded.complete_ms, held_back_by = excluded.held_back_by, \
     held_back_why = excluded.held_back_why, looked_ms = excluded.looked_ms, trouble = excluded.trouble, \
     failures = excluded.failures, next_ms = excluded.next_ms";
pub const WATERMARK_NEXT: &str = "SELECT next_ms FROM watermarks WHERE destination_no = ?1 AND name = ?2";
pub const PUT_WATERMARK_NEXT: &str =
    "UPDATE watermarks SET next_ms = ?3 WHERE destination_no = ?1 AND name = ?2";

/// Everything above that touches a table that grows with the taps.
#[cfg(test)]
pub const HOT: &[&str] = &[
    HASH_AT,
    BOOT_OF,
    BOOT_NAMED,
    BOOT_TIME,
    PUT_BOOT_TIME,
    BOOTS_BEFORE,
    BOOTS_AFTER,
    SOME_ANCHORS,
    ANCHORS_BEFORE,
    ANCHORS_AFTER,
    TAPS_WITHOUT_TIME,
    TAP_TIME,
    WITHOUT_TIME,
    GIVE_UP,
    LANE_FIRST,
    LANE,
    LANE_BEFORE,
    LANE_SENT,
    STATE.update,
    HOLD,
    REKEY,
    HELD,
    CLAIMABLE,
    CLAIM.update,
    TAKE_OUT,
    EXTEND,
    LANE_BLOCKED,
    UNBLOCKED,
    UNBLOCK,
    OLD_TAPS,
    UNLEASE.update,
    EXPIRED,
    END_ATTEMPT.update,
    FIRST_DUE,
    MEND_DUES,
    FIRST_IN_STATE,
    RECEIVED,
    NEWEST,
    NEWEST_OF_OUTBOX,
    NEWEST_UNDONE,
    NEWEST_IN_STATE,
    EVENT,
    POSITION_OF,
    RECORD_BYTES,
    DELIVERY,
    BODY,
    ATTEMPTS,
    DEAD_LETTERS,
    FORGET_DEAD_LETTERS,
    WALKED_RECORDS,
    WALKED_BATCHES,
    LANE_WITH_TAPS,
    TOLD_OF_BADGE,
    IS_TOLD,
    TOLD_DIRECTION,
    TELL_DIRECTION,
    TAP_BEFORE,
    TAP_AFTER,
    TAP_OF_TOKEN,
    NEWEST_LETTER,
    LAST_ATTEMPT,
    LETTERS_AFTER,
    DELIVERIES_AFTER,
    AGAIN,
    WAITING_ROWS,
    SENDING_ROWS,
    BEGIN_ROW,
    END_ROW,
    FEED,
    ASK_AGAIN,
    DECIDE,
    FORGET_DIFFERENCES,
    IS_OTHERWISE,
    REPLAY_ROWS,
    RANGE_RECEIVED,
    RANGE_IN_STATE,
    RANGE_DISPUTED,
    RANGE_UNREAD,
    RANGE_RECORDS,
    STRADDLING,
    RECORDS_BETWEEN,
    RANGE_DELIVERIES,
    RANGE_ATTEMPTS,
    RANGE_DIFFERENCES,
    NEW_PAST_BADGE,
    PAST_BADGE,
    SEGMENT_WITH,
    REMOVE_ATTEMPTS,
    REMOVE_DELIVERIES,
    REMOVE_DIFFERENCES,
    REMOVE_TAPS,
    REMOVE_EVENTS,
    REMOVE_BATCHES,
    FIND_OPAQUE,
    UNTRIED,
    TRIED,
    READ_NOW,
    REREAD_AT,
    MOVE_TAPS,
    MOVE_ANCHORS,
    TAPS_BY_TIME,
    DELIVERIES_BY_TIME,
    HAPPENED,
    FOLLOW,
    TO_FOLLOW,
    INCOMPLETE_BEFORE,
    INCOMPLETE_SINCE,
    LET_GO.update,
    MEND_INCOMPLETE,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What SQLite means to do for `statement`, a line per table.
    fn plan(conn: &rusqlite::Connection, statement: &str) -> Vec<String> {
        let mut explained = conn.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
        let lines = explained.raw_query().mapped(|row| row.get::<_, String>(3)).collect::<Result<_, _>>();
        lines.unwrap()
    }

    #[test]
    fn no_statement_scans_or_sorts_a_table_that_grows() {
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        for migration in &crate::event_store::migrations::ALL {
            conn.execute_batch(migration.sqlite).unwrap();
        }
        for statement in HOT {
            // Whoever removes what is archived does so without foreign keys, which would each be a look at another table.
            let is_removal =
                [REMOVE_ATTEMPTS, REMOVE_DELIVERIES, REMOVE_DIFFERENCES, REMOVE_TAPS, REMOVE_EVENTS]
                    .contains(statement);
            conn.pragma_update(None, "foreign_keys", !is_removal).unwrap();
            let plan = plan(&conn, statement);
            // Newest first means walking back from the end: a scan in name, ended by its LIMIT.
            let ends_early = [NEWEST, DEAD_LETTERS].contains(statement);
            // What a query within it has found is not a table.
            let scans = |line: &String| line.starts_with("SCAN") && line != "SCAN found";
            let walks = plan.iter().any(scans) && !ends_early;
            let sorts = plan.iter().any(|line| line.contains("TEMP B-TREE"));
            assert!(!walks && !sorts, "{statement}\n{plan:#?}");
        }
    }
}
