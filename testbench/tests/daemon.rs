//! What makes edge-agent a daemon to forget about: ready without anything around it, checks and questions that help a person
//! at the door, numbers for monitoring, a log with a bound, and a bundle for support without secrets. Needs root.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use edge_agent::control::{Request, Response, question};
use serde_json::Value;
use testbench::{
    rig::{NotifySocket, Pcscd, PtyPair, SyscallFault, VirtualReader, free_port, program_path, wait_until},
    site::{CONTROLLER, HEALS_WITHIN, Site, SiteOptions, badge_uid, run},
};

/// An installed controller without anything around it.
struct Door {
    dir: tempfile::TempDir,
}

impl Door {
    fn new(more: &str) -> Door {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        std::fs::create_dir(dir.path().join("keys")).unwrap();
        run("edge-agent", &["keys", "create", "--record-key-file", &format!("{at}/keys/record.key")])
            .unwrap();
        for (name, byte) in [("token.key", "5a"), ("receipt.pub", "11")] {
            let file = dir.path().join("keys").join(name);
            std::fs::write(&file, byte.repeat(32)).unwrap();
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let door = Door { dir };
        std::fs::write(
            door.config(),
            format!(
                "controller = \"hq-door-1\"\nstate_dir = \"{at}/state\"\nruntime_dir = \"{at}/run\"\n[broker]\nurl = \"mqtt://127.0.0.1:1\"\n[keys]\nrecord_key_file = \"{at}/keys/record.key\"\ntoken_key_file = \"{at}/keys/token.key\"\nreceipt_public_key_file = \"{at}/keys/receipt.pub\"\n{more}"
            ),
        )
        .unwrap();
        door
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("edge-agent.toml")
    }

    /// `edge-agent run` behind these words, such as `unshare --net`.
    fn agent(&self, before: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(before).arg(program_path("edge-agent").unwrap());
        command.args(["run", "--config"]).arg(self.config());
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        command
    }

    async fn ask(&self, request: &Request) -> std::io::Result<Response> {
        question(&self.dir.path().join("run/control.sock"), request).await
    }

    async fn tap(&self, n: usize) -> Response {
        let request = Request::Tap { uid: badge_uid(n), direction: Default::default() };
        self.ask(&request).await.unwrap()
    }
}

/// Ends with the test, however that ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a verb and gives exit code, standard output and standard error.
fn verb(config: &Path, args: &[&str]) -> (i32, String, String) {
    verb_with(config, args, &[])
}

fn verb_with(config: &Path, args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(program_path("edge-agent").unwrap());
    command.args(args).arg("--config").arg(config).envs(env.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// One check of `check --output json`.
fn check<'a>(document: &'a Value, name: &str) -> &'a Value {
    let checks = document["checks"].as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no check {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_said_without_network_broker_or_pcscd_and_taps_are_recorded() {
    let door = Door::new("[[reader]]\nname = \"in\"\npcsc = {}\n");
    let mut manager = NotifySocket::bind(door.dir.path()).unwrap();
    // A network namespace of its own has not even a loopback that is up. Of /proc, the unit leaves processes alone, and
    // systemd tells the boot id.
    let hidden = "mount -t proc -o subset=pid none /proc && ! test -e /proc/sys && exec \"$@\"";
    let mut command = door.agent(&["unshare", "--net", "--mount", "sh", "-c", hidden, "sh"]);
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boot_id = boot_id.trim().replace('-', "");
    command.env("BOOT_ID", &boot_id).env("WATCHDOG_USEC", "2000000");
    command.env("NOTIFY_SOCKET", manager.path()).env("PCSCLITE_CSOCK_NAME", "/nonexistent/pcscd.comm");
    let mut agent = Ends(command.stderr(Stdio::null()).spawn().unwrap());
    assert_eq!(manager.wait_for("READY=", Duration::from_secs(20)), "READY=1");
    assert!(matches!(door.tap(1).await, Response::Recorded { .. }));
    assert_eq!(manager.wait_for("WATCHDOG=", Duration::from_secs(20)), "WATCHDOG=1");
    let Ok(Response::Status(told)) = door.ask(&Request::Status).await else { panic!("it answers") };
    assert_eq!(told.boot_id.to_string(), boot_id);
    let status = manager.wait_for("STATUS=1 taps", Duration::from_secs(20));
    assert_eq!(status, "STATUS=1 taps recorded, 3 records pending, offline");
    Command::new("kill").arg(agent.0.id().to_string()).status().unwrap();
    assert_eq!(manager.wait_for("STOPPING=", Duration::from_secs(20)), "STOPPING=1");
    assert!(agent.0.wait().unwrap().success());
}

/// A commit may take 20 s on a worn out card before anybody calls it hanging, so this test lasts a little longer.
#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_fed_by_commits_that_come_back_and_by_nothing_else() {
    let door = Door::new("");
    let mut manager = NotifySocket::bind(door.dir.path()).unwrap();
    let log = door.dir.path().join("agent.log");
    let mut command = door.agent(&[]);
    command.env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", "3000000");
    let agent = Ends(command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    manager.wait_for("READY=1", Duration::from_secs(20));
    manager.wait_for("WATCHDOG=1", Duration::from_secs(20));
    manager.wait_for("WATCHDOG=1", Duration::from_secs(20));

    let pid = rustix::process::Pid::from_child(&agent.0);
    let hanging =
        SyscallFault::attach(pid, &["fdatasync:delay_enter=60000000"], door.dir.path()).await.unwrap();
    let request = Request::Tap { uid: badge_uid(1), direction: Default::default() };
    let socket = door.dir.path().join("run/control.sock");
    let waiting = tokio::spawn(async move { question(&socket, &request).await });
    let unfed =
        || std::fs::read_to_string(&log).unwrap().matches("the watchdog is not fed: a commit").count();
    let fed = |lines: &[String]| lines.iter().filter(|line| *line == "WATCHDOG=1").count();
    let mut before = 0;
    wait_until("a hanging commit to be noticed", HEALS_WITHIN, &[&log], async || {
        before = fed(manager.heard());
        unfed() >= 1
    })
    .await;
    wait_until("the next time it would have been fed", HEALS_WITHIN, &[&log], async || unfed() >= 2).await;
    assert_eq!(fed(manager.heard()), before, "the loop turns all the while, and that does not count");
    // A slow commit that comes back after all is no reason to stay away.
    hanging.end().await.unwrap();
    manager.wait_for("WATCHDOG=1", Duration::from_secs(20));
    assert!(matches!(waiting.await.unwrap().unwrap(), Response::Recorded { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_output_nobody_reads_lives_on() {
    let door = Door::new("");
    let mut agent = Ends(door.agent(&[]).stderr(Stdio::piped()).spawn().unwrap());
    drop(agent.0.stderr.take());
    wait_until("the agent to answer", HEALS_WITHIN, &[], async || door.ask(&Request::Status).await.is_ok())
        .await;
    // It says by itself that there is no broker, to nobody.
    wait_until("it to have tried the broker", HEALS_WITHIN, &[], async || {
        matches!(door.ask(&Request::Status).await, Ok(Response::Status(status)) if status.problems.len() == 1)
    })
    .await;
    assert!(matches!(door.tap(1).await, Response::Recorded { .. }));
    assert!(agent.0.try_wait().unwrap().is_none(), "it runs");
    let Ok(Response::Status(status)) = door.ask(&Request::Status).await else { panic!("it answers") };
    assert_eq!(status.counters.log_lines_dropped, 0, "and its log's thread does too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_comes_late_is_found() {
    let mut site = Site::start(SiteOptions::default()).await.unwrap();
    site.kill_edge().unwrap();
    let folder = site.dir().join("journal");
    std::fs::create_dir(&folder).unwrap();
    let inside = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind {} /run/systemd/journal && exec {} run --verbose --config {}",
        folder.display(),
        program_path("edge-agent").unwrap().display(),
        site.dir().join("edge-agent.toml").display(),
    );
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", &inside]);
    let _agent = Ends(command.env("JOURNAL_STREAM", "8:1").stderr(Stdio::null()).spawn().unwrap());
    wait_until("the agent to answer", HEALS_WITHIN, &[], async || site.edge_status().await.is_ok()).await;

    // journald starts, stops, and starts again: it is the same socket's name each time.
    for _ in 0..2 {
        let journal = UnixDatagram::bind(folder.join("socket")).unwrap();
        journal.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 64 * 1024];
        wait_until("an entry in the journal", HEALS_WITHIN, &[], async || {
            // Something to log.
            site.tap(1).await.unwrap();
            journal.recv(&mut buffer).is_ok_and(|length| length > 0)
        })
        .await;
        drop(journal);
        std::fs::remove_file(folder.join("socket")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_door_passes_its_checks_running_and_stopped() {
    let mut site = Site::start(SiteOptions { tls: true, ..SiteOptions::default() }).await.unwrap();
    site.tap(1).await.unwrap();
    wait_until("a session", HEALS_WITHIN, &[], async || site.edge_status().await.unwrap().broker.connected)
        .await;
    let config = site.dir().join("edge-agent.toml");
    let looked_at = |document: &Value, expect: &[(&str, &str)]| {
        for (name, state) in expect {
            assert_eq!(check(document, name)["state"], *state, "{:#}", check(document, name));
        }
    };
    let before = site.edge_status().await.unwrap();
    let (code, said, _) = verb(&config, &["check", "--output", "json"]);
    assert_eq!(code, 0, "warnings alone are no failure: {said}");
    assert_eq!(verb(&config, &["check", "--warnings-as-errors"]).0, 1, "unless that is asked for");
    let running: Value = serde_json::from_str(&said).unwrap();
    let fine = [
        ("configuration", "ok"),
        ("keys", "ok"),
        ("outbox", "ok"),
        ("boot_id", "ok"),
        ("broker", "ok"),
        ("pcscd", "skipped"),
    ];
    looked_at(&running, &fine);
    looked_at(&running, &[("round_trip", "ok")]);
    // Two days are not long.
    looked_at(&running, &[("certificates", "warning")]);
    assert!(check(&running, "round_trip")["evidence"]["took_ms"].is_u64());
    let after = site.edge_status().await.unwrap();
    assert_eq!(after.broker.sessions, before.broker.sessions, "no check pushed the agent's session out");

    site.kill_edge().unwrap();
    // What the kill left in the write-ahead log is still there afterwards, byte for byte.
    let records = || {
        let files = std::fs::read_dir(site.outbox_dir()).unwrap().map(|file| file.unwrap().path());
        let is_record = |file: &PathBuf| {
            let name = file.to_string_lossy();
            name.ends_with(".outbox") || name.ends_with(".outbox-wal")
        };
        let mut files: Vec<_> = files.filter(is_record).collect();
        files.sort();
        files.into_iter().map(|file| (std::fs::read(&file).unwrap(), file)).collect::<Vec<_>>()
    };
    let before = records();
    let (_, said, _) = verb(&config, &["check", "--output", "json"]);
    assert!(before.len() == 2 && records() == before, "a check writes nothing to the outbox");
    let stopped: Value = serde_json::from_str(&said).unwrap();
    looked_at(&stopped, &fine);
    looked_at(&stopped, &[("round_trip", "skipped")]);
    assert!(check(&stopped, "broker")["says"].as_str().unwrap().ends_with("accepts this controller"));
    site.start_edge().await.unwrap();
    site.tap(2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_at_a_door_is_an_error_with_something_to_type() {
    let door = Door::new("[[reader]]\nname = \"out\"\nserial = { port = \"/nonexistent/tty\" }\n");
    let token = door.dir.path().join("keys/token.key");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said, _) = verb(&door.config(), &["check"]);
    assert_eq!(code, 1, "{said}");
    for part in [
        &format!("others may read the key file {0}: run `chmod 600 {0}`", token.display()),
        "the serial port /nonexistent/tty is not there",
        "nothing listens at port 1: is the broker running?",
        "errors",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    std::fs::write(door.config(), "controler = 1\n").unwrap();
    let (code, said, _) = verb(&door.config(), &["check", "--output", "json"]);
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &check(&document, "configuration")["state"]), (1, &Value::from("error")));
    assert_eq!(check(&document, "broker")["state"], "skipped");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_is_tested_all_the_way_to_the_clouds_receipt() {
    let mut site = Site::start(SiteOptions { tls: true, ..SiteOptions::default() }).await.unwrap();
    wait_until("a session", HEALS_WITHIN, &[], async || site.edge_status().await.unwrap().broker.connected)
        .await;
    let config = site.dir().join("edge-agent.toml");
    let test = |steps: &[&str]| {
        let (code, said, _) = verb(&config, &["test-connection", "--output", "json"]);
        let document: Value = serde_json::from_str(&said).unwrap();
        let taken: Vec<_> =
            document["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
        assert_eq!(taken, steps, "{document:#}");
        (code, document)
    };
    let (code, document) = test(&["name", "tcp", "tls", "mqtt", "hello", "receipt"]);
    assert_eq!((code, &document["ok"]), (0, &Value::Bool(true)));
    let ahead_ms = document["round_trip"]["clock_ahead_ms"].as_i64().unwrap();
    assert!(ahead_ms.abs() < 1_000, "both clocks are one here: {ahead_ms} ms");

    // The certificate is for 127.0.0.1 and no other name.
    let url = format!("mqtts://localhost:{}", site.uplink.addr().port());
    let (code, said, _) = verb_with(&config, &["test-connection"], &[("EDGE_AGENT_BROKER__URL", &url)]);
    assert!(code == 1 && said.contains("failed   TLS     the broker and we cannot agree on TLS"), "{said}");

    // The broker takes everything, and the cloud is gone: an accepted hello is not an answer.
    site.kill_cloud().unwrap();
    let (code, document) = test(&["name", "tcp", "tls", "mqtt", "receipt"]);
    let problem = document["steps"][4]["problem"]["what"].as_str().unwrap();
    assert!(code == 1 && problem.contains("no receipt came from the cloud within 10 s"), "{problem}");

    site.broker.stop().await.unwrap();
    let (code, _, _) = verb(&config, &["test-connection"]);
    assert_eq!(code, 1);
    site.kill_edge().unwrap();
    site.broker.restart().await.unwrap();
    let (code, document) = test(&["name", "tcp", "tls", "mqtt", "hello"]);
    let problem = document["steps"][4]["problem"]["what"].as_str().unwrap();
    assert!(code == 69 && problem.starts_with("the agent is not running"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_checked_by_what_pcscd_and_the_ports_say() {
    let dir = tempfile::tempdir().unwrap();
    let mut pcscd = Pcscd::start(dir.path()).await.unwrap();
    let port = dir.path().join("ttyRDM6300");
    let _serial = PtyPair::plug_in(&port).unwrap();
    let door = Door::new(&format!(
        "[[reader]]\nname = \"in\"\npcsc = {{ match = \"{}\" }}\n[[reader]]\nname = \"out\"\nserial = {{ port = \"{}\" }}\n",
        VirtualReader::First.name(),
        port.display()
    ));
    let socket = pcscd.socket_path().display().to_string();
    let look = || {
        let env = [("PCSCLITE_CSOCK_NAME", socket.as_str())];
        let (_, said, _) = verb_with(&door.config(), &["check", "--output", "json"], &env);
        serde_json::from_str::<Value>(&said).unwrap()
    };
    let found = look();
    for name in ["pcscd", "readers", "serial_ports"] {
        assert_eq!(check(&found, name)["state"], "ok", "{:#}", check(&found, name));
    }
    let renamed =
        std::fs::read_to_string(door.config()).unwrap().replace(VirtualReader::First.name(), "OMNIKEY");
    std::fs::write(door.config(), renamed).unwrap();
    let found = look();
    let says = check(&found, "readers")["says"].as_str().unwrap();
    assert!(says.contains("no PC/SC reader called \"OMNIKEY\"; connected: "), "{says}");
    pcscd.kill9().unwrap();
    let found = look();
    assert_eq!(check(&found, "pcscd")["state"], "error", "{:#}", check(&found, "pcscd"));
    assert_eq!(check(&found, "readers")["state"], "skipped");
}

/// pcscd that stands still answers nobody and reports nothing: the check ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_pcscd_that_hangs_does_not_hang_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let mut pcscd = Pcscd::start(dir.path()).await.unwrap();
    let door = Door::new("[[reader]]\nname = \"in\"\npcsc = {}\n");
    pcscd.pause().unwrap();
    let env = [("PCSCLITE_CSOCK_NAME", pcscd.socket_path().to_str().unwrap())];
    let (code, said, _) = verb_with(&door.config(), &["check", "--output", "json"], &env);
    let found: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &check(&found, "pcscd")["says"]), (1, &Value::from("no answer came in time")));
    assert_eq!(check(&found, "keys")["state"], "ok", "and the others were looked at");
}

#[test]
fn a_key_is_changed_where_it_stands_and_never_into_something_wrong() {
    let door = Door::new("");
    std::fs::create_dir(door.dir.path().join("conf.d")).unwrap();
    let drop_in = door.dir.path().join("conf.d/10-site.toml");
    std::fs::write(
        &drop_in,
        "# Site\ndebounce_ms = 900 # slow hands\n[[reader]]\nname = \"in\"\npcsc = {}\n",
    )
    .unwrap();
    let config = door.config();
    let get = |key: &str| verb(&config, &["config", "get", key]).1.trim().to_owned();
    assert_eq!((get("debounce_ms"), get("keys.token_key_id")), ("900".into(), "1".into()));

    let (code, _, why) = verb(&config, &["config", "set", "debounce_ms", "700"]);
    assert_eq!(code, 0, "{why}");
    verb(&config, &["config", "set", "reader[0].direction", "out"]);
    assert_eq!(
        std::fs::read_to_string(&drop_in).unwrap(),
        "# Site\ndebounce_ms = 700 # slow hands\n[[reader]]\nname = \"in\"\npcsc = {}\ndirection = \"out\"\n"
    );
    let before = std::fs::read_to_string(&config).unwrap();
    for (key, value, expected, part) in [
        ("broker.url", "http://x", 78, "nothing was changed, because this would be wrong"),
        ("debounce_ms", "soon", 2, "cannot be read as TOML"),
        ("brokr.url", "mqtt://x", 2, "did you mean broker.url?"),
        ("broker", "x", 2, "set one of its keys"),
    ] {
        let (code, _, why) = verb(&config, &["config", "set", key, value]);
        assert_eq!(code, expected, "{why}");
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    assert_eq!(std::fs::read_dir(door.dir.path()).unwrap().count(), 3, "no draft is left behind");

    let (_, said, _) = verb(&config, &["config", "list"]);
    let line = said.lines().find(|line| line.starts_with("debounce_ms = 700")).unwrap();
    assert!(line.ends_with("conf.d/10-site.toml:2"), "{line}");
    // What is explained needs no configuration.
    let nowhere = Path::new("/nonexistent/edge-agent.toml");
    let (code, said, _) = verb(nowhere, &["config", "list", "--doc", "--output", "json"]);
    let explained: Vec<Value> = serde_json::from_str(&said).unwrap();
    let url = explained.iter().find(|key| key["key"] == "broker.url").unwrap();
    assert_eq!(
        (code, &url["variable"], &url["required"]),
        (0, &"EDGE_AGENT_BROKER__URL".into(), &true.into())
    );
    assert_eq!(verb(nowhere, &["config", "list"]).0, 78);

    let env = [("EDGE_AGENT_BROKER__URL", "mqtt://elsewhere")];
    let (_, said, _) = verb_with(&config, &["config", "get", "broker.url"], &env);
    assert_eq!(said, "mqtt://elsewhere\n");
    let (code, _, why) = verb_with(&config, &["config", "set", "broker.url", "mqtt://x"], &env);
    assert!(code == 1 && why.contains("environment variable EDGE_AGENT_BROKER__URL"), "{why}");
    let (code, _, why) = verb_with(&config, &["config", "check"], &[("EDGE_AGENT_BROKER__ULR", "x")]);
    assert!(code == 78 && why.contains("did you mean EDGE_AGENT_BROKER__URL?"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_given_on_loopback_and_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (port, file) = (free_port(), dir.path().join("edge-agent.prom"));
    let site = Site::start(SiteOptions {
        readers: format!(
            "[metrics]\nlisten = \"127.0.0.1:{port}\"\nfile = \"{}\"\n[[reader]]\nname = \"out\"\nserial = {{ port = \"/nonexistent/tty\" }}\n",
            file.display()
        ),
        ..SiteOptions::default()
    })
    .await
    .unwrap();
    for n in 0..3 {
        site.tap(n).await.unwrap();
    }
    wait_until("everything to be confirmed", HEALS_WITHIN, &[], async || {
        site.edge_status().await.unwrap().pending == 0
    })
    .await;
    let (head, text) = http(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("text/plain; version=0.0.4"), "{head}");
    let families = exposition(&text);
    let value = |sample: &str| -> f64 {
        let line =
            text.lines().find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("{sample} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("edge_agent_taps_total{reader=\"simulated\",result=\"recorded\"}"), 3.0);
    assert_eq!(value("edge_agent_tap_to_signal_seconds_count"), 3.0);
    assert_eq!(value("edge_agent_pending_records"), 0.0);
    assert_eq!(value("edge_agent_reader_up{reader=\"out\"}"), 0.0);
    assert_eq!(value("edge_agent_broker_connected"), 1.0);
    assert!(value("edge_agent_disk_free_bytes") > 1e6 && value("edge_agent_outbox_bytes") > 1e3);
    for family in [
        "seq_committed",
        "seq_receipted",
        "commit_seconds",
        "clock_synced",
        "clock_step_total",
        "reader_recoveries_total",
        "lost_total",
        "info",
        "oldest_unreceipted_age_seconds",
    ] {
        assert!(families.contains(&format!("edge_agent_{family}")), "{family} in {families:?}");
    }
    promtool(&text);
    wait_until("the file", HEALS_WITHIN, &[], async || file.exists()).await;
    exposition(&std::fs::read_to_string(&file).unwrap());

    // Whoever speaks no HTTP, or too much, is left alone, and nobody waits for them.
    let (head, _) = http(port, "POST /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");
    let (head, _) = http(port, "GET / HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let (nothing, _) = http(port, &"x".repeat(20_000));
    assert_eq!(nothing, "");
    site.tap(4).await.unwrap();
}

/// Sends this and gives head and body of the answer.
fn http(port: u16, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Nobody may be there any more to take all of it, or to end in order.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

/// Reads Prometheus' text format strictly: each family with help and type before its samples, each sample once, names and
/// labels well formed, buckets growing up to the count. Gives the families' names.
fn exposition(text: &str) -> Vec<String> {
    assert!(text.ends_with('\n'));
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let mut families: Vec<(String, String)> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut last_bucket = 0.0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(["gauge", "counter", "histogram"].contains(&kind) && help.ends_with('.'), "{line}");
            assert!(families.iter().all(|(other, _)| other != name), "{name} twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            families.push((name.to_owned(), kind.to_owned()));
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(seen.insert(sample.to_owned()), "{sample} twice");
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        assert!(is_name(name), "{line}");
        for label in labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty()) {
            let (key, quoted) = label.split_once('=').unwrap();
            assert!(
                is_name(key) && quoted.len() >= 2 && quoted.starts_with('"') && quoted.ends_with('"'),
                "{line}"
            );
        }
        let (family, kind) = families.last().unwrap();
        match kind.as_str() {
            "histogram" => {
                let part = name.strip_prefix(family.as_str()).unwrap();
                assert!(["_bucket", "_sum", "_count"].contains(&part), "{line}");
                if part == "_bucket" {
                    last_bucket = if sample.contains("le=\"0.001\"") { 0.0 } else { last_bucket };
                    assert!(value >= last_bucket, "{line}");
                    last_bucket = value;
                } else if part == "_count" {
                    assert_eq!(value, last_bucket, "{line}");
                }
            }
            _ => assert_eq!(name, family),
        }
    }
    families.into_iter().map(|(name, _)| name).collect()
}

/// Prometheus' own opinion, where its tool is installed.
fn promtool(text: &str) {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else { return };
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

const FLAPS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_broker_and_a_reader_full_of_rubbish_write_a_bounded_log() {
    let dir = tempfile::tempdir().unwrap();
    let port = dir.path().join("ttyRDM6300");
    let mut serial = PtyPair::plug_in(&port).unwrap();
    let site = Site::start(SiteOptions {
        readers: format!("[[reader]]\nname = \"out\"\nserial = {{ port = \"{}\" }}\n", port.display()),
        ..SiteOptions::default()
    })
    .await
    .unwrap();
    let sessions = async || site.edge_status().await.unwrap().broker.sessions;
    let log = site.dir().join("edge-agent.log");
    let lines = || std::fs::read_to_string(&log).unwrap().lines().count();
    wait_until("a session", HEALS_WITHIN, &[&log], async || sessions().await > 0).await;
    // Few, because the agent comes back more slowly each time.
    for n in 1..=FLAPS {
        for _ in 0..200 {
            // Right in shape, wrong in its check digits; and noise.
            serial.write(b"\x0201000734E0FF\x03\x00garbage\xff").unwrap();
        }
        if n % 2 == 0 {
            serial.unplug().unwrap();
            serial.plug_in_again().unwrap();
        }
        // Another client of the same name: the broker ends the agent's session.
        let port = site.broker.addr().port().to_string();
        let other = ["-p", &port, "-i", CONTROLLER, "-t", "x", "-m", "y"];
        assert!(Command::new("mosquitto_pub").args(other).status().unwrap().success());
        wait_until("the next session", HEALS_WITHIN, &[&log], async || sessions().await > n).await;
    }
    assert!(
        lines() < 40,
        "{FLAPS} times gone and back, 1,000 broken frames:\n{}",
        std::fs::read_to_string(&log).unwrap()
    );
    site.tap(1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_for_support_holds_no_card_number_key_or_token() {
    let site = Site::start(SiteOptions::default()).await.unwrap();
    // Planted wherever it could leak from: taps, the log of agent and pcscd, kernel lines, names in the configuration, its
    // comments, the environment, a drop-in, the unit's text.
    let uid = badge_uid(3);
    let bytes = HEXUPPER.decode(uid.as_bytes()).unwrap();
    let spaced = |bytes: &[u8], between: &str| {
        bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(between)
    };
    let decimal = u64::from_str_radix(&uid, 16).unwrap().to_string();
    let forms = [
        uid.clone(),
        uid.to_lowercase(),
        spaced(&bytes, " "),
        spaced(&bytes, ":"),
        spaced(&bytes, "-").to_lowercase(),
        decimal,
        BASE64.encode(&bytes),
    ];
    let key =
        |name: &str| std::fs::read_to_string(site.dir().join("keys").join(name)).unwrap().trim().to_owned();
    let mut needles: Vec<String> = forms.to_vec();
    for name in ["record.key", "token-1.key"] {
        let hex = key(name);
        let raw = HEXLOWER.decode(hex.as_bytes()).unwrap();
        needles.extend([
            hex.clone(),
            hex.to_uppercase(),
            BASE64.encode(&raw),
            BASE64URL_NOPAD.encode(&raw),
            spaced(&raw, ":"),
        ]);
    }
    let seed: [u8; 32] = HEXLOWER.decode(key("token-1.key").as_bytes()).unwrap().try_into().unwrap();
    let token_key = tap_protocol::badge::TokenKey::new(tap_protocol::badge::TokenKeyId(1), seed);
    let sealed = token_key.seal(&uid.parse().unwrap());
    for secret in [sealed.token.0.to_vec(), sealed.ciphertext] {
        needles.extend([HEXLOWER.encode(&secret), HEXUPPER.encode(&secret), BASE64.encode(&secret)]);
    }

    let planted = needles.join(" | ");
    let bin = site.dir().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for tool in ["journalctl", "dmesg", "systemctl", "pcscd"] {
        std::fs::write(bin.join(tool), format!("#!/bin/sh\ncat <<'END'\n2026-11-21T12:36:24+0000 door: {planted} done\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\nEND\n")).unwrap();
        std::fs::set_permissions(bin.join(tool), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let config = site.dir().join("edge-agent.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        format!("# {planted}\n{text}\n[[reader]]\nname = \"in\"\npcsc = {{ match = \"{planted}\" }}\n"),
    )
    .unwrap();
    for _ in 0..2 {
        site.tap(3).await.unwrap();
    }
    let path = format!("{}:{}", bin.display(), "/usr/sbin:/usr/bin:/sbin:/bin");
    let out = site.dir().join("bundle.tar");
    let env =
        [("PATH", path.as_str()), ("EDGE_AGENT_METRICS__FILE", &format!("/{uid}.prom")), ("BADGE", &uid)];
    let (code, said, why) = verb_with(&config, &["diag", "collect", "--out", out.to_str().unwrap()], &env);
    assert_eq!(code, 0, "{why}");
    assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let bundle = std::fs::read(&out).unwrap();
    let text = String::from_utf8(bundle).expect("texts alone");
    for part in [
        "about.json",
        "configuration.txt",
        "status.json",
        "check.json",
        "outbox.json",
        "metrics.txt",
        "journal-edge-agent.txt",
        "unit.txt",
    ] {
        assert!(said.contains(part) && text.contains(part), "{part} in {said}");
    }
    let outbox = site.edge_status().await.unwrap().outboxes[0].outbox.to_string();
    for useful in
        ["\"taps_recorded\": 2", &outbox, "broker.url", "door: [removed]", "edge_agent_pending_records"]
    {
        assert!(text.contains(useful), "{useful:?} in the bundle");
    }
    let lower = text.to_lowercase();
    for needle in &needles {
        assert!(!lower.contains(&needle.to_lowercase()), "{needle:?} is in the bundle");
    }
    assert!(!text.contains("MHcCAQEE"), "no private key");

    let packed = site.dir().join("bundle.tar.gz");
    let (code, _, why) = verb(&config, &["diag", "collect", "--out", packed.to_str().unwrap()]);
    assert_eq!(code, 0, "{why}");
    let listed = Command::new("tar").arg("tzf").arg(&packed).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("check.json"));
}
