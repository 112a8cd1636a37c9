//! TCP ports for servers that have to be told one; it doesn't know who asks.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// Below the kernel's ephemeral ports (from 32768), so that no outgoing connection takes a port
/// between the time it is handed out and the time its server listens, or while the server restarts.
const FIRST: u32 = 15_000;
const COUNT: u32 = 15_000;

/// Spreads processes that run side by side over the range. Coprime to [`COUNT`].
const STRIDE: u32 = 127;

/// A loopback TCP port that nobody listens on, and that this process hasn't been given before.
///
/// # Panics
///
/// When all of them are taken.
pub fn free_port() -> u16 {
    static HANDED_OUT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let nth = process::id().wrapping_mul(STRIDE).wrapping_add(HANDED_OUT.fetch_add(1, Relaxed));
        let port = u16::try_from(FIRST + nth % COUNT).expect("the range ends below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("every port from {FIRST} to {} is taken", FIRST + COUNT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_handed_out_twice_or_while_somebody_listens() {
        let mut ports: Vec<_> = (0..50).map(|_| free_port()).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
        ports.push(listener.local_addr().unwrap().port());
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), count);
    }
}
