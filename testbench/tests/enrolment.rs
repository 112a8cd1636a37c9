//! Enrolment as a person at a door meets it: the real `edge-agent` against a server that behaves, misbehaves, or is
//! somebody else's.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
    time::Duration,
};

use edge_agent::{
    enrolment::{
        client::Cloud,
        folder::{Folder, RecordKey},
        https::Patience,
    },
    known_time::KnownTime,
    tls::Trust,
};
use tap_protocol::{enrolment::EnrollToken, ids::BootId};
use testbench::{
    authority::{Authority, Life},
    enrolment_server::{At, EnrolmentServer, Fault, Gift},
    rig::program_path,
};

const CONTROLLER: &str = "hq-door-1";

/// A door with nothing but its configuration, and the cloud that it is to be enrolled at.
struct Door {
    dir: tempfile::TempDir,
    cloud: EnrolmentServer,
}

fn gift() -> Gift {
    Gift {
        broker_url: "mqtts://127.0.0.1:8883".into(),
        token_keys: vec![(1, "11".repeat(32)), (2, "22".repeat(32))],
        receipt_keys: vec!["33".repeat(32), "44".repeat(32)],
        control_keys: vec!["55".repeat(32)],
        life: Life::of_days(30),
    }
}

impl Door {
    async fn new() -> Self {
        Self::with_server(Life::of_days(1)).await
    }

    async fn with_server(life: Life) -> Self {
        let cloud = EnrolmentServer::start(Arc::new(Authority::new("root")), gift(), life).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let config = format!("state_dir = \"{at}/state\"\nruntime_dir = \"{at}/run\"\n");
        fs::write(dir.path().join("edge-agent.toml"), config).unwrap();
        Self { dir, cloud }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("state/enrolment")
    }

    fn set(&self) -> PathBuf {
        self.folder().join("current")
    }

