//! One running PostgreSQL and what a test does to it; it doesn't know what is stored.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::SUPERUSER;
use crate::guard::Guard;
use crate::installed::{hand_over, program, run, unprivileged};
use crate::template;

/// A start takes a tenth of a second; after a crash, as long as it takes to replay what was written since a checkpoint.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// What an error quotes of the server's log.
const LOG_TAIL_LINES: usize = 40;

/// What every cluster has. Dynamic shared memory in files goes with the folder, in `/dev/shm` it would stay after a kill.
const SETTINGS: [&str; 9] = [
    "cluster_name=postgres-rig",
    "dynamic_shared_memory_type=mmap",
    "log_line_prefix=%m [%p] ",
    "max_connections=100",
    "max_wal_senders=0",
    "restart_after_crash=on",
    "shared_buffers=64MB",
    "unix_socket_permissions=0777",
    "wal_level=minimal",
];

/// What a test wants of its cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether a commit is on the disk before it is answered. A kill loses nothing either way: only a machine that
    /// crashes tells the difference, and a stopwatch.
    pub fsync: bool,
    /// A TCP port on loopback, for whoever needs one (a proxy, say). Otherwise it listens on a socket in its folder
    /// alone, and needs no port that might be taken.
    pub port: Option<u16>,
    /// More settings, as `name=value`.
    pub more: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { fsync: true, port: None, more: Vec::new() }
    }
}

/// A cluster in a temporary folder; stopped and deleted on drop, or when this process ends.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: waits until the server has ended and the folder is gone.
    guard: Option<Guard>,
    folder: PathBuf,
    options: Options,
    server: Option<Child>,
    databases: AtomicU64,
}

