//! Alerts, dashboard and programs agree: what a rule or a panel asks for is what a running Tapline says of itself. With
//! Prometheus at hand (`./dev` fetches it) the real one judges: rules are tested, and every panel gets an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use cloud_ingest::{
    event_store::{UtcMs, WatermarkRow},
    health::{Health, Loop},
    telemetry::Metrics,
};
use serde_json::Value;
use testbench::{
    http_client,
    rig::{Program, PtyPair, Ready, free_port, wait_until},
    site::{HEALS_WITHIN, Site, SiteOptions},
};

const FOLDER: &str = "packaging/prometheus";
const DASHBOARD: &str = "packaging/grafana/tapline.json";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// One of Prometheus' programs, from where `./dev` puts it or from the system.
fn tool(name: &str) -> Option<PathBuf> {
    let ours = root().join("target/tools/prometheus/usr/bin");
    let folders = [ours, "/usr/local/bin".into(), "/usr/bin".into()];
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: there is no {name} here (`./dev test` fetches it)");
    }
    found
}

/// The value of each alert's `key:`, by the alert's name.
fn of_alerts(key: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut name = String::new();
    for line in text(&format!("{FOLDER}/alerts.yml")).lines() {
        let line = line.trim_start().trim_start_matches("- ");
        if let Some(alert) = line.strip_prefix("alert: ") {
            name = alert.to_owned();
        } else if let Some(value) = line.strip_prefix(&format!("{key}: ")) {
            found.insert(name.clone(), value.trim_matches('\'').to_owned());
        }
    }
    found
}

/// What every panel asks for, by its title.
fn panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let asked = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| {
            let title = panel["title"].as_str().unwrap().to_owned();
            (title, target["expr"].as_str().unwrap().replace("$__rate_interval", "5s"))
        })
    });
    asked.collect()
}

/// A metric that somebody asks for, with the labels and the values that it is to have.
type Asked = (String, Vec<(String, String)>);

/// All of them in a text of expressions or series.
fn asked_for(text: &str) -> Vec<Asked> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(at) = ["cloud_ingest_", "edge_agent_"].iter().filter_map(|p| rest.find(p)).min() {
        let from = &rest[at..];
        let end = from.find(|c| !is_name(c)).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        let mut labels = Vec::new();
        if let Some((inside, _)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            for pair in inside.split(", ").flat_map(|part| part.split(",")) {
                let (label, value) = pair.split_once(['=', '!']).expect("label=value");
                let value = value.trim_start_matches(['=', '~']).trim_matches('"');
                labels.extend(value.split('|').map(|value| (label.trim().to_owned(), value.to_owned())));
            }
        }
        all.push((name.to_owned(), labels));
        rest = after;
    }
    all
}

/// What a program said of itself: names, and of each its labels with their values.
#[derive(Default)]
struct Said(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Said {
    fn read(&mut self, text: &str) {
        for line in text.lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                let (name, kind) = described.split_once(' ').unwrap();
                let endings: &[&str] = match kind {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    // OpenMetrics describes a counter without its ending, the older format with it.
                    "counter" if !name.ends_with("_total") => &["_total"],
                    _ => &[""],
                };
                for ending in endings {
                    self.0.entry(format!("{name}{ending}")).or_default();
                }
            } else if !line.starts_with('#') {
                for (name, labels) in asked_for(line) {
                    let of_name = self.0.entry(name).or_default();
                    labels.into_iter().for_each(|(label, value)| {
                        of_name.entry(label).or_default().insert(value);
                    });
                }
            }
        }
    }

    /// Why nobody says such a thing. What Prometheus itself adds is not said by programs.
    fn complaint(&self, (name, labels): &Asked) -> Option<String> {
        let Some(known) = self.0.get(name) else { return Some(format!("nobody says {name}")) };
        labels.iter().find_map(|(label, value)| match known.get(label) {
            _ if matches!(label.as_str(), "job" | "instance") => None,
            // Nothing of this kind was there to be told of.
            None if known.is_empty() => None,
            None => Some(format!("{name} has no label {label}")),
            Some(values) if CLOSED.contains(&label.as_str()) && !values.contains(value) => {
                Some(format!("{name} never has {label}=\"{value}\""))
            }
            Some(_) => None,
        })
    }
}

/// Labels whose values are closed lists, all of them said from the start.
const CLOSED: [&str; 4] = ["cause", "state", "outcome", "le"];

/// A site with every number that it can have: a serial reader, certificates, and taps that were delivered.
async fn site() -> (Site, PtyPair, SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let reader = PtyPair::plug_in(&folder.path().join("reader")).unwrap();
    let edge = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let readers = format!(
        "[metrics]\nlisten = \"{edge}\"\n\n[[reader]]\nname = \"in\"\nserial = {{ port = \"{}\" }}\n",
        reader.path().display()
    );
    let site = Site::start(SiteOptions { enrolled: true, readers, ..SiteOptions::default() }).await.unwrap();
    for n in 0..5 {
        site.tap(n).await.unwrap();
    }
    wait_until("all taps to be delivered", HEALS_WITHIN, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("delivered") == 5)
    })
    .await;
    wait_until("the door to be told of", HEALS_WITHIN, &[], async || {
        site.get_text("/metrics").await.is_ok_and(|(_, text)| text.contains("controller_lag_seconds{"))
    })
    .await;
    // Its folder goes when the reader has been opened; the reader goes with the pair.
    drop(folder);
    (site, reader, edge)
}

