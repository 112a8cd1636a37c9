//! One connection through the proxy: bytes from either side to the other, under the weather; it takes no orders.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
};

use super::{Direction, Stats, Weather};
use crate::stopwatch::Stopwatch;

/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// How many chunks a direction holds back before the sender's kernel has to: 1 MiB.
const CHUNKS_HELD_MAX: usize = 64;

/// A pump has passed the last byte it was allowed to, and the loop must cut.
#[derive(Debug)]
pub(super) struct AllowanceUsedUp;

/// How much may pass in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Allowance {
    #[default]
    Unlimited,
    Bytes(u64),
}

/// What all connections of a proxy share.
#[derive(Debug, Default)]
pub(super) struct Counters {
    up: Lane,
    down: Lane,
    accepted: AtomicU64,
}

#[derive(Debug, Default)]
struct Lane {
    passed_bytes: AtomicU64,
    allowance: Mutex<Allowance>,
}

impl Counters {
    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(super) fn allow(&self, direction: Direction, allowance: Allowance) {
        *self.lane(direction).allowance() = allowance;
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            up_bytes: self.up.passed_bytes.load(Relaxed),
            down_bytes: self.down.passed_bytes.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
        }
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

impl Lane {
    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().expect("nothing panics while it holds an allowance")
    }

    /// Takes as much of `wanted` from the allowance as there is, and says whether that was the last.
    fn take(&self, wanted: usize) -> (usize, Option<AllowanceUsedUp>) {
        match &mut *self.allowance() {
            Allowance::Unlimited => (wanted, None),
            Allowance::Bytes(left) => {
                let taken = wanted.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                (taken, (*left == 0).then_some(AllowanceUsedUp))
            }
        }
    }
}

/// Connects `client` to `upstream` and carries bytes until both sides have ended, or one has broken off.
pub(super) async fn carry(
    client: TcpStream,
    upstream: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    counters: Arc<Counters>,
) -> Option<AllowanceUsedUp> {
    fair(&mut weather).await;
    let server = TcpStream::connect(upstream).await.ok()?;
    // Latency is what this proxy is told to add, and nothing else. A socket that is gone says so when read.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let up = pass(client_read, server_write, counters.lane(Direction::Up), weather.clone());
    let down = pass(server_read, client_write, counters.lane(Direction::Down), weather);
    match tokio::try_join!(up, down) {
        Ok(((), ())) | Err(Broken::Socket) => None,
        Err(Broken::Allowance(used_up)) => Some(used_up),
    }
}

/// Why a direction ended before its sender was done.
enum Broken {
    Socket,
    Allowance(AllowanceUsedUp),
}

/// Carries one direction to its end, and passes the end on.
async fn pass(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    lane: &Lane,
    weather: watch::Receiver<Weather>,
) -> Result<(), Broken> {
    let (held, due) = mpsc::channel(CHUNKS_HELD_MAX);
    let clock = Stopwatch::start();
    let (taken_in, ()) = tokio::try_join!(
        take_in(from, held, weather.clone(), clock),
        give_out(due, to, lane, weather, clock)
    )?;
    Ok(taken_in)
}

/// A chunk and when it may go on, on the clock of its direction.
type Held = (Duration, Vec<u8>);

async fn take_in(
    mut from: OwnedReadHalf,
    held: mpsc::Sender<Held>,
    weather: watch::Receiver<Weather>,
    clock: Stopwatch,
) -> Result<(), Broken> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        if from.read_buf(&mut chunk).await.map_err(|_| Broken::Socket)? == 0 {
            return Ok(());
        }
        let due = clock.elapsed() + weather.borrow().delay;
        held.send((due, chunk)).await.map_err(|_| Broken::Socket)?;
    }
}

async fn give_out(
    mut due: mpsc::Receiver<Held>,
    mut to: OwnedWriteHalf,
    lane: &Lane,
    mut weather: watch::Receiver<Weather>,
    clock: Stopwatch,
) -> Result<(), Broken> {
    while let Some((at, chunk)) = due.recv().await {
        let early = at.saturating_sub(clock.elapsed());
        if !early.is_zero() {
            // Even no time at all is a millisecond to a timer.
            tokio::time::sleep(early).await;
        }
        fair(&mut weather).await;
        let (allowed, used_up) = lane.take(chunk.len());
        to.write_all(&chunk[..allowed]).await.map_err(|_| Broken::Socket)?;
        lane.passed_bytes.fetch_add(allowed as u64, Relaxed);
        if let Some(used_up) = used_up {
            return Err(Broken::Allowance(used_up));
        }
    }
    fair(&mut weather).await;
    to.shutdown().await.map_err(|_| Broken::Socket)
}

/// Waits for a stall to end.
async fn fair(weather: &mut watch::Receiver<Weather>) {
    if weather.wait_for(|weather| !weather.stalled).await.is_err() {
        // The proxy is gone, and this task is about to be.
        std::future::pending().await
    }
}
