//! Beside the line: the configuration of `cloud-ingest`, read and checked as a whole before anything starts. Knows
//! the names and the bounds; opens no connection.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use tap_protocol::ids::ControllerId;
use tap_protocol::keys::PublicKey;

use crate::destination::guard::{Guard, Network};
use crate::destination::settings::{BadSettings, Breaker, DestinationSettings, Limits};
use crate::event_store::place::Place;
use crate::event_store::postgres::{Address, BadAddress};
use crate::event_store::{Controller, RecordKey, Site};
use crate::keyring::Keys;
use crate::telemetry::with_causes;

pub use strict_config::ConfigError;
use strict_config::{closest, error_at, parse};

/// The exit code for a configuration error (`EX_CONFIG`): systemd must not restart on it.
pub const EXIT_CONFIG: u8 = 78;

/// A request may take this long at most: far below the lease, so that a claim never runs out under a live request.
pub const MAX_TIMEOUT_MS: u64 = 20_000;

/// Requests that may be under way at once at one destination; legacy systems give up long before.
pub const MAX_IN_FLIGHT: usize = 256;

/// Everything that `cloud-ingest.toml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the event store lives, if it is a file, and what else belongs to this machine.
    pub data_dir: PathBuf,
    /// The event store, if it is on a server.
    pub store: Option<StoreEntry>,
    /// Where controllers publish.
    pub broker: Broker,
    /// Where people and monitoring look.
    pub http: Http,
    /// Where the cloud's keys are.
    pub keys: KeysFolder,
    /// How controllers come by certificates; without it nobody is enrolled here.
    pub enrolment: Option<EnrolmentEntry>,
    /// Where taps come in over HTTP; without it none do.
    pub capture: Option<CaptureEntry>,
    /// Places.
    #[serde(rename = "site", default)]
    pub sites: Vec<SiteEntry>,
    /// Door controllers.
    #[serde(rename = "controller", default)]
    pub controllers: Vec<ControllerEntry>,
    /// What holds for all destinations.
    #[serde(default)]
    pub destinations: DestinationsEntry,
    /// One legacy attendance API, declared here; others are added with `cloud-ingest destinations add`.
    pub destination: Option<Destination>,
}

/// The `[store]`: a PostgreSQL server. Without it the store is a file in `data_dir`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreEntry {
    /// `postgres://user@host/database`, as libpq takes it; `?host=/run/postgresql` for a socket.
    pub url: String,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// A file with the certificates, PEM, that the server's must come from; with it the connection is encrypted.
    pub ca_file: Option<PathBuf>,
    /// Whether `serve` brings the store up to date when it starts, or leaves that to `cloud-ingest store migrate`.
    #[serde(default = "yes")]
    pub migrate_at_start: bool,
}

fn yes() -> bool {
    true
}

/// The MQTT broker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// `mqtt://host[:1883]` or `mqtts://host[:8883]`.
    pub url: BrokerUrl,
    /// The broker keeps messages for this name while we are away: it must never change by itself.
    pub client_id: String,
    /// Whom to trust, PEM; the system's roots if not given.
    pub ca_file: Option<PathBuf>,
    /// Who we are, PEM.
    pub cert_file: Option<PathBuf>,
    /// The key to it, PEM.
    pub key_file: Option<PathBuf>,
}

impl Broker {
    /// The session that replicas share: the same for all of them, and for no other.
    pub fn name(&self) -> String {
        format!("{} at {}", self.client_id, self.url)
    }
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

/// The HTTP listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address and port. There is no login yet: keep it on a private address.
    pub listen: SocketAddr,
}

/// Where the keys are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFolder {
    /// As `cloud-ingest keys create` and `cloud-ingest ca init` make it.
    pub dir: PathBuf,
}

