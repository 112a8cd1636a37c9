//! Beside the line: the keys of the running service. It looks at the folder every few seconds, so that a rotation needs
//! no restart. Knows nobody who uses them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::ring::Ring;
use super::{KeyringError, Keys, read_ring};
use crate::stop::Stop;
use crate::telemetry::with_causes;

/// Looking costs one small read.
const EVERY: Duration = Duration::from_secs(3);

/// A way to the keys as they are now. Clones see the same.
#[derive(Clone)]
pub struct LiveKeys(watch::Receiver<Arc<Keys>>);

/// Who keeps them up to date.
pub struct Looking {
    dir: PathBuf,
    seen: Ring,
    keys: watch::Sender<Arc<Keys>>,
}

/// The keys of a folder from now on; they change while [`Looking::run`] runs.
pub fn open(dir: PathBuf, keys: Keys) -> (LiveKeys, Looking) {
    let seen = keys.ring.clone();
    let (sender, receiver) = watch::channel(Arc::new(keys));
    (LiveKeys(receiver), Looking { dir, seen, keys: sender })
}

impl LiveKeys {
    /// As they are now.
    pub fn now(&self) -> Arc<Keys> {
        Arc::clone(&self.0.borrow())
    }

    /// Keys that never change.
    #[cfg(test)]
    pub fn fixed(keys: Keys) -> LiveKeys {
        open(PathBuf::new(), keys).0
    }
}

impl Looking {
    /// Looks until told to stop. What cannot be read changes nothing: the keys in hand stay good.
    pub async fn run(mut self, mut stop: Stop) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = false;
        while !stop.is_said() {
            match self.look() {
                Ok(()) => said = false,
                Err(error) if !std::mem::replace(&mut said, true) => {
                    tracing::error!(
                        why = with_causes(&error),
                        "the keys cannot be read again: those in use stay"
                    );
                }
                Err(_) => {}
            }
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.said() => {}
            }
        }
    }

    /// Looks once.
    pub fn look(&mut self) -> Result<(), KeyringError> {
        if read_ring(&self.dir)? == self.seen {
            return Ok(());
        }
        let keys = Keys::load(&self.dir)?;
        tracing::info!("the keys have changed");
        self.seen = keys.ring.clone();
        self.keys.send_replace(Arc::new(keys));
        Ok(())
    }
}
