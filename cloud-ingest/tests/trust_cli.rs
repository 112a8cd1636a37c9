//! The verbs that people type to let doors in, replace keys and take trust back, as processes over one folder.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use cloud_ingest::event_store::sqlite::SqliteStore;
use cloud_ingest::event_store::{DeviceKeys, Enrolment, Fleet, Issue, UtcMs};
use cloud_ingest::keyring::Keys;
use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tap_protocol::enrolment::EnrollToken;
use tap_protocol::keys::SigningKey;
use tempfile::TempDir;

struct Cloud(TempDir);

impl Cloud {
    /// With keys, a root and a configuration; no service runs.
    fn new() -> Cloud {
        let cloud = Cloud(tempfile::tempdir().unwrap());
        let at = cloud.0.path().display().to_string();
        let config = format!(
            r#"data_dir = "{at}/data"
[broker]
url = "mqtt://127.0.0.1"
client_id = "cloud-ingest"
[http]
listen = "127.0.0.1:8080"
[keys]
dir = "{at}/keys"
[enrolment]
listen = "127.0.0.1:8444"
url = "https://enrol.example:8444"
broker_url = "mqtts://broker.example"
[[site]]
id = "hq"
label = "Headquarters"
zone = "Europe/Berlin"
[destination]
name = "legacy"
url = "http://127.0.0.1:9000/checkins"
"#
        );
        std::fs::write(cloud.path("cloud-ingest.toml"), config).unwrap();
        cloud.does(&["keys", "create", "--dir", &format!("{at}/keys")]);
        cloud.does(&["ca", "init", "--dir", &format!("{at}/keys")]);
        cloud
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, verb: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cloud-ingest")).args(verb).output().unwrap()
    }

