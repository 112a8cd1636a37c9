//! More than one cloud-ingest on a site's store, each as on a machine of its own: they share the server, the broker's
//! session and the keys, and nothing else.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::rig::{Program, Ready, Running, free_port};

/// One more cloud-ingest.
#[derive(Debug)]
pub struct Replica {
    /// While it runs.
    pub running: Option<Running>,
    program: Program,
    http: SocketAddr,
    dir: PathBuf,
}

impl Replica {
    /// Number `n`, with the configuration of the first one but for what belongs to one machine; not started yet.
    pub(super) fn new(dir: &Path, n: usize) -> anyhow::Result<Replica> {
        let first = std::fs::read_to_string(dir.join("cloud-ingest.toml"))?;
        let mut config: toml::Table = first.parse()?;
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
        config.insert("data_dir".into(), dir.join(format!("cloud-{n}")).display().to_string().into());
        let section = config.get_mut("http").and_then(|http| http.as_table_mut()).context("[http]")?;
        section.insert("listen".into(), http.to_string().into());
        let path = dir.join(format!("cloud-ingest-{n}.toml"));
        std::fs::write(&path, toml::to_string(&config)?)?;
        let program = Program::new("cloud-ingest")?
            .called(&format!("cloud-ingest-{n}"))
            .args(["serve", "--config"])
            .args([path])
            .ready_when(Ready::Url(format!("http://{http}/health/live")));
        Ok(Replica { running: None, program, http, dir: dir.to_owned() })
    }

    /// `http://…` of it.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Starts it, with these arguments besides.
    ///
    /// # Errors
    ///
    /// When it does not get ready.
    pub async fn start(&mut self, args: &[&str]) -> anyhow::Result<()> {
        self.running = Some(self.program.clone().args(args).start(&self.dir).await?);
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.running.take().context("the replica runs")?.kill9().context("killing cloud-ingest")
    }
}
