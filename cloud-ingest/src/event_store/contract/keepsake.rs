//! A store with something of everything, to be kept as it is: what later versions must be able to bring up to date.
//!
//! `cloud-ingest/tests/stores/v1/` has one of each database as version 1 wrote it. When a schema version is released, its
//! stores are kept the same way, and never made again:
//!
//! ```text
//! KEEP_STORES=cloud-ingest/tests/stores/v2 cargo test -p cloud-ingest --lib keepsake
//! ```

use std::fmt::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use rusqlite::Connection;
use tap_protocol::command::Order;
use tap_protocol::ids::{OutboxId, ReaderName, Seq};
use tap_protocol::record::{AnchorSource, Body, ClockState, LossReason};
use tap_protocol::report::Outcome;

use super::fleet::{enroll, issue, key, put_token, renew, set_standing};
use super::world::{self, Door, HR, NEW, OLD, Worker, World, binding, id, person, sealed};
use super::{InFile, OnServer, capture};
use crate::delivery::breaker::Sign;
use crate::delivery::retry::Hold;

use crate::destination::settings::{DestinationSettings, OnDead};
use crate::directory::direction::{Policy, Rule};
use crate::directory::timeline::EVER;
use crate::event_store::commands::{CommandEnd, TroubleKind};
use crate::event_store::migrations::{Migrated, VERSION};
use crate::event_store::sqlite::SqliteStore;
use crate::event_store::{
    Binding, Change, Controller, DeadLetter, Deed, Ended, EventStore, NewDestination, Next, RecordKey,
    Rendered, Since, Standing, Turn, UtcMs, Which,
};

/// A second destination, which was added later and has not been told of everything yet.
const PAYROLL: &str = "payroll";

/// Something of everything that a store can hold.
pub fn fill(world: &mut World) {
    people(world);
    let mut doors = [1, 2, 3].map(Door::new);
    records(world, &mut doors);
    times(world, &mut doors);
    deliveries(world, &mut doors[0]);
    told_otherwise(world, &mut doors[1]);
    capture::with_kiosk(world);
    capture::take_in(world, &[1, 2].map(|n| capture::live(capture::tap(n, n))));
    trust(world);
    talk(world, &doors[0]);
    assert_eq!(world.claim_at(HR, 1).len(), 1, "and one is under way");
    world.check();
}

fn deed(world: &World, what: &str, about: &str) -> Deed {
    let [who, what, about, why] = ["anna", what, about, "as agreed"].map(str::to_owned);
    Deed { at: world.now, who, what, about, why }
}

fn people(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben"), (3, "cleo"), (4, "dora"), (5, "emil"), (6, "fritz")]);
    let under_both = Binding::new(vec![sealed(7, OLD), sealed(7, NEW)], person("gina"));
    let now = world.now;
    world.store().bind_badges(&[under_both], now).unwrap();
    world.store().revoke_badges(&Which::Person(person("fritz")), "has left", now).unwrap();
    world.store().roster(&[OLD, NEW], None, now).unwrap();
    world.store().put_card_profiles("hq", &["em4100-10d/1"]).unwrap();
    let alternating = Rule { from: UtcMs(now.0 + 1), policy: Policy::Alternating, ..Rule::UNSAID };
    world.store().put_rule("hq", &alternating).unwrap();
}

/// A record of every kind, and some that nobody can read yet.
fn records(world: &mut World, doors: &mut [Door; 3]) {
    let door = &mut doors[0];
    let reader: ReaderName = "in".parse().unwrap();
    door.start(11, ClockState::Synced);
    for body in [
        Body::ReaderUp { reader: reader.clone() },
        Body::ReaderDown { reader, why: "unplugged".into() },
        Body::BufferHigh { used_bytes: 1, limit_bytes: 2 },
        Body::ConfigChanged { digest: [7; 16] },
        Body::Lost { outbox: door.outbox, from: Seq(1), to: Seq(2), why: LossReason::Damaged },
        Body::Repeats { seq: Seq(1), n: 3 },
    ] {
        door.record(ClockState::Synced, body);
    }
    (1..=6).for_each(|card| door.tap(card));
    door.tap(99);
    // Of a later version, and of a kind that comes later.
    door.raw(&[2, 0, 0]);
    door.raw(&[1, 1, 1, 1, 0, 120, 5]);
    door.tap(1);
    world.store_all_of(door);
}

