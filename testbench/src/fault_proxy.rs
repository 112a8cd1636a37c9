//! A TCP proxy that breaks the network on request and counts what passes; it doesn't know what it carries.
//!
//! One loop owns the listener and all connections and takes the orders; each connection pumps bytes under the
//! weather that the loop has published.

mod pump;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
};

use pump::{Allowance, Counters};

/// Orders wait for one another, so a short queue does.
const ORDERS_WAITING_MAX: usize = 8;

/// A running proxy; dropping it cuts everything and frees the port.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    orders: mpsc::Sender<(Order, Done)>,
    counters: Arc<Counters>,
    proxy: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on `listen` (port 0 for any) and connects each client to `upstream`.
    ///
    /// # Errors
    ///
    /// When `listen` can't be bound.
    pub async fn start(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let counters = Arc::new(Counters::default());
        let (orders, orders_taken) = mpsc::channel(ORDERS_WAITING_MAX);
        let proxy = Proxy {
            addr,
            upstream,
            listener: Some(listener),
            connections: JoinSet::new(),
            weather: watch::Sender::new(Weather::default()),
            counters: Arc::clone(&counters),
            orders: orders_taken,
        };
        Ok(Self { addr, orders, counters, proxy: tokio::spawn(proxy.run()) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Drops all connections and refuses new ones, until [`restore`](Self::restore).
    ///
    /// # Errors
    ///
    /// Never in practice; all orders share one signature.
    pub async fn cut(&self) -> io::Result<()> {
        self.give(Order::Cut).await
    }

    /// Lets everything pass again, what was held back included. Delay and allowances stay as they are.
    ///
    /// # Errors
    ///
    /// When somebody has taken the port meanwhile.
    pub async fn restore(&self) -> io::Result<()> {
        self.give(Order::Restore).await
    }

    /// Accepts, keeps connections open and passes nothing: half-open, as when a cable is pulled.
    ///
    /// # Errors
    ///
    /// When the listener was cut and its port has been taken meanwhile.
    pub async fn stall(&self) -> io::Result<()> {
        self.give(Order::Stall).await
    }

    /// Holds each chunk back for this long, in each direction, keeping order and throughput.
    ///
    /// # Errors
    ///
    /// Never in practice; all orders share one signature.
    pub async fn set_delay(&self, delay: Duration) -> io::Result<()> {
        self.give(Order::Delay(delay)).await
    }

    /// Passes this many more bytes in one direction, all connections together, and then [cuts](Self::cut): in the
    /// middle of a packet, if the number says so.
    ///
    /// # Errors
    ///
    /// Never in practice; all orders share one signature.
    pub async fn cut_after(&self, direction: Direction, bytes: u64) -> io::Result<()> {
        self.give(Order::CutAfter(direction, bytes)).await
    }

    /// What has passed so far.
    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }

    async fn give(&self, order: Order) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.orders.send((order, done)).await.expect("the proxy runs as long as its handle lives");
        wait.await.expect("the proxy answers each order")
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.proxy.abort();
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Payload that was handed to the other side's kernel, and connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Bytes from clients to the server.
    pub up_bytes: u64,
    /// Bytes from the server to clients.
    pub down_bytes: u64,
    /// Connections accepted since the start.
    pub accepted: u64,
}

/// What the loop publishes to the pumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weather {
    stalled: bool,
    delay: Duration,
}

/// What can be asked of the proxy.
#[derive(Clone, Copy, Debug)]
enum Order {
    Cut,
    Restore,
    Stall,
    Delay(Duration),
    CutAfter(Direction, u64),
}

/// Told when an order has taken effect.
type Done = oneshot::Sender<io::Result<()>>;

/// The loop and what it owns.
struct Proxy {
    addr: SocketAddr,
    upstream: SocketAddr,
    /// `None` while cut, so that the kernel refuses.
    listener: Option<TcpListener>,
    connections: JoinSet<Option<pump::AllowanceUsedUp>>,
    weather: watch::Sender<Weather>,
    counters: Arc<Counters>,
    orders: mpsc::Receiver<(Order, Done)>,
}

/// Everything that can happen to the proxy.
enum Event {
    Ordered(Order, Done),
    Accepted(TcpStream),
    AllowanceUsedUp,
    HandleGone,
}

