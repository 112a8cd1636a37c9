//! Step 11 of 12: who is sent next, when, and what follows from the answer. [`order`] and [`retry`] decide.

pub mod order;
pub mod retry;
