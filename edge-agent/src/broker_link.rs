//! Step 6 of 12: one MQTT session after the other. Knows packets, not taps; keeps nothing for later.
//!
//! The MQTT library is behind two small things, so that another can take its place: [`LinkEvent`]s come out, and a
//! [`Session`] takes packets for as long as it lasts. Every session is a new client with a clean slate: what the
//! library held for the old one is forgotten with it, because the outbox is the only queue and the relay sends again
//! whatever has no receipt. (Libraries differ in what they do with packets of a lost session; see ADR 0001.)

use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;
use rumqttc::{
    AsyncClient, Event, LastWill, MqttOptions, NetworkOptions, Packet, PublishOptions, QoS,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use tap_protocol::ids::ControllerId;
use tap_protocol::limits::{MAX_MESSAGE_BYTES, MAX_UNRECEIPTED_BATCHES};
use tap_protocol::topic::{Channel, Topic};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

use crate::clock;
use crate::credentials::{Attempt, Credentials};
use crate::trial::Which;

/// Packets that may wait for the socket: a full window and a few hellos.
const MAX_WAITING_PACKETS: usize = MAX_UNRECEIPTED_BATCHES + 8;

/// A connection that says nothing for this long is asked whether it still lives, and given up after twice that.
const KEEP_ALIVE_S: u16 = 30;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT_S: u64 = 10;

/// How long a session may take to say that it ends.
const LEAVE_TAKING: Duration = Duration::from_millis(300);

/// Room for topic and header beside the largest message.
const PACKET_OVERHEAD_BYTES: usize = 512;

/// The pauses between attempts to connect, with full jitter: a thousand doors that lost one broker must not all come
/// back in the same second.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A session that lasted this long was a good one: pauses begin anew. Two controllers under one name end each other's
/// sessions as fast as they connect, and must become slow at it; so this is longer than the longest pause.
const GOOD_AFTER_MS: u64 = 30_000;
const _: () = assert!(
    GOOD_AFTER_MS as u128 > LONGEST_PAUSE.as_millis(),
    "two that take turns must slow each other down"
);

/// What the link tells the agent's loop.
#[derive(Debug)]
pub enum LinkEvent {
    /// A session is up and subscribed; packets may be given to it until [`LinkEvent::Down`].
    Up(Session),
    /// There is no session; another attempt follows by itself.
    Down {
        /// Why, for people.
        why: String,
    },
    /// A packet came in.
    Message {
        /// Under this topic.
        topic: String,
        /// With this content.
        payload: Vec<u8>,
    },
}

/// One session's way out.
#[derive(Debug)]
pub struct Session(AsyncClient);

impl Session {
    /// Takes leave of the broker, so that it does not publish the last will.
    pub fn close(&self) {
        let _ = self.0.try_disconnect();
    }
}

/// The session takes nothing now: too much waits already, or it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker session takes nothing now")]
pub struct Busy;

impl Session {
    /// Gives a packet (QoS 1, not retained) to the socket's queue, now or not at all. `Ok` promises nothing.
    pub fn try_publish(&self, topic: &Topic, payload: Vec<u8>) -> Result<(), Busy> {
        self.0.try_publish(topic.to_string(), payload, PublishOptions::at_least_once()).map_err(|_| Busy)
    }
}

/// Starts the link's task. It ends when `events` is closed or the handle is aborted.
pub fn start(
    credentials: Arc<Credentials>,
    controller: &ControllerId,
    events: Sender<LinkEvent>,
) -> JoinHandle<()> {
    tokio::spawn(run(credentials, controller.clone(), events))
}

async fn run(credentials: Arc<Credentials>, controller: ControllerId, events: Sender<LinkEvent>) {
    let pauses = || {
        backon::ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut pause = pauses();
    loop {
        let began_ms = clock::boottime_ms();
        let reading = Arc::clone(&credentials);
        let Ok(attempt) = tokio::task::spawn_blocking(move || reading.attempt()).await else { return };
        let (which, (was_up, why)) = match attempt {
            Ok(attempt) => (attempt.which, session(&attempt, &controller, &credentials, &events).await),
            Err((which, error)) => (which, (false, explain(&error))),
        };
        let at_once = credentials.ended(which, was_up, &why);
        if was_up && clock::boottime_ms() >= began_ms + GOOD_AFTER_MS {
            pause = pauses();
        }
        if events.send(LinkEvent::Down { why }).await.is_err() {
            return;
        }
        if !at_once {
            tokio::time::sleep(pause.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }
}

/// One session from connect to its end. Returns whether it was ever up, and why it ended.
async fn session(
    attempt: &Attempt,
    controller: &ControllerId,
    credentials: &Credentials,
    events: &Sender<LinkEvent>,
) -> (bool, String) {
    let subscriptions = [Channel::Receipt, Channel::Roster, Channel::Command]
        .map(|channel| Topic::new(controller, channel).to_string());
    let (client, mut event_loop) =
        AsyncClient::builder(options(attempt, controller)).capacity(MAX_WAITING_PACKETS).build();
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT_S);
    event_loop.set_network_options(network);
    let mut is_up = false;
    loop {
        let event = tokio::select! {
            event = event_loop.poll() => event,
            () = credentials.trial_is_due(), if is_up && attempt.which == Which::Current => {
                // The session goes in good order, so that nobody hears that this door is gone.
                let _ = client.try_disconnect();
                let leaving = async { while event_loop.poll().await.is_ok() {} };
                let _ = tokio::time::timeout(LEAVE_TAKING, leaving).await;
                return (is_up, "the certificate was renewed: connecting anew with it".into());
            }
        };
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let wanted = subscriptions.iter().map(|topic| (topic.clone(), QoS::AtLeastOnce));
                let wanted = wanted.map(|(topic, qos)| rumqttc::SubscribeFilter::new(topic, qos));
                if client.try_subscribe_many(wanted.collect::<Vec<_>>()).is_err() {
                    return (is_up, "the session cannot subscribe".into());
                }
            }
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                    let why = "the broker does not let this controller read its own topics: check its ACL";
                    return (is_up, why.into());
                }
                is_up = true;
                credentials.worked(attempt.which);
                if events.send(LinkEvent::Up(Session(client.clone()))).await.is_err() {
                    return (is_up, "stopping".into());
                }
            }
            // Whatever comes in can come again: receipts answer hellos. A loop that is behind must not stop this task,
            // which keeps the connection alive.
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                let _ = events.try_send(LinkEvent::Message { topic, payload: publish.payload.to_vec() });
            }
            Ok(_) => {}
            Err(error) => return (is_up, explain(&error)),
        }
    }
}

/// The library's error and its causes, in one line.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn options(attempt: &Attempt, controller: &ControllerId) -> MqttOptions {
    let mut options =
        MqttOptions::new(controller.as_str(), (attempt.broker.host.clone(), attempt.broker.port));
    let gone = Topic::new(controller, Channel::Gone).to_string();
    options
        .set_keep_alive(KEEP_ALIVE_S)
        .set_clean_session(true)
        .set_inflight(MAX_UNRECEIPTED_BATCHES as u16)
        .set_max_packet_size(
            MAX_MESSAGE_BYTES + PACKET_OVERHEAD_BYTES,
            MAX_MESSAGE_BYTES + PACKET_OVERHEAD_BYTES,
        )
        .set_last_will(LastWill::new(gone, Vec::new(), QoS::AtLeastOnce, false));
    if let Some(tls) = &attempt.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(tls))));
    }
    options
}
