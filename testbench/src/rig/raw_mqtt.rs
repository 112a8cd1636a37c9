//! An MQTT client that does what it is told, byte for byte, for tests of what a broker lets through: foreign client ids,
//! wills, filters and versions included. It knows no topic of ours.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long a broker of this machine may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// 3.1.1.
    #[default]
    V4,
    /// 5.0, without any property.
    V5,
}

/// A CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// Which MQTT.
    pub level: Level,
    /// What the client calls itself.
    pub client_id: &'a str,
    /// Whether what was before is forgotten, and what comes is not kept.
    pub clean_session: bool,
    /// A user name, with the password `x`.
    pub user_name: Option<&'a str>,
    /// What the broker is to say when the client is gone.
    pub will: Option<Will<'a>>,
    /// Seconds; 0 is never.
    pub keep_alive_s: u16,
}

/// A last will, QoS 1.
#[derive(Clone, Copy, Debug)]
pub struct Will<'a> {
    /// Under which topic.
    pub topic: &'a str,
    /// What.
    pub payload: &'a str,
    /// Whether it stays.
    pub retain: bool,
}

/// A PUBLISH.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// Under which topic.
    pub topic: &'a str,
    /// What.
    pub payload: &'a str,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it stays.
    pub retain: bool,
}

/// What the broker delivered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivered {
    /// Under which topic.
    pub topic: String,
    /// What.
    pub payload: String,
    /// Whether it was kept for those who come later.
    pub retained: bool,
}

/// A CONNECT that was answered with yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Whether the broker had kept a session.
    pub session_present: bool,
    /// Another keep-alive than was asked for, which only MQTT 5 can tell.
    pub keep_alive_s: Option<u16>,
}

/// A CONNECT that was answered with no.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// By MQTT's return code.
    #[error("refused with return code {0}")]
    Code(u8),
    /// By ending the connection.
    #[error("the connection ended")]
    Ended(#[from] io::Error),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One connection.
pub struct RawMqtt {
    stream: Box<dyn Stream>,
    level: Level,
    next_packet_id: u16,
}

impl Connect<'_> {
    /// A clean session of this name, in 3.1.1, without a will.
    pub fn clean(client_id: &str) -> Connect<'_> {
        Connect {
            level: Level::V4,
            client_id,
            clean_session: true,
            user_name: None,
            will: None,
            keep_alive_s: 60,
        }
    }

    fn packet(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean_session) << 1;
        let mut body = text("MQTT");
        let mut payload = text(self.client_id);
        if let Some(will) = &self.will {
            flags |= 0x04 | 0x08 | u8::from(will.retain) << 5;
            payload.extend(no_properties(self.level));
            payload.extend(text(will.topic));
            payload.extend(text(will.payload));
        }
        if let Some(user_name) = self.user_name {
            flags |= 0xc0;
            payload.extend(text(user_name));
            payload.extend(text("x"));
        }
        body.push(if self.level == Level::V4 { 4 } else { 5 });
        body.push(flags);
        body.extend(self.keep_alive_s.to_be_bytes());
        body.extend(no_properties(self.level));
        body.extend(payload);
        packet(0x10, &body)
    }
}

