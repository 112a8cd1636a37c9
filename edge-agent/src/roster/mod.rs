//! Beside the line: the cloud's list of badges, for the light at the door and for nothing else. Whether a tap is recorded
//! never depends on anything in here.
//!
//! [`assembler`] says what to ask for, [`keeper`] has what came on the disk, and a [`book::Book`] is what is looked up.

pub mod assembler;
pub mod book;
pub mod keeper;
