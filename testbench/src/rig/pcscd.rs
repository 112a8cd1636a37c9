//! A real pcscd with virtual readers, hidden in namespaces of its own; it knows neither cards nor clients.
//!
//! The virtual reader listens on all addresses for its card, and pcscd's socket has one fixed path: so a holder
//! process owns a network namespace and a mount namespace with an empty `/run`, and pcscd runs inside. The holder
//! outlives pcscd's restarts, which keeps [`socket_path`](Pcscd::socket_path) valid for a running client.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, geteuid};
use tokio::net::UnixStream;

use super::tethered::{Tethered, tethered_server};
use crate::virtual_card::VPCD_PORT;

/// How long the namespaces, or pcscd, may take to come up. Both need well under a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the Debian package vsmartcard-vpcd installs.
const DRIVER_CONFIG: &str = "/etc/reader.conf.d/vpcd";

/// Where [`LAMP_DRIVER`] writes what it is told.
const LAMP_COMMANDS: &str = "lamp-commands";

/// The holder says so when its namespaces are furnished.
const FURNISHED: &str = "furnished";

/// A driver for a reader with a lamp and without a card; see there.
const LAMP_DRIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rig/lamp_driver.c");

/// One of the two readers that vpcd's driver makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualReader {
    /// `Virtual PCD 00 00`.
    First,
    /// `Virtual PCD 00 01`.
    Second,
}

impl VirtualReader {
    /// Its name in PC/SC.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "Virtual PCD 00 00",
            Self::Second => "Virtual PCD 00 01",
        }
    }

    /// The TCP port where it waits for a card, inside the namespace.
    pub fn port(self) -> u16 {
        match self {
            Self::First => VPCD_PORT,
            Self::Second => VPCD_PORT + 1,
        }
    }
}

/// The daemon and its namespaces; both end on drop.
#[derive(Debug)]
pub struct Pcscd {
    // Dropped in this order: first the daemon, then the ground it stands on.
    daemon: Tethered,
    holder: Tethered,
    socket: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl Pcscd {
    /// Starts pcscd with two virtual readers, and waits until it takes clients and cards. Log and configuration
    /// are in `dir`.
    ///
    /// # Errors
    ///
    /// When not run by root, when pcscd or vsmartcard-vpcd aren't installed, or when pcscd doesn't come up; the
    /// end of its log is part of the message.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(dir, &[]).await
    }

    /// The same with a third reader, which never sees a card and whose driver lets commands through to it. Its name in
    /// PC/SC begins with `name`, and what it is told is appended to [`lamp_commands`](Self::lamp_commands).
    ///
    /// # Errors
    ///
    /// Like [`start`](Self::start), and when gcc or libpcsclite-dev are missing.
    pub async fn start_with_lamp(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let library = dir.join("lamp_driver.so");
        compile(Path::new(LAMP_DRIVER), &library)?;
        // pcscd wants a reader's device to be there.
        let commands = dir.join(LAMP_COMMANDS);
        fs::write(&commands, "").with_context(|| format!("creating {}", commands.display()))?;
        let reader = format!(
            "FRIENDLYNAME \"{name}\"\nDEVICENAME {}\nLIBPATH {}\nCHANNELID 1\n",
            commands.display(),
            library.display()
        );
        Self::start_with(dir, &[("lamp", &reader)]).await
    }

    /// What the third reader was told, a line of hexadecimal digits each; see [`start_with_lamp`](Self::start_with_lamp).
    pub fn lamp_commands(&self) -> Vec<String> {
        let said = fs::read_to_string(self.log.with_file_name(LAMP_COMMANDS)).unwrap_or_default();
        said.lines().map(str::to_owned).collect()
    }

    async fn start_with(dir: &Path, readers: &[(&str, &str)]) -> anyhow::Result<Self> {
        ensure!(geteuid().is_root(), "a pcscd in namespaces of its own needs root");
        let config = dir.join("pcscd-readers");
        let log = dir.join("pcscd.log");
        fs::create_dir_all(&config).with_context(|| format!("creating {}", config.display()))?;
        fs::copy(DRIVER_CONFIG, config.join("vpcd"))
            .with_context(|| format!("copying {DRIVER_CONFIG} (Debian package vsmartcard-vpcd)"))?;
        for (file, reader) in readers {
            fs::write(config.join(file), reader).with_context(|| format!("configuring the reader {file}"))?;
        }

        let holder = hold_namespaces(dir).await?;
        let socket = seen_from_outside(&holder, "/run/pcscd/pcscd.comm");
        let daemon = launch(&holder, &socket, &config, &log).await?;
        Ok(Self { daemon, holder, socket, config, log })
    }

