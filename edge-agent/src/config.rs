//! The agent's configuration: one TOML file, checked as a whole before anything starts. Knows names and bounds; opens
//! nothing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use strict_config::{ConfigError, error_at, parse};
use tap_protocol::ids::{ControllerId, ReaderName};
use tap_protocol::limits::MAX_READERS;
use tap_protocol::tap::Direction;

use crate::admission::DEFAULT_DEBOUNCE_MS;
use crate::outbox::space::{Limits, MAX_DAYS};

/// The exit code for a configuration error (`EX_CONFIG` of sysexits.h): systemd must not restart on it.
pub const EXIT_CONFIG: u8 = 78;

/// The reader that `edge-agent tap --simulate` taps at; no configured reader may have its name.
pub const SIMULATED_READER: &str = "simulated";

/// Everything that `edge-agent.toml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who this controller is.
    pub controller: ControllerId,
    /// Where the outboxes live: a real disk.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Where the control socket is made.
    #[serde(default = "default_runtime_dir")]
    pub runtime_dir: PathBuf,
    /// Where taps are sent.
    pub broker: BrokerConfig,
    /// Where the keys are.
    pub keys: KeysConfig,
    /// The same card at the same reader counts as one tap until it was away for so long.
    #[serde(default = "default_debounce_ms")]
    pub debounce_ms: u64,
    /// How much is kept.
    #[serde(default)]
    pub outbox: OutboxConfig,
    /// The readers.
    #[serde(rename = "reader", default)]
    pub readers: Vec<ReaderConfig>,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/edge-agent".into()
}

fn default_runtime_dir() -> PathBuf {
    "/run/edge-agent".into()
}

fn default_debounce_ms() -> u64 {
    DEFAULT_DEBOUNCE_MS
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: file.clone(),
            line: None,
            message: format!("cannot be read: {error}"),
        })?;
        Config::from_text(&file, &text)
    }

    /// Reads and checks `text`, the content of `file`.
    pub fn from_text(file: &str, text: &str) -> Result<Config, ConfigError> {
        let config: Config = parse(file, text)?;
        for (i, reader) in config.readers.iter().enumerate() {
            let wrong = |message: &str| Err(error_at(file, text, &format!("reader[{i}].name"), message));
            if reader.pcsc.is_some() == reader.serial.is_some() {
                return wrong(
                    "say either pcsc = {} or serial = { port = \"/dev/…\" }, so that it is known how this reader is connected",
                );
            }
            if reader.name.as_str() == SIMULATED_READER {
                return wrong("this name belongs to `edge-agent tap --simulate`: choose another");
            }
            if config.readers[..i].iter().any(|other| other.name == reader.name) {
                return wrong(&format!("two readers are called {}", reader.name));
            }
        }
        if usize::from(config.outbox.keep_receipted_days) >= MAX_DAYS {
            let message = format!("history is kept for at most {} days", MAX_DAYS - 1);
            return Err(error_at(file, text, "outbox.keep_receipted_days", &message));
        }
        if config.readers.len() >= MAX_READERS {
            return Err(error_at(file, text, "reader", "a controller has at most 15 readers"));
        }
        Ok(config)
    }

    /// Where the outboxes are.
    pub fn outbox_dir(&self) -> PathBuf {
        self.state_dir.join("outbox")
    }

    /// Where `edge-agent status` and `edge-agent tap` find the running agent.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }
}

/// The `[broker]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// `mqtts://host[:8883]` or `mqtt://host[:1883]`.
    #[serde(deserialize_with = "broker_url")]
    pub url: BrokerUrl,
    /// Whom to trust, PEM. Needed for `mqtts`.
    pub ca_file: Option<PathBuf>,
    /// Who we are, PEM; together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The key to it, PEM.
    pub key_file: Option<PathBuf>,
}

/// The broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

fn broker_url<'de, D: Deserializer<'de>>(from: D) -> Result<BrokerUrl, D::Error> {
    let text = String::deserialize(from)?;
    let wrong =
        || serde::de::Error::custom(format!("{text:?} is not mqtts://HOST[:PORT] or mqtt://HOST[:PORT]"));
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let (tls, default_port) = match scheme {
        "mqtts" => (true, 8883),
        "mqtt" => (false, 1883),
        _ => return Err(wrong()),
    };
    // An IPv6 address stands in brackets, so that its colons are not taken for a port.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (rest, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() || host.contains('/') { Err(wrong()) } else { Ok(BrokerUrl { tls, host, port }) }
}

/// The `[keys]`: files of 64 hexadecimal digits each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysConfig {
    /// The Ed25519 seed that signs this controller's batches and hellos.
    pub record_key_file: PathBuf,
    /// The AES-SIV key that seals badges.
    pub token_key_file: PathBuf,
    /// Which key that is.
    #[serde(default = "default_token_key_id")]
    pub token_key_id: u16,
    /// The cloud's public receipt key.
    pub receipt_public_key_file: PathBuf,
}

