//! Step 12 of 12: names to addresses, none of which the guard refuses. What was checked is what is connected to: the
//! connection is made to these very addresses, so a name that answers otherwise a moment later changes nothing.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::guard::{Forbidden, Guard};

/// Of a name's addresses, so many are tried at most.
const MAX_ADDRESSES: usize = 16;

/// What a look-up comes to.
type LookedUp = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Asks for a name's addresses.
type Lookup = dyn Fn(String) -> LookedUp + Send + Sync;

/// Resolves names, under guard.
pub(super) struct GuardedResolver {
    guard: Guard,
    lookup: Arc<Lookup>,
}

impl GuardedResolver {
    /// As this system resolves names.
    pub(super) fn of_the_system(guard: Guard) -> GuardedResolver {
        GuardedResolver { guard, lookup: Arc::new(|name| Box::pin(ask_the_system(name))) }
    }
}

async fn ask_the_system(name: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookup) = (self.guard.clone(), Arc::clone(&self.lookup));
        Box::pin(async move {
            guard.check_name(name.as_str())?;
            let found = lookup(name.as_str().to_owned()).await?;
            guard.check_all(found.iter().copied())?;
            let port_from_the_url = 0;
            let found = found.into_iter().take(MAX_ADDRESSES);
            Ok(Box::new(found.map(move |ip| SocketAddr::new(ip, port_from_the_url))) as Addrs)
        })
    }
}

/// The guard's word, if that is why a request failed.
pub(super) fn forbidden(error: &reqwest::Error) -> Option<Forbidden> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(forbidden) = error.downcast_ref::<Forbidden>() {
            return Some(forbidden.clone());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Mutex;
    use std::thread;

    use super::*;

    /// Answers one request with its own address, for as many connections as come.
    fn server_at(ip: &str, port: u16) -> u16 {
        let listener = TcpListener::bind((ip, port)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut head = Vec::new();
                let mut buffer = [0; 1024];
                while !head.ends_with(b"\r\n\r\n") {
                    let n = connection.read(&mut buffer).unwrap();
                    head.extend_from_slice(&buffer[..n]);
                }
                let body = address.ip().to_string();
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
                connection.write_all(answer.as_bytes()).unwrap();
            }
        });
        address.port()
    }

    /// A client that may reach `allowed`, for whom a name has these addresses, one list per look-up.
    fn client(allowed: &[&str], answers: &[&[&str]]) -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let parse = |list: &&[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let left = Mutex::new(answers.iter().rev().map(parse).collect::<Vec<_>>());
        let lookup = move |_: String| -> LookedUp {
            let next = left.lock().unwrap().pop().expect("no further look-up was foreseen");
            Box::pin(async move { Ok(next) })
        };
        let guard = Guard::allowing(allowed.iter().map(|network| network.parse().unwrap()));
        reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .dns_resolver(GuardedResolver { guard, lookup: Arc::new(lookup) })
            .build()
            .unwrap()
    }

    async fn get(client: &reqwest::Client, port: u16) -> Result<String, reqwest::Error> {
        client.get(format!("http://legacy.example:{port}/")).send().await?.text().await
    }

    #[tokio::test]
    async fn a_name_that_changes_its_address_between_two_look_ups_is_checked_each_time() {
        let port = server_at("127.0.0.2", 0);
        server_at("127.0.0.3", port);
        let client = client(&["127.0.0.2"], &[&["127.0.0.2"], &["127.0.0.3"]]);
        assert_eq!(get(&client, port).await.unwrap(), "127.0.0.2");
        let refused = get(&client, port).await.unwrap_err();
        assert_eq!(forbidden(&refused).unwrap().address, "127.0.0.3");
    }

    #[tokio::test]
    async fn what_was_checked_is_connected_to_without_asking_again() {
        let port = server_at("127.0.0.2", 0);
        // The second answer would be another; a second look-up for one request would be a panic.
        let client = client(&["127.0.0.2"], &[&["127.0.0.2"]]);
        assert_eq!(get(&client, port).await.unwrap(), "127.0.0.2");
    }

    #[tokio::test]
    async fn one_forbidden_address_among_good_ones_is_enough_to_refuse() {
        let port = server_at("127.0.0.2", 0);
        let client = client(&["127.0.0.2"], &[&["127.0.0.2", "169.254.169.254"]]);
        let refused = get(&client, port).await.unwrap_err();
        assert!(refused.is_connect());
        assert_eq!(forbidden(&refused).unwrap().what, "link-local, where clouds have their metadata");
    }

    #[tokio::test]
    async fn localhost_is_not_even_looked_up() {
        let port = server_at("127.0.0.1", 0);
        let client = client(&[], &[]);
        let refused = client.get(format!("http://localhost:{port}/")).send().await.unwrap_err();
        assert_eq!(forbidden(&refused).unwrap().what, "this machine itself");
    }

    #[tokio::test]
    async fn the_systems_own_answers_are_checked_too() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let resolver = GuardedResolver::of_the_system(Guard::default());
        // A literal address is what every system resolves without asking anybody.
        let refused = resolver.resolve("127.0.0.1".parse().unwrap()).await.err().unwrap();
        assert!(refused.downcast_ref::<Forbidden>().is_some(), "{refused}");
        let found = resolver.resolve("1.1.1.1".parse().unwrap()).await.unwrap();
        assert_eq!(found.map(|address| address.ip().to_string()).collect::<Vec<_>>(), ["1.1.1.1"]);
    }
}
