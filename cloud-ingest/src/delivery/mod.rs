//! Step 11 of 12: who is sent next, when, and what follows from the answer. [`retry`] decides, `dispatch` acts;
//! whose turn it is within an order key is the store's to keep.

pub mod retry;
