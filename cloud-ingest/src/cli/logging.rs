//! Beside the line: where log lines go: to the journal under systemd, to the terminal otherwise.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// From here on, log.
pub fn start(verbose: bool) {
    let ours = if verbose { Level::DEBUG } else { Level::INFO };
    let filter = Targets::new().with_default(Level::WARN).with_target("cloud_ingest", ours);
    // systemd sets it for a service whose output goes to the journal.
    let journal = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => tracing_journald::layer().ok(),
        None => None,
    };
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match journal {
        Some(journal) => journal.boxed(),
        None => tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}
