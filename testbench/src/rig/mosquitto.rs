//! A real Mosquitto on a loopback port of its own; it doesn't know what is published.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use super::{
    free_port,
    tethered::{Tethered, tethered_server},
    wait_until,
};

/// How long it may take to listen, or to stop. It needs milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

const STATE_FILE: &str = "mosquitto.db";

/// What a test wants to be different from Mosquitto's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MosquittoOptions {
    /// Messages kept for a client beyond those in flight; the default of 1000 drops the rest silently.
    pub max_queued_messages: Option<u32>,
    /// Unacknowledged messages per client; Mosquitto's default is 20.
    pub max_inflight_messages: Option<u32>,
    /// Whether sessions and queued messages are written to the directory: on an orderly stop, that is.
    pub persistence: bool,
    /// More lines of configuration. They follow the listener, so its options (TLS, say) can go here too.
    pub more: Vec<String>,
}

/// A broker; killed on drop.
#[derive(Debug)]
pub struct Mosquitto {
    addr: SocketAddr,
    config: PathBuf,
    state: PathBuf,
    log: PathBuf,
    broker: Tethered,
}

impl Mosquitto {
    /// Starts a broker that keeps its configuration, state and log in `dir`, and waits until it accepts.
    ///
    /// # Errors
    ///
    /// When it isn't installed or doesn't come up; the end of its log is part of the message.
    pub async fn start(dir: &Path, options: &MosquittoOptions) -> anyhow::Result<Self> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        Self::launch_in(dir, addr, &configuration(dir, addr, options)).await
    }

    /// Starts a broker with this configuration, and waits until it accepts at `addr`. Its state goes to `dir`.
    ///
    /// # Errors
    ///
    /// Like [`start`](Self::start).
    pub(super) async fn start_with(dir: &Path, given: &str, addr: SocketAddr) -> anyhow::Result<Self> {
        let configuration = housekeeping(dir, true).join("\n") + "\n" + given;
        Self::launch_in(dir, addr, &configuration).await
    }

    async fn launch_in(dir: &Path, addr: SocketAddr, configuration: &str) -> anyhow::Result<Self> {
        let config = dir.join("mosquitto.conf");
        let log = dir.join("mosquitto.log");
        fs::write(&config, configuration).context("writing mosquitto.conf")?;
        let broker = launch(&config, addr, &log).await?;
        Ok(Self { addr, config, state: dir.join(STATE_FILE), log, broker })
    }

    /// Where it listens; the same after a restart.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has logged.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process; another one after a restart.
    pub fn pid(&self) -> Pid {
        self.broker.pid()
    }

    /// SIGKILL: what wasn't written is gone.
    ///
    /// # Errors
    ///
    /// When it has been reaped by somebody else.
    pub fn kill9(&mut self) -> io::Result<()> {
        self.broker.kill9().map(drop)
    }

    /// SIGTERM: an orderly stop, which writes the state if persistence is on.
    ///
    /// # Errors
    ///
    /// When it doesn't stop.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.broker.terminate(PATIENCE).await
    }

    /// Starts it again on the same port, after stopping it in order if it still runs.
    ///
    /// # Errors
    ///
    /// Like [`start`](Self::start).
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.broker = launch(&self.config, self.addr, &self.log).await?;
        Ok(())
    }

    /// SIGHUP: has it read its configuration and certificates again. When this returns, whoever connects is judged by
    /// what it made of them.
    ///
    /// # Errors
    ///
    /// When it can't be signalled.
    pub async fn reload(&self) -> io::Result<()> {
        // It says so and then does it, in its only thread, before it looks at any socket again.
        let said = || fs::read_to_string(&self.log).unwrap_or_default().matches("Reloading config").count();
        let before = said();
        kill_process(self.pid(), Signal::HUP)?;
        wait_until("mosquitto to read its files again", PATIENCE, &[&self.log], async || said() > before)
            .await;
        Ok(())
    }

    /// Deletes sessions and queued messages from the disk. Does nothing to a broker that runs.
    ///
    /// # Errors
    ///
    /// When the file is there and can't be deleted.
    pub fn delete_state(&self) -> io::Result<()> {
        match fs::remove_file(&self.state) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// SIGSTOP: connections stay open and nothing moves.
    ///
    /// # Errors
    ///
    /// When it can't be signalled.
    pub fn pause(&mut self) -> io::Result<()> {
        self.broker.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    ///
    /// When it can't be signalled.
    pub fn resume(&mut self) -> io::Result<()> {
        self.broker.signal(Signal::CONT)
    }
}

async fn launch(config: &Path, addr: SocketAddr, log: &Path) -> anyhow::Result<Tethered> {
    let mut command = tethered_server("mosquitto");
    command.arg("-c").arg(config);
    let mut broker = Tethered::spawn("mosquitto", &mut command, log)?;
    broker.ready("it accepts connections", PATIENCE, async || TcpStream::connect(addr).await.is_ok()).await?;
    Ok(broker)
}

fn configuration(dir: &Path, addr: SocketAddr, options: &MosquittoOptions) -> String {
    let mut lines = housekeeping(dir, options.persistence);
    // Nagle against delayed acknowledgements costs 41 to 44 ms.
    lines.push("set_tcp_nodelay true".to_owned());
    lines.extend(options.max_queued_messages.map(|max| format!("max_queued_messages {max}")));
    lines.extend(options.max_inflight_messages.map(|max| format!("max_inflight_messages {max}")));
    lines.push(format!("listener {} {}", addr.port(), addr.ip()));
    lines.push("allow_anonymous true".to_owned());
    lines.extend(options.more.iter().cloned());
    lines.join("\n") + "\n"
}

/// What a broker of the rig needs whatever it is for.
fn housekeeping(dir: &Path, persistence: bool) -> Vec<String> {
    vec![
        // Started by root, it would otherwise become somebody who can't write to the directory, and a change
        // of user undoes the tether. Started by anybody else, it ignores this line.
        "user root".to_owned(),
        "log_dest stderr".to_owned(),
        "log_timestamp_format %Y-%m-%dT%H:%M:%S".to_owned(),
        format!("persistence {persistence}"),
        format!("persistence_location {}/", dir.display()),
        format!("persistence_file {STATE_FILE}"),
    ]
}
