//! What all actors share: virtual time, the queue of what will happen, chance, the network, and the oracle that watches.
//! Knows no actor.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use cloud_ingest::event_store::UtcMs;
use tap_protocol::receipt::Receipt;

use crate::bait::Bait;
use crate::dice::Dice;
use crate::disk::TapNo;
use crate::fault::Fault;
use crate::net::{Client, ConnNo, Message, Net, Packet, Way};
use crate::oracle::Oracle;
use crate::tally::Tally;
use crate::trace::Trace;

/// True time at the beginning of every run: 2026-03-02 06:00:00 UTC.
pub const BEGINNING_UTC_MS: i64 = 1_772_431_200_000;

/// Everything that can happen. Actors are named by number and *run*: what was meant for an earlier run of a process is
/// not for the next one.
#[derive(Debug)]
pub enum Event {
    /// A card is held to a door's reader.
    Card {
        /// Which door.
        door: usize,
        /// Which badge.
        badge: usize,
        /// At the reader inwards.
        inwards: bool,
    },
    /// Something happens to a door's agent.
    Door {
        /// Which.
        door: usize,
        /// In which run.
        run: u32,
        /// What.
        what: DoorEvent,
    },
    /// A packet arrives.
    Packet(ConnNo, Way, Packet),
    /// The client notices that its connection is gone.
    ClientNotices(ConnNo),
    /// A client gives a connection up that was not answered.
    GivesUp(ConnNo),
    /// The broker notices that a connection is gone.
    BrokerNotices(ConnNo),
    /// The broker is back.
    BrokerUp,
    /// The intake starts, connects or takes its next step.
    Intake(u32, IntakeEvent),
    /// The dispatcher starts, takes a turn, or one of its calls goes on.
    Dispatch(u32, DispatchEvent),
    /// A request reaches the legacy API.
    Request {
        /// Of which run of the dispatcher.
        run: u32,
        /// Which call.
        call: u64,
        /// Its idempotency key.
        key: String,
    },
    /// A door is without power for so long.
    PowerBlip {
        /// Which door.
        door: usize,
        /// For how long.
        dark_ms: u64,
    },
    /// A door is without a network for so long.
    DoorAway {
        /// Which door.
        door: usize,
        /// For how long.
        for_ms: u64,
    },
    /// Something breaks.
    Fault(Fault),
    /// A card and its copy take turns.
    TwinsTurn {
        /// Whose.
        door: usize,
    },
    /// Everything is whole again.
    Heal,
    /// Time to look whether all is done.
    Look,
}

/// What can happen to a door's agent.
#[derive(Debug)]
pub enum DoorEvent {
    /// The process starts.
    Start,
    /// Time has passed.
    Wake,
    /// The outbox's thread has finished what it had in hand.
    DiskDone,
    /// The next attempt to connect.
    Connect,
}

/// What can happen to the intake.
#[derive(Debug)]
pub enum IntakeEvent {
    /// The process starts.
    Start,
    /// The next attempt to connect.
    Connect,
    /// The next step of the work in hand.
    Step,
}

/// What can happen to the dispatcher.
#[derive(Debug)]
pub enum DispatchEvent {
    /// The process starts.
    Start,
    /// A turn of its loop; only the last one that was planned counts.
    Turn(u64),
    /// A claimed delivery is to be sent.
    Send(u64),
    /// The legacy API answers: status, `Retry-After` in seconds, body.
    Answer(u64, u16, Option<u64>, String),
    /// No connection.
    Unreachable(u64),
    /// The connection broke after the request was sent.
    BrokenOff(u64),
    /// No answer in time.
    TimedOut(u64),
}

/// What the outbox's thread is asked for, as `edge_agent::outbox::worker::Job`.
#[derive(Debug)]
pub enum Job {
    /// Commit records: body as encoded later, when the outbox is known.
    Append(crate::edge::Pending),
    /// Read a batch.
    Read(tap_protocol::ids::OutboxId, tap_protocol::ids::Seq),
    /// Look up our hash for a receipt.
    HashAt(Box<Receipt>),
    /// Receipts go this far.
    SetMark(tap_protocol::ids::OutboxId, edge_agent::relay::Mark),
    /// Write marks, prune.
    Housekeep,
    /// Leave an outbox that was settled.
    StartNew(edge_agent::settlement::Settled, edge_agent::now::Now),
}

