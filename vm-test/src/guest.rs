//! A machine in software: starts it, has scripts run in it, cuts its power. Knows qemu; nothing of what is installed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::console::{self, Said};
use crate::host;
use crate::image::Image;
use crate::stopwatch::Stopwatch;

/// It is always the same machine. mmdebstrap leaves /etc/machine-id empty, so that each boot would be that of another one, and
/// to an agent its outbox that of a clone.
const MACHINE_ID: &str = "5ec0de5ec0de5ec0de5ec0de5ec0de00";

/// A boot takes half a minute in software on a quiet machine.
pub const BOOTS_WITHIN: Duration = Duration::from_secs(300);

/// A script that only asks.
const SCRIPT_ENDS_WITHIN: Duration = Duration::from_secs(240);

/// qemu makes its socket at once.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How much of a log belongs to a failure.
const TAIL_LINES: usize = 25;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// The Debian that it boots. What it writes there is gone at its end.
    pub image: &'a Image,
    /// A disk with the label `xfer`, to be read only.
    pub xfer: &'a Path,
    /// A disk of its own.
    pub disk: Disk,
    /// What its hardware clock shows at first, such as `1970-01-01`; the truth if not given.
    pub clock: Option<&'static str>,
    /// Where its console is written down.
    pub console: PathBuf,
}

/// The one disk on which something stays.
#[derive(Debug, Clone)]
pub enum Disk {
    /// There is none.
    None,
    /// A file, which has what was written at once.
    Plain(PathBuf),
    /// A file, and a log of everything that it was told.
    Logged {
        /// The disk.
        disk: PathBuf,
        /// The log.
        log: PathBuf,
    },
}

/// A machine that runs, until this is dropped.
#[derive(Debug)]
pub struct Guest {
    qemu: Child,
    port: UnixStream,
    heard: Arc<Heard>,
    next_job: u32,
    console: PathBuf,
    _folder: tempfile::TempDir,
}

/// A script that runs in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job(u32);

/// A line that a script printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Without its end.
    pub text: String,
    /// How long the disk's log was when the line came here. What the line speaks of was done before.
    pub log_bytes: u64,
}

#[derive(Debug, Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    boots: Vec<String>,
    jobs: BTreeMap<u32, Ran>,
    is_gone: bool,
}

#[derive(Debug, Default)]
struct Ran {
    lines: Vec<Line>,
    code: Option<i32>,
}