impl RawMqtt {
    /// Connects in clear.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub async fn tcp(addr: SocketAddr) -> io::Result<RawMqtt> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(RawMqtt { stream: Box::new(stream), level: Level::V4, next_packet_id: 0 })
    }

    /// Connects with TLS. Under TLS 1.3 the client is done before the server has looked at its certificate: whether that
    /// was accepted shows with the first answer.
    ///
    /// # Errors
    ///
    /// When nobody listens, or one side does not like the other.
    pub async fn tls(addr: SocketAddr, config: Arc<ClientConfig>) -> io::Result<RawMqtt> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(addr.ip().into());
        let stream = within(TlsConnector::from(config).connect(name, stream)).await?;
        Ok(RawMqtt { stream: Box::new(stream), level: Level::V4, next_packet_id: 0 })
    }

    /// What a server says of a client that it does not let in, in the words of the TLS library.
    ///
    /// # Panics
    ///
    /// When it lets it in.
    pub async fn tls_refusal(addr: SocketAddr, config: Arc<ClientConfig>) -> String {
        let mut client = match RawMqtt::tls(addr, config).await {
            Ok(client) => client,
            Err(error) => return error.to_string(),
        };
        // With nothing sent, the answer can only be about the certificate.
        match within(client.stream.read_u8()).await {
            Ok(byte) => panic!("the broker answered {byte:#x} to nothing"),
            Err(error) => error.to_string(),
        }
    }

    /// Sends a CONNECT.
    ///
    /// # Errors
    ///
    /// When the broker refuses.
    pub async fn connect(&mut self, connect: Connect<'_>) -> Result<Accepted, Refused> {
        self.level = connect.level;
        // The broker may have hung up already; why is in what it said before.
        let _ = self.stream.write_all(&connect.packet()).await;
        let _ = self.stream.flush().await;
        let (kind, body) = self.read().await?;
        match (kind, body.as_slice()) {
            (0x20, [present, 0, properties @ ..]) => Ok(Accepted {
                session_present: present & 1 == 1,
                keep_alive_s: server_keep_alive(properties),
            }),
            (0x20, [_, code, ..]) => Err(Refused::Code(*code)),
            _ => Err(Refused::Ended(io::Error::other(format!("packet {kind:#x} instead of a CONNACK")))),
        }
    }

    /// Sends PUBLISHes all at once and waits until the broker has dealt with all of them, whatever it made of them. Gives
    /// what came in meanwhile.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub async fn publish(&mut self, publishes: &[Publish<'_>]) -> io::Result<Vec<Delivered>> {
        let mut packets = Vec::new();
        for publish in publishes {
            let mut body = text(publish.topic);
            if publish.qos > 0 {
                body.extend(self.packet_id().to_be_bytes());
            }
            body.extend(no_properties(self.level));
            body.extend(publish.payload.as_bytes());
            packets.extend(packet(0x30 | publish.qos << 1 | u8::from(publish.retain), &body));
        }
        self.write(&packets).await?;
        self.settle().await
    }

    /// Sends one SUBSCRIBE with QoS 1 and waits for its SUBACK. Gives what came before that.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub async fn subscribe(&mut self, filters: &[&str]) -> io::Result<Vec<Delivered>> {
        let mut body = self.packet_id().to_be_bytes().to_vec();
        body.extend(no_properties(self.level));
        for filter in filters {
            body.extend(text(filter));
            body.push(1);
        }
        self.write(&packet(0x82, &body)).await?;
        self.until(0x90).await
    }

    /// Sends one UNSUBSCRIBE and waits for its UNSUBACK. Gives what came before that.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub async fn unsubscribe(&mut self, filters: &[&str]) -> io::Result<Vec<Delivered>> {
        let mut body = self.packet_id().to_be_bytes().to_vec();
        body.extend(no_properties(self.level));
        body.extend(filters.iter().flat_map(|filter| text(filter)));
        self.write(&packet(0xa2, &body)).await?;
        self.until(0xb0).await
    }

    /// Everything that the broker has for this client: asks for a sign of life until nothing came before its answer.
    /// What waited for room in flight comes after an acknowledgement, and so before the next answer.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub async fn settle(&mut self) -> io::Result<Vec<Delivered>> {
        let mut all = Vec::new();
        loop {
            self.write(&[0xc0, 0]).await?;
            let came = self.until(0xd0).await?;
            if came.is_empty() {
                return Ok(all);
            }
            all.extend(came);
        }
    }

    /// Says goodbye, so that no will is published, and waits until the broker has hung up.
    ///
    /// # Errors
    ///
    /// When the connection has ended otherwise.
    pub async fn disconnect(mut self) -> io::Result<()> {
        self.write(&packet(0xe0, &[])).await?;
        self.ended().await;
        Ok(())
    }

    /// Waits until the broker has ended the connection.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub async fn ended(&mut self) {
        let drain = async {
            let mut rest = [0; 1024];
            while self.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        };
        timeout(PATIENCE, drain).await.expect("the broker ends the connection");
    }

    fn packet_id(&mut self) -> u16 {
        self.next_packet_id = self.next_packet_id % u16::MAX + 1;
        self.next_packet_id
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads, acknowledging what wants to be, until a packet of this kind.
    async fn until(&mut self, kind: u8) -> io::Result<Vec<Delivered>> {
        let mut came = Vec::new();
        loop {
            let (first, body) = self.read().await?;
            match first & 0xf0 {
                0x30 => came.push(self.delivered(first, &body).await?),
                // PUBREC: the second half of QoS 2.
                0x50 => self.write(&packet(0x62, body.get(..2).unwrap_or_default())).await?,
                _ => {}
            }
            if first & 0xf0 == kind {
                return Ok(came);
            }
        }
    }

    async fn delivered(&mut self, first: u8, body: &[u8]) -> io::Result<Delivered> {
        let short = || io::Error::other("a PUBLISH that is too short");
        let (length, rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
        let (topic, mut rest) =
            rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(short)?;
        if first & 0x06 != 0 {
            let (packet_id, after) = rest.split_first_chunk::<2>().ok_or_else(short)?;
            self.write(&packet(0x40, packet_id)).await?;
            rest = after;
        }
        if self.level == Level::V5 {
            let (properties, after) = rest.split_first().ok_or_else(short)?;
            rest = after.get(usize::from(*properties)..).ok_or_else(short)?;
        }
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(Delivered { topic: text(topic), payload: text(rest), retained: first & 1 == 1 })
    }

    async fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        within(async {
            let first = self.stream.read_u8().await?;
            let mut length = 0;
            for shift in [0, 7, 14, 21] {
                let byte = self.stream.read_u8().await?;
                length |= usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await?;
            Ok((first, body))
        })
        .await
    }
}

impl std::fmt::Debug for RawMqtt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawMqtt").field("level", &self.level).finish_non_exhaustive()
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::other("the broker says nothing"))?
}

fn no_properties(level: Level) -> &'static [u8] {
    if level == Level::V5 { &[0] } else { &[] }
}

/// What MQTT 5 has in a CONNACK beside the code: their length, then each with its number.
fn server_keep_alive(properties: &[u8]) -> Option<u16> {
    let (_length, mut rest) = properties.split_first()?;
    loop {
        let (number, value) = rest.split_first()?;
        rest = match number {
            0x13 => return Some(u16::from_be_bytes(*value.first_chunk::<2>()?)),
            // Maximum QoS, retain available, and three more that are a yes or no.
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => value.get(1..)?,
            // Receive maximum, topic alias maximum.
            0x21 | 0x22 => value.get(2..)?,
            // Session expiry, maximum packet size.
            0x11 | 0x27 => value.get(4..)?,
            // Assigned client id.
            0x12 => value.get(2 + usize::from(u16::from_be_bytes(*value.first_chunk::<2>()?))..)?,
            _ => return None,
        };
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a text of MQTT is shorter than 64 KiB");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let more = length >= 0x80;
        packet.push((length & 0x7f) as u8 | u8::from(more) << 7);
        length >>= 7;
        if !more {
            break;
        }
    }
    packet.extend(body);
    packet
}
