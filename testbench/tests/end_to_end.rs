//! The promise on real processes: edge-agent, Mosquitto, cloud-ingest and a legacy API, at least 500 seeded taps of 24
//! badges per scenario, and the oracle at the end of each.
//!
//! One scenario is one test; each starts and stops its own servers. A failure names the seed; the taps of a seed are
//! always the same, the interleaving of processes is the machine's.

use std::time::Duration;

use cloud_ingest::event_store::{EventFilter, EventStore, sqlite::SqliteStore};
use edge_agent::outbox::{
    medium::Disk,
    shelf::{Owner, Shelf},
    worker::mint_outbox_id,
};
use testbench::{
    fault_proxy::Direction,
    legacy_sim::{Garbage, Mode, Script},
    oracle::{Committed, check_promise, committed},
    rig::{MosquittoOptions, wait_until},
    site::{BADGES, Green, HEALS_WITHIN, Site, SiteOptions},
};

/// A scenario's taps: which badge comes next.
struct Taps(u64);

impl Taps {
    fn seeded(seed: u64) -> Taps {
        eprintln!("seed {seed}");
        Taps(seed)
    }

    /// Numerical Recipes' linear congruential generator: plenty for choosing among 24 badges.
    fn next_badge(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % BADGES
    }

    async fn tap(&mut self, site: &Site, count: usize) -> Vec<Green> {
        let mut greens = Vec::with_capacity(count);
        for _ in 0..count {
            greens.push(site.tap(self.next_badge()).await.expect("a healthy disk records every tap"));
        }
        greens
    }
}

async fn site(options: SiteOptions) -> Site {
    Site::start(options).await.unwrap()
}

/// Waits until everything that was committed is receipted and delivered, then lets the oracle judge.
async fn settles_and_keeps_the_promise(site: &Site, greens: &[Green]) -> Committed {
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("every record to be receipted", HEALS_WITHIN, &logs, async || {
        site.edge_status().await.is_ok_and(|status| status.pending == 0)
    })
    .await;
    let taps = committed(site).unwrap().taps.len() as u64;
    wait_until("every tap to be delivered", HEALS_WITHIN, &logs, async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("delivered") == taps)
    })
    .await;
    let judged = check_promise(site, greens).await.unwrap();
    assert!(greens.len() >= 500, "a scenario has at least 500 taps, not {}", greens.len());
    judged
}

