//! The agent's configuration: a TOML file, drop-ins beside it and the environment, checked as a whole before anything
//! starts, and who the controller is, from there or from its enrolment. Knows names and bounds; opens nothing else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use strict_config::{ConfigError, Layers};
use tap_protocol::ids::{ControllerId, ReaderName};
use tap_protocol::limits::MAX_READERS;
use tap_protocol::tap::Direction;

use crate::admission::DEFAULT_DEBOUNCE_MS;
use crate::agent::with_causes;
use crate::enrolment::folder::{Folder, FolderError, Sets};
use crate::outbox::space::{Limits, MAX_DAYS};
use crate::reader::framing::Framing;
use crate::reader::lamp::LampChoice;
use crate::reader::number_line::LineFormat;
use crate::reader::wiegand::WiegandFormat;

pub mod keys;

/// The exit code for a configuration error (`EX_CONFIG` of sysexits.h): systemd must not restart on it.
pub const EXIT_CONFIG: u8 = 78;

/// The reader that `edge-agent tap --simulate` taps at; no configured reader may have its name.
pub const SIMULATED_READER: &str = "simulated";

/// Everything that the agent needs: what `edge-agent.toml` says, and who it is, from there or from its enrolment.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this controller is.
    pub controller: ControllerId,
    /// Where the outboxes live: a real disk.
    pub state_dir: PathBuf,
    /// Where the control socket is made.
    pub runtime_dir: PathBuf,
    /// Where taps are sent.
    pub broker: BrokerConfig,
    /// Where the keys are.
    pub keys: KeysConfig,
    /// Where they come from; `None` if they were provisioned by hand.
    pub enrolment: Option<Sets>,
    /// The same card at the same reader counts as one tap until it was away for so long.
    pub debounce_ms: u64,
    /// How much is kept.
    pub outbox: OutboxConfig,
    /// Where numbers for monitoring are given.
    pub metrics: MetricsConfig,
    /// The readers.
    pub readers: Vec<ReaderConfig>,
}

/// Everything that `edge-agent.toml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Who this controller is; from its enrolment if not said.
    pub controller: Option<ControllerId>,
    /// Where the outboxes live: a real disk.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Where the control socket is made.
    #[serde(default = "default_runtime_dir")]
    pub runtime_dir: PathBuf,
    /// Where taps are sent; together with `controller`.
    pub broker: Option<BrokerConfig>,
    /// Where the keys are; together with `controller`.
    pub keys: Option<KeysConfig>,
    /// The same card at the same reader counts as one tap until it was away for so long.
    #[serde(default = "default_debounce_ms")]
    pub debounce_ms: u64,
    /// How much is kept.
    #[serde(default)]
    pub outbox: OutboxConfig,
    /// Where numbers for monitoring are given.
    #[serde(default)]
    pub metrics: MetricsConfig,
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
    /// Reads and checks a file, the drop-ins beside it and the environment.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::from_layers(&layers(path)?)
    }

    /// Reads and checks `text`, the content of `file`.
    pub fn from_text(file: &str, text: &str) -> Result<Config, ConfigError> {
        Config::from_layers(&Layers::of(file, text))
    }

    /// Checks what was read, and finds out who the controller is.
    pub fn from_layers(layers: &Layers) -> Result<Config, ConfigError> {
        let Written {
            controller,
            state_dir,
            runtime_dir,
            broker,
            keys,
            debounce_ms,
            outbox,
            metrics,
            readers,
        } = Written::from_layers(layers)?;
        let provisioned = match (controller, broker, keys) {
            (Some(controller), Some(broker), Some(keys)) => {
                Provisioned { controller, broker, keys, enrolment: None }
            }
            _ => Provisioned::by_enrolment(&state_dir).map_err(|why| layers.error_as_a_whole(&why))?,
        };
        let Provisioned { controller, broker, keys, enrolment } = provisioned;
        Ok(Config {
            controller,
            state_dir,
            runtime_dir,
            broker,
            keys,
            enrolment,
            debounce_ms,
            outbox,
            metrics,
            readers,
        })
    }

    /// Where the outboxes are.
    pub fn outbox_dir(&self) -> PathBuf {
        self.state_dir.join("outbox")
    }

    /// Where the roster is kept.
    pub fn roster_dir(&self) -> PathBuf {
        self.state_dir.join("roster")
    }

    /// Where `edge-agent status` and `edge-agent tap` find the running agent.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }
}

