//! The keys on this controller: the record key it signs with, the token key it seals badges with, and the cloud's
//! public receipt key. Knows files and their permissions; what is signed is others' business.
//!
//! A key file is one line of 64 hexadecimal digits; one of public keys may have several. Files with secrets must be
//! readable by their owner alone.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use tap_protocol::badge::{TokenKey, TokenKeyId};
use tap_protocol::keys::{PublicKey, SigningKey};

use crate::config::KeysConfig;

/// All keys of this controller.
#[derive(Debug)]
pub struct Identity {
    /// Signs batches and hellos.
    pub record_key: SigningKey,
    /// Seals badges.
    pub token_key: TokenKey,
    /// Whose receipts are believed: two while the cloud replaces its key.
    pub receipt_keys: Vec<PublicKey>,
    /// Whose rosters and commands are believed; nobody's if empty.
    pub control_keys: Vec<PublicKey>,
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not there, or not readable.
    #[error("cannot read the key file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not written.
    #[error("cannot write the key file {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("others may read the key file {0}: run `chmod 600 {0}`", path.display())]
    TooOpen {
        /// Which.
        path: PathBuf,
    },
    /// Something else is in it.
    #[error("the key file {} must hold 64 hexadecimal digits a line", path.display())]
    Format {
        /// Which.
        path: PathBuf,
    },
}

impl Identity {
    /// Reads all key files.
    pub fn load(keys: &KeysConfig) -> Result<Identity, KeyError> {
        Ok(Identity {
            record_key: SigningKey::from_seed(&read_secret(&keys.record_key_file)?),
            token_key: TokenKey::new(TokenKeyId(keys.token_key_id), read_secret(&keys.token_key_file)?),
            receipt_keys: read_public_keys(&keys.receipt_public_key_file)?,
            control_keys: match &keys.control_public_key_file {
                Some(file) => read_public_keys(file)?,
                None => Vec::new(),
            },
        })
    }
}

/// Makes a new record key in `path` (never over an existing file) and gives its public half, which the cloud must know.
pub fn create_record_key(path: &Path) -> Result<PublicKey, KeyError> {
    let at = |source| KeyError::Write { path: path.to_owned(), source };
    let mut seed = [0; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed)
        .map_err(|_| at(std::io::Error::other("the kernel gives no random bytes")))?;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(at)?;
    writeln!(file, "{}", HEXLOWER.encode(&seed)).and_then(|()| file.sync_all()).map_err(at)?;
    Ok(SigningKey::from_seed(&seed).public())
}

pub(crate) fn read_secret(path: &Path) -> Result<[u8; 32], KeyError> {
    let at = |source| KeyError::Read { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(at)?.permissions().mode();
    if others_may_read(path, mode) {
        return Err(KeyError::TooOpen { path: path.to_owned() });
    }
    read_key(path)
}

/// Whether a file with that mode is open to others than its owner. What systemd passes on (`LoadCredential=`) is not, whatever
/// its mode: the folder lets the service's user in alone, and the ACL by which he reads looks like a right of the group
/// (systemd.exec(5), "Credentials").
pub(crate) fn others_may_read(path: &Path, mode: u32) -> bool {
    mode & 0o077 != 0 && !path.starts_with("/run/credentials")
}

/// One a line: two while the cloud replaces its key, none where it has none.
fn read_public_keys(path: &Path) -> Result<Vec<PublicKey>, KeyError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
    let format = |_| KeyError::Format { path: path.to_owned() };
    text.lines().map(|line| line.trim().parse().map_err(format)).collect()
}

fn read_key(path: &Path) -> Result<[u8; 32], KeyError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
    let bytes = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(KeyError::Format { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_passes_on_is_private_though_its_mode_looks_open() {
        let passed_on = Path::new("/run/credentials/edge-agent.service/record.key");
        let lies_there = Path::new("/etc/edge-agent/record.key");
        assert!(!others_may_read(passed_on, 0o100_440));
        assert!(others_may_read(lies_there, 0o100_440));
        assert!(!others_may_read(lies_there, 0o100_600));
    }

    #[test]
    fn a_new_key_is_private_and_never_replaces_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.key");
        let public = create_record_key(&path).unwrap();
        assert_eq!(SigningKey::from_seed(&read_secret(&path).unwrap()).public(), public);
        assert!(matches!(create_record_key(&path), Err(KeyError::Write { .. })));
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.key");
        std::fs::write(&path, "00".repeat(32)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = read_secret(&path).unwrap_err().to_string();
        assert!(refused.ends_with(&format!("run `chmod 600 {}`", path.display())), "{refused}");
    }

    #[test]
    fn anything_but_one_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipt.pub");
        for bad in ["", "00", &"0g".repeat(32), &"00".repeat(33)] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(read_key(&path), Err(KeyError::Format { .. })), "{bad:?}");
        }
    }

    #[test]
    fn while_the_cloud_replaces_its_key_there_are_two_public_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipt.pub");
        std::fs::write(&path, format!("{}\n{}\n", "01".repeat(32), "02".repeat(32))).unwrap();
        assert_eq!(read_public_keys(&path).unwrap(), [PublicKey([1; 32]), PublicKey([2; 32])]);
        for bad in ["00", &"0g".repeat(32), &format!("{}\nmore", "01".repeat(32))] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(read_public_keys(&path), Err(KeyError::Format { .. })), "{bad:?}");
        }
    }
}