#[tokio::test(flavor = "multi_thread")]
async fn all_up() {
    let site = site(SiteOptions::default()).await;
    let greens = Taps::seeded(1).tap(&site, 500).await;
    settles_and_keeps_the_promise(&site, &greens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_is_cut_and_restored() {
    let site = site(SiteOptions::default()).await;
    let mut taps = Taps::seeded(2);
    let mut greens = taps.tap(&site, 100).await;
    site.uplink.cut().await.unwrap();
    greens.extend(taps.tap(&site, 300).await);
    assert!(site.edge_status().await.unwrap().pending >= 300, "nothing got through a cut link");
    site.uplink.restore().await.unwrap();
    greens.extend(taps.tap(&site, 100).await);
    // And once in the middle of a packet, with the broker's answers lost on the way.
    cut_in_the_middle_of_a_packet(&site).await;
    greens.extend(taps.tap(&site, 50).await);
    site.uplink.restore().await.unwrap();
    settles_and_keeps_the_promise(&site, &greens).await;
}

/// Waits until the line is really cut: the controller may still be about to connect, and has to say something first.
async fn cut_in_the_middle_of_a_packet(site: &Site) {
    site.uplink.cut_after(Direction::Up, 1_000).await.unwrap();
    let log = site.dir().join("edge-agent.log");
    wait_until("the line to be cut", HEALS_WITHIN, &[&log], async || {
        // One tap after the other, so that there is something to send.
        site.tap(0).await.unwrap();
        tokio::net::TcpStream::connect(site.uplink.addr()).await.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_ingest_is_down_and_the_backlog_exceeds_the_brokers_queue() {
    let broker = MosquittoOptions {
        max_queued_messages: Some(5),
        max_inflight_messages: Some(5),
        ..MosquittoOptions::default()
    };
    let mut site = site(SiteOptions { broker, ..SiteOptions::default() }).await;
    let mut taps = Taps::seeded(3);
    let mut greens = taps.tap(&site, 50).await;
    site.kill_cloud().unwrap();
    // One by one, each its own batch: far more messages than the broker keeps for the absent cloud-ingest.
    greens.extend(taps.tap(&site, 450).await);
    let sent = site.edge_status().await.unwrap().counters.batches_sent;
    assert!(sent > 20, "{sent} batches were sent into the broker's queue of 5");
    site.start_cloud(&[]).await.unwrap();
    greens.extend(taps.tap(&site, 50).await);
    settles_and_keeps_the_promise(&site, &greens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_killed_and_forgets_everything() {
    let mut site = site(SiteOptions::default()).await;
    let mut taps = Taps::seeded(4);
    let mut greens = taps.tap(&site, 200).await;
    site.broker.kill9().unwrap();
    site.broker.delete_state().unwrap();
    greens.extend(taps.tap(&site, 250).await);
    site.broker.restart().await.unwrap();
    greens.extend(taps.tap(&site, 100).await);
    settles_and_keeps_the_promise(&site, &greens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_ingest_is_killed_at_every_crash_point() {
    let mut site = site(SiteOptions::default()).await;
    let mut taps = Taps::seeded(5);
    let mut greens = taps.tap(&site, 20).await;
    for point in cloud_ingest::crash::POINTS {
        site.kill_cloud().unwrap();
        // It may die before it is ready: what was left to deliver runs into the crash point at once.
        let started = site.start_cloud(&[("CRASH_AT", &format!("{point}:3"))]).await;
        let logs = site.logs();
        let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
        greens.extend(taps.tap(&site, 80).await);
        if started.is_ok() {
            let cloud = site.cloud.as_mut().unwrap();
            wait_until(&format!("the crash at {point}"), HEALS_WITHIN, &logs, async || !cloud.is_running())
                .await;
        }
        site.start_cloud(&[]).await.unwrap();
    }
    settles_and_keeps_the_promise(&site, &greens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_agent_is_killed_with_unsent_taps() {
    let mut site = site(SiteOptions::default()).await;
    let mut taps = Taps::seeded(6);
    let mut greens = taps.tap(&site, 100).await;
    for _ in 0..5 {
        site.uplink.cut().await.unwrap();
        greens.extend(taps.tap(&site, 60).await);
        site.kill_edge().unwrap();
        site.start_edge().await.unwrap();
        site.uplink.restore().await.unwrap();
        greens.extend(taps.tap(&site, 30).await);
        site.kill_edge().unwrap();
        site.start_edge().await.unwrap();
    }
    settles_and_keeps_the_promise(&site, &greens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_legacy_api_is_down_then_limits_then_times_out_after_processing() {
    let site = site(SiteOptions { destination: "timeout_ms = 500".into(), ..SiteOptions::default() }).await;
    let mut taps = Taps::seeded(7);
    site.legacy_line.cut().await.unwrap();
    let mut greens = taps.tap(&site, 200).await;
    wait_until("attempts to fail", HEALS_WITHIN, &[], async || {
        let metrics = site.get_text("/metrics").await;
        metrics.is_ok_and(|(_, text)| text.contains(r#"outcome="unreachable""#))
    })
    .await;
    site.legacy.set_script(Script::first([
        (Mode::TooManyRequests { retry_after_s: 1 }, 4),
        (Mode::Ok, 40),
        (Mode::TooManyRequests { retry_after_s: 2 }, 2),
        (Mode::TimeoutAfterProcessing, 12),
        (Mode::Ok, 40),
        (Mode::ServerError { processed: true }, 5),
        (Mode::ServerError { processed: false }, 5),
    ]));
    site.legacy_line.restore().await.unwrap();
    greens.extend(taps.tap(&site, 300).await);
    settles_and_keeps_the_promise(&site, &greens).await;

    let report = site.legacy.report();
    assert!(
        report.repeats.len() >= 12,
        "what timed out after processing was sent again: {}",
        report.repeats.len()
    );
    retry_after_was_obeyed(&site);
}

/// After each 429 no new request arrives before the time it named. Requests that were under way already may.
fn retry_after_was_obeyed(site: &Site) {
    const UNDER_WAY_MS: u64 = 150;
    let requests = site.legacy.requests();
    for (i, limited) in requests.iter().enumerate() {
        if let Some(Mode::TooManyRequests { retry_after_s }) = limited.mode {
            let silent = limited.at_ms + UNDER_WAY_MS..limited.at_ms + u64::from(retry_after_s) * 1_000;
            let early = requests[i + 1..].iter().find(|later| silent.contains(&later.at_ms));
            assert!(early.is_none(), "429 for {retry_after_s} s at {} ms, and yet {early:?}", limited.at_ms);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_garbage_from_the_legacy_api_is_survived() {
    let site = site(SiteOptions { destination: "timeout_ms = 500".into(), ..SiteOptions::default() }).await;
    let mut taps = Taps::seeded(8);
    let kinds = Garbage::ALL.iter().flat_map(|kind| [(Mode::garbage(*kind), 1), (Mode::Ok, 5)]);
    site.legacy.set_script(Script::first(kinds.chain([(Mode::ErrorInside, 3), (Mode::Down, 3)])));
    let greens = taps.tap(&site, 500).await;
    settles_and_keeps_the_promise(&site, &greens).await;
    assert!(Garbage::ALL.len() >= 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn unbound_taps_are_held_and_delivered_after_binding() {
    let site = site(SiteOptions { unbound: true, ..SiteOptions::default() }).await;
    let greens = Taps::seeded(9).tap(&site, 500).await;
    wait_until("every tap to be held", HEALS_WITHIN, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("held") == 500)
    })
    .await;
    assert!(site.legacy.requests().is_empty(), "nothing is delivered for nobody");
    site.bind_badges().unwrap();
    settles_and_keeps_the_promise(&site, &greens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_program_stops_cleanly_and_goes_on_where_it_was() {
    let mut site = site(SiteOptions::default()).await;
    let mut taps = Taps::seeded(10);
    let mut greens = taps.tap(&site, 250).await;
    let within = Duration::from_secs(15);
    let edge = site.edge.as_mut().unwrap().terminate(within).await.unwrap();
    let cloud = site.cloud.as_mut().unwrap().terminate(within).await.unwrap();
    assert!(edge.success() && cloud.success(), "{edge} {cloud}");
    site.start_cloud(&[]).await.unwrap();
    site.start_edge().await.unwrap();
    greens.extend(taps.tap(&site, 250).await);
    settles_and_keeps_the_promise(&site, &greens).await;
}

/// A controller's card was in another machine for a while: what it had not sent yet goes first, the newest outbox last.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_outbox_on_the_disk_is_drained_first() {
    let mut site = site(SiteOptions::default()).await;
    let mut taps = Taps::seeded(11);
    site.uplink.cut().await.unwrap();
    let mut greens = taps.tap(&site, 300).await;
    site.edge.as_mut().unwrap().terminate(Duration::from_secs(15)).await.unwrap();
    let elsewhere = Owner { controller: site.controller(), machine: b"another".to_vec() };
    drop(Shelf::open(Disk::shared(), &site.outbox_dir(), &elsewhere, mint_outbox_id).unwrap());
    site.start_edge().await.unwrap();
    greens.extend(taps.tap(&site, 300).await);
    assert_eq!(
        site.edge_status().await.unwrap().outboxes.len(),
        3,
        "ours, the other machine's, and ours again"
    );
    site.uplink.restore().await.unwrap();
    let committed = settles_and_keeps_the_promise(&site, &greens).await;

    // Stored in the order of the outboxes: nothing of the new one before the last of the old one.
    let mut store = SqliteStore::open_reader(&site.store_path()).unwrap();
    let newest_first = store.events(&EventFilter { limit: 1_000, ..EventFilter::default() }).unwrap();
    let order: Vec<_> = newest_first.iter().rev().map(|row| row.outbox).collect();
    assert_eq!(order.len(), committed.records.len());
    let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(changes, 1, "one outbox after the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_reach_the_broker_over_tls_and_over_nothing_older() {
    let site = site(SiteOptions { tls: true, ..SiteOptions::default() }).await;
    let mut taps = Taps::seeded(12);
    let mut greens = taps.tap(&site, 250).await;
    cut_in_the_middle_of_a_packet(&site).await;
    greens.extend(taps.tap(&site, 250).await);
    site.uplink.restore().await.unwrap();
    settles_and_keeps_the_promise(&site, &greens).await;
}
