//! Step 7 of 12: the broker's connection. Knows packets, not taps: publishes go to the worker unread, and nothing is
//! acknowledged but what the worker says.
//!
//! One task owns the connection. It polls, and while all is well it waits for nothing else. Three things follow from
//! the library's rules (rumqttc-v4-next 0.34, read in its source):
//!
//! - **`poll` reconnects at once**, so after each error this task waits, longer each time.
//! - **An acknowledgement that belongs to an earlier connection ends the current one** ("unsolicited"), or worse, fits
//!   another message. So tickets carry the connection's number, the number changes under the lock that
//!   acknowledging takes, and what was queued in between is thrown away with it.
//! - **Acknowledging must never wait for the poll task**, because the poll task waits for the worker when the inbox is
//!   full: that is the back-pressure. The queue for acknowledgements therefore has room for more than can be
//!   outstanding. While the poll task waits, no ping is sent; a broker that loses patience sends everything again.

use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::{
    AckMode, AsyncClient, ConnectionError, Event, EventLoop, ManualAck, MqttOptions, Packet, PubAck,
    PublishOptions, QoS, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tap_protocol::topic::Channel;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::holding::Hold;
use super::{BrokerLink, FromBroker, MAX_WAITING, Message, Ticket};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::Broker;
use crate::health::{Health, Loop};
use crate::stop::Stop;
use crate::{crash, telemetry};

/// A dead broker is noticed within 1.5 times this.
const KEEP_ALIVE_SECONDS: u16 = 30;

/// Resolving, connecting and shaking hands together.
const CONNECT_SECONDS: u64 = 10;

/// Requests that wait in the library, per kind. Acknowledgements: all that can be outstanding, twice over. Receipts:
/// one per outbox of a large site.
const MAX_REQUESTS: usize = 1024;

const _: () = assert!(MAX_REQUESTS > 2 * MAX_WAITING + super::worker::MAX_GROUP_MESSAGES);

/// A whole packet, as large as MQTT knows them. Not ours to limit: the library ends the connection over a larger packet
/// without acknowledging it, and the broker's persistent session would deliver it again, for ever. The broker is told to
/// limit messages (`message_size_limit`); what still comes in too large is quarantined.
const MAX_PACKET_BYTES: usize = 256 * 1024 * 1024;

/// Packets that are handled before the loop looks elsewhere.
const MAX_REQUEST_BATCH: usize = 64;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long a clean goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why the connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// A certificate or key file.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system's trusted roots.
    #[error("cannot use the system's trusted certificates")]
    Roots(#[source] rumqttc::TlsError),
}

/// The connection, owned by its task.
pub struct Connection {
    events: EventLoop,
    link: Link,
    inbox: mpsc::Sender<FromBroker>,
    health: Arc<Health>,
    clock: Clock,
}

/// The worker's side of it.
#[derive(Clone)]
pub struct Link {
    client: AsyncClient,
    /// The number of the connection that is up, if one is. Held for moments only, never while waiting.
    current: Arc<Mutex<Current>>,
}

/// Why nothing more is read.
enum Ended {
    Stopped,
    HoldLost,
}

#[derive(Debug, Default)]
struct Current {
    connection: u64,
    up: bool,
}

/// Prepares the connection; nothing is sent before [`Connection::run`].
pub fn connection(
    broker: &Broker,
    inbox: mpsc::Sender<FromBroker>,
    health: Arc<Health>,
    clock: Clock,
) -> Result<(Connection, Link), CannotStart> {
    let (client, mut events) = AsyncClient::builder(options(broker)?).build();
    let mut network = events.network_options();
    network.set_connection_timeout(CONNECT_SECONDS);
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    let link = Link { client, current: Arc::default() };
    Ok((Connection { events, link: link.clone(), inbox, health, clock }, link))
}

/// How we connect, as whoever `broker` says.
pub(crate) fn options(broker: &Broker) -> Result<MqttOptions, CannotStart> {
    let mut options = MqttOptions::new(&broker.client_id, (broker.url.host.clone(), broker.url.port));
    options.set_keep_alive(KEEP_ALIVE_SECONDS);
    // The broker keeps what comes while we are away. In this library's MQTT 3.1.1 half a session that the broker still
    // holds is taken up after a restart without more ado (its MQTT 5 half refuses by default).
    options.set_clean_session(false);
    options.set_ack_mode(AckMode::Manual);
    // The default of 10 KiB would end the connection at every larger batch, for ever.
    options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
    options.set_request_channel_capacity(MAX_REQUESTS);
    options.set_max_request_batch(MAX_REQUEST_BATCH);
    if broker.url.tls {
        options.set_transport(match &broker.ca_file {
            None => Transport::try_tls_with_default_config().map_err(CannotStart::Roots)?,
            Some(ca) => {
                let client_auth = match (&broker.cert_file, &broker.key_file) {
                    (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
                    _ => None,
                };
                Transport::tls_with_config(TlsConfiguration::Simple {
                    ca: read(ca)?,
                    alpn: None,
                    client_auth,
                })
            }
        });
    }
    Ok(options)
}

fn read(path: &Path) -> Result<Vec<u8>, CannotStart> {
    std::fs::read(path).map_err(|source| CannotStart::File { path: path.display().to_string(), source })
}

impl Connection {
    /// Connects, again and again, while this replica takes in, and stands by while it does not. Ends with a goodbye when
    /// told to stop.
    pub async fn run(mut self, mut hold: Hold, mut stop: Stop) {
        while self.stand_by(&mut hold, &mut stop).await {
            self.health.takes_in(true);
            if let Ended::Stopped = self.take_in(&mut hold, &mut stop).await {
                break;
            }
            // The session is another's: to connect again would take it away from that one.
            self.lost();
            self.health.takes_in(false);
            self.health.broker(Err("another process takes in".into()));
        }
        self.goodbye().await;
    }

    /// Whether to take in now; `false` when told to stop.
    async fn stand_by(&mut self, hold: &mut Hold, stop: &mut Stop) -> bool {
        let mut tick = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                biased;
                () = stop.said() => return false,
                _ = hold.granted() => return true,
                _ = tick.tick() => self.health.turned(Loop::Broker, self.clock.now()),
            }
        }
    }

    async fn take_in(&mut self, hold: &mut Hold, stop: &mut Stop) -> Ended {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut said_down = false;
        loop {
            match self.next(hold, stop).await {
                Ok(Ok(Event::Incoming(packet))) => {
                    if matches!(packet, Packet::ConnAck(_)) {
                        backoff.reset();
                        said_down = false;
                    }
                    self.came(packet).await;
                }
                Ok(Ok(Event::Outgoing(rumqttc::Outgoing::PubAck(_)))) => crash::point("after-puback"),
                Ok(Ok(Event::Outgoing(_))) => {}
                Ok(Err(error)) => {
                    self.lost();
                    let why = telemetry::with_causes(&error);
                    if !std::mem::replace(&mut said_down, true) {
                        tracing::warn!(why, "the broker is not connected; trying again until it is");
                    }
                    self.health.broker(Err(why));
                    tokio::select! {
                        () = sleep(backoff.wait()) => {}
                        () = hold.lost() => return Ended::HoldLost,
                        () = stop.said() => return Ended::Stopped,
                    }
                    self.health.turned(Loop::Broker, self.clock.now());
                }
                Err(ended) => return ended,
            }
        }
    }

    /// The next event. Polling is not interrupted but for an end: a cancelled write would lose a packet that the library
    /// takes for sent.
    async fn next(
        &mut self,
        hold: &mut Hold,
        stop: &mut Stop,
    ) -> Result<Result<Event, ConnectionError>, Ended> {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut poll = pin!(self.events.poll());
        loop {
            tokio::select! {
                biased;
                // Before the poll, which would connect again when another has the session.
                () = hold.lost() => return Err(Ended::HoldLost),
                event = &mut poll => return Ok(event),
                () = stop.said() => return Err(Ended::Stopped),
                _ = tick.tick() => self.health.turned(Loop::Broker, self.clock.now()),
            }
        }
    }

    async fn came(&mut self, packet: Packet) {
        match packet {
            Packet::ConnAck(answer) => {
                let connection = self.link.up();
                tracing::info!(connection, resumed = answer.session_present, "connected to the broker");
                self.health.broker(Ok(()));
                self.subscribe();
                self.hand_over(FromBroker::Connected).await;
            }
            Packet::SubAck(answer) if answer.return_codes.contains(&SubscribeReasonCode::Failure) => {
                tracing::error!(
                    "the broker refuses our subscription: its access rules must allow tap/v1/+/…"
                );
                self.health.broker(Err("it refuses our subscription".into()));
            }
            Packet::Publish(publish) => {
                let ticket = (publish.qos != QoS::AtMostOnce)
                    .then(|| Ticket { connection: self.link.connection(), packet_id: publish.pkid });
                let message = Message {
                    topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                    payload: publish.payload.to_vec(),
                    ticket,
                };
                self.hand_over(FromBroker::Message(message)).await;
            }
            _ => {}
        }
    }

    /// Waits while the inbox is full: see the module's third rule.
    async fn hand_over(&mut self, event: FromBroker) {
        let mut tick = interval(Duration::from_secs(1));
        let mut sending = pin!(self.inbox.send(event));
        let sent = loop {
            tokio::select! {
                biased;
                sent = &mut sending => break sent,
                // The worker waits for the store, and this loop for the worker.
                _ = tick.tick() => self.health.tries(Loop::Broker),
            }
        };
        if sent.is_err() {
            tracing::debug!("the worker has ended; what comes now stays with the broker");
        }
    }

    /// On every connection: a broker may have forgotten us.
    fn subscribe(&self) {
        let filters = [Channel::Records, Channel::Hello, Channel::Gone, Channel::Report]
            .map(|channel| SubscribeFilter::new(channel.of_every_controller(), QoS::AtLeastOnce));
        if let Err(error) = self.link.client.try_subscribe_many(filters) {
            tracing::error!(%error, "cannot ask the broker for messages");
            self.health.broker(Err("there was no room to ask for messages".into()));
        }
    }

    /// The connection is gone, and with it every ticket.
    fn lost(&mut self) {
        let mut current = self.link.lock();
        current.up = false;
        current.connection += 1;
        // Whatever was acknowledged since the library noticed belongs to the connection before.
        self.events.clean();
    }

    /// Lets the acknowledgements out that are queued, then tells the broker that we go.
    async fn goodbye(mut self) {
        if !self.link.lock().up {
            return;
        }
        let asked = self.link.client.try_disconnect_with_timeout(GOODBYE / 2);
        let end = async { while self.events.poll().await.is_ok() {} };
        if asked.is_err() || timeout(GOODBYE, end).await.is_err() {
            tracing::debug!("no clean goodbye to the broker; it will notice");
        }
    }
}

