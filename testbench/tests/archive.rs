//! Old events leave the store for files while taps go on, and the archive is killed wherever it may be: all that was ever
//! stored is in the store or in a file that proves itself, and nothing is told twice. Real processes, on both stores.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rusqlite::Connection;
use serde_json::Value;
use testbench::{
    oracle::check_promise,
    rig::{program_path, wait_until},
    site::{CONTROLLER, HEALS_WITHIN, Site, SiteOptions, StoreKind},
};

const RANGE: u64 = 20;

/// Changes the store behind the service's back, as its owner.
fn run(site: &Site, sql: &str) {
    match &site.store {
        Some(server) => {
            server.query(sql).unwrap();
        }
        None => {
            let store = Connection::open(site.store_path()).unwrap();
            store.busy_timeout(HEALS_WITHIN).unwrap();
            store.execute_batch(sql).unwrap();
        }
    }
}

/// Ranges have so few positions that a test fills them.
fn small_ranges(site: &Site) {
    match &site.store {
        None => run(site, &format!("UPDATE archiving SET range_size = {RANGE}")),
        Some(_) => run(
            site,
            &format!(
                "ALTER TABLE events DETACH PARTITION events_1; ALTER TABLE events_1 RENAME TO old_events;
                 ALTER TABLE taps DETACH PARTITION taps_1; ALTER TABLE taps_1 RENAME TO old_taps;
                 ALTER TABLE old_events RENAME CONSTRAINT events_1_pkey TO old_events_pkey;
                 ALTER TABLE old_taps RENAME CONSTRAINT taps_1_pkey TO old_taps_pkey;
                 DO $$ DECLARE r RECORD; BEGIN FOR r IN SELECT from_position FROM ranges WHERE from_position > 1 LOOP
                 EXECUTE format('DROP TABLE events_%s, taps_%1$s', r.from_position); END LOOP; END $$;
                 DELETE FROM ranges; UPDATE archiving SET range_size = {RANGE}; INSERT INTO ranges VALUES (0, 1);
                 SELECT make_ranges(); DELETE FROM ranges WHERE from_position = 0;
                 INSERT INTO events SELECT * FROM old_events; INSERT INTO taps SELECT * FROM old_taps;
                 DROP TABLE old_events, old_taps"
            ),
        ),
    }
}

/// All that is stored by now was received forty days ago.
fn age(site: &Site) {
    run(site, &format!("UPDATE events SET received_ms = received_ms - {}", 40_i64 * 86_400_000));
}

fn archive(site: &Site, crash_at: Option<&str>) -> Output {
    let mut command = Command::new(program_path("cloud-ingest").unwrap());
    let day = "2026-10-15T00:00:00Z";
    command.args(["events", "archive", "--before", day, "--output", "json", "--config"]);
    command.arg(site.dir().join("cloud-ingest.toml"));
    command.envs(crash_at.map(|point| ("CRASH_AT", point)));
    command.output().unwrap()
}

fn json(said: &[u8]) -> Value {
    serde_json::from_slice(said).unwrap()
}

fn segments(site: &Site) -> Vec<PathBuf> {
    let listed = json(site.cloud_cli(&["events", "archive", "list", "--output", "json"]).unwrap().as_bytes());
    let files = listed["segments"].as_array().unwrap().iter();
    files.map(|segment| site.dir().join("cloud/segments").join(segment["file"].as_str().unwrap())).collect()
}

async fn tap(site: &Site, count: usize) {
    for n in 0..count {
        site.tap(n % 20).await.expect("the door needs no cloud");
    }
}

async fn delivered(site: &Site, taps: u64) {
    wait_until("everything to be delivered", HEALS_WITHIN, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.balanced && ledger.in_state("delivered") == taps)
    })
    .await;
}

/// The store and its files hold, and between them have everything.
fn all_holds(site: &Site) {
    let folder = site.dir().join("cloud/segments").display().to_string();
    let verify = ["events", "verify", "--segments", &folder, "--output", "json"];
    let verified = json(site.cloud_cli(&verify).unwrap().as_bytes());
    let ledger = json(site.cloud_cli(&["ledger", "--output", "json"]).unwrap().as_bytes());
    assert_eq!((&verified["holds"], &verified["records"]), (&true.into(), &ledger["records"]), "{verified}");
}

