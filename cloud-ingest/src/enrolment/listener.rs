//! Beside the line: connections to the enrolment listener: TCP, then TLS 1.3 under a certificate that our own root signed.
//! Knows no requests.
//!
//! Whoever connects has proved nothing yet, so everything has a bound: how many are connected, how long the handshake
//! takes, how long a connection lasts.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
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
use crate::keyring::{Keys, random};
use crate::telemetry::with_causes;

/// Connections at once; each holds some 50 KiB.
const MAX_CONNECTIONS: usize = 256;

/// A slow line at a far site needs a few round trips.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A whole conversation, challenge and bundle, takes seconds.
const LIFETIME: Duration = Duration::from_secs(60);

/// The listener's own certificate is good for a week and made anew each day, or when the root changes.
const LEAF_DAYS: u32 = 7;
const LEAF_FRESH_MS: i64 = 24 * 60 * 60 * 1_000;

/// After an error that says that files ran out, it helps to wait.
const BREATH: Duration = Duration::from_millis(200);

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
    /// Takes connections from `tcp`, under certificates for `names`.
    pub fn new(
        tcp: TcpListener,
        names: Vec<String>,
        keys: LiveKeys,
        clock: Clock,
    ) -> anyhow::Result<TlsListener> {
        let address = tcp.local_addr()?;
        let mut leaf = Leaf { names, keys, clock, config: None };
        // Whether a certificate can be made for these names is known before anybody connects.
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
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let (stream, peer) = match tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the enrolment listener failed");
                sleep(BREATH).await;
                continue;
            }
        };
        let acceptor = match leaf.config() {
            Ok(config) => TlsAcceptor::from(config),
            Err(error) => {
                tracing::error!(why = %error, "the enrolment listener has no certificate: nobody can enrol");
                continue;
            }
        };
        let done = done.clone();
        tokio::spawn(async move {
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let brief = Brief { stream, end: Box::pin(sleep(LIFETIME)), _permit: permit };
                    // Nobody listens any more: the service ends.
                    let _ = done.send((brief, peer)).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake for enrolment failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake for enrolment took too long"),
            }
        });
    }
}

/// The certificate under which the listener speaks.
struct Leaf {
    names: Vec<String>,
    keys: LiveKeys,
    clock: Clock,
    /// Made when, by which root.
    config: Option<(UtcMs, u16, Arc<ServerConfig>)>,
}

impl Leaf {
    fn config(&mut self) -> anyhow::Result<Arc<ServerConfig>> {
        let (keys, now) = (self.keys.now(), self.clock.now());
        let root = keys.server_root().map(|root| root.number());
        if let Some((made, by, config)) = &self.config
            && Some(*by) == root
            && (0..LEAF_FRESH_MS).contains(&(now.0 - made.0))
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(make_config(&keys, &self.names, now)?);
        self.config = root.map(|root| (now, root, Arc::clone(&config)));
        Ok(config)
    }
}

fn make_config(keys: &Keys, names: &[String], now: UtcMs) -> anyhow::Result<ServerConfig> {
    let root =
        keys.server_root().ok_or_else(|| anyhow::anyhow!("there is no root: `cloud-ingest ca init`"))?;
    let issued = root
        .issue_server(names, ca::serial(random()?), now, LEAF_DAYS)
        .map_err(|error| anyhow::anyhow!("{}", with_causes(&error)))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
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
