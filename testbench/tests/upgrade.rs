//! A store that is older than the program, and a store on a server that was put back from a dump: real processes, real
//! PostgreSQL, the whole chain.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testbench::{
    oracle::check_promise,
    rig::{program_path, wait_until},
    site::{CONTROLLER, Green, HEALS_WITHIN, Site, SiteOptions, StoreKind},
};

/// The points in the middle of a migration, in the order in which it meets them.
const POINTS: [&str; 2] = cloud_ingest::crash::MIGRATION_POINTS;

/// The schema version that a store has which was killed at each of them.
const LEFT: [u64; 2] = [1, 2];

fn json(said: &str) -> Value {
    serde_json::from_str(said).unwrap()
}

/// Stores as version 1 wrote them.
fn first_version(database: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cloud-ingest/tests/stores/v1").join(database)
}

/// `store migrate` by hand, with these words and this environment.
fn migrate(site: &Site, words: &[&str], env: &[(&str, &str)]) -> std::process::Output {
    let mut command = Command::new(program_path("cloud-ingest").unwrap());
    command
        .args(["store", "migrate", "--output", "json", "--config"])
        .arg(site.dir().join("cloud-ingest.toml"));
    command.args(words).envs(env.iter().copied()).output().unwrap()
}

/// The site's cloud is stopped and its store is one of version 1.
fn with_a_store_of_the_first_version(site: &mut Site) {
    if site.cloud.is_some() {
        site.kill_cloud().unwrap();
    }
    match &site.store {
        None => {
            for beside in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{beside}", site.store_path().display()));
            }
            let script = std::fs::read_to_string(first_version("sqlite.sql")).unwrap();
            rusqlite::Connection::open(site.store_path()).unwrap().execute_batch(&script).unwrap();
        }
        Some(server) => {
            server.drop_database().unwrap();
            server.postgres.run_script(&server.database, &first_version("postgres.sql")).unwrap();
        }
    }
}

async fn is_killed_in_the_middle_and_comes_to_its_end(store: StoreKind) {
    let mut site = Site::start(SiteOptions { store, ..SiteOptions::default() }).await.unwrap();
    for (point, left) in POINTS.into_iter().zip(LEFT) {
        with_a_store_of_the_first_version(&mut site);
        let planned = migrate(&site, &["--dry-run"], &[]);
        assert!(planned.status.success(), "{planned:?}");
        let planned = json(&String::from_utf8(planned.stdout).unwrap());
        assert_eq!((&planned["from"], &planned["to"]), (&1.into(), &2.into()), "{planned}");
        let killed = migrate(&site, &[], &[("CRASH_AT", point)]);
        assert!(!killed.status.success(), "{point}: {killed:?}");
        let planned = json(&String::from_utf8(migrate(&site, &["--dry-run"], &[]).stdout).unwrap());
        assert_eq!(planned["from"], left, "{point}");
        let done = migrate(&site, &[], &[]);
        assert!(done.status.success(), "{point}: {done:?}");
        let verified = json(&site.cloud_cli(&["events", "verify", "--output", "json"]).unwrap());
        assert_eq!((&verified["holds"], &verified["records"]), (&true.into(), &43.into()), "{verified}");
    }
    // A service that starts over an older store brings it up to date by itself, and takes taps in.
    with_a_store_of_the_first_version(&mut site);
    site.start_cloud(&[]).await.unwrap();
    let ledger = site.cloud_ledger().await.unwrap();
    assert!(ledger.balanced && ledger.records >= 43, "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_killed_leaves_the_old_version_or_the_new_one_in_a_file() {
    is_killed_in_the_middle_and_comes_to_its_end(StoreKind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_killed_leaves_the_old_version_or_the_new_one_on_a_server() {
    is_killed_in_the_middle_and_comes_to_its_end(StoreKind::Postgres).await;
}

async fn tap(site: &Site, count: usize) -> Vec<Green> {
    let mut greens = Vec::new();
    for n in 0..count {
        greens.push(site.tap(n % 20).await.unwrap());
    }
    greens
}

async fn receipted(site: &Site) {
    wait_until("everything to have a receipt", HEALS_WITHIN, &[], async || {
        site.edge_status().await.is_ok_and(|status| status.pending == 0)
    })
    .await;
}

async fn delivered(site: &Site, taps: u64) {
    wait_until("everything to be delivered", HEALS_WITHIN, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("delivered") == taps)
    })
    .await;
}

/// The drill of `docs/backup.md`, with and without the word that a backup was put back.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_was_put_back_on_a_server_is_noticed_and_healed_by_the_word() {
    let options = SiteOptions { store: StoreKind::Postgres, ..SiteOptions::default() };
    let mut site = Site::start(options).await.unwrap();
    let mut greens = tap(&site, 60).await;
    receipted(&site).await;
    let dump = site.dir().join("store.dump");
    site.store.as_ref().unwrap().dump(&dump).unwrap();
    greens.extend(tap(&site, 90).await);
    receipted(&site).await;
    delivered(&site, 150).await;

    site.kill_cloud().unwrap();
    let server = site.store.as_ref().unwrap();
    server.drop_database().unwrap();
    server.restore(&dump).unwrap();
    site.start_cloud(&[]).await.unwrap();
    wait_until("the cloud to notice", HEALS_WITHIN, &[], async || {
        // The next hello tells; one is asked for here, as often as it takes until somebody hears it.
        let _ = site.edge_cli(&["test-connection"]);
        let (status, body) = site.get_text("/health/ready").await.unwrap_or_default();
        status == 503 && body.contains("cloud-ingest store restored")
    })
    .await;
    let listed = json(&site.cloud_cli(&["controllers", "list", "--output", "json"]).unwrap()).to_string();
    assert!(listed.contains(CONTROLLER) && listed.contains("store_rewound"), "{listed}");

    site.kill_cloud().unwrap();
    let restored = json(&site.cloud_cli(&["store", "restored", "--output", "json"]).unwrap());
    assert!(restored["store_epoch"].as_u64() > restored["store_epoch_before"].as_u64(), "{restored}");
    site.start_cloud(&[]).await.unwrap();
    greens.extend(tap(&site, 30).await);
    delivered(&site, 180).await;
    receipted(&site).await;
    check_promise(&site, &greens).await.unwrap();
    let ledger = site.cloud_ledger().await.unwrap();
    assert_eq!((ledger.taps, ledger.balanced), (180, true), "{ledger:?}");
    let verified = json(&site.cloud_cli(&["events", "verify", "--output", "json"]).unwrap());
    assert_eq!((&verified["holds"], &verified["found"]), (&true.into(), &0.into()), "{verified}");
}
