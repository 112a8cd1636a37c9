//! Connections between the broker and its clients: in order within one connection, each direction with its own delay and
//! its own end. Knows packets as boxes that it carries; nothing of what is in them.

use std::rc::Rc;

use crate::dice::Dice;

/// Somebody who connects to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// A door controller, by number.
    Door(usize),
    /// cloud-ingest.
    Cloud,
}

/// A connection's number. No number is given twice.
pub type ConnNo = usize;

/// A message as it was published.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number, for the oracle. No number is given twice.
    pub no: u64,
    /// Under which topic.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
}

/// The packets of MQTT 3.1.1 that matter here.
#[derive(Debug, Clone)]
pub enum Packet {
    /// A client introduces itself.
    Connect,
    /// The broker lets it in; its subscriptions hold.
    ConnAck,
    /// A message under a packet id, at least once.
    Publish(u16, Rc<Message>),
    /// It was taken.
    PubAck(u16),
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the broker.
    Up,
    /// To the client.
    Down,
}

/// All connections that ever were.
#[derive(Debug, Default)]
pub struct Net {
    conns: Vec<Conn>,
    /// Packets take this much longer until then.
    pub slow: (u64, u64),
    /// No new connection of the cloud's or a door's gets through until then.
    pub out: Vec<(Client, u64)>,
}

#[derive(Debug)]
struct Conn {
    client: Client,
    /// Up and down: whether packets still get through.
    open: [bool; 2],
    /// Up and down: when the last packet arrives.
    busy_until_ms: [u64; 2],
}

impl Net {
    /// A new connection.
    pub fn open(&mut self, client: Client) -> ConnNo {
        self.conns.push(Conn { client, open: [true; 2], busy_until_ms: [0; 2] });
        self.conns.len() - 1
    }

    /// Whose it is.
    pub fn client(&self, conn: ConnNo) -> Client {
        self.conns[conn].client
    }

    /// Whether packets get through that way.
    pub fn is_open(&self, conn: ConnNo, way: Way) -> bool {
        self.conns[conn].open[way as usize]
    }

    /// From now on nothing gets through that way, not even what is under way.
    pub fn close(&mut self, conn: ConnNo, way: Way) {
        self.conns[conn].open[way as usize] = false;
    }

    /// When a packet sent now arrives: behind all that were sent before it.
    pub fn arrival_ms(&mut self, conn: ConnNo, way: Way, now_ms: u64, dice: &mut Dice) -> u64 {
        let extra_ms = if now_ms < self.slow.1 { dice.below(self.slow.0 + 1) } else { 0 };
        let busy_until_ms = &mut self.conns[conn].busy_until_ms[way as usize];
        *busy_until_ms = (now_ms + dice.between(1, 40) + extra_ms).max(*busy_until_ms);
        *busy_until_ms
    }

    /// Whether a new connection gets through.
    pub fn lets_in(&self, client: Client, now_ms: u64) -> bool {
        !self.out.iter().any(|(out, until_ms)| *out == client && now_ms < *until_ms)
    }
}
