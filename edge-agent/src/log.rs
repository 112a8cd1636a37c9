//! Logging that never stands in a tap's way: an event is taken apart where it happens and put on a bounded queue; a
//! thread of its own writes it, to journald under systemd and readable to standard error elsewhere. When that thread
//! cannot keep up (journald's socket blocks), lines are dropped and counted.
//!
//! How much may be logged is [`crate::log_allowance`]'s business: no flood, of whatever kind, fills the card with lines. What
//! is asked for with `--verbose` (debug lines) is not held back.
//!
//! Neither journald nor standard error can stop the agent: a journald that is not there yet is tried again and again, and
//! a standard error that nobody reads any more is written to in vain.
//!
//! The fields that may be logged are a closed list (`Line`); anything else becomes part of the message. No field ever
//! holds a clear badge, a key or a body.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::clock;
use crate::log_allowance::{Allowance, May};

/// Lines that may wait for the writer.
const MAX_WAITING_LINES: usize = 1024;

/// A journald that is not there is looked for again after this long.
const JOURNAL_AGAIN_MS: u64 = 10_000;

/// The queue was full.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// There were too many of a kind.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Lines that were not written since the start: left out because there were too many of a kind, or dropped because the
/// writer could not keep up.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed) + LEFT_OUT.load(Ordering::Relaxed)
}

/// Installs the log for the whole process. `verbose` shows debug lines too.
pub fn install(verbose: bool) -> std::io::Result<()> {
    let (queue, lines) = sync_channel(MAX_WAITING_LINES);
    std::thread::Builder::new().name("log".into()).spawn(move || write_all(&lines))?;
    let max = if verbose { Level::DEBUG } else { Level::INFO };
    let allowance = Mutex::new(Allowance::default());
    let subscriber = tracing_subscriber::registry().with(Queue { max, allowance, queue });
    tracing::subscriber::set_global_default(subscriber).map_err(std::io::Error::other)
}

/// Where lines go.
struct Writer {
    dispatch: Dispatch,
    /// journald is wanted and was not there: when to look again.
    journal_due_ms: Option<u64>,
}

impl Writer {
    /// Under systemd standard error is a socket of journald's and JOURNAL_STREAM says so.
    #[expect(clippy::disallowed_methods, reason = "JOURNAL_STREAM is systemd's, not configuration of ours")]
    fn new() -> Writer {
        let wanted = std::env::var("JOURNAL_STREAM").is_ok();
        match wanted.then(journal).flatten() {
            Some(dispatch) => Writer { dispatch, journal_due_ms: None },
            None => {
                let journal_due_ms = wanted.then(|| clock::boottime_ms() + JOURNAL_AGAIN_MS);
                Writer { dispatch: standard_error(), journal_due_ms }
            }
        }
    }

    /// Looks for a journald that was not there before.
    fn refresh(&mut self) {
        let now_ms = clock::boottime_ms();
        if self.journal_due_ms.is_none_or(|due_ms| now_ms < due_ms) {
            return;
        }
        match journal() {
            Some(dispatch) => *self = Writer { dispatch, journal_due_ms: None },
            None => self.journal_due_ms = Some(now_ms + JOURNAL_AGAIN_MS),
        }
    }
}

/// Addresses journald's socket by its path with every line, so that it is found again after a restart.
fn journal() -> Option<Dispatch> {
    let journald = tracing_journald::layer().ok()?;
    let registry = tracing_subscriber::registry();
    Some(Dispatch::new(registry.with(journald.with_syslog_identifier("edge-agent".into()))))
}

fn standard_error() -> Dispatch {
    let readable = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        // Its complaint about a line that could not be written would go to the same place, and panic when it cannot.
        .log_internal_errors(false);
    Dispatch::new(tracing_subscriber::registry().with(readable))
}

struct Queue {
    max: Level,
    allowance: Mutex<Allowance>,
    queue: SyncSender<Line>,
}

impl<S: Subscriber> Layer<S> for Queue {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > self.max
            || !metadata.target().starts_with("edge_agent") && *metadata.level() > Level::WARN
        {
            return;
        }
        let mut line = Line { level: *metadata.level(), ..Line::default() };
        if line.level <= Level::INFO {
            // A place in the code has one description for ever, so its address is its name.
            let place = std::ptr::from_ref(metadata) as usize;
            let mut allowance = self.allowance.lock().unwrap_or_else(|broken| broken.into_inner());
            match allowance.ask(place, clock::boottime_ms()) {
                May::Not => {
                    LEFT_OUT.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                May::Log { left_out: 0 } => {}
                May::Log { left_out } => line.left_out = Some(left_out),
            }
        }
        event.record(&mut line);
        if self.queue.try_send(line).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One line of the log on its way to the writer.
struct Line {
    level: Level,
    message: String,
    reader: Option<String>,
    outbox: Option<String>,
    seq: Option<u64>,
    event_id: Option<String>,
    why: Option<String>,
    count: Option<u64>,
    left_out: Option<u64>,
}

impl Default for Line {
    fn default() -> Self {
        Line {
            level: Level::INFO,
            message: String::new(),
            reader: None,
            outbox: None,
            seq: None,
            event_id: None,
            why: None,
            count: None,
            left_out: None,
        }
    }
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "seq" => self.seq = Some(value),
            "count" => self.count = Some(value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message.insert_str(0, &text),
            "reader" => self.reader = Some(text),
            "outbox" => self.outbox = Some(text),
            "event_id" => self.event_id = Some(text),
            "why" => self.why = Some(text),
            other => self.message.push_str(&format!(" {other}={text}")),
        }
    }
}

fn write_all(lines: &Receiver<Line>) {
    // One call site per level, because a level belongs to the call site; an empty field is not recorded at all.
    macro_rules! write_at {
        ($level:expr, $line:expr) => {{
            let Line { mut message, reader, outbox, seq, event_id, why, count, left_out, .. } = $line;
            if let Some(left_out) = left_out {
                message.push_str(&format!(" (and {left_out} more of this kind were left out)"));
            }
            tracing::event!(target: "edge_agent", $level, reader, outbox, seq, event_id, count, why, "{message}")
        }};
    }
    let mut writer = Writer::new();
    let mut reported = 0;
    while let Ok(line) = lines.recv() {
        writer.refresh();
        tracing::dispatcher::with_default(&writer.dispatch, || match line.level {
            Level::ERROR => write_at!(Level::ERROR, line),
            Level::WARN => write_at!(Level::WARN, line),
            Level::INFO => write_at!(Level::INFO, line),
            Level::DEBUG => write_at!(Level::DEBUG, line),
            Level::TRACE => write_at!(Level::TRACE, line),
        });
        // Not through the queue, which may be full: what could not be written is told as soon as something can.
        let dropped = DROPPED.load(Ordering::Relaxed);
        if dropped > reported {
            tracing::dispatcher::with_default(&writer.dispatch, || {
                tracing::warn!(target: "edge_agent", count = dropped - reported, "log lines were dropped");
            });
            reported = dropped;
        }
    }
}
