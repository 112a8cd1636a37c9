//! Renewal under a running agent: the real `edge-agent` and a real Mosquitto that takes nobody without a certificate.
//! What the broker believes is changed under the agent's feet.

use std::{fs, path::Path, process::Output, sync::Arc, time::Duration};

use edge_agent::{
    control::{Request, Response, question},
    outbox::Outbox,
    status::Status,
};
use tap_protocol::{
    ids::Seq,
    record::{Body, Record},
    tap::Direction,
};
use testbench::{
    authority::{Authority, Life},
    enrolment_server::{EnrolmentServer, Gift},
    rig::{FakeClock, Mosquitto, MosquittoOptions, Program, Ready, Running, program_path, wait_until},
};

const CONTROLLER: &str = "hq-door-1";

/// The longest wait of the product on this way is the link's pause of 15 s.
const HEALS_WITHIN: Duration = Duration::from_secs(60);

/// A broker with mutual TLS, a cloud to enrol at, and a door.
struct Door {
    dir: tempfile::TempDir,
    broker: Mosquitto,
    cloud: EnrolmentServer,
    authority: Arc<Authority>,
    agent: Option<Running>,
}

impl Door {
    /// Enrolled, with certificates of this life.
    async fn enrolled(life: Life) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::new("root"));
        let issued = authority.server("127.0.0.1", Life::of_days(90));
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let more = vec![
            format!("certfile {}", file("broker.crt", &issued.certificate)),
            format!("keyfile {}", file("broker.key", &issued.key)),
            format!("cafile {}", file("clients.pem", &authority.root_pem)),
            "require_certificate true".into(),
            "use_identity_as_username true".into(),
            "tls_version tlsv1.3".into(),
        ];
        let broker = Mosquitto::start(dir.path(), &MosquittoOptions { more, ..MosquittoOptions::default() })
            .await
            .unwrap();
        let gift = Gift {
            broker_url: format!("mqtts://{}", broker.addr()),
            token_keys: vec![(1, "11".repeat(32))],
            receipt_keys: vec!["33".repeat(32)],
            control_keys: vec!["55".repeat(32)],
            life,
        };
        let cloud = EnrolmentServer::start(Arc::clone(&authority), gift, Life::of_days(90)).await.unwrap();
        let at = dir.path().display();
        let config =
            format!("state_dir = \"{at}/state\"\nruntime_dir = \"{at}/run\"\noutbox.allow_volatile = true\n");
        fs::write(dir.path().join("edge-agent.toml"), config).unwrap();
        let door = Self { dir, broker, cloud, authority, agent: None };
        let token = door.cloud.token(CONTROLLER).to_string();
        let enrolled = door.cli(&["enroll", "--url", &door.cloud.url(), "--token", &token]).await;
        assert!(enrolled.status.success(), "{}", said(&enrolled));
        door
    }

    async fn cli(&self, args: &[&str]) -> Output {
        let mut command = std::process::Command::new(program_path("edge-agent").unwrap());
        command.args(args).arg("--config").arg(self.dir.path().join("edge-agent.toml"));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn start(&mut self, clock: Option<&FakeClock>) {
        let mut program = Program::new("edge-agent")
            .unwrap()
            .args(["run", "--config"])
            .args([self.dir.path().join("edge-agent.toml")])
            .ready_when(Ready::Line("is ready as".into()));
        if let Some(clock) = clock {
            program = program.started_by(clock.starter());
            program = clock.env().into_iter().fold(program, |program, (key, value)| program.env(key, value));
        }
        self.agent = Some(program.start(self.dir.path()).await.unwrap());
    }

    async fn ask(&self, request: &Request) -> Option<Response> {
        question(&self.dir.path().join("run/control.sock"), request).await.ok()
    }

    async fn status(&self) -> Option<Status> {
        match self.ask(&Request::Status).await? {
            Response::Status(status) => Some(*status),
            _ => None,
        }
    }

    /// Returns the tap's number in the outbox.
    async fn tap(&self) -> u64 {
        let request = Request::Tap { uid: "04A1B2C3D40001".into(), direction: Direction::In };
        match self.ask(&request).await {
            Some(Response::Recorded { seq, .. }) => seq,
            other => panic!("no tap: {other:?}"),
        }
    }

    async fn wait(&self, what: &str, mut is: impl FnMut(&Status) -> bool) {
        let log = self.dir.path().join("edge-agent.log");
        wait_until(what, HEALS_WITHIN, &[&log, self.broker.log()], async || {
            self.status().await.is_some_and(|status| is(&status))
        })
        .await;
    }

    async fn cert(&self) -> serde_json::Value {
        let output = self.cli(&["cert", "status", "--output", "json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
    }

    /// From now on the broker takes the certificates of these authorities.
    fn broker_believes(&self, authorities: &[&Authority]) {
        let roots: String = authorities.iter().map(|authority| authority.root_pem.as_str()).collect();
        fs::write(self.dir.path().join("clients.pem"), roots).unwrap();
    }

    /// The number of the token key that each tap in the outbox is sealed with.
    fn token_keys_of_taps(&self) -> Vec<u16> {
        let mut files =
            fs::read_dir(self.state().join("state/outbox")).unwrap().map(|file| file.unwrap().path());
        let file = files.find(|file| file.extension().is_some_and(|end| end == "outbox")).unwrap();
        let chunk = Outbox::open_to_read(&file).unwrap().read(Seq(1)).unwrap();
        let bodies = chunk.records.iter().map(|bytes| Record::decode(bytes).unwrap().body);
        let taps = bodies.filter_map(|body| if let Body::Tap(tap) = body { Some(tap) } else { None });
        taps.map(|tap| tap.badge.key_id.0).collect()
    }

    fn state(&self) -> &Path {
        self.dir.path()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_under_a_running_agent_and_no_tap_is_lost() {
    let mut door = Door::enrolled(Life::of_days(30)).await;
    door.start(None).await;
    door.wait("the first session", |status| status.broker.connected).await;
    let before = door.cert().await;
    let pid = door.agent.as_ref().unwrap().pid();
    let first = door.tap().await;

    door.cloud.give(|gift| gift.token_keys.push((2, "22".repeat(32))));
    let renewing = door.cli(&["cert", "renew", "--new-record-key"]);
    let (renewed, second) = tokio::join!(renewing, door.tap());
    assert!(renewed.status.success(), "{}", said(&renewed));
    door.wait("a session with the new certificate", |status| {
        status.broker.connected && status.broker.sessions == 2
    })
    .await;
    let third = door.tap().await;
    assert_eq!([second, third].map(|seq| seq > first), [true, true]);

    let after = door.cert().await;
    assert_ne!(after["certificate"]["serial"], before["certificate"]["serial"]);
    assert_eq!(after["on_trial"], serde_json::Value::Null, "the trial is over");
    assert_ne!(after["record_key"], before["record_key"]);
    assert_eq!(after["token_key_id"], 2);
    assert_eq!(door.cloud.record_keys(CONTROLLER).len(), 2);
    assert_eq!(door.agent.as_ref().unwrap().pid(), pid, "without a restart");
    let log = fs::read_to_string(door.state().join("mosquitto.log")).unwrap();
    assert!(!log.contains("already connected"), "no session was pushed out: {log}");
    let verified = door.cli(&["outbox", "verify"]).await;
    assert!(verified.status.success(), "{}", said(&verified));
    let sealed_with = door.token_keys_of_taps();
    assert_eq!((sealed_with.first(), sealed_with.last()), (Some(&1), Some(&2)), "the new key seals at once");
    let status = door.status().await.unwrap();
    assert!(status.problems.iter().all(|problem| !problem.contains("certificate")), "{:?}", status.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_that_the_broker_refuses_changes_nothing_and_is_named() {
    let mut door = Door::enrolled(Life::of_days(30)).await;
    door.start(None).await;
    door.wait("the first session", |status| status.broker.connected).await;
    let before = door.cert().await;
    // One that has ended before it came: the broker takes it from nobody.
    door.cloud.give(|gift| gift.life = Life::over());
    let renewed = door.cli(&["cert", "renew"]).await;
    assert!(renewed.status.success(), "{}", said(&renewed));
    door.wait("the old certificate to be used again", |status| {
        status.broker.connected
            && status
                .problems
                .iter()
                .any(|problem| problem.contains("the broker refuses the new certificate"))
    })
    .await;
    let after = door.cert().await;
    assert_eq!(after["certificate"], before["certificate"]);
    assert!(after["on_trial"]["serial"].is_string(), "it is kept, for later");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_whose_certificate_has_ended_renews_by_itself_and_taps_meanwhile() {
    let mut door = Door::enrolled(Life::over()).await;
    door.cloud.give(|gift| gift.life = Life::of_days(30));
    door.start(None).await;
    door.tap().await;
    door.wait("a session", |status| status.broker.connected).await;
    assert!(door.cloud.requests().contains(&"POST /enrol/v1/renew".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_refuses_is_named_and_costs_nothing() {
    let mut door = Door::enrolled(Life::of_days(30)).await;
    door.start(None).await;
    door.wait("the first session", |status| status.broker.connected).await;
    door.cloud.refuse(Some((403, "this controller was revoked: somebody reported it stolen")));
    let refused = door.cli(&["cert", "renew"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("somebody reported it stolen"), "{}", said(&refused));
    door.wait("the problem to be shown", |status| {
        status.problems.iter().any(|problem| problem.contains("somebody reported it stolen"))
    })
    .await;
    assert_eq!(door.status().await.unwrap().broker.sessions, 1, "the session stays");
    door.cloud.refuse(None);
    let renewed = door.cli(&["cert", "renew"]).await;
    assert!(renewed.status.success(), "{}", said(&renewed));
    door.wait("the problem to be over", |status| {
        status.broker.sessions == 2
            && !status.problems.iter().any(|problem| problem.contains("reported it stolen"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_the_command_renews_and_tries_by_itself() {
    let door = Door::enrolled(Life::over()).await;
    let before = door.cert().await;
    door.cloud.give(|gift| gift.life = Life::of_days(30));
    let renewed = door.cli(&["cert", "renew"]).await;
    assert!(renewed.status.success(), "{}", said(&renewed));
    let after = door.cert().await;
    assert_ne!(after["certificate"]["serial"], before["certificate"]["serial"]);
    assert_eq!(after["on_trial"], serde_json::Value::Null);
}

/// The way of a rotated certificate authority: the broker learns of the new root later than the door.
#[tokio::test(flavor = "multi_thread")]
async fn a_trial_goes_on_after_a_restart_and_ends_when_the_broker_learns() {
    let mut door = Door::enrolled(Life::of_days(30)).await;
    door.start(None).await;
    door.wait("the first session", |status| status.broker.connected).await;
    let stranger = Authority::new("stranger");
    door.broker_believes(&[&stranger]);
    door.broker.restart().await.unwrap();
    let renewed = door.cli(&["cert", "renew"]).await;
    assert!(renewed.status.success(), "{}", said(&renewed));
    let on_trial = door.cert().await["on_trial"]["serial"].clone();
    assert!(on_trial.is_string());
    door.agent.take().unwrap().kill9().unwrap();
    door.broker_believes(&[&stranger, &door.authority]);
    door.broker.restart().await.unwrap();
    door.start(None).await;
    door.wait("a session", |status| status.broker.connected).await;
    let log = door.state().join("edge-agent.log");
    wait_until("the new one to be the current one", HEALS_WITHIN, &[&log], async || {
        door.cert().await["certificate"]["serial"] == on_trial
    })
    .await;
}

/// Needs root, for a boottime that begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_door_whose_clock_is_in_1970_or_in_2063_reaches_its_broker() {
    let mut door = Door::enrolled(Life::of_days(30)).await;
    let mut clock = FakeClock::start(door.dir.path()).await.unwrap();
    for wall_ms in [0, 2_934_748_800_000] {
        clock.reboot().await.unwrap();
        clock.shows(wall_ms, false).unwrap();
        // What an earlier run knew would make it too easy.
        let _ = fs::remove_file(door.state().join("state/last-good-time"));
        door.start(Some(&clock)).await;
        door.wait(&format!("a session with the clock at {wall_ms}"), |status| status.broker.connected).await;
        door.agent.take().unwrap().kill9().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_is_enrolled_while_its_clock_is_in_1970() {
    let mut door = Door::enrolled(Life::of_days(30)).await;
    let clock = FakeClock::start(door.dir.path()).await.unwrap();
    clock.shows(0, false).unwrap();
    let token = door.cloud.token(CONTROLLER).to_string();
    let mut command = std::process::Command::new(program_path("edge-agent").unwrap());
    command.args(["enroll", "--url", &door.cloud.url(), "--token", &token]).envs(clock.env());
    command.arg("--config").arg(door.dir.path().join("edge-agent.toml"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    door.start(Some(&clock)).await;
    door.wait("a session", |status| status.broker.connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolling_again_keeps_the_records_and_another_controllers_token_is_refused() {
    let mut door = Door::enrolled(Life::of_days(30)).await;
    door.start(None).await;
    let seq = door.tap().await;
    door.agent.take().unwrap().kill9().unwrap();
    let other = door.cloud.token("hq-door-2").to_string();
    let refused = door.cli(&["enroll", "--url", &door.cloud.url(), "--token", &other]).await;
    assert_eq!(refused.status.code(), Some(1));
    for part in ["the token is for hq-door-2", "records on this disk are hq-door-1's", "nothing was kept"] {
        assert!(said(&refused).contains(part), "{part:?} is not in: {}", said(&refused));
    }
    let again = door.cloud.token(CONTROLLER).to_string();
    let enrolled = door.cli(&["enroll", "--url", &door.cloud.url(), "--token", &again]).await;
    assert!(enrolled.status.success(), "{}", said(&enrolled));
    door.start(None).await;
    assert!(door.tap().await > seq, "the same outbox goes on");
    let listed = door.cli(&["outbox", "list", "--output", "json"]).await;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
}
