//! From nothing to a tap and out again, with the real programs: a root, a broker as shipped, a token, a controller that
//! enrols itself, renews, is revoked and is enrolled again.

use std::time::Duration;

use serde_json::Value;
use testbench::{
    oracle::check_promise,
    rig::wait_until,
    site::{CONTROLLER, Green, HEALS_WITHIN, Site, SiteOptions},
};
use tokio::time::Instant;

/// In how much time a revocation has to be felt.
const FELT_WITHIN: Duration = Duration::from_secs(5 * 60);

async fn enrolled() -> Site {
    let site = Site::start(SiteOptions { enrolled: true, ..SiteOptions::default() }).await.unwrap();
    connected(&site).await;
    site
}

async fn connected(site: &Site) {
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("a session", HEALS_WITHIN, &logs, async || {
        site.edge_status().await.is_ok_and(|status| status.broker.connected)
    })
    .await;
}

async fn taps(site: &Site, count: usize) -> Vec<Green> {
    let mut greens = Vec::new();
    for n in 0..count {
        greens.push(site.tap(n % 8).await.unwrap());
    }
    greens
}

async fn delivered(site: &Site, count: u64) {
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("the taps to be delivered", HEALS_WITHIN, &logs, async || {
        let ledger = site.cloud_ledger().await;
        ledger.is_ok_and(|ledger| ledger.taps == count && ledger.in_state("delivered") == count)
    })
    .await;
}

/// What a certificate is, as the agent shows it.
fn certificate(site: &Site) -> Value {
    let said = site.edge_cli(&["cert", "status", "--output", "json"]).unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

async fn put_aside(site: &Site) -> u64 {
    let (_, metrics) = site.get_text("/metrics").await.unwrap();
    let line = metrics.lines().find_map(|line| {
        line.strip_prefix("cloud_ingest_quarantined_total{kind=\"revoked\"}").map(str::trim)
    });
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_door_taps_renews_without_a_restart_and_loses_nothing() {
    let site = enrolled().await;
    let mut greens = taps(&site, 20).await;
    delivered(&site, 20).await;
    let (before, running) = (certificate(&site), site.edge.as_ref().unwrap().pid());

    let renewed = site.edge_cli(&["cert", "renew"]).unwrap();
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    greens.extend(taps(&site, 20).await);
    wait_until("another certificate", HEALS_WITHIN, &[], async || certificate(&site) != before).await;
    greens.extend(taps(&site, 20).await);
    delivered(&site, 60).await;
    connected(&site).await;
    assert_eq!(site.edge.as_ref().unwrap().pid(), running);
    check_promise(&site, &greens).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_door_is_out_within_seconds_keeps_recording_and_is_trusted_again_after_a_new_enrolment() {
    let mut site = enrolled().await;
    taps(&site, 20).await;
    delivered(&site, 20).await;
    let sessions = site.edge_status().await.unwrap().broker.sessions;

    let clock = Instant::now();
    let revoke = ["controllers", "revoke", CONTROLLER, "--reason", "broken open", "--yes"];
    site.cloud_cli(&revoke).unwrap();
    wait_until("the session's end", FELT_WITHIN, &[site.cloud.as_ref().unwrap().log()], async || {
        let broker = site.edge_status().await.unwrap().broker;
        !broker.connected || broker.sessions > sessions
    })
    .await;
    println!("the session was ended {:.1} s after the revocation", clock.elapsed().as_secs_f64());

    // The broker has not read the list yet: the door comes back, and what it says now is put aside.
    taps(&site, 5).await;
    wait_until("taps to be put aside", FELT_WITHIN, &[site.cloud.as_ref().unwrap().log()], async || {
        put_aside(&site).await > 0
    })
    .await;
    println!("its words were put aside {:.1} s after it", clock.elapsed().as_secs_f64());
    assert_eq!(
        site.cloud_ledger().await.unwrap().taps,
        20,
        "what it had said before is kept, and nothing else"
    );

    // What the path unit does.
    site.broker.reload().await.unwrap();
    wait_until("the door to be kept out", FELT_WITHIN, &[site.edge.as_ref().unwrap().log()], async || {
        let broker = site.edge_status().await.unwrap().broker;
        !broker.connected && broker.why.is_some_and(|why| why.contains("CertificateRevoked"))
    })
    .await;
    println!("it was kept out {:.1} s after it", clock.elapsed().as_secs_f64());
    assert!(clock.elapsed() < FELT_WITHIN);
    assert_eq!(site.edge_status().await.unwrap().pending, 5, "what is not taken stays at the door");

    site.edge.take().unwrap().terminate(Duration::from_secs(15)).await.unwrap();
    site.enroll_again().unwrap();
    site.broker.reload().await.unwrap();
    site.start_edge().await.unwrap();
    connected(&site).await;
    taps(&site, 3).await;
    delivered(&site, 28).await;
}
