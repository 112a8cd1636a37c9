//! True time on real processes: controllers whose wall clock is in 1970, is set while people tap, or is vouched for and
//! wrong; boots that never learn the time; receipts that lie in the broker. Needs root, for boottimes that begin anew.

use std::time::Duration;

use edge_agent::anchors::{ClockReport, TapTime};
use serde_json::Value;
use tap_protocol::record::ClockState;
use testbench::{
    rig::{FakeClock, true_utc_ms, wait_until},
    site::{HEALS_WITHIN, Site, SiteOptions},
};

const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 31_557_600_000;

/// What the legacy system may be off by.
const TOLERANCE_MS: i64 = 2_000;

/// A tap and when it really was.
#[derive(Debug)]
struct Tapped {
    event_id: String,
    from_ms: i64,
    to_ms: i64,
}

async fn site() -> Site {
    Site::start(SiteOptions { fake_clock: true, ..SiteOptions::default() }).await.unwrap()
}

async fn tap(site: &Site, badge: usize) -> Tapped {
    let from_ms = true_utc_ms();
    let event_id = site.tap(badge).await.unwrap().event_id;
    Tapped { event_id, from_ms, to_ms: true_utc_ms() }
}

/// The wall clock is set while the agent runs.
fn set(site: &Site, wall_ms: i64, vouched: bool) {
    site.clock.as_ref().unwrap().shows(wall_ms, vouched).unwrap();
}

async fn wait(site: &Site, what: &str, condition: impl AsyncFnMut() -> bool) {
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until(what, HEALS_WITHIN, &logs, condition).await;
}

async fn wait_for_state(site: &Site, state: &str, count: u64) {
    wait(site, &format!("{count} taps to be {state}"), async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state(state) == count)
    })
    .await;
}

async fn clock_is(site: &Site, what: &str, mut is: impl FnMut(&ClockReport) -> bool) {
    wait(site, what, async || site.edge_clock().await.is_ok_and(|report| is(&report))).await;
}

/// The event as the API shows it.
async fn event(site: &Site, tapped: &Tapped) -> Value {
    site.get(&format!("/api/v1/events/{}", tapped.event_id)).await.unwrap()
}

/// What the legacy system was told: time and doubt, milliseconds.
fn told(site: &Site, tapped: &Tapped) -> (i64, i64) {
    let report = site.legacy.report();
    let check_in = report.processed.iter().find(|check_in| check_in.key == tapped.event_id);
    let body: Value = serde_json::from_str(&check_in.expect("it was delivered").body).unwrap();
    let at: jiff::Timestamp = body["occurred_at"].as_str().unwrap().parse().unwrap();
    (at.as_millisecond(), body["uncertainty_ms"].as_i64().unwrap())
}

/// The legacy system has the time at which the person stood at the door, to two seconds.
#[track_caller]
fn is_told_truly(site: &Site, tapped: &Tapped) {
    let (told_ms, _) = told(site, tapped);
    let truth = tapped.from_ms - TOLERANCE_MS..=tapped.to_ms + TOLERANCE_MS;
    assert!(
        truth.contains(&told_ms),
        "{tapped:?} and {told_ms} was told, {} ms off",
        told_ms - tapped.from_ms
    );
}

