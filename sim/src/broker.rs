//! A broker as MQTT 3.1.1 allows it to be: at least once, in order within a session, and with a bad memory. Doors have
//! clean sessions, the cloud a persistent one whose queue has a limit beyond which it drops in silence. Knows topics; it
//! cannot read what it carries.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tap_protocol::topic::{Channel, Topic};

use crate::net::{Client, ConnNo, Message, Packet, Way};
use crate::stage::{Event, Stage};

/// Messages on their way to one client without a PUBACK (Mosquitto's default).
const MAX_IN_FLIGHT: usize = 20;

/// Messages that wait for one client (a tenth of Mosquitto's default, to see it full).
pub const MAX_QUEUED: usize = 100;

/// The broker.
#[derive(Debug)]
pub struct Broker {
    /// Whether it runs.
    pub up: bool,
    /// So many messages wait for the cloud at most.
    pub queue_limit: usize,
    /// The next redelivery comes in another order.
    pub shuffles: bool,
    /// Messages go out twice until then.
    pub doubles_until_ms: u64,
    /// So many more messages are changed on their way to the cloud.
    pub tamper: u32,
    /// Who is connected, and how.
    conns: BTreeMap<Client, ConnNo>,
    /// The cloud's session, once it has been here.
    session: Option<PersistentSession>,
    next_id: u16,
    /// Receipts that were passed on: an old one may come again.
    old_receipts: VecDeque<(usize, Rc<Message>)>,
}

#[derive(Debug, Default)]
struct PersistentSession {
    in_flight: VecDeque<(u16, Rc<Message>)>,
    queue: VecDeque<Rc<Message>>,
}

/// The name of door number `door`.
pub fn door_name(door: usize) -> String {
    format!("hq-door-{}", door + 1)
}

fn door_number(topic: &Topic) -> Option<usize> {
    topic.controller.as_str().strip_prefix("hq-door-")?.parse::<usize>().ok()?.checked_sub(1)
}

impl Broker {
    /// A broker that has seen nobody yet.
    pub fn new() -> Broker {
        Broker {
            up: true,
            queue_limit: MAX_QUEUED,
            shuffles: false,
            doubles_until_ms: 0,
            tamper: 0,
            conns: BTreeMap::new(),
            session: None,
            next_id: 0,
            old_receipts: VecDeque::new(),
        }
    }

    /// A packet arrived.
    pub fn packet(&mut self, stage: &mut Stage, conn: ConnNo, packet: Packet) {
        let client = stage.net.client(conn);
        if !self.up || (!matches!(packet, Packet::Connect) && self.conns.get(&client) != Some(&conn)) {
            return;
        }
        match packet {
            Packet::Connect => self.connect(stage, client, conn),
            Packet::Publish(id, message) => {
                self.route(stage, &message);
                stage.send(conn, Way::Down, Packet::PubAck(id));
            }
            Packet::PubAck(id) => {
                if let (Client::Cloud, Some(session)) = (client, &mut self.session) {
                    session.in_flight.retain(|(sent, _)| *sent != id);
                    self.pump(stage);
                }
            }
            Packet::ConnAck => {}
        }
    }

    /// A connection is seen to be gone: it was not said goodbye, so its last will is published.
    pub fn notices(&mut self, stage: &mut Stage, conn: ConnNo) {
        let client = stage.net.client(conn);
        stage.net.close(conn, Way::Up);
        stage.net.close(conn, Way::Down);
        if self.conns.get(&client) != Some(&conn) {
            return;
        }
        self.conns.remove(&client);
        if let Client::Door(door) = client {
            let topic = format!("tap/v1/{}/{}", door_name(door), Channel::Gone.name());
            let will = stage.message(topic, Vec::new());
            self.route(stage, &will);
        }
    }

    /// It forgets the cloud's session and what waits in it.
    pub fn forget_session(&mut self, stage: &mut Stage) {
        let lost = self.session.take().map_or(0, |session| session.queue.len() + session.in_flight.len());
        stage.tally.add("messages lost with a session", lost as u64);
        if let Some(conn) = self.conns.remove(&Client::Cloud) {
            stage.cut(conn, 1_000);
        }
    }

