//! The local socket: how `edge-agent status`, `tap --simulate` and others speak to the running agent. One JSON
//! object per line each way. Knows the words; the agent's loop answers.
//!
//! The socket is readable and writable by the agent's own user (and root) alone: a simulated tap counts.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tap_protocol::tap::Direction;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::anchors::ClockReport;
use crate::renewal_task::Renewed;
use crate::round_trip::RoundTrip;
use crate::status::Status;

/// A request is one short line.
const MAX_REQUEST_BYTES: u64 = 4 * 1024;

/// How long the agent may take for an answer: far longer than any commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for a renewal: two requests to the cloud at their slowest, and one that is under way already.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(180);

/// After a question could not be taken in.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How are you?
    Status,
    /// What do you know of the time?
    Clock,
    /// Take this badge as if it had been shown at the reader `simulated`.
    Tap {
        /// The badge, as [`tap_protocol::badge::Credential`] reads text.
        uid: String,
        /// Which way.
        #[serde(default)]
        direction: Direction,
    },
    /// Say hello to the cloud now, and tell when its receipt has come.
    RoundTrip,
    /// The numbers for monitoring.
    Metrics,
    /// Fetch certificate and keys from the cloud now.
    Renew {
        /// With a new record key.
        #[serde(default)]
        new_record_key: bool,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Clock`].
    Clock(Box<ClockReport>),
    /// The tap is on the medium.
    Recorded {
        /// Its number in the outbox.
        seq: u64,
        /// Its name for ever.
        event_id: String,
        /// What was shown.
        signal: String,
        /// From the card's number to the signal, microseconds.
        tap_to_signal_us: u64,
    },
    /// To [`Request::RoundTrip`]: the cloud's receipt came.
    RoundTrip(RoundTrip),
    /// To [`Request::Renew`]: they came, and the certificate is being tried.
    Renewed(Renewed),
    /// To [`Request::Metrics`], in Prometheus' text format.
    Metrics(String),
    /// Nothing was recorded, or done, and why.
    Refused {
        /// For people.
        why: String,
    },
}

/// A request with the way back.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Response>,
}

/// Makes the socket and starts answering. A socket file that a killed agent left behind is replaced; one with a living
/// agent behind it is not.
pub async fn listen(path: &Path, asked: Sender<Asked>) -> std::io::Result<JoinHandle<()>> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            format!("another edge-agent is running with {}", path.display()),
        ));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(converse(stream, asked.clone()))),
                // Too many open files, say: it passes, and the next question must find us.
                Err(error) => {
                    tracing::warn!(why = %error, "nobody can be answered on the control socket for a moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }))
}

async fn converse(stream: UnixStream, asked: Sender<Asked>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        match (&mut reader).take(MAX_REQUEST_BYTES).read_line(&mut line).await {
            Ok(n) if n > 0 => {}
            _ => return,
        }
        let response = match serde_json::from_str(&line) {
            Ok(request) => ask(&asked, request).await,
            Err(error) => Response::Refused { why: format!("not a request: {error}") },
        };
        if write_line(&mut writer, &response).await.is_err() {
            return;
        }
    }
}

async fn ask(asked: &Sender<Asked>, request: Request) -> Response {
    let (answer, answered) = oneshot::channel();
    let stopping = || Response::Refused { why: "the agent is stopping".into() };
    if asked.send(Asked { request, answer }).await.is_err() {
        return stopping();
    }
    answered.await.unwrap_or_else(|_| stopping())
}

async fn write_line(writer: &mut OwnedWriteHalf, response: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(response).map_err(std::io::Error::other)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// The other end: one question to the agent behind `path`.
pub async fn question(path: &Path, request: &Request) -> std::io::Result<Response> {
    let stream = UnixStream::connect(path).await?;
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(request).map_err(std::io::Error::other)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    let mut answer = String::new();
    let read = BufReader::new(reader);
    let mut read = read;
    let patience = match request {
        Request::Renew { .. } => RENEWAL_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    };
    tokio::time::timeout(patience, read.read_line(&mut answer)).await.map_err(std::io::Error::other)??;
    serde_json::from_str(&answer).map_err(std::io::Error::other)
}

/// [`question`], on a runtime of its own.
pub fn question_blocking(path: &Path, request: &Request) -> std::io::Result<Response> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(question(path, request))
}
