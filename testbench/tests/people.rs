//! Badges that are given out, handed on and found by their printed numbers, and directions by site, on real processes.

use edge_agent::control::{Request, Response, question};
use serde_json::{Value, json};
use tap_protocol::tap::Direction;
use testbench::{
    rig::wait_until,
    site::{CONTROLLER, HEALS_WITHIN, Site, SiteOptions, badge_uid},
};

const DOOR: &str = CONTROLLER;

async fn unbound() -> Site {
    Site::start(SiteOptions { unbound: true, ..SiteOptions::default() }).await.unwrap()
}

/// Shows badge `n` at a reader that serves both ways.
async fn tap(site: &Site, n: usize) {
    let request = Request::Tap { uid: badge_uid(n), direction: Direction::Unspecified };
    let answer = question(&site.control_socket(), &request).await.unwrap();
    assert!(matches!(answer, Response::Recorded { .. }), "{answer:?}");
}

async fn in_state(site: &Site, state: &str, count: u64) {
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until(&format!("{count} deliveries to be {state}"), HEALS_WITHIN, &logs, async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state(state) == count)
    })
    .await;
}

/// What the attendance system was told, in the order in which it was: who, and which way.
fn told(site: &Site) -> Vec<(String, String)> {
    let requests = site.legacy.requests().into_iter();
    let told = requests.map(|request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        (text("person"), text("direction"))
    });
    told.collect()
}

fn who(site: &Site) -> Vec<String> {
    told(site).into_iter().map(|(person, _)| person).collect()
}

