//! Beside the line: the verbs of the certificate authority. Thin: certificates are made in [`crate::ca`], states change as
//! all keys' do.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Subcommand;

use super::keys::{self, Insist, KeysDir};
use super::{ConfigFile, Output};
use crate::ca::{self, Issued, serial};
use crate::clock::Clock;
use crate::keyring::ring::Kind;
use crate::keyring::{self, Keys, random};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make the root that vouches for controllers and servers
    Init {
        #[command(flatten)]
        dir: KeysDir,
    },
    /// All roots, since when each is what it is, and how many controllers trust it
    Status {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Make the next root; controllers that are connected fetch it within two minutes
    Rotate {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Let the next root sign controllers' certificates, once every active controller trusts it
    Activate {
        #[command(flatten)]
        insist: Insist,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Trust an old root no more, once every active controller has a certificate of the new one
    Retire {
        /// Which of them
        number: u16,
        #[command(flatten)]
        insist: Insist,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Make the broker's certificate: server.pem, server.key, ca.pem and a first crl.pem
    IssueServer {
        /// A name that controllers reach it by; may be given more than once
        #[arg(long = "name", value_name = "HOST", required_unless_present = "ips")]
        names: Vec<String>,
        /// An address that controllers reach it by; may be given more than once
        #[arg(long = "ip", value_name = "ADDRESS", id = "ips")]
        ips: Vec<IpAddr>,
        /// How long it is good
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=825))]
        days: u32,
        /// Where to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        dir: KeysDir,
    },
    /// Make this service's certificate for the broker: client.pem, client.key and ca.pem
    IssueService {
        /// Its name at the broker
        #[arg(long, default_value = "cloud-ingest")]
        name: String,
        /// How long it is good
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=825))]
        days: u32,
        /// Where to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        dir: KeysDir,
    },
}

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Init { dir } => {
            keys::create(&dir.dir, &[Kind::Root], Clock::system().now())?;
            let dir = dir.dir.display();
            println!("made root-1 in {dir}, good for ten years; its key never leaves this folder");
            println!("next, for the broker: cloud-ingest ca issue-server --dir {dir} --name HOST --out DIR");
        }
        Verb::Status { config, output } => return keys::status(&config, output.output, &[Kind::Root]),
        Verb::Rotate { config } => {
            let made = keys::rotate(&config, Kind::Root)?;
            println!("made {}: controllers that are connected fetch it within two minutes", made.name());
            println!("now: give the broker the new ca.pem (`cloud-ingest ca issue-server` writes it)");
            println!("when `cloud-ingest ca status` says all have it: cloud-ingest ca activate");
        }
        Verb::Activate { insist, config } => {
            let active = keys::activate(&config, Kind::Root, insist)?;
            println!("{} signs controllers' certificates from now on", active.name());
            println!("when all have renewed, in a month at most: cloud-ingest ca retire OLD-NUMBER");
        }
        Verb::Retire { number, insist, config } => {
            let retired = keys::retire(&config, Kind::Root, number, insist)?;
            println!("{} is trusted no more by whoever renews from now on", retired.name());
            println!("now: cloud-ingest ca issue-server, for the broker's certificate by the new root");
        }
        Verb::IssueServer { names, ips, days, out, dir } => {
            let names: Vec<String> = names.into_iter().chain(ips.iter().map(IpAddr::to_string)).collect();
            let (keys, now) = (Keys::load(&dir.dir)?, Clock::system().now());
            let root = keys.server_root().context(NO_ROOT)?;
            let issued = root.issue_server(&names, serial(random()?), now, days)?;
            write(&out, "server", &issued, &keys)?;
            let lists = keys.roots().iter().map(|root| root.revocation_list(&[], now));
            let crl = out.join("crl.pem");
            // The service keeps it up to date from here on, if it is told where it is.
            if !crl.exists() {
                keyring::write_new(&crl, PUBLIC, &lists.collect::<Result<String, _>>()?)?;
            }
            println!(
                "made server.pem and server.key for {}, ca.pem and crl.pem in {}",
                names.join(", "),
                out.display()
            );
        }
        Verb::IssueService { name, days, out, dir } => {
            let (keys, now) = (Keys::load(&dir.dir)?, Clock::system().now());
            ensure!(!name.is_empty() && name.len() <= 64, "a name has 1 to 64 characters");
            ensure!(!keys.roots().is_empty(), NO_ROOT);
            let issued = ca::make_service(&name, serial(random()?), now, days)?;
            write(&out, "client", &issued, &keys)?;
            println!("made client.pem and client.key for {name} and ca.pem in {}", out.display());
            println!("client.pem vouches for itself: the broker's listener for this service trusts it alone");
        }
    }
    Ok(ExitCode::SUCCESS)
}

const NO_ROOT: &str = "there is no root here yet: make it with `cloud-ingest ca init`";

/// Each file is replaced as a whole: the broker may be reading it.
fn write(out: &Path, name: &str, issued: &Issued, keys: &Keys) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let roots: String = keys.roots().iter().map(|root| root.pem()).collect();
    keyring::replace(&out.join(format!("{name}.key")), SECRET, &issued.key)?;
    keyring::replace(&out.join(format!("{name}.pem")), PUBLIC, &issued.chain)?;
    keyring::replace(&out.join("ca.pem"), PUBLIC, &roots)?;
    Ok(())
}