    /// For `PCSCLITE_CSOCK_NAME` of a client outside, which must be root's too. The same after a restart.
    pub fn socket_path(&self) -> &Path {
        &self.socket
    }

    /// What it has logged.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process; another one after a restart.
    pub fn pid(&self) -> Pid {
        self.daemon.pid()
    }

    /// What to put before a program so that it can reach the readers' ports. Stays valid over a restart.
    pub fn card_command(&self) -> Vec<OsString> {
        let holder = self.holder.pid().to_string();
        ["nsenter", "--target", &holder, "--net", "--"].map(OsString::from).to_vec()
    }

    /// SIGKILL: its socket stays behind and refuses.
    ///
    /// # Errors
    ///
    /// When it has been reaped by somebody else.
    pub fn kill9(&mut self) -> io::Result<()> {
        self.daemon.kill9().map(drop)
    }

    /// Starts it again, after killing it if it still runs, and waits as [`start`](Self::start) does.
    ///
    /// # Errors
    ///
    /// Like [`start`](Self::start).
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill9().context("killing pcscd")?;
        self.daemon = launch(&self.holder, &self.socket, &self.config, &self.log).await?;
        Ok(())
    }

    /// SIGSTOP: clients get no error, and no card.
    ///
    /// # Errors
    ///
    /// When it can't be signalled.
    pub fn pause(&mut self) -> io::Result<()> {
        self.daemon.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    ///
    /// When it can't be signalled.
    pub fn resume(&mut self) -> io::Result<()> {
        self.daemon.signal(Signal::CONT)
    }
}

/// Makes a driver of its source.
fn compile(source: &Path, library: &Path) -> anyhow::Result<()> {
    let mut command = std::process::Command::new("gcc");
    command.args(["-Wall", "-Werror", "-shared", "-fPIC", "-I/usr/include/PCSC"]);
    let made = command.arg("-o").arg(library).arg(source).output().context("running gcc")?;
    ensure!(made.status.success(), "gcc: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// A process that does nothing but own the namespaces.
async fn hold_namespaces(dir: &Path) -> anyhow::Result<Tethered> {
    let log = dir.join("pcscd-namespaces.log");
    // Left over from an earlier start in the same directory, it would look like readiness.
    let _ = fs::remove_file(&log);
    let furnish = format!(
        "ip link set lo up && mount -t tmpfs none /run && mkdir /run/pcscd && echo {FURNISHED} && exec sleep infinity"
    );
    let mut command = tethered_server("unshare");
    command.args(["--net", "--mount", "--", "sh", "-c", &furnish]);
    let mut holder = Tethered::spawn("the holder of pcscd's namespaces", &mut command, &log)?;
    let furnished = async || fs::read_to_string(&log).is_ok_and(|said| said.contains(FURNISHED));
    holder.ready("its namespaces are furnished", PATIENCE, furnished).await?;
    Ok(holder)
}

async fn launch(holder: &Tethered, socket: &Path, config: &Path, log: &Path) -> anyhow::Result<Tethered> {
    let mut command = tethered_server("nsenter");
    command.args(["--target", &holder.pid().to_string(), "--net", "--mount", "--"]);
    command.args(["pcscd", "--foreground", "--info", "--config"]).arg(config);
    let mut daemon = Tethered::spawn("pcscd", &mut command, log)?;
    let listening = PathBuf::from(format!("/proc/{}/net/tcp", holder.pid()));
    daemon
        .ready("it takes clients and both readers wait for a card", PATIENCE, async || {
            UnixStream::connect(socket).await.is_ok()
                && [VirtualReader::First, VirtualReader::Second]
                    .iter()
                    .all(|reader| listens(&listening, reader.port()))
        })
        .await?;
    Ok(daemon)
}

/// Whether a table like `/proc/net/tcp` has a listener on this port.
fn listens(table: &Path, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let local = format!(":{port:04X}");
    fs::read_to_string(table).is_ok_and(|table| {
        table.lines().any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            columns.next().is_some_and(|address| address.ends_with(&local)) && columns.nth(1) == Some(LISTEN)
        })
    })
}

/// A path inside the holder's mount namespace, as everybody else can open it.
fn seen_from_outside(holder: &Tethered, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{path}", holder.pid()))
}