/// Taps whose time was always known, came later, is estimated, disputed, and not known at all.
fn times(world: &mut World, doors: &mut [Door; 3]) {
    let door = &mut doors[1];
    door.start(21, ClockState::Synced);
    door.tap(2);
    door.reboot(500, 22, ClockState::Unsynced);
    door.unsynced_tap(2);
    door.reboot(500, 23, ClockState::Unsynced);
    door.unsynced_tap(3);
    door.anchor();
    world.store_all_of(door);
    door.reboot(600_000, 24, ClockState::Unsynced);
    door.unsynced_tap(4);
    door.anchor_off_by(0, 0);
    door.anchor_off_by(9_000_000, 0);
    door.unsynced_tap(4);
    let body = Body::ClockAnchor {
        source: AnchorSource::Kernel,
        earliest_boottime_ms: door.boottime_ms,
        latest_boottime_ms: door.boottime_ms,
        utc_ms: door.began_utc_ms + door.boottime_ms as i64,
        uncertainty_ms: 3,
    };
    door.record(ClockState::Synced, body);
    world.store_all_of(door);
    let mut later = door.new_outbox(92);
    later.reboot(1_000, 25, ClockState::Unsynced);
    later.unsynced_tap(5);
    world.store_all_of(&mut later);
    let lost = &mut doors[2];
    lost.unsynced_tap(6);
    world.store_all_of(lost);
    world.a_day_passes();
    lost.unsynced_tap(7);
    world.store_all_of(lost);
}

/// A delivery in every state.
fn deliveries(world: &mut World, door: &mut Door) {
    let settings = DestinationSettings::http_json("http://127.0.0.1:9/").unwrap();
    let settings = serde_json::to_string(&settings).unwrap();
    let new = NewDestination { from: Since::Beginning, ..NewDestination::from_now(PAYROLL, &settings) };
    let added = deed(world, "add", PAYROLL);
    assert!(world.store().add_destination(&new, &added).unwrap());
    world.turn_at(PAYROLL, &[], 0);
    let change = deed(world, "set", PAYROLL);
    world.store().change_destination(PAYROLL, &Change::Pause, &change).unwrap();

    world.rules.on_dead = OnDead::Hold;
    let now = world.now;
    let ends =
        [Next::Delivered, Next::RetryIn(60_000), Next::UnknownFor(60_000), Next::Dead, Next::AskPerson];
    for claimed in world.claim_at(HR, ends.len()).into_iter().zip(ends) {
        world.send(&claimed.0, claimed.1);
    }
    for card in 31..=34 {
        door.tap(card);
    }
    let newcomers: Vec<_> = (31..=34).map(|card| binding(card, &format!("P-{card}"))).collect();
    world.store().bind_badges(&newcomers, now).unwrap();
    world.store_all_of(door);
    world.body = Rendered::NotWanted("only in".into());
    world.turn_at(HR, &[], 1);
    world.body = Rendered::Impossible("no zone".into());
    world.turn_at(HR, &[], 1);
    world.body = Rendered::Body("{\"tap\": true}".into());
    let claimed = world.claim_at(HR, 2);
    let mut ended = world.ended(&claimed[0], Next::PatientFor(90_000));
    ended =
        Ended { hold: Some(Hold { for_ms: 5_000, why: "it said so" }), sign: Some(Sign::Failed), ..ended };
    world.turn_at(HR, &[ended], 0);
}

/// What was told and is otherwise by now: whose it was, and which way it went.
fn told_otherwise(world: &mut World, door: &mut Door) {
    world.now.0 += 60_000;
    door.reboot(86_500_000, 26, ClockState::Synced);
    door.tap(21);
    door.tap(22);
    world.bind(&[(21, "henry"), (22, "ida")]);
    world.store_all_of(door);
    for claimed in world.claim_at(HR, 100) {
        world.send(&claimed, Next::Delivered);
    }
    assert!(world.give(21, Some("jane"), Some(EVER), None).told_otherwise > 0);
}

fn trust(world: &mut World) {
    for (n, name) in [(1, "yard-gate"), (2, "lift"), (3, "nobody-yet")] {
        put_token(world, n, name);
    }
    let (gate, lift) = (issue(world, 7, 8, 60), issue(world, 9, 10, 61));
    enroll(world, 1, gate).unwrap();
    enroll(world, 2, lift).unwrap();
    world.now.0 += 20 * 24 * 3_600_000;
    let renewed = issue(world, 11, 12, 62);
    renew(world, "yard-gate", 60, renewed).unwrap();
    set_standing(world, "lift", Standing::Revoked);
    set_standing(world, "hq-door-3", Standing::Revoked);
    let record_keys = vec![RecordKey::new(key(51))];
    world.store().put_controller(&Controller { record_keys, ..world::controller("hq-door-2") }).unwrap();
    let back = deed(world, "withdraw_token", "3");
    world.store().withdraw_enroll_token([3; 5], &back).unwrap();
}

