//! Beside the line: the agent in numbers, in Prometheus' text format. Pure: takes what the agent says of itself and what it
//! measured; who asks for it is others' business.
//!
//! Written by hand, because the format is six lines of grammar and the values are in the loop already; a library would
//! keep them a second time, behind atomics that a single owner does not need.

use std::fmt::Write;

use tap_protocol::hello::{ReaderKind, ReaderState};
use tap_protocol::record::ClockState;

use crate::status::Status;

/// What the text calls itself.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds, microseconds: from a commit on a good card to one on a dying card. 300 ms is where *wait* is shown, 2 s
/// where green is too late.
const BOUNDS_US: [u64; 12] =
    [1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 300_000, 500_000, 1_000_000, 2_000_000];

/// How often something took how long.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    counts: [u64; BOUNDS_US.len()],
    count: u64,
    sum_us: u64,
}

impl Histogram {
    /// It took so long once.
    pub fn observe_us(&mut self, us: u64) {
        if let Some(count) =
            BOUNDS_US.iter().position(|bound| us <= *bound).and_then(|i| self.counts.get_mut(i))
        {
            *count += 1;
        }
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

/// What the loop measures beside what [`Status`] says.
#[derive(Debug, Default)]
pub struct Measured {
    /// From the card's number to the signal.
    pub tap_to_signal: Histogram,
    /// One commit of the outbox.
    pub commit: Histogram,
}

/// Room on the medium, from whoever may ask the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes that the outboxes take, write-ahead logs included.
    pub outbox_bytes: u64,
    /// Bytes free for the agent where they lie.
    pub free_bytes: u64,
}

/// The loop's part of the text.
pub fn text(status: &Status, measured: &Measured) -> String {
    let mut out = Text::default();
    let (controller, instance) = (status.controller.as_str(), status.instance.as_str());
    out.family("info", "gauge", "Which controller this is; instance changes when counters start at 0 again.");
    out.sample(
        "info",
        &[("controller", controller), ("version", &status.version), ("instance", instance)],
        1,
    );
    out.one("uptime_seconds", "gauge", "Seconds since the agent started.", Seconds(status.uptime_ms));

    out.one("pending_records", "gauge", "Records that the cloud has not confirmed yet.", status.pending);
    let oldest_ms = status.oldest_unreceipted_age_ms.unwrap_or(0);
    let help = "How long the oldest unconfirmed record has waited.";
    out.one("oldest_unreceipted_age_seconds", "gauge", help, Seconds(oldest_ms));
    out.family("seq_committed", "gauge", "The last record on the medium, per outbox.");
    for outbox in &status.outboxes {
        out.sample("seq_committed", &[("outbox", &outbox.outbox.to_string())], outbox.last_seq);
    }
    out.family("seq_receipted", "gauge", "The last record that the cloud has for good, per outbox.");
    for outbox in &status.outboxes {
        out.sample("seq_receipted", &[("outbox", &outbox.outbox.to_string())], outbox.receipted_through);
    }

    out.family("taps_total", "counter", "What was shown at a reader and what became of it.");
    for reader in &status.readers {
        let name = reader.reader.as_str();
        out.sample("taps_total", &[("reader", name), ("result", "recorded")], reader.taps);
        for (kind, count) in &reader.rejected {
            out.sample("taps_total", &[("reader", name), ("result", kind)], *count);
        }
    }
    let counters = &status.counters;
    out.one("repeats_total", "counter", "Reads of a card that had not been away.", counters.repeats);
    let help = "From a card's number to the signal.";
    out.histogram("tap_to_signal_seconds", help, &measured.tap_to_signal);
    out.histogram("commit_seconds", "One commit of the outbox.", &measured.commit);
    out.family(
        "lost_total",
        "counter",
        "Records that are gone without a receipt; where nobody knows how many, one stands for them.",
    );
    for (reason, count) in &counters.lost {
        out.sample("lost_total", &[("reason", reason)], *count);
    }

    let hardware = || status.readers.iter().filter(|reader| reader.kind != ReaderKind::Simulated);
    out.family("reader_up", "gauge", "Whether a reader answers.");
    for reader in hardware() {
        let up = u64::from(reader.state == ReaderState::Up);
        out.sample("reader_up", &[("reader", reader.reader.as_str())], up);
    }
    out.family("reader_recoveries_total", "counter", "How often a reader was brought back, by step.");
    for reader in hardware() {
        for (step, count) in &reader.recoveries {
            let labels = [("reader", reader.reader.as_str()), ("step", step)];
            out.sample("reader_recoveries_total", &labels, *count);
        }
    }

    let synced = u64::from(status.clock == ClockState::Synced);
    out.one("clock_synced", "gauge", "Whether the kernel vouches for the clock.", synced);
    let help = "How often the clock was set while the agent ran.";
    out.one("clock_step_total", "counter", help, counters.clock_steps);
    out.one(
        "broker_connected",
        "gauge",
        "Whether a broker session is up.",
        u64::from(status.broker.connected),
    );
    out.one("broker_sessions_total", "counter", "Broker sessions that were up.", status.broker.sessions);
    if let Some(age_ms) = status.broker.last_receipt_age_ms {
        let help = "Since the cloud's last confirmation.";
        out.one("last_receipt_age_seconds", "gauge", help, Seconds(age_ms));
    }
    if let Some(roster) = &status.roster {
        out.family("roster_badges", "gauge", "Badges on the roster in use, by what it says of them.");
        let known = roster.badges - roster.revoked;
        out.sample("roster_badges", &[("standing", "known")], known);
        out.sample("roster_badges", &[("standing", "revoked")], roster.revoked);
        let help = "Since the cloud last confirmed the roster in use.";
        out.one("roster_age_seconds", "gauge", help, Seconds(roster.age_ms));
        let help = "Whether the roster is too old to call a badge unknown.";
        out.one("roster_stale", "gauge", help, u64::from(roster.stale));
    }
    out.one("receipts_total", "counter", "Authentic confirmations from the cloud.", counters.receipts);
    let help = "Records given to the broker, those sent again included.";
    out.one("records_sent_total", "counter", help, counters.records_sent);
    let help = "Messages that were not authentic or not for this controller.";
    out.one("messages_refused_total", "counter", help, counters.messages_refused);
    let help = "Outboxes that contradicted the cloud (a restored backup, a copied card) and were settled.";
    out.one("outboxes_settled_total", "counter", help, counters.outboxes_settled);
    let help = "Log lines that were left out to keep the log small, or dropped because it was too slow.";
    out.one("log_lines_dropped_total", "counter", help, counters.log_lines_dropped);
    out.one("problems", "gauge", "What `edge-agent status` says is wrong now.", status.problems.len() as u64);
    out.0
}

/// The medium's part of the text.
pub fn room_text(room: Room) -> String {
    let mut out = Text::default();
    out.one("outbox_bytes", "gauge", "What the outboxes take on the medium.", room.outbox_bytes);
    out.one("disk_free_bytes", "gauge", "What is free where the outboxes lie.", room.free_bytes);
    out.0
}

/// The certificate's part of the text. `not_after_s` is in seconds since 1970-01-01 UTC.
pub fn certificate_text(not_after_s: i64) -> String {
    let mut out = Text::default();
    let help = "When this controller's certificate ends.";
    out.one("certificate_not_after_timestamp_seconds", "gauge", help, not_after_s);
    out.0
}

/// Milliseconds that are shown as seconds.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP edge_agent_{name} {help}\n# TYPE edge_agent_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "edge_agent_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut so_far = 0;
        for (bound_us, count) in BOUNDS_US.iter().zip(histogram.counts) {
            so_far += count;
            self.sample(&bucket, &[("le", &(*bound_us as f64 / 1e6).to_string())], so_far);
        }
        self.sample(&bucket, &[("le", "+Inf")], histogram.count);
        self.sample(&format!("{name}_sum"), &[], histogram.sum_us as f64 / 1e6);
        self.sample(&format!("{name}_count"), &[], histogram.count);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_upwards_and_ends_with_everything() {
        let mut histogram = Histogram::default();
        [900, 1_000, 1_001, 5_000_000].into_iter().for_each(|us| histogram.observe_us(us));
        let mut out = Text::default();
        out.histogram("x_seconds", "Help.", &histogram);
        let lines: Vec<&str> = out.0.lines().collect();
        assert_eq!(lines[1], "# TYPE edge_agent_x_seconds histogram");
        assert_eq!(lines[2], "edge_agent_x_seconds_bucket{le=\"0.001\"} 2");
        assert_eq!(lines[3], "edge_agent_x_seconds_bucket{le=\"0.0025\"} 3");
        assert_eq!(lines[13], "edge_agent_x_seconds_bucket{le=\"2\"} 3");
        assert_eq!(lines[14], "edge_agent_x_seconds_bucket{le=\"+Inf\"} 4");
        assert_eq!(lines[15..], ["edge_agent_x_seconds_sum 5.002901", "edge_agent_x_seconds_count 4"]);
    }

    #[test]
    fn a_label_can_hold_anything() {
        let mut out = Text::default();
        out.sample("x", &[("why", "a \"quoted\\\"\nline")], 1);
        assert_eq!(out.0, "edge_agent_x{why=\"a \\\"quoted\\\\\\\"\\nline\"} 1\n");
    }
}
