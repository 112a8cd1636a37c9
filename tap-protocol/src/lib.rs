//! The words that both sides of Tapline share: identities, records, batches, hellos,
//! receipts, rosters, commands and enrolment.
//!
//! Everything here is pure: no I/O, no clock, no randomness, no async. Bytes come in and values go out,
//! or the other way round; `now` and key material are arguments. `docs/protocol.md` says the same in prose
//! and with golden bytes, and is enough to write a controller in another language.
//!
//! Read in this order: [`ids`], [`badge`], [`tap`], [`record`], [`chain`], [`envelope`], [`hello`],
//! [`receipt`], [`roster`], [`command`], [`report`], [`topic`], [`time_repair`], [`enrolment`], [`export`]; [`codec`], [`keys`] and [`limits`] serve them all.

pub mod badge;
pub mod chain;
pub mod codec;
pub mod command;
pub mod enrolment;
pub mod envelope;
pub mod export;
pub mod hello;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod receipt;
pub mod record;
pub mod report;
pub mod roster;
pub mod tap;
pub mod time_repair;
pub mod topic;