/// `edge-agent clock`: its exit code and its standard output.
fn clock_says(site: &Site, more: &[&str]) -> (i32, String) {
    let output = site.edge_cli(&[&["clock"], more].concat()).unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Power on, 1970, NTP blocked: only receipts tell the time, also of taps before the first of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_boots_in_1970_tells_the_true_time() {
    let mut site = site().await;
    site.kill_edge().unwrap();
    site.uplink.cut().await.unwrap();
    site.reboot_edge(0, false).await.unwrap();
    let mut taps = vec![tap(&site, 0).await, tap(&site, 1).await];
    let before = site.edge_clock().await.unwrap();
    assert_eq!((before.clock, before.taps), (ClockState::Unsynced, TapTime::Nothing));
    assert!(before.wall_ms < 60_000, "it is 1970 there: {}", before.wall_ms);
    assert!(
        before.boottime_ms < 60_000,
        "a program enters its time namespace when it is executed (Linux 6.2)"
    );
    let (code, said) = clock_says(&site, &[]);
    assert!(code == 1 && said.contains("taps are recorded, and wait in the cloud"), "{code} {said}");

    site.uplink.restore().await.unwrap();
    clock_is(&site, "a receipt to tell the time", |report| report.taps == TapTime::Receipts).await;
    taps.push(tap(&site, 2).await);
    wait_for_state(&site, "delivered", 3).await;
    taps.iter().for_each(|tapped| is_told_truly(&site, tapped));

    let shown = event(&site, &taps[0]).await;
    assert_eq!(shown["time"], "known");
    assert!(shown["recorded_wall"].as_str().unwrap().starts_with("1970-01-01T00:0"), "{shown}");
    let (code, said) = clock_says(&site, &["--output", "json"]);
    let report: ClockReport = serde_json::from_str(&said).unwrap();
    assert_eq!((code, report.taps, report.anchors[0].source.as_str()), (0, TapTime::Receipts, "receipt"));
    assert!(report.last_receipt.unwrap().wall_off_ms < -50 * YEAR_MS);
    let controllers: Value = site.get("/api/v1/controllers").await.unwrap();
    let controller = &controllers["controllers"][0];
    assert_eq!(
        (&controller["clock"], &controller["cause"]),
        (&"unsynced".into(), &"ok".into()),
        "{controller}"
    );
}

/// Ten years ahead, back behind, and right at last: by hand, by hand, and by NTP.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_while_people_tap_changes_no_time() {
    let site = site().await;
    let mut taps = vec![tap(&site, 0).await];
    for (n, ahead_ms) in [(1, 10 * YEAR_MS), (2, -10 * YEAR_MS), (3, -HOUR_MS)] {
        set(&site, true_utc_ms() + ahead_ms, false);
        taps.push(tap(&site, n).await);
        let report = site.edge_clock().await.unwrap();
        assert_eq!(report.clock, ClockState::Stepped, "already at the tap: {report:?}");
    }
    set(&site, true_utc_ms(), true);
    taps.push(tap(&site, 4).await);
    clock_is(&site, "an anchor of the step", |report| report.anchors[0].source == "step").await;
    taps.push(tap(&site, 5).await);
    let report = site.edge_clock().await.unwrap();
    assert_eq!((report.clock, report.taps, report.steps), (ClockState::Synced, TapTime::Kernel, 4));
    wait_for_state(&site, "delivered", 6).await;
    taps.iter().for_each(|tapped| is_told_truly(&site, tapped));
}

/// A receipt that took longer than two seconds is kept and not used; the next quick one tells the time of all.
#[tokio::test(flavor = "multi_thread")]
async fn receipts_that_lie_in_the_broker_tell_no_time() {
    let mut site = site().await;
    site.kill_edge().unwrap();
    site.uplink.set_delay(Duration::from_millis(1_100)).await.unwrap();
    site.reboot_edge(0, false).await.unwrap();
    let taps = [tap(&site, 0).await, tap(&site, 1).await];
    wait_for_state(&site, "held", 2).await;
    clock_is(&site, "a slow receipt", |report| report.last_receipt.is_some()).await;
    let report = site.edge_clock().await.unwrap();
    assert!(report.last_receipt.unwrap().round_trip_ms > 2_000, "{report:?}");
    assert_eq!((report.taps, report.anchors.len()), (TapTime::Nothing, 0));
    let shown = event(&site, &taps[0]).await;
    assert_eq!((&shown["time"], &shown["deliveries"][0]["held_for"]), (&"unknown".into(), &"time".into()));
    assert!(shown["explain"].as_str().unwrap().contains("nothing has said yet when that was"), "{shown}");
    assert!(site.legacy.requests().is_empty());

    // A new session says hello again.
    site.uplink.set_delay(Duration::ZERO).await.unwrap();
    site.uplink.cut().await.unwrap();
    site.uplink.restore().await.unwrap();
    wait_for_state(&site, "delivered", 2).await;
    taps.iter().for_each(|tapped| is_told_truly(&site, tapped));
}

/// The power flickers: a boot without network and time lies between two that have both.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_never_syncs_is_told_as_an_estimate_that_holds_the_truth() {
    let mut site = site().await;
    set(&site, true_utc_ms(), true);
    let mut known = vec![tap(&site, 0).await];
    wait_for_state(&site, "delivered", 1).await;
    site.uplink.cut().await.unwrap();
    site.kill_edge().unwrap();
    site.reboot_edge(0, false).await.unwrap();
    let lost = [tap(&site, 1).await, tap(&site, 2).await];
    site.kill_edge().unwrap();
    site.reboot_edge(true_utc_ms(), true).await.unwrap();
    site.uplink.restore().await.unwrap();
    known.push(tap(&site, 3).await);
    wait_for_state(&site, "delivered", 4).await;
    known.iter().for_each(|tapped| is_told_truly(&site, tapped));
    for tapped in &lost {
        let shown = event(&site, tapped).await;
        assert_eq!(shown["time"], "estimated", "{shown}");
        let (told_ms, doubt_ms) = told(&site, tapped);
        let bounds = told_ms - doubt_ms..=told_ms + doubt_ms;
        assert!(bounds.contains(&tapped.from_ms) && bounds.contains(&tapped.to_ms), "{tapped:?}: {bounds:?}");
        assert!((1..=30_000).contains(&doubt_ms), "± {doubt_ms} ms");
    }
}