/// The `[enrolment]`: how controllers come by their certificates.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentEntry {
    /// Address and port of the HTTPS listener.
    pub listen: SocketAddr,
    /// `https://host:port` as controllers reach it.
    pub url: String,
    /// Further names that its certificate is good for, beside the one in `url`.
    #[serde(default)]
    pub names: Vec<String>,
    /// `mqtts://host:port` as controllers reach the broker.
    pub broker_url: BrokerUrl,
    /// How long a controller's certificate is good.
    #[serde(default = "default_certificate_days")]
    pub certificate_days: u32,
    /// How long a record key stays good after the controller brought a new one.
    #[serde(default = "default_record_key_overlap_days")]
    pub record_key_overlap_days: u32,
    /// Where the broker reads who is out of trust, if not where [`Config::crl_file`] says.
    pub crl_file: Option<PathBuf>,
}

/// No certificate is good for longer.
pub const MAX_CERTIFICATE_DAYS: u32 = 30;

fn default_certificate_days() -> u32 {
    MAX_CERTIFICATE_DAYS
}

fn default_record_key_overlap_days() -> u32 {
    7
}

impl EnrolmentEntry {
    /// All names of the listener's certificate.
    pub fn all_names(&self) -> Vec<String> {
        let host = reqwest::Url::parse(&self.url).ok();
        let host = host.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let others = self.names.iter().filter(|name| **name != host).cloned();
        std::iter::once(host.clone()).chain(others).collect()
    }

    fn complaint(&self) -> Option<(&'static str, String)> {
        let url = reqwest::Url::parse(&self.url);
        let plain = |url: &reqwest::Url| {
            url.scheme() == "https" && url.has_host() && url.path() == "/" && url.query().is_none()
        };
        if !url.as_ref().is_ok_and(plain) {
            Some(("url", format!("{} is no address like https://enrol.example:8444", self.url)))
        } else if !self.broker_url.tls {
            Some(("broker_url", "controllers with certificates need mqtts://".into()))
        } else if !(1..=MAX_CERTIFICATE_DAYS).contains(&self.certificate_days) {
            Some(("certificate_days", format!("use 1 to {MAX_CERTIFICATE_DAYS}")))
        } else if !(1..=90).contains(&self.record_key_overlap_days) {
            Some(("record_key_overlap_days", "use 1 to 90".into()))
        } else {
            None
        }
    }
}

/// The `[capture]`: how taps come in over HTTP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureEntry {
    /// Address and port of the HTTPS listener.
    pub listen: SocketAddr,
    /// Names by which clients reach it: its certificate is made for them by our root.
    #[serde(default)]
    pub names: Vec<String>,
    /// A certificate of somebody else's instead, PEM.
    pub cert_file: Option<PathBuf>,
    /// The key to it, PEM.
    pub key_file: Option<PathBuf>,
    /// Taps that one API key may bring per second.
    #[serde(default = "default_capture_per_second")]
    pub per_second: u32,
    /// Taps that it may bring at once after a rest.
    #[serde(default = "default_capture_burst")]
    pub burst: u32,
    /// What the spool may take of the disk.
    #[serde(default = "default_spool_max_bytes")]
    pub spool_max_bytes: u64,
}

fn default_capture_per_second() -> u32 {
    10
}

fn default_capture_burst() -> u32 {
    50
}

/// Some 60,000 taps.
fn default_spool_max_bytes() -> u64 {
    16 * 1024 * 1024
}

/// Room for a few hundred taps, and what memory can hold of them.
const SPOOL_BYTES: RangeInclusive<u64> = 64 * 1024..=1024 * 1024 * 1024;

impl CaptureEntry {
    fn complaint(&self) -> Option<(&'static str, String)> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            Some(("cert_file", "cert_file and key_file go together".into()))
        } else if self.cert_file.is_some() != self.names.is_empty() {
            let why =
                "say names, for a certificate by our own root, or cert_file and key_file: one of the two";
            Some(("listen", why.into()))
        } else if !(1..=1_000).contains(&self.per_second) {
            Some(("per_second", "use 1 to 1000".into()))
        } else if !(1..=10_000).contains(&self.burst) {
            Some(("burst", "use 1 to 10000".into()))
        } else if !SPOOL_BYTES.contains(&self.spool_max_bytes) {
            let (least, most) = SPOOL_BYTES.into_inner();
            Some(("spool_max_bytes", format!("use {least} to {most}")))
        } else {
            None
        }
    }
}

