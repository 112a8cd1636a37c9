//! Why an attack fails: the one reason that it must be refused for, in the words that production says it with.

use edge_agent::agent::with_causes;
use edge_agent::relay::Verdict;
use edge_agent::roster::assembler::Refused;
use edge_agent::roster::book::NotARoster;
use tap_protocol::codec::DecodeError;
use tap_protocol::ids::{ControllerId, Seq};
use tap_protocol::limits::MAX_MESSAGE_BYTES;
use tap_protocol::topic::Channel;

use super::production::Answer;

/// The reason that an attack must be refused for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No topic of ours.
    UnknownTopic,
    /// A topic that only the cloud writes to.
    CloudOnly(Channel),
    /// Nobody enrolled that controller.
    UnknownController(ControllerId),
    /// A message of so many bytes.
    TooLong(usize),
    /// Nothing behind so many bytes.
    Truncated(usize),
    /// That version is not known.
    UnknownVersion(u8),
    /// The right version, and not its shape.
    Malformed,
    /// So many bytes behind the end.
    TrailingBytes(usize),
    /// A rule of the protocol, by its sentence.
    Rule(&'static str),
    /// The signature does not hold.
    Signature,
    /// It speaks for somebody else.
    WrongController {
        /// Whom it names.
        said: ControllerId,
        /// Whose it must be.
        expected: ControllerId,
    },
    /// Stored already.
    Duplicate,
    /// Something before it is missing.
    Beyond,
    /// Another record is stored there.
    Fork(Seq),
    /// A receipt that says nothing new.
    OldReceipt,
    /// A receipt for more than was ever written.
    Rewound,
    /// A receipt for other records.
    Forked,
    /// A receipt of a new life of the store, for what is not there any more.
    HistoryGone,
    /// A receipt for an outbox that is not here.
    ForeignReceipt,
    /// A roster, or a part of one.
    Roster(Refused),
}

impl Reason {
    /// What production must answer: the cloud to what goes up, a door to what goes down.
    pub fn answer(&self, is_upward: bool) -> Answer {
        let undecodable = |error: DecodeError| Answer::Refused {
            kind: if matches!(error, DecodeError::TooLong { .. }) { "oversized" } else { "undecodable" },
            why: format!("not a message of this protocol: {error}"),
        };
        let refused = |kind, why: &str| Answer::Refused { kind, why: why.to_owned() };
        match self {
            Reason::UnknownTopic => {
                refused("unknown_topic", "the topic is not of the form tap/v1/CONTROLLER/CHANNEL")
            }
            Reason::CloudOnly(channel) => {
                refused("unknown_topic", &format!("nobody but the cloud writes to {}", channel.name()))
            }
            Reason::UnknownController(id) => {
                refused("unknown_controller", &format!("there is no controller {id} here that has a key"))
            }
            Reason::TooLong(got) if is_upward => {
                refused("oversized", &format!("{got} bytes, {MAX_MESSAGE_BYTES} are allowed"))
            }
            Reason::TooLong(got) => undecodable(DecodeError::TooLong { got: *got, max: MAX_MESSAGE_BYTES }),
            Reason::Truncated(bytes) => undecodable(DecodeError::Truncated(*bytes)),
            Reason::UnknownVersion(version) => undecodable(DecodeError::UnknownVersion(*version)),
            Reason::Malformed => refused(
                "undecodable",
                "not a message of this protocol: malformed: Serde Deserialization Error",
            ),
            Reason::TrailingBytes(bytes) => undecodable(DecodeError::TrailingBytes(*bytes)),
            Reason::Rule(rule) => undecodable(DecodeError::Rule(rule)),
            Reason::Signature => refused(
                "unauthentic",
                "not authentic: the signature is not by the expected key over these bytes",
            ),
            Reason::WrongController { said, expected } => {
                refused("unauthentic", &format!("speaks for controller {said}, not for {expected}"))
            }
            Reason::Duplicate => Answer::Duplicate,
            Reason::Beyond => Answer::Beyond,
            Reason::Fork(at) => Answer::Fork { at: *at },
            Reason::OldReceipt => Answer::Receipt(Verdict::Nothing),
            Reason::Rewound => Answer::Receipt(Verdict::Rewound),
            Reason::Forked => Answer::Receipt(Verdict::Forked),
            Reason::HistoryGone => Answer::Receipt(Verdict::HistoryGone),
            Reason::ForeignReceipt => Answer::Receipt(Verdict::Foreign),
            Reason::Roster(why) => refused("roster", &with_causes(why)),
        }
    }

    /// What it is called in the evidence, and where baits name what they take away.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::UnknownTopic => "unknown topic",
            Reason::CloudOnly(_) => "only the cloud writes there",
            Reason::UnknownController(_) => "unknown controller",
            Reason::TooLong(_) => "too long",
            Reason::Truncated(_) => "cut off",
            Reason::UnknownVersion(_) => "unknown version",
            Reason::Malformed => "malformed",
            Reason::TrailingBytes(_) => "trailing bytes",
            Reason::Rule(rule) => rule,
            Reason::Signature => "signature",
            Reason::WrongController { .. } => "speaks for another",
            Reason::Duplicate => "duplicate",
            Reason::Beyond => "beyond the mark",
            Reason::Fork(_) => "fork",
            Reason::OldReceipt => "receipt: nothing new",
            Reason::Rewound => "receipt: rewound",
            Reason::Forked => "receipt: forked",
            Reason::HistoryGone => "receipt: history gone",
            Reason::ForeignReceipt => "receipt: foreign outbox",
            Reason::Roster(Refused::Older { .. }) => "roster: older",
            Reason::Roster(Refused::Contradicts(_)) => "roster: contradicts",
            Reason::Roster(Refused::Spoilt(_)) => "roster: broke a rule before",
            Reason::Roster(Refused::NotWanted { .. }) => "roster: nobody waits for it",
            Reason::Roster(Refused::WrongHash { .. }) => "roster: not what was announced",
            Reason::Roster(Refused::Chunk { source, .. }) => match source {
                NotARoster::Count { .. } => "roster: count",
                NotARoster::Order { .. } => "roster: order",
                NotARoster::Standing { .. } => "roster: unknown standing",
            },
        }
    }
}
