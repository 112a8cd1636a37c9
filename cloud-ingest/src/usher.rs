//! Beside the line: shows a controller that is out of trust the door: ends its session with the broker. Knows client
//! ids, not taps; who is out of trust is for others to say.
//!
//! MQTT has no word for it, and each broker its own tool. But every broker must end a session when its client id connects
//! anew (MQTT 3.1.1, 3.1.4). So the usher connects under the controller's id, where cloud-ingest may choose its name, and
//! leaves again. A broker that takes client ids from certificates there, too, would have to be told otherwise
//! (ADR 0016).
//!
//! What keeps the controller out afterwards is the list of revoked certificates; until the broker has read that, each
//! word of the controller brings the usher again.

use std::collections::HashMap;
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, Outgoing, Packet};
use tap_protocol::ids::ControllerId;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::config::Broker;
use crate::event_store::UtcMs;
use crate::intake::mqtt::{self, CannotStart};
use crate::stop::Stop;
use crate::telemetry;

/// One controller's sessions are ended at most once in so long: it may come back within a fraction of a second, and each
/// time costs the broker a connection. Far below the five minutes in which a revocation has to be felt.
const FLOOR_MS: i64 = 5_000;

/// Requests that may wait. What finds no room is asked for again by the controller's next message.
const MAX_WAITING: usize = 256;

/// Controllers that are remembered; beyond, those whose floor has passed are forgotten.
const MAX_REMEMBERED: usize = 1_024;

/// Connecting and leaving again.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to call the usher. Never waits.
#[derive(Debug, Clone)]
pub struct Bell(mpsc::Sender<ControllerId>);

/// What the usher hears.
#[derive(Debug)]
pub struct Calls(mpsc::Receiver<ControllerId>);

/// A bell, and its other end.
pub fn bell() -> (Bell, Calls) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    (Bell(sender), Calls(receiver))
}

#[cfg(test)]
impl Calls {
    /// Who was called for next, if anybody was.
    pub fn heard(&mut self) -> Option<ControllerId> {
        self.0.try_recv().ok()
    }
}

impl Bell {
    /// This controller is out of trust: its session is to end, if it has one.
    pub fn ring(&self, controller: &ControllerId) {
        if self.0.try_send(controller.clone()).is_err() {
            tracing::debug!(%controller, "too many sessions are to be ended at once; its next message asks again");
        }
    }
}

