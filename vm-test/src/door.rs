//! A booted Debian that becomes a door: edge-agent installed with apt, configured by hand, and people tapping. Knows what a
//! person types; nothing of qemu.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::guest::{Disk, Guest, Job, Line, Machine};
use crate::outbox::Verified;
use crate::scenario::Stage;
use crate::taps::{self, Told};

/// The agent starts in a second where a processor is a processor.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// How long people tap until so many were accepted: some ten a second in software, on a busy machine.
const TAPS_WITHIN: Duration = Duration::from_secs(300);

/// What a disk for the state folder has room for: enough for the free space that the agent leaves to others.
pub const STATE_BYTES: u64 = 64 << 20;

/// What is special about a door; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The state folder is on this disk, with the label `state`.
    pub disk: Option<Disk>,
    /// How that disk is mounted, besides as always.
    pub mount_options: &'static str,
    /// Goes into the agent's configuration.
    pub more: &'static str,
    /// What the hardware clock shows.
    pub clock: Option<&'static str>,
}

/// How the service came back, by the guest's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastStart {
    /// From the end of the old process to the start of the new one.
    pub dead: Duration,
    /// From there until it said that it was ready.
    pub starting: Duration,
}

/// A door.
#[derive(Debug)]
pub struct Door {
    /// The machine behind it.
    pub guest: Guest,
}

impl Door {
    /// Boots a fresh Debian, installs the agent there, and provisions it by hand.
    ///
    /// # Errors
    ///
    /// When a step fails.
    pub fn open(stage: &Stage<'_>, wishes: &Wishes) -> anyhow::Result<Door> {
        let mut door = Door::boot(stage, wishes)?;
        stage.step("installing with apt");
        door.guest.run("DEBIAN_FRONTEND=noninteractive apt-get -qq -y install edge-agent")?;
        door.plant(stage)?;
        door.configure(wishes.more)?;
        Ok(door)
    }

    /// Boots a fresh Debian, where nothing is installed and the packages are on offer.
    ///
    /// # Errors
    ///
    /// When a step fails.
    pub fn boot(stage: &Stage<'_>, wishes: &Wishes) -> anyhow::Result<Door> {
        stage.step("booting");
        let mut door = Door {
            guest: Guest::boot(&Machine {
                image: stage.image,
                xfer: &stage.packages.disk(),
                disk: wishes.disk.clone().unwrap_or(Disk::None),
                clock: wishes.clock,
                console: stage.file("console.log"),
            })?,
        };
        if wishes.disk.is_some() {
            let options = if wishes.mount_options.is_empty() { "defaults" } else { wishes.mount_options };
            door.guest.run(&format!(
                "echo 'LABEL=state /var/lib/edge-agent ext4 {options} 0 2' >>/etc/fstab\nmkdir -p /var/lib/edge-agent\nmount /var/lib/edge-agent"
            ))?;
        }
        door.offer("now")?;
        Ok(door)
    }

    /// Puts the stage's fault into the guest, if there is one.
    ///
    /// # Errors
    ///
    /// When the guest does not take it.
    pub fn plant(&mut self, stage: &Stage<'_>) -> anyhow::Result<()> {
        let Some(fault) = stage.fault else { return Ok(()) };
        stage.step(&format!("planting a fault: {}", fault.what));
        self.guest.run(&fault.plant.script()).context("planting a fault").map(drop)
    }

    /// From now on, apt sees the repository of this name and no other.
    ///
    /// # Errors
    ///
    /// When apt does not like it.
    pub fn offer(&mut self, repository: &str) -> anyhow::Result<()> {
        self.guest
            .run(&format!(
                "rm -rf /etc/apt/sources.list.d/*\necho 'deb [trusted=yes] file:/run/xfer/{repository} ./' >/etc/apt/sources.list\napt-get -qq update"
            ))
            .map(drop)
    }

