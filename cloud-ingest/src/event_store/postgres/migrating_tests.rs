//! A server's store is brought up to date: once, by one of several, beside services that run, and never half.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres_rig::shared;

use super::*;
use crate::event_store::contract::keepsake::{self, first_version_on_server};
use crate::event_store::contract::world;
use crate::event_store::migrations::{Migrated, Told, VERSION};
use crate::event_store::{EventStore, Site};

const NOW: UtcMs = UtcMs(1_800_000_000_000);

fn address_of(database: &str) -> Address {
    Address::new(&shared().url(database), None, None).unwrap()
}

fn raw(database: &str) -> Client {
    Client::connect(&shared().url(database), postgres::NoTls).unwrap()
}

/// Says why it was refused.
#[track_caller]
fn refusal<T: std::fmt::Debug>(done: Result<T, StoreError>) -> String {
    crate::telemetry::with_causes(&done.unwrap_err())
}

/// Columns, indexes, constraints and rights, as the catalogue has them; not in which order they came to be, nor how many
/// partitions follow the first, which depends on what is stored.
const SHAPE: &str = "
    SELECT * FROM (SELECT 'column', table_name::text, column_name::text, concat_ws(' ', data_type, collation_name, is_nullable,
        column_default, is_identity) FROM information_schema.columns WHERE table_schema = current_schema()
    UNION ALL SELECT 'index', tablename::text, indexname::text, indexdef FROM pg_indexes WHERE schemaname = current_schema()
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = current_schema()::regnamespace
    UNION ALL SELECT 'options', relname::text, relkind::text, concat_ws(' ', reloptions::text, relacl::text, relpersistence)
        FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'S')
    UNION ALL SELECT 'function', proname::text, '', concat_ws(' ', prosrc, prosecdef, proacl::text) FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace) AS all_of_it (what, relation, name, how)
    WHERE relation !~ '^(events|taps)_[0-9]{2,}$'
    ORDER BY 1, 2, 3, 4";

#[test]
fn a_store_of_the_first_version_becomes_what_a_new_one_is_and_works() {
    let old = first_version_on_server();
    let mut told = Vec::new();
    let migrated = PostgresStore::migrate(&address_of(&old), NOW, &mut |one| told.push(one)).unwrap();
    assert_eq!(migrated, Migrated { from: 1, to: VERSION });
    assert_eq!(told.last(), Some(&Told::Reached(VERSION)));
    let fresh = shared().new_database();
    drop(PostgresStore::open(address_of(&fresh), NOW).unwrap());
    let shape = |database: &str| shared().query(database, SHAPE).unwrap();
    let (is, should_be) = (shape(&old), shape(&fresh));
    let lines = |shape: &str| shape.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&is), lines(&should_be));
    assert!(is.lines().count() > 200, "{}", is.lines().count());
    let mut store = PostgresStore::open(address_of(&old), NOW).unwrap();
    keepsake::is_whole_and_takes_more(&mut store);
}

#[test]
fn a_store_is_not_used_before_it_is_up_to_date_and_nobody_changes_it_by_opening_it() {
    let old = first_version_on_server();
    for refused in [
        refusal(PostgresStore::open(address_of(&old), NOW)),
        refusal(PostgresStore::open_reader(address_of(&old))),
    ] {
        assert!(refused.contains("has schema version 1") && refused.contains("store migrate"), "{refused}");
    }
    let plan = PostgresStore::plan(&address_of(&old)).unwrap();
    assert_eq!((plan.from, plan.to, plan.may, plan.too_old), (1, VERSION, true, vec![]));
    assert_eq!(shared().query(&old, "SELECT version FROM schema_version").unwrap(), "1");
}

#[test]
fn of_several_that_come_at_once_one_does_it() {
    let old = first_version_on_server();
    let all: Vec<_> = (0..4)
        .map(|_| {
            let address = address_of(&old);
            thread::spawn(move || {
                let mut reached = 0;
                PostgresStore::migrate(&address, NOW, &mut |told| {
                    reached += usize::from(matches!(told, Told::Reached(_)));
                })
                .unwrap();
                reached
            })
        })
        .collect();
    let reached: usize = all.into_iter().map(|one| one.join().unwrap()).sum();
    assert_eq!(reached, VERSION - 1);
    drop(PostgresStore::open(address_of(&old), NOW).unwrap());
}

#[test]
fn a_program_of_the_first_version_that_still_runs_is_named_and_nothing_is_changed() {
    let old = first_version_on_server();
    let mut running = raw(&old);
    running.batch_execute("SET application_name = 'cloud-ingest'").unwrap();
    let plan = PostgresStore::plan(&address_of(&old)).unwrap();
    assert_eq!(plan.too_old.len(), 1);
    let refused = refusal(PostgresStore::migrate(&address_of(&old), NOW, &mut |_| {}));
    assert!(refused.contains("stop them first (cloud-ingest as tapline, process"), "{refused}");
    assert_eq!(shared().query(&old, "SELECT version FROM schema_version").unwrap(), "1");
    running.batch_execute("SET application_name = 'psql'").unwrap();
    PostgresStore::migrate(&address_of(&old), NOW, &mut |_| {}).unwrap();
}

