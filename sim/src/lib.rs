//! A deterministic, seeded world over Tapline's real deciding code: doors, broker, intake, store, dispatcher and a legacy
//! API, all that can break between them, and an oracle that knows what really happened.
//!
//! What decides is the product's own code, called as the products call it: [`edge_agent::admission`],
//! [`edge_agent::relay`], [`edge_agent::anchors`], `tap_protocol` with real signatures,
//! [`cloud_ingest::intake::verify`], [`cloud_ingest::intake::admit`] and [`cloud_ingest::delivery::order`] inside the
//! in-memory store, [`cloud_ingest::receipts`], [`cloud_ingest::delivery::retry`] and the judge of answers. What acts
//! (loops, threads, sockets, disks) is played here, one step at a time.
//!
//! Everything is a function of the seed: virtual time, one queue ordered by (time, number), one stream of chance; no
//! thread, no hash map, no clock. **What is deliberately absent**: anything that could run in two ways.
//!
//! Read in this order: [`world`] (one seed from beginning to end), [`stage`] (time and events), [`edge`], [`broker`],
//! [`intake`], [`vault`], [`dispatcher`], [`legacy`], [`person`] (who acts), [`journey`] (who walks from door to door),
//! [`fault`] (what breaks), [`oracle`] (what must hold), [`bait`] (what must be caught).

pub mod bait;
pub mod broker;
pub mod dice;
pub mod disk;
pub mod dispatcher;
pub mod edge;
pub mod fault;
pub mod intake;
pub mod journey;
pub mod legacy;
pub mod net;
pub mod oracle;
pub mod person;
pub mod stage;
pub mod tally;
pub mod trace;
pub mod vault;
pub mod world;

pub use bait::Bait;
pub use fault::Fault;
pub use tally::Tally;
pub use world::{Outcome, Run, Violation, run};

/// Seeds that ever failed, kept for ever: one a line, with a comment behind `#`.
pub fn kept_seeds() -> Vec<u64> {
    let lines = include_str!("../seeds.txt").lines();
    let seeds =
        lines.map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|text| !text.is_empty());
    seeds.map(|text| text.parse().expect("sim/seeds.txt has one number a line")).collect()
}
