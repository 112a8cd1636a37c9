//! A real PostgreSQL on a loopback port of its own; it doesn't know what is stored.

use std::net::{Ipv4Addr, SocketAddr};

pub use postgres_rig::Cluster as Postgres;
use postgres_rig::Options;

use super::free_port;

/// Starts one that syncs, maybe with its databases on a disk of so many megabytes. Starting, killing and stopping take a tenth of a second or two, and wait on this thread.
///
/// # Errors
///
/// When it isn't installed or doesn't start; the end of its log is part of the message.
pub fn start_postgres(small_disk_mb: Option<u32>) -> anyhow::Result<(Postgres, SocketAddr)> {
    let port = free_port();
    let cluster = Postgres::start_with(Options { port: Some(port), small_disk_mb, ..Options::default() })?;
    Ok((cluster, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}