impl Written {
    /// Checks what was read, whether the controller is enrolled or not.
    pub fn from_layers(layers: &Layers) -> Result<Written, ConfigError> {
        let config: Written = layers.parse()?;
        let by_hand = [
            ("controller", config.controller.is_some()),
            ("broker", config.broker.is_some()),
            ("keys", config.keys.is_some()),
        ];
        let said =
            |wanted| by_hand.iter().filter(move |(_, is_said)| *is_said == wanted).map(|(key, _)| *key);
        if let (Some(given), Some(missing)) = (said(true).next(), said(false).next()) {
            let why = format!(
                "{missing} is missing: controller, [broker] and [keys] go together. Say all three (provisioned by hand), or none of them (`edge-agent enroll` gets them from the cloud)"
            );
            return Err(layers.error_at(given, &why));
        }
        for (i, reader) in config.readers.iter().enumerate() {
            let wrong = |message: &str| Err(layers.error_at(&format!("reader[{i}].name"), message));
            if reader.pcsc.is_some() == reader.serial.is_some() {
                return wrong(
                    "say either pcsc = {} or serial = { port = \"/dev/…\" }, so that it is known how this reader is connected",
                );
            }
            if let Some(Err((key, why))) = reader.serial.as_ref().map(SerialConfig::framing) {
                return Err(layers.error_at(&format!("reader[{i}].serial.{key}"), &why));
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
            return Err(layers.error_at("outbox.keep_receipted_days", &message));
        }
        if config.readers.len() >= MAX_READERS {
            return Err(layers.error_at("reader", "a controller has at most 15 readers"));
        }
        if config.metrics.listen.is_some_and(|address| !address.ip().is_loopback()) {
            let why = "must be an address of this machine alone, such as 127.0.0.1:9109: what it tells is for nobody else on the network";
            return Err(layers.error_at("metrics.listen", why));
        }
        if config.metrics.file.as_ref().is_some_and(|file| file.extension().is_none_or(|end| end != "prom")) {
            return Err(
                layers.error_at("metrics.file", "must end in .prom, or node_exporter does not read it")
            );
        }
        Ok(config)
    }

    /// Whether the file says who the controller is: then no enrolment does.
    pub fn is_by_hand(&self) -> bool {
        self.controller.is_some()
    }
}

/// Who the controller is, whom it speaks to, and with which keys.
struct Provisioned {
    controller: ControllerId,
    broker: BrokerConfig,
    keys: KeysConfig,
    enrolment: Option<Sets>,
}

impl Provisioned {
    fn by_enrolment(state_dir: &Path) -> Result<Provisioned, String> {
        let folder = Folder::of(state_dir);
        let told = |error: FolderError| match error.is_permission_denied() {
            true => format!("{}: run this as root (sudo)", with_causes(&error)),
            false => with_causes(&error),
        };
        let sets = folder.sets().map_err(told)?.ok_or_else(|| {
            format!(
                "this controller is not enrolled: there is nothing in {} and the configuration does not say who it is. Get a token (`cloud-ingest enroll-token create`) and run `edge-agent enroll --url https://HOST:PORT --token-file -`",
                folder.path().display()
            )
        })?;
        let newest = sets.newest().read().map_err(told)?;
        Ok(Provisioned {
            controller: newest.bundle.controller.clone(),
            // By the link, which goes with the set that works.
            broker: sets.current.broker_config(&folder.way_to(&sets.current)).map_err(told)?,
            keys: sets.newest().keys_config(newest.bundle.token_key_id),
            enrolment: Some(sets),
        })
    }
}

/// The file, the drop-ins beside it and the environment, not yet checked.
pub fn layers(path: &Path) -> Result<Layers, ConfigError> {
    Layers::read(path)?.with_environment(keys::ENVIRONMENT, keys::in_environment(), std::env::vars_os())
}

/// The `[broker]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// `mqtts://host[:8883]` or `mqtt://host[:1883]`.
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

impl std::fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for BrokerUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<BrokerUrl, String> {
        let wrong = || format!("{text:?} is not mqtts://HOST[:PORT] or mqtt://HOST[:PORT]");
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
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<BrokerUrl, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
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
    /// The cloud's public control key.
    pub control_public_key_file: Option<PathBuf>,
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

/// The `[metrics]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Where HTTP requests for `/metrics` are answered.
    pub listen: Option<SocketAddr>,
    /// Which file they are written to.
    pub file: Option<PathBuf>,
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
    /// Its light and sound: by its name, unless this says otherwise.
    #[serde(default)]
    pub lamp: LampChoice,
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
    /// What the reader says.
    #[serde(default)]
    pub format: SerialFormat,
    /// With `format = "line"`: what a line looks like.
    pub line: Option<LineFormat>,
    /// With `format = "wiegand"`: how a frame is written, if not as `26:22A7C24`.
    pub wiegand: Option<WiegandFormat>,
}

/// What a reader at a serial port says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SerialFormat {
    /// RDM6300, ID-12LA, ID-20LA.
    #[default]
    Em4100,
    /// One number a line.
    Line,
    /// One Wiegand frame a line.
    Wiegand,
}