    /// Runs a verb that needs no configuration, or names it itself.
    #[track_caller]
    fn does(&self, verb: &[&str]) -> String {
        let output = self.run(verb);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb over the configuration.
    #[track_caller]
    fn over(&self, verb: &[&str]) -> String {
        let config = self.path("cloud-ingest.toml").display().to_string();
        self.does(&[verb, &["--config", &config]].concat())
    }

    #[track_caller]
    fn json(&self, verb: &[&str]) -> Value {
        serde_json::from_str(&self.over(&[verb, &["--output", "json"]].concat())).unwrap()
    }

    #[track_caller]
    fn refuses(&self, verb: &[&str], because: &str) {
        let config = self.path("cloud-ingest.toml").display().to_string();
        let output = self.run(&[verb, &["--config", &config]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(because), "{verb:?}: {said}");
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.path("data/cloud-ingest.db"), UtcMs(1)).unwrap()
    }

    /// What the listener does when a door shows this token, without the listener.
    fn enrolls(&self, token: &EnrollToken, seed: u8) {
        let keys = Keys::load(&self.path("keys")).unwrap();
        let now = self.store().enroll_token(token.id).unwrap().unwrap().created;
        let issue = Issue {
            at: now,
            keys: DeviceKeys { tls: vec![4; 65], record: SigningKey::from_seed(&[seed; 32]).public() },
            serial: [seed; 16],
            not_after: UtcMs(now.0 + 1_000_000_000),
            holds: keys.ring.holdings(),
            agent_version: "0.1.0".into(),
        };
        let secret_sha256 = digest(&SHA256, &token.secret).as_ref().try_into().unwrap();
        let enrolment = Enrolment { token: token.id, secret_sha256, issue };
        self.store().enroll(&enrolment).unwrap().unwrap();
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_root_and_certificates_are_made_and_nothing_is_overwritten() {
    let cloud = Cloud::new();
    assert_eq!(mode(&cloud.path("keys")), 0o700);
    assert_eq!(mode(&cloud.path("keys/root-1.key")), 0o600);
    let keys = cloud.path("keys").display().to_string();
    for verb in [["keys", "create"], ["ca", "init"]] {
        let again = cloud.run(&[&verb[..], &["--dir", &keys]].concat());
        assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was changed"), "{verb:?}");
    }
    let out = cloud.path("broker").display().to_string();
    let issue = ["ca", "issue-server", "--name", "broker.example", "--ip", "192.0.2.7", "--out", &out];
    cloud.does(&[&issue[..], &["--dir", &keys]].concat());
    cloud.does(&["ca", "issue-service", "--out", &out, "--dir", &keys]);
    for secret in ["broker/server.key", "broker/client.key"] {
        assert_eq!(mode(&cloud.path(secret)), 0o600, "{secret}");
    }
    let read = |name: &str| std::fs::read_to_string(cloud.path(name)).unwrap();
    assert_eq!(read("broker/ca.pem"), read("keys/root-1.crt"));
    assert!(read("broker/server.pem").ends_with(&read("keys/root-1.crt")));
    assert!(read("broker/crl.pem").contains("BEGIN X509 CRL"));
    assert!(cloud.over(&["config", "check"]).contains("is fine"));
}

#[test]
fn forty_doors_get_their_tokens_in_one_step() {
    let cloud = Cloud::new();
    let csv: String = (1..=40).map(|n| format!("hq-door-{n},hq,Door {n}\n")).collect();
    let file = cloud.path("doors.csv");
    std::fs::write(&file, format!("controller,site,label\n{csv}")).unwrap();
    let made = cloud.over(&["enroll-token", "create", "--batch", file.to_str().unwrap(), "--output", "csv"]);
    let lines: Vec<&str> = made.lines().collect();
    assert_eq!((lines.len(), lines[0]), (41, "controller,label,expires,token,command"));
    let token = lines[7].split(',').nth(3).unwrap();
    assert!(
        lines[7].ends_with(&format!("edge-agent enroll --url https://enrol.example:8444 --token {token}"))
    );
    let token: EnrollToken = token.parse().unwrap();
    let root = Keys::load(&cloud.path("keys")).unwrap().server_root().unwrap().pin();
    assert_eq!(token.root_pin, root);
    let listed = cloud.json(&["enroll-token", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 40);
    assert!(listed.as_array().unwrap().iter().all(|row| row["state"] == "open"));
    let all = std::fs::read(cloud.path("data/cloud-ingest.db")).unwrap();
    let holds = |secret: &[u8]| all.windows(secret.len()).any(|part| part == secret);
    assert!(!holds(&token.secret) && !holds(token.secret_text().as_bytes()));

    std::fs::write(&file, "controller,site,label\nhq-door-41,hq,x\nhq-door-42,nowhere,y\n").unwrap();
    cloud.refuses(&["enroll-token", "create", "--batch", file.to_str().unwrap()], "no token was made");
    assert_eq!(cloud.json(&["enroll-token", "list"]).as_array().unwrap().len(), 40);
    let number = token.id_text();
    cloud.over(&["enroll-token", "withdraw", &number, "--reason", "the list was lost"]);
    cloud.refuses(&["enroll-token", "withdraw", &number, "--reason", "again"], "taken back before");
}

#[test]
fn a_door_is_let_in_renamed_and_put_out_of_trust_and_the_log_says_who_and_why() {
    let cloud = Cloud::new();
    let as_the_service =
        ["enroll-token", "create", "--controller", "cloud-ingest", "--site", "hq", "--label", "Front"];
    cloud.refuses(&as_the_service, "choose another name");
    let create = ["enroll-token", "create", "--controller", "hq-door-1", "--site", "hq", "--label", "Front"];
    let made = cloud.json(&create);
    let token: EnrollToken = made[0]["token"].as_str().unwrap().parse().unwrap();
    cloud.enrolls(&token, 0x51);
    cloud.over(&["controllers", "rename", "hq-door-1", "--label", "Main entrance"]);
    let shown = cloud.json(&["controllers", "get", "hq-door-1"]);
    assert_eq!((&shown["label"], &shown["trust"]["standing"]), (&"Main entrance".into(), &"active".into()));
    assert_eq!(shown["trust"]["certificate_serial"], HEXLOWER.encode(&[0x51; 16]));
    assert!(shown["trust"]["holds"].as_array().unwrap().contains(&"receipt-1".into()));

    let revoke = ["controllers", "revoke", "hq-door-1", "--reason", "broken open"];
    assert!(cloud.over(&revoke).contains("nothing was changed"));
    assert_eq!(cloud.json(&["controllers", "get", "hq-door-1"])["trust"]["standing"], "active");
    assert!(cloud.over(&[&revoke[..], &["--yes"]].concat()).contains("is revoked"));
    cloud.refuses(&[&revoke[..], &["--yes"]].concat(), "is revoked already");
    cloud
        .refuses(&["controllers", "retire", "hq-door-9", "--reason", "x", "--yes"], "there is no controller");
    assert_eq!(cloud.store().revoked_certificates(UtcMs(0)).unwrap().len(), 1);
    let listed = cloud.over(&["controllers", "list"]);
    assert!(listed.contains("revoked") && listed.contains("Main entrance"), "{listed}");
    let log = cloud.json(&["controllers", "log"]);
    let told: Vec<_> = log.as_array().unwrap().iter().map(|deed| deed["what"].as_str().unwrap()).collect();
    assert_eq!(told, ["revoke", "rename", "enroll", "create_token"]);
    assert_eq!(log[0]["why"], "broken open");
    assert_ne!(log[0]["who"], "unknown");
}

#[test]
fn a_rotation_takes_its_steps_and_counts_who_has_the_new_key() {
    let cloud = Cloud::new();
    let create = ["enroll-token", "create", "--controller", "hq-door-1", "--site", "hq", "--label", "Front"];
    let token: EnrollToken = cloud.json(&create)[0]["token"].as_str().unwrap().parse().unwrap();
    cloud.enrolls(&token, 0x52);
    cloud.over(&["keys", "rotate", "receipt"]);
    cloud.refuses(&["keys", "rotate", "receipt"], "receipt-2 is on its way already");
    let status = cloud.json(&["keys", "status"]);
    let second = status.as_array().unwrap().iter().find(|row| row["key"] == "receipt-2").unwrap();
    assert_eq!(
        (&second["state"], &second["reach"]["have"], &second["reach"]["of"]),
        (&"next".into(), &0.into(), &1.into())
    );
    cloud.refuses(&["keys", "activate", "receipt"], "0 of 1 active controllers have receipt-2");
    cloud.refuses(&["keys", "activate", "receipt", "--yes"], "--reason");
    // The door asks again, and is told of it.
    cloud.enrolls_again(&token, 0x53);
    cloud.over(&["keys", "activate", "receipt"]);
    cloud.refuses(&["keys", "retire", "receipt", "2"], "receipt-2 is active: rotate first");
    cloud.over(&["keys", "retire", "receipt", "1"]);
    let keys = Keys::load(&cloud.path("keys")).unwrap();
    assert_eq!(keys.receipt_public(), [keys.receipt().public()]);
    cloud.over(&["ca", "rotate"]);
    cloud.over(&["ca", "activate", "--yes", "--reason", "the root was stolen"]);
    cloud.refuses(&["ca", "retire", "1"], "0 of 1 active controllers have signed-by-root-2");
    let log = cloud.json(&["controllers", "log"]);
    assert_eq!((&log[0]["what"], &log[0]["about"]), (&"activate".into(), &"root-2".into()));
}

impl Cloud {
    /// The same keys within the token's life, another certificate.
    fn enrolls_again(&self, token: &EnrollToken, serial: u8) {
        let used = self.store().enroll_token(token.id).unwrap().unwrap().used.unwrap();
        let keys = Keys::load(&self.path("keys")).unwrap();
        let issue = Issue {
            at: UtcMs(used.0.0 + 1),
            keys: used.1,
            serial: [serial; 16],
            not_after: UtcMs(used.0.0 + 1_000_000_000),
            holds: keys.ring.holdings(),
            agent_version: "0.1.0".into(),
        };
        let secret_sha256 = digest(&SHA256, &token.secret).as_ref().try_into().unwrap();
        let enrolment = Enrolment { token: token.id, secret_sha256, issue };
        self.store().enroll(&enrolment).unwrap().unwrap();
    }
}
