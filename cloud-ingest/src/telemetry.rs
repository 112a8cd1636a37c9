//! Beside the line: counters for monitoring. A scrape reads what the loops maintain; it never asks the store.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tap_protocol::ids::ControllerId;

use crate::capture::spool::Level;
use crate::delivery::breaker;
use crate::destination::Outcome;
use crate::event_store::capture::Captured;
use crate::event_store::commands::TroubleKind;
use crate::event_store::replays::{Letters, REASONS, ReplayStanding, ReplayState};
use crate::event_store::{DeliveryState, DestinationState, Totals, UtcMs, WatermarkRow};
use crate::health::{self, Health, Loop};
use crate::intake::verify::REJECT_KINDS;
use crate::read_model::lag::{Cause, Lag};
use crate::roster::rounds;

/// What the `/metrics` answer says it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type SecondsGauge = Gauge<f64, AtomicU64>;
type MakeHistogram = fn() -> Histogram;

/// `N` label names with their values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Label<const N: usize>([(&'static str, String); N]);

impl<const N: usize> EncodeLabelSet for Label<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeLabel;
        for (name, value) in &self.0 {
            (*name, value.as_str()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

fn label<const N: usize>(pairs: [(&'static str, &str); N]) -> Label<N> {
    Label(pairs.map(|(name, value)| (name, value.to_owned())))
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    events: Family<Label<2>, Counter>,
    quarantined: Family<Label<1>, Counter>,
    troubles: Family<Label<1>, Counter>,
    commit_seconds: Histogram,
    receipts: Family<Label<1>, Counter>,
    store_position: Gauge,
    roster_badges: Gauge,
    roster_messages: Family<Label<1>, Counter>,
    time_disputed: Gauge,
    time_unresolved: Gauge,
    backlog: Family<Label<2>, Gauge>,
    oldest_seconds: Family<Label<1>, SecondsGauge>,
    held: Family<Label<1>, Gauge>,
    letters: Family<Label<2>, Gauge>,
    replay_waiting: Family<Label<1>, Gauge>,
    paused: Family<Label<1>, Gauge>,
    breaker_open: Family<Label<1>, Gauge>,
    watermark_lag: Family<Label<2>, SecondsGauge>,
    watermark_held_back: Family<Label<3>, Gauge>,
    watermark_trouble: Family<Label<2>, Gauge>,
    early: Family<Label<1>, Counter>,
    attempts: Family<Label<2>, Counter>,
    delivery_seconds: Family<Label<1>, Histogram, MakeHistogram>,
    end_to_end_seconds: Histogram,
    lost_leases: Family<Label<1>, Counter>,
    store_errors: Family<Label<1>, Counter>,
    controller_lag: Family<Label<1>, SecondsGauge>,
    controller_unreceipted: Family<Label<1>, Gauge>,
    controllers: Family<Label<1>, Gauge>,
    loop_last_turn: Family<Label<1>, SecondsGauge>,
    broker_connected: Gauge,
    capture_requests: Family<Label<1>, Counter>,
    capture_seconds: Histogram,
    capture_spool_taps: Gauge,
    capture_spool_bytes: Gauge,
    intake_active: Gauge,
    clock_ahead: SecondsGauge,
}

/// What became of a group's records, for [`Metrics::took_in`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// New, and stored.
    Stored,
    /// Known already.
    Duplicate,
    /// Something before them is missing.
    Beyond,
    /// They contradict what is stored.
    Fork,
}

impl Intake {
    const ALL: [Intake; 4] = [Intake::Stored, Intake::Duplicate, Intake::Beyond, Intake::Fork];

    fn name(self) -> &'static str {
        match self {
            Intake::Stored => "stored",
            Intake::Duplicate => "duplicate",
            Intake::Beyond => "beyond",
            Intake::Fork => "fork",
        }
    }
}

fn seconds_histogram() -> Histogram {
    // 1 ms … 33 s.
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Metrics {
    /// All at zero.
    #[expect(clippy::new_without_default, reason = "a registry is made once, and on purpose")]
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("cloud_ingest");
        let metrics = Metrics {
            events: Family::default(),
            quarantined: Family::default(),
            troubles: Family::default(),
            commit_seconds: seconds_histogram(),
            receipts: Family::default(),
            store_position: Gauge::default(),
            roster_badges: Gauge::default(),
            roster_messages: Family::default(),
            time_disputed: Gauge::default(),
            time_unresolved: Gauge::default(),
            backlog: Family::default(),
            oldest_seconds: Family::default(),
            held: Family::default(),
            letters: Family::default(),
            replay_waiting: Family::default(),
            paused: Family::default(),
            breaker_open: Family::default(),
            watermark_lag: Family::default(),
            watermark_held_back: Family::default(),
            watermark_trouble: Family::default(),
            early: Family::default(),
            attempts: Family::default(),
            delivery_seconds: Family::new_with_constructor(seconds_histogram),
            // 10 ms … 11 days: a door may have been offline for long.
            end_to_end_seconds: Histogram::new(exponential_buckets(0.01, 10.0, 9)),
            lost_leases: Family::default(),
            store_errors: Family::default(),
            controller_lag: Family::default(),
            controller_unreceipted: Family::default(),
            controllers: Family::default(),
            loop_last_turn: Family::default(),
            broker_connected: Gauge::default(),
            capture_requests: Family::default(),
            capture_seconds: seconds_histogram(),
            capture_spool_taps: Gauge::default(),
            capture_spool_bytes: Gauge::default(),
            intake_active: Gauge::default(),
            clock_ahead: SecondsGauge::default(),
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register("events", "Records taken in, by what became of them", m.events.clone());
        registry.register("quarantined", "Messages put aside, by kind", m.quarantined.clone());
        registry.register(
            "contradictions",
            "Forks, outboxes that went apart, and shared identities, as often as they were seen",
            m.troubles.clone(),
        );
        registry.register("commit_seconds", "Time to store a group", m.commit_seconds.clone());
        registry.register("receipts", "Receipts handed to the broker, or dropped", m.receipts.clone());
        registry.register("store_position", "The last position stored", m.store_position.clone());
        let help = "Badges on the newest roster, one for each token key in use";
        registry.register("roster_badges", help, m.roster_badges.clone());
        let help = "Messages about rosters that were handed to the broker";
        registry.register("roster_messages", help, m.roster_messages.clone());
        registry.register("taps_time_disputed", "Taps whose time is in dispute", m.time_disputed.clone());
        registry.register(
            "deliveries_time_unresolved",
            "Deliveries set aside because their time did not become known in a day",
            m.time_unresolved.clone(),
        );
        registry.register("delivery_backlog", "Deliveries by state", m.backlog.clone());
        registry.register(
            "delivery_oldest_seconds",
            "Age of the oldest tap that is not delivered",
            m.oldest_seconds.clone(),
        );
        let help = "Deliveries that wait for a person, by reason";
        registry.register("deliveries_dead", help, m.letters.clone());
        let help = "Deliveries of replays that are not begun";
        registry.register("replay_rows_waiting", help, m.replay_waiting.clone());
        registry.register("destination_held", "1 while the destination is held back", m.held.clone());
        registry.register("destination_paused", "1 while a person keeps it paused", m.paused.clone());
        let help = "1 while nothing is sent because it does not answer, or does not let us in";
        registry.register("destination_breaker_open", help, m.breaker_open.clone());
        let help = "How far the time through which a destination was told that taps are complete is behind";
        registry.register("watermark_lag_seconds", help, m.watermark_lag.clone());
        let help = "1 for the controller that keeps it from going further";
        registry.register("watermark_held_back", help, m.watermark_held_back.clone());
        let help = "1 while it cannot be moved";
        registry.register("watermark_trouble", help, m.watermark_trouble.clone());
        let help =
            "Deliveries that went before all controllers of their site were known to be complete past them";
        registry.register("deliveries_early", help, m.early.clone());
        registry.register("attempts", "Attempts by outcome", m.attempts.clone());
        registry.register("delivery_duration_seconds", "Time of one attempt", m.delivery_seconds.clone());
        registry.register("end_to_end_seconds", "From tap to answer", m.end_to_end_seconds.clone());
        registry.register("lost_lease", "Answers that came after their lease", m.lost_leases.clone());
        registry.register("store_errors", "Calls that the store could not do", m.store_errors.clone());
        registry.register(
            "controller_lag_seconds",
            "Age of the oldest record that a controller still has to send",
            m.controller_lag.clone(),
        );
        registry.register(
            "controller_unreceipted",
            "Records that a controller still has to send",
            m.controller_unreceipted.clone(),
        );
        registry.register("controllers", "Controllers by cause", m.controllers.clone());
        registry.register(
            "loop_last_turn_timestamp_seconds",
            "When a loop last turned, Unix time",
            m.loop_last_turn.clone(),
        );
        registry.register("broker_connected", "1 while connected", m.broker_connected.clone());
        let help = "Requests that bring taps, by the status they were answered with";
        registry.register("capture_requests", help, m.capture_requests.clone());
        let help = "Time to answer a request that brings a tap";
        registry.register("capture_seconds", help, m.capture_seconds.clone());
        let help = "Taps that wait on the local disk for the store";
        registry.register("capture_spool_taps", help, m.capture_spool_taps.clone());
        registry.register("capture_spool_bytes", "Bytes that they take", m.capture_spool_bytes.clone());
        registry.register(
            "intake_active",
            "1 while this process is the one that takes in from the broker: over all replicas the sum is 1",
            m.intake_active.clone(),
        );
        let help = "How far this process's clock is ahead of the store's server; below 0, behind it";
        registry.register("clock_ahead_seconds", help, m.clock_ahead.clone());

        for result in Intake::ALL {
            m.events.get_or_create(&label([("source", "mqtt"), ("result", result.name())])).inc_by(0);
        }
        for result in ["stored", "duplicate", "refused"] {
            m.events.get_or_create(&label([("source", "http"), ("result", result)])).inc_by(0);
        }
        for kind in REJECT_KINDS {
            m.quarantined.get_or_create(&label([("kind", kind)])).inc_by(0);
        }
        for kind in TroubleKind::ALL {
            m.troubles.get_or_create(&label([("kind", kind.name())])).inc_by(0);
        }
        for result in ["sent", "dropped"] {
            m.receipts.get_or_create(&label([("result", result)])).inc_by(0);
        }
        for what in ["head", "chunk"] {
            m.roster_messages.get_or_create(&label([("what", what)])).inc_by(0);
        }
        Metrics { registry, ..metrics }
    }

    /// There is a destination: its counters start at zero.
    pub fn new_destination(&self, destination: &str) {
        for word in Outcome::WORDS {
            self.attempts.get_or_create(&label([("destination", destination), ("outcome", word)])).inc_by(0);
        }
        self.lost_leases.get_or_create(&label([("destination", destination)])).inc_by(0);
        self.early.get_or_create(&label([("destination", destination)])).inc_by(0);
    }

    /// So many deliveries were sent before all controllers were known to be complete past them.
    pub fn early(&self, destination: &str, count: usize) {
        self.early.get_or_create(&label([("destination", destination)])).inc_by(count as u64);
    }

    /// So many records of a group came to this.
    pub fn took_in(&self, what: Intake, records: u64) {
        self.events.get_or_create(&label([("source", "mqtt"), ("result", what.name())])).inc_by(records);
    }

    /// A captured tap came to this.
    pub fn captured(&self, what: &Captured) {
        let result = match what {
            Captured::Stored(_) | Captured::Both { .. } => "stored",
            Captured::Before(_) | Captured::SameAs { .. } => "duplicate",
            Captured::OtherBefore(_) | Captured::Refused => "refused",
            Captured::TakenElsewhere => return,
        };
        self.events.get_or_create(&label([("source", "http"), ("result", result)])).inc();
    }

    /// A request that brings a tap was answered.
    pub fn capture_request(&self, status: u16, seconds: f64) {
        self.capture_requests.get_or_create(&label([("status", &status.to_string())])).inc();
        self.capture_seconds.observe(seconds);
    }

    /// So much waits in the spool.
    pub fn spool(&self, level: Level) {
        self.capture_spool_taps.set(i64::try_from(level.taps).unwrap_or(i64::MAX));
        self.capture_spool_bytes.set(i64::try_from(level.bytes).unwrap_or(i64::MAX));
    }

    /// A message was put aside.
    pub fn quarantined(&self, kind: &str) {
        self.quarantined.get_or_create(&label([("kind", kind)])).inc();
    }

    /// Something contradicted itself.
    pub fn trouble(&self, kind: TroubleKind) {
        self.troubles.get_or_create(&label([("kind", kind.name())])).inc();
    }

    /// A group was committed in so many seconds.
    pub fn committed(&self, seconds: f64) {
        self.commit_seconds.observe(seconds);
    }

    /// A receipt went to the broker's queue, or did not fit.
    pub fn receipt(&self, sent: bool) {
        self.receipts.get_or_create(&label([("result", if sent { "sent" } else { "dropped" })])).inc();
    }

    /// An attempt ended like that.
    pub fn attempt(&self, destination: &str, outcome: &str, seconds: f64) {
        self.attempts.get_or_create(&label([("destination", destination), ("outcome", outcome)])).inc();
        self.delivery_seconds.get_or_create(&label([("destination", destination)])).observe(seconds);
    }

    /// A tap's way has ended, so long after it was made.
    pub fn delivered(&self, end_to_end_seconds: f64) {
        self.end_to_end_seconds.observe(end_to_end_seconds);
    }

    /// A lease had run out before the answer was written down.
    pub fn lost_lease(&self, destination: &str) {
        self.lost_leases.get_or_create(&label([("destination", destination)])).inc();
    }

    /// The store could not do it.
    pub fn store_error(&self, who: Loop) {
        self.store_errors.get_or_create(&label([("loop", who.name())])).inc();
    }

    /// There is another roster.
    pub fn roster(&self, badges: u32) {
        self.roster_badges.set(badges.into());
    }

    /// A part of it went out.
    pub fn roster_message(&self, what: rounds::What) {
        let what = match what {
            rounds::What::Head => "head",
            rounds::What::Chunk(_) => "chunk",
        };
        self.roster_messages.get_or_create(&label([("what", what)])).inc();
    }

    /// The store's totals.
    pub fn totals(&self, totals: &Totals) {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.store_position.set(gauge(totals.last_position));
        self.time_disputed.set(gauge(totals.disputed));
        self.time_unresolved.set(gauge(totals.unresolved));
    }

    /// Deliveries in one state.
    pub fn backlog(&self, destination: &str, state: DeliveryState, count: u64) {
        self.backlog
            .get_or_create(&label([("destination", destination), ("state", state.name())]))
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// One destination's age, and what keeps it back.
    pub fn destination(&self, state: &DestinationState, now: UtcMs) {
        let labels = label([("destination", &state.destination)]);
        let oldest_ms = state.oldest_open_received.map_or(0, |oldest| (now.0 - oldest.0).max(0));
        self.oldest_seconds.get_or_create(&labels).set(oldest_ms as f64 / 1000.0);
        let held = state.held_until.is_some_and(|until| until > now);
        self.held.get_or_create(&labels).set(held.into());
        self.paused.get_or_create(&labels).set(state.paused.is_some().into());
        let is_open = !matches!(state.breaker.state(), breaker::State::Closed { .. });
        self.breaker_open.get_or_create(&labels).set(is_open.into());
    }

    /// How far destinations were told that taps are complete.
    pub fn watermarks(&self, rows: &[WatermarkRow], now: UtcMs) {
        // Who held it back before does so no more.
        self.watermark_held_back.clear();
        self.watermark_lag.clear();
        for row in rows {
            let (destination, name) = (row.destination.as_str(), row.name.as_str());
            let labels = label([("destination", destination), ("watermark", name)]);
            if let Some(lag_ms) = row.lag_ms(now) {
                self.watermark_lag.get_or_create(&labels).set(lag_ms as f64 / 1000.0);
            }
            self.watermark_trouble.get_or_create(&labels).set(row.trouble.is_some().into());
            if let Some(controller) = &row.held_back_by {
                let pairs =
                    [("destination", destination), ("watermark", name), ("controller", controller.as_str())];
                self.watermark_held_back.get_or_create(&label(pairs)).set(1);
            }
        }
    }

    /// What waits for a person at one destination, and what replays have still to begin there.
    pub fn letters(&self, destination: &str, letters: &[Letters], replays: &[ReplayState]) {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for reason in REASONS {
            let is_it = |one: &&Letters| one.destination == destination && one.reason == reason;
            let count = letters.iter().find(is_it).map_or(0, |one| one.count);
            let labels = label([("destination", destination), ("reason", reason)]);
            self.letters.get_or_create(&labels).set(gauge(count));
        }
        let open = replays
            .iter()
            .filter(|one| one.destination == destination && one.standing != ReplayStanding::Cancelled);
        let waiting = open.map(|one| one.counts.waiting).sum();
        self.replay_waiting.get_or_create(&label([("destination", destination)])).set(gauge(waiting));
    }

    /// All controllers' lags.
    pub fn controllers<'a>(&self, lags: impl IntoIterator<Item = (&'a ControllerId, Lag)>) {
        let mut by_cause = [0; Cause::ALL.len()];
        for (controller, lag) in lags {
            let labels = label([("controller", controller.as_str())]);
            self.controller_lag.get_or_create(&labels).set(lag.ms as f64 / 1000.0);
            self.controller_unreceipted
                .get_or_create(&labels)
                .set(i64::try_from(lag.records).unwrap_or(i64::MAX));
            by_cause[lag.cause as usize] += 1;
        }
        for cause in Cause::ALL {
            self.controllers.get_or_create(&label([("cause", cause.name())])).set(by_cause[cause as usize]);
        }
    }

    /// How far this process's clock is ahead of the store's.
    pub fn clock_ahead(&self, ms: i64) {
        self.clock_ahead.set(ms as f64 / 1000.0);
    }

    /// The text for a scrape.
    pub fn render(&self, health: &Health) -> String {
        for which in Loop::ALL {
            let at = health.last_turn(which).unwrap_or(UtcMs(0));
            self.loop_last_turn.get_or_create(&label([("loop", which.name())])).set(at.0 as f64 / 1000.0);
        }
        self.broker_connected.set(health.broker_state().is_ok().into());
        self.intake_active.set((health.intake() == health::Intake::Here).into());
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing to a String does not fail; were it to, an empty scrape would look like a restart.
            let _ = text.write_str("# EOF\n");
        }
        text
    }
}

/// An error with all that caused it, on one line: for logs and reasons.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_every_metric_from_the_start() {
        let metrics = Metrics::new();
        metrics.new_destination("legacy");
        metrics.controllers([]);
        metrics.letters("legacy", &[], &[]);
        metrics.destination(&crate::fixture::destination_state("legacy"), UtcMs(0));
        for state in DeliveryState::ALL {
            metrics.backlog("legacy", state, 0);
        }
        let mut row = WatermarkRow { complete: Some(UtcMs(10_000)), ..WatermarkRow::new("frappe", "Day") };
        for door in ["hq-door-1", "hq-door-2"] {
            row.held_back_by = Some(door.parse().unwrap());
            metrics.watermarks(std::slice::from_ref(&row), UtcMs(100_000));
        }
        let text = metrics.render(&Health::default());
        for line in [
            r#"cloud_ingest_events_total{source="mqtt",result="stored"} 0"#,
            r#"cloud_ingest_events_total{source="http",result="duplicate"} 0"#,
            r#"cloud_ingest_capture_spool_taps 0"#,
            r#"cloud_ingest_quarantined_total{kind="unauthentic"} 0"#,
            r#"cloud_ingest_contradictions_total{kind="twins"} 0"#,
            r#"cloud_ingest_attempts_total{destination="legacy",outcome="timed_out"} 0"#,
            r#"cloud_ingest_delivery_backlog{destination="legacy",state="unknown"} 0"#,
            r#"cloud_ingest_delivery_oldest_seconds{destination="legacy"} 0.0"#,
            r#"cloud_ingest_destination_held{destination="legacy"} 0"#,
            r#"cloud_ingest_deliveries_dead{destination="legacy",reason="refused"} 0"#,
            r#"cloud_ingest_replay_rows_waiting{destination="legacy"} 0"#,
            r#"cloud_ingest_destination_paused{destination="legacy"} 0"#,
            r#"cloud_ingest_destination_breaker_open{destination="legacy"} 0"#,
            r#"cloud_ingest_deliveries_early_total{destination="legacy"} 0"#,
            r#"cloud_ingest_watermark_lag_seconds{destination="frappe",watermark="Day"} 90.0"#,
            r#"cloud_ingest_watermark_held_back{destination="frappe",watermark="Day",controller="hq-door-2"} 1"#,
            r#"cloud_ingest_watermark_trouble{destination="frappe",watermark="Day"} 0"#,
            r#"cloud_ingest_taps_time_disputed 0"#,
            r#"cloud_ingest_deliveries_time_unresolved 0"#,
            r#"cloud_ingest_lost_lease_total{destination="legacy"} 0"#,
            r#"cloud_ingest_controllers{cause="stuck"} 0"#,
            r#"cloud_ingest_loop_last_turn_timestamp_seconds{loop="intake"} 0.0"#,
            r#"cloud_ingest_broker_connected 0"#,
            r#"cloud_ingest_intake_active 0"#,
            r#"cloud_ingest_clock_ahead_seconds 0.0"#,
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("hq-door-1"), "it holds nothing back any more\n{text}");
    }

    #[test]
    fn every_metric_is_described_once_and_counters_are_counters() {
        let metrics = Metrics::new();
        metrics.new_destination("legacy");
        let text = metrics.render(&Health::default());
        let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let mut names: Vec<&str> = types.iter().filter_map(|line| line.split(' ').next()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "a metric is registered twice");
        assert!(types.contains(&"cloud_ingest_attempts counter"), "{types:?}");
        assert!(types.contains(&"cloud_ingest_store_position gauge"), "{types:?}");
    }
}
