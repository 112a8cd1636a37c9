//! Steps 7 and 8 of 12: how records come in, and which of them are stored.

pub mod admit;
pub mod verify;
