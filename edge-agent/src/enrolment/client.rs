//! Beside the line: what a controller says to the cloud to be enrolled or to renew, as `docs/protocol.md` has it. Knows no
//! disk: keys come in, a checked bundle goes out.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use ring::rand::SystemRandom;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tap_protocol::enrolment::{
    Bundle, Challenge, ENROLL_LABEL, EnrollRequest, EnrollToken, Keys, RENEW_LABEL, RenewRequest, transcript,
};
use tap_protocol::ids::ControllerId;
use tap_protocol::keys::SigningKey;

use super::bundle::{self, BadBundle, Checked};
use super::folder::OwnKeys;
use super::https::{Answer, HttpsError, HttpsUrl, Patience, ask};
use crate::known_time::KnownTime;
use crate::tls::{ClientIdentity, Trust, client_config};

/// A challenge is 32 bytes.
const CHALLENGE_DIGITS: usize = 64;

/// How much of the cloud's sentence is shown.
const MAX_SENTENCE_CHARS: usize = 400;

/// The cloud, as one asks it.
#[derive(Debug, Clone)]
pub struct Cloud {
    /// Where.
    pub url: HttpsUrl,
    /// How it is known.
    pub trust: Trust,
    /// What its certificate is checked against.
    pub time: Arc<KnownTime>,
    /// How long is waited for it.
    pub patience: Patience,
}

/// Nothing was given.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No answer.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// The cloud says no, and why.
    #[error("the cloud refuses ({status}): {says}")]
    Refused {
        /// HTTP's.
        status: u16,
        /// A sentence for people.
        says: String,
    },
    /// Something else answers.
    #[error(
        "what answers is no enrolment server of Tapline, or of another version: {why}. Check the address"
    )]
    NotUnderstood {
        /// What was odd.
        why: String,
    },
    /// It is not whole.
    #[error(transparent)]
    Bundle(#[from] BadBundle),
    /// It is not ours.
    #[error("what the cloud sent is for {came}, and this is {wanted}: nothing was kept")]
    SomebodyElses {
        /// Whose it is.
        came: ControllerId,
        /// Who we are.
        wanted: ControllerId,
    },
    /// Certificate, key and roots do not fit together.
    #[error("the certificate that the cloud sent cannot be used with the key made here: nothing was kept")]
    Unfit(#[source] rustls::Error),
    /// The kernel gives no randomness.
    #[error("the kernel gives no random bytes, so nothing can be signed")]
    NoRandomness,
}

impl AskError {
    /// Whether somebody must do something before another attempt can go better.
    pub fn needs_a_person(&self) -> bool {
        match self {
            AskError::Refused { status, .. } => (400..500).contains(status) && ![408, 429].contains(status),
            AskError::Https(_)
            | AskError::NotUnderstood { .. }
            | AskError::Bundle(_)
            | AskError::SomebodyElses { .. }
            | AskError::Unfit(_)
            | AskError::NoRandomness => false,
        }
    }
}

impl Cloud {
    /// Asks for the first certificate, with a token.
    pub async fn enroll(&self, token: &EnrollToken, keys: &OwnKeys) -> Result<Checked, AskError> {
        let challenge = self.challenge().await?;
        let signed =
            transcript(ENROLL_LABEL, &challenge, &token.id_text(), keys.tls_point(), &keys.record.public());
        let request = EnrollRequest {
            challenge,
            token_id: token.id_text(),
            token_secret: token.secret_text(),
            keys: proved(keys, &signed)?,
            agent_version: env!("CARGO_PKG_VERSION").into(),
        };
        let bundle = self.post("/enrol/v1/enroll", &request).await?;
        self.looked_at(bundle, keys)
    }

    /// Asks for the next certificate; `current` is a record key that the cloud knows.
    pub async fn renew(
        &self,
        controller: &ControllerId,
        keys: &OwnKeys,
        current: &SigningKey,
    ) -> Result<Checked, AskError> {
        let challenge = self.challenge().await?;
        let signed =
            transcript(RENEW_LABEL, &challenge, controller.as_str(), keys.tls_point(), &keys.record.public());
        let request = RenewRequest {
            challenge,
            controller: controller.clone(),
            keys: proved(keys, &signed)?,
            current_proof: HEXLOWER.encode(&current.sign(&signed)),
            agent_version: env!("CARGO_PKG_VERSION").into(),
        };
        let bundle: Bundle = self.post("/enrol/v1/renew", &request).await?;
        if bundle.controller != *controller {
            return Err(AskError::SomebodyElses { came: bundle.controller, wanted: controller.clone() });
        }
        self.looked_at(bundle, keys)
    }

    async fn challenge(&self) -> Result<String, AskError> {
        let Challenge { challenge } = read(&self.ask("/enrol/v1/challenge", None).await?)?;
        // It is signed: nothing is put under our signature that could mean anything else.
        let is_one = challenge.len() == CHALLENGE_DIGITS
            && challenge.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        match is_one {
            true => Ok(challenge),
            false => {
                Err(AskError::NotUnderstood { why: "its challenge is not 64 hexadecimal digits".into() })
            }
        }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl serde::Serialize,
    ) -> Result<T, AskError> {
        let body = serde_json::to_vec(request).expect("it is text and numbers");
        read(&self.ask(path, Some(body)).await?)
    }

    async fn ask(&self, path: &str, body: Option<Vec<u8>>) -> Result<Answer, AskError> {
        let tls = client_config(self.trust.clone(), None, &self.time).map_err(AskError::Unfit)?;
        Ok(ask(&self.url, Arc::new(tls), path, body, self.patience).await?)
    }

    fn looked_at(&self, bundle: Bundle, keys: &OwnKeys) -> Result<Checked, AskError> {
        let checked = bundle::check(bundle)?;
        let certificates = |pem: &str| bundle::certificates(pem).expect("it was checked");
        let identity =
            ClientIdentity { chain: certificates(&checked.bundle.certificate), key: keys.tls_der() };
        let trust = Trust::Roots(certificates(&checked.bundle.roots));
        client_config(trust, Some(identity), &self.time).map_err(AskError::Unfit)?;
        Ok(checked)
    }
}

fn proved(keys: &OwnKeys, signed: &[u8]) -> Result<Keys, AskError> {
    let tls_proof = keys.tls.sign(&SystemRandom::new(), signed).map_err(|_| AskError::NoRandomness)?;
    Ok(Keys {
        tls_public_key: HEXLOWER.encode(keys.tls_point()),
        record_public_key: keys.record.public().to_string(),
        tls_proof: HEXLOWER.encode(tls_proof.as_ref()),
        record_proof: HEXLOWER.encode(&keys.record.sign(signed)),
    })
}

/// Problem details (RFC 9457), as far as a person is told.
#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, AskError> {
    if (200..300).contains(&answer.status) {
        return serde_json::from_slice(&answer.body)
            .map_err(|error| AskError::NotUnderstood { why: format!("its answer is odd ({error})") });
    }
    let problem: Option<Problem> = serde_json::from_slice(&answer.body).ok();
    let sentence = problem.and_then(|problem| problem.detail.or(problem.title));
    match (sentence, answer.status) {
        (Some(sentence), status) => Err(AskError::Refused { status, says: shown(&sentence) }),
        (None, 429 | 500..=599) => Err(AskError::Refused {
            status: answer.status,
            says: "it cannot answer just now; try again in a while".into(),
        }),
        (None, status) => Err(AskError::NotUnderstood { why: format!("it answers with HTTP {status}") }),
    }
}

/// Foreign text goes to a terminal: one line, bounded, no control characters.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SENTENCE_CHARS).collect()
}
