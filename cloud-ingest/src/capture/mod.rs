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
pub mod key;
pub mod reading;
pub mod spool;
