//! edge-agent as it was compiled for another architecture, under qemu: it starts, commits taps, and what it wrote is read by the
//! program of this machine.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use edge_agent::control::{Request, Response, question};
use testbench::{
    rig::wait_until,
    site::{HEALS_WITHIN, badge_uid, run},
};

/// The command that runs it, words between spaces: `./dev test` builds the program and says so.
const FOREIGN_AGENT: &str = "FOREIGN_AGENT";

const TAPS: usize = 5;

/// Ends with the test, however that ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the one who built it tells where it is")]
async fn an_agent_of_another_architecture_commits_taps_that_this_one_can_read() {
    let Ok(agent) = std::env::var(FOREIGN_AGENT) else {
        eprintln!("skipped: {FOREIGN_AGENT} is not set; ./dev test builds such an agent and sets it");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let config = format!("{at}/edge-agent.toml");
    run("edge-agent", &["keys", "create", "--record-key-file", &format!("{at}/record.key")]).unwrap();
    for (name, byte) in [("token.key", "5a"), ("receipt.pub", "11")] {
        let file = dir.path().join(name);
        fs::write(&file, byte.repeat(32)).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let text = format!(
        "controller = \"hq-door-1\"\nstate_dir = \"{at}/state\"\nruntime_dir = \"{at}/run\"\n[broker]\nurl = \"mqtt://127.0.0.1:1\"\n[keys]\nrecord_key_file = \"{at}/record.key\"\ntoken_key_file = \"{at}/token.key\"\nreceipt_public_key_file = \"{at}/receipt.pub\"\n"
    );
    fs::write(&config, text).unwrap();

    let log = fs::File::create(dir.path().join("agent.log")).unwrap();
    let mut command = Command::new("setpriv");
    // Each is killed with the one before it; the time-out is for a qemu that hangs.
    command.args(["--pdeathsig", "KILL", "--", "timeout", "--foreground", "300"]);
    command.args(["setpriv", "--pdeathsig", "KILL", "--"]).args(agent.split(' '));
    command.args(["run", "--config", &config]).stdout(Stdio::null()).stderr(log);
    let mut running = Ends(command.spawn().unwrap());
    let socket = dir.path().join("run/control.sock");
    wait_until("the agent to answer", HEALS_WITHIN, &[&dir.path().join("agent.log")], async || {
        question(&socket, &Request::Status).await.is_ok()
    })
    .await;
    for n in 0..TAPS {
        let tap = Request::Tap { uid: badge_uid(n), direction: Default::default() };
        let answer = question(&socket, &tap).await.unwrap();
        assert!(matches!(answer, Response::Recorded { .. }), "{answer:?}");
    }
    let Response::Status(status) = question(&socket, &Request::Status).await.unwrap() else {
        panic!("it tells its status")
    };
    assert_eq!(status.counters.taps_recorded, TAPS as u64);
    // Nothing that was answered may need an orderly end.
    drop(running.0.kill());
    running.0.wait().unwrap();
    let verified = run("edge-agent", &["outbox", "verify", "--config", &config]).unwrap();
    assert!(verified.contains("is fine"), "{verified}");
}
