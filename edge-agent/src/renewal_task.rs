//! Beside the line: renews this controller's certificate and keys, when [`crate::renewal`] says so or somebody asks. Nothing
//! here waits for taps, and no tap for it: new keys reach the agent's loop as an event, a new certificate the link.
//!
//! ```text
//! keys on the medium → ask the cloud → set on the medium → keys to the loop, certificate on trial → it worked: `current`
//! ```
//!
//! The new keys hold from the moment that they are on the medium, because the cloud uses them from the moment that it
//! gave them. Only the certificate has to prove itself first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tap_protocol::keys::SigningKey;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::agent::with_causes;
use crate::clock;
use crate::control::Response;
use crate::credentials::{Credentials, TrialNews};
use crate::enrolment::bundle::{Checked, certificates};
use crate::enrolment::client::{AskError, Cloud};
use crate::enrolment::folder::{Folder, FolderError, Lock, OwnKeys, RecordKey, Set, Sets};
use crate::enrolment::https::Patience;
use crate::identity::{Identity, KeyError};
use crate::known_time::KnownTime;
use crate::renewal::{Next, Renewal, Seen, due_utc_s};
use crate::tls::Trust;

/// However far away the next renewal is, the clocks are looked at this often: they may be set.
const LOOK_EVERY_MS: u64 = 60_000;

/// One who asks while another's wish is carried out waits; more find it full and are told.
const MAX_WISHES: usize = 4;

/// What the agent's loop hears.
#[derive(Debug)]
pub enum News {
    /// These keys hold from now on.
    Identity(Box<Identity>),
    /// What a person should know, or that it is over.
    Problem(Option<String>),
}

/// What `edge-agent cert renew` hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The new certificate's number.
    pub serial: String,
    /// When it ends, seconds since 1970-01-01 UTC.
    pub not_after_s: i64,
    /// The record key from now on.
    pub record_key: String,
}

/// Somebody wants it renewed now.
#[derive(Debug)]
struct Wish {
    record: RecordKey,
    answer: Option<oneshot::Sender<Response>>,
}

/// The way to ask for a renewal.
#[derive(Debug, Clone)]
pub struct RenewalHandle(Sender<Wish>);

impl RenewalHandle {
    /// Fetches certificate and keys soon. Nothing happens where that is under way already.
    pub fn now(&self) {
        let _ = self.0.try_send(Wish { record: RecordKey::Same, answer: None });
    }

    /// The same, with an answer, and with a new record key if wanted.
    pub fn ask(&self, record: RecordKey, answer: oneshot::Sender<Response>) {
        if let Err(refused) = self.0.try_send(Wish { record, answer: Some(answer) })
            && let Some(answer) = refused.into_inner().answer
        {
            let why = "others have asked for a renewal already: try again in a minute".to_owned();
            let _ = answer.send(Response::Refused { why });
        }
    }
}

/// No renewal this time.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// Our own folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The keys in it.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The cloud.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A thread for the disk could not be had.
    #[error("no thread could be started for the disk")]
    Thread(#[from] tokio::task::JoinError),
}

/// Renews one controller's set on the disk; the agent's task and `edge-agent cert renew` do it in the same way.
#[derive(Debug, Clone)]
pub struct Renewer {
    state_dir: PathBuf,
    time: Arc<KnownTime>,
}

impl Renewer {
    /// Of this state folder.
    pub fn new(state_dir: PathBuf, time: Arc<KnownTime>) -> Renewer {
        Renewer { state_dir, time }
    }

