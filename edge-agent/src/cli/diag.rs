//! `edge-agent diag collect`: one file for support, without anything that identifies a card or opens a lock.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Subcommand;
use edge_agent::check::{Subject, run_all};
use edge_agent::{clock, diag};

use super::check::subject;
use super::{ConfigArg, complain, say};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Collect what support needs to know into one file: versions, configuration, status, checks, logs. Card numbers, keys
    /// and tokens are taken out.
    Collect {
        /// The new file; .tar, or .tar.gz to have it packed. Named after controller and time if not given.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        config: ConfigArg,
    },
}

impl Verb {
    pub fn run(self) -> ExitCode {
        let Verb::Collect { out, config } = self;
        let Subject { config: said, agent, .. } = subject(&config);
        let name = said.as_ref().map_or("unknown", |config| config.controller.as_str());
        let folder = format!("edge-agent-diag-{name}-{}", clock::read().wall_ms / 1000);
        let out = out.unwrap_or_else(|| format!("{folder}.tar.gz").into());
        let checked = run_all(Subject {
            config_file: config.config.clone(),
            config: said.clone(),
            agent: agent.clone(),
            root: "/".into(),
        });
        let bundle = diag::collect(&config.config, said.as_ref().ok(), &agent, &checked);
        match write(&out, &bundle.tar(&folder)) {
            Ok(()) => {
                let names: Vec<_> = bundle.names().collect();
                say(&format!(
                    "{} holds {}.\nCard numbers, keys and tokens were taken out; look through it before you send it.\n",
                    out.display(),
                    names.join(", ")
                ));
                ExitCode::SUCCESS
            }
            Err(error) => {
                complain(&format!("cannot write {}: {error}", out.display()));
                ExitCode::FAILURE
            }
        }
    }
}

/// A new file, readable by its owner alone.
fn write(out: &Path, tar: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out)?;
    if out.extension().is_some_and(|extension| extension == "gz") {
        gzip(file, tar).inspect_err(|_| {
            let _ = std::fs::remove_file(out);
        })
    } else {
        file.write_all(tar)
    }
}

/// Every Debian has gzip; a library of our own would be in the daemon's memory for the sake of this.
fn gzip(file: File, tar: &[u8]) -> std::io::Result<()> {
    let mut gzip = Command::new("gzip").arg("--stdout").stdin(Stdio::piped()).stdout(file).spawn()?;
    if let Some(mut stdin) = gzip.stdin.take() {
        stdin.write_all(tar)?;
    }
    if gzip.wait()?.success() { Ok(()) } else { Err(std::io::Error::other("gzip failed")) }
}
