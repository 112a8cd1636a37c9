//! Somebody else fills the disk to the last byte, and makes room again. It would catch a green light for a tap that is not on
//! the disk, an agent that dies of it, and one that has to be started again by hand.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Stage;
use crate::door::{Door, Wishes, empty_state_disk, told};
use crate::guest::Disk;
use crate::report::Figure;
use crate::taps::{self, Told};

/// Taps before and after.
const SOME: usize = 25;

/// To notice that there is no room, or room again.
const NOTICED_WITHIN: Duration = Duration::from_secs(120);

/// The state folder's disk, and with it the whole system's.
pub fn fills_up(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let disk = Some(Disk::Plain(empty_state_disk(stage)?));
    let mut door = Door::open(stage, &Wishes { disk, ..Wishes::default() })?;
    let people = door.people(Duration::from_millis(20))?;
    let from = door.wait_for_taps(people, 0, SOME)?;
    stage.step("filling the disk");
    // As root, who may have what is kept back from others, too.
    let fill = "for folder in /var/lib/edge-agent /; do\n  free=$(stat -f -c '%a * %S' $folder)\n  fallocate -l $((free - 65536)) $folder/filler || true\n  cat /dev/zero >>$folder/filler 2>/dev/null || true\ndone\nstat -f -c %a /var/lib/edge-agent";
    let free = door.guest.run(fill)?;
    ensure!(free.trim() == "0", "the disk is not full: {free}");
    let refusal = |lines: &[crate::guest::Line]| {
        told(lines).into_iter().find_map(|told| match told {
            Told::Refused { why, .. } => Some(why),
            Told::Accepted { .. } | Told::Away { .. } => None,
        })
    };
    door.guest.wait_for_lines(people, "a tap to be refused", NOTICED_WITHIN, |lines| {
        refusal(lines.get(from..).unwrap_or_default()).is_some()
    })?;
    let full = door.guest.lines(people).len();
    let why = refusal(&door.guest.lines(people)).context("a tap was refused")?;
    stage.step("making room again");
    door.guest.run("rm /var/lib/edge-agent/filler /filler")?;
    door.wait_for_taps(people, full, SOME)?;
    let told = door.settle(people)?;
    let restarts = door.property("NRestarts")?;
    ensure!(restarts == "0", "systemd counts {restarts} restarts");
    Ok(vec![
        Figure::words("blocks left for anybody", free.trim()),
        Figure::words("people were told", why),
        Figure::count("accepted taps, none missing", taps::accepted(&told).len()),
    ])
}
