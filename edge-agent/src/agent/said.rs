//! Beside the line: what the loop knows of its readers, and what it says of itself in `status`.

use std::collections::BTreeMap;

use tap_protocol::hello::{ReaderKind, ReaderState};
use tap_protocol::ids::ReaderName;

use super::{Agent, Reader};
use crate::now::Now;
use crate::outbox::worker::OutboxView;
use crate::reader::{ReaderProgress, RecoveryStep};
use crate::status::{BrokerStatus, Counters, OutboxStatus, ReaderStatus, Status};

impl Agent {
    pub(super) fn reader_named(&mut self, name: &ReaderName) -> Option<&mut Reader> {
        self.readers.iter_mut().find(|reader| reader.name == *name)
    }

    /// Returns whether that is a change.
    pub(super) fn reader_is_now(&mut self, name: &ReaderName, state: ReaderState, detail: String) -> bool {
        let Some(reader) = self.reader_named(name) else { return false };
        let changed = reader.state != state;
        (reader.state, reader.detail) = (state, detail);
        changed
    }

    /// Counts something that gave no tap, and logs it once with a bound.
    pub(super) fn reject(&mut self, name: &ReaderName, kind: &'static str, why: &str, now: &Now) {
        if let Some(reader) = self.reader_named(name) {
            *reader.rejected.entry(kind.to_owned()).or_default() += 1;
        }
        if let Some(count) = self.complaints.due(kind, now.boottime_ms) {
            tracing::warn!(reader = %name, why, count, "no tap");
        }
    }

    pub(super) fn status(&self, now: &Now) -> Status {
        let age = |at_ms: u64| now.boottime_ms.saturating_sub(at_ms);
        let reader_problems = self.readers.iter().filter(|reader| reader.state == ReaderState::Down);
        let problems = reader_problems.map(|reader| format!("reader {}: {}", reader.name, reader.detail));
        let link_problem =
            self.link_why.iter().map(|why| format!("broker {}: {why}", self.setup.broker_address));
        Status {
            controller: self.setup.controller.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            instance: format!("{}-{}", self.setup.boot_id, self.started_ms),
            uptime_ms: age(self.started_ms),
            boot_id: self.setup.boot_id,
            clock: now.clock,
            broker: BrokerStatus {
                connected: self.session.is_some(),
                address: self.setup.broker_address.clone(),
                why: self.link_why.clone(),
                sessions: self.sessions,
                last_receipt_age_ms: self.last_receipt_ms.map(age),
            },
            outboxes: self.shelf.iter().map(OutboxStatus::from).collect(),
            pending: self.relay.pending(),
            oldest_unreceipted_age_ms: self.ages.oldest_ms(now.boottime_ms),
            readers: self.readers.iter().map(|reader| reader.status(now.boottime_ms)).collect(),
            roster: self.roster_status(now),
            roster_fetch: self.roster_fetch(),
            settled: self.settled.clone(),
            last_command: self.commands.told(),
            counters: Counters { log_lines_dropped: crate::log::dropped_lines(), ..self.counters.clone() },
            problems: problems.chain(link_problem).chain(self.problems.values().cloned()).collect(),
        }
    }
}

impl Reader {
    pub(super) fn new(name: &ReaderName, kind: ReaderKind) -> Reader {
        Reader {
            name: name.clone(),
            kind,
            state: ReaderState::Starting,
            detail: "starting".into(),
            taps: 0,
            last_tap_ms: None,
            last_tap: None,
            rejected: BTreeMap::new(),
            odd: BTreeMap::new(),
            progress: None,
        }
    }

    pub(super) fn status(&self, now_ms: u64) -> ReaderStatus {
        ReaderStatus {
            reader: self.name.clone(),
            kind: self.kind,
            state: self.state,
            detail: self.detail.clone(),
            taps: self.taps,
            last_tap_age_ms: self.last_tap_ms.map(|at_ms| now_ms.saturating_sub(at_ms)),
            rejected: self.rejected.clone(),
            odd: self.odd.clone(),
            recoveries: self.progress.as_deref().map(recoveries).unwrap_or_default(),
        }
    }
}

fn recoveries(progress: &ReaderProgress) -> BTreeMap<String, u64> {
    RecoveryStep::ALL.map(|step| (step.name().to_owned(), progress.recoveries(step))).into()
}

impl From<&OutboxView> for OutboxStatus {
    fn from(view: &OutboxView) -> OutboxStatus {
        OutboxStatus {
            outbox: view.id,
            last_seq: view.last_seq.0,
            receipted_through: view.mark.receipted_through.0,
            pruned_through: view.pruned_through.0,
        }
    }
}
