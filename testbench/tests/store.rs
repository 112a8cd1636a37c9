//! The store's file as an operator meets it: a backup beside the running service, the day it is put back, with and
//! without the word that says so. Real taps, real processes, the whole chain.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tap_protocol::record::{Body, LossReason, Record};
use testbench::{
    oracle::check_promise,
    rig::wait_until,
    site::{CONTROLLER, Green, HEALS_WITHIN, Site, SiteOptions, StoreKind},
};

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

/// What a stick brings and the network then brings again.
#[tokio::test(flavor = "multi_thread")]
async fn taps_that_came_on_a_stick_are_delivered_once_though_the_network_comes_back() {
    let site = Site::start(SiteOptions::default()).await.unwrap();
    let mut greens = tap(&site, 30).await;
    receipted(&site).await;
    site.uplink.cut().await.unwrap();
    greens.extend(tap(&site, 600).await);
    let stick = site.dir().join("stick.export").display().to_string();
    let exported = site.edge_cli(&["outbox", "export", "--to", &stick]).unwrap();
    assert!(exported.status.success(), "{exported:?}");
    let import = || json(&site.cloud_cli(&["import", &stick, "--output", "json"]).unwrap());
    let imported = import();
    assert_eq!(imported["complete"], true, "{imported}");
    let new = imported["new_records"].as_u64().unwrap();
    assert!((600..640).contains(&new), "{imported}");
    delivered(&site, 630).await;

    greens.extend(tap(&site, 20).await);
    site.uplink.restore().await.unwrap();
    delivered(&site, 650).await;
    receipted(&site).await;
    let again = import();
    assert_eq!((&again["new_records"], &again["complete"]), (&0.into(), &true.into()), "{again}");
    check_promise(&site, &greens).await.unwrap();
    assert_eq!(json(&site.cloud_cli(&["events", "verify", "--output", "json"]).unwrap())["holds"], true);
}

/// What a controller brought late is in the list of the day on which it happened, whole and in order, on both stores.
#[tokio::test(flavor = "multi_thread")]
async fn all_taps_of_a_stretch_of_time_are_listed_as_csv_and_as_json_lines() {
    for store in StoreKind::ALL {
        let site = Site::start(SiteOptions { store, ..SiteOptions::default() }).await.unwrap();
        tap(&site, 30).await;
        receipted(&site).await;
        delivered(&site, 30).await;
        let ever = ["--from", "2000-01-01", "--to", "2100-01-01"];
        let list = |more: &[&str]| site.cloud_cli(&[&["events", "list"], more].concat());
        let csv = list(&[&ever[..], &["--output", "csv"]].concat()).unwrap();
        let lines: Vec<Vec<&str>> = csv.split("\r\n").map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 32, "a header, the taps, and the end of the last line: {csv}");
        let column = |name: &str| lines[0].iter().position(|known| *known == name).unwrap();
        let (time, person, state) = (column("utc_time"), column("person"), column("legacy_state"));
        let taps = &lines[1..31];
        assert!(taps.is_sorted_by_key(|line| line[time]), "{csv}");
        assert!(taps.iter().all(|line| line[person].starts_with('E') && line[state] == "delivered"), "{csv}");
        assert!(taps.iter().all(|line| line.len() == lines[0].len()), "{csv}");

        let jsonl = list(&[&ever[..], &["--site", "hq", "--output", "jsonl"]].concat()).unwrap();
        let told: Vec<Value> = jsonl.lines().map(json).collect();
        let ids: Vec<_> = told.iter().map(|tap| tap["event_id"].as_str().unwrap()).collect();
        assert_eq!(ids, taps.iter().map(|line| line[column("event_id")]).collect::<Vec<_>>());
        let none = list(&["--day", "2001-01-01", "--output", "csv"]).unwrap();
        assert_eq!(none.lines().count(), 1, "the header alone: {none}");
        for (wrong, why) in [
            (vec!["--day", "2001-01-01"], "--output csv or --output jsonl"),
            (vec!["--output", "csv"], "say which taps"),
            (vec!["--day", "2001-01-01", "--site", "moon", "--output", "csv"], "there is no site"),
            (vec!["--from", "2002-01-01", "--to", "2001-01-01", "--output", "csv"], "ends before it begins"),
            (vec!["--day", "today", "--output", "csv"], "no date or time"),
        ] {
            let said = list(&wrong).unwrap_err().to_string();
            assert!(said.contains(why), "{wrong:?} says: {said}");
        }
    }
}

fn json(said: &str) -> Value {
    serde_json::from_str(said).unwrap()
}

fn back_up(site: &Site) -> PathBuf {
    let out = site.dir().join("backup.db");
    let said = site.cloud_cli(&["store", "backup", "--out", &out.display().to_string(), "--output", "json"]);
    assert!(json(&said.unwrap())["records"].as_u64().unwrap() > 0);
    out
}