/// The shared part of the world.
pub struct Stage {
    /// Virtual milliseconds since the beginning.
    pub now_ms: u64,
    /// Chance.
    pub dice: Dice,
    /// The trace.
    pub trace: Trace,
    /// Counters.
    pub tally: Tally,
    /// Who knows the truth.
    pub oracle: Oracle,
    /// Connections.
    pub net: Net,
    /// The planted bug, if any.
    pub bait: Option<Bait>,
    queue: BTreeMap<(u64, u64), Event>,
    next_no: u64,
    next_message: u64,
}

impl Stage {
    /// An empty stage.
    pub fn new(seed: u64, bait: Option<Bait>, print: bool) -> Stage {
        Stage {
            now_ms: 0,
            dice: Dice::new(seed),
            trace: Trace::new(print),
            tally: Tally::default(),
            oracle: Oracle::default(),
            net: Net::default(),
            bait,
            queue: BTreeMap::new(),
            next_no: 0,
            next_message: 0,
        }
    }

    /// True time.
    pub fn utc(&self) -> UtcMs {
        UtcMs(BEGINNING_UTC_MS + self.now_ms as i64)
    }

    /// Whether this bug is planted.
    pub fn has(&self, bait: Bait) -> bool {
        self.bait == Some(bait)
    }

    /// Plans something `delay_ms` from now, behind everything that is planned for that moment.
    pub fn after(&mut self, delay_ms: u64, event: Event) {
        self.at(self.now_ms + delay_ms, event);
    }

    /// Plans something for a moment.
    pub fn at(&mut self, at_ms: u64, event: Event) {
        self.queue.insert((at_ms, self.next_no), event);
        self.next_no += 1;
    }

    /// The next thing that happens; time moves on to it.
    pub fn next_event(&mut self) -> Option<Event> {
        let ((at_ms, _), event) = self.queue.pop_first()?;
        self.now_ms = at_ms;
        Some(event)
    }

    /// Sends a packet on its way, if there still is one.
    pub fn send(&mut self, conn: ConnNo, way: Way, packet: Packet) {
        if self.net.is_open(conn, way) {
            let at_ms = self.net.arrival_ms(conn, way, self.now_ms, &mut self.dice);
            self.at(at_ms, Event::Packet(conn, way, packet));
        }
    }

    /// A message that was never sent before.
    pub fn message(&mut self, topic: String, payload: Vec<u8>) -> Rc<Message> {
        self.next_message += 1;
        Rc::new(Message { no: self.next_message, topic, payload })
    }

    /// Publishes under a packet id.
    pub fn publish(&mut self, conn: ConnNo, way: Way, id: u16, message: &Rc<Message>) {
        self.send(conn, way, Packet::Publish(id, Rc::clone(message)));
    }

    /// Ends a connection both ways; both sides notice within `notice_ms`.
    pub fn cut(&mut self, conn: ConnNo, notice_ms: u64) {
        self.net.close(conn, Way::Up);
        self.net.close(conn, Way::Down);
        let (client_ms, broker_ms) = (self.dice.below(notice_ms + 1), self.dice.below(notice_ms + 1));
        self.after(client_ms, Event::ClientNotices(conn));
        self.after(broker_ms, Event::BrokerNotices(conn));
    }

    /// Adds a line to the trace.
    pub fn say(&mut self, who: fmt::Arguments<'_>, what: fmt::Arguments<'_>) {
        self.trace.say(self.now_ms, who, what);
    }

    /// A new tap: the oracle numbers it.
    pub fn tap_read(&mut self, door: usize) -> TapNo {
        let utc = self.utc();
        self.oracle.read(door, utc)
    }

    /// `client`'s packets and connections do not get through until then.
    pub fn shut_out(&mut self, client: Client, for_ms: u64) {
        let until_ms = self.now_ms + for_ms;
        self.net.out.push((client, until_ms));
    }
}
