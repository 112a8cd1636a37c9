//! A second controller from a copied card: the state folder, the keys and the name of a site's controller, in another boot
//! and, if wanted, on other hardware. It knows the first only by what was copied.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use edge_agent::status::Status;

use crate::rig::{FakeClock, Program, Ready, Running};
use crate::site::{Site, agent};

/// The running copy.
#[derive(Debug)]
pub struct Twin {
    agent: Running,
    dir: PathBuf,
}

impl Twin {
    /// Copies the card of a site whose edge-agent is stopped, and starts the copy. On the same hardware, as far as it can
    /// tell, unless `machine` names another.
    ///
    /// # Errors
    ///
    /// When something cannot be copied, or the copy does not get ready.
    pub async fn start(site: &Site, machine: Option<&str>) -> anyhow::Result<Twin> {
        ensure!(site.edge.is_none(), "a card is copied while its controller is off");
        let dir = site.dir().join("twin");
        copy_folder(&site.dir().join("state"), &dir.join("state"))?;
        let config = fs::read_to_string(site.dir().join("edge-agent.toml"))?;
        let (of_site, of_twin) = (site.dir().display(), dir.display());
        let config = ["state", "run"].iter().fold(config, |config, folder| {
            config.replace(&format!("\"{of_site}/{folder}\""), &format!("\"{of_twin}/{folder}\""))
        });
        fs::write(dir.join("edge-agent.toml"), config)?;
        let clock = FakeClock::start(&dir).await?;
        clock.shows(crate::stopwatch::utc_ms(), true)?;
        machine.map_or(Ok(()), |machine| clock.on_machine(machine))?;
        let program = Program::new("edge-agent")?
            .args(["run", "--config"])
            .args([dir.join("edge-agent.toml")])
            .started_by(clock.starter())
            .ready_when(Ready::Line("is ready as".into()));
        let program = clock.env().into_iter().fold(program, |program, (key, value)| program.env(key, value));
        Ok(Twin { agent: program.start(&dir).await?, dir })
    }

    /// One simulated tap of badge `n`.
    ///
    /// # Errors
    ///
    /// When no agent answers, or the tap is refused.
    pub async fn tap(&self, n: usize) -> anyhow::Result<()> {
        agent::tap(&self.socket(), n).await.map(drop)
    }

    /// What it says of itself.
    ///
    /// # Errors
    ///
    /// When no agent answers.
    pub async fn status(&self) -> anyhow::Result<Status> {
        agent::status(&self.socket()).await
    }

    /// What it has said.
    pub fn log(&self) -> &Path {
        self.agent.log()
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("run/control.sock")
    }
}

/// A card is put in place of another: what `to` had is gone.
///
/// # Errors
///
/// When something cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()?.is_dir() {
            true => copy_folder(&source, &target)?,
            false => drop(fs::copy(source, target)?),
        }
    }
    Ok(())
}
