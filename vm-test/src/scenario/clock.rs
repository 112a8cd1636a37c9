//! A controller without a battery behind its clock: it boots, and it is 1970. It would catch a unit that waits for the time,
//! taps that do, and a door that stands still when the clock makes a leap of decades.

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
    door.wait_for_taps(people, 0, SOME)?;
    let unknown = taps_time(&mut door)?;
    let booted = door.settle(people)?;
    stage.step("starting the agent in 1970");
    // What other systems than systemd would have made of it. Linux takes no time that is shorter than its uptime.
    door.guest.run("date --utc --set '1970-01-01 12:00:00' >/dev/null\nsystemctl restart edge-agent")?;
    door.wait_until_open()?;
    let year = door.guest.run("date --utc +%Y")?;
    ensure!(year.trim() == "1970", "it is {year}");
    let people = door.people(Duration::from_millis(20))?;
    let from_1970 = door.wait_for_taps(people, 0, SOME)?;
    let in_1970 = taps_time(&mut door)?;
    stage.step("setting the clock");
    door.guest.run("date --utc --set '2031-05-06 07:08:09' >/dev/null")?;
    door.wait_for_taps(people, from_1970, SOME)?;
    // Somebody has set it, and nobody vouches for it.
    let set = taps_time(&mut door)?;
    let told = door.settle(people)?;
    let gap = taps::longest_gap(&told);
    ensure!(gap < Duration::from_secs(5), "nobody saw green for {gap:?} when the clock was set");
    let times = format!("{unknown}; in 1970: {in_1970}; when it was set by hand: {set}");
    Ok(vec![
        Figure::words("hardware clock at boot", rtc),
        Figure::words("systemd made of it", shown),
        Figure::words("the true time of taps comes from", times),
        Figure::seconds("longest time without a green light while it was set to 2031", gap),
        Figure::count(
            "accepted taps, none missing",
            taps::accepted(&booted).len() + taps::accepted(&told).len(),
        ),
    ])
}

/// Where the true time of taps comes from, by `edge-agent clock`; that it is not known must be its exit code, too.
fn taps_time(door: &mut Door) -> anyhow::Result<String> {
    let (code, said) = door.guest.ask("edge-agent clock --output json 2>/dev/null")?;
    let clock: Value = serde_json::from_str(&said).context("edge-agent clock says JSON")?;
    let from = clock["taps"].as_str().context("edge-agent clock speaks of taps")?;
    ensure!(code == 1 && from == "nothing", "edge-agent clock ends with {code} and says {clock}");
    Ok(from.to_owned())
}
