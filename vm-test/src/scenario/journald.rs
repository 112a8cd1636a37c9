//! The log's other end stands still, and then is not there.

use std::time::Duration;

use anyhow::ensure;

use super::Stage;
use crate::door::{Door, Wishes};
use crate::report::Figure;
use crate::taps;

/// Taps in each state.
const SOME: usize = 100;

/// What a machine of software may take its time for.
const LONGEST: Duration = Duration::from_secs(3);

/// Frozen, stopped, and back.
pub fn stops(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut door = Door::open(stage, &Wishes::default())?;
    let process = door.property("MainPID")?;
    let people = door.people(Duration::from_millis(20))?;
    let mut from = door.wait_for_taps(people, 0, SOME)?;
    let sockets = "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket";
    let states = [
        ("freezing journald", "systemctl kill -s STOP systemd-journald".to_owned()),
        // One that is frozen cannot be stopped.
        (
            "stopping journald",
            format!("systemctl kill -s CONT systemd-journald\nsystemctl stop {sockets} systemd-journald"),
        ),
        ("starting journald", format!("systemctl start {sockets} systemd-journald")),
    ];
    for (what, script) in states {
        stage.step(what);
        door.guest.run(&script)?;
        from = door.wait_for_taps(people, from, SOME)?;
    }
    let told = door.settle(people)?;
    let gap = taps::longest_gap(&told);
    ensure!(gap <= LONGEST, "nobody saw green for {gap:?}");
    let after = door.property("MainPID")?;
    ensure!(after == process, "process {process} became {after}");
    Ok(vec![
        Figure::seconds("longest time without a green light", gap),
        Figure::count("accepted taps, none missing", taps::accepted(&told).len()),
    ])
}