/// One `[[site]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteEntry {
    /// Short name.
    pub id: String,
    /// What people call it.
    pub label: String,
    /// IANA time zone.
    pub zone: String,
}

/// One `[[controller]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerEntry {
    /// Its name for life.
    pub id: ControllerId,
    /// What people call it.
    pub label: String,
    /// One of the sites.
    pub site: String,
    /// Its public record key, as `edge-agent` prints it.
    #[serde(deserialize_with = "from_text")]
    pub record_key: PublicKey,
}

/// The `[destinations]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DestinationsEntry {
    /// Networks that destinations may be in beside the public internet. Said here and not with a destination, so that
    /// whoever may add one opens nothing with it.
    pub allow_networks: Vec<Network>,
}

/// The `[destination]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// What it is called in the store, in metrics and on screens.
    pub name: String,
    /// Where taps are posted to.
    pub url: String,
    /// How long one request may take.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// How many requests may be under way at once.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// Requests per second in the long run.
    #[serde(default = "default_per_second")]
    pub per_second: f64,
    /// So many at once after a pause.
    #[serde(default = "default_burst")]
    pub burst: u32,
    /// Requests per day in UTC, if that is limited.
    pub per_day: Option<u32>,
    /// A file with the value of the `Authorization` header.
    pub authorization_file: Option<PathBuf>,
}

fn default_timeout_ms() -> u64 {
    5_000
}

fn default_max_in_flight() -> usize {
    8
}

fn default_per_second() -> f64 {
    100.0
}

fn default_burst() -> u32 {
    100
}

impl Destination {
    /// What it is, as destinations are kept in the store.
    pub fn settings(&self) -> Result<DestinationSettings, BadSettings> {
        let mut settings = DestinationSettings::http_json(&self.url)?;
        settings.timeout_ms = self.timeout_ms;
        settings.limits = Limits {
            per_second: self.per_second,
            burst: self.burst,
            per_day: self.per_day,
            concurrency: u32::try_from(self.max_in_flight).unwrap_or(u32::MAX),
        };
        // One small site, one system: it is worth a try sooner.
        settings.breaker = Breaker { trip_after: 10, open_s: 2, max_open_s: 30, ramp_s: 5 };
        settings.checked()
    }
}

/// The secrets that the files hold.
pub struct Secrets {
    /// The cloud's keys.
    pub keys: Keys,
}

