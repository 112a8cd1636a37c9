//! What makes cloud-ingest a daemon to forget about: it is ready without a broker, and systemd hears that it still works.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use testbench::{
    rig::{NotifySocket, program_path},
    site::run,
};

/// Ends with the test, however that ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_watchdog_is_fed_while_the_broker_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    run("cloud-ingest", &["keys", "create", "--dir", &format!("{at}/keys")]).unwrap();
    let config = dir.path().join("cloud-ingest.toml");
    let text = format!(
        "data_dir = \"{at}/cloud\"\n[broker]\nurl = \"mqtt://127.0.0.1:1\"\nclient_id = \"c\"\n[http]\nlisten = \"127.0.0.1:0\"\n[keys]\ndir = \"{at}/keys\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut manager = NotifySocket::bind(dir.path()).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program_path("cloud-ingest").unwrap());
    command.args(["serve", "--config"]).arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", "900000").env_remove("JOURNAL_STREAM");
    let _service = Ends(command.spawn().unwrap());
    assert_eq!(manager.wait_for("READY=", Duration::from_secs(20)), "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.wait_for("WATCHDOG=", Duration::from_secs(20)), "WATCHDOG=1");
    }
}
