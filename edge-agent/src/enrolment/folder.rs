//! Beside the line: `STATE_DIR/enrolment/`, where certificate and keys are. A power cut at any moment leaves the old set or
//! the new one, whole. Knows files and their order; what is in them is others' business.
//!
//! ```text
//! asking/      keys that the cloud was asked for a certificate with: the same ones if it is asked again
//! set-N/       a set: whole, because a folder gets this name after everything in it is on the medium
//! current      → set-N: the newest set that has worked. A higher one is on trial, or was when the power went
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tap_protocol::enrolment::Bundle;
use tap_protocol::keys::SigningKey;

use super::bundle::{self, BadBundle, Checked};
use crate::config::{BrokerConfig, KeysConfig};
use crate::identity::{KeyError, read_secret};

const ASKING: &str = "asking";
const CURRENT: &str = "current";
const SET: &str = "set-";
const TLS_KEY: &str = "tls.key";
const RECORD_KEY: &str = "record.key";

/// A bundle is some ten kilobytes.
const MAX_BUNDLE_BYTES: u64 = 256 * 1024;

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The disk, or who may read it.
    #[error("cannot use the enrolment in {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else writes to it.
    #[error(
        "{} is being written to by another enrolment or renewal: wait for it, or ask the running agent (edge-agent cert renew)",
        path.display()
    )]
    Busy {
        /// Where.
        path: PathBuf,
    },
    /// A key that is none, or that others may read.
    #[error("a key of the enrolment cannot be used")]
    Key(#[from] KeyError),
    /// A TLS key that is none.
    #[error("{} is no ECDSA P-256 key in PKCS#8: enrol again (edge-agent enroll)", path.display())]
    TlsKey {
        /// Where.
        path: PathBuf,
    },
    /// What lies there is not what was put there.
    #[error("the set in {} is damaged: enrol again (edge-agent enroll)", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// How.
        source: BadBundle,
    },
    /// The kernel gives no randomness.
    #[error("the kernel gives no random bytes, so no key can be made")]
    NoRandomness,
}

impl FolderError {
    /// Whether root would fare better.
    pub fn is_permission_denied(&self) -> bool {
        match self {
            FolderError::Io { source, .. } | FolderError::Key(KeyError::Read { source, .. }) => {
                source.kind() == io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }
}

/// The two keys that were made here, with their private halves.
pub struct OwnKeys {
    /// PKCS#8.
    pub tls_pkcs8: Vec<u8>,
    /// Of `tls_pkcs8`.
    pub tls: EcdsaKeyPair,
    /// Signs records from the next set on.
    pub record: SigningKey,
}

impl OwnKeys {
    /// The TLS key's public half: the uncompressed point.
    pub fn tls_point(&self) -> &[u8] {
        self.tls.public_key().as_ref()
    }

    /// The TLS key as rustls takes it.
    pub fn tls_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.tls_pkcs8.clone()).into()
    }
}

impl std::fmt::Debug for OwnKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnKeys(record key {})", self.record.public())
    }
}

/// A whole set on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Later ones are higher.
    pub number: u64,
    /// Where.
    pub path: PathBuf,
}

impl Set {
    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What the cloud gave.
    pub fn read(&self) -> Result<Checked, FolderError> {
        let path = self.file("bundle.json");
        let at = |source| FolderError::Io { path: path.clone(), source };
        if path.metadata().map_err(at)?.len() > MAX_BUNDLE_BYTES {
            return Err(at(io::Error::other("it is too long")));
        }
        let text = std::fs::read_to_string(&path).map_err(at)?;
        let bundle: Bundle = serde_json::from_str(&text).map_err(|error| at(error.into()))?;
        bundle::check(bundle).map_err(|source| FolderError::Damaged { path: self.path.clone(), source })
    }

    /// The broker as it names it, with its own files, which lie at `way`.
    pub fn broker_config(&self, way: &Path) -> Result<BrokerConfig, FolderError> {
        let file = |name| Some(way.join(name));
        Ok(BrokerConfig {
            url: self.read()?.broker,
            ca_file: file("roots.pem"),
            cert_file: file("certificate.pem"),
            key_file: file(TLS_KEY),
        })
    }

    /// Its keys as the agent reads them.
    pub fn keys_config(&self, token_key_id: u16) -> KeysConfig {
        KeysConfig {
            record_key_file: self.file(RECORD_KEY),
            token_key_file: self.file("token.key"),
            token_key_id,
            receipt_public_key_file: self.file("receipt.pub"),
            control_public_key_file: Some(self.file("control.pub")),
        }
    }

    /// Its record key.
    pub fn record_key(&self) -> Result<SigningKey, FolderError> {
        Ok(SigningKey::from_seed(&read_secret(&self.file(RECORD_KEY))?))
    }
}

