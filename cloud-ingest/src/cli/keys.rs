//! Beside the line: makes the cloud's keys. Never overwrites one: a lost receipt key means enrolling every controller
//! anew, a lost token key means that no badge can be opened again.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Subcommand;
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};
use tap_protocol::keys::SigningKey;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make receipt.key, control.key, their public halves and token.key
    Create {
        /// Where to
        #[arg(long)]
        dir: PathBuf,
    },
}

/// Only its owner may read a secret.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    let Verb::Create { dir } = verb;
    create(&dir)?;
    println!("made receipt.key, receipt.pub, control.key, control.pub and token.key in {}", dir.display());
    println!("controllers need receipt.pub, control.pub and token.key; the other two stay here");
    Ok(ExitCode::SUCCESS)
}

fn create(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for name in ["receipt.key", "receipt.pub", "control.key", "control.pub", "token.key"] {
        let path = dir.join(name);
        ensure!(!path.exists(), "{} is there already; nothing was changed", path.display());
    }
    for signer in ["receipt", "control"] {
        let seed = random()?;
        let public = SigningKey::from_seed(&seed).public();
        write_new(&dir.join(format!("{signer}.key")), SECRET, &HEXLOWER.encode(&seed))?;
        write_new(&dir.join(format!("{signer}.pub")), PUBLIC, &public.to_string())?;
    }
    write_new(&dir.join("token.key"), SECRET, &HEXLOWER.encode(&random()?))
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gives no randomness"))?;
    Ok(bytes)
}

fn write_new(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let doing = || format!("cannot write {}", path.display());
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).with_context(doing)?;
    writeln!(file, "{text}").with_context(doing)?;
    file.sync_all().with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_and_secrets_are_their_owners() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let mode =
            |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("receipt.key"), mode("token.key")), (SECRET, SECRET));
        let seed: [u8; 32] =
            HEXLOWER.decode(read("receipt.key").trim().as_bytes()).unwrap().try_into().unwrap();
        assert_eq!(SigningKey::from_seed(&seed).public().to_string(), read("receipt.pub").trim());
        assert_ne!(read("receipt.key"), read("token.key"));

        let before = read("token.key");
        std::fs::remove_file(dir.path().join("receipt.key")).unwrap();
        assert!(create(dir.path()).is_err());
        assert_eq!(read("token.key"), before);
        assert!(!dir.path().join("receipt.key").exists(), "nothing is made beside keys that are there");
    }
}
