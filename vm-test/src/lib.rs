//! Tapline's packages on a booted Debian, in a machine of software: what only a kernel, systemd, apt and a disk that loses
//! power can show. `./dev vm-test` runs it; it knows the packages by what a person can type, and nothing of their insides.
//!
//! | module | what it does |
//! |---|---|
//! | [`block_log`] ◇ | reads what qemu wrote down of every write and flush |
//! | [`power_cut`] ◇ | which of these writes a power cut leaves on the disk |
//! | [`console`] ◇ | the words between this machine and the one in software |
//! | [`taps`] ◇ | what the guest was told about each tap |
//! | [`report`] | what was shown, for people and for programs |
//! | [`host`] | programs of this machine |
//! | [`image`] | makes the Debian, once |
//! | [`packages`] | the `.deb`s, and an apt repository of them |
//! | [`guest`] | starts a machine, talks to it, cuts its power |
//! | [`door`] | a machine with edge-agent installed, and people tapping |
//! | [`outbox`] | asks `edge-agent` what is in an outbox that was taken off a disk |
//! | [`scenario`] | what is done to it, and what must hold |

pub mod block_log;
pub mod console;
pub mod door;
pub mod guest;
pub mod host;
pub mod image;
pub mod outbox;
pub mod packages;
pub mod power_cut;
pub mod report;
pub mod scenario;
mod stopwatch;
pub mod taps;
