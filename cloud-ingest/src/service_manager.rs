//! Beside the line: tells systemd that this process still works, for as long as it does (`watchdog.rs` says whether). Not under
//! systemd, or where its unit asks for no watchdog, it does nothing.

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::time::sleep;

use crate::health::Health;
use crate::stop::Stop;
use crate::watchdog::stuck;

/// Runs until told to stop. `store_is_here`: see [`Health::seen`].
pub async fn run(health: Arc<Health>, store_is_here: bool, mut stop: Stop) {
    // Thrice in its time: one feed may come late.
    let Some(every) = sd_notify::watchdog_enabled().map(|time| time / 3) else { return stop.said().await };
    while !stop.is_said() {
        match stuck(&health.seen(store_is_here)) {
            None => drop(sd_notify::notify(&[NotifyState::Watchdog])),
            Some(stuck) => tracing::error!("the watchdog is not fed: {stuck}"),
        }
        tokio::select! {
            () = sleep(every) => {}
            () = stop.said() => {}
        }
    }
}
