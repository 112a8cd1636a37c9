//! A fresh cluster's files, made once per machine and copied from then on: a copy takes a sixth of the time.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use rustix::process::geteuid;

use crate::SUPERUSER;
use crate::installed::{hand_over, run, unprivileged};

/// How a cluster is made. No locale but these two comes with every Debian; ICU brings the order of a customer's server.
const HOW: [&str; 9] = [
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C.UTF-8",
    "--locale-provider=icu",
    "--icu-locale=en-US",
    "--no-instructions",
    "--no-sync",
    "--wal-segsize=4",
    "--username",
];

/// Changes with [`HOW`] and with what Debian's package writes into a cluster.
const EDITION: u32 = 1;

/// Fills `folder`, which isn't there yet, with the files of a cluster that never ran.
pub(crate) fn unpack(folder: &Path) -> anyhow::Result<()> {
    let Some(cache) = cache() else { return init(folder) };
    if !cache.exists() {
        fill(&cache)?;
    }
    // `cp` keeps owner and modes, which the server is particular about.
    run(Command::new("cp").arg("--archive").arg(&cache).arg(folder)).map(drop)
}

fn init(folder: &Path) -> anyhow::Result<()> {
    run(unprivileged("initdb")?.args(HOW).arg(SUPERUSER).arg("--pgdata").arg(folder))
        .context("making a PostgreSQL cluster")
        .map(drop)
}

/// Under the target folder of whatever runs this, where `cargo clean` removes it.
fn cache() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists())?;
    Some(target.join("postgres-rig").join(format!("15-{EDITION}-{}", geteuid().as_raw())))
}

/// Processes that come at the same time each make one; the first one's stays.
fn fill(cache: &Path) -> anyhow::Result<()> {
    let shelf = cache.parent().context("the cache has a parent")?;
    fs::create_dir_all(shelf).with_context(|| format!("making {}", shelf.display()))?;
    let workshop = tempfile::tempdir().context("making a temporary folder")?;
    hand_over(workshop.path())?;
    let made = workshop.path().join("data");
    init(&made)?;
    // Beside its place first, because only inside one file system a folder moves at once.
    let beside = tempfile::tempdir_in(shelf)?;
    run(Command::new("cp").arg("--archive").arg(&made).arg(beside.path()))?;
    match fs::rename(beside.path().join("data"), cache) {
        Err(_) if cache.exists() => Ok(()),
        done => done.with_context(|| format!("moving a cluster to {}", cache.display())),
    }
}
