//! Beside the line: every key of `edge-agent.toml` in words, for `edge-agent config list --doc` and for the names of
//! environment variables. Knows no values. A test holds this list against what the parser accepts.

use strict_config::{Value, closest};

/// Variables that give a key's value begin with this: `EDGE_AGENT_BROKER__URL` is `broker.url`.
pub const ENVIRONMENT: &str = "EDGE_AGENT";

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its path; `[]` stands for each entry of a list.
    pub path: &'static str,
    /// What may stand there.
    pub kind: Kind,
    /// What holds if it is not said.
    pub default: Default,
    /// What it means, for people.
    pub meaning: &'static str,
}

/// What may stand as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A file or folder.
    Path,
    /// A whole number.
    Number,
    /// A list of whole numbers.
    Numbers,
    /// A truth value.
    Truth,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A table with keys of its own.
    Table,
    /// A list of tables.
    List,
}

/// What holds if a key is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// It must be said.
    Required,
    /// Nothing: what it would switch on is off.
    Unset,
    /// This TOML.
    Is(&'static str),
}

impl Key {
    /// How a value from the environment or the command line is to be read.
    pub fn value(&self) -> Value {
        match self.kind {
            Kind::Text | Kind::Path | Kind::Choice(_) => Value::Text,
            Kind::Number | Kind::Numbers | Kind::Truth | Kind::Table | Kind::List => Value::Toml,
        }
    }

    /// The type, for people.
    pub fn type_name(&self) -> String {
        match self.kind {
            Kind::Text => "text".into(),
            Kind::Path => "path".into(),
            Kind::Number => "whole number".into(),
            Kind::Numbers => "list of whole numbers".into(),
            Kind::Truth => "true or false".into(),
            Kind::Choice(words) => {
                words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
            }
            Kind::Table => "table".into(),
            Kind::List => "list of tables".into(),
        }
    }

    /// The variable that can give its value. Keys of list entries have none: the list as a whole has.
    pub fn variable(&self) -> Option<String> {
        let is_one = !self.path.contains('[') && self.kind != Kind::Table;
        is_one.then(|| format!("{ENVIRONMENT}_{}", self.path.to_uppercase().replace('.', "__")))
    }
}

/// The key that `path` names, such as `reader[0].name`; if there is none, what was probably meant.
pub fn find(path: &str) -> Result<&'static Key, Option<&'static str>> {
    let general = generalize(path);
    KEYS.iter()
        .find(|key| key.path == general)
        .ok_or_else(|| closest(&general, KEYS.iter().map(|key| key.path)))
}

/// `reader[0].name` is `reader[].name` in the list of keys.
fn generalize(path: &str) -> String {
    let mut general = String::new();
    let mut in_brackets = false;
    for letter in path.chars() {
        in_brackets = letter == '[' || (in_brackets && letter != ']');
        if !in_brackets || letter == '[' {
            general.push(letter);
        }
    }
    general
}

/// Keys that the environment can give.
pub fn in_environment() -> impl Iterator<Item = (&'static str, Value)> {
    KEYS.iter().filter(|key| key.variable().is_some()).map(|key| (key.path, key.value()))
}

