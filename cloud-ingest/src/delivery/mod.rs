//! Step 11 of 12: which delivery is next for which destination, and when.

pub mod order;
