//! Private PostgreSQL clusters for tests: started in a temporary folder, killed, frozen, and gone with the process.
//!
//! ```no_run
//! let cluster = postgres_rig::shared();
//! let url = cluster.url(&cluster.new_database());
//! ```
//!
//! The crate knows no product code and stands apart so that `cloud-ingest` and `testbench` can both use it. It runs
//! Debian's PostgreSQL 15 (package `postgresql-15`) and touches neither Debian's own clusters nor `/etc`.
//!
//! A cluster has the locale of a customer's server, in which text is *not* ordered by its bytes: a store that relies on
//! that fails here and not there.

mod cluster;
mod guard;
mod installed;
mod template;

use std::sync::LazyLock;

pub use cluster::{Cluster, Options};

/// The superuser of every cluster; nobody is asked for a password.
pub const SUPERUSER: &str = "tapline";

/// This process's cluster, started by whoever asks first. It ends with the process, however that ends.
///
/// It doesn't sync: what survives a crash is not for those to find out who share it, and creating databases takes half
/// the time.
///
/// # Panics
///
/// When PostgreSQL isn't installed or doesn't start.
pub fn shared() -> &'static Cluster {
    static SHARED: LazyLock<Cluster> = LazyLock::new(|| {
        let options = Options { fsync: false, ..Options::default() };
        Cluster::start_with(options).expect("a PostgreSQL cluster for the tests of this process starts")
    });
    &SHARED
}