/// What is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sets {
    /// Has worked, or is the first.
    pub current: Set,
    /// Newer, and has not worked yet.
    pub trial: Option<Set>,
}

impl Sets {
    /// The newest: its keys hold, whatever becomes of its certificate.
    pub fn newest(&self) -> &Set {
        self.trial.as_ref().unwrap_or(&self.current)
    }
}

/// Which record key the next set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKey {
    /// A new one.
    New,
    /// The newest set's.
    Same,
}

/// The folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    #[cfg(test)]
    steps_left: std::cell::Cell<u32>,
}

/// The right to write; let go of when it is dropped, however that comes.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Folder {
    /// Below this state folder.
    pub fn of(state_dir: &Path) -> Folder {
        Folder {
            path: state_dir.join("enrolment"),
            #[cfg(test)]
            steps_left: u32::MAX.into(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The way to the current set's files that stays right when sets change.
    pub fn way_to(&self, current: &Set) -> PathBuf {
        let link = self.current_link();
        if link.exists() { link } else { current.path.clone() }
    }

    fn current_link(&self) -> PathBuf {
        self.path.join(CURRENT)
    }

    /// What is there; `None` where nobody has enrolled. A newer set that cannot be read is none: the door goes on with the
    /// one that works, and another is fetched.
    pub fn sets(&self) -> Result<Option<Sets>, FolderError> {
        let mut sets = self.all()?;
        let proven = std::fs::read_link(self.current_link()).ok().and_then(|target| number(&target));
        // Without the link the power went in the middle of the first enrolment; the set is whole.
        let current = sets.iter().rfind(|set| proven.is_none_or(|proven| set.number == proven));
        let Some(current) = current.or(sets.last()).cloned() else { return Ok(None) };
        let trial = sets.pop().filter(|newest| newest.number > current.number && newest.read().is_ok());
        Ok(Some(Sets { current, trial }))
    }

    /// Every folder that is called a set, oldest first.
    fn all(&self) -> Result<Vec<Set>, FolderError> {
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|source| self.error(source))?,
        };
        let mut sets = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| self.error(source))?.path();
            sets.extend(number(&path).map(|number| Set { number, path }));
        }
        sets.sort_by_key(|set| set.number);
        Ok(sets)
    }

    /// The right to write, for one enrolment or renewal.
    pub fn lock(&self) -> Result<Lock, FolderError> {
        self.make_folder(&self.path).map_err(|source| self.error(source))?;
        let path = self.path.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|source| self.error(source))?;
        self.give_to_the_agent(&path).map_err(|source| self.error(source))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(FolderError::Busy { path: self.path.clone() }),
            Err(TryLockError::Error(source)) => Err(self.error(source)),
        }
    }

    /// Keys to ask for a certificate with: those of an attempt whose answer never came, or new ones. They are on the
    /// medium before they are used, so that an answer that is lost can be asked for again.
    pub fn keys_to_ask_with(&self, _: &Lock, record: RecordKey) -> Result<OwnKeys, FolderError> {
        let before = self.sets()?.map(|sets| sets.newest().record_key()).transpose()?;
        let asking = self.path.join(ASKING);
        if asking.exists()
            && let Ok(keys) = read_keys(&asking)
        {
            let is_old = before.as_ref().is_some_and(|before| before.public() == keys.record.public());
            if record == RecordKey::Same || !is_old {
                return Ok(keys);
            }
        }
        let random = SystemRandom::new();
        let tls = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|_| FolderError::NoRandomness)?;
        let seed = match (record, self.sets()?) {
            (RecordKey::Same, Some(sets)) => read_secret(&sets.newest().file(RECORD_KEY))?,
            _ => {
                let mut seed = [0; 32];
                random.fill(&mut seed).map_err(|_| FolderError::NoRandomness)?;
                seed
            }
        };
        let files = [(TLS_KEY, pem_of(tls.as_ref())), (RECORD_KEY, HEXLOWER.encode(&seed) + "\n")];
        self.make_asking(&asking, &files).map_err(|source| self.error(source))?;
        read_keys(&asking)
    }

    fn make_asking(&self, asking: &Path, files: &[(&str, String)]) -> io::Result<()> {
        let draft = self.path.join("asking.new");
        self.remove(&draft)?;
        self.make_folder(&draft)?;
        for (name, text) in files {
            self.write(&draft.join(name), text)?;
        }
        self.sync(&draft)?;
        self.remove(asking)?;
        self.rename(&draft, asking)?;
        self.sync(&self.path)
    }

    /// Keeps what came for the keys that were asked with, as the newest set: on trial if there is another.
    pub fn keep(&self, _: &Lock, came: &Checked) -> Result<Set, FolderError> {
        let number = self.all()?.last().map_or(0, |newest| newest.number) + 1;
        let path = self.path.join(format!("{SET}{number}"));
        let keep = || {
            let asking = self.path.join(ASKING);
            for (name, text) in came.files() {
                self.write(&asking.join(name), &text)?;
            }
            self.sync(&asking)?;
            self.rename(&asking, &path)?;
            self.sync(&self.path)
        };
        keep().map_err(|source| self.error(source))?;
        Ok(Set { number, path })
    }

    /// This set has worked, or is all there is: it is the current one from now on. The one before is kept until the next
    /// time, for whoever is still reading it.
    pub fn promote(&self, set: &Set) -> Result<(), FolderError> {
        let promote = || {
            let before = std::fs::read_link(self.current_link()).ok().and_then(|target| number(&target));
            let draft = self.path.join("current.new");
            self.remove(&draft)?;
            self.step()?;
            std::os::unix::fs::symlink(format!("{SET}{}", set.number), &draft)?;
            self.give_to_the_agent(&draft)?;
            self.rename(&draft, &self.current_link())?;
            self.sync(&self.path)?;
            for entry in std::fs::read_dir(&self.path)? {
                let path = entry?.path();
                if number(&path).is_some_and(|old| old < set.number && Some(old) != before) {
                    self.remove(&path)?;
                }
            }
            Ok(())
        };
        promote().map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> FolderError {
        FolderError::Io { path: self.path.clone(), source }
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path.parent().ok_or(error)?)?;
                DirBuilder::new().mode(0o700).create(path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
        self.give_to_the_agent(path)?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        self.step()?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        self.step()?;
        file.write_all(text.as_bytes())?;
        self.give_to_the_agent(path)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        std::fs::rename(from, to)
    }

    fn sync(&self, folder: &Path) -> io::Result<()> {
        self.step()?;
        File::open(folder)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        let removed = match path.symlink_metadata() {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
            Ok(_) => std::fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Enrolment is done by root, the agent is another user: what is made here belongs to whom the state folder does.
    fn give_to_the_agent(&self, path: &Path) -> io::Result<()> {
        give_to_owner_of(self.path.parent().unwrap_or(&self.path), path)
    }

    /// Where the power goes in tests.
    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        let left =
            self.steps_left.get().checked_sub(1).ok_or_else(|| io::Error::other("the power is gone"))?;
        self.steps_left.set(left);
        Ok(())
    }

    #[cfg(not(test))]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Where root does what the agent will want to read: `path` belongs to whom `folder` does.
pub fn give_to_owner_of(folder: &Path, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = folder.metadata()?;
    std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid()))
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(SET)?.parse().ok()
}

