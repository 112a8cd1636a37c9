//! Beside the line: the cloud's keys in a folder: one file each, and `keyring.toml`, which says what state each is in.
//! Knows files; what may follow from a state is in [`ring`].
//!
//! Key files are made once and never overwritten. `keyring.toml` is replaced as a whole, so that the running service,
//! which looks at it every few seconds, sees the old one or the new one.

pub mod live;
pub mod ring;

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use ring::{Entry, Kind, Ring, State};
use tap_protocol::badge::{TokenKey, TokenKeyId};
use tap_protocol::keys::{PublicKey, SigningKey};

use crate::ca::{CaError, Root};
use crate::event_store::UtcMs;

/// Only its owner may read a secret.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;
/// Nobody else need even see the names.
const FOLDER: u32 = 0o700;

const RING_FILE: &str = "keyring.toml";

const HEADER: &str =
    "# Which key is in which state. Written by `cloud-ingest keys` and `cloud-ingest ca`.\n\n";

/// The keys of a folder, read.
pub struct Keys {
    /// What state each is in.
    pub ring: Ring,
    receipt: Arc<SigningKey>,
    control: Arc<SigningKey>,
    capture: Arc<SigningKey>,
    /// All there ever were, the active one first: the others open old taps.
    token: Vec<TokenKey>,
    /// The token keys' bytes that bundles carry.
    token_secrets: Vec<(TokenKeyId, [u8; 32])>,
    receipt_public: Vec<PublicKey>,
    control_public: Vec<PublicKey>,
    /// Those that are not retired; none if there is no CA here.
    roots: Vec<Arc<Root>>,
}

/// Why the keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file cannot be read or written.
    #[error("cannot {doing} {path}")]
    File {
        /// `read`, `write`, `make`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder has no keys.
    #[error("there are no keys in {0}: make them with `cloud-ingest keys create --dir {0}`")]
    NoKeys(PathBuf),
    /// It has them already.
    #[error("{0} is there already; nothing was changed")]
    AlreadyThere(PathBuf),
    /// `keyring.toml` makes no sense.
    #[error(transparent)]
    Ring(#[from] strict_config::ConfigError),
    /// A key file holds no key. The message never shows what stands in it.
    #[error("{0} does not hold 64 hexadecimal digits")]
    NoKey(PathBuf),
    /// Others can read a secret.
    #[error("{0} can be read by others than its owner: chmod 600 it, and think about who read it")]
    Open(PathBuf),
    /// No key of that kind is in use.
    #[error("no {0} key is active in keyring.toml")]
    NoneActive(&'static str),
    /// The CA's files are no CA.
    #[error("cannot use the root's files")]
    Root(#[source] CaError),
    /// No key without it.
    #[error("the system gives no randomness")]
    NoRandomness,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} of them)", self.ring.keys.len())
    }
}

impl Keys {
    /// Reads the folder.
    pub fn load(dir: &Path) -> Result<Keys, KeyringError> {
        let ring = read_ring(dir)?;
        let mut keys: Vec<(Entry, [u8; 32])> = Vec::new();
        let mut roots = Vec::new();
        for entry in &ring.keys {
            match entry.kind {
                Kind::Root if entry.state == State::Retired => {}
                Kind::Root => roots.push(Arc::new(read_root(dir, entry)?)),
                Kind::Receipt | Kind::Control | Kind::Token | Kind::Capture => {
                    // A signer that nobody believes any more need not be there; a token key still opens old taps.
                    if entry.state != State::Retired || entry.kind == Kind::Token {
                        keys.push((entry.clone(), read_secret(&dir.join(format!("{}.key", entry.name())))?));
                    }
                }
            }
        }
        let of = |kind: Kind| keys.iter().filter(move |(entry, _)| entry.kind == kind);
        let active = |kind: Kind| {
            let found = of(kind).find(|(entry, _)| entry.state == State::Active);
            found.map(|(_, seed)| seed).ok_or(KeyringError::NoneActive(kind.name()))
        };
        let public = |kind: Kind| of(kind).map(|(_, seed)| SigningKey::from_seed(seed).public()).collect();
        let sealing = of(Kind::Token).filter(|(entry, _)| entry.state == State::Active);
        let opening = of(Kind::Token).filter(|(entry, _)| entry.state != State::Active);
        let id = |entry: &Entry| TokenKeyId(entry.number);
        active(Kind::Token)?;
        Ok(Keys {
            receipt: Arc::new(SigningKey::from_seed(active(Kind::Receipt)?)),
            control: Arc::new(SigningKey::from_seed(active(Kind::Control)?)),
            capture: Arc::new(SigningKey::from_seed(active(Kind::Capture)?)),
            token: sealing.chain(opening).map(|(entry, key)| TokenKey::new(id(entry), *key)).collect(),
            token_secrets: of(Kind::Token)
                .filter(|(entry, _)| entry.state != State::Retired)
                .map(|(entry, key)| (id(entry), *key))
                .collect(),
            receipt_public: public(Kind::Receipt),
            control_public: public(Kind::Control),
            roots,
            ring,
        })
    }

    /// Signs receipts.
    pub fn receipt(&self) -> Arc<SigningKey> {
        Arc::clone(&self.receipt)
    }

    /// Signs rosters and commands.
    pub fn control(&self) -> Arc<SigningKey> {
        Arc::clone(&self.control)
    }

    /// Signs the taps that come over HTTP.
    pub fn capture(&self) -> Arc<SigningKey> {
        Arc::clone(&self.capture)
    }

    /// All token keys there ever were; the first one seals.
    pub fn token_keys(&self) -> &[TokenKey] {
        &self.token
    }