    /// In a thread of its own: the server runs in the test's runtime.
    async fn cli(&self, args: &[&str]) -> Output {
        let mut command = std::process::Command::new(program_path("edge-agent").unwrap());
        command.args(args).arg("--config").arg(self.dir.path().join("edge-agent.toml"));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn enroll(&self, token: &EnrollToken) -> Output {
        self.cli(&["enroll", "--url", &self.cloud.url(), "--token", &token.to_string()]).await
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn failed_with(output: &Output, code: i32, parts: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_is_enrolled_with_one_command_and_its_keys_stay_with_it() {
    let door = Door::new().await;
    let unenrolled = door.cli(&["run"]).await;
    failed_with(&unenrolled, 78, &["not enrolled", "edge-agent enroll --url"]);

    let token = door.cloud.token(CONTROLLER);
    let enrolled = door.enroll(&token).await;
    let words = said(&enrolled);
    assert!(enrolled.status.success(), "{words}");
    for part in [CONTROLLER, "Main entrance", "hq", "mqtts://127.0.0.1:8883", "edge-agent test-connection"] {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
    assert!(!words.contains(&"22".repeat(32)), "no secret is shown: {words}");
    assert_eq!(mode(&door.folder()), 0o700);
    for file in ["tls.key", "record.key", "token.key", "bundle.json"] {
        assert_eq!(mode(&door.set().join(file)), 0o600, "{file}");
    }
    let [record_key] = &door.cloud.record_keys(CONTROLLER)[..] else { panic!("one key was proved") };
    let status = door.cli(&["cert", "status", "--output", "json"]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["controller"], CONTROLLER);
    assert_eq!(status["enrolled"], true);
    assert_eq!(status["certificate"]["subject"], CONTROLLER);
    assert_eq!(status["certificate"]["issuer"], "root");
    assert_eq!(status["record_key"], *record_key);
    assert_eq!(status["token_key_id"], 2);
    assert_eq!(status["receipt_keys"].as_array().unwrap().len(), 2);
    let checked = door.cli(&["config", "check"]).await;
    assert!(checked.status.success(), "{}", said(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_once() {
    let (door, token) = {
        let door = Door::new().await;
        let token = door.cloud.token(CONTROLLER);
        (door, token)
    };
    assert!(door.enroll(&token).await.status.success());
    let before = fs::read(door.set().join("bundle.json")).unwrap();
    let again = door.enroll(&token).await;
    failed_with(&again, 1, &["not enrolled", "refuses (409)", "used already", "ask for a new one"]);
    assert_eq!(fs::read(door.set().join("bundle.json")).unwrap(), before, "what was there is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_on_the_way_the_same_token_enrols_afterwards() {
    let door = Door::new().await;
    let token = door.cloud.token(CONTROLLER);
    let faults = [Fault::Cut, Fault::CutHalfway, Fault::Rubbish, Fault::Endless];
    for at in [At::Connection, At::Challenge, At::Answer] {
        for fault in faults {
            // An endless stream of anything before TLS is rubbish too.
            door.cloud.fault(Some((at, fault)));
            let output = door.enroll(&token).await;
            failed_with(&output, 1, &["not enrolled", "the same command works again"]);
            assert!(!door.set().exists(), "nothing is kept of {fault:?} at {at:?}");
        }
    }
    door.cloud.fault(None);
    let output = door.enroll(&token).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(door.cloud.record_keys(CONTROLLER).len(), 1, "every attempt used the same keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_not_waited_for_without_end() {
    let door = Door::new().await;
    let token = door.cloud.token(CONTROLLER);
    let folder = Folder::of(&door.dir.path().join("state"));
    let lock = folder.lock().unwrap();
    let keys = folder.keys_to_ask_with(&lock, RecordKey::New).unwrap();
    let short = Duration::from_millis(400);
    let cloud = Cloud {
        url: door.cloud.url().parse().unwrap(),
        trust: Trust::Pin(token.root_pin),
        time: KnownTime::load(door.dir.path(), BootId([1; 16])),
        patience: Patience { connect: short, answer: short },
    };
    for (at, what) in
        [(At::Connection, "the TLS handshake"), (At::Challenge, "the answer"), (At::Answer, "the answer")]
    {
        door.cloud.fault(Some((at, Fault::Silence)));
        let error = cloud.enroll(&token, &keys).await.unwrap_err();
        assert!(error.to_string().contains(&format!("{what} took longer")), "{at:?}: {error}");
        assert!(!error.needs_a_person());
    }
    door.cloud.fault(None);
    cloud.enroll(&token, &keys).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_the_tokens_is_told_nothing() {
    let door = Door::new().await;
    let other = Door::new().await;
    let token = other.cloud.token(CONTROLLER);
    let output = door.enroll(&token).await;
    failed_with(&output, 1, &["not the one that the token was made for", "Check the address"]);
    assert_eq!(door.cloud.requests(), [""; 0], "it has not even seen a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_gets_wrong_is_said_and_costs_no_token() {
    let door = Door::new().await;
    let token = door.cloud.token(CONTROLLER).to_string();
    let url = door.cloud.url();
    let half = door.cli(&["enroll", "--url", &url, "--token", &token[..40]]).await;
    failed_with(&half, 2, &["no enrolment token", "copy all of it"]);
    let plain = door.cli(&["enroll", "--url", "http://127.0.0.1:1", "--token", &token]).await;
    failed_with(&plain, 2, &["is not https://HOST"]);
    let nobody = door.cli(&["enroll", "--url", "https://127.0.0.1:1", "--token", &token]).await;
    failed_with(&nobody, 1, &["nothing answers at 127.0.0.1:1"]);
    let nameless = door.cli(&["enroll", "--url", "https://cloud.invalid", "--token", &token]).await;
    failed_with(&nameless, 1, &["cloud.invalid", "getent hosts"]);
    door.cloud.refuse(Some((410, "this token ended yesterday: ask for a new one")));
    let expired = door.cli(&["enroll", "--url", &url, "--token", &token]).await;
    failed_with(&expired, 1, &["refuses (410): this token ended yesterday: ask for a new one"]);
    door.cloud.refuse(None);

    let by_hand = "controller = 'a'\nbroker.url = 'mqtt://h'\n[keys]\nrecord_key_file = 'a'\ntoken_key_file = 'b'\nreceipt_public_key_file = 'c'\n";
    let config = door.dir.path().join("edge-agent.toml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{good}{by_hand}")).unwrap();
    let output = door.cli(&["enroll", "--url", &url, "--token", &token]).await;
    failed_with(&output, 78, &["take these three out first", "was not used"]);
    fs::write(&config, format!("{good}controller = 'a'\n")).unwrap();
    let half = door.cli(&["config", "check"]).await;
    failed_with(&half, 78, &["broker is missing: controller, [broker] and [keys] go together"]);
    fs::write(&config, good).unwrap();

    let file = door.dir.path().join("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    let output = door.cli(&["enroll", "--url", &url, "--token-file", &file.display().to_string()]).await;
    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_has_ended_is_named_as_that() {
    let door = Door::with_server(Life::over()).await;
    let token = door.cloud.token(CONTROLLER);
    let output = door.enroll(&token).await;
    failed_with(&output, 1, &["does not hold at this time", "timedatectl"]);
    assert_eq!(door.cloud.requests(), [""; 0]);
}
