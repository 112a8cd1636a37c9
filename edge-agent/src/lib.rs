//! edge-agent: the daemon at the door. See `docs/architecture.md` for the life of a tap.

pub mod admission;
pub mod agent;
pub mod ages;
pub mod anchors;
pub mod broker_link;
pub mod check;
pub mod clock;
pub mod complaints;
pub mod config;
pub mod control;
pub mod feedback;
pub mod identity;
pub mod log;
pub mod log_allowance;
pub mod metrics;
pub mod metrics_out;
pub mod now;
pub mod outbox;
pub mod probe;
pub mod reader;
pub mod relay;
pub mod round_trip;
pub mod service;
pub mod signal;
pub mod status;
pub mod watchdog;
