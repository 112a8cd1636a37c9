//! Check: every outbox file is whole. Opens them for reading alone, and without the help files that reading may make; what
//! the records say is for `edge-agent outbox verify`.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::{Agent, Finding, Subject};

pub fn look(subject: &Subject) -> Finding {
    subject.with_config(|config| {
        let folder = config.outbox_dir();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Finding::ok(format!("{} is not there yet: the agent makes it", folder.display()));
            }
            Err(error) => {
                return Finding::error(
                    format!("{} cannot be read: {error}", folder.display()),
                    "the outboxes cannot be looked at",
                    "run this as root (sudo) or as the user edge-agent",
                );
            }
        };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "outbox"));
        files.sort();
        let looked: Vec<(String, Result<(), String>, Value)> = files.iter().map(|file| examine(file)).collect();
        let evidence: Vec<&Value> = looked.iter().map(|(_, _, evidence)| evidence).collect();
        let pending = match &subject.agent {
            Agent::Running(status) => json!(status.pending),
            _ => Value::Null,
        };
        let evidence = json!({"folder": folder, "files": evidence, "pending": pending});
        let damaged: Vec<String> =
            looked.iter().filter_map(|(name, result, _)| Some(format!("{name}: {}", result.as_ref().err()?))).collect();
        if !damaged.is_empty() {
            return Finding::error(
                format!("damaged: {}", damaged.join("; ")),
                "records in it may be unreadable; new taps go to a new outbox as soon as the agent notices",
                "systemctl restart edge-agent sets it aside and saves what is readable; then send `edge-agent diag collect` to support and replace the card",
            )
            .with(evidence);
        }
        let count = files.len();
        let noun = if count == 1 { "outbox is" } else { "outboxes are" };
        Finding::ok(format!("{count} {noun} whole")).with(evidence)
    })
}

fn examine(file: &Path) -> (String, Result<(), String>, Value) {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let result = quick_check(file).map_err(|error| error.to_string()).and_then(|said| match said.as_str() {
        "ok" => Ok(()),
        complaint => Err(complaint.to_owned()),
    });
    let size = |path: &Path| path.metadata().map_or(0, |file| file.len());
    let evidence = json!({
        "file": name,
        "bytes": size(file),
        "log_bytes": size(&log_of(file)),
        "result": result.clone().err().unwrap_or_else(|| "ok".into()),
    });
    (name, result, evidence)
}

fn quick_check(file: &Path) -> rusqlite::Result<String> {
    // With nothing in its write-ahead log, the file alone says everything, and SQLite need not make a file to share.
    let is_alone = log_of(file).metadata().map_or(0, |log| log.len()) == 0;
    let mode = if is_alone { "immutable=1" } else { "mode=ro" };
    let path = file.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(format!("file:{path}?{mode}"), flags)?;
    database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
}

fn log_of(file: &Path) -> std::path::PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{State, fake};
    use crate::outbox::medium::Disk;
    use crate::outbox::shelf::{Owner, Shelf};
    use tap_protocol::ids::OutboxId;

    fn shelf(folder: &Path) -> Shelf {
        let owner = Owner { controller: "a".parse().unwrap(), machine: b"pi".to_vec() };
        Shelf::open(Disk::shared(), &folder.join("outbox"), &owner, || OutboxId([7; 16])).unwrap()
    }

    fn listing(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = std::fs::read_dir(folder.join("outbox"))
            .unwrap()
            .flatten()
            .map(|entry| {
                (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn look_at(folder: &Path) -> Finding {
        let (_root, mut subject) = fake::machine(&[], fake::CONFIG);
        subject.config.as_mut().unwrap().state_dir = folder.to_owned();
        look(&subject)
    }

    #[test]
    fn a_closed_outbox_is_looked_at_without_leaving_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        shelf(folder.path()).newest().append(&[b"one".to_vec()]).unwrap();
        let before = listing(folder.path());
        let found = look_at(folder.path());
        assert_eq!((found.state, found.says.as_str()), (State::Ok, "1 outbox is whole"));
        assert_eq!(listing(folder.path()), before);
    }

    #[test]
    fn an_outbox_in_use_is_looked_at_while_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut open = shelf(folder.path());
        open.newest().append(&vec![b"x".to_vec(); 100]).unwrap();
        let found = look_at(folder.path());
        assert_eq!(found.state, State::Ok, "{found:?}");
        assert!(found.evidence["files"][0]["log_bytes"].as_u64() > Some(0), "{found:?}");
        open.newest().append(&[b"two".to_vec()]).unwrap();
    }

    #[test]
    fn a_damaged_outbox_is_named() {
        let folder = tempfile::tempdir().unwrap();
        shelf(folder.path()).newest().append(&vec![vec![7; 150]; 400]).unwrap();
        let (name, mut bytes) =
            listing(folder.path()).into_iter().find(|(name, _)| name.ends_with("outbox")).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4096].fill(0xA5);
        std::fs::write(folder.path().join("outbox").join(&name), bytes).unwrap();
        let found = look_at(folder.path());
        assert_eq!(found.state, State::Error, "{found:?}");
        assert!(found.says.contains(&name), "{found:?}");
    }
}