fn talk(world: &mut World, door: &Door) {
    let now = world.now;
    let hello = door.hello(&[(door.outbox, door.last_seq().0 + 5), (OutboxId([77; 16]), 4)]);
    world.store().note_hello(&hello, now).unwrap();
    world.store().note_gone(&id("hq-door-2"), now).unwrap();
    let number = world.store().queue_command(&door.controller, &Order::RunChecks, "to see", now).unwrap();
    let end = CommandEnd { at: now, outcome: Outcome::Refused, detail: "no".into() };
    world.store().end_command(&door.controller, number, &end).unwrap();
    world.store().queue_command(&door.controller, &Order::FetchKeys, "to see", now).unwrap();
    let outbox = Some(door.outbox);
    world.store().note_trouble(&door.controller, TroubleKind::Fork, outbox, Some(Seq(3)), now).unwrap();
    let letter = DeadLetter {
        received: now,
        topic: "tap/v1/hq-door-9/batch".into(),
        kind: "unknown_controller".into(),
        reason: "nobody knows it".into(),
        bytes: vec![1, 2, 3],
    };
    world.store().quarantine(&letter).unwrap();
    world.store().take_intake("mqtts://broker as cloud-ingest", "host:/var/lib", None).unwrap();
}

/// A database with the store that version 1 wrote.
pub fn first_version_on_server() -> String {
    static TEMPLATE: LazyLock<String> = LazyLock::new(|| {
        let template = postgres_rig::shared().new_database();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/v1/postgres.sql");
        postgres_rig::shared().run_script(&template, &script).unwrap();
        template
    });
    postgres_rig::shared().new_database_from(&TEMPLATE)
}

/// A file with the store that version 1 wrote.
pub fn first_version_in_file(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(include_str!("../../../tests/stores/v1/sqlite.sql")).unwrap();
}

/// A kept store that was brought up to date: all of it is there, it proves itself, and it goes on.
#[track_caller]
pub fn is_whole_and_takes_more(store: &mut dyn EventStore) {
    world::check(store);
    assert_eq!(store.rereading().unwrap().to_look_through, 43);
    let looked = store.read_anew(9, UtcMs(1_800_000_000_000)).unwrap();
    assert!(looked.more, "{looked:?}");
    let tried = store.read_anew(9, UtcMs(1_800_000_000_000)).unwrap();
    assert_eq!((tried.read, tried.unreadable, tried.more), (0, 2, false));
    assert_eq!(store.rereading().unwrap().unreadable, 2);
    world::check(store);
    let before = store.totals().unwrap();
    assert_eq!((before.records, before.taps), (43, 24), "{before:?}");
    for state in store.destinations().unwrap() {
        let settings: Result<DestinationSettings, _> = serde_json::from_str(&state.settings);
        assert!(settings.is_ok(), "{}: {settings:?}", state.destination);
        let vouch = Worker::new(9);
        // What replicas share (limiter, breaker, shares) is read by a turn, or that is an error.
        let turned = store.turn(&Turn {
            destination: &state.destination,
            version: state.version,
            rules: &world::boundless(),
            now: UtcMs(1_800_000_000_000),
            vouch: &|| vouch.vouch(),
            ended: &[],
            under_way: &[],
            room: 0,
            render: &|_, _| Rendered::Body("{}".into()),
        });
        assert!(turned.is_ok(), "{}: {turned:?}", state.destination);
    }
    let mut door = Door::new(3).new_outbox(200);
    door.start(201, ClockState::Synced);
    (1..=3).for_each(|card| door.tap(card));
    let now = UtcMs(1_800_000_000_000);
    store.append(&[door.unsent()], now).unwrap();
    world::check(store);
    let after = store.totals().unwrap();
    assert_eq!((after.records, after.taps), (before.records + 4, before.taps + 3));
}

