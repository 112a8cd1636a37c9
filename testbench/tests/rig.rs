//! The rig against the real servers of this machine; what the product makes of them is tested elsewhere.

use std::{fs, path::Path, process::Command, time::Duration};

use rustix::process::{geteuid, test_kill_process};
use tempfile::TempDir;
use testbench::{
    http_client,
    legacy_sim::Report,
    rig::{
        CardFeeder, Mosquitto, MosquittoOptions, Pcscd, Program, Ready, VirtualReader, free_port,
        program_path, wait_until,
    },
    virtual_card::{HOLD, VirtualCard},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

const SOON: Duration = Duration::from_secs(10);

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// One MQTT 3.1.1 CONNECT; what the broker answers.
async fn connect(broker: &Mosquitto, clean_session: bool) -> [u8; 4] {
    let flags = if clean_session { 0x02 } else { 0x00 };
    let mut stream = TcpStream::connect(broker.addr()).await.unwrap();
    let packet = [&[0x10, 16][..], b"\x00\x04MQTT\x04", &[flags, 0, 60], b"\x00\x04rig1"].concat();
    stream.write_all(&packet).await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

const NEW_SESSION: [u8; 4] = [0x20, 2, 0, 0];
const SESSION_PRESENT: [u8; 4] = [0x20, 2, 1, 0];

#[tokio::test]
async fn mosquitto_comes_back_on_the_same_port_after_a_kill() {
    let dir = dir();
    let mut broker = Mosquitto::start(dir.path(), &MosquittoOptions::default()).await.unwrap();
    let (addr, first) = (broker.addr(), broker.pid());
    assert_eq!(connect(&broker, true).await, NEW_SESSION);
    broker.kill9().unwrap();
    TcpStream::connect(addr).await.unwrap_err();
    broker.restart().await.unwrap();
    assert_eq!(broker.addr(), addr);
    assert_ne!(broker.pid(), first);
    assert_eq!(connect(&broker, true).await, NEW_SESSION);
}

#[tokio::test]
async fn mosquitto_keeps_sessions_over_an_orderly_stop_until_its_state_is_deleted() {
    let dir = dir();
    let options = MosquittoOptions {
        persistence: true,
        max_queued_messages: Some(50_000),
        max_inflight_messages: Some(100),
        ..MosquittoOptions::default()
    };
    let mut broker = Mosquitto::start(dir.path(), &options).await.unwrap();
    assert_eq!(connect(&broker, false).await, NEW_SESSION);
    broker.restart().await.unwrap();
    assert_eq!(connect(&broker, false).await, SESSION_PRESENT);
    assert!(broker.stop().await.unwrap().success());
    broker.delete_state().unwrap();
    broker.restart().await.unwrap();
    assert_eq!(connect(&broker, false).await, NEW_SESSION);
}

#[tokio::test]
async fn a_paused_mosquitto_says_nothing_until_it_is_resumed() {
    let dir = dir();
    let mut broker = Mosquitto::start(dir.path(), &MosquittoOptions::default()).await.unwrap();
    broker.pause().unwrap();
    tokio::time::timeout(Duration::from_millis(50), connect(&broker, true)).await.expect_err("no answer");
    broker.resume().unwrap();
    assert_eq!(connect(&broker, true).await, NEW_SESSION);
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_its_log() {
    let options = MosquittoOptions { more: vec!["no_such_option 1".into()], ..MosquittoOptions::default() };
    let error = Mosquitto::start(dir().path(), &options).await.unwrap_err().to_string();
    assert!(error.contains("before it accepts") && error.contains("no_such_option"), "{error}");
}

/// A pcscd, or `None` without root, in which case the error must say so.
async fn pcscd(dir: &Path) -> Option<Pcscd> {
    match Pcscd::start(dir).await {
        Ok(pcscd) => Some(pcscd),
        Err(e) if !geteuid().is_root() => {
            assert!(e.to_string().contains("needs root"), "{e:#}");
            None
        }
        Err(e) => panic!("{e:#}"),
    }
}

#[tokio::test]
async fn badges_are_powered_and_asked_for_their_atr_by_a_real_pcscd_one_after_the_other() {
    let dir = dir();
    let Some(pcscd) = pcscd(dir.path()).await else { return };
    for reader in [VirtualReader::First, VirtualReader::Second] {
        let mut feeder = CardFeeder::start(&pcscd, reader, dir.path()).unwrap();
        for uid in [[4, 2, 3, 4], [4, 5, 6, 7]] {
            let badge = VirtualCard::with_uid(&uid).giving_up_after(HOLD);
            let tap = feeder.present(badge, HOLD).await.unwrap();
            assert!(tap.power_ups >= 1 && tap.atr_requests >= 1, "{tap:?}");
            assert!(!tap.uid_was_read(), "there is no client");
        }
        assert!(fs::read_to_string(pcscd.log()).unwrap().contains(reader.name()));
    }
}

#[tokio::test]
async fn pcscd_comes_back_at_the_same_path_and_for_the_same_feeder() {
    let dir = dir();
    let Some(mut pcscd) = pcscd(dir.path()).await else { return };
    let mut feeder = CardFeeder::start(&pcscd, VirtualReader::First, dir.path()).unwrap();
    let badge = || VirtualCard::with_uid(&[4, 2, 3, 4]).giving_up_after(HOLD);
    let socket = pcscd.socket_path().to_owned();

    pcscd.kill9().unwrap();
    UnixStream::connect(&socket).await.unwrap_err();
    let error = feeder.present(badge(), HOLD).await.unwrap_err().to_string();
    assert!(error.contains("no tap at 127.0.0.1:35963"), "{error}");

    pcscd.restart().await.unwrap();
    UnixStream::connect(&socket).await.unwrap();
    assert!(feeder.present(badge(), HOLD).await.unwrap().atr_requests >= 1);
}

#[tokio::test]
async fn a_tap_nobody_waits_for_any_more_does_not_answer_for_the_next() {
    let dir = dir();
    let Some(mut pcscd) = pcscd(dir.path()).await else { return };
    let mut feeder = CardFeeder::start(&pcscd, VirtualReader::First, dir.path()).unwrap();
    let badge = |give_up_ms| VirtualCard::with_uid(&[4]).giving_up_after(Duration::from_millis(give_up_ms));
    pcscd.pause().unwrap();
    let abandoned = feeder.present(badge(300), Duration::ZERO);
    tokio::time::timeout(Duration::from_millis(50), abandoned).await.expect_err("it takes 300 ms");
    pcscd.resume().unwrap();
    assert!(feeder.present(badge(900), Duration::ZERO).await.unwrap().held_ms >= 900);
}

fn legacy_sim(listen: &str) -> Program {
    Program::new("legacy-sim").unwrap().args(["--listen", listen])
}

#[tokio::test]
async fn a_program_is_waited_for_killed_and_started_again() {
    let dir = dir();
    let listen = format!("127.0.0.1:{}", free_port());
    let by_line = legacy_sim(&listen).ready_when(Ready::Line("listening on".into()));
    let report_url = format!("http://{listen}/_sim/report");
    let report =
        async || http_client().get(&report_url).send().await.unwrap().json::<Report>().await.unwrap();

    let mut sim = by_line.start(dir.path()).await.unwrap();
    assert_eq!(report().await, Report::default());
    sim.kill9().unwrap();
    assert!(!sim.is_running());
    sim.restart().await.unwrap();
    assert_eq!(report().await, Report::default());
    drop(sim);

    let by_url = legacy_sim(&listen).called("legacy-sim-2").ready_when(Ready::Url(report_url.clone()));
    let mut sim = by_url.start(dir.path()).await.unwrap();
    assert!(sim.log().ends_with("legacy-sim-2.log"));
    sim.terminate(SOON).await.unwrap();
}

#[tokio::test]
async fn a_program_that_ends_early_says_why() {
    let program = legacy_sim("192.0.2.1:80").ready_when(Ready::Line("listening on".into()));
    let error = program.start(dir().path()).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 1") && error.contains("isn't a loopback address"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_not_built_names_the_command_that_builds_it() {
    let error = program_path("no-such-program").unwrap_err().to_string();
    assert!(error.contains("cargo build --workspace"), "{error}");
}

#[tokio::test]
async fn no_child_outlives_its_handle_or_a_killed_test() {
    let dir = dir();
    let broker = Mosquitto::start(dir.path(), &MosquittoOptions::default()).await.unwrap();
    let pid = broker.pid();
    drop(broker);
    test_kill_process(pid).expect_err("it is gone");

    // A shell stands for the test process: it starts a child as the rig does, says its id, and is killed.
    let tethered = "setpriv --pdeathsig KILL -- sleep 600 & echo $! > child.pid; wait";
    let mut parent = Command::new("sh").args(["-c", tethered]).current_dir(dir.path()).spawn().unwrap();
    let sleeping = || {
        let pid = fs::read_to_string(dir.path().join("child.pid")).unwrap_or_default();
        fs::read_to_string(format!("/proc/{}/comm", pid.trim())).is_ok_and(|comm| comm == "sleep\n")
    };
    wait_until("the child", SOON, &[], async || sleeping()).await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until("the child's end", SOON, &[], async || !sleeping()).await;
}