    /// Those under which controllers may seal: all but the retired.
    pub fn token_keys_in_use(&self) -> Vec<TokenKeyId> {
        self.token_secrets.iter().map(|(id, _)| *id).collect()
    }

    /// The one that seals.
    pub fn sealing_key(&self) -> &TokenKey {
        &self.token[0]
    }

    /// What bundles carry of the token keys. Secret.
    pub fn token_secrets(&self) -> &[(TokenKeyId, [u8; 32])] {
        &self.token_secrets
    }

    /// Whose receipts controllers are to believe.
    pub fn receipt_public(&self) -> &[PublicKey] {
        &self.receipt_public
    }

    /// Whose rosters and commands controllers are to believe.
    pub fn control_public(&self) -> &[PublicKey] {
        &self.control_public
    }

    /// The roots that are trusted, oldest first.
    pub fn roots(&self) -> &[Arc<Root>] {
        &self.roots
    }

    /// The root that signs controllers' certificates.
    pub fn signing_root(&self) -> Option<&Arc<Root>> {
        let number = self.ring.active(Kind::Root)?.number;
        self.roots.iter().find(|root| root.number() == number)
    }

    /// The root that signs servers' certificates: see [`Ring::oldest_root`].
    pub fn server_root(&self) -> Option<&Arc<Root>> {
        let number = self.ring.oldest_root()?.number;
        self.roots.iter().find(|root| root.number() == number)
    }
}

/// What state each key of the folder is in.
pub fn read_ring(dir: &Path) -> Result<Ring, KeyringError> {
    let path = dir.join(RING_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(strict_config::parse(&path.display().to_string(), &text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(KeyringError::NoKeys(dir.to_owned())),
        Err(source) => Err(KeyringError::File { doing: "read", path, source }),
    }
}

/// What it is, or an empty one.
pub fn read_or_begin(dir: &Path) -> Result<Ring, KeyringError> {
    match read_ring(dir) {
        Err(KeyringError::NoKeys(_)) => Ok(Ring::default()),
        read => read,
    }
}

/// Makes the files of a new key; `ring` is written by [`write_ring`] once they are there.
pub fn make_files(dir: &Path, entry: &Entry) -> Result<(), KeyringError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(FOLDER).create(dir);
    made.map_err(|source| KeyringError::File { doing: "make", path: dir.to_owned(), source })?;
    let file = |extension: &str| dir.join(format!("{}.{extension}", entry.name()));
    match entry.kind {
        Kind::Root => {
            let (certificate, key) =
                Root::make(entry.number, UtcMs(entry.made_ms)).map_err(KeyringError::Root)?;
            write_new(&file("key"), SECRET, &key)?;
            write_new(&file("crt"), PUBLIC, &certificate)
        }
        Kind::Receipt | Kind::Control | Kind::Capture => {
            let seed: [u8; 32] = random()?;
            let public = SigningKey::from_seed(&seed).public();
            write_new(&file("key"), SECRET, &format!("{}\n", HEXLOWER.encode(&seed)))?;
            write_new(&file("pub"), PUBLIC, &format!("{public}\n"))
        }
        Kind::Token => write_new(&file("key"), SECRET, &format!("{}\n", HEXLOWER.encode(&random::<32>()?))),
    }
}

/// Replaces `keyring.toml`.
pub fn write_ring(dir: &Path, ring: &Ring) -> Result<(), KeyringError> {
    let entries = ring.keys.iter().map(|key| {
        let Entry { kind, number, state, made_ms, since_ms } = key;
        format!(
            "[[key]]\nkind = \"{}\"\nnumber = {number}\nstate = \"{}\"\nmade_ms = {made_ms}\nsince_ms = {since_ms}\n\n",
            kind.name(),
            state.name()
        )
    });
    replace(&dir.join(RING_FILE), PUBLIC, &(HEADER.to_owned() + &entries.collect::<String>()))
}

fn read_root(dir: &Path, entry: &Entry) -> Result<Root, KeyringError> {
    let file = |extension: &str| dir.join(format!("{}.{extension}", entry.name()));
    let key = read_private(&file("key"))?;
    let certificate = read(&file("crt"))?;
    Root::load(entry.number, UtcMs(entry.made_ms), &certificate, &key).map_err(KeyringError::Root)
}

fn read_secret(path: &Path) -> Result<[u8; 32], KeyringError> {
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(read_private(path)?.trim().as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| KeyringError::NoKey(path.to_owned()))
}

fn read_private(path: &Path) -> Result<String, KeyringError> {
    let text = read(path)?;
    let mode = std::fs::metadata(path)
        .map_err(|source| KeyringError::File { doing: "read", path: path.to_owned(), source })?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(KeyringError::Open(path.to_owned()));
    }
    Ok(text)
}

fn read(path: &Path) -> Result<String, KeyringError> {
    std::fs::read_to_string(path).map_err(|source| KeyringError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that must not be there yet, to the medium.
pub fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyringError> {
    let written =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyringError::AlreadyThere(path.to_owned()),
        _ => KeyringError::File { doing: "write", path: path.to_owned(), source },
    })
}

/// Puts a file in the place of another, so that a reader sees the one or the other.
pub fn replace(path: &Path, mode: u32, text: &str) -> Result<(), KeyringError> {
    let draft = path.with_extension("draft");
    let replaced = (|| {
        // One from a crash before.
        let _ = std::fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    })();
    replaced.map_err(|source| KeyringError::File { doing: "write", path: path.to_owned(), source })
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], KeyringError> {
    use ::ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyringError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
pub mod tests;