#[tokio::test]
async fn what_alerts_and_panels_ask_for_is_what_the_programs_say() {
    let (site, _reader, edge) = site().await;
    let mut said = Said::default();
    said.read(&site.get_text("/metrics").await.unwrap().1);
    said.read(&what_is_said_of_what_nobody_does_here());
    let door = http_client().get(format!("http://{edge}/metrics")).send().await.unwrap();
    said.read(&door.text().await.unwrap());

    let mut wrong = Vec::new();
    let mut all = panels();
    for file in ["alerts.yml", "alerts.test.yml", "alerts-slow.test.yml"] {
        let lines = text(&format!("{FOLDER}/{file}"));
        all.extend(
            lines
                .lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .map(|line| (file.to_owned(), line.to_owned())),
        );
    }
    let mut count = 0;
    for (whose, text) in all {
        for asked in asked_for(&text) {
            count += 1;
            wrong.extend(said.complaint(&asked).map(|why| format!("{whose}: {why}")));
        }
    }
    assert!(count > 150, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    the_real_prometheus_answers(&site, edge).await;
}

/// Where nothing of a kind was ever seen, nothing is said of it.
fn what_is_said_of_what_nobody_does_here() -> String {
    let metrics = Metrics::new();
    metrics.store_error(Loop::Intake);
    metrics.capture_request(503, 0.1);
    let row = WatermarkRow { complete: Some(UtcMs(1)), ..WatermarkRow::new("frappe", "Day") };
    metrics.watermarks(&[row], UtcMs(2));
    metrics.render(&Health::default())
}

/// What nobody does here, so that a panel has nothing to show of it.
const NOT_DONE_HERE: &str = "cloud_ingest_capture_requests_total";

async fn the_real_prometheus_answers(site: &Site, edge: SocketAddr) {
    let Some(program) = tool("prometheus") else { return };
    let folder = tempfile::tempdir().unwrap();
    let cloud = site.url().replace("http://", "");
    let shipped = text(&format!("{FOLDER}/prometheus.yml"));
    let mut doors = false;
    let ours = shipped.lines().map(|line| {
        doors |= line.contains("job_name: doors");
        doors &= line.starts_with("  #");
        let line = if doors { line.replacen('#', "", 1) } else { line.to_owned() };
        let line = line.replace("hq-door-12.example.com:9100", &edge.to_string());
        line.replace("cloud-ingest:8080", &cloud).replace("15s", "1s") + "\n"
    });
    let config = folder.path().join("prometheus.yml");
    fs::write(&config, ours.collect::<String>()).unwrap();
    fs::copy(root().join(FOLDER).join("alerts.yml"), folder.path().join("alerts.yml")).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let storage = format!("--storage.tsdb.path={}", folder.path().join("data").display());
    let mut prometheus = Program::at(program, "prometheus")
        .args([format!("--config.file={}", config.display()), storage])
        .args([format!("--web.listen-address={address}")])
        .ready_when(Ready::Url(format!("http://{address}/-/ready")))
        .start(folder.path())
        .await
        .unwrap();

    let client = http_client();
    let ask = async |path: &str, query: &str| -> Value {
        let url = format!("http://{address}/api/v1/{path}");
        let url = reqwest::Url::parse_with_params(&url, [("query", query)]).unwrap();
        client.get(url).send().await.unwrap().json().await.unwrap()
    };
    // Enough of each for a rate over five seconds, with something going on.
    wait_until("both to be scraped", Duration::from_secs(60), &[prometheus.log()], async || {
        site.tap(1).await.unwrap();
        let answer = ask("query", "count(sum_over_time(up[5s]) >= 4)").await;
        answer["data"]["result"][0]["value"][1] == "2"
    })
    .await;

    let mut wrong = Vec::new();
    for (title, expr) in panels() {
        let answer = ask("query", &expr).await;
        let is_empty = answer["data"]["result"].as_array().is_none_or(Vec::is_empty);
        if answer["status"] != "success" || is_empty != expr.contains(NOT_DONE_HERE) {
            wrong.push(format!("{title}: {expr}\n    {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let rules = ask("rules", "").await;
    let groups = rules["data"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert_eq!(rules.len(), of_alerts("runbook").len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        // A clock that nobody vouches for is this machine's, maybe; what takes hours cannot have begun.
        assert_ne!(rule["state"], "firing", "nothing is wrong here: {rule}");
    }
    prometheus.terminate(Duration::from_secs(20)).await.unwrap();
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() {
    let book = text("docs/runbook.md");
    let sections: BTreeSet<_> = book.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let runbooks = of_alerts("runbook");
    let names: BTreeSet<_> = runbooks.keys().map(String::as_str).collect();
    assert_eq!(names, sections);
    for (name, runbook) in &runbooks {
        assert_eq!(*runbook, format!("docs/runbook.md#{}", name.to_lowercase()));
    }
    assert_eq!(of_alerts("summary").len(), names.len());
}

#[test]
fn every_alert_fires_when_it_should_and_keeps_quiet_when_it_should() {
    let tests = ["alerts.test.yml", "alerts-slow.test.yml"];
    let all = tests.map(|file| text(&format!("{FOLDER}/{file}"))).concat();
    for name in of_alerts("summary").keys() {
        for ending in ["fires", "keeps quiet"] {
            let line = format!("  - name: {name} {ending}");
            assert!(all.lines().any(|have| have == line), "{line}");
        }
    }
    let Some(promtool) = tool("promtool") else { return };
    for words in [&["check", "config", "prometheus.yml"][..], &["test", "rules", tests[0], tests[1]]] {
        let told = Command::new(&promtool).args(words).current_dir(root().join(FOLDER)).output().unwrap();
        let said = String::from_utf8_lossy(&told.stdout) + String::from_utf8_lossy(&told.stderr);
        assert!(told.status.success(), "promtool {}:\n{said}", words.join(" "));
    }
}
