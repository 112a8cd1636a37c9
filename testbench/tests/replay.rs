//! Deliveries that wait for a person, and what was told before told again, on real processes.

use serde_json::{Value, json};
use testbench::{
    legacy_sim::{Effect, Mode, Script},
    rig::wait_until,
    site::{HEALS_WITHIN, Site, SiteOptions, badge_person, badge_uid},
};

async fn in_state(site: &Site, state: &str, count: u64) {
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until(&format!("{count} deliveries to be {state}"), HEALS_WITHIN, &logs, async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state(state) == count)
    })
    .await;
}

fn json(site: &Site, verb: &[&str]) -> Value {
    let text = site.cloud_cli(&[verb, &["--output", "json"]].concat()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What the attendance system was sent: under which key, for whom.
fn told(site: &Site) -> Vec<(String, String)> {
    let requests = site.legacy.requests().into_iter();
    let told = requests.map(|request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        (request.key.unwrap(), body["person"].as_str().unwrap().to_owned())
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_tap_is_sent_again_when_its_person_is_mended() {
    let site = Site::start(SiteOptions::default()).await.unwrap();
    site.legacy.set_script(Script::first([(Mode::Refused, 1)]));
    site.tap(1).await.unwrap();
    in_state(&site, "dead", 1).await;
    site.tap(2).await.unwrap();
    in_state(&site, "delivered", 1).await;

    let groups = json(&site, &["dlq", "list"]);
    assert_eq!((&groups[0]["group"], &groups[0]["count"]), (&json!("refused"), &json!(1)), "{groups}");
    assert!(groups[0]["said"].as_str().unwrap().contains("no such person"), "{groups}");
    let letters: Value = site.get("/api/v1/letters").await.unwrap();
    assert_eq!(letters["letters"][0]["newest"]["status"], 422, "{letters}");
    let (_, page) = site.get_text("/").await.unwrap();
    assert!(page.contains("Waiting for a person") && page.contains("no such person"), "{page}");
    let id = groups[0]["newest"].as_str().unwrap();
    let shown = site.cloud_cli(&["dlq", "show", id]).unwrap();
    assert!(shown.contains(&badge_person(1)) && shown.contains("422"), "{shown}");

    // HR had the badge under another name.
    let given = ["badges", "assign", &badge_uid(1), "--person", "E-7", "--from", "ever", "--output", "json"];
    site.cloud_cli(&given).unwrap();
    let preview = json(&site, &["dlq", "preview"]);
    assert_eq!((&preview["members"], &preview["compared"]["otherwise"]), (&json!(1), &json!(1)), "{preview}");
    let example = &preview["compared"]["examples"][0];
    assert!(example["now"].as_str().unwrap().contains("E-7"), "{preview}");
    in_state(&site, "dead", 1).await;

    let careless = site.cloud_cli(&["dlq", "discard", "--why", "no"]).unwrap_err().to_string();
    assert!(careless.contains("say which are meant"), "{careless}");
    let why = "HR has entered them";
    let done = json(&site, &["dlq", "replay", "--reason", "refused", "--why", why, "--wait"]);
    assert_eq!((&done["standing"], &done["counts"]["delivered"]), (&json!("done"), &json!(1)), "{done}");
    in_state(&site, "delivered", 2).await;
    let told = told(&site);
    assert_eq!(told[0], (id.to_owned(), badge_person(1)));
    assert_eq!(told[2], (id.to_owned(), "E-7".to_owned()), "the same key, the body as it is now");
    assert_eq!(site.legacy.report().conflicts, []);

    let number = done["no"].to_string();
    let row = &json(&site, &["replay", "show", &number])["rows"][0];
    assert_eq!((&row["event_id"], &row["outcome"]), (&json!(id), &json!("delivered")));
    assert!(row["body_before"].as_str().unwrap().contains(&badge_person(1)), "{row}");
    let log = site.cloud_cli(&["controllers", "log"]).unwrap();
    assert!(log.contains(why), "{log}");
    assert!(site.cloud_cli(&["dlq", "list"]).unwrap().contains("nothing waits"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_tap_lets_those_behind_it_pass() {
    let site = Site::start(SiteOptions::default()).await.unwrap();
    let settings = site.dir().join("held.json");
    let kind = json!({ "kind": "http_json", "url": site.legacy.check_ins_url(), "on_dead": "hold" });
    std::fs::write(&settings, kind.to_string()).unwrap();
    site.cloud_cli(&["destinations", "add", "held", "--settings", &settings.display().to_string()]).unwrap();
    let held = ["--destination", "held"];
    site.cloud_cli(&["destinations", "pause", "legacy", "--reason", "only the other"]).unwrap();

    site.legacy.set_script(Script::first([(Mode::Refused, 1)]));
    site.tap(3).await.unwrap();
    in_state(&site, "dead", 1).await;
    site.tap(3).await.unwrap();
    in_state(&site, "parked", 2).await;
    let ambiguous = site.cloud_cli(&["dlq", "preview"]).unwrap_err().to_string();
    assert!(ambiguous.contains("--destination with one of legacy, held"), "{ambiguous}");
    let discard = [&["dlq", "discard", "--all", "--why", "a test badge", "--wait"], &held[..]].concat();
    let said = site.cloud_cli(&discard).unwrap();
    assert!(said.contains("done, 1 deliveries to held (1 discarded)"), "{said}");
    in_state(&site, "delivered", 1).await;
    in_state(&site, "discarded", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_day_goes_on_after_kill_9_in_the_middle() {
    const TAPS: usize = 60;
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    for n in 0..TAPS {
        site.tap(n % 24).await.unwrap();
    }
    in_state(&site, "delivered", TAPS as u64).await;
    let today = ["--from", "2000-01-01", "--to", "2200-01-01"];
    let dry = site.cloud_cli(&[&["replay"], &today[..]].concat()).unwrap();
    assert!(dry.contains("a dry run") && dry.contains("60 of them legacy has taken already"), "{dry}");
    assert_eq!(site.legacy.requests().len(), TAPS);
    assert!(site.cloud_cli(&["replay", "--go", "--why", "x"]).is_err(), "it has to be said which");

    site.legacy.set_script(Script::always(Mode::Slow { delay_ms: 100 }));
    let why = ["--go", "--why", "their database was put back"];
    let made = json(&site, &[&["replay"], &today[..], &why[..]].concat());
    assert_eq!(made["counts"]["members"], 60, "{made}");
    let number = made["no"].to_string();
    let decided = site.legacy.decided();
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("the replay to be under way", HEALS_WITHIN, &logs, async || {
        *decided.borrow() >= (TAPS + 10) as u64
    })
    .await;
    site.kill_cloud().unwrap();
    let before = json(&site, &["replay", "show", &number]);
    assert!(before["counts"]["waiting"].as_u64().unwrap() > 0, "it was in the middle: {before}");
    site.start_cloud(&[]).await.unwrap();
    // A live tap in the middle of it is no worse off.
    site.tap(5).await.unwrap();
    let done = json(&site, &["replay", "show", &number, "--wait", "--limit", "100"]);
    assert_eq!((&done["standing"], &done["counts"]["delivered"]), (&json!("done"), &json!(60)), "{done}");
    let rows = done["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["detail"] == "duplicate"), "the destination had them all: {done}");
    in_state(&site, "delivered", TAPS as u64 + 1).await;

    let report = site.legacy.report();
    assert_eq!((report.processed.len(), report.conflicts.len()), (TAPS + 1, 0), "nothing is there twice");
    let again = site.legacy.requests().into_iter().skip(TAPS);
    let mut keys: Vec<String> =
        again.filter(|one| one.effect == Effect::Duplicate).filter_map(|one| one.key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), TAPS, "each was sent again");
}