fn json(site: &Site, verb: &[&str]) -> Value {
    let text = site.cloud_cli(&[verb, &["--output", "json"]].concat()).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_card_of_the_last_unknown_tap_is_given_to_a_person_and_handed_on() {
    let site = unbound().await;
    let nobody =
        site.cloud_cli(&["badges", "assign", "--last-unknown", DOOR, "--person", "E-1"]).unwrap_err();
    assert!(nobody.to_string().contains("no tap of an unknown badge came from hq-door-1"), "{nobody}");

    tap(&site, 7).await;
    in_state(&site, "held", 1).await;
    let assign = ["badges", "assign", "--last-unknown", DOOR, "--person", "E-1"];
    let asked = site.cloud_cli(&assign).unwrap_err().to_string();
    assert!(asked.contains("reader") && asked.contains("ago)") && asked.contains("say --yes"), "{asked}");
    assert!(!asked.contains(&badge_uid(7)), "the clear number is in {asked}");
    in_state(&site, "held", 1).await;
    let said = site.cloud_cli(&[assign.as_slice(), &["--yes"]].concat()).unwrap();
    assert!(said.contains("is E-1's\n1 waiting deliveries released"), "{said}");
    in_state(&site, "delivered", 1).await;

    // Somebody else has it from now on; what a door without a network saw before is still the first one's.
    site.uplink.cut().await.unwrap();
    tap(&site, 7).await;
    let handed_on = site.cloud_cli(&["badges", "assign", &badge_uid(7), "--person", "E-2"]).unwrap();
    assert!(handed_on.contains("E-1's until 20") && handed_on.contains("; E-2's from 20"), "{handed_on}");
    tap(&site, 7).await;
    site.uplink.restore().await.unwrap();
    in_state(&site, "delivered", 3).await;
    let mut who = who(&site);
    who.sort();
    assert_eq!(who, ["E-1", "E-1", "E-2"]);

    // It was the second one's all the time, they say: what was told stays, and is listed.
    let again = json(&site, &["badges", "assign", &badge_uid(7), "--person", "E-2", "--from", "ever"]);
    assert_eq!((&again["changed"], &again["told_otherwise"]), (&json!(1), &json!(2)));
    assert_eq!(again["badge"]["bindings"], json!([{"person": "E-2", "from": null, "until": null}]));
    let listed = json(&site, &["events", "differences"]);
    let listed = listed["differences"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|one| one["told"] == "E-1" && one["is"] == "E-2" && one["what"] == "person"));
    let id = listed[0]["event_id"].as_str().unwrap();
    let story = site.cloud_cli(&["events", "get", id]).unwrap();
    assert!(story.contains("was told that it is E-1's; it is E-2's."), "{story}");

    let token = again["badge"]["tokens"][0].as_str().unwrap();
    site.cloud_cli(&["badges", "unassign", "--token", token]).unwrap();
    tap(&site, 7).await;
    in_state(&site, "held", 1).await;
    let list = site.cloud_cli(&["badges", "list", "--history"]).unwrap();
    assert!(list.contains("E-2's until 20") && !list.contains(&badge_uid(7)), "{list}");
    let log = site.cloud_cli(&["controllers", "log"]).unwrap();
    assert!(log.contains("assign badge") && log.contains("unassign badge"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn printed_numbers_find_their_cards_and_a_list_may_say_when() {
    let site = unbound().await;
    tap(&site, 3).await;
    in_state(&site, "held", 1).await;
    let reversed = |n: usize| {
        let bytes = data_encoding::HEXUPPER.decode(badge_uid(n).as_bytes()).unwrap();
        data_encoding::HEXUPPER.encode(&bytes.into_iter().rev().collect::<Vec<u8>>())
    };
    let matches = json(&site, &["badges", "show", "--card", &reversed(3)]);
    let seen: Vec<&Value> = matches.as_array().unwrap().iter().filter(|one| one["seen"] == true).collect();
    assert_eq!(seen.len(), 1, "{matches}");
    assert_eq!(seen[0]["profile"], "uid7-hex-reversed/1");

    let csv = site.dir().join("printed.csv");
    let import = |profile: Option<&str>| {
        let csv = csv.display().to_string();
        let named: Vec<&str> = profile.iter().flat_map(|name| ["--profile", *name]).collect();
        site.cloud_cli(&[["badges", "import", &csv, "--printed"].as_slice(), &named].concat())
    };
    let lines =
        format!("badge,person,from,to\n{},E-3,,\n{},E-4,2026-03-02,2026-03-06\n", reversed(3), reversed(4));
    std::fs::write(&csv, lines).unwrap();
    let doubt = import(None).unwrap_err().to_string();
    assert!(
        doubt.contains("line 3") && doubt.contains("2 different cards") && !doubt.contains("line 2"),
        "{doubt}"
    );
    assert!(!doubt.contains(&badge_uid(4)) && !doubt.contains(&reversed(4)), "a number is in {doubt}");
    site.cloud_cli(&["sites", "set", "hq", "--card-profile", "uid7-hex-reversed"]).unwrap();
    let said = import(None).unwrap();
    assert!(
        said.starts_with("2 badges: 2 new, 0 changed, 0 unchanged\n1 waiting deliveries released"),
        "{said}"
    );
    assert!(import(None).unwrap().starts_with("2 badges: 0 new, 0 changed, 2 unchanged"));
    in_state(&site, "delivered", 1).await;
    assert_eq!(who(&site), ["E-3"]);
    let four = json(&site, &["badges", "show", &badge_uid(4)]);
    let held = &four["bindings"][0];
    assert_eq!(
        (&held["from"], &held["until"]),
        (&json!("2026-03-01T23:00:00.000Z"), &json!("2026-03-06T23:00:00.000Z"))
    );
    let revealed = site.cloud_cli(&["badges", "show", &badge_uid(4), "--reveal"]).unwrap();
    assert!(revealed.contains(&reversed(4)), "{revealed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn taps_alternate_where_the_site_says_so_and_their_story_says_why() {
    let site = Site::start(SiteOptions::default()).await.unwrap();
    tap(&site, 1).await;
    in_state(&site, "delivered", 1).await;
    let set = ["sites", "set", "hq", "--direction", "alternating", "--double-within-s", "0"];
    assert_eq!(site.cloud_cli(&set).unwrap(), "hq: direction alternating (rule 1)\n");
    assert!(
        site.cloud_cli(&["sites", "set", "hq", "--label", "Elsewhere"]).is_err(),
        "it stands in the configuration"
    );
    assert!(site.cloud_cli(&["sites", "set", "hw", "--direction", "none"]).is_err());
    for delivered in 2..=4 {
        tap(&site, 1).await;
        in_state(&site, "delivered", delivered).await;
    }
    let ways: Vec<String> = told(&site).into_iter().map(|(_, way)| way).collect();
    assert_eq!(ways, ["unspecified", "in", "out", "in"]);
    let newest: Value = site.get("/api/v1/events?taps=true&limit=1").await.unwrap();
    let id = newest["events"][0]["event_id"].as_str().unwrap().to_owned();
    let event: Value = site.get(&format!("/api/v1/events/{id}")).await.unwrap();
    assert_eq!((&event["decided"]["direction"], &event["decided"]["why"]), (&json!("in"), &json!("follows")));
    assert_eq!((&event["decided"]["rule"], &event["decided"]["worked_out_by"]), (&json!(1), &json!(1)));
    let sites = json(&site, &["sites", "list"]);
    assert_eq!((&sites[0]["direction"], &sites[0]["reset_after_h"]), (&json!("alternating"), &json!(14)));
}
