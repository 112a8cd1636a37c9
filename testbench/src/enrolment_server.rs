//! The cloud's side of enrolment as a stand-in that misbehaves on request: it checks what a controller sends as
//! `docs/protocol.md` has it, remembers every request, and can answer late, half, with rubbish or without end. It doesn't
//! know the products.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, bail, ensure};
use data_encoding::HEXLOWER;
use ring::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tap_protocol::{
    enrolment::{
        Bundle, Challenge, ENROLL_LABEL, EnrollRequest, EnrollToken, Keys, RENEW_LABEL, RenewRequest,
        TokenKeyEntry, transcript,
    },
    keys::PublicKey,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    authority::{Authority, Life},
    stopwatch::utc_ms,
};

/// Where a request is met with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// The connection, before TLS.
    Connection,
    /// `GET /enrol/v1/challenge`.
    Challenge,
    /// `POST /enrol/v1/enroll` or `renew`, after it was carried out: the answer is lost, and the token used up.
    Answer,
}

/// What is done instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends before a byte of the answer.
    Cut,
    /// It ends in the middle of the answer.
    CutHalfway,
    /// Something that is no HTTP, or no JSON.
    Rubbish,
    /// More than any answer has, without an end.
    Endless,
    /// Nothing, as long as the client stays.
    Silence,
}

/// What a controller gets beside its certificate.
#[derive(Clone, Debug)]
pub struct Gift {
    /// `mqtts://…`.
    pub broker_url: String,
    /// Number and 32 bytes in hexadecimal; the last one seals.
    pub token_keys: Vec<(u16, String)>,
    /// Whose receipts to believe.
    pub receipt_keys: Vec<String>,
    /// Whose commands to believe.
    pub control_keys: Vec<String>,
    /// Of the certificates that are made from now on.
    pub life: Life,
}

#[derive(Debug, Default)]
struct Books {
    /// By number: whose, the secret's hash, and the keys it was used with.
    tokens: BTreeMap<String, (String, Vec<u8>, Option<Keys>)>,
    record_keys: BTreeMap<String, Vec<String>>,
    challenges: BTreeSet<String>,
    requests: Vec<String>,
    fault: Option<(At, Fault)>,
    refusal: Option<(u16, String)>,
    gift: Option<Gift>,
    made: u64,
}

/// The running server.
#[derive(Debug)]
pub struct EnrolmentServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    authority: Arc<Authority>,
    books: Mutex<Books>,
    url: String,
}

impl Drop for EnrolmentServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl EnrolmentServer {
    /// Listens on a loopback port of its own, with a certificate of this life by this authority, which it sends along.
    ///
    /// # Errors
    ///
    /// When it cannot listen.
    pub async fn start(authority: Arc<Authority>, gift: Gift, life: Life) -> anyhow::Result<Self> {
        let issued = authority.server("127.0.0.1", life);
        let chain = format!("{}{}", issued.certificate, authority.root_pem);
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let books = Mutex::new(Books { gift: Some(gift), ..Books::default() });
        let shared = Arc::new(Shared { authority, books, url: format!("https://{addr}") });
        let (acceptor, serving) = (TlsAcceptor::from(Arc::new(tls)), Arc::clone(&shared));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                tokio::spawn(async move { drop(shared.converse(acceptor, stream).await) });
            }
        });
        Ok(Self { addr, shared, task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `https://…`.
    pub fn url(&self) -> String {
        self.shared.url.clone()
    }

    /// A new token for this controller.
    pub fn token(&self, controller: &str) -> EnrollToken {
        let token = self.shared.with(|books| {
            books.made += 1;
            let n = u8::try_from(books.made).expect("a test makes few tokens");
            EnrollToken { id: [n; 5], secret: [n; 16], root_pin: self.shared.authority.pin() }
        });
        let hash = digest(&SHA256, token.secret_text().as_bytes()).as_ref().to_vec();
        self.shared.with(|books| books.tokens.insert(token.id_text(), (controller.to_owned(), hash, None)));
        token
    }

    /// From now on this happens there, until told otherwise.
    pub fn fault(&self, fault: Option<(At, Fault)>) {
        self.shared.with(|books| books.fault = fault);
    }

    /// From now on everybody is refused with this status and sentence, until told otherwise.
    pub fn refuse(&self, refusal: Option<(u16, &str)>) {
        self.shared.with(|books| books.refusal = refusal.map(|(status, says)| (status, says.to_owned())));
    }

    /// What controllers get from now on.
    pub fn give(&self, change: impl FnOnce(&mut Gift)) {
        self.shared.with(|books| change(books.gift.as_mut().expect("there is one")));
    }

    /// Every request that came, as `METHOD PATH`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.with(|books| books.requests.clone())
    }

    /// The record keys that this controller has proved to have, oldest first.
    pub fn record_keys(&self, controller: &str) -> Vec<String> {
        self.shared.with(|books| books.record_keys.get(controller).cloned().unwrap_or_default())
    }
}

