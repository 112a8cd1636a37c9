//! edge-agent: the daemon at the door. See `docs/architecture.md` for the life of a tap.

pub mod admission;
pub mod agent;
pub mod anchors;
pub mod broker_link;
pub mod check;
pub mod clock;
pub mod config;
pub mod control;
pub mod diag;
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
pub mod signal;
pub mod status;