impl Guest {
    /// Starts it and waits until it has booted.
    ///
    /// # Errors
    ///
    /// When it does not boot; the end of its console is in the message.
    pub fn boot(machine: &Machine<'_>) -> anyhow::Result<Guest> {
        let folder = tempfile::Builder::new().prefix("vm-").tempdir()?;
        let socket = folder.path().join("port");
        let log = match &machine.disk {
            Disk::Logged { log, .. } => Some(log.clone()),
            Disk::None | Disk::Plain(_) => None,
        };
        let mut qemu = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(arguments(machine, &socket))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("qemu.log"))?)
            .spawn()
            .context("qemu cannot be started")?;
        let waited = Stopwatch::start();
        let port = loop {
            match UnixStream::connect(&socket) {
                Ok(port) => break port,
                Err(_) if waited.elapsed() < STARTS_WITHIN && qemu.try_wait()?.is_none() => {
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(error) => {
                    let _ = qemu.kill();
                    let _ = qemu.wait();
                    let said = std::fs::read_to_string(folder.path().join("qemu.log")).unwrap_or_default();
                    return Err(error).with_context(|| format!("qemu did not start: {}", said.trim()));
                }
            }
        };
        let heard = Arc::new(Heard::default());
        let (listens, reader) = (Arc::clone(&heard), port.try_clone()?);
        std::thread::spawn(move || listens.listen(reader, log.as_deref()));
        let console = machine.console.clone();
        let guest = Guest { qemu, port, heard, next_job: 1, console, _folder: folder };
        guest.wait_for_boot(1)?;
        Ok(guest)
    }

    /// Waits until it has booted for the `n`-th time since it was started.
    ///
    /// # Errors
    ///
    /// When that takes too long.
    pub fn wait_for_boot(&self, n: usize) -> anyhow::Result<()> {
        self.wait("it to boot", BOOTS_WITHIN, |state| (state.boots.len() >= n).then_some(()))
    }

    /// Runs a script to its end and gives what it printed.
    ///
    /// # Errors
    ///
    /// When it ends with another code than 0, or not in time.
    pub fn run(&mut self, script: &str) -> anyhow::Result<String> {
        let (code, said) = self.ask(script)?;
        ensure!(code == 0, "in the guest, this ended with {code}:\n{script}\nIt said:\n{said}");
        Ok(said)
    }

    /// Runs a script to its end and gives its exit code and what it printed.
    ///
    /// # Errors
    ///
    /// When it does not end in time.
    pub fn ask(&mut self, script: &str) -> anyhow::Result<(i32, String)> {
        let job = self.begin(script)?;
        let code = self.wait_for_end(job, SCRIPT_ENDS_WITHIN)?;
        Ok((code, self.said(job)))
    }

    fn said(&self, job: Job) -> String {
        self.lines(job).into_iter().fold(String::new(), |mut said, line| {
            said.push_str(&line.text);
            said.push('\n');
            said
        })
    }

    /// Runs the script again and again until it exits with 0, and gives what it printed then.
    ///
    /// # Errors
    ///
    /// When that takes too long.
    pub fn until(&mut self, what: &str, limit: Duration, script: &str) -> anyhow::Result<String> {
        // In the guest, so that the next look costs no way there and back.
        let job = self.begin(&format!(
            "end=$((SECONDS + {})); until said=$({{ {script}\n}} 2>&1); do\n[ $SECONDS -lt $end ] || {{ echo \"$said\"; exit 1; }}\nsleep 0.2; done; echo \"$said\"",
            limit.as_secs()
        ))?;
        let code = self.wait_for_end(job, limit * 2 + SCRIPT_ENDS_WITHIN)?;
        let said = self.said(job);
        ensure!(code == 0, "waited in vain for {what}; the last look said:\n{said}");
        Ok(said)
    }

    /// Begins a script that goes on by itself.
    ///
    /// # Errors
    ///
    /// When the guest is gone.
    pub fn begin(&mut self, script: &str) -> anyhow::Result<Job> {
        let job = Job(self.next_job);
        self.next_job += 1;
        self.heard.lock().jobs.insert(job.0, Ran::default());
        self.port.write_all(&console::run(job.0, script)).context("the guest does not listen any more")?;
        Ok(job)
    }

    /// Ends a script that goes on by itself, and gives all that it printed.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn stop(&mut self, job: Job) -> anyhow::Result<Vec<Line>> {
        self.port.write_all(&console::stop(job.0)).context("the guest does not listen any more")?;
        self.wait_for_end(job, SCRIPT_ENDS_WITHIN)?;
        Ok(self.lines(job))
    }

    /// Waits until the script has printed what `is_it` looks for, and gives how many lines there are.
    ///
    /// # Errors
    ///
    /// When that takes too long, or the script is over before.
    pub fn wait_for_lines(
        &self,
        job: Job,
        what: &str,
        limit: Duration,
        mut is_it: impl FnMut(&[Line]) -> bool,
    ) -> anyhow::Result<usize> {
        let ended = self.wait(what, limit, |state| {
            let ran = state.jobs.get(&job.0)?;
            match is_it(&ran.lines) {
                true => Some(Ok(ran.lines.len())),
                false => ran.code.map(Err),
            }
        })?;
        match ended {
            Ok(lines) => Ok(lines),
            Err(code) => {
                let last: Vec<String> =
                    self.lines(job).into_iter().rev().take(3).map(|line| line.text).collect();
                bail!("waited for {what}, but the script ended with {code}: {last:?}")
            }
        }
    }

    /// What a script has printed so far.
    pub fn lines(&self, job: Job) -> Vec<Line> {
        self.heard.lock().jobs.get(&job.0).map_or_else(Vec::new, |ran| ran.lines.clone())
    }

    /// The power goes: not one instruction more. What was heard before stays in what this gives.
    ///
    /// # Errors
    ///
    /// When qemu cannot be killed.
    pub fn cut_power(mut self, job: Job) -> anyhow::Result<Vec<Line>> {
        self.qemu.kill().context("killing qemu")?;
        self.qemu.wait()?;
        // What was on its way still counts: it was said.
        self.wait("the last words", STARTS_WITHIN, |state| state.is_gone.then_some(()))?;
        Ok(self.lines(job))
    }

    fn wait_for_end(&self, job: Job, limit: Duration) -> anyhow::Result<i32> {
        self.wait("a script to end", limit, |state| state.jobs.get(&job.0).and_then(|ran| ran.code))
    }

    fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> anyhow::Result<T> {
        let waited = Stopwatch::start();
        let mut state = self.heard.lock();
        loop {
            if let Some(found) = look(&state) {
                return Ok(found);
            }
            let left = waited.left_of(limit);
            if state.is_gone || left.is_zero() {
                let why = if state.is_gone { "the guest is gone" } else { "that took too long" };
                bail!("waited for {what}: {why}.{}", tail(&self.console));
            }
            state = self.heard.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what the guest says, until it is gone.
    fn listen(&self, port: UnixStream, log: Option<&Path>) {
        let mut port = BufReader::new(port);
        let mut line = Vec::new();
        while port.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let log_bytes = log.and_then(|log| log.metadata().ok()).map_or(0, |log| log.len());
            let text = String::from_utf8_lossy(&line);
            // Half a line was not said: its end went with the power.
            if let Some(said) = text.strip_suffix('\n').and_then(Said::parse) {
                self.lock().note(said, log_bytes);
                self.changed.notify_all();
            }
            line.clear();
        }
        self.lock().is_gone = true;
        self.changed.notify_all();
    }
}

