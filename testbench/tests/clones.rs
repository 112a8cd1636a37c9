//! Copied cards and restored backups, on real processes: each is named at the door and in the cloud, no tap is lost or
//! doubled, and no door stops.

use std::collections::BTreeMap;
use std::path::Path;

use cloud_ingest::event_store::{EventFilter, EventStore, sqlite::SqliteStore};
use serde_json::Value;
use testbench::{
    rig::wait_until,
    site::{HEALS_WITHIN, Site, SiteOptions},
    twin::{Twin, copy_folder},
};

async fn site() -> Site {
    Site::start(SiteOptions::default()).await.unwrap()
}

async fn taps(site: &Site, count: usize) {
    for n in 0..count {
        site.tap(n % 24).await.unwrap();
    }
}

/// Waits until the controller has nothing more to send, and every tap that was made is delivered.
async fn all_is_delivered(site: &Site, twin: Option<&Twin>, taps: u64) {
    let mut logs = site.logs();
    logs.extend(twin.map(|twin| twin.log().to_owned()));
    let logs: Vec<&Path> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("everything to be sent and delivered", HEALS_WITHIN, &logs, async || {
        let twin_waits = match twin {
            Some(twin) => twin.status().await.is_ok_and(|status| status.pending > 0),
            None => false,
        };
        !twin_waits
            && site.edge_status().await.is_ok_and(|status| status.pending == 0)
            && site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("delivered") >= taps)
    })
    .await;
    let ledger = site.cloud_ledger().await.unwrap();
    assert_eq!((ledger.taps, ledger.in_state("delivered")), (taps, taps), "none is lost, none is doubled");
    assert!(ledger.balanced, "{:?}", ledger.complaints);
}

/// How often each badge is in the store.
fn stored(site: &Site) -> BTreeMap<[u8; 16], usize> {
    let mut store = SqliteStore::open_reader(&site.store_path()).unwrap();
    let filter = EventFilter { taps_only: true, limit: 10_000, ..EventFilter::default() };
    let mut stored = BTreeMap::new();
    for row in store.events(&filter).unwrap() {
        *stored.entry(row.tap.unwrap().badge.token.0).or_default() += 1;
    }
    stored
}

/// What the cloud says contradicts itself at the controller.
async fn contradictions(site: &Site) -> Vec<String> {
    let known: Value = site.get("/api/v1/controllers/hq-door-1").await.unwrap();
    let all = known["contradictions"].as_array().unwrap();
    all.iter().map(|one| one["kind"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_named_and_loses_and_doubles_nothing() {
    let mut site = site().await;
    taps(&site, 24).await;
    all_is_delivered(&site, None, 24).await;
    // What the backup has without a receipt is in the store by the time it is put back.
    site.uplink.cut().await.unwrap();
    taps(&site, 24).await;
    site.kill_edge().unwrap();
    let (state, backup) = (site.dir().join("state"), site.dir().join("backup"));
    copy_folder(&state, &backup).unwrap();
    site.start_edge().await.unwrap();
    site.uplink.restore().await.unwrap();
    taps(&site, 24).await;
    all_is_delivered(&site, None, 72).await;

    site.kill_edge().unwrap();
    copy_folder(&backup, &state).unwrap();
    site.start_edge().await.unwrap();
    taps(&site, 24).await;
    all_is_delivered(&site, None, 96).await;
    assert!(stored(&site).values().all(|count| *count == 4), "{:?}", stored(&site));
    let status = site.edge_status().await.unwrap();
    assert_eq!((status.settled.len(), status.counters.outboxes_settled), (1, 1), "{:?}", status.settled);
    assert_eq!(status.outboxes.len(), 2, "another outbox has what followed");
    assert!(contradictions(&site).await.contains(&"apart".to_owned()));
    let log = std::fs::read_to_string(site.dir().join("edge-agent.log")).unwrap();
    assert!(log.contains("looking for the last record that both have"), "{log}");
    let told = site.cloud_cli(&["controllers", "get", "hq-door-1"]).unwrap();
    assert!(told.contains("a copied card or a restored backup"), "{told}");
}

/// Both tap; what each has is stored and delivered once, whatever the broker does to them.
async fn a_card_and_its_copy(machine: Option<&str>) -> (Site, Twin) {
    let mut site = site().await;
    taps(&site, 24).await;
    all_is_delivered(&site, None, 24).await;
    site.uplink.cut().await.unwrap();
    // These are on both cards, and in no store.
    taps(&site, 24).await;
    site.kill_edge().unwrap();
    let twin = Twin::start(&site, machine).await.unwrap();
    site.start_edge().await.unwrap();
    for n in 0..24 {
        site.tap(n).await.unwrap();
        twin.tap(n).await.unwrap();
    }
    site.uplink.restore().await.unwrap();
    all_is_delivered(&site, Some(&twin), 96).await;
    assert!(stored(&site).values().all(|count| *count == 4), "{:?}", stored(&site));
    let logs = site.logs();
    let logs: Vec<&Path> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("the cloud to see that there are two", HEALS_WITHIN, &logs, async || {
        contradictions(&site).await.contains(&"twins".to_owned())
    })
    .await;
    (site, twin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_card_in_a_machine_that_looks_the_same_is_named_and_both_go_on() {
    let (site, twin) = a_card_and_its_copy(None).await;
    let settled =
        [site.edge_status().await.unwrap(), twin.status().await.unwrap()].map(|status| status.settled);
    assert_eq!(
        settled.iter().map(Vec::len).sum::<usize>(),
        1,
        "one of them began another outbox: {settled:?}"
    );
    assert!(contradictions(&site).await.contains(&"apart".to_owned()));
    let sessions = site.edge_status().await.unwrap().broker.sessions;
    assert!(sessions < 60, "{sessions} sessions: they push each other out as fast as they can");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_card_in_another_machine_begins_its_own_outbox_at_once() {
    let (_site, twin) = a_card_and_its_copy(Some("0123456789abcdef0123456789abcdef")).await;
    assert_eq!(twin.status().await.unwrap().outboxes.len(), 2);
}
