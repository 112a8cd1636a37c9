//! Beside the line: one request over HTTPS, with an end to every wait and a bound on every answer. Knows nothing of what
//! is asked.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::tls::NOT_PINNED;

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To an open connection, and again through the handshake: seconds over a bad mobile line.
    pub connect: Duration,
    /// From the request to the last byte of its answer. The cloud signs one certificate.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { connect: Duration::from_secs(10), answer: Duration::from_secs(30) }
    }
}

/// A bundle has some ten kilobytes.
const MAX_ANSWER_BYTES: usize = 128 * 1024;

/// Of an answer's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// `https://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsUrl {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Another text than that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not https://HOST[:PORT]")]
pub struct NoHttpsUrl(String);

impl FromStr for HttpsUrl {
    type Err = NoHttpsUrl;
    fn from_str(text: &str) -> Result<HttpsUrl, NoHttpsUrl> {
        let wrong = || NoHttpsUrl(text.to_owned());
        let rest = text.trim().strip_prefix("https://").ok_or_else(wrong)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, 443),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte));
        if host.is_empty() || !is_plain { Err(wrong()) } else { Ok(HttpsUrl { host, port }) }
    }
}

impl std::fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl HttpsUrl {
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// A name server does not know it.
    #[error(
        "the name {host} cannot be resolved: is it spelt right, and is this controller on the network? Try `getent hosts {host}`"
    )]
    Name {
        /// Which.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody there.
    #[error(
        "nothing answers at {address}: is it the right address and port, and does the way there let HTTPS through?"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else answers.
    #[error(
        "the server at {address} is not the one that the token was made for: {NOT_PINNED}. Check the address; if it is right, somebody answers in the cloud's place"
    )]
    WrongPin {
        /// Where.
        address: String,
    },
    /// A certificate of another time.
    #[error(
        "the server's certificate at {address} does not hold at this time: {why}. Is this controller's clock right (timedatectl)? Else the server's certificate must be renewed"
    )]
    WrongTime {
        /// Where.
        address: String,
        /// What rustls says.
        why: String,
    },
    /// The handshake failed for another reason.
    #[error("no TLS 1.3 connection to {address}: {why}")]
    Tls {
        /// Where.
        address: String,
        /// Why, with what to do.
        why: String,
    },
    /// It took too long.
    #[error("{address} was too slow: {what} took longer than {seconds} s; try again")]
    Slow {
        /// Where.
        address: String,
        /// What.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection ended, or what came is no HTTP.
    #[error("the connection to {address} ended before the whole answer was there; try again")]
    Cut {
        /// Where.
        address: String,
        /// Why.
        source: hyper::Error,
    },
    /// It sends without end.
    #[error("{address} answers with more than {MAX_ANSWER_BYTES} bytes: that is no enrolment server")]
    TooLong {
        /// Where.
        address: String,
    },
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// All of it.
    pub body: Bytes,
}

/// One request on a connection of its own. Without `body` it is a GET.
pub async fn ask(
    url: &HttpsUrl,
    tls: Arc<ClientConfig>,
    path: &str,
    body: Option<Vec<u8>>,
    patience: Patience,
) -> Result<Answer, HttpsError> {
    let address = url.authority();
    let slow =
        |what, after: Duration| HttpsError::Slow { address: address.clone(), what, seconds: after.as_secs() };
    let connecting = timeout(patience.connect, connect(url, &address)).await;
    let stream = connecting.map_err(|_| slow("connecting", patience.connect))??;
    let name = ServerName::try_from(url.host.clone()).map_err(|error| HttpsError::Tls {
        address: address.clone(),
        why: format!("{} is no name of a server: {error}", url.host),
    })?;
    let shaking = timeout(patience.connect, TlsConnector::from(tls).connect(name, stream)).await;
    let stream = shaking.map_err(|_| slow("the TLS handshake", patience.connect))?;
    let stream = stream.map_err(|error| explain(&address, &error))?;
    timeout(patience.answer, exchange(&address, stream, path, body))
        .await
        .map_err(|_| slow("the answer", patience.answer))?
}

async fn connect(url: &HttpsUrl, address: &str) -> Result<TcpStream, HttpsError> {
    let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await;
    let found = found.map_err(|source| HttpsError::Name { host: url.host.clone(), source })?;
    let found: Vec<_> = found.collect();
    TcpStream::connect(&found[..])
        .await
        .map_err(|source| HttpsError::Unreachable { address: address.to_owned(), source })
}

async fn exchange(
    address: &str,
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Answer, HttpsError> {
    let cut = |source| HttpsError::Cut { address: address.to_owned(), source };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(cut)?;
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address)
        .header(USER_AGENT, concat!("edge-agent/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .expect("a path and plain headers are a request");
    let answering = async {
        let answer = sender.send_request(request).await.map_err(cut)?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(source) => cut(*source),
            Err(other) => {
                debug_assert!(other.is::<LengthLimitError>());
                HttpsError::TooLong { address: address.to_owned() }
            }
        })?;
        Ok(Answer { status, body: body.to_bytes() })
    };
    // The connection turns in this task, so that nothing of it outlives the request.
    tokio::pin!(connection, answering);
    let mut is_open = true;
    loop {
        tokio::select! {
            answer = &mut answering => return answer,
            _ = &mut connection, if is_open => is_open = false,
        }
    }
}

/// What a failed handshake means.
fn explain(address: &str, error: &std::io::Error) -> HttpsError {
    let address = address.to_owned();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(inner) = inner else {
        let why = format!("{error}. Does it speak TLS at all?");
        return HttpsError::Tls { address, why };
    };
    let told = match inner {
        rustls::Error::General(why) if why == NOT_PINNED => return HttpsError::WrongPin { address },
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => return HttpsError::WrongTime { address, why: inner.to_string() },
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "it is not certified by a root that this controller trusts. Where the cloud's certificate authority was made anew, enrol again"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name: use the address that the token came with",
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it does not speak TLS 1.3: is a proxy in between?"
        }
        _ => "is it the enrolment server?",
    };
    HttpsError::Tls { address, why: format!("{inner}: {told}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown_and_nothing_else_is_one() {
        let read = |text: &str| text.parse::<HttpsUrl>().map(|url| url.to_string());
        assert_eq!(read("https://cloud.example.com").unwrap(), "https://cloud.example.com:443");
        assert_eq!(read(" https://10.0.0.1:8443/ ").unwrap(), "https://10.0.0.1:8443");
        assert_eq!(read("https://[::1]:8443").unwrap(), "https://[::1]:8443");
        assert_eq!(read("https://[::1]").unwrap(), "https://[::1]:443");
        for bad in
            ["", "https://", "http://x", "cloud", "https://x/y", "https://x:y", "https://x@y", "https://a b"]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
