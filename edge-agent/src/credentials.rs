//! Step 6, before the connection: what the next session is made with. The link asks here each time it connects, so that a
//! renewed certificate needs no restart. Which of two is tried is decided in [`crate::trial`].

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Notify;

use crate::clock;
use crate::config::{BrokerConfig, BrokerUrl};
use crate::enrolment::folder::Set;
use crate::known_time::KnownTime;
use crate::tls::{ClientIdentity, Trust, client_config};
use crate::trial::{Trial, Which};

/// The TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// `mqtts` without anybody to trust.
    #[error("broker.ca_file is needed with mqtts://: it says which broker to trust")]
    NoCa,
    /// A certificate without its key, or the other way round.
    #[error("broker.cert_file and broker.key_file go together")]
    HalfAnIdentity,
    /// A PEM file that cannot be read.
    #[error("cannot read {path}")]
    Pem {
        /// Which.
        path: String,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// Files that rustls refuses.
    #[error("the broker's TLS files do not fit together")]
    Tls(#[from] rustls::Error),
}

/// What a session is made with.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// With the certificate that has worked, or with a new one.
    pub which: Which,
    /// Where to.
    pub broker: BrokerUrl,
    /// How, if not in clear.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// What happened to a new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrialNews {
    /// A session came up with it: it is the current one.
    Worked(Set),
    /// It was refused, while the one before still works.
    Refused {
        /// Why, for people.
        why: String,
    },
}

/// Shared by the link, which uses it, and the renewal, which brings new ones.
#[derive(Debug)]
pub struct Credentials {
    state: Mutex<State>,
    time: Arc<KnownTime>,
    /// There is a trial that was not there before.
    offered: Notify,
    /// There is news of it.
    judged: Notify,
}

#[derive(Debug)]
struct State {
    current: BrokerConfig,
    trial: Option<(Set, BrokerConfig, Trial)>,
    /// Why the trial's last session did not come up.
    why: String,
    news: Option<TrialNews>,
    no_session_since_ms: Option<u64>,
}

impl Credentials {
    /// With what has worked before.
    pub fn new(current: BrokerConfig, time: Arc<KnownTime>) -> Arc<Credentials> {
        let state = State {
            current,
            trial: None,
            why: String::new(),
            news: None,
            no_session_since_ms: Some(clock::boottime_ms()),
        };
        Arc::new(Credentials {
            state: Mutex::new(state),
            time,
            offered: Notify::new(),
            judged: Notify::new(),
        })
    }

    /// A new certificate: it is tried at once, and takes the current one's place when it has worked.
    pub fn offer(&self, set: Set, broker: BrokerConfig) {
        self.with(|state| state.trial = Some((set, broker, Trial::begin(clock::boottime_ms()))));
        self.offered.notify_one();
    }

    /// What to make the next session with. Reads files.
    pub fn attempt(&self) -> Result<Attempt, (Which, TlsFilesError)> {
        let (which, broker) = self.with(|state| match &state.trial {
            Some((_, broker, trial)) if trial.next(clock::boottime_ms()) == Which::Trial => {
                (Which::Trial, broker.clone())
            }
            _ => (Which::Current, state.current.clone()),
        });
        let tls = broker.url.tls.then(|| tls(&broker, &self.time)).transpose();
        Ok(Attempt { which, broker: broker.url, tls: tls.map_err(|error| (which, error))? })
    }

    /// A session is up.
    pub fn worked(&self, which: Which) {
        self.with(|state| {
            state.no_session_since_ms = None;
            match (which, state.trial.take()) {
                (Which::Trial, Some((set, broker, _))) => {
                    state.current = broker;
                    state.news = Some(TrialNews::Worked(set));
                    self.judged.notify_one();
                }
                (Which::Current, Some((set, broker, mut trial))) => {
                    if trial.current_works(clock::boottime_ms()) {
                        state.news = Some(TrialNews::Refused { why: state.why.clone() });
                        self.judged.notify_one();
                    }
                    state.trial = Some((set, broker, trial));
                }
                (_, None) => {}
            }
        });
    }

    /// An attempt or a session is over. Returns whether the next one is to begin without a pause.
    pub fn ended(&self, which: Which, was_up: bool, why: &str) -> bool {
        self.with(|state| {
            let now_ms = clock::boottime_ms();
            state.no_session_since_ms.get_or_insert(now_ms);
            let Some((_, _, trial)) = &mut state.trial else { return false };
            if !was_up {
                trial.failed(which);
                if which == Which::Trial {
                    state.why = why.to_owned();
                }
                return which == Which::Trial;
            }
            trial.next(now_ms) == Which::Trial
        })
    }

    /// Returns when a session that runs with the current certificate is to end, so that the new one can be tried.
    pub async fn trial_is_due(&self) {
        loop {
            let due_ms = self.with(|state| state.trial.as_ref().map(|(_, _, trial)| trial.due_ms()));
            let now_ms = clock::boottime_ms();
            match due_ms {
                Some(due_ms) if due_ms <= now_ms => return,
                Some(due_ms) => {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(due_ms - now_ms)) => {}
                        () = self.offered.notified() => {}
                    }
                }
                None => self.offered.notified().await,
            }
        }
    }

    /// Returns when a trial has come to an end.
    pub async fn news(&self) -> TrialNews {
        loop {
            if let Some(news) = self.with(|state| state.news.take()) {
                return news;
            }
            self.judged.notified().await;
        }
    }

    /// Since when there has been no session, CLOCK_BOOTTIME; `None` while there is one.
    pub fn no_session_since_ms(&self) -> Option<u64> {
        self.with(|state| state.no_session_since_ms)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// TLS as these files say.
pub fn tls(broker: &BrokerConfig, time: &Arc<KnownTime>) -> Result<Arc<rustls::ClientConfig>, TlsFilesError> {
    let trust = Trust::Roots(certificates(broker.ca_file.as_ref().ok_or(TlsFilesError::NoCa)?)?);
    let identity = match (&broker.cert_file, &broker.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let chain = certificates(cert_file)?;
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(pem(key_file))?;
            Some(ClientIdentity { chain, key })
        }
        (None, None) => None,
        _ => return Err(TlsFilesError::HalfAnIdentity),
    };
    Ok(Arc::new(client_config(trust, identity, time)?))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let all = CertificateDer::pem_file_iter(file).map_err(pem(file))?;
    all.collect::<Result<_, _>>().map_err(pem(file))
}

fn pem(path: &Path) -> impl Fn(rustls::pki_types::pem::Error) -> TlsFilesError {
    let path = path.display().to_string();
    move |source| TlsFilesError::Pem { path: path.clone(), source }
}
