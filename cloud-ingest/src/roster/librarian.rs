//! Beside the line: makes rosters when badges have changed, and brings them to the doors. Knows the store and the
//! broker's connection; who is next is for [`super::rounds`] to say.
//!
//! Badges are changed by other processes too, so the store is asked once a second whether they were. A burst of changes
//! becomes one roster, once it is over or ten seconds after it began.

use std::sync::Arc;
use std::time::Duration;

use tap_protocol::badge::TokenKeyId;
use tap_protocol::keys::PublicKey;
use tap_protocol::topic::{Channel, Topic};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::edition::Edition;
use super::rounds::{Rounds, What};
use crate::clock::Clock;
use crate::directory::reseal;
use crate::event_store::badges::is_newest;
use crate::event_store::handle::StoreHandle;
use crate::event_store::{EventStore, RosterState, StoreError, UtcMs};
use crate::intake::BrokerLink;
use crate::intake::roster::Said;
use crate::keyring::Keys;
use crate::keyring::live::LiveKeys;
use crate::seldom::Seldom;
use crate::stop::Stop;
use crate::telemetry::{Metrics, with_causes};

/// How often the store is asked whether badges have changed.
const LOOK_EVERY_MS: i64 = 1_000;

/// A burst of changes that does not end is made a roster of after this.
const LONGEST_BURST_MS: i64 = 10_000;

/// What the librarian needs.
pub struct Librarian<L> {
    /// The store's writing side: makes rosters.
    pub writer: StoreHandle,
    /// The store's reading side: says whether badges have changed.
    pub reader: StoreHandle,
    /// The broker.
    pub link: L,
    /// Sign rosters, and seal badges.
    pub keys: LiveKeys,
    /// The time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Runs until told to stop, or until nobody can say anything any more.
pub async fn run<L: BrokerLink>(librarian: Librarian<L>, mut said: mpsc::Receiver<Said>, mut stop: Stop) {
    let mut running = Running {
        librarian,
        rounds: Rounds::default(),
        newest: None,
        burst: None,
        look_at: UtcMs(i64::MIN),
        complaints: Seldom::new(),
        made_with: None,
    };
    loop {
        running.look().await;
        running.send();
        let nap_ms = running.rounds.wake_in_ms().unwrap_or(LOOK_EVERY_MS.unsigned_abs());
        tokio::select! {
            biased;
            () = stop.said() => return,
            what = said.recv() => match what {
                Some(what) => running.hear(what),
                None => return,
            },
            () = sleep(Duration::from_millis(nap_ms)) => {}
        }
    }
}

struct Running<L> {
    librarian: Librarian<L>,
    rounds: Rounds,
    newest: Option<Edition>,
    /// Changes at the last look, and when the first of them was seen.
    burst: Option<(u64, UtcMs)>,
    look_at: UtcMs,
    complaints: Seldom<&'static str>,
    /// Under which token keys every badge has a seal, and which key signs.
    made_with: Option<(Vec<TokenKeyId>, PublicKey)>,
}

impl<L: BrokerLink> Running<L> {
    fn hear(&mut self, said: Said) {
        let now = self.librarian.clock.now();
        match said {
            Said::Has { controller, version } => self.rounds.greeted(&controller, version, now),
            Said::Wants { controller, version, from, count } => {
                self.rounds.wanted(&controller, version, from, count);
            }
        }
    }

    /// Looks whether there is to be another roster, and makes it.
    async fn look(&mut self) {
        let now = self.librarian.clock.now();
        // A clock that was set back must not stop the looks.
        if (self.look_at.0..self.look_at.0.saturating_add(LOOK_EVERY_MS)).contains(&now.0) {
            return;
        }
        self.look_at = now;
        if let Err(error) = self.try_to_look(now).await
            && self.complaints.speaks("store", now)
        {
            let why = with_causes(&error);
            tracing::warn!(why, "no newer roster can be made now; the doors keep theirs");
        }
    }

