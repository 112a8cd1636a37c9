//! Beside the line: listeners that face strangers: TCP, then TLS under a certificate that our own root signed, or under one
//! from files. Knows no requests.
//!
//! Whoever connects has proved nothing yet, so everything has a bound: how many are connected, how long the handshake
//! takes, how long a connection lasts.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::ca;
use crate::clock::Clock;
use crate::event_store::UtcMs;
use crate::keyring::live::LiveKeys;
use crate::keyring::random;
use crate::telemetry::with_causes;

/// Connections at once; each holds some 50 KiB.
const MAX_CONNECTIONS: usize = 256;

/// A slow line at a far site needs a few round trips.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A certificate by our root is good for a week and made anew each day, or when the root changes.
const LEAF_DAYS: u32 = 7;
const LEAF_FRESH_MS: i64 = 24 * 60 * 60 * 1_000;

/// Files are read again so often: whoever renews them restarts nothing.
const FILES_FRESH_MS: i64 = 60 * 60 * 1_000;

/// After an error that says that files ran out, it helps to wait.
const BREATH: Duration = Duration::from_millis(200);

/// What a listener is.
pub struct Listening {
    /// In the log: `enrolment`, `capture`.
    pub what: &'static str,
    /// Under which certificate it speaks.
    pub certificate: Certificate,
    /// How long a connection lasts at most.
    pub lifetime: Duration,
    /// Which TLS it speaks: our own agents need one, clients of all kinds two.
    pub versions: &'static [&'static SupportedProtocolVersion],
}

/// Where a listener's certificate comes from.
pub enum Certificate {
    /// Made for these names, by our root.
    OfOurRoot {
        /// Names and addresses by which it is reached.
        names: Vec<String>,
        /// The root.
        keys: LiveKeys,
    },
    /// Somebody else's, PEM.
    OfFiles {
        /// The chain, the certificate first.
        chain: PathBuf,
        /// The key to it.
        key: PathBuf,
    },
}

/// Who is on the other end.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Connections whose handshake is done.
pub struct TlsListener {
    ready: mpsc::Receiver<(Brief, SocketAddr)>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    /// Takes connections from `tcp`.
    pub fn new(tcp: TcpListener, listening: Listening, clock: Clock) -> anyhow::Result<TlsListener> {
        let address = tcp.local_addr()?;
        let mut leaf = Leaf { listening, clock, config: None };
        // Whether there is a certificate is known before anybody connects.
        leaf.config()?;
        let (done, ready) = mpsc::channel(16);
        let accepting = tokio::spawn(accept(tcp, leaf, done));
        Ok(TlsListener { ready, address, accepting })
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Listener for TlsListener {
    type Io = Brief;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Brief, SocketAddr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The accepting task ends with us alone.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

/// Handshakes run beside each other: a slow one keeps nobody waiting.
async fn accept(tcp: TcpListener, mut leaf: Leaf, done: mpsc::Sender<(Brief, SocketAddr)>) {
    let Listening { what, lifetime, .. } = leaf.listening;
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let (stream, peer) = match tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(what, %error, "a connection failed");
                sleep(BREATH).await;
                continue;
            }
        };
        let acceptor = match leaf.config() {
            Ok(config) => TlsAcceptor::from(config),
            Err(error) => {
                tracing::error!(what, why = %error, "the listener has no certificate: nobody can connect");
                continue;
            }
        };
        let done = done.clone();
        tokio::spawn(async move {
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let brief = Brief { stream, end: Box::pin(sleep(lifetime)), _permit: permit };
                    // Nobody listens any more: the service ends.
                    let _ = done.send((brief, peer)).await;
                }
                Ok(Err(error)) => tracing::debug!(what, %peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(what, %peer, "a TLS handshake took too long"),
            }
        });
    }
}

/// The certificate under which the listener speaks.
struct Leaf {
    listening: Listening,
    clock: Clock,
    config: Option<Made>,
}

struct Made {
    at: UtcMs,
    /// Of which root, if of ours.
    root: Option<u16>,
    config: Arc<ServerConfig>,
}

impl Leaf {
    fn config(&mut self) -> anyhow::Result<Arc<ServerConfig>> {
        let now = self.clock.now();
        let (root, fresh_ms) = match &self.listening.certificate {
            Certificate::OfOurRoot { keys, .. } => {
                (keys.now().server_root().map(|root| root.number()), LEAF_FRESH_MS)
            }
            Certificate::OfFiles { .. } => (None, FILES_FRESH_MS),
        };
        if let Some(made) = &self.config
            && made.root == root
            && (0..fresh_ms).contains(&(now.0 - made.at.0))
        {
            return Ok(Arc::clone(&made.config));
        }
        let config = match (make_config(&self.listening, now), &self.config) {
            (Ok(config), _) => Arc::new(config),
            // Half-written files: the ones before are good until they end, and these are tried again in an hour.
            (Err(error), Some(before)) if root.is_none() => {
                tracing::error!(what = self.listening.what, why = %error, "the certificate's files are no good: the ones before stay");
                Arc::clone(&before.config)
            }
            (Err(error), _) => return Err(error),
        };
        self.config = Some(Made { at: now, root, config: Arc::clone(&config) });
        Ok(config)
    }
}

fn make_config(listening: &Listening, now: UtcMs) -> anyhow::Result<ServerConfig> {
    let (chain, key) = match &listening.certificate {
        Certificate::OfOurRoot { names, keys } => {
            let keys = keys.now();
            let root = keys
                .server_root()
                .ok_or_else(|| anyhow::anyhow!("there is no root: `cloud-ingest ca init`"))?;
            let issued = root
                .issue_server(names, ca::serial(random()?), now, LEAF_DAYS)
                .map_err(|error| anyhow::anyhow!("{}", with_causes(&error)))?;
            (issued.chain, issued.key)
        }
        Certificate::OfFiles { chain, key } => (read(chain)?, read(key)?),
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(listening.versions)?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A connection with an end.
pub struct Brief {
    stream: TlsStream<TcpStream>,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Brief {
    fn ended(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Brief {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Brief {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
