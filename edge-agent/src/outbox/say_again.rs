//! What an outbox says is said again in another one: in which words. Pure: knows no file and no cloud.
//!
//! The words, and the other outbox's id (`chain::continued`), depend on nothing but the records themselves. So whoever says the same records again (the same disk put back once
//! more, a clone of it) says them in the same outbox, byte for byte, and the store takes the second telling for a duplicate
//! of the first.

use std::collections::{BTreeMap, BTreeSet};

use tap_protocol::ids::{BootId, Seq};
use tap_protocol::record::{Body, PreviousStop, Record, short_text};

/// Puts one record after the other into the new outbox's terms: boots and taps have other numbers there.
#[derive(Debug)]
pub struct SaidAgain {
    after: Seq,
    /// The old number of each boot, with its new one and what it stands for.
    boots: BTreeMap<u32, (u32, BootId)>,
    named: BTreeSet<u32>,
    /// Records of the old outbox that were taken.
    taken: u64,
    /// Before which of them a record was put in: its own number in the new outbox is so many higher.
    put_in: Vec<Seq>,
}

impl SaidAgain {
    /// Begins after `after`.
    pub fn new(after: Seq, boots: BTreeMap<u32, (u32, BootId)>) -> SaidAgain {
        SaidAgain { after, boots, named: BTreeSet::new(), taken: 0, put_in: Vec::new() }
    }

    /// What the next record of the old outbox becomes; before the first one of a boot whose start is not among them, another
    /// record says which boot it is. A record that this agent cannot read is said again as it is.
    pub fn record(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.taken += 1;
        let seq = self.after.plus(self.taken);
        let Ok(mut record) = Record::decode(bytes) else { return vec![bytes.to_vec()] };
        let known = self.boots.get(&record.at.boot).copied();
        record.at.boot = known.map_or(record.at.boot, |(number, _)| number);
        if let Body::Repeats { seq, .. } = &mut record.body {
            *seq = self.renumbered(*seq);
        }
        let is_start = matches!(record.body, Body::AgentStarted { .. });
        let is_first = self.named.insert(record.at.boot);
        let mut said = Vec::new();
        if let (Some((_, boot_id)), true) = (known, is_first && !is_start) {
            self.put_in.push(seq);
            let body = Body::AgentStarted {
                boot_id,
                version: short_text("said again"),
                previous_stop: PreviousStop::None,
            };
            said.push(Record { at: record.at, body }.encode());
        }
        said.push(record.encode());
        said
    }

    /// Whether the new outbox says which boot that number of its own is.
    pub fn has_named(&self, boot: u32) -> bool {
        self.named.contains(&boot)
    }

    /// A tap's number in the new outbox; zero for one that is not in it.
    fn renumbered(&self, seq: Seq) -> Seq {
        let put_in = self.put_in.iter().take_while(|before| **before <= seq).count() as u64;
        if seq > self.after { Seq(seq.0 - self.after.0 + put_in) } else { Seq::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tap_protocol::record::{ClockState, Stamp};

    fn record(boot: u32, body: Body) -> Vec<u8> {
        Record { at: Stamp { boot, boottime_ms: 5, wall_ms: 6, clock: ClockState::Unsynced }, body }.encode()
    }

    fn reader_up() -> Body {
        Body::ReaderUp { reader: "in".parse().unwrap() }
    }

    fn start(boot: u8, version: &str) -> Body {
        let version = short_text(version);
        Body::AgentStarted { boot_id: BootId([boot; 16]), version, previous_stop: PreviousStop::None }
    }

    fn boots() -> BTreeMap<u32, (u32, BootId)> {
        [(3, (1, BootId([3; 16]))), (4, (2, BootId([4; 16])))].into()
    }

    #[test]
    fn a_boot_whose_start_is_not_among_them_is_named_and_taps_are_renumbered() {
        let mut said = SaidAgain::new(Seq(10), boots());
        let all: Vec<Vec<u8>> = [
            record(3, reader_up()),                          // 11
            record(4, start(4, "0.1.0")),                    // 12
            record(4, reader_up()),                          // 13
            record(4, Body::Repeats { seq: Seq(11), n: 2 }), // 14
            record(4, Body::Repeats { seq: Seq(10), n: 2 }), // 15
        ]
        .iter()
        .flat_map(|bytes| said.record(bytes))
        .collect();
        let expected = [
            record(1, start(3, "said again")),
            record(1, reader_up()),
            record(2, start(4, "0.1.0")),
            record(2, reader_up()),
            record(2, Body::Repeats { seq: Seq(2), n: 2 }),
            record(2, Body::Repeats { seq: Seq(0), n: 2 }),
        ];
        assert_eq!(all, expected);
        assert!(said.has_named(1) && said.has_named(2) && !said.has_named(3));
    }

    #[test]
    fn what_cannot_be_read_is_said_again_as_it_is() {
        let mut said = SaidAgain::new(Seq(10), boots());
        assert_eq!(said.record(&[9, 9]), [vec![9, 9]]);
    }
}