impl Cluster {
    /// Starts one that syncs and listens on a socket only.
    ///
    /// # Errors
    ///
    /// When PostgreSQL isn't installed or doesn't start; the end of its log is part of the message.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(Options::default())
    }

    /// Starts one.
    ///
    /// # Errors
    ///
    /// Like [`start`](Self::start).
    pub fn start_with(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("postgres-rig-").tempdir()?;
        hand_over(folder.path())?;
        let guard = Some(Guard::set(folder.path())?);
        let folder = folder.keep();
        template::unpack(&folder.join("data"))?;
        let mut cluster = Self { guard, folder, options, server: None, databases: AtomicU64::new(0) };
        cluster.launch()?;
        Ok(cluster)
    }

    /// Where a client connects to, as the superuser. The same after a restart.
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, database)
    }

    /// Where a client connects to under another role. Nobody is asked for a password.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        match self.options.port {
            Some(port) => format!("postgres://{role}@127.0.0.1:{port}/{database}"),
            None => {
                let socket = self.folder.to_string_lossy().replace('%', "%25").replace('/', "%2F");
                format!("postgres://{role}@{socket}/{database}")
            }
        }
    }

    /// Makes an empty database; its name. Takes some 30 ms, half of that in a cluster that doesn't sync.
    ///
    /// # Panics
    ///
    /// When the server doesn't run or refuses.
    pub fn new_database(&self) -> String {
        self.new_database_from("template1")
    }

    /// Makes a database that begins as a copy of another one, to which nobody may be connected; its name.
    ///
    /// # Panics
    ///
    /// Like [`new_database`](Self::new_database).
    pub fn new_database_from(&self, template: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Relaxed));
        self.query("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .expect("a database is made");
        name
    }

    /// Runs SQL as the superuser; the rows, with `|` between columns.
    ///
    /// # Errors
    ///
    /// When the server doesn't run or refuses.
    pub fn query(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let mut psql = Command::new(program("psql")?);
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]);
        psql.args(["--dbname", &self.url(database), "--command", sql]);
        Ok(run(&mut psql)?.trim_end().to_owned())
    }

    /// A database as a script that makes it again, row by row: small databases, to be read and kept.
    ///
    /// # Errors
    ///
    /// When the server doesn't run or refuses.
    pub fn dump(&self, database: &str) -> anyhow::Result<String> {
        let mut pg_dump = Command::new(program("pg_dump")?);
        pg_dump.args(["--inserts", "--no-owner", "--dbname", &self.url(database)]);
        run(&mut pg_dump)
    }

    /// Runs a script of many statements as the superuser.
    ///
    /// # Errors
    ///
    /// When the server doesn't run or refuses a statement; those before it were done.
    pub fn run_script(&self, database: &str, script: &Path) -> anyhow::Result<()> {
        let mut psql = Command::new(program("psql")?);
        psql.args(["--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1"]);
        psql.args(["--dbname", &self.url(database), "--file"]).arg(script);
        run(&mut psql).map(drop)
    }

    /// What the server has logged.
    pub fn log(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// The server's files.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The server's process, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.server.as_ref().map(Pid::from_child)
    }

    /// SIGKILL for the server and all its processes at once: what a power cut leaves, the disk's cache apart.
    ///
    /// # Errors
    ///
    /// When it has ended before.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        // Stopped first, so that it starts no process between our look and the kill.
        self.freeze()?;
        let processes = self.processes()?;
        for process in &processes {
            // One that ended by itself in between is dead, too.
            let _ = kill_process(*process, Signal::KILL);
        }
        self.server.take().context("the server doesn't run")?.wait()?;
        // A busy machine takes its time. As long as one holds the shared memory, the next server refuses to start.
        for _ in 0..PATIENCE.as_millis() / POLL_EVERY.as_millis() {
            if processes.iter().all(|process| is_gone(*process)) {
                return Ok(());
            }
            thread::sleep(POLL_EVERY);
        }
        bail!("processes of the server are still there, {PATIENCE:?} after they were killed")
    }

    /// An orderly stop: connections are cut, everything is written.
    ///
    /// # Errors
    ///
    /// When it has ended before, or ends badly.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        kill_process(self.pid().context("the server doesn't run")?, Signal::INT)?;
        let status = self.server.take().context("the server doesn't run")?.wait()?;
        if !status.success() {
            bail!("the server ended with {status}\n{}", tail(&self.log()));
        }
        Ok(())
    }

    /// Starts it again over the same files and at the same address, after a stop in order if it still runs.
    ///
    /// # Errors
    ///
    /// Like [`start`](Self::start).
    pub fn restart(&mut self) -> anyhow::Result<()> {
        if self.server.is_some() {
            self.stop()?;
        }
        self.launch()
    }

    /// SIGSTOP for all its processes: connections stay open, and nothing answers.
    ///
    /// # Errors
    ///
    /// When it doesn't run.
    pub fn freeze(&self) -> anyhow::Result<()> {
        kill_process(self.pid().context("the server doesn't run")?, Signal::STOP)?;
        self.signal_all(Signal::STOP)
    }

    /// Ends a [`freeze`](Self::freeze).
    ///
    /// # Errors
    ///
    /// When it doesn't run.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::CONT)
    }

    fn signal_all(&self, signal: Signal) -> anyhow::Result<()> {
        for process in self.processes()? {
            // A connection's process may have ended meanwhile.
            let _ = kill_process(process, signal);
        }
        Ok(())
    }

    /// The server's process and its children's, which don't have any.
    fn processes(&self) -> anyhow::Result<Vec<Pid>> {
        let server = self.pid().context("the server doesn't run")?;
        let children = format!("/proc/{server}/task/{server}/children");
        let children = fs::read_to_string(&children).with_context(|| format!("reading {children}"))?;
        let children = children.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?));
        Ok([server].into_iter().chain(children).collect())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = unprivileged("postgres")?;
        command.arg("-D").arg(self.data());
        let listen = match self.options.port {
            Some(port) => ["listen_addresses=127.0.0.1".to_owned(), format!("port={port}")],
            None => ["listen_addresses=".to_owned(), "port=5432".to_owned()],
        };
        let socket = format!("unix_socket_directories={}", self.folder.display());
        let fsync = format!("fsync={}", if self.options.fsync { "on" } else { "off" });
        let ours = SETTINGS.iter().map(ToString::to_string).chain(listen).chain([socket, fsync]);
        for setting in ours.chain(self.options.more.iter().cloned()) {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let server =
            command.spawn().context("starting PostgreSQL through setpriv (Debian package util-linux)")?;
        self.server = Some(server);
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let state = self.data().join("postmaster.pid");
        let server = self.server.as_mut().context("the server was started")?;
        let id = server.id().to_string();
        for _ in 0..PATIENCE.as_millis() / POLL_EVERY.as_millis() {
            if let Some(status) = server.try_wait()? {
                self.server = None;
                bail!("PostgreSQL ended ({status}) before it was ready\n{}", tail(&self.log()));
            }
            // Its first line is the process id, which tells it from what a killed server left; its eighth the state.
            let said = fs::read_to_string(&state).unwrap_or_default();
            if said.lines().next() == Some(&id)
                && said.lines().nth(7).is_some_and(|line| line.trim() == "ready")
            {
                return Ok(());
            }
            thread::sleep(POLL_EVERY);
        }
        bail!("PostgreSQL wasn't ready within {PATIENCE:?}\n{}", tail(&self.log()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.guard.take());
        if let Some(server) = &mut self.server {
            // It has ended; it is only reaped.
            let _ = server.wait();
        }
    }
}

/// Whether it has ended, be it that nobody has asked how.
fn is_gone(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// The end of a log, with a heading.
fn tail(log: &Path) -> String {
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().collect();
    format!("--- {}\n{}\n", log.display(), lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n"))
}
