//! A controller without a battery behind its clock: it boots, and it is 1970.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Stage;
use crate::door::{Door, Wishes};
use crate::report::Figure;
use crate::taps;

/// Taps before and after the clock is set.
const SOME: usize = 25;

/// No time, then a time.
pub fn in_1970(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut door = Door::open(stage, &Wishes { clock: Some("1970-01-01"), ..Wishes::default() })?;
    // systemd never shows a time before its own release.
    let shown = door.guest.run("date --utc +%F")?.trim().to_owned();
    let rtc = door.guest.run("cat /sys/class/rtc/rtc0/date")?.trim().to_owned();
    ensure!(rtc == "1970-01-01", "the hardware clock shows {rtc}");
    let people = door.people(Duration::from_millis(20))?;
    let from = door.wait_for_taps(people, 0, SOME)?;
    let clock: Value = serde_json::from_str(&door.guest.run("edge-agent clock --output json || true")?)
        .context("edge-agent clock says JSON")?;
    stage.step("setting the clock");
    door.guest.run("date --utc --set '2031-05-06 07:08:09' >/dev/null")?;
    door.wait_for_taps(people, from, SOME)?;
    let told = door.settle(people)?;
    let gap = taps::longest_gap(&told);
    ensure!(gap < Duration::from_secs(5), "nobody saw green for {gap:?} when the clock was set");
    Ok(vec![
        Figure::words("hardware clock at boot", rtc),
        Figure::words("the system made of it", shown),
        Figure::words("edge-agent clock", clock.to_string()),
        Figure::seconds("longest time without a green light while it was set", gap),
        Figure::count("accepted taps, none missing", taps::accepted(&told).len()),
    ])
}
