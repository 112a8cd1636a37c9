//! Step 11 of 12: one dispatcher for each destination that the store knows, each with the destination as it is now. Looks
//! for what was changed, by whatever process, and knows nothing of what is sent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

use super::advance::{self, Advancer};
use super::dispatch::{self, Dispatcher, Opened};
use crate::chance::Chance;
use crate::clock::{Clock, Monotonic};
use crate::destination::Destination;
use crate::destination::frappe_hr::Advances;
use crate::destination::settings::DestinationSettings;
use crate::event_store::DestinationState;
use crate::event_store::handle::StoreHandle;
use crate::health::{Health, Loop};
use crate::stop::Stop;
use crate::telemetry::{Metrics, with_causes};

/// A change is in force after so long.
const EVERY: Duration = Duration::from_secs(1);

/// Makes what speaks to a destination, of its settings and its credentials; or says why not.
pub type Open<D> = dyn Fn(&DestinationSettings, Option<&str>) -> Result<D, String> + Send + Sync;

/// What it needs.
pub struct Supervisor<D> {
    /// Makes destinations.
    pub open: Box<Open<D>>,
    /// Where dispatchers write.
    pub writer: StoreHandle,
    /// Where it looks.
    pub reader: StoreHandle,
    /// The time on the wall.
    pub clock: Clock,
    /// The time that passes.
    pub monotonic: Monotonic,
    /// What nobody can foresee.
    pub chance: Chance,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where turns are noted.
    pub health: Arc<Health>,
    /// Says that something new is there.
    pub wake: Arc<Notify>,
}

/// A destination that has a dispatcher, or should have one.
struct Known<D> {
    version: u64,
    /// None if it could not be opened.
    running: Option<Running<D>>,
}

struct Running<D> {
    opened: watch::Sender<Arc<Opened<D>>>,
    wake: Arc<Notify>,
}

/// Runs until told to stop, and until all dispatchers have stopped. Ends by itself only if one of them does.
pub async fn run<D: Destination + Advances>(supervisor: Supervisor<D>, mut stop: Stop) {
    let mut known = BTreeMap::new();
    let mut dispatchers = JoinSet::new();
    let mut said = false;
    while !stop.is_said() {
        match supervisor.reader.run(|store| store.destinations()).await {
            Ok(states) => {
                said = false;
                for state in states {
                    supervisor.look_at(&state, &mut known, &mut dispatchers, &stop);
                }
            }
            Err(error) => {
                supervisor.metrics.store_error(Loop::Dispatch);
                if !std::mem::replace(&mut said, true) {
                    tracing::error!(
                        why = with_causes(&error),
                        "cannot ask the store which destinations there are"
                    );
                }
            }
        }
        if dispatchers.is_empty() {
            supervisor.health.turned(Loop::Dispatch, supervisor.clock.now());
        }
        tokio::select! {
            biased;
            () = stop.said() => {}
            Some(ended) = dispatchers.join_next() => return tell_end(ended),
            () = sleep(EVERY) => {}
            () = wake_all(&supervisor.wake, &known) => {}
        }
    }
    while let Some(ended) = dispatchers.join_next().await {
        if ended.is_err() {
            tell_end(ended);
        }
    }
}

/// Passes every call on; never ends.
async fn wake_all<D>(wake: &Notify, known: &BTreeMap<String, Known<D>>) {
    loop {
        wake.notified().await;
        known
            .values()
            .filter_map(|known| known.running.as_ref())
            .for_each(|running| running.wake.notify_one());
    }
}

fn tell_end(ended: Result<(), JoinError>) {
    match ended {
        Ok(()) => tracing::error!("a dispatcher ended by itself"),
        Err(error) => tracing::error!(%error, "a dispatcher failed"),
    }
}

impl<D: Destination + Advances> Supervisor<D> {
    fn look_at(
        &self,
        state: &DestinationState,
        known: &mut BTreeMap<String, Known<D>>,
        dispatchers: &mut JoinSet<()>,
        stop: &Stop,
    ) {
        let name = &state.destination;
        if known.get(name).is_some_and(|known| known.version == state.version) {
            return;
        }
        self.metrics.new_destination(name);
        let running = known.remove(name).and_then(|known| known.running);
        let running = match self.opened(state) {
            Ok(opened) => {
                let (kind, version) = (opened.settings.kind.name(), state.version);
                tracing::info!(destination = name, ?kind, version, "taps go there");
                Some(self.run(name, Arc::new(opened), running, dispatchers, stop))
            }
            Err(why) => {
                tracing::error!(
                    destination = name,
                    why,
                    "nothing is sent there: its settings cannot be used. What is stored waits; mend them with \
                     `cloud-ingest destinations set` or `rotate`"
                );
                // One that runs keeps what it had, and claims nothing for the new version.
                running
            }
        };
        known.insert(name.clone(), Known { version: state.version, running });
    }

    fn opened(&self, state: &DestinationState) -> Result<Opened<D>, String> {
        let settings: DestinationSettings =
            serde_json::from_str(&state.settings).map_err(|bad| bad.to_string())?;
        let credentials =
            state.credentials_file.as_ref().map(|file| credentials(Path::new(file))).transpose()?;
        let destination = (self.open)(&settings, credentials.as_deref())?;
        Ok(Opened { version: state.version, settings, destination })
    }

    fn run(
        &self,
        name: &str,
        opened: Arc<Opened<D>>,
        running: Option<Running<D>>,
        dispatchers: &mut JoinSet<()>,
        stop: &Stop,
    ) -> Running<D> {
        if let Some(running) = running {
            running.opened.send_replace(opened);
            return running;
        }
        let (opened, current) = watch::channel(opened);
        let advancer = Advancer {
            name: name.to_owned(),
            opened: current.clone(),
            reader: self.reader.clone(),
            writer: self.writer.clone(),
            clock: self.clock.clone(),
            monotonic: self.monotonic.clone(),
            metrics: Arc::clone(&self.metrics),
            chance: self.chance.clone(),
        };
        let wake = Arc::new(Notify::new());
        let dispatcher = Dispatcher {
            name: name.to_owned(),
            opened: current,
            store: self.writer.clone(),
            clock: self.clock.clone(),
            monotonic: self.monotonic.clone(),
            chance: self.chance.clone(),
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            wake: Arc::clone(&wake),
        };
        dispatchers.spawn(dispatch::run(dispatcher, stop.clone()));
        dispatchers.spawn(advance::run(advancer, stop.clone()));
        Running { opened, wake }
    }
}

/// What a file of credentials holds.
pub fn credentials(file: &Path) -> Result<String, String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(format!("cannot read {}: {error}", file.display())),
    }
}