    async fn try_to_look(&mut self, now: UtcMs) -> Result<(), StoreError> {
        let keys = self.librarian.keys.now();
        let with = (keys.token_keys_in_use(), keys.control().public());
        if self.made_with.as_ref() != Some(&with) {
            self.seal_under_all_keys(&keys).await?;
            // What was made under other keys is made anew: doors may seal with a key that it does not know.
            self.newest = None;
            self.made_with = Some(with);
        }
        let state = self.librarian.reader.run(|store| store.roster_state()).await?;
        // As long as nobody has a badge every door would call everybody unknown: it does better without a roster.
        if state.changes == 0 {
            return Ok(());
        }
        let claimed = self.rounds.claimed();
        let is_outrun =
            self.newest.as_ref().is_some_and(|edition| !is_newest(edition.version(), claimed, now));
        if self.newest.is_none() || is_outrun || self.is_over(state, now) {
            self.burst = None;
            self.make(claimed, now).await?;
        }
        Ok(())
    }

    /// Whether badges have changed, and no more of it came since the last look.
    fn is_over(&mut self, state: RosterState, now: UtcMs) -> bool {
        if state.changes == state.made_of {
            self.burst = None;
            return false;
        }
        let (seen, since) = *self.burst.get_or_insert((u64::MAX, now));
        self.burst = Some((state.changes, since));
        seen == state.changes || now.0.saturating_sub(since.0) >= LONGEST_BURST_MS
    }

    async fn make(&mut self, claimed: Option<u64>, now: UtcMs) -> Result<(), StoreError> {
        let live = self.librarian.keys.now();
        let keys = live.token_keys_in_use();
        let snapshot = self.librarian.writer.run(move |store| store.roster(&keys, claimed, now)).await?;
        let key = live.control();
        // A million badges take a while to sign, and receipts are not to wait for it.
        let Ok(edition) = tokio::task::spawn_blocking(move || Edition::of(&snapshot, &key)).await else {
            return Ok(());
        };
        match edition {
            Ok(edition) => {
                let (version, badges) = (edition.version(), edition.entries());
                tracing::info!(version, badges, "there is another roster");
                self.librarian.metrics.roster(badges);
                self.rounds.published(version, edition.chunks(), now);
                self.newest = Some(edition);
            }
            Err(error) => tracing::error!("{error}"),
        }
        Ok(())
    }

    /// After a token key was added, every badge gets a seal under it; with one key there is nothing to do.
    async fn seal_under_all_keys(&mut self, keys: &Keys) -> Result<(), StoreError> {
        let in_use = keys.token_keys_in_use();
        let keys = keys.token_keys().to_vec();
        for new_key in keys.iter().filter(|key| keys.len() > 1 && in_use.contains(&key.id())) {
            let (key, mut after) = (new_key.id().0, None);
            loop {
                let (keys, new_key) = (keys.clone(), new_key.clone());
                let job = move |store: &mut dyn EventStore| reseal::some(store, &keys, &new_key, after);
                let done = self.librarian.writer.run(job).await?;
                if done.sealed > 0 {
                    tracing::info!(key, sealed = done.sealed, "badges were sealed under another token key");
                }
                if done.unreadable > 0 {
                    let why = "no token key here opens them: their taps under this key wait until they are imported again";
                    tracing::error!(key, badges = done.unreadable, "{why}");
                }
                after = done.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends what may go now.
    fn send(&mut self) {
        let now = self.librarian.clock.now();
        let control_key = self.librarian.keys.now().control();
        while let Some(send) = self.rounds.next(now) {
            let Some(edition) = &self.newest else { return };
            let message = match send.what {
                What::Head => Some(edition.head(&send.controller, now, &control_key)),
                What::Chunk(index) => edition.chunk(index).map(<[u8]>::to_vec),
            };
            let Some(message) = message else { continue };
            let bytes = message.len();
            let topic = Topic::new(&send.controller, Channel::Roster).to_string();
            if self.librarian.link.publish(topic, message) {
                self.rounds.sent(bytes);
                self.librarian.metrics.roster_message(send.what);
            } else {
                self.rounds.not_sent(send, now);
            }
        }
    }
}

#[cfg(test)]
#[path = "librarian_tests.rs"]
mod tests;
