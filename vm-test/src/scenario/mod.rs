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
    },
    Scenario {
        name: "kill",
        promise: "killed with SIGKILL while people tap, it is back within 5 s; no accepted tap is missing",
        play: restarts::kill,
    },
    Scenario {
        name: "hang",
        promise: "when it hangs, the watchdog restarts it; no accepted tap is missing",
        play: restarts::hang,
    },
    Scenario {
        name: "reboot",
        promise: "rebooted while people tap, it comes back by itself; no accepted tap is missing",
        play: restarts::reboot,
    },
    Scenario {
        name: "power-cut",
        promise: "power cut while people tap, with unflushed writes dropped, halved or torn: no accepted tap is missing, nothing is damaged, and it goes on by itself",
        play: power_cut::with_barriers,
    },
    Scenario {
        name: "power-cut-control",
        promise: "on a disk mounted without barriers the agent takes no tap unless it is told to, and then the same cuts lose accepted taps: they would be noticed",
        play: power_cut::without_barriers,
    },
    Scenario {
        name: "clock-1970",
        promise: "booted with a clock in 1970, it records taps at once, says that the time is not known, and goes on when it is set",
        play: clock::in_1970,
    },
    Scenario {
        name: "full-disk",
        promise: "on a full disk it takes no tap and says so; with room again it goes on by itself; no accepted tap is missing",
        play: full_disk::fills_up,
    },
    Scenario {
        name: "journald",
        promise: "with journald frozen, then stopped, taps are recorded as before by the same process",
        play: journald::stops,
    },
    Scenario {
        name: "upgrade",
        promise: "upgraded with apt while people tap, it keeps its configuration and its outbox, and refuses the way back; no accepted tap is missing",
        play: upgrade::under_load,
    },
];
