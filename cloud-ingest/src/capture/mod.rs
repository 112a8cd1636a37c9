//! Step 7 of 12, over HTTP: how a tap of a kiosk, an app or another system becomes a record like any other. This file
//! puts the parts together; knows no SQL.
//!
//! ```text
//! request ──▶ api key, allowance ──▶ reading ──▶ desk ──▶ intake worker ──▶ store      (one group with the broker's)
//!                                                  └────▶ spool ──▶ drain ──▶ store      (while the store is away)
//! ```
//!
//! An API key belongs to a *source*, which the store knows as it knows a door controller: records of its own outboxes,
//! chained, signed under the cloud's capture key, admitted by [`crate::intake::admit`]. So positions, proofs, event ids
//! and deliveries know nothing of HTTP.

pub mod allowance;
pub mod desk;
pub mod drain;
pub mod http;
pub mod keeper;
pub mod key;
pub mod reading;
pub mod spool;

use std::time::Duration;

use self::allowance::Rate;
use crate::config::CaptureEntry;
use crate::keyring::live::LiveKeys;
use crate::tls_listener::{Certificate, Listening};

/// A kiosk keeps its connection; it is asked to end it before ([`http`]).
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// What the listener is: clients are of all kinds.
pub fn listening(entry: &CaptureEntry, keys: &LiveKeys) -> Listening {
    let certificate = match (&entry.cert_file, &entry.key_file) {
        (Some(chain), Some(key)) => Certificate::OfFiles { chain: chain.clone(), key: key.clone() },
        _ => Certificate::OfOurRoot { names: entry.names.clone(), keys: keys.clone() },
    };
    Listening { what: "capture", certificate, lifetime: LIFETIME, versions: rustls::ALL_VERSIONS }
}

/// What each API key may bring.
pub fn rate(entry: &CaptureEntry) -> Rate {
    Rate { per_second: entry.per_second, burst: entry.burst }
}
