//! Logging that never stands in a tap's way: an event is taken apart where it happens and put on a bounded queue; a
//! thread of its own writes it, to journald under systemd and readable to standard error elsewhere. When that thread
//! cannot keep up (journald's socket blocks), lines are dropped and counted.
//!
//! The fields that may be logged are a closed list ([`Line`]); anything else becomes part of the message. No field ever
//! holds a clear badge, a key or a body.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// Lines that may wait for the writer.
const MAX_WAITING_LINES: usize = 1024;

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that could not be written since the start.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Installs the log for the whole process. `verbose` shows debug lines too.
pub fn install(verbose: bool) -> std::io::Result<()> {
    let (queue, lines) = sync_channel(MAX_WAITING_LINES);
    let writer = writer();
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || tracing::dispatcher::with_default(&writer, || write_all(&lines)))?;
    let max = if verbose { Level::DEBUG } else { Level::INFO };
    let subscriber = tracing_subscriber::registry().with(Queue { max, queue });
    tracing::subscriber::set_global_default(subscriber).map_err(std::io::Error::other)
}

/// Under systemd standard error is a socket of journald's and JOURNAL_STREAM says so.
#[expect(clippy::disallowed_methods, reason = "JOURNAL_STREAM is systemd's, not configuration of ours")]
fn writer() -> Dispatch {
    let registry = tracing_subscriber::registry();
    if std::env::var("JOURNAL_STREAM").is_ok()
        && let Ok(journald) = tracing_journald::layer()
    {
        return Dispatch::new(registry.with(journald.with_syslog_identifier("edge-agent".into())));
    }
    let readable = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    Dispatch::new(registry.with(readable))
}

struct Queue {
    max: Level,
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
            let Line { message, reader, outbox, seq, event_id, why, count, .. } = $line;
            tracing::event!(target: "edge_agent", $level, reader, outbox, seq, event_id, count, why, "{message}")
        }};
    }
    let mut reported = 0;
    while let Ok(line) = lines.recv() {
        match line.level {
            Level::ERROR => write_at!(Level::ERROR, line),
            Level::WARN => write_at!(Level::WARN, line),
            Level::INFO => write_at!(Level::INFO, line),
            Level::DEBUG => write_at!(Level::DEBUG, line),
            Level::TRACE => write_at!(Level::TRACE, line),
        }
        let dropped = dropped_lines();
        if dropped > reported {
            tracing::warn!(target: "edge_agent", count = dropped - reported, "log lines were dropped");
            reported = dropped;
        }
    }
}
