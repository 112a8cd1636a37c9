//! System calls of a running program that are slow or fail, as on a worn out or full SD card: strace's fault injection
//! from outside, on the real binary. It doesn't know whose calls they are.

use std::{path::Path, time::Duration};

use rustix::process::Pid;

use super::tethered::{Tethered, tethered};

/// How long strace may take to attach to all threads of a process.
const ATTACHES_WITHIN: Duration = Duration::from_secs(10);

/// Calls are meddled with while this lives.
#[derive(Debug)]
pub struct SyscallFault {
    strace: Tethered,
}

impl SyscallFault {
    /// Meddles with the calls named in `faults`, strace's way: `fdatasync:delay_enter=900000` (microseconds),
    /// `fdatasync:error=EIO`. When it returns, every thread is under its spell.
    ///
    /// # Errors
    ///
    /// When strace is missing or may not attach.
    pub async fn attach(pid: Pid, faults: &[&str], dir: &Path) -> anyhow::Result<Self> {
        let calls: Vec<&str> = faults.iter().filter_map(|fault| fault.split(':').next()).collect();
        let mut command = tethered("strace");
        command.args(["-f", "-e", &format!("trace={}", calls.join(","))]);
        faults.iter().for_each(|fault| {
            command.args(["-e", &format!("inject={fault}")]);
        });
        command.args(["-p", &pid.as_raw_nonzero().to_string()]);
        let mut strace = Tethered::spawn("strace", &mut command, &dir.join("strace.log"))?;
        let attached = async || every_thread_is_traced(pid).unwrap_or(false);
        strace.ready("every thread is traced", ATTACHES_WITHIN, attached).await?;
        Ok(Self { strace })
    }

    /// Lets the program go on as if nothing had been.
    ///
    /// # Errors
    ///
    /// When strace does not let go.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.strace.terminate(ATTACHES_WITHIN).await.map(drop)
    }
}

fn every_thread_is_traced(pid: Pid) -> std::io::Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        if status.lines().any(|line| line.split_whitespace().eq(["TracerPid:", "0"])) {
            return Ok(false);
        }
    }
    Ok(true)
}
