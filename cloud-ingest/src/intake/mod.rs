//! Steps 7 and 8 of 12: how records come in, and which of them are stored.

use tokio::sync::mpsc;

pub mod admit;
pub mod holding;
pub mod lease;
pub mod mqtt;
mod revoked;
pub mod roster;
pub mod twins;
pub mod verify;
pub mod worker;

/// Messages that wait for the worker. A broker with sensible limits has far fewer on their way to one client; with an
/// unlimited one this bounds our memory (256 × 64 KiB).
pub const MAX_WAITING: usize = 256;

/// What the broker's connection hands to the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromBroker {
    /// A new session: whatever was not acknowledged before will come again.
    Connected,
    /// A message, not yet acknowledged.
    Message(Message),
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Under which topic.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// How to acknowledge it; `None` if the sender asked for no acknowledgement.
    pub ticket: Option<Ticket>,
}

/// The right to acknowledge one message on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Connections are counted: a number of one connection means nothing, or something else, on the next.
    pub connection: u64,
    /// The broker's number for the message.
    pub packet_id: u16,
}

/// The worker's side of the broker. Never waits.
pub trait BrokerLink: Send + Sync + 'static {
    /// Acknowledges, if the connection is still the same; otherwise the broker sends the message again anyway.
    fn acknowledge(&self, ticket: Ticket);

    /// Hands a message to the connection; `false` if it is down or has no room.
    fn publish(&self, topic: String, payload: Vec<u8>) -> bool;
}

/// The worker's inbox.
pub fn inbox() -> (mpsc::Sender<FromBroker>, mpsc::Receiver<FromBroker>) {
    mpsc::channel(MAX_WAITING)
}
