//! What the cloud asks of this controller, as the loop sees it: which commands are new, and what follows from each. What takes
//! time is done on the thread of [`crate::orders`].

use tap_protocol::command::{Command, Order};
use tap_protocol::ids::OutboxId;
use tap_protocol::receipt::Receipt;
use tap_protocol::report::{Outcome, Report, What};
use tap_protocol::topic::{Channel, Topic};

use super::{Agent, with_causes};
use crate::now::Now;
use crate::orders::{self, Book, Entry, Revoked};
use crate::outbox::worker::Job;
use crate::relay::Verdict;
use crate::status::CommandStatus;

/// An order that is being carried out.
#[derive(Debug)]
pub(super) struct UnderWay {
    number: u64,
    order: &'static str,
    /// The last entry before it.
    before: Option<Entry>,
}

/// The cloud wants this outbox to be left. What a receipt says that answers a hello from after that decides.
#[derive(Debug)]
pub(super) struct WantedOutbox {
    number: u64,
    outbox: OutboxId,
    since_ms: u64,
}

/// What the cloud ordered, and what of it is under way.
#[derive(Debug)]
pub struct Commands {
    orders: orders::Orders,
    book: Book,
    under_way: Option<UnderWay>,
}

impl Commands {
    /// With the book as it was found.
    pub fn new(orders: orders::Orders, book: Book) -> Commands {
        Commands { orders, book, under_way: None }
    }

    /// The last one, for `status`.
    pub(super) fn told(&self) -> Option<CommandStatus> {
        self.book.last.clone().map(|Entry { number, order, outcome, detail }| CommandStatus {
            number,
            order,
            outcome,
            detail,
        })
    }
}