    /// It stops, and forgets everything.
    pub fn restart(&mut self, stage: &mut Stage, down_ms: u64) {
        self.forget_session(stage);
        for conn in std::mem::take(&mut self.conns).into_values() {
            stage.cut(conn, 1_000);
        }
        self.up = false;
        stage.after(down_ms, Event::BrokerUp);
    }

    /// Publishes an old receipt once more, if there is one.
    pub fn repeat_receipt(&mut self, stage: &mut Stage) {
        if self.old_receipts.is_empty() {
            return;
        }
        let which = stage.dice.below(self.old_receipts.len() as u64) as usize;
        let (door, message) = self.old_receipts[which].clone();
        self.pass_to_door(stage, door, &message);
    }

    /// The connection of a client, if it has one.
    pub fn conn(&self, client: Client) -> Option<ConnNo> {
        self.conns.get(&client).copied()
    }

    fn connect(&mut self, stage: &mut Stage, client: Client, conn: ConnNo) {
        if let Some(old) = self.conns.insert(client, conn) {
            stage.cut(old, 100);
        }
        stage.send(conn, Way::Down, Packet::ConnAck);
        if client == Client::Cloud {
            let session = self.session.get_or_insert_default();
            if std::mem::take(&mut self.shuffles) && session.in_flight.len() > 1 {
                session.in_flight.rotate_left(1);
                stage.tally.count("redeliveries out of order");
            }
            for (id, message) in session.in_flight.clone() {
                stage.tally.count("redeliveries");
                stage.publish(conn, Way::Down, id, &message);
            }
            self.pump(stage);
        }
    }

    /// Anybody may write anywhere: what an ACL would refuse must not do harm.
    pub fn route(&mut self, stage: &mut Stage, message: &Rc<Message>) {
        let Ok(topic) = message.topic.parse::<Topic>() else { return };
        match topic.channel {
            Channel::Records | Channel::Hello | Channel::Gone | Channel::Report => {
                self.pass_to_cloud(stage, message);
                if stage.now_ms < self.doubles_until_ms && stage.dice.percent(50) {
                    stage.tally.count("messages doubled by the broker");
                    self.pass_to_cloud(stage, message);
                }
            }
            Channel::Receipt => {
                if let Some(door) = door_number(&topic) {
                    self.old_receipts.truncate(15);
                    self.old_receipts.push_front((door, Rc::clone(message)));
                    self.pass_to_door(stage, door, message);
                }
            }
            Channel::Roster | Channel::Command => {}
        }
    }

    fn pass_to_door(&mut self, stage: &mut Stage, door: usize, message: &Rc<Message>) {
        if let Some(conn) = self.conn(Client::Door(door)) {
            self.next_id = self.next_id.wrapping_add(1);
            stage.publish(conn, Way::Down, self.next_id, message);
        }
    }

    fn pass_to_cloud(&mut self, stage: &mut Stage, message: &Rc<Message>) {
        let mut message = Rc::clone(message);
        if self.tamper > 0 && !message.payload.is_empty() {
            self.tamper -= 1;
            let mut payload = message.payload.clone();
            let at = stage.dice.below(payload.len() as u64) as usize;
            payload[at] ^= 1 << stage.dice.below(8);
            stage.tally.count("messages tampered with");
            message = stage.message(message.topic.clone(), payload);
        }
        let Some(session) = &mut self.session else {
            stage.tally.count("messages nobody subscribed to");
            return;
        };
        if session.queue.len() >= self.queue_limit {
            stage.tally.count("messages dropped by a full queue");
            return;
        }
        session.queue.push_back(message);
        self.pump(stage);
    }

    fn pump(&mut self, stage: &mut Stage) {
        let (Some(session), Some(conn)) = (&mut self.session, self.conns.get(&Client::Cloud)) else { return };
        while session.in_flight.len() < MAX_IN_FLIGHT
            && let Some(message) = session.queue.pop_front()
        {
            self.next_id = self.next_id.wrapping_add(1);
            stage.publish(*conn, Way::Down, self.next_id, &message);
            session.in_flight.push_back((self.next_id, message));
        }
    }
}

impl Default for Broker {
    fn default() -> Broker {
        Broker::new()
    }
}
