//! The roster from HR's list to the light at the door, on real processes: it decides the light and nothing else.

use std::fmt::Write as _;

use edge_agent::control::{Request, Response, question};
use serde_json::{Value, json};
use tap_protocol::tap::Direction;
use testbench::{
    rig::{true_utc_ms, wait_until},
    site::{BADGES, HEALS_WITHIN, Site, SiteOptions, badge_uid},
};
use tokio::time::Instant;

/// Bound to nobody: the site binds the first [`BADGES`].
const STRANGER: usize = BADGES;

const MANY: u32 = 100_000;

const DAY_MS: i64 = 86_400_000;

async fn site(options: SiteOptions) -> Site {
    Site::start(options).await.unwrap()
}

/// What the person sees who shows badge `n`; the tap is on the disk.
async fn light(site: &Site, n: usize) -> String {
    let request = Request::Tap { uid: badge_uid(n), direction: Direction::In };
    match question(&site.control_socket(), &request).await.unwrap() {
        Response::Recorded { signal, .. } => signal,
        other => panic!("the tap was not recorded: {other:?}"),
    }
}

async fn roster_of(site: &Site, badges: u32) -> u64 {
    wait_until("the roster to be in use", HEALS_WITHIN, &logs(site), async || {
        let status = site.edge_status().await;
        status.is_ok_and(|status| status.roster.is_some_and(|roster| roster.badges == badges))
    })
    .await;
    site.edge_status().await.unwrap().roster.unwrap().version
}

fn logs(site: &Site) -> Vec<&'static std::path::Path> {
    site.logs().into_iter().map(|log| &*Box::leak(log.into_boxed_path())).collect()
}

fn revoke(site: &Site, n: usize) {
    site.cloud_cli(&["badges", "revoke", &badge_uid(n), "--reason", "lost"]).unwrap();
}

