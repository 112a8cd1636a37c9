//! Taps as fast as a local socket takes them, over connections that stay open; and what a process has used.

use std::path::Path;

use anyhow::{Context as _, bail};
use edge_agent::control::{Request, Response};
use rustix::process::Pid;
use tap_protocol::tap::Direction;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::site::{BADGES, Green, badge_uid};

/// One connection to the agent's local socket.
pub(super) struct Tapper {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    next_badge: usize,
}

impl Tapper {
    pub(super) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let (reader, writer) = UnixStream::connect(socket).await?.into_split();
        Ok(Self { reader: BufReader::new(reader), writer, next_badge: 0 })
    }

    /// One tap, until it is answered.
    pub(super) async fn tap(&mut self) -> anyhow::Result<Green> {
        self.next_badge += 1;
        let request = Request::Tap { uid: badge_uid(self.next_badge % BADGES), direction: Direction::In };
        let line = serde_json::to_string(&request)? + "\n";
        self.writer.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        self.reader.read_line(&mut answer).await?;
        match serde_json::from_str(&answer)? {
            Response::Recorded { seq, event_id, tap_to_signal_us, .. } => {
                Ok(Green { seq, event_id, tap_to_signal_us })
            }
            other => bail!("no green: {other:?}"),
        }
    }
}

/// What `/proc/PID/io` has counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Io {
    /// Bytes given to write calls.
    pub(super) wchar: u64,
    /// Bytes sent to the storage layer.
    pub(super) write_bytes: u64,
}

impl Io {
    pub(super) fn of(pid: Pid) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{}/io", pid.as_raw_nonzero()))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).context("a field of /proc/PID/io")?;
            Ok(line.trim().parse()?)
        };
        Ok(Self { wchar: field("wchar:")?, write_bytes: field("write_bytes:")? })
    }
}

/// Resident memory of a process, KiB: `Rss` of smaps_rollup, shared libraries included.
pub(super) fn resident_kib(pid: Pid) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("Rss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// What a process has used of the processors so far, in user and system mode: hundredths of a second, that is.
pub(super) fn cpu_seconds(pid: Pid) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    // After the name, which may hold anything: the state is the third field, user and system time the 14th and 15th.
    let (_, fields) = text.rsplit_once(") ").context("the name in /proc/PID/stat")?;
    let ticks = |nth: usize| -> anyhow::Result<u64> {
        Ok(fields.split(' ').nth(nth - 3).context("a field of /proc/PID/stat")?.parse()?)
    };
    Ok((ticks(14)? + ticks(15)?) as f64 / rustix::param::clock_ticks_per_second() as f64)
}