impl State {
    fn note(&mut self, said: Said, log_bytes: u64) {
        match said {
            Said::Hello { boot_id } => self.boots.push(boot_id),
            Said::Out { id, text } => self.jobs.entry(id).or_default().lines.push(Line { text, log_bytes }),
            Said::End { id, code } => self.jobs.entry(id).or_default().code = Some(code),
        }
    }
}

fn arguments(machine: &Machine<'_>, socket: &Path) -> Vec<String> {
    let text = |path: &Path| host::text(path).to_owned();
    let image = machine.image;
    let mut arguments: Vec<String> = [
        // No KVM: it must run where machines are machines of software themselves.
        "-accel tcg,thread=multi -M q35 -cpu max -m 1024 -smp 2 -nodefaults -display none -nic none",
        "-device virtio-rng-pci -device virtio-serial-pci",
        "-device virtserialport,chardev=port,name=tapline",
    ]
    .iter()
    .flat_map(|line| line.split(' '))
    .map(str::to_owned)
    .collect();
    let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    add("-chardev", format!("socket,id=port,path={},server=on,wait=on", text(socket)));
    add("-serial", format!("file:{}", text(&machine.console)));
    add("-kernel", text(&image.kernel()));
    add("-initrd", text(&image.initrd()));
    let options = "root=LABEL=root rw console=ttyS0 quiet systemd.show_status=no";
    add("-append", format!("{options} systemd.machine_id={MACHINE_ID}"));
    if let Some(clock) = machine.clock {
        add("-rtc", format!("base={clock}"));
    }
    add("-drive", format!("file={},format=raw,if=virtio,snapshot=on,cache=unsafe", text(&image.root())));
    add("-drive", format!("file={},format=raw,if=virtio,readonly=on", text(machine.xfer)));
    match &machine.disk {
        Disk::None => {}
        Disk::Plain(disk) => {
            add("-drive", format!("file={},format=raw,if=virtio,cache=unsafe", text(disk)));
        }
        Disk::Logged { disk, log } => {
            // Not flushed here: what counts is the log, and this machine keeps its power.
            let file = |name: &str, path: &Path| {
                format!("driver=file,node-name={name},filename={},cache.no-flush=on", text(path))
            };
            add("-blockdev", file("disk", disk));
            add("-blockdev", file("log", log));
            // Without the interval, only a flush writes the log's superblock, and a disk without barriers is never flushed.
            let logged = "driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512";
            add("-blockdev", format!("{logged},log-super-update-interval=16"));
            add("-device", "virtio-blk-pci,drive=logged,write-cache=on".to_owned());
        }
    }
    arguments
}

/// The end of a log, for a failure.
fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines.get(from..).unwrap_or_default().iter().fold(
        format!("\nThe end of {}:", log.display()),
        |mut said, line| {
            // A String takes everything.
            let _ = write!(said, "\n  {line}");
            said
        },
    )
}
