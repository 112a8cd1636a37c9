//! The log's other end stands still, and then is not there. It would catch an agent whose taps wait for their log lines, and a
//! unit that goes when journald goes.
//!
//! The agent logs each tap here (`run --verbose`), and while journald is frozen its socket is filled to the brim, so that
//! whoever writes to it waits: that somebody else does wait is looked at first.

use std::time::Duration;

use anyhow::ensure;

use super::{Stage, drop_in};
use crate::door::{Door, Wishes};
use crate::report::Figure;
use crate::taps;

/// Taps in each state.
const SOME: usize = 100;

/// What a machine of software may take its time for.
const LONGEST: Duration = Duration::from_secs(3);

/// A line for each tap.
const TALKATIVE: &str = "[Service]\nExecStart=\nExecStart=/usr/bin/edge-agent run --verbose --config /etc/edge-agent/edge-agent.toml";

/// Lines until journald's socket takes no more from anybody, and how many these were. Each sender has an allowance of its own,
/// which is over sooner.
const FILL: &str = r#"perl -MIO::Socket::UNIX -MSocket -e '
my ($lines, $taken) = (0, 1);
while ($taken) {
    my $sender = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => "/run/systemd/journal/socket") or die "no journald: $!\n";
    $sender->blocking(0);
    $taken = 0;
    $taken++ while send $sender, "MESSAGE=full\n", 0;
    $!{EAGAIN} or die "journald: $!\n";
    $lines += $taken;
}
print "$lines\n"'"#;

/// Another program that wants to log: 124 is "still waiting".
const WAITS: &str = r#"timeout 2 perl -MIO::Socket::UNIX -MSocket -e 'IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => "/run/systemd/journal/socket")->send("MESSAGE=waits")'"#;

/// Frozen, stopped, and back.
pub fn stops(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut door = Door::open(stage, &Wishes::default())?;
    door.guest.run(&format!("{}\nsystemctl restart edge-agent", drop_in("talkative", TALKATIVE)))?;
    door.wait_until_open()?;
    let process = door.property("MainPID")?;
    let people = door.people(Duration::from_millis(20))?;
    let mut from = door.wait_for_taps(people, 0, SOME)?;
    let logged = door.guest.run("journalctl --no-pager -o cat -u edge-agent | grep -c 'tap recorded'")?;
    stage.step("freezing journald");
    door.guest.run("systemctl kill -s STOP systemd-journald")?;
    let filled = door.guest.run(FILL)?;
    let (code, said) = door.guest.ask(WAITS)?;
    ensure!(code == 124, "journald is frozen and full, and who logs does not wait for it ({code}): {said}");
    from = door.wait_for_taps(people, from, SOME)?;
    let sockets = "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket";
    let states = [
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
        Figure::words("lines about taps before it was frozen", logged.trim()),
        Figure::words("lines that filled the frozen one's socket", filled.trim()),
        Figure::seconds("longest time without a green light", gap),
        Figure::count("accepted taps, none missing", taps::accepted(&told).len()),
    ])
}
