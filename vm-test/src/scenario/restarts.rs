//! The process dies, hangs, or the whole machine is rebooted, each while people tap. It would catch a unit without a restart
//! or a watchdog, one that is not enabled, and taps that were green and not yet on the disk.
//!
//! How long nobody sees green is told by those who tap, by the guest's own clock. It is not scaled: a machine of software is
//! slow, and its five seconds are five seconds all the same.

use std::time::Duration;

use anyhow::ensure;

use super::Stage;
use crate::door::{Door, LastStart, Wishes, told};
use crate::report::Figure;
use crate::taps::{self, Told};

/// A pause between taps that leaves the machine time for other things.
const PAUSE: Duration = Duration::from_millis(20);

/// What a door may be dead for after its process was killed.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// How often it is killed.
const KILLS: usize = 5;

/// The watchdog's 30 s, and the 15 s that a process has which is told to abort, and as long as after a kill.
const UNHUNG_WITHIN: Duration = Duration::from_secs(50);

/// Taps before and after trouble.
const SOME: usize = 25;

/// SIGKILL, several times.
pub fn kill(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut door = Door::open(stage, &Wishes::default())?;
    let people = door.people(PAUSE)?;
    let mut from = door.wait_for_taps(people, 0, SOME)?;
    let mut starts = Vec::new();
    for n in 1..=KILLS {
        stage.step(&format!("killing it, {n} of {KILLS}"));
        door.guest.run("systemctl kill -s KILL --kill-whom=main edge-agent")?;
        let away = |line: &crate::guest::Line| matches!(Told::parse(&line.text), Some(Told::Away { .. }));
        from = door.guest.wait_for_lines(people, "the agent to be gone", BACK_WITHIN * 4, |lines| {
            lines.get(from..).unwrap_or_default().iter().any(away)
        })?;
        from = door.wait_for_taps(people, from, SOME)?;
        starts.push(door.last_start()?);
    }
    let longest = |part: fn(&LastStart) -> Duration| starts.iter().map(part).max().unwrap_or_default();
    let told = door.settle(people)?;
    let gap = taps::longest_gap(&told);
    ensure!(gap <= BACK_WITHIN, "nobody saw green for {gap:?} after a kill");
    let restarts = door.property("NRestarts")?;
    ensure!(restarts == KILLS.to_string(), "systemd counts {restarts} restarts");
    Ok(vec![
        Figure::count("kills", KILLS),
        Figure::seconds("longest time without a green light", gap),
        Figure::seconds("of such, from its death to systemd's next start", longest(|start| start.dead)),
        Figure::seconds("from that start to READY", longest(|start| start.starting)),
        Figure::count("accepted taps, none missing", taps::accepted(&told).len()),
    ])
}

/// SIGSTOP: it is there and does nothing.
pub fn hang(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut door = Door::open(stage, &Wishes::default())?;
    let people = door.people(PAUSE)?;
    let from = door.wait_for_taps(people, 0, SOME)?;
    stage.step("stopping it, and waiting for the watchdog");
    door.guest.run("systemctl kill -s STOP --kill-whom=main edge-agent")?;
    door.guest.until(
        "systemd to restart it",
        UNHUNG_WITHIN * 2,
        "test \"$(systemctl show --value -p NRestarts edge-agent)\" -ge 1",
    )?;
    door.wait_for_taps(people, from, SOME * 2)?;
    let told = door.settle(people)?;
    let gap = taps::longest_gap(&told);
    ensure!(gap <= UNHUNG_WITHIN, "nobody saw green for {gap:?} after it hung");
    let why = door
        .guest
        .run("journalctl --no-pager -o cat -u edge-agent | grep -i 'watchdog timeout' | head -n 1")?;
    ensure!(why.to_lowercase().contains("watchdog timeout"), "systemd says: {why}");
    Ok(vec![
        Figure::words("systemd says", why.trim()),
        Figure::seconds("time without a green light", gap),
        Figure::count("accepted taps, none missing", taps::accepted(&told).len()),
    ])
}

/// `systemctl reboot`.
pub fn reboot(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut door = Door::open(stage, &Wishes::default())?;
    let people = door.people(Duration::ZERO)?;
    door.wait_for_taps(people, 0, SOME)?;
    stage.step("rebooting");
    door.guest.begin("systemctl reboot")?;
    door.guest.wait_for_boot(2)?;
    let before = told(&door.guest.lines(people));
    door.wait_until_open()?;
    door.holds(&before)?;
    stage.step("tapping again");
    let people = door.people(Duration::ZERO)?;
    door.wait_for_taps(people, 0, SOME)?;
    let after = door.settle(people)?;
    let [last, first] = [
        taps::accepted(&before).into_iter().max().unwrap_or_default(),
        taps::accepted(&after).into_iter().min().unwrap_or_default(),
    ];
    ensure!(first > last, "the tap after the reboot has number {first}, the last one before it {last}");
    ensure!(door.property("NRestarts")? == "0", "it started more than once after the reboot");
    Ok(vec![
        Figure::count("accepted before the reboot, none missing", taps::accepted(&before).len()),
        Figure::count("accepted after it", taps::accepted(&after).len()),
    ])
}
