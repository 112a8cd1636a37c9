//! The verbs of destinations as an operator types them, beside a running service: a second system is added and told of
//! all that there is, is stopped and goes on, and what would go wrong later is refused at once.

use std::path::PathBuf;

use serde_json::{Value, json};
use testbench::{
    legacy_sim::{LegacySim, Mode, Script},
    rig::wait_until,
    site::{HEALS_WITHIN, Site, SiteOptions},
};

const ANYWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

struct Desk {
    site: Site,
    /// Taps so far.
    taps: usize,
}

impl Desk {
    async fn open() -> Desk {
        Desk { site: Site::start(SiteOptions::default()).await.unwrap(), taps: 0 }
    }

    async fn tap(&mut self, count: usize) {
        for _ in 0..count {
            self.site.tap(self.taps % 20).await.unwrap();
            self.taps += 1;
        }
    }

    /// Writes settings to a file of that name.
    fn file(&self, name: &str, content: &str) -> String {
        let path: PathBuf = self.site.dir().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn does(&self, verb: &[&str]) -> String {
        self.site.cloud_cli(&[&["destinations"], verb].concat()).unwrap()
    }

    fn json(&self, verb: &[&str]) -> Value {
        serde_json::from_str(&self.does(&[verb, &["--output", "json"]].concat())).unwrap()
    }

    /// What is said to one who may not do that.
    #[track_caller]
    fn refuses(&self, verb: &[&str], why: &str) {
        let said = self.site.cloud_cli(&[&["destinations"], verb].concat());
        let said = said.expect_err("it is refused").to_string();
        assert!(said.contains(why), "{verb:?} says: {said}");
    }

    async fn is_told(&self, sim: &LegacySim, taps: usize) {
        let log = self.site.dir().join("cloud-ingest.log");
        wait_until("all taps to be told", HEALS_WITHIN, &[&log], async || {
            sim.report().processed.len() == taps
        })
        .await;
    }
}

fn settings(sim: &LegacySim) -> Value {
    json!({
        "kind": "http_json",
        "url": sim.check_ins_url(),
        "deliver_from": "beginning",
        "limits": { "per_second": 100.0, "burst": 100 },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_system_is_added_stopped_changed_and_told_of_everything() {
    let mut desk = Desk::open().await;
    desk.tap(10).await;
    let sim = LegacySim::start(ANYWHERE.into()).await.unwrap();
    let file = desk.file("gate.json", &settings(&sim).to_string());
    let secret = desk.file("gate.secret", "Bearer first\n");

    desk.does(&[
        "add",
        "gate",
        "--settings",
        &file,
        "--credentials-file",
        &secret,
        "--reason",
        "the new gate",
    ]);
    desk.is_told(&sim, 10).await;
    desk.refuses(&["add", "gate", "--settings", &file], "there is a destination gate already");

    let listed = desk.json(&["list"]);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["legacy", "gate"]);
    let shown = desk.json(&["show", "gate"]);
    assert_eq!(shown["settings"]["limits"]["per_second"], 100.0);
    assert!(shown["kept_back"].is_null(), "{shown}");
    let everything = format!("{shown} {} {}", desk.does(&["list"]), desk.does(&["show", "gate"]));
    assert!(!everything.contains("Bearer") && everything.contains("gate.secret"), "{everything}");

    desk.does(&["pause", "gate", "--reason", "they move house"]);
    desk.tap(5).await;
    desk.is_told(&desk.site.legacy, 15).await;
    assert_eq!(sim.report().processed.len(), 10, "nothing is sent while it is stopped");
    let kept = &desk.json(&["show", "gate"])["kept_back"];
    assert_eq!(kept["what"], "paused");
    assert!(kept["why"].as_str().unwrap().contains("they move house"), "{kept}");
    desk.does(&["resume", "gate", "--reason", "they have moved"]);
    desk.is_told(&sim, 15).await;

    // Changed settings count from the next request on: from here on nothing is really sent.
    let mut shadow = settings(&sim);
    shadow["mode"] = "shadow".into();
    let file = desk.file("gate.json", &shadow.to_string());
    desk.does(&["set", "gate", "--settings", &file, "--reason", "a rehearsal"]);
    desk.tap(5).await;
    desk.is_told(&desk.site.legacy, 20).await;
    wait_until("the rehearsal to be over", HEALS_WITHIN, &[], async || {
        desk.site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("discarded") == 5)
    })
    .await;
    assert_eq!(sim.report().processed.len(), 15);

    let newer = desk.file("gate.secret", "Bearer second\n");
    let before = desk.json(&["show", "gate"])["version"].as_u64().unwrap();
    desk.does(&["rotate", "gate", "--credentials-file", &newer, "--reason", "once a year"]);
    assert!(desk.json(&["show", "gate"])["version"].as_u64().unwrap() > before, "dispatchers open it again");
    let log = desk.site.cloud_cli(&["controllers", "log"]).unwrap();
    for (deed, why) in [
        ("add_destination", "the new gate"),
        ("pause_destination", "they move house"),
        ("resume_destination", "they have moved"),
        ("set_destination", "a rehearsal"),
        ("rotate_destination", "once a year"),
    ] {
        assert!(log.lines().any(|line| line.contains(deed) && line.contains(why)), "{deed}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_go_wrong_at_the_first_tap_is_refused_when_it_is_written() {
    let desk = Desk::open().await;
    let sim = LegacySim::start(ANYWHERE.into()).await.unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut settings = settings(&sim);
        change(&mut settings);
        desk.file("wrong.json", &settings.to_string())
    };
    let refuses = |file: &str, why: &str| desk.refuses(&["add", "gate", "--settings", file], why);
    refuses(&with(&|it| it["colour"] = "red".into()), "colour");
    refuses(&with(&|it| it["limits"] = json!({ "per_second": -1.0 })), "per_second");
    // The loopback network is the declared destination's; nobody has named this one.
    refuses(&with(&|it| it["url"] = "http://10.1.2.3/api".into()), "10.1.2.3");
    refuses(
        &with(&|it| it["http_json"] = json!({ "template": { "body": { "who": "{persona}" } } })),
        "persona",
    );
    refuses(&desk.file("wrong.json", "{"), "wrong.json is no settings");
    refuses("/nowhere/settings.json", "cannot read /nowhere/settings.json");
    let good = desk.file("good.json", &settings(&sim).to_string());
    desk.refuses(&["add", "Gate!", "--settings", &good], "Gate!");
    desk.refuses(
        &["add", "gate", "--settings", &good, "--credentials-file", "/nowhere/secret"],
        "cannot find /nowhere/secret",
    );
    for verb in ["pause", "resume"] {
        desk.refuses(&[verb, "gate", "--reason", "why not"], "gate");
    }
    desk.refuses(&["show", "gate"], "there is no destination gate");
    desk.refuses(&["set", "legacy", "--settings", &good], "declared by [destination]");
    let listed = desk.json(&["list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "nothing of that was added: {listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_tried_without_a_tap_and_the_exit_code_says_how_that_went() {
    let desk = Desk::open().await;
    let sim = LegacySim::start(ANYWHERE.into()).await.unwrap();
    let file = desk.file("gate.json", &settings(&sim).to_string());
    desk.does(&["add", "gate", "--settings", &file]);
    let tried = desk.json(&["test", "gate"]);
    assert!(tried["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{tried}");
    assert_eq!(sim.report().processed.len(), 0, "it is not told of a tap");
    let tried = desk.json(&["test", "gate", "--send", "P-trial"]);
    let good = |step: &Value| step["finding"] == "good";
    assert!(tried["steps"].as_array().unwrap().iter().all(good), "{tried}");
    assert_eq!(sim.report().processed.len(), 1, "one tap, and its repetition was known as one");

    sim.set_script(Script::always(Mode::Down));
    let url = format!("http://127.0.0.1:{}/nobody", testbench::rig::free_port());
    let mut nobody = settings(&sim);
    nobody["url"] = url.into();
    let file = desk.file("gate.json", &nobody.to_string());
    desk.does(&["set", "gate", "--settings", &file]);
    desk.refuses(&["test", "gate"], "exit status: 1");
}
