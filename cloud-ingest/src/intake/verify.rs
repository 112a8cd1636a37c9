//! Step 7 of 12: what a message is, once it is proved. Pure: knows no broker and no store; keys are looked up through a
//! function.
//!
//! Nothing unproved gets past here: what comes out is signed by the controller whose topic it came on, or a reason to
//! put it aside.

use tap_protocol::codec::{DecodeError, OpenError};
use tap_protocol::envelope::{UnverifiedBatch, VerifiedBatch};
use tap_protocol::hello::Hello;
use tap_protocol::ids::ControllerId;
use tap_protocol::keys::PublicKey;
use tap_protocol::limits::MAX_MESSAGE_BYTES;
use tap_protocol::report::Report;
use tap_protocol::topic::{Channel, Topic};

use super::admit::Admission;

/// A message, proved or put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// Records, signed by their controller.
    Records(VerifiedBatch),
    /// A hello, signed by its controller.
    Hello(Box<Hello>),
    /// A report, signed by its controller.
    Report(Box<Report>),
    /// The broker says that a known controller's connection is gone. Not signed: good for a display, for nothing else.
    Gone(ControllerId),
    /// To be quarantined.
    Reject(Reject),
}

/// Why a message is put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// One word for counters.
    pub kind: &'static str,
    /// For people.
    pub reason: String,
    /// Whose topic it came on, if that much could be read.
    pub controller: Option<ControllerId>,
}

/// All kinds of [`Reject`], for counters that start at zero.
pub const REJECT_KINDS: [&str; 8] = [
    "oversized",
    "unknown_topic",
    "unknown_controller",
    "undecodable",
    "unauthentic",
    "fork",
    "revoked",
    "refused_by_store",
];

/// Proves a message. `keys_of` gives the record keys that a controller's messages may be signed by now: two while a new
/// one takes over, none of a controller that is not known.
pub fn verify(topic: &str, message: &[u8], keys_of: impl FnOnce(&ControllerId) -> Vec<PublicKey>) -> Arrival {
    let Ok(Topic { controller, channel }) = topic.parse::<Topic>() else {
        return reject(
            "unknown_topic",
            "the topic is not of the form tap/v1/CONTROLLER/CHANNEL".into(),
            None,
        );
    };
    if message.len() > MAX_MESSAGE_BYTES {
        let reason = format!("{} bytes, {MAX_MESSAGE_BYTES} are allowed", message.len());
        return reject("oversized", reason, Some(controller));
    }
    let keys = keys_of(&controller);
    let Some((newest, older)) = keys.split_first() else {
        let reason = format!("there is no controller {controller} here that has a key");
        return reject("unknown_controller", reason, Some(controller));
    };
    // Only a signature by none of them is looked at again under the next.
    let by_any = |prove: &dyn Fn(&PublicKey) -> Result<Arrival, OpenError>| {
        older.iter().fold(prove(newest), |proved, key| match proved {
            Err(OpenError::Signature(_)) => prove(key),
            settled => settled,
        })
    };
    let proved = match channel {
        Channel::Records => UnverifiedBatch::parse(message)
            .map_err(OpenError::from)
            .and_then(|batch| by_any(&|key| batch.verify(&controller, key).map(Arrival::Records))),
        Channel::Hello => {
            by_any(&|key| Hello::open(message, &controller, key).map(|hello| Arrival::Hello(Box::new(hello))))
        }
        Channel::Report => by_any(&|key| {
            Report::open(message, &controller, key).map(|report| Arrival::Report(Box::new(report)))
        }),
        Channel::Gone => Ok(Arrival::Gone(controller.clone())),
        Channel::Receipt | Channel::Roster | Channel::Command => {
            let reason = format!("nobody but the cloud writes to {}", channel.name());
            return reject("unknown_topic", reason, Some(controller));
        }
    };
    proved.unwrap_or_else(|error| Arrival::Reject(Reject::of(&error, Some(controller))))
}

