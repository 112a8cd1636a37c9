//! edge-agent: the daemon at the door. See `docs/architecture.md` for the life of a tap.

pub mod admission;
pub mod agent;
pub mod anchors;
pub mod broker_link;
pub mod clock;
pub mod clock_watch;
pub mod config;
pub mod control;
pub mod identity;
pub mod log;
pub mod now;
pub mod outbox;
pub mod reader;
pub mod relay;
pub mod signal;
pub mod status;
