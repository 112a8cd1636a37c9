//! What systemd is told: readiness, one line of status, and that the agent still works. Knows nothing of taps.
//!
//! Its socket blocks when nobody reads, as when systemd itself is busy, so a thread of its own writes to it. The agent's
//! loop hands over what fits and goes on: a door must not wait for its supervisor.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::watchdog::Stuck;

/// Messages that may wait. Each is news for a moment only: what does not fit is left out.
const MAX_WAITING: usize = 4;

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    messages: SyncSender<Message>,
    said: String,
    feed_every_ms: Option<u64>,
    feed_due_ms: u64,
}

#[derive(Debug)]
enum Message {
    Ready,
    Status(String),
    Alive,
    Stopping,
}

impl ServiceManager {
    /// Starts the thread that writes. Whether there is a manager, and whether it watches, is in the environment.
    pub fn start() -> std::io::Result<ServiceManager> {
        let (messages, queue) = sync_channel(MAX_WAITING);
        std::thread::Builder::new()
            .name("notify".into())
            .spawn(move || queue.into_iter().for_each(|message| send(&message)))?;
        // Thrice in its time: one feed may come late.
        let every = sd_notify::watchdog_enabled().map(|time: Duration| time / 3);
        let feed_every_ms = every.and_then(|every| u64::try_from(every.as_millis()).ok());
        Ok(ServiceManager { messages, said: String::new(), feed_every_ms, feed_due_ms: 0 })
    }

    /// The first tap can come.
    pub fn ready(&self) {
        self.say(Message::Ready);
    }

    /// One line for people, sent if it is another one than before.
    pub fn status(&mut self, line: String) {
        if line != self.said {
            self.said.clone_from(&line);
            self.say(Message::Status(line));
        }
    }

    /// Feeds the watchdog when it is time, unless something is `stuck`.
    pub fn feed(&mut self, now_ms: u64, stuck: impl FnOnce() -> Option<Stuck>) {
        let Some(every_ms) = self.feed_every_ms.filter(|_| now_ms >= self.feed_due_ms) else { return };
        self.feed_due_ms = now_ms + every_ms;
        match stuck() {
            None => self.say(Message::Alive),
            Some(stuck) => tracing::error!("the watchdog is not fed: {stuck}"),
        }
    }

    /// The end was asked for.
    pub fn stopping(&self) {
        self.say(Message::Stopping);
    }

    fn say(&self, message: Message) {
        let _ = self.messages.try_send(message);
    }
}

fn send(message: &Message) {
    let state = match message {
        Message::Ready => NotifyState::Ready,
        Message::Status(line) => NotifyState::Status(line),
        Message::Alive => NotifyState::Watchdog,
        Message::Stopping => NotifyState::Stopping,
    };
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("cannot tell the service manager: {error}");
    }
}
