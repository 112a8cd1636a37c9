//! Beside the line: who may know which badges. Rosters are made of the directory's badges and brought to the doors, where
//! they decide the light and nothing else.
//!
//! [`edition`] is a roster ready for the wire, [`rounds`] says who is sent what and when, [`librarian`] does it.

pub mod edition;
pub mod librarian;
pub mod rounds;