impl Agent {
    pub(super) fn command(&mut self, payload: &[u8], now: &Now) -> Result<(), String> {
        let command = Command::open(payload, &self.setup.controller, &self.identity.control_keys)
            .map_err(|error| with_causes(&error))?;
        let number = command.number;
        let last = self.commands.book.last.as_ref();
        match last.map_or(0, |last| last.number) {
            taken if number < taken => {
                return Err(format!("command {number} is older than {taken}, which was taken already"));
            }
            taken if number == taken && last.is_some() => {
                self.report_last(now);
                return Ok(());
            }
            _ => {}
        }
        // The cloud sends it again with the next hello.
        if self.commands.under_way.is_some() {
            return Ok(());
        }
        let order = name(&command.order);
        tracing::info!(number, order, "the cloud has sent a command");
        self.commands.under_way = Some(UnderWay { number, order, before: self.commands.book.last.clone() });
        match command.order {
            Order::StartNewOutbox { outbox } => self.leave_outbox_if_needed(number, outbox, now),
            Order::RunChecks => self.hand_over(orders::Job::RunChecks { number }),
            Order::FetchKeys => self.hand_over(orders::Job::FetchKeys { number }),
            Order::Revoke => {
                let record_key = self.identity.record_key.public().to_string();
                self.commands.book.revoked = Some(Revoked { number, record_key });
                self.is_revoked_now();
                self.ended(number, Outcome::Done, "no tap is recorded any more".into());
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, job: orders::Job) {
        if !self.commands.orders.submit(job) {
            self.commands.under_way = None;
        }
    }

    /// The thread of orders answered.
    pub(super) fn ordered(&mut self, done: orders::Done, now: &Now) {
        match done {
            orders::Done::Ended { number, outcome, detail } => self.ended(number, outcome, detail),
            orders::Done::Noted(book) => {
                self.problems.remove("orders");
                let is_last = self.commands.under_way.as_ref().map(|under_way| under_way.number)
                    == book.last.as_ref().map(|last| last.number);
                if is_last {
                    self.commands.under_way = None;
                    self.report_last(now);
                }
            }
            orders::Done::NotNoted(error) => {
                let why = with_causes(&error);
                tracing::error!(why, "a command was carried out and could not be noted; it will come again");
                self.problems.insert("orders", why);
                // What was done holds; that it was done is not told before it is noted.
                self.commands.book.last = self.commands.under_way.take().and_then(|order| order.before);
            }
        }
    }

    /// An order was carried out, or not: that is noted before it is told.
    fn ended(&mut self, number: u64, outcome: Outcome, detail: String) {
        let Some(under_way) = self.commands.under_way.as_ref().filter(|order| order.number == number) else {
            return;
        };
        let order = under_way.order;
        tracing::info!(number, order, ?outcome, detail, "a command came to its end");
        let entry = Entry { number, order: order.into(), outcome, detail: orders::fit(detail) };
        self.commands.book.last = Some(entry);
        self.hand_over(orders::Job::Note(self.commands.book.clone()));
    }

    fn report_last(&mut self, now: &Now) {
        let (Some(session), Some(last)) = (&self.session, &self.commands.book.last) else { return };
        let what =
            What::CommandDone { number: last.number, outcome: last.outcome, detail: last.detail.clone() };
        let (controller, boot_id) = (self.setup.controller.clone(), self.setup.boot_id);
        let report = Report { controller, boot_id, boottime_ms: now.boottime_ms, what };
        // What finds no room is told when the cloud asks again.
        let topic = Topic::new(&self.setup.controller, Channel::Report);
        let _ = session.try_publish(&topic, report.sign(&self.identity.record_key));
    }

    // Another outbox.

    fn leave_outbox_if_needed(&mut self, number: u64, outbox: OutboxId, now: &Now) {
        let Some(view) = self.shelf.iter().find(|view| view.id == outbox) else {
            return self.ended(number, Outcome::Refused, format!("there is no outbox {outbox} here"));
        };
        if view.is_settled {
            let detail = format!("what follows record {} is said in another outbox already", view.last_seq);
            return self.ended(number, Outcome::Done, detail);
        }
        if !view.is_sound {
            let detail = "it was damaged and is being salvaged: it waits for the cloud's word".into();
            return self.ended(number, Outcome::Refused, detail);
        }
        self.wanted = Some(WantedOutbox { number, outbox, since_ms: now.boottime_ms });
        self.relay.hello_now(now.boottime_ms);
    }

    /// The cloud's word about the outbox that it wants to be left.
    pub(super) fn wanted_outbox_judged(&mut self, receipt: &Receipt, verdict: Verdict, now: &Now) {
        let Some(wanted) = &self.wanted else { return };
        let answers = receipt
            .echo
            .is_some_and(|echo| echo.boot_id == self.setup.boot_id && echo.boottime_ms >= wanted.since_ms);
        if receipt.outbox != wanted.outbox || !answers {
            return;
        }
        match verdict {
            // It is being settled.
            Verdict::Rewound | Verdict::Forked => {}
            Verdict::HistoryGone => {
                let Some(view) = self.shelf.iter().find(|view| view.id == receipt.outbox) else { return };
                tracing::warn!(outbox = %view.id, after = view.pruned_through.0, "the cloud lacks what is deleted here: all that is kept is said again in another outbox, as the cloud asked");
                let (rewound, after) = (view.id, view.pruned_through);
                self.problems.remove("history");
                self.leave(Job::StartNew { rewound, after, epoch: None, now: *now });
            }
            Verdict::Advanced(_) | Verdict::Restored(_) | Verdict::Nothing | Verdict::Foreign => {
                let number = wanted.number;
                self.wanted = None;
                let detail =
                    "the cloud has a part of this outbox and nothing else: there is no reason to leave it";
                self.ended(number, Outcome::Refused, detail.into());
            }
        }
    }

    /// An outbox was left.
    pub(super) fn wanted_outbox_left(&mut self, outbox: OutboxId) {
        let view = self.shelf.iter().find(|view| view.id == outbox);
        if let Some(wanted) = self.wanted.take_if(|wanted| wanted.outbox == outbox) {
            let after = view.map_or(0, |view| view.last_seq.0);
            let detail = format!("what follows record {after} is said in another outbox");
            self.ended(wanted.number, Outcome::Done, detail);
        }
    }

    // Revoked.

    /// Out of service, if the key that this controller signs with was put out of trust.
    pub(super) fn is_revoked_now(&mut self) {
        let Some(revoked) = &self.commands.book.revoked else { return };
        if revoked.record_key != self.identity.record_key.public().to_string() {
            return;
        }
        let why = "the cloud has revoked this controller: no tap is recorded, and what was recorded before is still offered. Enrol it again, or take it away";
        tracing::error!(number = revoked.number, "{why}");
        self.problems.insert("revoked", why.into());
        self.service.revoke();
    }

    /// Why no tap is recorded here any more, if so.
    pub(super) fn revoked(&self) -> bool {
        self.service.is_revoked()
    }
}

fn name(order: &Order) -> &'static str {
    match order {
        Order::StartNewOutbox { .. } => "start_new_outbox",
        Order::RunChecks => "run_checks",
        Order::FetchKeys => "fetch_keys",
        Order::Revoke => "revoke",
    }
}
