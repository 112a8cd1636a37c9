//! What follows when an outbox and the store go apart, as the loop sees it: questions to the cloud, then another outbox. Where
//! they go apart, [`Settlement`](crate::settlement::Settlement) says.

use tap_protocol::chain::ChainHash;
use tap_protocol::ids::OutboxId;
use tap_protocol::receipt::Receipt;
use tap_protocol::report::{Report, What};
use tap_protocol::topic::{Channel, Topic};

use super::Agent;
use crate::now::Now;
use crate::outbox::worker::Job;
use crate::relay::Verdict;
use crate::settlement::{Heard, Here, How, Settled, Step};
use crate::status::SettledStatus;

/// So many settlements are told in `status`, the latest.
const MAX_TOLD: usize = 8;

impl Agent {
    /// Takes a receipt about an outbox that is being settled. Whether it was one.
    pub(super) fn settlement_hears(&mut self, receipt: &Receipt, own: Option<ChainHash>) -> bool {
        match self.settlement.receipt(receipt, own) {
            Heard::NotMine => false,
            Heard::Taken => true,
            Heard::Over => {
                tracing::info!(outbox = %receipt.outbox, "the cloud was restored while it was asked what it has");
                self.problems.remove("fork");
                false
            }
        }
    }

    /// A receipt contradicts an outbox: where do they go apart?
    pub(super) fn goes_apart(&mut self, receipt: &Receipt, verdict: Verdict, now: &Now) {
        let Some(view) = self.shelf.iter().find(|view| view.id == receipt.outbox) else { return };
        let mark = (view.mark.receipted_through, view.mark.store_epoch);
        let here = Here { floor: view.pruned_through, last: view.last_seq, mark };
        let found = match verdict {
            Verdict::Rewound => {
                "this disk was put back to an older state, or another controller has a copy of it"
            }
            _ => {
                "the cloud has other records under this outbox's numbers: an older state of this disk was put back, or another controller has a copy of it"
            }
        };
        let (outbox, through) = (receipt.outbox, receipt.stored_through);
        if self.settlement.outbox().is_none() {
            tracing::error!(%outbox, last = here.last.0, through = through.0, "{found}. Taps go on; looking for the last record that both have");
            self.problems.insert("fork", format!("outbox {outbox}: {found}. Looking for the last record that both have; taps are recorded meanwhile"));
        } else if let Some(count) = self.complaints.due("fork", now.boottime_ms) {
            tracing::error!(%outbox, count, "{found}. It waits until another outbox is settled");
        }
        self.settlement.begin(receipt, here);
    }

    fn may_settle(&self) -> bool {
        self.session.is_some() && self.starting_new.is_none() && self.shelf.iter().all(|view| view.is_sound)
    }

    pub(super) fn settlement_wakes_at_ms(&self) -> Option<u64> {
        self.settlement.wake_at_ms().filter(|_| self.may_settle())
    }

    pub(super) fn settle_what_is_due(&mut self, now: &Now) {
        let Some(session) = self.session.as_ref().filter(|_| self.may_settle()) else { return };
        match self.settlement.next(now.boottime_ms) {
            None => {}
            Some(Step::Ask { outbox, seqs, is_repeated }) => {
                let what = What::HashesWanted { outbox, seqs };
                let controller = self.setup.controller.clone();
                let boottime_ms = now.boottime_ms;
                let report = Report { controller, boot_id: self.setup.boot_id, boottime_ms, what };
                // What finds no room is asked again.
                let topic = Topic::new(&self.setup.controller, Channel::Report);
                let _ = session.try_publish(&topic, report.sign(&self.identity.record_key));
                if is_repeated {
                    self.relay.hello_now(now.boottime_ms);
                }
            }
            Some(Step::Settle(settled)) => self.settle(settled, now),
        }
    }

    fn settle(&mut self, settled: Settled, now: &Now) {
        let Settled { outbox, after, how } = settled;
        let (epoch, means) = match how {
            How::Exact(epoch) => {
                (Some(epoch), "the cloud has these, and exactly what follows is sent again in another outbox")
            }
            How::BeforeWhatIsKept => (
                None,
                "the cloud has others even before what is still kept here: all that is kept is sent again in another outbox, and somebody must look whether something is missing before that",
            ),
            How::Unanswered => (
                None,
                "the cloud does not answer what it has, so all without a receipt is sent again in another outbox: some of it may be there twice",
            ),
        };
        tracing::warn!(%outbox, after = after.0, "{means}");
        self.problems.remove("fork");
        if let How::BeforeWhatIsKept = how {
            self.problems.insert("history", format!("outbox {outbox}, before record {}: {means}", after.0));
        }
        self.counters.outboxes_settled += 1;
        if self.settled.len() == MAX_TOLD {
            self.settled.remove(0);
        }
        self.settled.push(SettledStatus { outbox, after: after.0, means: means.into() });
        self.leave(Job::StartNew { rewound: outbox, after, epoch, now: *now });
    }

    /// Gives the outbox's thread the order to begin another one. Without room the next receipt gives reason again.
    pub(super) fn leave(&mut self, job: Job) {
        if let Job::StartNew { rewound, .. } = job {
            self.starting_new = self.outbox.submit(job).is_ok().then_some(rewound);
        }
    }

    /// The outbox's thread is done with it.
    pub(super) fn left(&mut self, outbox: OutboxId, is_done: bool, now: &Now) {
        self.starting_new = None;
        if !is_done {
            return;
        }
        let newest = self.shelf.last().map(|view| view.id);
        let view = self.shelf.iter().find(|view| view.id == outbox && !view.is_retired);
        // Also where nothing had to be said again: the cloud has all that this one says, and more of somebody else's.
        if let Some(view) = view.filter(|view| newest != Some(view.id) && view.is_sound) {
            self.relay.settled(view.id, view.last_seq, view.mark);
        }
        self.wanted_outbox_left(outbox);
        // The cloud learns of the new one, and of what else is to be settled.
        self.relay.hello_now(now.boottime_ms);
    }
}
