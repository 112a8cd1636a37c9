//! edge-agent: the daemon at the door. See `docs/architecture.md` for the life of a tap.

pub mod clock;
pub mod config;
pub mod identity;
pub mod log;
pub mod outbox;
pub mod relay;
pub mod signal;
