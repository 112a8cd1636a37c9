//! What Tapline promises about its outbox, proved by brute force on a disk in memory: the power goes at every call,
//! every call fails, bits flip, and a random life is compared with a plain model of it.
//!
//! Read in this order: `scenario.rs` says what is done, `script.rs` does it to a real shelf, `promise.rs` is the oracle,
//! and `power_loss.rs` and its neighbours each bring one kind of trouble. `./dev test` runs short versions, `./dev
//! prove` the full ones. `engine.rs` does the same for delivery.

pub mod attacks;
pub mod bait;
pub mod bit_flips;
pub mod engine;
pub mod forging;
pub mod fuzzing;
pub mod io_errors;
pub mod life;
pub mod medium;
pub mod model;
pub mod planting;
pub mod power_loss;
pub mod promise;
pub mod repair;
pub mod report;
pub mod scenario;
pub mod script;