    /// A controller that is provisioned by hand, with a virtual reader, and a broker that is not there.
    fn configure(&mut self, more: &str) -> anyhow::Result<()> {
        self.guest.run(&format!(
            r#"
# On the disk that stays, so that it is the same controller when another machine boots with it.
mkdir -p /etc/edge-agent/conf.d /var/lib/edge-agent/keys
cd /var/lib/edge-agent/keys
if ! test -e record.key; then
  edge-agent keys create --record-key-file record.key
  printf '11%.0s' $(seq 32) >receipt.pub
fi
chown -R edge-agent: /var/lib/edge-agent && chmod 600 ./* && chmod 700 . && sync
# Root's alone: systemd hands it to the service.
mkdir -p -m 700 /etc/credstore
(umask 077 && printf '5a%.0s' $(seq 32) >/etc/credstore/edge-agent.token.key)
cat >/etc/edge-agent/conf.d/50-door.toml <<'END'
controller = "vm-door-1"
[broker]
url = "mqtt://127.0.0.1:1883"
[keys]
record_key_file = "/var/lib/edge-agent/keys/record.key"
token_key_file = "/run/credentials/edge-agent.service/token.key"
receipt_public_key_file = "/var/lib/edge-agent/keys/receipt.pub"
[[reader]]
name = "virtual"
pcsc = {{ match = "Virtual PCD 00 00" }}
{more}
END
edge-agent config check
systemctl reset-failed edge-agent || true
systemctl restart edge-agent
"#
        ))?;
        self.wait_until_open()
    }

    /// Waits until the agent runs and answers.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn wait_until_open(&mut self) -> anyhow::Result<()> {
        // With a problem it answers, and its exit code says so: here are no broker and, maybe, no time.
        let look = "systemctl is-active -q edge-agent && test -n \"$(edge-agent status --output json)\"";
        if let Err(error) = self.guest.until("the agent to answer", STARTS_WITHIN, look) {
            let (_, said) = self.guest.ask("journalctl --no-pager -n 30 -u edge-agent -o cat")?;
            bail!("{error:#}\nThe agent's last words:\n{said}");
        }
        Ok(())
    }

    /// People begin to tap, one after the other with this pause.
    ///
    /// # Errors
    ///
    /// When the guest is gone.
    pub fn people(&mut self, pause: Duration) -> anyhow::Result<Job> {
        self.guest.begin(&format!("exec perl /run/xfer/tapper.pl {}", pause.as_millis()))
    }

    /// Waits until so many more were accepted, counted from the line `from` on.
    ///
    /// # Errors
    ///
    /// When that takes too long.
    pub fn wait_for_taps(&self, people: Job, from: usize, count: usize) -> anyhow::Result<usize> {
        let is_enough = |lines: &[Line]| {
            let lines = lines.get(from..).unwrap_or_default();
            taps::accepted(&told(lines)).len() >= count
        };
        self.guest.wait_for_lines(people, &format!("{count} taps"), TAPS_WITHIN, is_enough)
    }

    /// Has the people stop, and looks whether everything that they were told is true.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn settle(&mut self, people: Job) -> anyhow::Result<Vec<Told>> {
        let told = told(&self.guest.stop(people)?);
        self.holds(&told)?;
        Ok(told)
    }

    /// Whether everything that people were told is true.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn holds(&mut self, told: &[Told]) -> anyhow::Result<()> {
        let must = taps::accepted(told).into_iter().max().unwrap_or_default();
        let why = crate::outbox::why_broken(must, &self.verify()?);
        ensure!(why.is_none(), "{}", why.unwrap_or_default());
        Ok(())
    }

    /// What the agent's own verb says of the outboxes in the guest.
    ///
    /// # Errors
    ///
    /// When it says no JSON.
    pub fn verify(&mut self) -> anyhow::Result<Vec<Verified>> {
        let (_, said) = self.guest.ask("edge-agent outbox verify --output json 2>/dev/null")?;
        serde_json::from_str(&said).with_context(|| format!("edge-agent outbox verify said: {said}"))
    }

    /// When systemd last started the service, as systemd's own timestamps have it.
    ///
    /// # Errors
    ///
    /// When it was never started again.
    pub fn last_start(&mut self) -> anyhow::Result<LastStart> {
        let mut at = |name: &str| -> anyhow::Result<Duration> {
            let said = self.property(name)?;
            Ok(Duration::from_micros(said.parse().with_context(|| format!("{name} is {said:?}"))?))
        };
        let (died, started) = (at("ActiveExitTimestampMonotonic")?, at("ExecMainStartTimestampMonotonic")?);
        let ready = at("ActiveEnterTimestampMonotonic")?;
        ensure!(
            died <= started && started <= ready,
            "systemd says that it died at {died:?}, was started at {started:?} and ready at {ready:?}"
        );
        Ok(LastStart { dead: started - died, starting: ready - started })
    }

    /// A property of the service, as systemd knows it.
    ///
    /// # Errors
    ///
    /// When systemd does not answer.
    pub fn property(&mut self, name: &str) -> anyhow::Result<String> {
        let said = self.guest.run(&format!("systemctl show --value -p {name} edge-agent"))?;
        Ok(said.trim().to_owned())
    }
}

/// What people were told, in the words of the tapper.
pub fn told(lines: &[Line]) -> Vec<Told> {
    lines.iter().filter_map(|line| Told::parse(&line.text)).collect()
}

/// An empty disk for the state folder.
///
/// # Errors
///
/// When it cannot be made.
pub fn empty_state_disk(stage: &Stage<'_>) -> anyhow::Result<PathBuf> {
    let disk = stage.file("state.img");
    crate::host::make_ext4(&disk, "state", STATE_BYTES, None)?;
    Ok(disk)
}