fn shown(site: &Site, n: usize) -> Value {
    let text = site.cloud_cli(&["badges", "show", &badge_uid(n), "--output", "json"]).unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn is_confirmed(site: &Site, n: usize) {
    wait_until("the revocation to be confirmed", HEALS_WITHIN, &logs(site), async || {
        shown(site, n)["confirmed"] == json!({"on": 1, "of": 1})
    })
    .await;
}

/// The verdicts of all taps that the cloud has stored, oldest first.
async fn verdicts(site: &Site, taps: u64) -> Vec<String> {
    wait_until("every tap to be stored", HEALS_WITHIN, &logs(site), async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.taps == taps)
    })
    .await;
    let events: Value = site.get("/api/v1/events?taps=true&limit=100").await.unwrap();
    let verdict = |event: &Value| Some(event["verdict"].as_str()?.to_owned());
    let mut verdicts: Vec<_> = events["events"].as_array().unwrap().iter().filter_map(verdict).collect();
    verdicts.reverse();
    verdicts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roster_decides_the_light_a_revocation_is_confirmed_and_every_tap_is_recorded() {
    let mut site = site(SiteOptions { unbound: true, ..SiteOptions::default() }).await;
    let offline_or_not = |light: &str| light.starts_with("recorded");
    assert!(offline_or_not(&light(&site, 0).await), "without a roster everybody gets the green light");

    site.bind_badges().unwrap();
    let first = roster_of(&site, BADGES as u32).await;
    assert_eq!(light(&site, 0).await, "recorded");
    assert_eq!(light(&site, STRANGER).await, "unknown badge");

    revoke(&site, 1);
    is_confirmed(&site, 1).await;
    assert_eq!(light(&site, 1).await, "unknown badge");
    let status = site.edge_status().await.unwrap();
    let roster = status.roster.unwrap();
    assert!(roster.version > first);
    assert_eq!((roster.badges, roster.revoked, roster.stale), (BADGES as u32, 1, false));

    // What the disk keeps needs no network.
    site.kill_edge().unwrap();
    site.kill_cloud().unwrap();
    site.start_edge().await.unwrap();
    assert_eq!(roster_of(&site, BADGES as u32).await, roster.version);
    assert_eq!(light(&site, 1).await, "unknown badge");
    assert!(offline_or_not(&light(&site, 2).await));

    // HR's list still has the lost badge; it stays lost until somebody says otherwise.
    site.start_cloud(&[]).await.unwrap();
    site.bind_badges().unwrap();
    assert_eq!(shown(&site, 1)["standing"], "revoked");
    let csv = site.dir().join("badges.csv").display().to_string();
    let said = site.cloud_cli(&["badges", "import", &csv, "--reinstate"]).unwrap();
    assert!(said.ends_with("1 of them were revoked and are known again\n"), "{said}");
    wait_until("the roster without a revoked badge", HEALS_WITHIN, &logs(&site), async || {
        let status = site.edge_status().await;
        status.is_ok_and(|status| status.roster.is_some_and(|roster| roster.revoked == 0))
    })
    .await;
    assert_eq!(light(&site, 1).await, "recorded");

    let verdicts = verdicts(&site, 7).await;
    assert_eq!(verdicts, ["no_roster", "known", "unknown", "revoked", "revoked", "known", "known"]);
    let controllers: Value = site.get("/api/v1/controllers").await.unwrap();
    assert!(controllers["controllers"][0]["roster_version"].as_u64().unwrap() >= roster.version);
    let stranger = badge_uid(STRANGER);
    let nobodys = site.cloud_cli(&["badges", "revoke", &stranger, "--reason", "lost"]).unwrap_err();
    assert!(nobodys.to_string().contains("nobody was given this badge"), "{nobodys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_badges_arrive_and_a_revocation_costs_one_chunk() {
    let site = site(SiteOptions::default()).await;
    roster_of(&site, BADGES as u32).await;
    let mut csv = String::from("badge,person\n");
    for n in 0..MANY {
        // None of the site's own: those begin with 04A1.
        writeln!(csv, "04B0{n:010X},P{n}").unwrap();
    }
    let file = site.dir().join("many.csv");
    std::fs::write(&file, csv).unwrap();
    let took = Instant::now();
    site.cloud_cli(&["badges", "import", &file.display().to_string()]).unwrap();
    let imported = took.elapsed();
    roster_of(&site, MANY + BADGES as u32).await;
    eprintln!("imported after {imported:?}, in use after {:?}", took.elapsed());
    assert_eq!(light(&site, 3).await, "recorded");
    assert_eq!(light(&site, STRANGER).await, "unknown badge");

    let chunks = async || {
        let (_, text) = site.get_text("/metrics").await.unwrap();
        let line =
            text.lines().find(|line| line.starts_with("cloud_ingest_roster_messages_total{what=\"chunk\"}"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = chunks().await;
    assert!(before >= 53, "{before}");
    revoke(&site, 3);
    is_confirmed(&site, 3).await;
    assert_eq!(light(&site, 3).await, "unknown badge");
    assert_eq!(chunks().await - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_roster_calls_nobody_unknown_and_stops_nothing() {
    let mut site = site(SiteOptions { fake_clock: true, ..SiteOptions::default() }).await;
    roster_of(&site, BADGES as u32).await;
    revoke(&site, 1);
    is_confirmed(&site, 1).await;
    assert_eq!(light(&site, STRANGER).await, "unknown badge", "nobody vouches for 1970, so nothing is stale");

    // The cloud is gone for longer than a roster counts.
    site.kill_cloud().unwrap();
    site.clock.as_ref().unwrap().shows(true_utc_ms() + 8 * DAY_MS, true).unwrap();
    wait_until("the roster to be stale", HEALS_WITHIN, &logs(&site), async || {
        site.edge_status().await.is_ok_and(|status| status.roster.is_some_and(|roster| roster.stale))
    })
    .await;
    let lights = [light(&site, STRANGER).await, light(&site, 0).await, light(&site, 1).await];
    assert_eq!(lights, ["recorded", "recorded", "unknown badge"]);
    let output = site.edge_cli(&["check", "--output", "json"]).unwrap();
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let check = checks["checks"].as_array().unwrap().iter().find(|check| check["check"] == "roster").unwrap();
    assert_eq!(check["state"], "warning");

    // The clock was wrong.
    site.clock.as_ref().unwrap().shows(true_utc_ms(), true).unwrap();
    site.start_cloud(&[]).await.unwrap();
    wait_until("the roster to be fresh", HEALS_WITHIN, &logs(&site), async || {
        site.edge_status().await.is_ok_and(|status| status.roster.is_some_and(|roster| !roster.stale))
    })
    .await;
    let verdicts = verdicts(&site, 4).await;
    assert_eq!(verdicts, ["unknown", "no_roster", "known", "revoked"]);
}
