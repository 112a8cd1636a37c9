//! What the cloud orders this controller to do: the book of it, which outlives restarts, and the thread that does what takes
//! time. Knows no cloud and no signature: what comes here was proved, and is for this controller.
//!
//! An order is done first and noted then. A power cut in between means that it comes again and is done again, which changes
//! nothing: every order says what is to be, not what is to be changed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::{Deserialize, Serialize};
use tap_protocol::limits::MAX_REPORT_TEXT_BYTES;
use tap_protocol::report::Outcome;
use tokio::sync::mpsc::Sender;

use crate::check::{self, Checked, State, Subject};

/// The book's name in the state folder.
const FILE: &str = "orders.json";

/// One is under way; another may be noted beside it.
const MAX_WAITING: usize = 4;

/// What was done, and what has been so since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// The last order taken; the highest number of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Entry>,
    /// This controller was put out of trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
}

/// One order and its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// What was ordered, in a word.
    pub order: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What came of it, for people.
    pub detail: String,
}

/// Which key was put out of trust. Another key, from a new enrolment, is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// By which order.
    pub number: u64,
    /// The public half of the record key, in hexadecimal digits.
    pub record_key: String,
}

/// A book that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// Not read.
    #[error("cannot read the book of orders {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else is in it.
    #[error("the book of orders {} is damaged: delete it; the cloud repeats what still holds", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Not written.
    #[error("cannot write the book of orders {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Book {
    /// Reads it; an empty one if nothing was ever ordered.
    pub fn load(state_dir: &Path) -> Result<Book, BookError> {
        let path = state_dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| BookError::Format { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Book::default()),
            Err(source) => Err(BookError::Read { path, source }),
        }
    }

    /// Writes it, whole or not at all, and makes that durable.
    pub fn save(&self, state_dir: &Path) -> Result<(), BookError> {
        let (path, draft) = (state_dir.join(FILE), state_dir.join("orders.draft"));
        let text = serde_json::to_vec_pretty(self).expect("a book is numbers and words");
        let written = File::create(&draft)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&draft, &path))
            .and_then(|()| File::open(state_dir)?.sync_all());
        written.map_err(|source| BookError::Write { path, source })
    }
}

/// What the thread is to do.
#[derive(Debug)]
pub enum Job {
    /// Run all checks.
    RunChecks {
        /// The order.
        number: u64,
    },
    /// Fetch certificate and keys.
    FetchKeys {
        /// The order.
        number: u64,
    },
    /// Write this book.
    Note(Book),
}

/// What the thread tells.
#[derive(Debug)]
pub enum Done {
    /// An order came to this end; it is not noted yet.
    Ended {
        /// Which.
        number: u64,
        /// How.
        outcome: Outcome,
        /// For people.
        detail: String,
    },
    /// The book is on the medium.
    Noted(Book),
    /// The book is not on the medium.
    NotNoted(BookError),
}

/// Fetches certificate and keys; says what came of it.
pub type FetchKeys = Box<dyn Fn() -> (Outcome, String) + Send>;

/// What is fetched where nobody enrolled this controller.
pub fn provisioned_by_hand() -> (Outcome, String) {
    (Outcome::Refused, "this controller was not enrolled: its keys were put here by hand".into())
}

/// The thread.
#[derive(Debug)]
pub struct Orders {
    jobs: SyncSender<Job>,
}

impl Orders {
    /// Starts the thread. `subject` says what the checks look at, at the time of asking.
    pub fn start(
        state_dir: PathBuf,
        subject: impl Fn() -> Subject + Send + 'static,
        fetch_keys: FetchKeys,
        answers: Sender<Done>,
    ) -> io::Result<Orders> {
        let (jobs, queue) = sync_channel(MAX_WAITING);
        let work = move || work(&state_dir, &subject, &fetch_keys, &queue, &answers);
        std::thread::Builder::new().name("orders".into()).spawn(work)?;
        Ok(Orders { jobs })
    }

    /// Asks for something, now or not at all. Whether it was taken.
    pub fn submit(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }
}