/// An SQLite store as a script that makes it again.
fn script_of(conn: &Connection) -> String {
    let texts = |sql: &str| -> Vec<String> {
        let mut rows = conn.prepare(sql).unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let mut script = String::from("PRAGMA foreign_keys = off;\nBEGIN;\n");
    let schema = |kind: &str| {
        format!("SELECT sql FROM sqlite_schema WHERE type = '{kind}' AND sql IS NOT NULL ORDER BY rowid")
    };
    texts(&schema("table")).iter().for_each(|sql| writeln!(script, "{sql};").unwrap());
    for table in texts("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid") {
        let columns = texts(&format!("SELECT 'quote(' || name || ')' FROM pragma_table_info('{table}')"));
        let values = columns.join(" || ', ' || ");
        for row in texts(&format!("SELECT {values} FROM {table}")) {
            writeln!(script, "INSERT INTO {table} VALUES ({row});").unwrap();
        }
    }
    texts(&schema("index")).iter().for_each(|sql| writeln!(script, "{sql};").unwrap());
    writeln!(script, "PRAGMA application_id = 1415671907;\nPRAGMA user_version = {version};\nCOMMIT;")
        .unwrap();
    script
}

/// Where to keep the stores that a test has made, if somebody wants them.
#[expect(clippy::disallowed_methods, reason = "a person's switch of a test, not configuration")]
fn shelf() -> Option<std::path::PathBuf> {
    std::env::var("KEEP_STORES").ok().map(|folder| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    })
}

/// The tables of version 1 are filled above. What came later must be, too, before the stores of a version are kept.
#[track_caller]
fn has_something_of_everything(tables: &[(String, u64)]) {
    let first = include_str!("../../../tests/stores/v1/sqlite.sql");
    let must_be_filled = |name: &str| shelf().is_some() || first.contains(&format!("CREATE TABLE {name} "));
    let empty: Vec<&str> = tables.iter().filter(|(_, rows)| *rows == 0).map(|(name, _)| &**name).collect();
    let missing: Vec<&str> = empty.into_iter().filter(|name| must_be_filled(name)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn a_keepsake_in_a_file_has_something_of_everything() {
    let file = InFile::new();
    let folder = file.dir.path().to_owned();
    let mut world = World::new(Box::new(file));
    fill(&mut world);
    let conn = Connection::open(folder.join("store.db")).unwrap();
    let mut named = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let names: Vec<String> = named.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let count = |name: &String| {
        conn.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get::<_, u64>(0)).unwrap()
    };
    let tables: Vec<(String, u64)> = names.iter().map(|name| (name.clone(), count(name))).collect();
    has_something_of_everything(&tables);
    if let Some(shelf) = shelf() {
        std::fs::write(shelf.join("sqlite.sql"), script_of(&conn)).unwrap();
    }
}

#[test]
fn a_keepsake_on_a_server_has_something_of_everything() {
    let server = OnServer::new();
    let database = server.database.clone();
    let mut world = World::new(Box::new(server));
    fill(&mut world);
    let cluster = postgres_rig::shared();
    let named = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let count = |name: &str| {
        let rows = cluster.query(&database, &format!("SELECT count(*) FROM {name}")).unwrap();
        (name.to_owned(), rows.parse().unwrap())
    };
    let tables: Vec<(String, u64)> = cluster.query(&database, named).unwrap().lines().map(count).collect();
    has_something_of_everything(&tables);
    if let Some(shelf) = shelf() {
        // Random words that keep psql from running what a foreign server's dump has slipped in; older ones know none.
        let script = cluster.dump(&database).unwrap();
        let lines = script
            .lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
        std::fs::write(shelf.join("postgres.sql"), lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    }
}

#[test]
fn a_file_of_the_first_version_becomes_what_a_new_one_is_and_works() {
    let folder = tempfile::tempdir().unwrap();
    let [old, fresh] = ["old.db", "fresh.db"].map(|name| folder.path().join(name));
    first_version_in_file(&old);
    let refused = SqliteStore::open(&old, UtcMs(1)).unwrap_err();
    assert!(crate::telemetry::with_causes(&refused).contains("cloud-ingest store migrate"), "{refused:?}");
    assert_eq!(SqliteStore::plan(&old).unwrap().from, 1);
    let migrated = SqliteStore::migrate(&old, UtcMs(1), &mut |_| {}).unwrap();
    assert_eq!(migrated, Migrated { from: 1, to: VERSION });
    drop(SqliteStore::open(&fresh, UtcMs(1)).unwrap());
    assert_eq!(shape(&old), shape(&fresh));
    is_whole_and_takes_more(&mut SqliteStore::open(&old, UtcMs(1)).unwrap());
}

/// All that a file's schema says, one white space like another.
fn shape(path: &Path) -> Vec<String> {
    let conn = Connection::open(path).unwrap();
    let mut rows = conn.prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name").unwrap();
    let rows =
        rows.query_map([], |row| Ok(format!("{}: {}", row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    let words = |row: String| row.split_whitespace().collect::<Vec<_>>().join(" ");
    rows.unwrap().map(|row| words(row.unwrap())).collect()
}
