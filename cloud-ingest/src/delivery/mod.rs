//! Step 11 of 12: who is sent next, when, and what follows from the answer. [`order`] and [`retry`] decide, [`dispatch`]
//! acts.

pub mod dispatch;
pub mod order;
pub mod retry;