fn default_token_key_id() -> u16 {
    1
}

/// The `[outbox]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxConfig {
    /// Bytes that all outboxes together may use. A million records are some 130 MB.
    pub max_bytes: u64,
    /// Bytes of the disk that are left to others: below that nothing is recorded any more.
    pub min_free_bytes: u64,
    /// Records that are kept after their receipt, in case the cloud is restored from a backup; fewer where there is no room.
    pub keep_receipted: u64,
    /// Days that they are kept, by the cloud's time.
    pub keep_receipted_days: u16,
    /// Run also where commits are not durable: in memory, or on a disk without barriers. For tests and demonstrations.
    pub allow_volatile: bool,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        OutboxConfig {
            max_bytes: 512 << 20,
            min_free_bytes: 16 << 20,
            keep_receipted: 1_000_000,
            keep_receipted_days: 30,
            allow_volatile: false,
        }
    }
}

impl OutboxConfig {
    /// The limits in it.
    pub fn limits(&self) -> Limits {
        Limits {
            max_bytes: self.max_bytes,
            min_free_bytes: self.min_free_bytes,
            keep_receipted: self.keep_receipted,
            keep_receipted_days: self.keep_receipted_days,
        }
    }
}

/// One `[[reader]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReaderConfig {
    /// Its name in records, such as `in`.
    pub name: ReaderName,
    /// Which way people go who tap here.
    #[serde(default)]
    pub direction: Direction,
    /// How it is connected.
    pub pcsc: Option<PcscConfig>,
    /// How it is connected.
    pub serial: Option<SerialConfig>,
}

/// A reader behind pcscd.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcscConfig {
    /// A part of the name that `pcsc_scan` shows; the first reader if not given.
    #[serde(rename = "match")]
    pub matching: Option<String>,
}

/// A reader at a serial port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialConfig {
    /// The port: better `/dev/serial/by-id/…`, which stays, than `/dev/ttyUSB0`, which does not.
    pub port: PathBuf,
    /// Bits per second.
    #[serde(default = "default_baud")]
    pub baud: u32,
}

fn default_baud() -> u32 {
    9_600
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
controller = "hq-door-1"
state_dir = "/tmp/state"

[broker]
url = "mqtt://127.0.0.1:1884"

[keys]
record_key_file = "record.key"
token_key_file = "token.key"
receipt_public_key_file = "receipt.pub"

[[reader]]
name = "in"
direction = "in"
pcsc = { match = "ACR122U" }

[[reader]]
name = "out"
serial = { port = "/dev/serial/by-id/usb-rdm6300" }
"#;

    #[test]
    fn a_good_file_is_read() {
        let config = Config::from_text("edge-agent.toml", GOOD).unwrap();
        assert_eq!(config.broker.url, BrokerUrl { tls: false, host: "127.0.0.1".into(), port: 1884 });
        assert_eq!(config.readers[1].serial.as_ref().unwrap().baud, 9_600);
        assert_eq!(config.control_socket(), Path::new("/run/edge-agent/control.sock"));
    }

    #[track_caller]
    fn refused(from: &str, to: &str, message: &str) {
        assert!(GOOD.contains(from), "the sample has {from:?}");
        let error = Config::from_text("edge-agent.toml", &GOOD.replacen(from, to, 1)).unwrap_err();
        assert_eq!(error.to_string(), format!("edge-agent.toml:{message}"));
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_remedy() {
        refused("state_dir", "statedir", "3: unknown key statedir: did you mean state_dir?");
        refused("url =", "ulr =", "6: unknown key broker.ulr: did you mean url?");
        refused("match", "mach", "16: unknown key reader[0].pcsc.mach: did you mean match?");
        refused(
            "direction = \"in\"",
            "direction = \"inn\"",
            "15: reader[0].direction: inn is none of the choices: did you mean in?",
        );
        refused(
            "hq-door-1",
            "HQ door",
            "2: controller: controller id \"HQ door\" is not a slug: use 1 to 63 lower-case letters, digits and hyphens, starting and ending with a letter or digit",
        );
        refused(
            "mqtt://127.0.0.1:1884",
            "127.0.0.1",
            "6: broker.url: \"127.0.0.1\" is not mqtts://HOST[:PORT] or mqtt://HOST[:PORT]",
        );
        refused("name = \"out\"", "name = \"in\"", "19: reader[1].name: two readers are called in");
        refused(
            "name = \"out\"",
            "name = \"simulated\"",
            "19: reader[1].name: this name belongs to `edge-agent tap --simulate`: choose another",
        );
        refused(
            "pcsc = { match = \"ACR122U\" }",
            "",
            "14: reader[0].name: say either pcsc = {} or serial = { port = \"/dev/…\" }, so that it is known how this reader is connected",
        );
        refused("record_key_file = \"record.key\"\n", "", "8: keys.record_key_file is missing");
    }
}