    /// Fetches the next set and keeps it, on trial.
    pub async fn renew(&self, record: RecordKey) -> Result<(Set, Checked), RenewalError> {
        let renewer = self.clone();
        let Prepared { lock, newest, current_key, keys } =
            tokio::task::spawn_blocking(move || renewer.prepare(record)).await??;
        let cloud = Cloud {
            url: newest.enrolment,
            trust: Trust::Roots(certificates(&newest.bundle.roots).expect("it was checked")),
            time: Arc::clone(&self.time),
            patience: Patience::default(),
        };
        let came = cloud.renew(&newest.bundle.controller, &keys, &current_key).await?;
        self.time.learn(came.bundle.cloud_utc_ms, clock::boottime_ms());
        let folder = self.folder();
        let (set, came) = tokio::task::spawn_blocking(move || {
            let set = folder.keep(&lock, &came)?;
            Ok::<_, FolderError>((set, came))
        })
        .await??;
        Ok((set, came))
    }

    fn prepare(&self, record: RecordKey) -> Result<Prepared, FolderError> {
        let folder = self.folder();
        let lock = folder.lock()?;
        let newest = self.sets()?.newest().clone();
        let keys = folder.keys_to_ask_with(&lock, record)?;
        Ok(Prepared { lock, current_key: newest.record_key()?, newest: newest.read()?, keys })
    }

    fn folder(&self) -> Folder {
        Folder::of(&self.state_dir)
    }