type Answered = Result<serde_json::Value, (u16, String)>;

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Books) -> T) -> T {
        act(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn converse(&self, acceptor: TlsAcceptor, mut tcp: TcpStream) -> anyhow::Result<()> {
        match self.with(|books| books.fault) {
            Some((At::Connection, Fault::Cut | Fault::CutHalfway)) => return Ok(()),
            Some((At::Connection, Fault::Silence)) => return until_gone(&mut tcp).await,
            Some((At::Connection, _)) => return Ok(tcp.write_all(b"220 mail.example.com ESMTP\r\n").await?),
            _ => {}
        }
        let mut stream = acceptor.accept(tcp).await?;
        let (line, body) = read_request(&mut stream).await?;
        self.with(|books| books.requests.push(line.clone()));
        let answered = self.answer(&line, &body);
        let here = if line.starts_with("GET") { At::Challenge } else { At::Answer };
        let fault = self.with(|books| books.fault).filter(|(at, _)| *at == here).map(|(_, fault)| fault);
        let (status, text) = match answered {
            Ok(value) => ("200 OK".to_owned(), value.to_string()),
            Err((status, says)) => (
                format!("{status} No"),
                json!({"type": "about:blank", "title": "No", "detail": says}).to_string(),
            ),
        };
        let head = |length: usize| {
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
        };
        match fault {
            None => stream.write_all((head(text.len()) + &text).as_bytes()).await?,
            Some(Fault::Cut) => return Ok(()),
            Some(Fault::CutHalfway) => {
                let (half, _) = text.split_at(text.len() / 2);
                stream.write_all((head(text.len()) + half).as_bytes()).await?;
                stream.flush().await?;
                return Ok(());
            }
            Some(Fault::Rubbish) => stream.write_all((head(5) + "<htm>").as_bytes()).await?,
            Some(Fault::Endless) => {
                stream.write_all(head(1 << 30).as_bytes()).await?;
                while stream.write_all(&[b' '; 4096]).await.is_ok() {}
            }
            Some(Fault::Silence) => return until_gone(&mut stream).await,
        }
        stream.shutdown().await?;
        Ok(())
    }

    fn answer(&self, line: &str, body: &[u8]) -> Answered {
        if let Some(refusal) = self.with(|books| books.refusal.clone()) {
            return Err(refusal);
        }
        let rubbish = |error: serde_json::Error| (400, error.to_string());
        match line {
            "GET /enrol/v1/challenge" => {
                let challenge = self.with(|books| {
                    let number = books.challenges.len().to_be_bytes();
                    let challenge = HEXLOWER.encode(digest(&SHA256, &number).as_ref());
                    books.challenges.insert(challenge.clone());
                    challenge
                });
                Ok(json!(Challenge { challenge }))
            }
            "POST /enrol/v1/enroll" => self.enroll(serde_json::from_slice(body).map_err(rubbish)?),
            "POST /enrol/v1/renew" => self.renew(serde_json::from_slice(body).map_err(rubbish)?),
            _ => Err((404, format!("there is no {line} here"))),
        }
    }

    fn enroll(&self, request: EnrollRequest) -> Answered {
        self.proved(ENROLL_LABEL, &request.challenge, &request.token_id, &request.keys)
            .map_err(|error| (403, format!("{error:#}")))?;
        let hash = digest(&SHA256, request.token_secret.as_bytes());
        let controller = self.with(|books| {
            let unknown = || (403, "this token is not known here: ask for a new one".to_owned());
            let (controller, secret, used) = books.tokens.get_mut(&request.token_id).ok_or_else(unknown)?;
            if secret != hash.as_ref() {
                return Err(unknown());
            }
            // A lost answer may be asked for again, with the same keys.
            let same = used.as_ref().is_none_or(|used| {
                used.tls_public_key == request.keys.tls_public_key
                    && used.record_public_key == request.keys.record_public_key
            });
            if !same {
                return Err((409, "this token has been used already: ask for a new one".to_owned()));
            }
            *used = Some(request.keys.clone());
            Ok(controller.clone())
        })?;
        self.bundle(&controller, &request.keys)
    }

    fn renew(&self, request: RenewRequest) -> Answered {
        let no = |error: anyhow::Error| (403, format!("{error:#}"));
        let controller = request.controller.to_string();
        let signed = self.proved(RENEW_LABEL, &request.challenge, &controller, &request.keys).map_err(no)?;
        let known = self.with(|books| books.record_keys.get(&controller).cloned().unwrap_or_default());
        let proof = HEXLOWER.decode(request.current_proof.as_bytes()).unwrap_or_default();
        let proof: [u8; 64] = proof.try_into().unwrap_or([0; 64]);
        let by_one_of_them = known
            .iter()
            .any(|key| key.parse::<PublicKey>().is_ok_and(|key| key.verify(&signed, &proof).is_ok()));
        if !by_one_of_them {
            return Err((403, "this record key is not known here: enrol again".to_owned()));
        }
        self.bundle(&controller, &request.keys)
    }

    /// Checks challenge and proofs of possession; gives what was signed.
    fn proved(&self, label: &[u8], challenge: &str, who: &str, keys: &Keys) -> anyhow::Result<Vec<u8>> {
        ensure!(self.with(|books| books.challenges.contains(challenge)), "the challenge is not ours");
        let point = HEXLOWER.decode(keys.tls_public_key.as_bytes()).context("the TLS key")?;
        ensure!(point.len() == 65 && point.first() == Some(&4), "the TLS key is no uncompressed point");
        let Ok(record_key) = keys.record_public_key.parse::<PublicKey>() else { bail!("the record key") };
        let signed = transcript(label, challenge, who, &point, &record_key);
        let proof = HEXLOWER.decode(keys.tls_proof.as_bytes()).context("the TLS key's proof")?;
        let by_tls = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point).verify(&signed, &proof);
        ensure!(by_tls.is_ok(), "the TLS key's proof is wrong");
        let proof = HEXLOWER.decode(keys.record_proof.as_bytes()).context("the record key's proof")?;
        let Ok(proof) = proof.try_into() else { bail!("the record key's proof") };
        record_key.verify(&signed, &proof).context("the record key's proof")?;
        Ok(signed)
    }

    fn bundle(&self, controller: &str, keys: &Keys) -> Answered {
        let gift = self.with(|books| {
            let known = books.record_keys.entry(controller.to_owned()).or_default();
            if !known.contains(&keys.record_public_key) {
                known.push(keys.record_public_key.clone());
            }
            books.gift.clone().expect("there is one")
        });
        let point = HEXLOWER.decode(keys.tls_public_key.as_bytes()).expect("it was checked");
        let bundle = Bundle {
            controller: controller.parse().expect("tests use slugs"),
            label: "Main entrance".into(),
            site: "hq".into(),
            certificate: self.authority.client(controller, &point, gift.life),
            not_after_utc_ms: gift.life.to_s * 1_000,
            roots: self.authority.root_pem.clone(),
            broker_url: gift.broker_url,
            enrolment_url: self.url.clone(),
            token_key_id: gift.token_keys.last().map_or(0, |(id, _)| *id),
            token_keys: gift.token_keys.into_iter().map(|(id, key)| TokenKeyEntry { id, key }).collect(),
            receipt_keys: gift.receipt_keys,
            control_keys: gift.control_keys,
            cloud_utc_ms: utc_ms(),
        };
        Ok(json!(bundle))
    }
}

/// Request line without the version, and body.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the client is gone");
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
    while bytes.len() < end + length {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the client is gone");
    }
    let line = String::from_utf8_lossy(&bytes[..end]).lines().next().unwrap_or_default().to_owned();
    Ok((line.trim_end_matches(" HTTP/1.1").to_owned(), bytes.split_off(end)))
}

/// Answers nothing until the client leaves.
async fn until_gone(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<()> {
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}
