//! A second controller at the same site, at another door: a process with keys, a state and a line to the broker of its own.
//! It knows the site's broker and the keys that all doors share.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use edge_agent::status::Status;

use super::{Green, Site, agent, run};
use crate::{
    fault_proxy::FaultProxy,
    rig::{Program, Ready, Running},
};

/// The second controller's id.
pub const SECOND: &str = "hq-door-2";

/// The running door.
#[derive(Debug)]
pub struct SecondDoor {
    /// What it reaches the broker through.
    pub uplink: FaultProxy,
    agent: Running,
    dir: PathBuf,
}

impl SecondDoor {
    /// Starts it at a site that was told of it ([`super::SiteOptions::second_door`]) and whose broker lets everybody in.
    ///
    /// # Errors
    ///
    /// When it does not get ready.
    pub async fn start(site: &Site) -> anyhow::Result<SecondDoor> {
        let (dir, any) = (folder(site.dir()), SocketAddr::from(([127, 0, 0, 1], 0)));
        ensure!(record_key_file(site.dir()).exists(), "the site was told of a second door");
        let uplink = FaultProxy::start(any, site.broker.addr()).await?;
        let (at, of_site) = (dir.display(), site.dir().display());
        let config = format!(
            r#"controller = "{SECOND}"
state_dir = "{at}/state"
runtime_dir = "{at}/run"

[broker]
url = "mqtt://{uplink}"

[keys]
record_key_file = "{record_key_file}"
token_key_file = "{of_site}/keys/token-1.key"
receipt_public_key_file = "{of_site}/keys/receipt-1.pub"
control_public_key_file = "{of_site}/keys/control-1.pub"
"#,
            uplink = uplink.addr(),
            record_key_file = record_key_file(site.dir()).display(),
        );
        std::fs::write(dir.join("edge-agent.toml"), config)?;
        let program = Program::new("edge-agent")?
            .args(["run", "--config"])
            .args([dir.join("edge-agent.toml")])
            .ready_when(Ready::Line("is ready as".into()));
        Ok(SecondDoor { uplink, agent: program.start(&dir).await?, dir })
    }

    /// One simulated tap of badge `n`.
    ///
    /// # Errors
    ///
    /// When no agent answers, or the tap is refused.
    pub async fn tap(&self, n: usize) -> anyhow::Result<Green> {
        agent::tap(&self.socket(), n).await
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

/// What cloud-ingest is told of it. Makes its record key.
pub(super) fn declared(site: &Path) -> anyhow::Result<String> {
    std::fs::create_dir_all(folder(site))?;
    let file = record_key_file(site).display().to_string();
    let record_key = run("edge-agent", &["keys", "create", "--record-key-file", &file])?;
    Ok(format!(
        r#"
[[controller]]
id = "{SECOND}"
label = "Back entrance"
site = "hq"
record_key = "{}"
"#,
        record_key.trim()
    ))
}

fn folder(site: &Path) -> PathBuf {
    site.join("second-door")
}

fn record_key_file(site: &Path) -> PathBuf {
    folder(site).join("record.key")
}
