//! Placeholder.

pub mod reader;
