//! Real readers: the real pcscd with virtual cards, serial ports on ptys, and everything that goes wrong with them.
//! Needs root, for pcscd's namespaces.

mod by_hand;
mod cards;
mod doorway;
mod lamps;
mod outages;
mod serial_lines;