impl Config {
    /// Reads and checks the file. Opens no key file; see [`Config::secrets`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let text = read(path).map_err(|why| ConfigError { file: file.clone(), line: None, message: why })?;
        Config::parse(&file, &text)
    }

    /// Reads and checks `text`, the content of `file`.
    pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
        let config: Config = parse(file, text)?;
        match config.complaint() {
            Some((path, message)) => Err(error_at(file, text, &path, &message)),
            None => Ok(config),
        }
    }

    /// Where the event store is.
    pub fn place(&self) -> Result<Place, BadAddress> {
        Ok(match &self.store {
            None => Place::File(self.data_dir.join("cloud-ingest.db")),
            Some(StoreEntry { url, password_file, ca_file, .. }) => {
                Place::Server(Box::new(Address::new(url, password_file.as_deref(), ca_file.as_deref())?))
            }
        })
    }

    /// Whether `serve` brings the store up to date: one in a file is nobody else's.
    pub fn migrates_at_start(&self) -> bool {
        self.store.as_ref().is_none_or(|store| store.migrate_at_start)
    }

    /// Where the broker reads who is out of trust. Always somewhere: a revocation that nobody is told of is none.
    pub fn crl_file(&self) -> Option<PathBuf> {
        let enrolment = self.enrolment.as_ref()?;
        Some(enrolment.crl_file.clone().unwrap_or_else(|| self.data_dir.join("ca/crl.pem")))
    }

    /// The folder of taps that came over HTTP while the store was away.
    pub fn spool(&self) -> PathBuf {
        self.data_dir.join("capture-spool")
    }

    /// The sites as the store has them.
    pub fn sites(&self) -> impl Iterator<Item = Site> {
        self.sites.iter().map(|site| Site {
            id: site.id.clone(),
            label: site.label.clone(),
            zone: site.zone.clone(),
        })
    }

    /// The controllers as the store has them.
    pub fn controllers(&self) -> impl Iterator<Item = Controller> {
        self.controllers.iter().map(|controller| Controller {
            id: controller.id.clone(),
            label: controller.label.clone(),
            site: controller.site.clone(),
            record_keys: vec![RecordKey::new(controller.record_key)],
        })
    }

    /// Where destinations may be, beside the public internet: where this file says, because whoever may write it may name
    /// any address.
    pub fn guard(&self) -> Guard {
        let named = Guard::allowing(self.destinations.allow_networks.iter().copied());
        let declared = self.destination.as_ref().and_then(|declared| declared.settings().ok());
        match declared {
            Some(settings) => named.named_by(&settings.url),
            None => named,
        }
    }

    /// Reads the key files. `path` is the configuration file, for the message.
    pub fn secrets(&self, path: &Path) -> Result<Secrets, ConfigError> {
        let text = read(path).unwrap_or_default();
        let complain = |key: &str, why: String| error_at(&path.display().to_string(), &text, key, &why);
        let keys = Keys::load(&self.keys.dir).map_err(|error| complain("keys.dir", with_causes(&error)))?;
        if self.enrolment.is_some() && keys.signing_root().is_none() {
            let dir = self.keys.dir.display();
            let why = format!("there is no root in {dir}: make it with `cloud-ingest ca init --dir {dir}`");
            return Err(complain("keys.dir", why));
        }
        if self.capture.as_ref().is_some_and(|capture| capture.cert_file.is_none())
            && keys.server_root().is_none()
        {
            let dir = self.keys.dir.display();
            let why = format!(
                "there is no root in {dir} for the certificate of [capture]: make it with `cloud-ingest ca init --dir \
                 {dir}`, or give cert_file and key_file"
            );
            return Err(complain("capture.listen", why));
        }
        if let Some(file) = self.destination.as_ref().and_then(|known| known.authorization_file.as_ref()) {
            read(file).map_err(|why| complain("destination.authorization_file", why))?;
        }
        Ok(Secrets { keys })
    }

    /// The first thing that can be read and makes no sense: where, and what.
    fn complaint(&self) -> Option<(String, String)> {
        let mut sites = HashSet::new();
        for (i, site) in self.sites.iter().enumerate() {
            if !sites.insert(site.id.as_str()) {
                return Some((format!("site[{i}].id"), format!("there are two sites {}", site.id)));
            }
            if jiff::tz::TimeZone::get(&site.zone).is_err() {
                return Some((
                    format!("site[{i}].zone"),
                    format!("{} is no time zone of this system: write it like Europe/Berlin", site.zone),
                ));
            }
        }
        let mut controllers = HashSet::new();
        for (i, controller) in self.controllers.iter().enumerate() {
            if !controllers.insert(&controller.id) {
                return Some((
                    format!("controller[{i}].id"),
                    format!("there are two controllers {}", controller.id),
                ));
            }
            if !sites.contains(controller.site.as_str()) {
                let hint = match closest(&controller.site, sites.iter().copied()) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => "add a [[site]] with that id".to_owned(),
                };
                return Some((
                    format!("controller[{i}].site"),
                    format!("there is no site {}: {hint}", controller.site),
                ));
            }
        }
        let broker = &self.broker;
        if broker.client_id.is_empty() || broker.client_id.len() > 128 {
            return Some(("broker.client_id".into(), "use 1 to 128 characters".into()));
        }
        if broker.cert_file.is_some() != broker.key_file.is_some() {
            return Some(("broker.cert_file".into(), "cert_file and key_file go together".into()));
        }
        if !broker.url.tls && (broker.ca_file.is_some() || broker.cert_file.is_some()) {
            return Some(("broker.url".into(), "certificates need mqtts://".into()));
        }
        if let Some((key, message)) = self.enrolment.as_ref().and_then(EnrolmentEntry::complaint) {
            return Some((format!("enrolment.{key}"), message));
        }
        if let Some((key, message)) = self.capture.as_ref().and_then(CaptureEntry::complaint) {
            return Some((format!("capture.{key}"), message));
        }
        let complaint = self.destination.as_ref().and_then(Destination::complaint);
        complaint.map(|(key, message)| (format!("destination.{key}"), message))
    }
}

