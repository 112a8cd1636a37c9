//! A child process that can't outlive us; it doesn't know what it runs.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{ChildStdin, ChildStdout};

use super::waiting::{POLL_EVERY, log_tail};
use crate::stopwatch::Stopwatch;

/// Where Debian keeps servers, which a user's own PATH may leave out.
const PATH_WITH_SERVERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `program`, to be killed by the kernel when the thread that spawns it ends.
///
/// `setpriv` executes it in its own place, so the child's process id is the program's. (The same can't be done
/// by `pre_exec`, which is unsafe.)
pub(super) fn tethered(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// [`tethered`], for a server of the distribution.
pub(super) fn tethered_server(program: impl AsRef<OsStr>) -> Command {
    let mut command = tethered(program);
    command.env("PATH", PATH_WITH_SERVERS);
    command
}

/// A running child; killed and reaped on drop.
#[derive(Debug)]
pub(super) struct Tethered {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Tethered {
    /// Starts `command` with nothing to read and everything it says appended to `log`.
    pub(super) fn spawn(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let out = open_log(log)?;
        command.stdin(Stdio::null()).stdout(out);
        Self::launch(name, command, log)
    }

    /// Starts `command` with a pipe to and from it; only its standard error goes to `log`.
    pub(super) fn spawn_talking(
        name: &str,
        command: &mut Command,
        log: &Path,
    ) -> anyhow::Result<(Self, ChildStdin, ChildStdout)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut this = Self::launch(name, command, log)?;
        let stdin = this.child.stdin.take().expect("standard input is piped");
        let stdout = this.child.stdout.take().expect("standard output is piped");
        Ok((this, ChildStdin::from_std(stdin)?, ChildStdout::from_std(stdout)?))
    }

    fn launch(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        command.stderr(open_log(log)?);
        let child = command
            .spawn()
            .with_context(|| format!("starting {name} through setpriv (Debian package util-linux)"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `condition` holds; an error if the child ends first, or takes too long.
    pub(super) async fn ready(
        &mut self,
        what: &str,
        within: Duration,
        mut condition: impl AsyncFnMut() -> bool,
    ) -> anyhow::Result<()> {
        let waited = Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before {what}\n{}", self.name, log_tail(&self.log));
            }
            if condition().await {
                return Ok(());
            }
            if waited.elapsed() > within {
                bail!("{} didn't get so far within {within:?}: {what}\n{}", self.name, log_tail(&self.log));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Waits for the child to end by itself.
    pub(super) async fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let waited = Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if waited.elapsed() > within {
                bail!("{} still runs after {within:?}\n{}", self.name, log_tail(&self.log));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// SIGTERM, and waits.
    pub(super) async fn terminate(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(within).await
    }

    /// SIGKILL, and reaps.
    pub(super) fn kill9(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Sends a signal, if the child hasn't ended.
    pub(super) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.is_running() {
            kill_process(self.pid(), signal)?;
        }
        Ok(())
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        // It may have ended already; there is nobody left to tell about anything else.
        let _ = self.kill9();
    }
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening the log {}", path.display()))
}
