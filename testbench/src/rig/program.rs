//! One of our own programs under test; it doesn't know which.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};

use super::tethered::{Tethered, tethered};

/// How long a program may take to get ready: recovery of a large outbox included, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How to start a program. Cheap to keep and to start again with a change.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    name: String,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    starter: Vec<OsString>,
    ready: Ready,
}

/// How a program shows that it is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It needn't show anything.
    AtOnce,
    /// A line with this text, on either output.
    Line(String),
    /// This URL answers with a 2xx.
    Url(String),
}

impl Program {
    /// A binary of this workspace, without arguments, ready at once.
    ///
    /// # Errors
    ///
    /// When it hasn't been built.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        Ok(Self::at(program_path(name)?, name))
    }

    /// Somebody else's, which is where this says.
    pub fn at(path: impl Into<PathBuf>, name: &str) -> Self {
        let (path, name) = (path.into(), name.to_owned());
        Self { path, name, args: Vec::new(), env: Vec::new(), starter: Vec::new(), ready: Ready::AtOnce }
    }

    /// Another name for its log and its errors, when several of a kind share a directory.
    pub fn called(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds an environment variable to ours.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// A command that executes it in its own place, such as `unshare`.
    pub fn started_by(self, starter: Vec<OsString>) -> Self {
        Self { starter, ..self }
    }

    /// How it shows that it is ready.
    pub fn ready_when(self, ready: Ready) -> Self {
        Self { ready, ..self }
    }

    /// Starts it and waits until it is ready. Its output is appended to `NAME.log` in `dir`.
    ///
    /// # Errors
    ///
    /// When it ends first, or isn't ready within half a minute; the end of its log is part of the message.
    pub async fn start(&self, dir: &Path) -> anyhow::Result<Running> {
        let log = dir.join(format!("{}.log", self.name));
        let said_before = fs::metadata(&log).map_or(0, |log| log.len());
        let mut words =
            self.starter.iter().chain([self.path.as_os_str().to_owned()].iter()).cloned().collect::<Vec<_>>();
        let mut command = tethered(words.remove(0));
        command.args(words);
        // The backtrace of an error that is reported in words would push the words out of the quoted log.
        command.env("RUST_LIB_BACKTRACE", "0");
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        let mut process = Tethered::spawn(&self.name, &mut command, &log)?;
        match &self.ready {
            Ready::AtOnce => {}
            Ready::Line(text) => {
                let said = async || says(&log, said_before, text);
                process.ready(&format!("it says `{text}`"), READY_WITHIN, said).await?;
            }
            Ready::Url(url) => {
                let client = crate::http_client();
                let answers = async || client.get(url).send().await.is_ok_and(|r| r.status().is_success());
                process.ready(&format!("{url} answers"), READY_WITHIN, answers).await?;
            }
        }
        Ok(Running { program: self.clone(), dir: dir.to_owned(), log, process })
    }
}

/// A program that was started; killed on drop.
#[derive(Debug)]
pub struct Running {
    program: Program,
    dir: PathBuf,
    log: PathBuf,
    process: Tethered,
}

impl Running {
    /// What it has said, over all restarts.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process; another one after a restart.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Whether it hasn't ended.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// SIGKILL.
    ///
    /// # Errors
    ///
    /// When it has been reaped by somebody else.
    pub fn kill9(&mut self) -> io::Result<()> {
        self.process.kill9().map(drop)
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    ///
    /// When it still runs after that time.
    pub async fn terminate(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.process.terminate(within).await
    }

    /// Waits for it to end by itself: at a crash point, or after a subcommand.
    ///
    /// # Errors
    ///
    /// When it still runs after that time.
    pub async fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.process.wait(within).await
    }

    /// Starts it again in the same way, after killing it if it still runs, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Like [`Program::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill9().with_context(|| format!("killing {}", self.program.name))?;
        *self = self.program.start(&self.dir).await?;
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    ///
    /// When it can't be signalled.
    pub fn pause(&mut self) -> io::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    ///
    /// When it can't be signalled.
    pub fn resume(&mut self) -> io::Result<()> {
        self.process.signal(Signal::CONT)
    }
}

/// Where cargo has put a binary of this workspace: beside the binary that runs now, or above a test's `deps`.
///
/// # Errors
///
/// When it isn't there.
pub fn program_path(name: &str) -> anyhow::Result<PathBuf> {
    let us = env::current_exe().context("finding our own binary")?;
    let beside = us.parent().context("our own binary is in a directory")?;
    let profile = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
    let path = profile.join(name);
    ensure!(
        path.is_file(),
        "{} isn't built; run `cargo build --workspace` with this profile first",
        path.display()
    );
    Ok(path)
}

/// Whether `text` stands in the log after its first `skip` bytes.
fn says(log: &Path, skip: u64, text: &str) -> bool {
    let skip = usize::try_from(skip).expect("a log fits into memory");
    fs::read(log).is_ok_and(|bytes| {
        let news = bytes.get(skip..).unwrap_or_default();
        String::from_utf8_lossy(news).lines().any(|line| line.contains(text))
    })
}
