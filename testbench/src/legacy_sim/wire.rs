//! A TCP connection whose HTTP answer can be replaced by raw bytes or a reset; it doesn't know why.
//!
//! axum speaks only well-formed HTTP. A handler that wants to misbehave gets the [`Wire`] of its connection
//! as `ConnectInfo`, gives an order, and returns any response: its first write carries out the order instead.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// The handler's end of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wire(Arc<OnceLock<Order>>);

/// What happens in place of the answer. The connection doesn't survive either.
#[derive(Debug)]
pub(crate) enum Order {
    /// RST, without a byte of answer.
    Reset,
    /// Exactly these bytes, and then FIN.
    SendAndClose(Vec<u8>),
    /// Exactly these bytes, and then silence until the client gives up.
    SendAndHold(Vec<u8>),
}

impl Wire {
    pub(crate) fn give(&self, order: Order) {
        self.0.set(order).expect("a connection ends with its first order");
    }
}

impl Connected<IncomingStream<'_, WireListener>> for Wire {
    fn connect_info(stream: IncomingStream<'_, WireListener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Accepts connections that take orders.
pub(crate) struct WireListener(pub(crate) TcpListener);

impl Listener for WireListener {
    type Io = WiredStream;
    type Addr = Wire;

    async fn accept(&mut self) -> (WiredStream, Wire) {
        let (stream, _peer) = Listener::accept(&mut self.0).await;
        // Nagle only costs time here; a connection that is gone already will say so on its first read.
        let _ = stream.set_nodelay(true);
        let wire = Wire::default();
        (WiredStream { stream, wire: wire.clone(), sent: 0 }, wire)
    }

    fn local_addr(&self) -> io::Result<Wire> {
        Ok(Wire::default())
    }
}

/// The server's end of a connection.
pub(crate) struct WiredStream {
    stream: TcpStream,
    wire: Wire,
    /// How many of the ordered bytes are out.
    sent: usize,
}

impl AsyncWrite for WiredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match this.wire.0.get() {
            None => Pin::new(&mut this.stream).poll_write(cx, bytes),
            Some(Order::Reset) => {
                // Without lingering, closing the socket sends RST instead of FIN.
                this.stream.set_zero_linger()?;
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            Some(Order::SendAndClose(ordered)) => {
                while this.sent < ordered.len() {
                    this.sent += ready!(Pin::new(&mut this.stream).poll_write(cx, &ordered[this.sent..]))?;
                }
                // The error makes the HTTP server drop the connection, which closes it.
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            Some(Order::SendAndHold(ordered)) => {
                while this.sent < ordered.len() {
                    this.sent += ready!(Pin::new(&mut this.stream).poll_write(cx, &ordered[this.sent..]))?;
                }
                // Nothing to wake up for: the read side sees the client go.
                Poll::Pending
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for WiredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}
