//! cloud-ingest takes taps in, stores them for good and delivers them to the legacy attendance API.

pub mod admin;
pub mod api;
pub mod archive;
pub mod backoff;
pub mod ca;
pub mod capture;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash;
pub mod delivery;
pub mod destination;
pub mod directory;
pub mod enrolment;
pub mod event_store;
#[cfg(test)]
mod fixture;
pub mod health;
pub mod import;
pub mod intake;
pub mod keyring;
pub mod lock;
pub mod loops;
pub mod read_model;
pub mod receipts;
pub mod rereading;
pub mod roles;
pub mod roll;
pub mod roster;
pub mod seldom;
pub mod serve;
pub mod service_manager;
pub mod stop;
pub mod telemetry;
pub mod tls_listener;
#[cfg(test)]
mod turns_tests;
pub mod usher;
pub mod watch;
pub mod watchdog;
