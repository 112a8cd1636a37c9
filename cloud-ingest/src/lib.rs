//! cloud-ingest takes taps in, stores them for good and delivers them to the legacy attendance API.

pub mod delivery;
pub mod directory;
pub mod event_store;
pub mod intake;
pub mod receipts;
