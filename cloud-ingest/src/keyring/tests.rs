//! The folder on a real disk.

use super::*;

const NOW: UtcMs = UtcMs(1_772_434_800_000);

/// A folder with the first key of each kind.
pub fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut ring = Ring::default();
    for kind in Kind::ALL {
        let entry = ring.create(kind, NOW);
        make_files(dir.path(), &entry).unwrap();
    }
    write_ring(dir.path(), &ring).unwrap();
    dir
}

/// The next key of that kind is made and told.
pub fn rotate(dir: &Path, kind: Kind) {
    let mut ring = read_ring(dir).unwrap();
    let entry = ring.rotate(kind, NOW).unwrap();
    make_files(dir, &entry).unwrap();
    write_ring(dir, &ring).unwrap();
}

fn change(dir: &Path, change: impl FnOnce(&mut Ring)) -> Keys {
    let mut ring = read_ring(dir).unwrap();
    change(&mut ring);
    write_ring(dir, &ring).unwrap();
    Keys::load(dir).unwrap()
}

#[test]
fn keys_are_made_once_and_secrets_are_their_owners() {
    let dir = folder();
    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    for secret in ["receipt-1.key", "control-1.key", "token-1.key", "root-1.key", "capture-1.key"] {
        assert_eq!(mode(secret), SECRET, "{secret}");
    }
    let keys = Keys::load(dir.path()).unwrap();
    let public = std::fs::read_to_string(dir.path().join("receipt-1.pub")).unwrap();
    assert_eq!(keys.receipt().public().to_string(), public.trim());
    assert_ne!(keys.receipt().public(), keys.control().public());
    let before = std::fs::read_to_string(dir.path().join("token-1.key")).unwrap();
    let again = make_files(dir.path(), &keys.ring.keys[3]);
    assert!(matches!(again, Err(KeyringError::AlreadyThere(_))), "{again:?}");
    assert_eq!(std::fs::read_to_string(dir.path().join("token-1.key")).unwrap(), before);
}

#[test]
fn a_folder_without_keys_or_with_open_ones_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Keys::load(empty.path()), Err(KeyringError::NoKeys(_))));
    let dir = folder();
    let file = dir.path().join("token-1.key");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Keys::load(dir.path()), Err(KeyringError::Open(path)) if path == file));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "not a key").unwrap();
    let refused = Keys::load(dir.path()).err().unwrap();
    assert!(!refused.to_string().contains("not a key"), "{refused}");
}

#[test]
fn a_receipt_key_is_told_before_it_signs_and_believed_after() {
    let dir = folder();
    let first = Keys::load(dir.path()).unwrap().receipt().public();
    rotate(dir.path(), Kind::Receipt);
    let told = Keys::load(dir.path()).unwrap();
    assert_eq!((told.receipt().public(), told.receipt_public().len()), (first, 2));
    let taken_over = change(dir.path(), |ring| {
        ring.activate(Kind::Receipt, &[], NOW, false).unwrap();
    });
    assert_ne!(taken_over.receipt().public(), first);
    assert!(taken_over.receipt_public().contains(&first));
    let gone = change(dir.path(), |ring| {
        ring.retire(Kind::Receipt, 1, &[], NOW, false).unwrap();
    });
    assert_eq!(gone.receipt_public(), [gone.receipt().public()]);
}

#[test]
fn a_retired_token_key_opens_old_taps_and_is_told_to_nobody() {
    let dir = folder();
    let badge = "04A224B1C2D380".parse().unwrap();
    let sealed = Keys::load(dir.path()).unwrap().sealing_key().seal(&badge);
    rotate(dir.path(), Kind::Token);
    let keys = change(dir.path(), |ring| {
        ring.activate(Kind::Token, &[], NOW, false).unwrap();
        ring.retire(Kind::Token, 1, &[], NOW, false).unwrap();
    });
    assert_eq!(keys.sealing_key().id(), TokenKeyId(2));
    assert_eq!(keys.token_secrets().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [TokenKeyId(2)]);
    let opens = keys.token_keys().iter().find(|key| key.id() == sealed.key_id).unwrap();
    assert_eq!(opens.open(&sealed), Ok(badge));
}

#[tokio::test]
async fn the_running_service_sees_a_rotation_and_keeps_its_keys_through_a_broken_folder() {
    let dir = folder();
    let (live, mut looking) = live::open(dir.path().to_owned(), Keys::load(dir.path()).unwrap());
    let first = live.now().control().public();
    rotate(dir.path(), Kind::Control);
    change(dir.path(), |ring| {
        ring.activate(Kind::Control, &[], NOW, false).unwrap();
    });
    looking.look().unwrap();
    let second = live.now().control().public();
    assert_ne!(first, second);
    std::fs::write(dir.path().join("keyring.toml"), "[[key]]\nkind = \"tokne\"\n").unwrap();
    assert!(looking.look().is_err());
    assert_eq!(live.now().control().public(), second);
}
