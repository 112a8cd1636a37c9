//! Beside the line: gives the numbers of [`crate::metrics`] to whoever monitors: over HTTP at an address of this machine,
//! or in a file. Knows that much of HTTP, and nothing of taps: whatever happens here, the door goes on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::control::{Asked, Request, Response};
use crate::metrics::{CONTENT_TYPE, Room, certificate_text, room_text};
use crate::tls::about_file;

/// Who scrapes, scrapes alone; a second one may look in.
const MAX_CONNECTIONS: usize = 4;

/// A scrape's request is some hundred bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// A whole exchange on loopback takes milliseconds.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the file is written: as often as Prometheus usually looks. In memory (`/run`) it wears nothing out.
const WRITE_EVERY: Duration = Duration::from_secs(15);

/// After an address could not be bound, or a file not be written, it is tried again so much later.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Where the numbers come from.
#[derive(Debug, Clone)]
struct Source {
    asked: Sender<Asked>,
    outbox_dir: PathBuf,
    certificate: Option<PathBuf>,
}

/// Starts what `config` asks for. An address that is taken is complained about and tried again; it keeps no door shut.
pub fn start(config: &Config, asked: Sender<Asked>) -> Vec<JoinHandle<()>> {
    let source =
        Source { asked, outbox_dir: config.outbox_dir(), certificate: config.broker.cert_file.clone() };
    let listening = config.metrics.listen.map(|address| tokio::spawn(listen(address, source.clone())));
    let writing = config.metrics.file.clone().map(|file| tokio::spawn(write_often(file, source)));
    listening.into_iter().chain(writing).collect()
}

async fn listen(address: SocketAddr, source: Source) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!("metrics cannot be offered at {address}: {error}; trying again");
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
        }
    };
    tracing::info!("metrics are at http://{address}/metrics");
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = source.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange(stream, &source)).await;
                    drop(place);
                });
            }
            // Out of file descriptors, say: a pause, or this would spin.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

/// One request, one answer.
async fn exchange(mut stream: TcpStream, source: &Source) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let n = stream.read(&mut part).await?;
        if n == 0 || request.len() + n > MAX_REQUEST_BYTES {
            return Ok(());
        }
        request.extend_from_slice(&part[..n]);
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (status, content_type, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => match source.text().await {
            Some(text) => ("200 OK", CONTENT_TYPE, text),
            None => ("503 Service Unavailable", "text/plain", "the agent is stopping\n".into()),
        },
        (b"GET" | b"HEAD", _) => ("404 Not Found", "text/plain", "try /metrics\n".into()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != b"HEAD" {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

async fn write_often(file: PathBuf, source: Source) {
    loop {
        let Some(text) = source.text().await else { return };
        let path = file.clone();
        let written = tokio::task::spawn_blocking(move || replace(&path, &text)).await;
        let pause = match written {
            Ok(Ok(())) => WRITE_EVERY,
            Ok(Err(error)) => {
                tracing::warn!("metrics cannot be written to {}: {error}; trying again", file.display());
                TRY_AGAIN_AFTER
            }
            Err(_) => return,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whole or not at all: a collector must not read half a file. It is no promise, so it is not synced.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let draft = file.with_extension("prom.new");
    std::fs::write(&draft, text)?;
    // The collector is another user; nothing in it is secret.
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o644))?;
    std::fs::rename(&draft, file)
}

impl Source {
    async fn text(&self) -> Option<String> {
        let (answer, answered) = oneshot::channel();
        self.asked.send(Asked { request: Request::Metrics, answer }).await.ok()?;
        let Ok(Response::Metrics(mut text)) = answered.await else { return None };
        let (folder, certificate) = (self.outbox_dir.clone(), self.certificate.clone());
        // The disk may take its time, which is nobody else's.
        let more = tokio::task::spawn_blocking(move || {
            let room = room(&folder).map(room_text).unwrap_or_default();
            let about = certificate.and_then(|file| about_file(&file).ok());
            room + &about.map(|about| certificate_text(about.dates.not_after_s)).unwrap_or_default()
        });
        text.push_str(&more.await.ok()?);
        Some(text)
    }
}

/// What the outboxes take, and what is free there.
pub fn room(folder: &Path) -> std::io::Result<Room> {
    let disk = rustix::fs::statvfs(folder)?;
    let mut outbox_bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        outbox_bytes += entry?.metadata().map_or(0, |file| file.len());
    }
    Ok(Room { outbox_bytes, free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize) })
}