/// A reader that takes long (a `pg_dump`, say) keeps the migration from its locks: it gives way again and again instead of
/// making everybody wait behind it, says who it is, and is done when the reader is.
#[test]
fn whoever_reads_for_long_is_named_and_nobody_waits_behind_the_migration() {
    let old = first_version_on_server();
    let mut reader = raw(&old);
    reader
        .batch_execute("SET application_name = 'nightly-report'; BEGIN; SELECT count(*) FROM destinations")
        .unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let migrating = thread::spawn({
        let address = address_of(&old);
        move || PostgresStore::migrate(&address, NOW, &mut |one| told.send(one).unwrap())
    });
    let in_the_way = heard.iter().find_map(|told| match told {
        Told::InTheWay { by, .. } => Some(by),
        _ => None,
    });
    let in_the_way = in_the_way.unwrap();
    assert_eq!(in_the_way[0].program, "nightly-report", "{in_the_way:?}");
    // It holds nothing now: whoever comes is served.
    shared().query(&old, "SELECT count(*) FROM destinations").unwrap();
    reader.batch_execute("COMMIT").unwrap();
    assert_eq!(migrating.join().unwrap().unwrap().to, VERSION);
}

#[test]
fn a_role_that_may_not_change_tables_says_so_and_names_the_command() {
    let old = first_version_on_server();
    let role = format!("service_of_{old}");
    shared().query(&old, &format!("CREATE ROLE {role} LOGIN")).unwrap();
    shared().query(&old, &format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")).unwrap();
    let address = Address::new(&shared().url_as(&role, &old), None, None).unwrap();
    assert!(!PostgresStore::plan(&address).unwrap().may);
    let refused = refusal(PostgresStore::migrate(&address, NOW, &mut |_| {}));
    assert!(refused.contains("with the owner's [store] url"), "{refused}");
}

#[test]
fn a_later_version_is_worked_with_if_it_lets_us_and_a_running_program_stops_writing_if_not() {
    let database = shared().new_database();
    let mut store = PostgresStore::open(address_of(&database), NOW).unwrap();
    store.put_site(&world::hq()).unwrap();
    shared().query(&database, "UPDATE schema_version SET version = 98").unwrap();
    store.put_site(&world::hq()).unwrap();
    drop(PostgresStore::open(address_of(&database), NOW).unwrap());
    shared().query(&database, "UPDATE schema_version SET version = 99").unwrap();
    shared().query(&database, "UPDATE store SET oldest_program = 99").unwrap();
    let stopped = store.put_site(&Site { id: "new".into(), ..world::hq() });
    assert!(
        stopped.as_ref().unwrap_err().is_retryable(),
        "nothing is put aside that a newer program can store"
    );
    assert!(refusal(stopped).contains("by a newer cloud-ingest"));
    assert!(refusal(PostgresStore::open(address_of(&database), NOW)).contains("by a newer cloud-ingest"));
    assert_eq!(shared().query(&database, "SELECT count(*) FROM sites").unwrap(), "1");
}

/// A hundred thousand taps, and more that come meanwhile. How long they waited is printed, not judged: that is the machine's.
#[test]
fn taps_flow_on_while_a_store_of_a_hundred_thousand_is_brought_up_to_date() {
    let old = first_version_on_server();
    // Rows as they are, under later positions; what they say does not matter to what is measured.
    shared()
        .query(
            &old,
            "INSERT INTO events SELECT last_position + n, 1000 + n, 1, received_ms, kind, bytes, hash FROM events, store, \
             generate_series(1, 100000) n WHERE position = 1; UPDATE store SET last_position = last_position + 100000",
        )
        .unwrap();
    let over = AtomicBool::new(false);
    let (longest, count) = thread::scope(|scope| {
        // What a writer of any version does first, and what it does last.
        let writer = scope.spawn(|| {
            let mut client = raw(&old);
            let (mut longest, mut count) = (Duration::ZERO, 0u32);
            while !over.load(Ordering::Relaxed) {
                #[expect(clippy::disallowed_methods, reason = "a stopwatch: what is printed is for people")]
                let begun = Instant::now();
                let mut turn = client.transaction().unwrap();
                turn.execute("SELECT 1 FROM store FOR UPDATE", &[]).unwrap();
                turn.execute("UPDATE store SET attempts = attempts", &[]).unwrap();
                turn.commit().unwrap();
                longest = longest.max(begun.elapsed());
                count += 1;
            }
            (longest, count)
        });
        PostgresStore::migrate(&address_of(&old), NOW, &mut |_| {}).unwrap();
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    println!("{count} writers' turns beside the migration, the longest took {longest:?}");
    assert!(count > 0);
}
