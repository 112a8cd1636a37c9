//! Topics: `tap/v1/{controller}/{channel}`, MQTT 3.1.1, QoS 1, nothing retained.

use std::fmt;
use std::str::FromStr;

use crate::ids::ControllerId;

/// One of the seven channels of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Edge to cloud: signed batches.
    Records,
    /// Edge to cloud: signed hellos.
    Hello,
    /// Broker to cloud: the controller's last will.
    Gone,
    /// Cloud to edge: signed receipts.
    Receipt,
    /// Cloud to edge: the signed roster.
    Roster,
    /// Cloud to edge: signed, numbered commands.
    Command,
    /// Edge to cloud: signed reports.
    Report,
}

impl Channel {
    /// All channels.
    pub const ALL: [Channel; 7] = [
        Channel::Records,
        Channel::Hello,
        Channel::Gone,
        Channel::Receipt,
        Channel::Roster,
        Channel::Command,
        Channel::Report,
    ];

    /// The last level of the topic.
    pub fn name(self) -> &'static str {
        match self {
            Channel::Records => "records",
            Channel::Hello => "hello",
            Channel::Gone => "gone",
            Channel::Receipt => "receipt",
            Channel::Roster => "roster",
            Channel::Command => "command",
            Channel::Report => "report",
        }
    }

    /// The filter that matches this channel of every controller.
    pub fn of_every_controller(self) -> String {
        format!("tap/v1/+/{}", self.name())
    }
}

/// One channel of one controller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic {
    /// Whose.
    pub controller: ControllerId,
    /// Which.
    pub channel: Channel,
}

impl Topic {
    /// `tap/v1/{controller}/{channel}`.
    pub fn new(controller: &ControllerId, channel: Channel) -> Topic {
        Topic { controller: controller.clone(), channel }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tap/v1/{}/{}", self.controller, self.channel.name())
    }
}

/// A topic that is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a topic of the form tap/v1/CONTROLLER/CHANNEL")]
pub struct NotATopic;

impl FromStr for Topic {
    type Err = NotATopic;
    fn from_str(text: &str) -> Result<Topic, NotATopic> {
        let (controller, name) =
            text.strip_prefix("tap/v1/").and_then(|rest| rest.split_once('/')).ok_or(NotATopic)?;
        let channel = Channel::ALL.into_iter().find(|channel| channel.name() == name).ok_or(NotATopic)?;
        Ok(Topic { controller: controller.parse().map_err(|_| NotATopic)?, channel })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_as_they_are_written() {
        for channel in Channel::ALL {
            let topic = Topic::new(&"hq-door-12".parse().unwrap(), channel);
            assert_eq!(topic.to_string().parse(), Ok(topic));
        }
    }

    #[test]
    fn other_topics_are_refused() {
        for other in [
            "",
            "tap/v1/a",
            "tap/v2/a/hello",
            "tap/v1/A/hello",
            "tap/v1/a/b/hello",
            "tap/v1/a/hi",
            "tap/v1/+/hello",
        ] {
            assert_eq!(other.parse::<Topic>(), Err(NotATopic), "{other}");
        }
    }
}
