//! A PostgreSQL to try things on: prints where it is, and is gone without a trace when this ends.

use std::io;

use postgres_rig::Cluster;

fn main() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    println!("{}", cluster.url(&cluster.new_database()));
    // Until Ctrl-C, or the end of what we are told.
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}