/// The disk died: what is there now is the backup.
fn put_back(site: &mut Site, backup: &PathBuf) {
    site.kill_cloud().unwrap();
    let store = site.store_path();
    for beside in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{beside}", store.display()));
    }
    std::fs::copy(backup, store).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_backup_was_put_back_controllers_send_again_and_nothing_is_doubled() {
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    let mut greens = tap(&site, 100).await;
    receipted(&site).await;
    let backup = back_up(&site);
    greens.extend(tap(&site, 150).await);
    receipted(&site).await;
    delivered(&site, 250).await;
    let refused = site.cloud_cli(&["store", "restored"]).unwrap_err().to_string();
    assert!(refused.contains("stop it first"), "{refused}");

    put_back(&mut site, &backup);
    let restored = json(&site.cloud_cli(&["store", "restored", "--output", "json"]).unwrap());
    assert!(restored["store_epoch"].as_u64() > restored["store_epoch_before"].as_u64(), "{restored}");
    let from = restored["outboxes"][0]["from"].as_u64().unwrap();
    assert!((101..=250).contains(&from), "{restored}");
    site.start_cloud(&[]).await.unwrap();
    greens.extend(tap(&site, 50).await);
    delivered(&site, 300).await;
    receipted(&site).await;
    check_promise(&site, &greens).await.unwrap();
    let verified = json(&site.cloud_cli(&["events", "verify", "--output", "json"]).unwrap());
    assert_eq!((&verified["holds"], &verified["found"]), (&Value::Bool(true), &0.into()), "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_put_back_in_silence_is_noticed_and_healed_by_the_word() {
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    let mut greens = tap(&site, 40).await;
    receipted(&site).await;
    let backup = back_up(&site);
    greens.extend(tap(&site, 40).await);
    receipted(&site).await;
    delivered(&site, 80).await;
    put_back(&mut site, &backup);
    site.start_cloud(&[]).await.unwrap();
    // The next hello tells; one is asked for here.
    site.edge_cli(&["test-connection"]).unwrap();
    wait_until("the cloud to notice", HEALS_WITHIN, &[], async || {
        let (status, body) = site.get_text("/health/ready").await.unwrap_or_default();
        status == 503 && body.contains("cloud-ingest store restored")
    })
    .await;
    let listed = json(&site.cloud_cli(&["controllers", "list", "--output", "json"]).unwrap()).to_string();
    assert!(listed.contains(CONTROLLER) && listed.contains("store_rewound"), "{listed}");

    site.kill_cloud().unwrap();
    site.cloud_cli(&["store", "restored"]).unwrap();
    site.start_cloud(&[]).await.unwrap();
    greens.extend(tap(&site, 20).await);
    delivered(&site, 100).await;
    receipted(&site).await;
    check_promise(&site, &greens).await.unwrap();
    site.edge_cli(&["test-connection"]).unwrap();
    wait_until("the cloud to be content", HEALS_WITHIN, &[], async || {
        site.get_text("/health/ready").await.is_ok_and(|(status, _)| status == 200)
    })
    .await;
}

/// What a controller deleted because the cloud had confirmed it is gone when the cloud forgets it: it is named, number by
/// number, and everything that is left comes once more.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pruned_before_the_cloud_was_restored_is_named_as_lost() {
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    tap(&site, 40).await;
    receipted(&site).await;
    let backup = back_up(&site);
    tap(&site, 60).await;
    receipted(&site).await;
    delivered(&site, 100).await;
    let mut edge = site.edge.take().expect("edge-agent runs");
    edge.terminate(Duration::from_secs(15)).await.unwrap();
    let pruned = site.edge_cli(&["outbox", "prune", "--yes", "--output", "json"]).unwrap();
    let pruned: Value = serde_json::from_slice(&pruned.stdout).unwrap();
    assert!(pruned["records"].as_u64().unwrap() >= 100, "{pruned}");

    put_back(&mut site, &backup);
    let stored = json(&site.cloud_cli(&["store", "restored", "--output", "json"]).unwrap());
    let from = stored["outboxes"][0]["from"].as_u64().unwrap();
    site.start_cloud(&[]).await.unwrap();
    site.start_edge().await.unwrap();
    tap(&site, 25).await;
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("what is gone to be named and the rest to be stored", HEALS_WITHIN, &logs, async || {
        let all =
            site.edge_status().await.is_ok_and(|status| status.pending == 0 && status.outboxes.len() == 2);
        all && site.cloud_ledger().await.is_ok_and(|ledger| ledger.taps >= 65)
    })
    .await;
    let status = site.edge_status().await.unwrap();
    let told =
        status.problems.iter().any(|problem| problem.contains("was put back from a backup that lacks"));
    assert!(told, "{status:?}");
    let ledger = site.cloud_ledger().await.unwrap();
    assert_eq!((ledger.taps, ledger.balanced), (65, true), "{ledger:?}");
    let lost = lost_records(&site);
    let last = *lost.last().unwrap();
    assert_eq!(lost, (from..=last).collect::<Vec<_>>(), "number by number, none left out");
    assert!(lost.len() >= 60, "{lost:?}");
    assert_eq!(json(&site.cloud_cli(&["events", "verify", "--output", "json"]).unwrap())["holds"], true);
}

/// The numbers at which the store has a tombstone for what was pruned.
fn lost_records(site: &Site) -> Vec<u64> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = rusqlite::Connection::open_with_flags(site.store_path(), flags).unwrap();
    let mut rows = store.prepare("SELECT seq, bytes FROM events WHERE kind = 'lost' ORDER BY seq").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    let lost = rows.map(Result::unwrap).filter(|(seq, bytes)| {
        let record = Record::decode(bytes).unwrap();
        matches!(record.body, Body::Lost { from, why: LossReason::Pruned, .. } if from.0 == *seq)
    });
    lost.map(|(seq, _)| seq).collect()
}