impl Link {
    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().expect("nobody panics while holding it")
    }

    fn up(&self) -> u64 {
        let mut current = self.lock();
        current.up = true;
        current.connection += 1;
        current.connection
    }

    fn connection(&self) -> u64 {
        self.lock().connection
    }
}

impl BrokerLink for Link {
    fn acknowledge(&self, ticket: Ticket) {
        let current = self.lock();
        if current.connection != ticket.connection {
            return;
        }
        let ack = ManualAck::PubAck(PubAck::new(ticket.packet_id));
        if let Err(error) = self.client.try_manual_ack(ack) {
            tracing::error!(%error, "an acknowledgement found no room; the broker will send the message again");
        }
    }

    fn publish(&self, topic: String, payload: Vec<u8>) -> bool {
        self.lock().up && self.client.try_publish(topic, payload, PublishOptions::at_least_once()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_of_an_earlier_connection_is_worth_nothing() {
        let (client, _events) = AsyncClient::builder(MqttOptions::new("test", ("127.0.0.1", 1))).build();
        let link = Link { client, current: Arc::default() };
        assert!(!link.publish("a".into(), vec![]), "nothing is queued while the connection is down");
        let first = link.up();
        let second = link.up();
        assert_ne!(first, second);
        assert!(link.publish("a".into(), vec![]));
    }
}
