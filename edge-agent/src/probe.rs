//! Beside the line: how far one gets to the broker, step by step: name, TCP, TLS, MQTT. For `check` and `test-connection`;
//! the agent's own link does not need it. Blocking, with an end to every wait but the name server's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde::Serialize;
use tap_protocol::ids::ControllerId;

use crate::clock;
use crate::config::BrokerConfig;
use crate::credentials::tls;
use crate::known_time::KnownTime;

/// One step on loopback takes a millisecond, over a bad mobile line a second.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether to ask the broker for a session.
#[derive(Debug, Clone, Copy)]
pub enum Greeting<'a> {
    /// No: an agent has one, and it would lose it.
    None,
    /// Yes, under this name.
    AsController(&'a ControllerId),
}

/// One step on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was tried.
    pub name: &'static str,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// What came of it, if it went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// What is wrong, if it did not: then no further step was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// Why it goes no further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// Tries one step after the other, up to the first that fails.
pub fn reach(broker: &BrokerConfig, greeting: Greeting<'_>, time: &Arc<KnownTime>) -> Vec<Step> {
    let mut steps = Vec::new();
    // `None` is where it ended; what happened is in the steps.
    let _ = walk(broker, greeting, time, &mut steps);
    steps
}

fn walk(
    broker: &BrokerConfig,
    greeting: Greeting<'_>,
    time: &Arc<KnownTime>,
    steps: &mut Vec<Step>,
) -> Option<()> {
    let addresses = step(steps, "name", || resolve(broker))?;
    let stream = step(steps, "tcp", || connect(broker, &addresses))?;
    let mut stream: Box<dyn Stream> = match broker.url.tls {
        true => step(steps, "tls", || secure(broker, stream, time))?,
        false => Box::new(stream),
    };
    if let Greeting::AsController(controller) = greeting {
        step(steps, "mqtt", || greet(stream.as_mut(), controller))?;
    }
    Some(())
}

fn step<T>(
    steps: &mut Vec<Step>,
    name: &'static str,
    attempt: impl FnOnce() -> Result<(T, String), Problem>,
) -> Option<T> {
    let began_ms = clock::boottime_ms();
    let (value, result, problem) = match attempt() {
        Ok((value, result)) => (Some(value), Some(result), None),
        Err(problem) => (None, None, Some(problem)),
    };
    steps.push(Step { name, took_ms: clock::boottime_ms() - began_ms, result, problem });
    value
}

fn resolve(broker: &BrokerConfig) -> Result<(Vec<SocketAddr>, String), Problem> {
    let host = &broker.url.host;
    let problem = |what| Problem {
        what,
        remedy: format!("does `getent hosts {host}` find it? Check broker.url, cable and name server"),
    };
    let found = (host.as_str(), broker.url.port).to_socket_addrs();
    let found: Vec<_> =
        found.map_err(|error| problem(format!("the name {host} cannot be resolved: {error}")))?.collect();
    if found.is_empty() {
        return Err(problem(format!("the name {host} has no address")));
    }
    let shown = found.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
    Ok((found, format!("{host} is {shown}")))
}

fn connect(broker: &BrokerConfig, addresses: &[SocketAddr]) -> Result<(TcpStream, String), Problem> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(address, STEP_TIMEOUT) {
            Ok(stream) => {
                let limited = stream
                    .set_read_timeout(Some(STEP_TIMEOUT))
                    .and_then(|()| stream.set_write_timeout(Some(STEP_TIMEOUT)));
                return match limited {
                    Ok(()) => Ok((stream, format!("connected to {address}"))),
                    Err(error) => Err(no_way(broker, &error)),
                };
            }
            Err(error) => last = Some(error),
        }
    }
    Err(no_way(broker, &last.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into())))
}

fn no_way(broker: &BrokerConfig, error: &std::io::Error) -> Problem {
    let (host, port) = (&broker.url.host, broker.url.port);
    let remedy = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            format!("the machine answers, but nothing listens at port {port}: is the broker running?")
        }
        _ => format!(
            "is a cable unplugged, or does a firewall keep port {port} shut? Ask who runs the network"
        ),
    };
    Problem { what: format!("{host} cannot be reached at port {port}: {error}"), remedy }
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn secure(
    broker: &BrokerConfig,
    mut stream: TcpStream,
    time: &Arc<KnownTime>,
) -> Result<(Box<dyn Stream>, String), Problem> {
    let problem = |what: String, remedy: &str| Problem { what, remedy: remedy.into() };
    let config = tls(broker, time).map_err(|error| {
        let what = crate::agent::with_causes(&error);
        problem(what, "check ca_file, cert_file and key_file of [broker]")
    })?;
    let name = ServerName::try_from(broker.url.host.clone()).map_err(|error| {
        problem(format!("{} cannot stand in a certificate: {error}", broker.url.host), "correct broker.url")
    })?;
    let mut connection = ClientConnection::new(Arc::clone(&config), name)
        .map_err(|error| problem(error.to_string(), "check ca_file, cert_file and key_file of [broker]"))?;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            let remedy = "does ca_file belong to this broker, and is its certificate valid for this name and now? See also `edge-agent check`";
            return Err(problem(format!("the broker and we cannot agree on TLS: {error}"), remedy));
        }
    }
    let version = connection.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
    Ok((Box::new(StreamOwned::new(connection, stream)), format!("{version}, the certificate is trusted")))
}

/// MQTT 3.1.1: CONNECT with a clean session and no will, CONNACK, DISCONNECT.
fn greet(stream: &mut dyn Stream, controller: &ControllerId) -> Result<((), String), Problem> {
    const KEEP_ALIVE_S: u8 = 10;
    let id = controller.as_str().as_bytes();
    // A controller's id has 63 letters at most, so both lengths are one byte.
    let mut connect = vec![0x10, 12 + id.len() as u8];
    connect.extend_from_slice(b"\x00\x04MQTT\x04\x02\x00");
    connect.extend_from_slice(&[KEEP_ALIVE_S, 0, id.len() as u8]);
    connect.extend_from_slice(id);
    let mut answer = [0; 4];
    let spoken = stream
        .write_all(&connect)
        .and_then(|()| stream.flush())
        .and_then(|()| stream.read_exact(&mut answer));
    let problem = |what: String| Problem {
        what,
        remedy: format!(
            "the broker's log says why; does it want a certificate, and does its ACL know {controller}?"
        ),
    };
    spoken.map_err(|error| problem(format!("the broker ends the conversation: {error}")))?;
    match answer {
        [0x20, 2, _, 0] => {
            let _ = stream.write_all(&[0xE0, 0]).and_then(|()| stream.flush());
            Ok(((), format!("accepted as {controller}")))
        }
        [0x20, 2, _, code] => Err(problem(format!("the broker refuses {controller}: {}", refusal(code)))),
        _ => Err(problem("what answers there is no MQTT broker".into())),
    }
}

fn refusal(code: u8) -> &'static str {
    match code {
        1 => "it speaks another version of MQTT",
        2 => "it does not like the name",
        3 => "it is not available",
        4 => "wrong user name or password",
        5 => "not authorized",
        _ => "for a reason that MQTT 3.1.1 does not know",
    }
}