fn work(
    state_dir: &Path,
    subject: &dyn Fn() -> Subject,
    fetch_keys: &FetchKeys,
    queue: &Receiver<Job>,
    answers: &Sender<Done>,
) {
    while let Ok(job) = queue.recv() {
        let done = match job {
            Job::RunChecks { number } => {
                let (outcome, detail) = (Outcome::Done, report(&check::run_all(subject())));
                Done::Ended { number, outcome, detail }
            }
            Job::FetchKeys { number } => {
                let (outcome, detail) = fetch_keys();
                Done::Ended { number, outcome, detail }
            }
            Job::Note(book) => match book.save(state_dir) {
                Ok(()) => Done::Noted(book),
                Err(error) => Done::NotNoted(error),
            },
        };
        if answers.blocking_send(done).is_err() {
            break;
        }
    }
}

/// The checks in words, what is wrong first, within what a report can hold.
fn report(checks: &[Checked]) -> String {
    let count = |state| checks.iter().filter(|checked| checked.finding.state == state).count();
    let mut text = format!("{} errors, {} warnings", count(State::Error), count(State::Warning));
    let mut sorted: Vec<_> = checks.iter().collect();
    sorted.sort_by_key(|checked| std::cmp::Reverse(checked.finding.state));
    for Checked { check, finding, .. } in sorted {
        let state = match finding.state {
            State::Error => "ERROR",
            State::Warning => "warning",
            State::Ok => "ok",
            State::Skipped => "skipped",
        };
        text.push_str(&format!("\n{state} {check}: {}", finding.says));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!(" ({remedy})"));
        }
    }
    fit(text)
}

/// Cut to what a report can hold.
pub fn fit(mut text: String) -> String {
    while text.len() > MAX_REPORT_TEXT_BYTES {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Finding;

    fn book() -> Book {
        let entry =
            Entry { number: 7, order: "revoke".into(), outcome: Outcome::Done, detail: "done".into() };
        Book { last: Some(entry), revoked: Some(Revoked { number: 7, record_key: "03".repeat(32) }) }
    }

    #[test]
    fn a_book_outlives_a_restart_and_an_interrupted_write() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Book::load(folder.path()).unwrap(), Book::default());
        book().save(folder.path()).unwrap();
        std::fs::write(folder.path().join("orders.draft"), "{ \"last\":").unwrap();
        assert_eq!(Book::load(folder.path()).unwrap(), book());
        Book::default().save(folder.path()).unwrap();
        assert_eq!(Book::load(folder.path()).unwrap(), Book::default());
    }

    #[test]
    fn a_damaged_book_is_told_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        let error = Book::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("delete it"), "{error}");
    }

    #[test]
    fn what_is_wrong_comes_first_and_all_of_it_fits_a_report() {
        let checked = |check: &str, state, says: String| Checked {
            check: check.into(),
            took_ms: 1,
            finding: Finding { state, says, meaning: None, remedy: None, evidence: serde_json::json!({}) },
        };
        let text = report(&[
            checked("keys", State::Ok, "fine".into()),
            checked("broker", State::Error, "nobody answers".into()),
            checked("long", State::Skipped, "é".repeat(4_000)),
        ]);
        assert!(
            text.starts_with("1 errors, 0 warnings\nERROR broker: nobody answers\nok keys: fine\n"),
            "{text}"
        );
        assert!(text.len() <= MAX_REPORT_TEXT_BYTES && text.len() > MAX_REPORT_TEXT_BYTES - 4);
    }

    #[tokio::test]
    async fn orders_are_done_off_the_loop_and_noted() {
        let folder = tempfile::tempdir().unwrap();
        let (answers, mut done) = tokio::sync::mpsc::channel(4);
        let nothing = || Subject {
            config_file: "edge-agent.toml".into(),
            config: Err("none".into()),
            agent: check::Agent::Stopped,
            root: "/nonexistent".into(),
        };
        let dir = folder.path().to_owned();
        let orders = Orders::start(dir, nothing, Box::new(provisioned_by_hand), answers).unwrap();
        assert!(orders.submit(Job::FetchKeys { number: 3 }));
        let ended = done.recv().await.unwrap();
        assert!(matches!(ended, Done::Ended { number: 3, outcome: Outcome::Refused, .. }), "{ended:?}");
        assert!(orders.submit(Job::Note(book())));
        assert!(matches!(done.recv().await.unwrap(), Done::Noted(_)));
        assert_eq!(Book::load(folder.path()).unwrap(), book());
    }
}
