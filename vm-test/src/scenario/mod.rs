//! What is done to a booted Debian, and what must hold: one file per kind of trouble. Knows the order; nothing of how.

use std::path::{Path, PathBuf};

use crate::image::Image;
use crate::packages::Packages;
use crate::report::Figure;

mod clock;
mod full_disk;
mod install;
mod journald;
mod power_cut;
mod restarts;
mod upgrade;

/// Something that is done, and what must hold.
pub struct Scenario {
    /// For `--only`.
    pub name: &'static str,
    /// In a sentence.
    pub promise: &'static str,
    /// Does it. What broke is the error.
    pub play: fn(&Stage<'_>) -> anyhow::Result<Vec<Figure>>,
    /// With each of these in the guest, it must break: otherwise it sees nothing.
    pub faults: &'static [Fault],
}

/// Something that is wrong on purpose, put into the guest when the packages have been installed.
pub struct Fault {
    /// In words.
    pub what: &'static str,
    /// How it gets there.
    pub plant: Plant,
    /// What the failure must say; anything else is another failure.
    pub breaks_with: &'static str,
}

/// How a fault gets into the guest.
pub enum Plant {
    /// Lines that overrule the agent's unit.
    DropIn(&'static str),
    /// A script, as root.
    Script(&'static str),
}

impl Fault {
    /// Whether a scenario that saw this saw the fault, and what it said.
    ///
    /// # Errors
    ///
    /// When all seemed well, or something else was wrong.
    pub fn judge(&self, seen: Result<Vec<Figure>, String>) -> Result<Vec<Figure>, String> {
        match seen {
            Ok(_) => Err(format!("with {}, nothing was noticed", self.what)),
            Err(why) if why.contains(self.breaks_with) => {
                let line = why.lines().find(|line| line.contains(self.breaks_with));
                Ok(vec![Figure::words("it says", line.unwrap_or_default())])
            }
            Err(why) => Err(format!("it broke, but not by the fault: {why}")),
        }
    }
}

impl Plant {
    /// What is run in the guest.
    pub fn script(&self) -> String {
        match self {
            Plant::Script(script) => (*script).to_owned(),
            Plant::DropIn(lines) => drop_in("fault", lines),
        }
    }
}

/// A script that overrules the agent's unit by these lines.
fn drop_in(name: &str, lines: &str) -> String {
    let folder = "/etc/systemd/system/edge-agent.service.d";
    format!("mkdir -p {folder}\ncat >{folder}/{name}.conf <<'END'\n{lines}\nEND\nsystemctl daemon-reload")
}

/// Where scenarios play.
pub struct Stage<'a> {
    /// The Debian.
    pub image: &'a Image,
    /// What is installed.
    pub packages: &'a Packages,
    /// For this scenario's files.
    pub folder: &'a Path,
    /// Where chance comes from.
    pub seed: u64,
    /// How many images a power cut is judged by.
    pub images: usize,
    /// What is wrong on purpose.
    pub fault: Option<&'static Fault>,
    /// Tells people how far it is.
    pub tell: &'a dyn Fn(&str),
}

impl Stage<'_> {
    /// A file of this scenario.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Tells people what is done next.
    pub fn step(&self, what: &str) {
        (self.tell)(what);
    }
}

/// All that there are, in the order in which they play.
pub const ALL: [Scenario; 10] = [
    Scenario {
        name: "install",
        promise: "installed with apt beside broker and cloud-ingest and enrolled, cards at the reader become stored taps inside the sandbox, and `check` finds nothing broken",
        play: install::from_nothing,
        faults: &[Fault {
            what: "a sandbox without the way to pcscd",
            plant: Plant::DropIn("[Service]\nInaccessiblePaths=-/run/pcscd"),
            breaks_with: "the virtual reader to be up",
        }],
    },
    Scenario {
        name: "kill",
        promise: "killed with SIGKILL while people tap, it is back within 5 s; no accepted tap is missing",
        play: restarts::kill,
        faults: &[Fault {
            what: "a unit that waits 10 s before it starts again",
            plant: Plant::DropIn("[Service]\nRestartSec=10s"),
            breaks_with: "nobody saw green for",
        }],
    },
    Scenario {
        name: "hang",
        promise: "when it hangs, the watchdog restarts it; no accepted tap is missing",
        play: restarts::hang,
        faults: &[Fault {
            what: "a unit without a watchdog",
            plant: Plant::DropIn("[Service]\nWatchdogSec=0"),
            breaks_with: "systemd to restart it",
        }],
    },
    Scenario {
        name: "reboot",
        promise: "rebooted while people tap, it comes back by itself; no accepted tap is missing",
        play: restarts::reboot,
        faults: &[
            Fault {
                what: "a unit that is not enabled",
                plant: Plant::Script("systemctl disable edge-agent"),
                breaks_with: "the agent to answer",
            },
            Fault {
                what: "a boot that deletes the outbox",
                plant: Plant::Script("echo 'R! /var/lib/edge-agent/outbox' >/etc/tmpfiles.d/fault.conf"),
                breaks_with: "were accepted, and",
            },
        ],
    },
    Scenario {
        name: "power-cut",
        promise: "power cut while people tap, with unflushed writes dropped, halved or torn: no accepted tap is missing, nothing is damaged, and it goes on by itself",
        play: power_cut::with_barriers,
        faults: &[],
    },
    Scenario {
        name: "power-cut-control",
        promise: "on a disk mounted without barriers the agent takes no tap unless it is told to, and then the same cuts lose accepted taps: they would be noticed",
        play: power_cut::without_barriers,
        faults: &[],
    },
    Scenario {
        name: "clock-1970",
        promise: "booted with a clock in 1970, it records taps at once, says that the time is not known, and goes on when it is set",
        play: clock::in_1970,
        faults: &[Fault {
            what: "a unit that waits for the time",
            plant: Plant::DropIn(
                "[Service]\nExecStartPre=/bin/sh -c 'until test $$(date +%%Y) -ge 2031; do sleep 1; done'",
            ),
            breaks_with: "a timeout was exceeded",
        }],
    },
    Scenario {
        name: "full-disk",
        promise: "on a full disk it takes no tap and says so; with room again it goes on by itself; no accepted tap is missing",
        play: full_disk::fills_up,
        faults: &[Fault {
            what: "an agent that dies on a full disk",
            plant: Plant::Script(
                "systemd-run -q sh -c 'while sleep 1; do test $(stat -f -c %a /var/lib/edge-agent) -gt 0 || systemctl kill -s KILL edge-agent; done'",
            ),
            breaks_with: "restarts",
        }],
    },
    Scenario {
        name: "journald",
        promise: "with journald frozen, then stopped, taps are recorded as before by the same process",
        play: journald::stops,
        faults: &[Fault {
            what: "a unit that goes with journald",
            plant: Plant::DropIn("[Unit]\nPartOf=systemd-journald.service"),
            breaks_with: "waited for",
        }],
    },
    Scenario {
        name: "upgrade",
        promise: "upgraded with apt while people tap, it keeps its configuration and its outbox, and refuses the way back; no accepted tap is missing",
        play: upgrade::under_load,
        faults: &[
            Fault {
                what: "an upgrade that deletes the outbox",
                plant: Plant::Script(
                    "echo 'DPkg::Post-Invoke { \"rm -rf /var/lib/edge-agent/outbox; systemctl restart edge-agent\"; };' >/etc/apt/apt.conf.d/99fault",
                ),
                breaks_with: "were accepted, and",
            },
            Fault {
                what: "a package that lets older ones take its place",
                plant: Plant::Script(
                    "echo 'DPkg::Pre-Invoke { \"touch /etc/edge-agent/allow-downgrade\"; };' >/etc/apt/apt.conf.d/99fault",
                ),
                breaks_with: "an older package was taken",
            },
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_every_fault_says_how_it_is_noticed() {
        let mut names = ALL.map(|scenario| scenario.name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for scenario in &ALL {
            // Power cuts have a control of their own.
            assert_eq!(
                scenario.faults.is_empty(),
                scenario.name.starts_with("power-cut"),
                "{}",
                scenario.name
            );
            assert!(scenario.faults.iter().all(|fault| !fault.breaks_with.is_empty()), "{}", scenario.name);
        }
    }

    #[test]
    fn a_fault_is_noticed_by_its_own_words_only() {
        let fault = Fault { what: "a hole", plant: Plant::Script("true"), breaks_with: "it leaks" };
        assert!(fault.judge(Err("after a while it leaks\nbadly".into())).is_ok());
        assert_eq!(fault.judge(Ok(Vec::new())).unwrap_err(), "with a hole, nothing was noticed");
        assert!(fault.judge(Err("no qemu".into())).unwrap_err().contains("no qemu"));
    }

    #[test]
    fn a_drop_in_overrules_the_unit() {
        let script = Plant::DropIn("[Service]\nRestartSec=10s").script();
        assert!(
            script.contains("edge-agent.service.d/fault.conf") && script.contains("\nRestartSec=10s\nEND\n")
        );
    }
}