impl SerialConfig {
    /// What comes over the line, or the key that is wrong and why.
    pub fn framing(&self) -> Result<Framing, (&'static str, String)> {
        match (self.format, &self.line, &self.wiegand) {
            (SerialFormat::Em4100, None, None) => Ok(Framing::Em4100),
            (SerialFormat::Line, Some(line), None) => {
                line.check().map_err(|why| ("line", why))?;
                Ok(Framing::Line(line.clone()))
            }
            (SerialFormat::Line, None, None) => Err((
                "format",
                "say what a line looks like: line = { base = \"decimal\", digits = 10, technology = \"em4100\", bits = 32 }"
                    .into(),
            )),
            (SerialFormat::Wiegand, None, wiegand) => {
                let wiegand = wiegand.clone().unwrap_or_default();
                wiegand.check().map_err(|why| ("wiegand", why))?;
                Ok(Framing::Wiegand(wiegand))
            }
            (_, Some(_), _) => Err(("line", "belongs to format = \"line\"".into())),
            (_, _, Some(_)) => Err(("wiegand", "belongs to format = \"wiegand\"".into())),
        }
    }
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

    #[test]
    fn every_key_in_the_sample_is_a_key_and_shows_what_is_allowed() {
        let sample = include_str!("../../packaging/edge-agent.toml");
        let uncommented: Vec<&str> = sample
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with(|first: char| first == '[' || first.is_ascii_lowercase()) => key,
                _ => line,
            })
            .collect();
        let config = Config::from_text("edge-agent.toml", &uncommented.join("\n")).unwrap();
        let framings = config.readers.iter().filter_map(|reader| reader.serial.as_ref()?.framing().ok());
        let framings: Vec<_> = framings.collect();
        assert!(matches!(framings[..], [Framing::Em4100, Framing::Line(_), Framing::Wiegand(_)]));
        assert_eq!(framings[2], Framing::Wiegand(WiegandFormat::default()), "shown as the default");
        assert!(Written::from_layers(&Layers::of("edge-agent.toml", sample)).is_ok(), "as it is installed");
    }

    #[test]
    fn serial_readers_of_every_format_are_read() {
        let framing = |serial: &str| {
            let text = GOOD.replace("serial = { port = \"/dev/serial/by-id/usb-rdm6300\" }", serial);
            Config::from_text("edge-agent.toml", &text).unwrap().readers[1].serial.as_ref().unwrap().framing()
        };
        assert_eq!(framing("serial = { port = \"/dev/ttyUSB0\" }"), Ok(Framing::Em4100));
        assert_eq!(
            framing("serial = { port = \"/dev/ttyUSB0\", format = \"wiegand\" }"),
            Ok(Framing::Wiegand(WiegandFormat::default()))
        );
        let wiegand = framing(
            "[reader.serial]\nport = \"/dev/ttyUSB0\"\nformat = \"wiegand\"\nwiegand = { lengths = [26], digits = \"hex-left\" }",
        );
        assert!(matches!(wiegand, Ok(Framing::Wiegand(format)) if format.lengths == [26]));
        let line = framing(
            "[reader.serial]\nport = \"/dev/ttyUSB0\"\nformat = \"line\"\nline = { base = \"decimal\", digits = 10, technology = \"em4100\", bits = 32 }",
        );
        assert!(matches!(line, Ok(Framing::Line(format)) if format.digits == 10));
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
        let serial = "serial = { port = \"/dev/serial/by-id/usb-rdm6300\" }";
        refused(
            serial,
            "serial = { port = \"/dev/ttyUSB0\", format = \"line\" }",
            "20: reader[1].serial.format: say what a line looks like: line = { base = \"decimal\", digits = 10, technology = \"em4100\", bits = 32 }",
        );
        refused(
            serial,
            "serial = { port = \"/dev/ttyUSB0\", format = \"wiegand\", wiegand = { lengths = [37] } }",
            "20: reader[1].serial.wiegand: lengths is a list of 26 and 34: of no other length is the parity known",
        );
        refused(
            serial,
            "serial = { port = \"/dev/ttyUSB0\", wiegand = { lengths = [26] } }",
            "20: reader[1].serial.wiegand: belongs to format = \"wiegand\"",
        );
        refused("record_key_file = \"record.key\"\n", "", "8: keys.record_key_file is missing");
        refused(
            "controller = \"hq-door-1\"\n",
            "",
            "4: broker: controller is missing: controller, [broker] and [keys] go together. Say all three (provisioned by hand), or none of them (`edge-agent enroll` gets them from the cloud)",
        );
        refused(
            "[keys]",
            "[metrics]\nlisten = \"0.0.0.0:9109\"\n[keys]",
            "9: metrics.listen: must be an address of this machine alone, such as 127.0.0.1:9109: what it tells is for nobody else on the network",
        );
        refused(
            "[keys]",
            "[metrics]\nfile = \"/x/metrics\"\n[keys]",
            "9: metrics.file: must end in .prom, or node_exporter does not read it",
        );
    }
}