/// A session could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum CannotEnd {
    /// The broker cannot even be tried.
    #[error("the broker's settings cannot be used")]
    Settings(#[from] CannotStart),
    /// It was tried.
    #[error("connecting under the controller's name did not work")]
    Connection(#[from] ConnectionError),
    /// It was tried for too long.
    #[error("the broker did not answer in time")]
    Slow,
}

/// Ends sessions as they are asked for, until told to stop.
pub async fn run(broker: Broker, mut calls: Calls, clock: Clock, mut stop: Stop) {
    let mut rota = Rota::default();
    loop {
        let now = clock.now();
        if let Some(controller) = rota.due(now) {
            tokio::select! {
                ended = end_session(&broker, &controller) => match ended {
                    Ok(()) => tracing::warn!(%controller, "it is out of trust: its session with the broker was ended"),
                    Err(error) => {
                        let why = telemetry::with_causes(&error);
                        tracing::warn!(%controller, why, "it is out of trust, and its session could not be ended; trying again");
                        rota.asked(controller, clock.now());
                    }
                },
                () = stop.said() => return,
            }
            continue;
        }
        let next = rota.next_in(now);
        tokio::select! {
            call = calls.0.recv() => match call {
                Some(controller) => rota.asked(controller, clock.now()),
                // Nobody can call any more.
                None => stop.said().await,
            },
            () = async { match next { Some(wait) => sleep(wait).await, None => std::future::pending().await } } => {}
            () = stop.said() => return,
        }
        if stop.is_said() {
            return;
        }
    }
}

/// Ends the session of this client id, if there is one, and leaves none behind.
pub async fn end_session(broker: &Broker, controller: &ControllerId) -> Result<(), CannotEnd> {
    let mut options = mqtt::options(&Broker { client_id: controller.to_string(), ..broker.clone() })?;
    options.set_clean_session(true);
    let (client, mut events) = AsyncClient::builder(options).build();
    let end = async {
        loop {
            match events.poll().await? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    // With room for it in an empty queue.
                    let _ = client.try_disconnect();
                }
                Event::Outgoing(Outgoing::Disconnect) => return Ok(()),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, end).await.map_err(|_| CannotEnd::Slow)?
}

/// Whose turn it is: at once, but each controller with its floor in between.
#[derive(Debug, Default)]
struct Rota(HashMap<ControllerId, Turn>);

#[derive(Debug, Clone, Copy)]
struct Turn {
    /// When it may be next.
    not_before: UtcMs,
    /// Whether it was asked for.
    wanted: bool,
}

impl Rota {
    fn asked(&mut self, controller: ControllerId, now: UtcMs) {
        if self.0.len() >= MAX_REMEMBERED {
            self.0.retain(|_, turn| turn.wanted || turn.not_before > now);
        }
        if self.0.len() < MAX_REMEMBERED || self.0.contains_key(&controller) {
            self.0.entry(controller).or_insert(Turn { not_before: now, wanted: true }).wanted = true;
        }
    }

    /// Who is to be shown the door now. From here on its floor holds.
    fn due(&mut self, now: UtcMs) -> Option<ControllerId> {
        let far = UtcMs(now.0.saturating_add(FLOOR_MS));
        // A floor further away is one of a clock that was set back since.
        let is_due = |turn: &Turn| turn.wanted && (turn.not_before <= now || turn.not_before > far);
        let (controller, turn) = self.0.iter_mut().find(|(_, turn)| is_due(turn))?;
        *turn = Turn { not_before: far, wanted: false };
        Some(controller.clone())
    }

    /// How long until somebody is due; `None` if nobody waits.
    fn next_in(&self, now: UtcMs) -> Option<Duration> {
        let waiting = self.0.values().filter(|turn| turn.wanted);
        let wait_ms = waiting.map(|turn| turn.not_before.0.saturating_sub(now.0).clamp(0, FLOOR_MS)).min()?;
        Some(Duration::from_millis(wait_ms.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(n: usize) -> ControllerId {
        format!("hq-door-{n}").parse().unwrap()
    }

    #[test]
    fn the_first_time_is_at_once_and_the_next_after_the_floor() {
        let mut rota = Rota::default();
        assert_eq!((rota.due(UtcMs(0)), rota.next_in(UtcMs(0))), (None, None));
        rota.asked(door(1), UtcMs(0));
        assert_eq!(rota.next_in(UtcMs(0)), Some(Duration::ZERO));
        assert_eq!(rota.due(UtcMs(0)), Some(door(1)));
        assert_eq!(rota.due(UtcMs(FLOOR_MS)), None, "nobody asked again");
        rota.asked(door(1), UtcMs(1_000));
        rota.asked(door(1), UtcMs(1_001));
        assert_eq!(rota.due(UtcMs(1_001)), None);
        assert_eq!(rota.next_in(UtcMs(1_000)), Some(Duration::from_millis(4_000)));
        assert_eq!(rota.due(UtcMs(FLOOR_MS)), Some(door(1)), "it was not forgotten");
        assert_eq!(rota.due(UtcMs(2 * FLOOR_MS)), None, "and asked for once");
    }

    #[test]
    fn one_controller_does_not_hold_up_another() {
        let mut rota = Rota::default();
        rota.asked(door(1), UtcMs(0));
        assert_eq!(rota.due(UtcMs(0)), Some(door(1)));
        rota.asked(door(1), UtcMs(1));
        rota.asked(door(2), UtcMs(1));
        assert_eq!(rota.due(UtcMs(1)), Some(door(2)));
    }

    #[test]
    fn a_clock_that_is_set_back_by_years_keeps_nobody_in() {
        let mut rota = Rota::default();
        rota.asked(door(1), UtcMs(1_000_000_000_000));
        assert_eq!(rota.due(UtcMs(1_000_000_000_000)), Some(door(1)));
        rota.asked(door(1), UtcMs(0));
        assert!(rota.next_in(UtcMs(0)).unwrap() <= Duration::from_millis(FLOOR_MS as u64));
        assert_eq!(rota.due(UtcMs(0)), Some(door(1)));
    }

    #[test]
    fn a_flood_of_names_takes_no_more_room_and_comes_to_an_end() {
        let mut rota = Rota::default();
        for n in 0..10 * MAX_REMEMBERED {
            rota.asked(door(n), UtcMs(0));
        }
        assert_eq!(rota.0.len(), MAX_REMEMBERED);
        for _ in 0..MAX_REMEMBERED {
            assert!(rota.due(UtcMs(0)).is_some());
        }
        assert_eq!(rota.due(UtcMs(0)), None);
        rota.asked(door(0), UtcMs(FLOOR_MS));
        assert_eq!(rota.due(UtcMs(FLOOR_MS)), Some(door(0)));
    }
}
