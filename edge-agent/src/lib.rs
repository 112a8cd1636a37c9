//! Placeholder.

pub mod admission;
pub mod reader;
