//! From nothing to a tap and out again, with the real programs: a root, a broker as shipped, a token, a controller that
//! enrols itself, renews, is revoked and is enrolled again.

use std::{collections::BTreeSet, time::Duration};

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

async fn out_of_service(site: &Site, why: &str) {
    wait_until(
        "the door to go out of service",
        HEALS_WITHIN,
        &[site.edge.as_ref().unwrap().log()],
        async || {
            let status = site.edge_status().await.unwrap();
            status.problems.iter().any(|problem| problem.contains(why))
        },
    )
    .await;
    let refused = site.tap(0).await.unwrap_err().to_string();
    assert!(refused.contains("the tap was refused"), "{refused}");
}

async fn enrolled_again(site: &mut Site) {
    site.edge.take().unwrap().terminate(Duration::from_secs(15)).await.unwrap();
    site.enroll_again().unwrap();
    site.broker.reload().await.unwrap();
    site.start_edge().await.unwrap();
    connected(site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_door_is_out_within_seconds_and_trusted_again_after_a_new_enrolment() {
    let mut site = enrolled().await;
    taps(&site, 20).await;
    delivered(&site, 20).await;
    let sessions = site.edge_status().await.unwrap().broker.sessions;

    let clock = Instant::now();
    site.revoke().await.unwrap();
    wait_until("the session's end", FELT_WITHIN, &[site.cloud.as_ref().unwrap().log()], async || {
        let broker = site.edge_status().await.unwrap().broker;
        !broker.connected || broker.sessions > sessions
    })
    .await;
    println!("the session was ended {:.1} s after the revocation", clock.elapsed().as_secs_f64());
    // The broker has not read the list yet: the door comes back, nothing that it says is heard, and it is told why.
    out_of_service(&site, "revoked this controller").await;
    println!("it was out of service {:.1} s after it", clock.elapsed().as_secs_f64());
    assert!(put_aside(&site).await > 0);

    // What the path unit does.
    site.broker.reload().await.unwrap();
    wait_until("the door to be kept out", FELT_WITHIN, &[site.edge.as_ref().unwrap().log()], async || {
        let broker = site.edge_status().await.unwrap().broker;
        !broker.connected && broker.why.is_some_and(|why| why.contains("CertificateRevoked"))
    })
    .await;
    println!("it was kept out {:.1} s after it", clock.elapsed().as_secs_f64());
    assert!(clock.elapsed() < FELT_WITHIN);
    assert_eq!(site.cloud_ledger().await.unwrap().taps, 20, "what it had said before is kept");

    enrolled_again(&mut site).await;
    taps(&site, 3).await;
    delivered(&site, 23).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_door_had_not_spoken_of_when_it_was_revoked_waits_until_it_is_trusted_again() {
    let mut site = enrolled().await;
    taps(&site, 20).await;
    delivered(&site, 20).await;
    site.uplink.cut().await.unwrap();
    taps(&site, 5).await;
    site.revoke().await.unwrap();
    site.uplink.restore().await.unwrap();
    out_of_service(&site, "revoked this controller").await;
    assert!(put_aside(&site).await > 0);
    assert_eq!(
        site.cloud_ledger().await.unwrap().taps,
        20,
        "what it had said before is kept, and nothing else"
    );
    assert_eq!(site.edge_status().await.unwrap().pending, 5, "what is not taken stays at the door");

    enrolled_again(&mut site).await;
    taps(&site, 3).await;
    delivered(&site, 28).await;
}

/// The keys of these kinds that every active controller has.
fn everybody_has(site: &Site) -> Vec<String> {
    let keys: Value =
        serde_json::from_str(&site.cloud_cli(&["keys", "status", "--output", "json"]).unwrap()).unwrap();
    let all = keys.as_array().unwrap().iter();
    let all = all.filter(|key| key["reach"]["of"] == 1 && key["reach"]["have"] == 1);
    all.map(|key| key["key"].as_str().unwrap().to_owned()).collect()
}

/// The door says hello, as it does every minute anyway; a command waits for that.
async fn greets_until(site: &Site, what: &str, reached: impl Fn() -> bool) {
    wait_until(what, HEALS_WITHIN, &[site.cloud.as_ref().unwrap().log()], async || {
        let _ = site.edge_cli(&["test-connection"]).unwrap();
        reached()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_the_cloud_is_replaced_while_people_tap_and_one_person_stays_one() {
    const KINDS: [&str; 3] = ["receipt", "control", "token"];
    let site = enrolled().await;
    let mut greens = vec![site.tap(0).await.unwrap()];
    delivered(&site, 1).await;

    for kind in KINDS {
        site.cloud_cli(&["keys", "rotate", kind]).unwrap();
        let early = site.cloud_cli(&["keys", "activate", kind]).unwrap_err().to_string();
        assert!(early.contains(CONTROLLER), "nobody is left behind unasked: {early}");
    }
    greens.push(site.tap(0).await.unwrap());
    greets_until(&site, "the door to have the next keys", || {
        let has = everybody_has(&site);
        KINDS.iter().all(|kind| has.contains(&format!("{kind}-2")))
    })
    .await;
    for kind in KINDS {
        site.cloud_cli(&["keys", "activate", kind]).unwrap();
    }
    greets_until(&site, "the door to seal with the next key", || certificate(&site)["token_key_id"] == 2)
        .await;
    greens.push(site.tap(0).await.unwrap());
    for kind in KINDS {
        site.cloud_cli(&["keys", "retire", kind, "1"]).unwrap();
    }
    greens.push(site.tap(0).await.unwrap());
    delivered(&site, 4).await;
    wait_until("a receipt under the next key", HEALS_WITHIN, &[], async || {
        site.edge_status().await.unwrap().pending == 0
    })
    .await;
    check_promise(&site, &greens).await.unwrap();

    let events: Value = site.get("/api/v1/events?taps=true").await.unwrap();
    let taps: Vec<&Value> =
        events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "tap").collect();
    let of = |of: &dyn Fn(&Value) -> String| -> BTreeSet<String> { taps.iter().map(|tap| of(tap)).collect() };
    assert_eq!(of(&|tap| tap["badge_token"].to_string()).len(), 2, "one badge under two keys");
    assert_eq!(of(&|tap| tap["deliveries"][0]["person"].to_string()).len(), 1, "and one person");
}