fn read_keys(folder: &Path) -> Result<OwnKeys, FolderError> {
    let path = folder.join(TLS_KEY);
    let bad = || FolderError::TlsKey { path: path.clone() };
    let der = PrivatePkcs8KeyDer::from_pem_file(&path).map_err(|_| bad())?;
    let tls_pkcs8 = der.secret_pkcs8_der().to_vec();
    let tls = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &tls_pkcs8, &SystemRandom::new())
        .map_err(|_| bad())?;
    let record = SigningKey::from_seed(&read_secret(&folder.join(RECORD_KEY))?);
    Ok(OwnKeys { tls_pkcs8, tls, record })
}

fn pem_of(pkcs8: &[u8]) -> String {
    let text = BASE64.encode(pkcs8);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN PRIVATE KEY-----\n{}-----END PRIVATE KEY-----\n", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::enrolment::sample;

    fn folder(dir: &Path) -> Folder {
        Folder::of(dir)
    }

    /// One enrolment or renewal, from keys to the switch.
    fn renew(folder: &Folder, record: RecordKey) -> Result<Set, FolderError> {
        let lock = folder.lock()?;
        let keys = folder.keys_to_ask_with(&lock, record)?;
        let set = folder.keep(&lock, &sample::checked(keys.tls_point()))?;
        folder.promote(&set)?;
        Ok(set)
    }

    fn record_key(set: &Set) -> String {
        set.record_key().unwrap().public().to_string()
    }

    #[test]
    fn what_was_kept_is_read_again_and_private_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        assert_eq!(folder.sets().unwrap(), None);
        let set = renew(&folder, RecordKey::New).unwrap();
        assert_eq!(folder.sets().unwrap(), Some(Sets { current: set.clone(), trial: None }));
        assert_eq!(set.read().unwrap().certificate.subject, sample::CONTROLLER);
        assert!(crate::identity::Identity::load(&set.keys_config(2)).is_ok());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(folder.path()), mode(&set.path)), (0o700, 0o700));
        for file in std::fs::read_dir(&set.path).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
    }

    /// The steps are calls to the file system; each that changes something ends with its sync before the next begins.
    #[test]
    fn a_power_cut_at_any_step_leaves_the_old_set_or_the_new_one_whole() {
        let mut cuts = 0;
        for steps in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let old = renew(&folder(dir.path()), RecordKey::New).unwrap();
            let old_key = record_key(&old);
            let cut = folder(dir.path());
            cut.steps_left.set(steps);
            let ended = renew(&cut, RecordKey::New);
            let sets = folder(dir.path()).sets().unwrap().expect("there is a set at any moment");
            for set in [Some(&sets.current), sets.trial.as_ref()].into_iter().flatten() {
                let read = set.read().expect("a set on the disk is whole");
                let key = read_keys(&set.path).unwrap();
                assert_eq!(read.certificate.subject, sample::CONTROLLER);
                assert!(sample::is_for(&read, key.tls_point()), "certificate and key belong together");
            }
            assert!(sets.current == old || ended.is_ok() || sets.current.number == old.number + 1);
            if sets.current == old {
                assert_eq!(record_key(&sets.current), old_key);
            }
            if ended.is_ok() {
                break;
            }
            cuts += 1;
            let next = renew(&folder(dir.path()), RecordKey::Same).expect("after the cut it goes on");
            assert_eq!(folder(dir.path()).sets().unwrap(), Some(Sets { current: next, trial: None }));
        }
        assert!(cuts > 25, "only {cuts} steps were cut");
    }

    #[test]
    fn the_first_set_counts_even_if_the_power_went_before_the_link() {
        for steps in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let cut = folder(dir.path());
            cut.steps_left.set(steps);
            let ended = renew(&cut, RecordKey::New);
            if let Some(sets) = folder(dir.path()).sets().unwrap() {
                sets.current.read().expect("a set on the disk is whole");
                let way = folder(dir.path()).way_to(&sets.current);
                assert!(way.join("roots.pem").exists());
            }
            if ended.is_ok() {
                break;
            }
        }
    }

    #[test]
    fn a_question_without_an_answer_is_asked_again_with_the_same_keys() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let lock = folder.lock().unwrap();
        let keys = folder.keys_to_ask_with(&lock, RecordKey::New).unwrap();
        let again = folder.keys_to_ask_with(&lock, RecordKey::New).unwrap();
        assert_eq!(keys.tls_point(), again.tls_point());
        assert_eq!(keys.record.public(), again.record.public());
    }

    #[test]
    fn a_renewal_keeps_the_record_key_unless_another_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let first = record_key(&renew(&folder, RecordKey::New).unwrap());
        assert_eq!(record_key(&renew(&folder, RecordKey::Same).unwrap()), first);
        let lock = folder.lock().unwrap();
        let same = folder.keys_to_ask_with(&lock, RecordKey::Same).unwrap();
        assert_eq!(same.record.public().to_string(), first);
        let other = folder.keys_to_ask_with(&lock, RecordKey::New).unwrap();
        assert_ne!(other.record.public().to_string(), first, "an old question does not stand in the way");
    }

    #[test]
    fn a_newer_set_that_cannot_be_read_shuts_no_door() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let works = renew(&folder, RecordKey::New).unwrap();
        let lock = folder.lock().unwrap();
        let keys = folder.keys_to_ask_with(&lock, RecordKey::Same).unwrap();
        let damaged = folder.keep(&lock, &sample::checked(keys.tls_point())).unwrap();
        assert_eq!(folder.sets().unwrap().unwrap().newest(), &damaged);
        std::fs::write(damaged.file("bundle.json"), "\0\0\0").unwrap();
        assert_eq!(folder.sets().unwrap(), Some(Sets { current: works, trial: None }));
        drop(lock);
        let next = renew(&folder, RecordKey::Same).expect("another is fetched beside it");
        assert_eq!(folder.sets().unwrap(), Some(Sets { current: next, trial: None }));
    }

    #[test]
    fn two_who_write_at_once_are_one_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let lock = folder.lock().unwrap();
        assert!(matches!(folder.lock(), Err(FolderError::Busy { .. })));
        drop(lock);
        assert!(folder.lock().is_ok());
    }

    #[test]
    fn the_set_before_the_current_one_is_kept_and_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let sets: Vec<Set> = (0..4)
            .map(|_| renew(&folder, RecordKey::Same))
            .collect::<Result<_, _>>()
            .unwrap_or_else(|_| Vec::new());
        assert_eq!(sets.len(), 4);
        let there: Vec<bool> = sets.iter().map(|set| set.path.exists()).collect();
        assert_eq!(there, [false, false, true, true]);
    }
}
