//! Step 7 of 12, over HTTP, while the store is away: a bounded spool on the local disk.

pub mod frames;
pub mod shelf;