impl Reject {
    /// Why a message is not taken from its sender.
    pub fn of(error: &OpenError, controller: Option<ControllerId>) -> Reject {
        let kind = match error {
            OpenError::Decode(DecodeError::TooLong { .. }) => "oversized",
            OpenError::Decode(_) => "undecodable",
            OpenError::Signature(_) | OpenError::WrongController { .. } => "unauthentic",
        };
        Reject { kind, reason: with_cause(error), controller }
    }

    /// Why a batch is not stored though it is authentic, if it is put aside: `None` for what the store refused for good.
    pub fn not_admitted(batch: &VerifiedBatch, admission: Option<&Admission>) -> Option<Reject> {
        let (kind, reason) = match admission {
            Some(Admission::Fork { at }) => {
                ("fork", format!("record {at} of outbox {} is stored with another content", batch.outbox()))
            }
            None => ("refused_by_store", "the store refuses it for good: see the log".into()),
            Some(Admission::Store { .. } | Admission::Duplicate | Admission::Beyond) => return None,
        };
        Some(Reject { kind, reason, controller: Some(batch.controller().clone()) })
    }
}

fn reject(kind: &'static str, reason: String, controller: Option<ControllerId>) -> Arrival {
    Arrival::Reject(Reject { kind, reason, controller })
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tap_protocol::chain::ChainHash;
    use tap_protocol::envelope::Batch;
    use tap_protocol::ids::{BootId, OutboxId, Seq};
    use tap_protocol::keys::SigningKey;
    use tap_protocol::record::ClockState;

    fn door() -> ControllerId {
        "door-1".parse().unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(&[1; 32])
    }

    fn batch(controller: &ControllerId, key: &SigningKey) -> Vec<u8> {
        let outbox = OutboxId([7; 16]);
        Batch {
            controller: controller.clone(),
            outbox,
            first_seq: Seq(1),
            hash_before: ChainHash::start(outbox),
            records: vec![vec![1, 2, 3]],
        }
        .sign(key)
    }

    fn hello(controller: &ControllerId, key: &SigningKey) -> Vec<u8> {
        Hello {
            controller: controller.clone(),
            boot_id: BootId([1; 16]),
            boottime_ms: 5,
            wall_ms: 6,
            clock: ClockState::Synced,
            agent_version: "0.1.0".into(),
            record_version: 1,
            roster_version: None,
            outboxes: vec![],
            readers: vec![],
        }
        .sign(key)
    }

    fn arrive(topic: &str, message: &[u8]) -> Arrival {
        verify(topic, message, |id| if *id == door() { vec![key().public()] } else { vec![] })
    }

    #[test]
    fn what_the_right_controller_signed_is_proved() {
        let records = arrive("tap/v1/door-1/records", &batch(&door(), &key()));
        assert!(matches!(records, Arrival::Records(batch) if batch.last_seq() == Seq(1)));
        let hello = arrive("tap/v1/door-1/hello", &hello(&door(), &key()));
        assert!(matches!(hello, Arrival::Hello(hello) if hello.boottime_ms == 5));
        assert_eq!(arrive("tap/v1/door-1/gone", b""), Arrival::Gone(door()));
    }

    #[track_caller]
    fn rejected(topic: &str, message: &[u8], kind: &str, reason: &str) {
        match arrive(topic, message) {
            Arrival::Reject(reject) => {
                assert_eq!((reject.kind, reject.reason.as_str()), (kind, reason));
                assert!(REJECT_KINDS.contains(&kind), "{kind} is not in the list");
            }
            other => panic!("taken: {other:?}"),
        }
    }

    #[test]
    fn rubbish_is_put_aside_with_kind_and_reason() {
        let records = "tap/v1/door-1/records";
        let good = batch(&door(), &key());
        let other: ControllerId = "door-2".parse().unwrap();
        let stranger = SigningKey::from_seed(&[2; 32]);

        let not_ours = "the topic is not of the form tap/v1/CONTROLLER/CHANNEL";
        rejected("tap/v2/door-1/records", &good, "unknown_topic", not_ours);
        rejected("tap/v1/DOOR/records", &good, "unknown_topic", not_ours);
        rejected("", &good, "unknown_topic", not_ours);
        let upward = "nobody but the cloud writes to command";
        rejected("tap/v1/door-1/command", &good, "unknown_topic", upward);

        let unknown = "there is no controller door-2 here that has a key";
        rejected("tap/v1/door-2/records", &batch(&other, &stranger), "unknown_controller", unknown);
        rejected("tap/v1/door-2/gone", b"", "unknown_controller", unknown);

        rejected(records, &vec![1; MAX_MESSAGE_BYTES + 1], "oversized", "65537 bytes, 65536 are allowed");

        let decode = |why: &str| format!("not a message of this protocol: {why}");
        rejected(records, b"", "undecodable", &decode("cut off after 0 bytes"));
        rejected(records, b"{\"seq\":1}", "undecodable", &decode("cut off after 9 bytes"));
        let html = format!("<html>{}</html>", " ".repeat(80));
        rejected(records, html.as_bytes(), "undecodable", &decode("version 60 is not known here"));
        rejected(records, &good[..good.len() - 70], "undecodable", &decode("cut off after 56 bytes"));
        rejected(records, &[0; 200], "undecodable", &decode("version 0 is not known here"));
        let newer = [&[2], &good[1..]].concat();
        rejected(records, &newer, "undecodable", &decode("version 2 is not known here"));

        let forged = "not authentic: the signature is not by the expected key over these bytes";
        rejected(records, &batch(&door(), &stranger), "unauthentic", forged);
        let mut changed = good.clone();
        let last_record_byte = good.len() - 65;
        changed[last_record_byte] ^= 1;
        rejected(records, &changed, "unauthentic", forged);
        let for_another = "speaks for controller door-2, not for door-1";
        rejected(records, &batch(&other, &key()), "unauthentic", for_another);
        rejected("tap/v1/door-1/hello", &hello(&other, &key()), "unauthentic", for_another);
        rejected("tap/v1/door-1/hello", &hello(&door(), &stranger), "unauthentic", forged);
    }

    #[test]
    fn while_a_new_key_takes_over_both_are_good() {
        let (old, new) = (SigningKey::from_seed(&[3; 32]), key());
        let keys = || vec![new.public(), old.public()];
        for signer in [&old, &new] {
            for (topic, message) in [
                ("tap/v1/door-1/records", batch(&door(), signer)),
                ("tap/v1/door-1/hello", hello(&door(), signer)),
            ] {
                let got = verify(topic, &message, |_| keys());
                assert!(!matches!(got, Arrival::Reject(_)), "{topic}: {got:?}");
            }
        }
        let stranger = SigningKey::from_seed(&[2; 32]);
        let got = verify("tap/v1/door-1/hello", &hello(&door(), &stranger), |_| keys());
        assert!(matches!(got, Arrival::Reject(reject) if reject.kind == "unauthentic"));
    }

    #[test]
    fn no_message_is_taken_for_one_of_another_kind() {
        for (topic, message) in [
            ("tap/v1/door-1/records", hello(&door(), &key())),
            ("tap/v1/door-1/hello", batch(&door(), &key())),
        ] {
            assert!(matches!(arrive(topic, &message), Arrival::Reject(_)), "{topic}");
        }
    }

    #[test]
    fn no_single_changed_bit_is_taken() {
        let good = batch(&door(), &key());
        for bit in 0..good.len() * 8 {
            let mut changed = good.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let got = arrive("tap/v1/door-1/records", &changed);
            assert!(matches!(got, Arrival::Reject(_)), "bit {bit}");
        }
    }
}
