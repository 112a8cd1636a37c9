//! Step 11 of 12: who is sent next, when, and what follows from the answer. [`order`] says who is head of its line,
//! [`class`] which kind of work is next, [`limiter`] and [`breaker`] how much of it, [`retry`] what follows; [`ticks`] is
//! the time that replicas share, [`rules`] what one
//! destination's settings mean for them. [`complete`] says how far taps are complete. All of these decide; [`dispatch`] acts for one
//! destination, [`advance`] tells it how far it is complete, [`supervise`] has one of each for each.

pub mod advance;
pub mod breaker;
pub mod class;
pub mod complete;
pub mod dispatch;
pub mod limiter;
pub mod order;
pub mod retry;
pub mod rules;
pub mod supervise;
pub mod ticks;