    /// What is on the disk now.
    pub fn sets(&self) -> Result<Sets, FolderError> {
        let folder = self.folder();
        folder.sets()?.ok_or_else(|| FolderError::Io {
            path: folder.path().to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }
}

struct Prepared {
    lock: Lock,
    newest: Checked,
    current_key: SigningKey,
    keys: OwnKeys,
}

/// Starts the task. It ends when the handle is aborted.
pub fn start(
    renewer: Renewer,
    credentials: Arc<Credentials>,
    news: Sender<News>,
) -> (RenewalHandle, JoinHandle<()>) {
    let (wishes_in, wishes) = channel(MAX_WISHES);
    let task = Task { renewer, credentials, news, renewal: Renewal::default(), problem: None };
    (RenewalHandle(wishes_in), tokio::spawn(task.run(wishes)))
}

struct Task {
    renewer: Renewer,
    credentials: Arc<Credentials>,
    news: Sender<News>,
    renewal: Renewal,
    problem: Option<String>,
}

impl Task {
    async fn run(mut self, mut wishes: Receiver<Wish>) {
        self.begin().await;
        loop {
            let wait_ms = match self.next().await {
                Some(Next::Renew) => {
                    let _ = self.renew(RecordKey::Same).await;
                    continue;
                }
                Some(Next::Wait(wait_ms)) => wait_ms.min(LOOK_EVERY_MS),
                None => LOOK_EVERY_MS,
            };
            tokio::select! {
                wish = wishes.recv() => {
                    let Some(wish) = wish else { return };
                    let told = self.renew(wish.record).await;
                    if let Some(answer) = wish.answer {
                        let _ = answer.send(match told {
                            Ok(renewed) => Response::Renewed(renewed),
                            Err(why) => Response::Refused { why },
                        });
                    }
                }
                news = self.credentials.news() => self.judged(news).await,
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            }
        }
    }

    /// A trial that an earlier run did not see the end of goes on.
    async fn begin(&mut self) {
        let renewer = self.renewer.clone();
        let begun = on_disk(move || {
            let sets = renewer.sets()?;
            let Some(trial) = sets.trial else {
                // The first set has no rival; after a power cut the link may be missing.
                renewer.folder().promote(&sets.current)?;
                return Ok(None);
            };
            let broker = trial.broker_config(&trial.path)?;
            Ok(Some((trial, broker)))
        });
        match begun.await {
            Ok(Some((trial, broker))) => self.credentials.offer(trial, broker),
            Ok(None) => {}
            Err(error) => self.has_problem(Some(with_causes(&error))).await,
        }
    }

    /// What the newest certificate and the clocks say; `None` where the certificate cannot be read.
    async fn next(&self) -> Option<Next> {
        let renewer = self.renewer.clone();
        let newest = on_disk(move || Ok(renewer.sets()?.newest().read()?)).await.ok()?;
        Some(self.renewal.next(&Seen {
            dates: newest.certificate.dates,
            dice: dice(&newest),
            time: self.renewer.time.check_at(),
            boottime_ms: clock::boottime_ms(),
            no_session_since_ms: self.credentials.no_session_since_ms(),
        }))
    }

    async fn renew(&mut self, record: RecordKey) -> Result<Renewed, String> {
        let done = match self.renewer.renew(record).await {
            Ok((set, came)) => self.hand_out(set, &came).await,
            Err(error) => Err(error),
        };
        let now_ms = clock::boottime_ms();
        match done {
            Ok(renewed) => {
                self.renewal.done(now_ms);
                tracing::info!(serial = renewed.serial, "a new certificate has come; it is tried now");
                self.has_problem(None).await;
                Ok(renewed)
            }
            Err(error) => {
                let needs_a_person = matches!(&error, RenewalError::Ask(error) if error.needs_a_person());
                let dice = ring::rand::generate::<[u8; 4]>(&ring::rand::SystemRandom::new());
                let dice = dice.map_or(0, |bytes| u32::from_ne_bytes(bytes.expose()));
                self.renewal.failed(now_ms, needs_a_person, dice);
                let why = with_causes(&error);
                let times = self.renewal.failures();
                tracing::warn!(why, times, "certificate and keys are not renewed; trying again");
                self.has_problem(Some(format!("certificate and keys are not renewed: {why}"))).await;
                Err(why)
            }
        }
    }

    /// The keys hold at once; the certificate is tried.
    async fn hand_out(&self, set: Set, came: &Checked) -> Result<Renewed, RenewalError> {
        let (reading, token_key_id) = (set.clone(), came.bundle.token_key_id);
        let read = on_disk(move || {
            let identity = Identity::load(&reading.keys_config(token_key_id))?;
            Ok((identity, reading.broker_config(&reading.path)?))
        });
        let (identity, broker) = read.await?;
        let renewed = Renewed {
            serial: came.certificate.serial.clone(),
            not_after_s: came.certificate.dates.not_after_s,
            record_key: identity.record_key.public().to_string(),
        };
        let _ = self.news.send(News::Identity(Box::new(identity))).await;
        self.credentials.offer(set, broker);
        Ok(renewed)
    }

    async fn judged(&mut self, news: TrialNews) {
        match news {
            TrialNews::Worked(set) => {
                let folder = self.renewer.folder();
                let promoted = on_disk(move || Ok(folder.promote(&set)?)).await;
                match promoted {
                    Ok(()) => {
                        tracing::info!("the new certificate has worked and is the current one");
                        self.has_problem(None).await;
                    }
                    // It is tried again at the next start, and works.
                    Err(error) => self.has_problem(Some(with_causes(&error))).await,
                }
            }
            TrialNews::Refused { why } => {
                tracing::error!(why, "the broker refuses the new certificate; going on with the old one");
                let what = format!(
                    "the broker refuses the new certificate, the old one still works: {why}. Does the broker know the certificate authority's newest root?"
                );
                self.has_problem(Some(what)).await;
            }
        }
    }

    async fn has_problem(&mut self, problem: Option<String>) {
        if self.problem != problem {
            self.problem.clone_from(&problem);
            let _ = self.news.send(News::Problem(problem)).await;
        }
    }
}

async fn on_disk<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, RenewalError> + Send + 'static,
) -> Result<T, RenewalError> {
    tokio::task::spawn_blocking(act).await?
}

/// The same for one certificate as long as it lives, so that restarts do not roll again until an early moment comes.
fn dice(set: &Checked) -> u32 {
    let leaf = certificates(&set.bundle.certificate).and_then(|chain| chain.into_iter().next());
    let hash = digest(&SHA256, &leaf.unwrap_or(CertificateDer::from(Vec::new())));
    hash.as_ref().first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}

/// When this set's certificate will be renewed, seconds since 1970-01-01 UTC.
pub fn due_of(set: &Checked) -> i64 {
    due_utc_s(&set.certificate.dates, dice(set))
}
