//! Another wall clock, another word of the kernel about it, other boots, another machine: for one program, while the machine keeps its
//! own. It doesn't know which program.
//!
//! The wall clock, `adjtimex` and the boot id come from a small library in front of libc (`fake_clock.c`, built by gcc
//! when it is needed); `CLOCK_BOOTTIME` begins anew in a time namespace, which needs root and a kernel that lets a
//! program into one when it is executed (Linux 6.2).

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::stopwatch;

/// One program's clock and boots.
#[derive(Debug)]
pub struct FakeClock {
    folder: PathBuf,
    boots: u8,
    /// CLOCK_BOOTTIME of the machine when the boot began; a time namespace takes whole seconds.
    booted_s: u64,
}

impl FakeClock {
    /// A clock that is right and that nobody vouches for, in a first boot.
    ///
    /// # Errors
    ///
    /// When there is no C compiler, or the folder cannot be written.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let folder = dir.join("fake-clock");
        fs::create_dir_all(&folder)?;
        let source = folder.join("fake_clock.c");
        fs::write(&source, include_str!("fake_clock.c"))?;
        let built = Command::new("gcc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(folder.join("fake_clock.so"))
            .arg(&source)
            .output()
            .context("gcc is installed")?;
        ensure!(built.status.success(), "gcc: {}", String::from_utf8_lossy(&built.stderr));
        let mut clock = Self { folder, boots: 0, booted_s: 0 };
        clock.shows(true_utc_ms(), false)?;
        clock.reboot().await?;
        Ok(clock)
    }

    /// The wall clock is set to this; `vouched` is what the kernel says of it from now on.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn shows(&self, wall_ms: i64, vouched: bool) -> anyhow::Result<()> {
        let offset_ms = wall_ms - true_utc_ms();
        self.put("wall", &format!("{offset_ms} {}", u8::from(vouched)))
    }

    /// What is started from now on is on another machine.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn on_machine(&self, id: &str) -> anyhow::Result<()> {
        self.put("machine", id)
    }

    /// The power is gone until the next whole second; then another boot begins: another boot id, and boottime from
    /// zero. What is started from now on is in it.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub async fn reboot(&mut self) -> anyhow::Result<()> {
        let now_us = stopwatch::boottime_us();
        self.boots += 1;
        self.booted_s = now_us / 1_000_000 + 1;
        tokio::time::sleep(Duration::from_micros(self.booted_s * 1_000_000 - now_us)).await;
        let n = self.boots;
        self.put("boot_id", &format!("0000000{n}-0000-4000-8000-00000000000{n}\n"))
    }

    /// What a program needs in its environment.
    pub fn env(&self) -> [(String, String); 2] {
        let path = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD".into(), path(&self.folder.join("fake_clock.so"))),
            ("TAPLINE_FAKE_CLOCK".into(), path(&self.folder)),
        ]
    }

    /// What a program is started by, so that its boottime is that of the boot.
    pub fn starter(&self) -> Vec<OsString> {
        ["unshare", "--time", &format!("--boottime=-{}", self.booted_s), "--"].map(OsString::from).to_vec()
    }

    /// At once or not at all: a program may look at any moment.
    fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let new = self.folder.join(format!("{name}.new"));
        fs::write(&new, text)?;
        fs::rename(new, self.folder.join(name))?;
        Ok(())
    }
}

/// The machine's own clock, milliseconds since 1970-01-01 UTC: the truth, as far as tests are concerned.
pub fn true_utc_ms() -> i64 {
    stopwatch::utc_ms()
}