impl Proxy {
    async fn run(mut self) {
        loop {
            match self.next_event().await {
                Event::Ordered(order, done) => {
                    let outcome = self.obey(order).await;
                    // Whoever gave the order may have stopped waiting for it.
                    let _ = done.send(outcome);
                }
                Event::Accepted(client) => self.connect(client),
                Event::AllowanceUsedUp => self.cut().await,
                Event::HandleGone => return,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        loop {
            let accept = async {
                match &self.listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = self.orders.recv() => {
                    return order.map_or(Event::HandleGone, |(order, done)| Event::Ordered(order, done));
                }
                Some(ended) = self.connections.join_next() => {
                    if let Ok(Some(pump::AllowanceUsedUp)) = ended {
                        return Event::AllowanceUsedUp;
                    }
                }
                accepted = accept => {
                    // A client that has gone before it was accepted is none.
                    if let Ok((client, _)) = accepted {
                        return Event::Accepted(client);
                    }
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Cut => self.cut().await,
            Order::Restore => {
                self.listen().await?;
                self.weather.send_modify(|weather| weather.stalled = false);
            }
            Order::Stall => {
                self.listen().await?;
                self.weather.send_modify(|weather| weather.stalled = true);
            }
            Order::Delay(delay) => self.weather.send_modify(|weather| weather.delay = delay),
            Order::CutAfter(direction, bytes) => self.counters.allow(direction, Allowance::Bytes(bytes)),
        }
        Ok(())
    }

    async fn cut(&mut self) {
        self.listener = None;
        self.connections.shutdown().await;
        for direction in [Direction::Up, Direction::Down] {
            self.counters.allow(direction, Allowance::Unlimited);
        }
    }

    async fn listen(&mut self) -> io::Result<()> {
        if self.listener.is_none() {
            self.listener = Some(TcpListener::bind(self.addr).await?);
        }
        Ok(())
    }

    fn connect(&mut self, client: TcpStream) {
        self.counters.accepted();
        let (weather, counters) = (self.weather.subscribe(), Arc::clone(&self.counters));
        self.connections.spawn(pump::carry(client, self.upstream, weather, counters));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A client and the server's end of its connection, with the proxy between.
    struct Pair {
        proxy: FaultProxy,
        server: TcpListener,
        near: TcpStream,
        far: TcpStream,
    }

    impl Pair {
        async fn start() -> Self {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let proxy =
                FaultProxy::start(([127, 0, 0, 1], 0).into(), server.local_addr().unwrap()).await.unwrap();
            let near = TcpStream::connect(proxy.addr()).await.unwrap();
            let far = server.accept().await.unwrap().0;
            Self { proxy, server, near, far }
        }
    }

    async fn passes(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
        from.write_all(bytes).await.unwrap();
        let mut got = vec![0; bytes.len()];
        to.read_exact(&mut got).await.unwrap();
        assert_eq!(got, bytes);
    }

    /// Reads until the connection ends, however it ends.
    async fn last_words(stream: &mut TcpStream) -> Vec<u8> {
        let mut words = Vec::new();
        let _ = stream.read_to_end(&mut words).await;
        words
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_are_counted() {
        let Pair { proxy, mut near, mut far, .. } = Pair::start().await;
        passes(&mut near, &mut far, b"CONNECT").await;
        passes(&mut far, &mut near, b"CONNACK!").await;
        assert_eq!(proxy.stats(), Stats { up_bytes: 7, down_bytes: 8, accepted: 1 });
    }

    #[tokio::test]
    async fn the_end_of_one_direction_is_passed_on() {
        let Pair { mut near, mut far, proxy: _proxy, .. } = Pair::start().await;
        near.shutdown().await.unwrap();
        assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
        passes(&mut far, &mut near, b"still there").await;
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_refuses_new_ones_until_restored() {
        let Pair { proxy, server, mut near, mut far } = Pair::start().await;
        proxy.cut().await.unwrap();
        assert_eq!(last_words(&mut near).await, b"");
        assert_eq!(last_words(&mut far).await, b"");
        let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        proxy.restore().await.unwrap();
        let mut near = TcpStream::connect(proxy.addr()).await.unwrap();
        let mut far = server.accept().await.unwrap().0;
        passes(&mut near, &mut far, b"again").await;
    }

    #[tokio::test]
    async fn a_stall_keeps_connections_and_passes_nothing_until_restored() {
        let Pair { proxy, server, mut near, mut far } = Pair::start().await;
        proxy.stall().await.unwrap();
        near.write_all(b"held back").await.unwrap();
        let mut newcomer = TcpStream::connect(proxy.addr()).await.unwrap();
        let quiet = Duration::from_millis(50);
        assert!(tokio::time::timeout(quiet, far.read(&mut [0; 1])).await.is_err(), "nothing arrives");
        assert!(tokio::time::timeout(quiet, server.accept()).await.is_err(), "nobody connects");

        proxy.restore().await.unwrap();
        let mut late = [0; 9];
        far.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"held back");
        let mut newcomer_far = server.accept().await.unwrap().0;
        passes(&mut newcomer, &mut newcomer_far, b"me too").await;
    }

    #[tokio::test]
    async fn a_delay_holds_bytes_back_and_keeps_their_order() {
        let Pair { proxy, mut near, mut far, .. } = Pair::start().await;
        proxy.set_delay(Duration::from_millis(80)).await.unwrap();
        let held = crate::stopwatch::Stopwatch::start();
        passes(&mut near, &mut far, b"1234567890").await;
        assert!(held.elapsed_ms() >= 80);
    }

    #[tokio::test]
    async fn an_allowance_cuts_in_the_middle_of_a_packet() {
        let Pair { proxy, mut near, mut far, .. } = Pair::start().await;
        proxy.cut_after(Direction::Up, 5).await.unwrap();
        near.write_all(b"half a packet").await.unwrap();
        assert_eq!(last_words(&mut far).await, b"half ");
        assert_eq!(last_words(&mut near).await, b"");
        TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(proxy.stats().up_bytes, 5);
    }
}
