//! Beside the line: who is who. Knows badges and persons; the only part of the cloud that sees a badge's clear number.

pub mod badges;
pub mod direction;
pub mod moment;
pub mod printed;
pub mod profile;
pub mod reseal;
pub mod timeline;
pub mod unknown;
