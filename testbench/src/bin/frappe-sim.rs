//! `frappe-sim`: the Frappe HR site of [`testbench::frappe_sim`] as a process; it knows only how to start it.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use testbench::frappe_sim::{FrappeSim, ShiftType, Site};

/// A Frappe HR site, as far as check-ins go. Loopback only. Its user is `key:secret`.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// So many people: the one with the device id 1 is HR-EMP-00001, and so on. All work the shift `Day`.
    #[arg(long, default_value_t = 100)]
    employees: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    anyhow::ensure!(args.listen.ip().is_loopback(), "{} isn't a loopback address", args.listen);
    let today = jiff::Zoned::now().date();
    let mut site = Site::with_employees(args.employees);
    site.shift_types.push(ShiftType::day("Day", today));
    for employee in &mut site.employees {
        employee.shift = Some("Day".into());
    }
    let sim =
        FrappeSim::start(args.listen, site).await.with_context(|| format!("listening on {}", args.listen))?;
    println!("listening on {}", sim.url());
    tokio::signal::ctrl_c().await.context("waiting for an interrupt")
}