impl Destination {
    fn complaint(&self) -> Option<(&'static str, String)> {
        let url_ok = reqwest::Url::parse(&self.url)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !is_destination_name(&self.name) {
            Some(("name", DESTINATION_NAMES.into()))
        } else if !url_ok {
            Some(("url", format!("{} is no http:// or https:// address", self.url)))
        } else if !(1..=MAX_TIMEOUT_MS).contains(&self.timeout_ms) {
            Some(("timeout_ms", format!("use 1 to {MAX_TIMEOUT_MS}")))
        } else if !(1..=MAX_IN_FLIGHT).contains(&self.max_in_flight) {
            Some(("max_in_flight", format!("use 1 to {MAX_IN_FLIGHT}")))
        } else if let Err(bad) = self.settings() {
            let key = ["per_second", "burst", "per_day"].into_iter().find(|key| bad.at.ends_with(key));
            Some((key.unwrap_or("url"), bad.why))
        } else {
            None
        }
    }
}

/// What names of destinations look like, for people.
pub const DESTINATION_NAMES: &str = "use 1 to 63 letters, digits, hyphens, dots and underscores";

/// Whether a destination may be called that.
pub fn is_destination_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl FromStr for BrokerUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<BrokerUrl, String> {
        let wrong = || format!("{text:?} is no broker address: write mqtt://host:1883 or mqtts://host:8883");
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let default_port = if tls { 8883 } else { 1883 };
        // An IPv6 address stands in brackets, and has colons of its own.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', '@', '?', '#']) || port == 0 {
            return Err(wrong());
        }
        Ok(BrokerUrl { tls, host: host.to_owned(), port })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        let BrokerUrl { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from)
    }
}