/// NTP is an hour off, and the kernel believes it: a person has to look, and nothing is told meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_vouched_clock_that_receipts_contradict_is_held_and_shown() {
    let mut site = site().await;
    site.kill_edge().unwrap();
    site.reboot_edge(true_utc_ms() + HOUR_MS, true).await.unwrap();
    clock_is(&site, "a receipt to contradict the clock", |report| report.taps == TapTime::Disputed).await;
    wait(&site, "the receipt to be stored", async || {
        site.edge_status().await.is_ok_and(|status| status.pending == 0)
    })
    .await;
    let tapped = tap(&site, 0).await;
    wait_for_state(&site, "held", 1).await;
    let shown = event(&site, &tapped).await;
    assert_eq!(shown["time"], "disputed");
    assert!(shown["explain"].as_str().unwrap().contains("contradicts itself"), "{shown}");
    wait(&site, "the dispute to be counted", async || {
        let (_, metrics) = site.get_text("/metrics").await.unwrap();
        metrics.lines().any(|line| line == "cloud_ingest_taps_time_disputed 1")
    })
    .await;
    let (_, page) = site.get_text("/").await.unwrap();
    assert!(page.contains("Time in dispute: 1"), "a person is told");
    assert_eq!(clock_says(&site, &[]).0, 1);
    assert!(site.legacy.requests().is_empty());
}

/// A day on the cloud's clock without a word about the time: set aside, in nobody's way, and told when it becomes known.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_day_a_tap_without_time_is_set_aside_and_told_when_its_time_comes() {
    let mut site = site().await;
    site.kill_edge().unwrap();
    site.uplink.set_delay(Duration::from_millis(1_100)).await.unwrap();
    site.reboot_edge(0, false).await.unwrap();
    let tapped = tap(&site, 0).await;
    wait_for_state(&site, "held", 1).await;
    site.uplink.cut().await.unwrap();
    site.uplink.set_delay(Duration::ZERO).await.unwrap();

    site.kill_cloud().unwrap();
    let tomorrow = FakeClock::start(&site.dir().join("tomorrow")).await.unwrap();
    tomorrow.shows(true_utc_ms() + 24 * HOUR_MS + 60_000, true).unwrap();
    let env = tomorrow.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    site.start_cloud(&env).await.unwrap();
    wait_for_state(&site, "parked", 1).await;
    let shown = event(&site, &tapped).await;
    assert_eq!(shown["deliveries"][0]["held_for"], "time_unresolved");
    assert!(shown["explain"].as_str().unwrap().contains("after 24 hours without its true time"), "{shown}");
    let ledger: Value = site.get("/api/v1/ledger").await.unwrap();
    assert_eq!((&ledger["unresolved"], &ledger["balanced"]), (&1.into(), &true.into()));

    site.kill_cloud().unwrap();
    site.start_cloud(&[]).await.unwrap();
    site.uplink.restore().await.unwrap();
    wait_for_state(&site, "delivered", 1).await;
    is_told_truly(&site, &tapped);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_clock_in_1970_the_broker_is_reached_over_tls_and_what_a_receipt_tells_is_known_after_the_next_start()
 {
    let options = SiteOptions { fake_clock: true, tls: true, ..SiteOptions::default() };
    let mut site = Site::start(options).await.unwrap();
    wait(&site, "a receipt", async || site.edge_status().await.is_ok_and(|s| s.counters.receipts > 0)).await;
    site.edge.take().unwrap().terminate(Duration::from_secs(20)).await.unwrap();
    let kept = std::fs::read_to_string(site.dir().join("state/last-good-time")).unwrap();
    let utc_ms: i64 = kept.split(' ').next().unwrap().parse().unwrap();
    assert!((true_utc_ms() - utc_ms).abs() < 60_000, "{kept}");
}