/// Every key, in the order of the sample configuration.
pub const KEYS: &[Key] = &[
    Key {
        path: "controller",
        kind: Kind::Text,
        default: Default::Unset,
        meaning: "Who this controller is, for life: 1 to 63 lower-case letters, digits and inner hyphens. Also its MQTT client id. Never give two controllers the same one. Only where it is provisioned by hand, together with [broker] and [keys]: `edge-agent enroll` gets all three from the cloud.",
    },
    Key {
        path: "state_dir",
        kind: Kind::Path,
        default: Default::Is("\"/var/lib/edge-agent\""),
        meaning: "Where the outboxes live: on a real disk, never in memory.",
    },
    Key {
        path: "runtime_dir",
        kind: Kind::Path,
        default: Default::Is("\"/run/edge-agent\""),
        meaning: "Where the socket is made through which the commands reach the running agent.",
    },
    Key {
        path: "debounce_ms",
        kind: Kind::Number,
        default: Default::Is("1500"),
        meaning: "A card at a reader is one tap until it was away for this long, milliseconds.",
    },
    Key {
        path: "broker",
        kind: Kind::Table,
        default: Default::Unset,
        meaning: "Where taps are sent. Together with controller and [keys], or not at all.",
    },
    Key {
        path: "broker.url",
        kind: Kind::Text,
        default: Default::Required,
        meaning: "mqtts://HOST[:8883] over TLS 1.3, or mqtt://HOST[:1883] in clear on a network of your own.",
    },
    Key {
        path: "broker.ca_file",
        kind: Kind::Path,
        default: Default::Unset,
        meaning: "Whose certificates are trusted, PEM. Needed with mqtts://.",
    },
    Key {
        path: "broker.cert_file",
        kind: Kind::Path,
        default: Default::Unset,
        meaning: "This controller's certificate, PEM. Together with broker.key_file, or neither.",
    },
    Key {
        path: "broker.key_file",
        kind: Kind::Path,
        default: Default::Unset,
        meaning: "The private key to broker.cert_file, PEM.",
    },
    Key {
        path: "keys",
        kind: Kind::Table,
        default: Default::Unset,
        meaning: "Files of 64 hexadecimal digits each. Together with controller and [broker], or not at all.",
    },
    Key {
        path: "keys.record_key_file",
        kind: Kind::Path,
        default: Default::Required,
        meaning: "Signs this controller's records; made by `edge-agent keys create`. Readable by its owner alone.",
    },
    Key {
        path: "keys.token_key_file",
        kind: Kind::Path,
        default: Default::Required,
        meaning: "Seals badges: the tenant's, the same on every controller and in the cloud. Readable by its owner alone.",
    },
    Key {
        path: "keys.token_key_id",
        kind: Kind::Number,
        default: Default::Is("1"),
        meaning: "Which token key that is.",
    },
    Key {
        path: "keys.receipt_public_key_file",
        kind: Kind::Path,
        default: Default::Required,
        meaning: "Checks the cloud's receipts: the cloud's receipt.pub.",
    },
    Key {
        path: "keys.control_public_key_file",
        kind: Kind::Path,
        default: Default::Unset,
        meaning: "Checks the cloud's rosters and commands: the cloud's control.pub. Without it neither is taken.",
    },
    Key { path: "outbox", kind: Kind::Table, default: Default::Unset, meaning: "How much is kept." },
    Key {
        path: "outbox.max_bytes",
        kind: Kind::Number,
        default: Default::Is("536870912"),
        meaning: "Bytes that all outboxes together may use; a million records are some 130 MB. A warning comes at 80 %. When it is full, records that the cloud has go first; with none left, taps are refused at the reader.",
    },
    Key {
        path: "outbox.min_free_bytes",
        kind: Kind::Number,
        default: Default::Is("16777216"),
        meaning: "Bytes of the disk that are left to others: below that nothing is recorded any more.",
    },
    Key {
        path: "outbox.keep_receipted",
        kind: Kind::Number,
        default: Default::Is("1000000"),
        meaning: "Records kept per outbox after the cloud has them, in case it is restored from a backup. Others are kept in any case.",
    },
    Key {
        path: "outbox.keep_receipted_days",
        kind: Kind::Number,
        default: Default::Is("30"),
        meaning: "Days that they are kept, by the cloud's time.",
    },
    Key {
        path: "outbox.allow_volatile",
        kind: Kind::Truth,
        default: Default::Is("false"),
        meaning: "Record also where a power cut takes what was accepted: in memory, or on a disk mounted without barriers. For tests and demonstrations only.",
    },
    Key {
        path: "metrics",
        kind: Kind::Table,
        default: Default::Unset,
        meaning: "Numbers for a monitoring system, in Prometheus' text format. Off unless one of its keys is said.",
    },
    Key {
        path: "metrics.listen",
        kind: Kind::Text,
        default: Default::Unset,
        meaning: "Answers HTTP requests for /metrics at this address of this machine, such as 127.0.0.1:9109.",
    },
    Key {
        path: "metrics.file",
        kind: Kind::Path,
        default: Default::Unset,
        meaning: "Writes them to this file every 15 seconds, for node_exporter's textfile collector; it must end in .prom.",
    },
    Key {
        path: "reader",
        kind: Kind::List,
        default: Default::Is("[]"),
        meaning: "The readers, one [[reader]] each, at most 15. A drop-in's are added; the environment's replace them all.",
    },
    Key {
        path: "reader[].name",
        kind: Kind::Text,
        default: Default::Required,
        meaning: "Its name in records: 1 to 16 lower-case letters, digits and inner hyphens; not \"simulated\".",
    },
    Key {
        path: "reader[].direction",
        kind: Kind::Choice(&["in", "out", "unspecified"]),
        default: Default::Is("\"unspecified\""),
        meaning: "Which way people go who tap here.",
    },
    Key {
        path: "reader[].pcsc",
        kind: Kind::Table,
        default: Default::Unset,
        meaning: "Connected through pcscd. pcsc = {} takes the first reader.",
    },
    Key {
        path: "reader[].pcsc.match",
        kind: Kind::Text,
        default: Default::Unset,
        meaning: "A part of the name that `edge-agent readers list` or `pcsc_scan` shows.",
    },
    Key {
        path: "reader[].pcsc.lamp",
        kind: Kind::Choice(&["auto", "acr122u", "acr1252u", "acr1255u", "none"]),
        default: Default::Is("\"auto\""),
        meaning: "Whose commands light and sound take: by the reader's name, or as this model; none leaves them alone.",
    },
    Key {
        path: "reader[].serial",
        kind: Kind::Table,
        default: Default::Unset,
        meaning: "Connected to a serial port.",
    },
    Key {
        path: "reader[].serial.port",
        kind: Kind::Path,
        default: Default::Required,
        meaning: "The port. Names below /dev/serial/by-id stay when readers are replugged; /dev/ttyUSB0 does not.",
    },
    Key {
        path: "reader[].serial.baud",
        kind: Kind::Number,
        default: Default::Is("9600"),
        meaning: "Bits per second.",
    },
    Key {
        path: "reader[].serial.format",
        kind: Kind::Choice(&["em4100", "line", "wiegand"]),
        default: Default::Is("\"em4100\""),
        meaning: "What the reader says: em4100 is RDM6300 and ID-12LA/20LA; line one number a line; wiegand one frame a line, as Wiegand converters print it.",
    },
    Key {
        path: "reader[].serial.line",
        kind: Kind::Table,
        default: Default::Unset,
        meaning: "With format = \"line\": what a line looks like. Lines end in CR, LF or both.",
    },
    Key {
        path: "reader[].serial.line.prefix",
        kind: Kind::Text,
        default: Default::Is("\"\""),
        meaning: "What stands before the number, exactly.",
    },
    Key {
        path: "reader[].serial.line.suffix",
        kind: Kind::Text,
        default: Default::Is("\"\""),
        meaning: "What stands behind the number, before the end of the line.",
    },
    Key {
        path: "reader[].serial.line.base",
        kind: Kind::Choice(&["decimal", "hex"]),
        default: Default::Required,
        meaning: "How the number is written.",
    },
    Key {
        path: "reader[].serial.line.digits",
        kind: Kind::Number,
        default: Default::Required,
        meaning: "How many digits there are, leading zeros included.",
    },
    Key {
        path: "reader[].serial.line.technology",
        kind: Kind::Choice(&["hf", "em4100", "wiegand"]),
        default: Default::Required,
        meaning: "What kind of number it is: the UID of a 13.56 MHz card, an EM4100 number, or the bits of a Wiegand frame.",
    },
    Key {
        path: "reader[].serial.line.bits",
        kind: Kind::Number,
        default: Default::Unset,
        meaning: "How many bits of the card's number are printed; four for each hexadecimal digit if not said.",
    },
    Key {
        path: "reader[].serial.wiegand",
        kind: Kind::Table,
        default: Default::Unset,
        meaning: "With format = \"wiegand\": how a frame is written, if not as 26:22A7C24 (bit count, colon, hexadecimal).",
    },
    Key {
        path: "reader[].serial.wiegand.prefix",
        kind: Kind::Text,
        default: Default::Is("\"\""),
        meaning: "What stands before the bit count, exactly.",
    },
    Key {
        path: "reader[].serial.wiegand.separator",
        kind: Kind::Text,
        default: Default::Is("\":\""),
        meaning: "What stands between the bit count and the digits.",
    },
    Key {
        path: "reader[].serial.wiegand.suffix",
        kind: Kind::Text,
        default: Default::Is("\"\""),
        meaning: "What stands behind the digits, before the end of the line.",
    },
    Key {
        path: "reader[].serial.wiegand.digits",
        kind: Kind::Choice(&["hex-right", "hex-left", "binary"]),
        default: Default::Is("\"hex-right\""),
        meaning: "How the bits are written: 26:22A7C24, 26:8A9F0900 or 26:10001010100111110000100100.",
    },
    Key {
        path: "reader[].serial.wiegand.lengths",
        kind: Kind::Numbers,
        default: Default::Is("[26, 34]"),
        meaning: "The lengths in bits that this door's cards have; any other is refused.",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{Config, Written};

    /// What is needed at least.
    const LEAST: &str = "controller = 'a'\nbroker.url = 'mqtt://h'\n[keys]\nrecord_key_file = 'a'\ntoken_key_file = 'b'\nreceipt_public_key_file = 'c'\n";

    /// What the parser accepts in the table at `path`: it says so when it meets a key that it does not know.
    fn accepted(path: &str) -> BTreeSet<String> {
        let unknown = "~unknown~";
        let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
        let text = steps.iter().rev().fold(format!("{{ {unknown:?} = 1 }}"), |inner, step| {
            match step.strip_suffix("[]") {
                Some(list) => format!("{{ {list:?} = [{inner}] }}"),
                None => format!("{{ {step:?} = {inner} }}"),
            }
        });
        // An inline table's content, with the braces taken off, is a document.
        let text = &text[1..text.len() - 1];
        let error = strict_config::parse::<Written>("x", text.trim()).unwrap_err().message;
        let (_, known) = error.split_once("there is ").unwrap_or_else(|| panic!("{path}: {error}"));
        known.split(", ").map(str::to_owned).collect()
    }

    /// What this file says of the table at `path`.
    fn documented(path: &str) -> BTreeSet<String> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let inside = |key: &Key| key.path.strip_prefix(&prefix).filter(|rest| !rest.contains('.'));
        KEYS.iter().filter_map(inside).map(|key| key.trim_end_matches("[]").to_owned()).collect()
    }

    #[test]
    fn every_key_that_the_parser_accepts_is_documented_and_the_other_way_round() {
        let lists = |key: &Key| matches!(key.kind, Kind::List).then(|| format!("{}[]", key.path));
        let tables = |key: &Key| matches!(key.kind, Kind::Table).then(|| key.path.to_owned());
        let inner = KEYS.iter().filter_map(|key| tables(key).or_else(|| lists(key)));
        for table in inner.chain([String::new()]) {
            assert_eq!(documented(&table), accepted(&table), "in [{table}]: update config/keys.rs");
        }
    }

    #[test]
    fn every_documented_default_is_what_holds() {
        let read = |text: &str| format!("{:?}", Config::from_text("x", text).unwrap());
        let with_reader = format!("{LEAST}[[reader]]\nname = 'in'\n");
        for key in KEYS {
            let Default::Is(default) = key.default else { continue };
            // A reader is connected in one way; its keys are looked at in that one.
            let connected = match key.path.split('.').nth(2) {
                _ if !key.path.contains(".serial.") => "pcsc = {}",
                Some("line") => {
                    "[reader.serial]\nport = 'p'\nformat = 'line'\n[reader.serial.line]\nbase = 'hex'\ndigits = 8\ntechnology = 'hf'"
                }
                Some("wiegand") if key.path.contains("wiegand.") => {
                    "[reader.serial]\nport = 'p'\nformat = 'wiegand'\n[reader.serial.wiegand]"
                }
                _ => "[reader.serial]\nport = 'p'",
            };
            let least = match key.path.starts_with("reader[]") {
                true => format!("{with_reader}{connected}\n"),
                false => LEAST.to_owned(),
            };
            let path = key.path.replace("[]", "[0]");
            let said = strict_config::set(&least, &path, default).unwrap();
            assert_eq!(read(&said), read(&least), "{} = {default}", key.path);
        }
    }

    #[test]
    fn the_sample_configuration_shows_every_key() {
        let sample = include_str!("../../../packaging/edge-agent.toml");
        Written::from_layers(&strict_config::Layers::of("edge-agent.toml", sample)).unwrap();
        for key in KEYS {
            let name = key.path.rsplit('.').next().unwrap().trim_end_matches("[]");
            let is_shown = [format!("{name} = "), format!("[{name}]"), format!("`{name}`")]
                .iter()
                .any(|form| sample.contains(form));
            assert!(is_shown, "{} is not in packaging/edge-agent.toml", key.path);
        }
    }

    #[test]
    fn no_variable_can_be_read_in_two_ways() {
        for key in KEYS {
            let file = format!("{}_file", key.path);
            assert!(KEYS.iter().all(|other| other.path != file), "{file} would hide {}", key.path);
        }
    }

    #[test]
    fn keys_are_found_whatever_their_index_and_misspelt_ones_are_guessed() {
        assert_eq!(find("reader[12].pcsc.match").unwrap().path, "reader[].pcsc.match");
        assert_eq!(find("broker.ulr").unwrap_err(), Some("broker.url"));
        assert_eq!(find("~").unwrap_err(), None);
    }
}