fn from_text<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: FromStr<Err: std::fmt::Display>,
    D: Deserializer<'de>,
{
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
data_dir = "/var/lib/cloud-ingest"

[broker]
url = "mqtt://127.0.0.1"
client_id = "cloud-ingest"

[http]
listen = "127.0.0.1:8080"

[keys]
dir = "/etc/cloud-ingest/keys"

[enrolment]
listen = "0.0.0.0:8444"
url = "https://enrol.example:8444"
broker_url = "mqtts://broker.example"

[[site]]
id = "hq"
label = "Headquarters"
zone = "Europe/Berlin"

[[controller]]
id = "hq-door-12"
label = "Main entrance"
site = "hq"
record_key = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"

[destination]
name = "legacy"
url = "http://127.0.0.1:9000/attendance"
"#;

    #[test]
    fn the_sample_lets_nobody_in_and_tells_nobody_until_somebody_says_so_and_every_line_of_it_is_right() {
        let sample = include_str!("../../packaging/cloud-ingest.toml");
        let installed = Config::parse("cloud-ingest.toml", sample).unwrap();
        assert!(
            installed.enrolment.is_none() && installed.capture.is_none() && installed.destination.is_none()
        );
        assert!(installed.sites.is_empty() && installed.controllers.is_empty());
        // Keys and sections begin right behind their mark, sentences after a space.
        let uncommented = sample.lines().map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => key,
            _ => line,
        });
        let all = uncommented.collect::<Vec<_>>().join("\n");
        // Of certificates there is one or the other, and none without TLS.
        let one = all.replace("names = [\"taps.example.com\"]", "").replace("mqtt://", "mqtts://");
        let all = Config::parse("cloud-ingest.toml", &one).unwrap();
        assert!(all.enrolment.is_some() && all.capture.is_some() && all.destination.is_some());
        assert_eq!((all.sites.len(), all.controllers.len()), (1, 1));
    }

    #[test]
    fn the_list_of_revoked_certificates_is_where_the_unit_that_watches_it_looks() {
        let unit = include_str!("../../systemd/tapline-revocations.path");
        let config = Config::parse("cloud-ingest.toml", GOOD).unwrap();
        let watched = format!("PathChanged={}\n", config.crl_file().unwrap().display());
        assert!(unit.contains(&watched), "{watched}{unit}");
        let elsewhere = GOOD.replace("[[site]]", "crl_file = \"/srv/crl.pem\"\n[[site]]");
        let config = Config::parse("cloud-ingest.toml", &elsewhere).unwrap();
        assert_eq!(config.crl_file().unwrap(), Path::new("/srv/crl.pem"));
    }

    #[track_caller]
    fn check(change: (&str, &str), expected: &str) {
        assert!(GOOD.contains(change.0), "the sample has no {}", change.0);
        let text = GOOD.replacen(change.0, change.1, 1);
        assert_eq!(Config::parse("c.toml", &text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn the_sample_is_read() {
        let config = Config::parse("c.toml", GOOD).unwrap();
        assert_eq!(config.broker.url, BrokerUrl { tls: false, host: "127.0.0.1".into(), port: 1883 });
        let settings = config.destination.as_ref().unwrap().settings().unwrap();
        assert_eq!((settings.timeout_ms, settings.limits.concurrency), (5_000, 8));
        let without = &GOOD[..GOOD.find("[destination]").unwrap()];
        assert!(Config::parse("c.toml", without).unwrap().destination.is_none());
        assert_eq!(config.controllers().count(), 1);
    }

    #[test]
    fn destinations_may_be_where_this_file_allows_it() {
        let may = |more: &str, address: &str| {
            let config = Config::parse("c.toml", &format!("{GOOD}{more}")).unwrap();
            config.guard().check(address.parse().unwrap()).is_ok()
        };
        let more = "\n[destinations]\nallow_networks = [\"192.168.7.0/24\"]\n";
        assert!(may(more, "192.168.7.9") && may(more, "127.0.0.1"), "what [destination] names stays allowed");
        assert!(!may(more, "192.168.8.9") && !may(more, "169.254.169.254"));
        assert!(!may("", "192.168.7.9"));
        let wrong = format!("{GOOD}\n[destinations]\nallow_networks = [\"192.168.7.1/24\"]\n");
        let why = Config::parse("c.toml", &wrong).unwrap_err().to_string();
        assert!(why.contains("write 192.168.7.0/24"), "{why}");
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_line() {
        check(
            ("name = \"legacy\"", "name = \"legacy\"\nmax_inflight = 3"),
            "c.toml:32: unknown key destination.max_inflight: did you mean max_in_flight?",
        );
        check(
            ("[http]\nlisten = \"127.0.0.1:8080\"", "[http]\nlisten = 8080"),
            "c.toml:9: http.listen: invalid type: integer `8080`, expected socket address",
        );
        check(
            ("Europe/Berlin", "Europe/Berln"),
            "c.toml:22: site[0].zone: Europe/Berln is no time zone of this system: write it like Europe/Berlin",
        );
        check(
            ("site = \"hq\"", "site = \"hqq\""),
            "c.toml:27: controller[0].site: there is no site hqq: did you mean hq?",
        );
        check(
            ("hq-door-12", "HQ"),
            "c.toml:25: controller[0].id: controller id \"HQ\" is not a slug: use 1 to 63 lower-case letters, digits and hyphens, starting and ending with a letter or digit",
        );
        check(
            ("3d4017", "3d40"),
            "c.toml:28: controller[0].record_key: a public key must be 64 hexadecimal digits",
        );
        check(
            ("mqtt://127.0.0.1", "http://127.0.0.1"),
            "c.toml:5: broker.url: \"http://127.0.0.1\" is no broker address: write mqtt://host:1883 or mqtts://host:8883",
        );
        check(
            ("https://enrol.example:8444", "http://enrol.example:8444"),
            "c.toml:16: enrolment.url: http://enrol.example:8444 is no address like https://enrol.example:8444",
        );
        check(
            ("mqtts://broker.example", "mqtt://broker.example"),
            "c.toml:17: enrolment.broker_url: controllers with certificates need mqtts://",
        );
        check(
            ("url = \"https", "certificate_days = 31\nurl = \"https"),
            "c.toml:16: enrolment.certificate_days: use 1 to 30",
        );
        check(
            ("http://127.0.0.1:9000", "ftp://127.0.0.1:9000"),
            "c.toml:32: destination.url: ftp://127.0.0.1:9000/attendance is no http:// or https:// address",
        );
        check(
            ("name = \"legacy\"", "name = \"legacy\"\ntimeout_ms = 60000"),
            "c.toml:32: destination.timeout_ms: use 1 to 20000",
        );
        check(
            ("name = \"legacy\"", "name = \"legacy\"\nper_second = 0.0"),
            "c.toml:32: destination.per_second: use 0.001 to 100000; 0.1 is one in ten seconds",
        );
        check(
            ("client_id = \"cloud-ingest\"", "client_id = \"c\"\nca_file = \"/ca.pem\""),
            "c.toml:5: broker.url: certificates need mqtts://",
        );
        let capture = |lines: &str| format!("[capture]\nlisten = \"0.0.0.0:8445\"\n{lines}\n[destination]");
        let both_or_none =
            "say names, for a certificate by our own root, or cert_file and key_file: one of the two";
        for (lines, said) in [
            ("", format!("c.toml:31: capture.listen: {both_or_none}")),
            (
                "names = [\"a\"]\ncert_file = \"a\"\nkey_file = \"a\"",
                format!("c.toml:31: capture.listen: {both_or_none}"),
            ),
            ("cert_file = \"a\"", "c.toml:32: capture.cert_file: cert_file and key_file go together".into()),
            ("names = [\"a\"]\nper_second = 0", "c.toml:33: capture.per_second: use 1 to 1000".into()),
            ("names = [\"a\"]\nburst = 10001", "c.toml:33: capture.burst: use 1 to 10000".into()),
            (
                "names = [\"a\"]\nspool_max_bytes = 1",
                "c.toml:33: capture.spool_max_bytes: use 65536 to 1073741824".into(),
            ),
        ] {
            check(("[destination]", &capture(lines)), &said);
        }
        check(("data_dir = \"/var/lib/cloud-ingest\"", ""), "c.toml:1: data_dir is missing");
    }

    #[test]
    fn broker_addresses_are_taken_apart() {
        let read = |text: &str| text.parse::<BrokerUrl>().map(|b| (b.tls, b.host, b.port));
        assert_eq!(read("mqtt://broker"), Ok((false, "broker".into(), 1883)));
        assert_eq!(read("mqtts://broker"), Ok((true, "broker".into(), 8883)));
        assert_eq!(read("mqtts://broker:8884/"), Ok((true, "broker".into(), 8884)));
        assert_eq!(read("mqtt://[::1]:1884"), Ok((false, "::1".into(), 1884)));
        assert_eq!(read("mqtt://[::1]"), Ok((false, "::1".into(), 1883)));
        for bad in
            ["", "broker", "mqtt://", "mqtt://:1", "mqtt://a:x", "mqtt://u:p@h", "ws://h", "mqtt://a:0"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
