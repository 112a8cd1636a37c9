//! Beside the line: how the loops of this process are told to end.

use tokio::sync::watch;

/// Held by whoever may say stop. Dropping it says stop, too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Held by a loop.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// A pair.
pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Says stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Ends when stop was said.
    pub async fn said(&mut self) {
        // An error means that the stopper is gone, which says the same.
        let _ = self.0.wait_for(|said| *said).await;
    }

    /// Whether stop was said.
    pub fn is_said(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