async fn the_archive_is_killed_everywhere(store: StoreKind) {
    let mut site = Site::start(SiteOptions { store, ..SiteOptions::default() }).await.unwrap();
    let mut greens = Vec::new();
    for n in 0..70 {
        greens.push(site.tap(n % 20).await.unwrap());
    }
    delivered(&site, 70).await;
    check_promise(&site, &greens).await.unwrap();
    site.kill_cloud().unwrap();
    small_ranges(&site);
    age(&site);
    site.start_cloud(&[]).await.unwrap();

    let mut taps = 70;
    for point in cloud_ingest::crash::ARCHIVE_POINTS {
        let ended = archive(&site, Some(point));
        assert_eq!(ended.status.code(), None, "{point}: {ended:?}");
        all_holds(&site);
        tap(&site, 5).await;
        taps += 5;
        delivered(&site, taps).await;
    }
    let done = archive(&site, None);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let done = json(&done.stdout);
    assert_eq!(
        (&done["removed"], done["kept"]["kept_for"][0]["why"].as_str()),
        (&true.into(), Some("young"))
    );
    all_holds(&site);

    // Nothing is left but what is too young, and every file proves itself to whoever has no store.
    let files = segments(&site);
    assert!(files.len() >= 3, "{files:?}");
    let there = fs::read_dir(site.dir().join("cloud/segments")).unwrap().map(|entry| entry.unwrap().path());
    let mut there: Vec<_> = there.filter(|path| path.extension().is_some_and(|end| end == "gz")).collect();
    there.sort();
    assert_eq!(there, files, "no draft and no file that nobody knows of is left");
    for file in &files {
        let file = file.display().to_string();
        let shown =
            testbench::site::run("cloud-ingest", &["events", "archive", "show", &file, "--output", "json"]);
        assert_eq!(json(shown.unwrap().as_bytes())["records"], RANGE);
        let exported = testbench::site::run("cloud-ingest", &["events", "archive", "export", &file]).unwrap();
        assert!(exported.lines().count() as u64 > RANGE, "{exported}");
    }
    let rows = |table: &str| {
        format!("SELECT count(*) FROM {table} WHERE position <= {}", files.len() as u64 * RANGE)
    };
    for table in ["events", "taps", "deliveries", "attempts"] {
        let left = match &site.store {
            Some(server) => server.query(&rows(table)).unwrap(),
            None => {
                let store = Connection::open(site.store_path()).unwrap();
                store.query_row(&rows(table), [], |row| row.get::<_, i64>(0)).unwrap().to_string()
            }
        };
        assert_eq!(left, "0", "{table}");
    }

    // An archived tap is named with its file; proofs are written of what is in a file, and of what is here.
    let first = &greens[0].event_id;
    let why = site.cloud_cli(&["events", "get", first]).unwrap_err().to_string();
    assert!(why.contains(files[0].file_name().unwrap().to_str().unwrap()), "{why}");
    let (status, said) = site.get_text(&format!("/api/v1/events/{first}")).await.unwrap();
    assert!(status == 410 && said.contains("segment-"), "{status}: {said}");
    let proof = |name: &str| site.dir().join(name).display().to_string();
    site.cloud_cli(&["controllers", "proof", CONTROLLER, "--out", &proof("here.proof")]).unwrap();
    for (n, file) in files.iter().enumerate() {
        let (out, file) = (proof(&format!("{n}.proof")), file.display().to_string());
        site.cloud_cli(&["controllers", "proof", CONTROLLER, "--out", &out, "--segment", &file]).unwrap();
    }

    tap(&site, 10).await;
    delivered(&site, taps + 10).await;
    site.kill_cloud().unwrap();
    site.start_cloud(&[]).await.unwrap();
    tap(&site, 5).await;
    delivered(&site, taps + 15).await;
    all_holds(&site);
    assert_eq!(site.cloud_ledger().await.unwrap().taps, taps + 15, "nothing came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_is_killed_everywhere_beside_a_service_on_a_file() {
    the_archive_is_killed_everywhere(StoreKind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_is_killed_everywhere_beside_a_service_on_a_server() {
    the_archive_is_killed_everywhere(StoreKind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_young_or_still_waits_is_not_archived_and_a_dry_run_changes_nothing() {
    let mut site = Site::start(SiteOptions { unbound: true, ..SiteOptions::default() }).await.unwrap();
    tap(&site, 30).await;
    wait_until("everything to be stored", HEALS_WITHIN, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.taps == 30)
    })
    .await;
    site.kill_cloud().unwrap();
    small_ranges(&site);
    age(&site);
    site.start_cloud(&[]).await.unwrap();
    let said = site.cloud_cli(&["events", "archive", "--before", "2999-01-01T00:00:00Z"]).unwrap_err();
    assert!(said.to_string().contains("less than 35 days ago"), "{said}");
    let dry = ["events", "archive", "--before", "2026-10-15T00:00:00Z", "--dry-run", "--output", "json"];
    let waits = json(site.cloud_cli(&dry).unwrap().as_bytes());
    assert_eq!(waits["ranges"], Value::Array(vec![]));
    let why = &waits["kept"]["kept_for"][0];
    assert_eq!((&why["why"], &why["state"]), (&"deliveries".into(), &"held".into()), "{waits}");
    site.bind_badges().unwrap();
    delivered(&site, 30).await;
    let goes = json(site.cloud_cli(&dry).unwrap().as_bytes());
    assert_eq!((&goes["ranges"][0]["from"], &goes["ranges"][0]["to"]), (&1.into(), &RANGE.into()), "{goes}");
    assert!(!site.dir().join("cloud/segments").exists(), "a dry run writes nothing");
    assert!(segments(&site).is_empty());
}
