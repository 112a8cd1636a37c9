//! `edge-agent enroll`: makes this controller's keys, and gets its certificate and everything else from the cloud, with a
//! token that works once.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use edge_agent::agent::with_causes;
use edge_agent::clock;
use edge_agent::config::{EXIT_CONFIG, Written, layers};
use edge_agent::enrolment::bundle::Checked;
use edge_agent::enrolment::client::Cloud;
use edge_agent::enrolment::folder::{Folder, Lock, OwnKeys, RecordKey};
use edge_agent::enrolment::https::{HttpsUrl, Patience};
use edge_agent::known_time::KnownTime;
use edge_agent::outbox::Outbox;
use edge_agent::renewal_task::due_of;
use edge_agent::tls::Trust;
use serde_json::json;
use tap_protocol::enrolment::EnrollToken;
use tap_protocol::ids::ControllerId;

use super::clock::utc;
use super::{ConfigArg, EXIT_USAGE, Output, complain, say};

/// A token is some eighty letters; whatever is more than this is another file.
const MAX_TOKEN_BYTES: u64 = 4096;

/// What was typed.
#[derive(Debug, clap::Args)]
pub struct Enroll {
    /// The cloud's enrolment server, as `cloud-ingest enroll-token create` shows it: https://HOST[:PORT].
    #[arg(long)]
    url: HttpsUrl,
    /// The token: tle1.… Others on this machine can see it while the command runs; --token-file is for where that matters.
    #[arg(long, required_unless_present = "token_file", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file that holds the token; - is standard input.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
    /// For people or for scripts.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

type Failure = (u8, String);

fn failed(error: &dyn std::error::Error) -> Failure {
    (1, with_causes(error))
}

impl Enroll {
    pub fn run(self) -> ExitCode {
        match self.enroll() {
            Ok(()) => ExitCode::SUCCESS,
            Err((code, why)) => {
                complain(&why);
                ExitCode::from(code)
            }
        }
    }

    fn enroll(self) -> Result<(), Failure> {
        let wrong_config = |error: strict_config::ConfigError| (EXIT_CONFIG, error.to_string());
        let layers = layers(&self.config.config).map_err(wrong_config)?;
        let written = Written::from_layers(&layers).map_err(wrong_config)?;
        if written.is_by_hand() {
            let why = format!(
                "{} says controller, [broker] and [keys], which would win over an enrolment: take these three out first. The token was not used",
                self.config.config.display()
            );
            return Err((EXIT_CONFIG, why));
        }
        let token: EnrollToken = self
            .token()?
            .parse()
            .map_err(|error| (EXIT_USAGE, format!("{error}. The token was not used")))?;
        let folder = Folder::of(&written.state_dir);
        let lock = folder.lock().map_err(|error| failed(&error))?;
        let keys = folder.keys_to_ask_with(&lock, RecordKey::New).map_err(|error| failed(&error))?;
        let time = KnownTime::to_look_with(&written.state_dir);
        let cloud = Cloud {
            url: self.url.clone(),
            trust: Trust::Pin(token.root_pin),
            time,
            patience: Patience::default(),
        };
        let came = asked(&cloud, &token, &keys)?;
        if let Some(owner) = owner_of_records(&written.state_dir)
            && owner != came.bundle.controller
        {
            let why = format!(
                "the token is for {}, and the records on this disk are {owner}'s: nothing was kept. Get a token for {owner}; or, if this machine is to be {} from now on, bring the records to the cloud (edge-agent outbox export), move {} away and run this again",
                came.bundle.controller,
                came.bundle.controller,
                written.state_dir.join("outbox").display()
            );
            return Err((1, why));
        }
        self.keep(&folder, &lock, &came, &cloud)
    }

    fn keep(&self, folder: &Folder, lock: &Lock, came: &Checked, cloud: &Cloud) -> Result<(), Failure> {
        let set = folder.keep(lock, came).map_err(|error| failed(&error))?;
        folder.promote(&set).map_err(|error| failed(&error))?;
        cloud.time.learn(came.bundle.cloud_utc_ms, clock::boottime_ms());
        cloud.time.write_last();
        let bundle = &came.bundle;
        say(&match self.output {
            Output::Json => {
                let document = json!({
                    "controller": bundle.controller,
                    "label": bundle.label,
                    "site": bundle.site,
                    "broker": bundle.broker_url,
                    "certificate": came.certificate,
                    "renewal_due_s": due_of(came),
                    "folder": folder.path(),
                });
                serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
            }
            Output::Text => format!(
                "enrolled as {}\n  label        {}\n  site         {}\n  broker       {}\n  certificate  until {}, renewed by itself from {} on\n  kept in      {}\n\nNow:  systemctl restart edge-agent && edge-agent test-connection\n",
                bundle.controller,
                bundle.label,
                bundle.site,
                came.broker,
                utc(bundle.not_after_utc_ms),
                utc(due_of(came) * 1000),
                folder.path().display()
            ),
        });
        Ok(())
    }

    fn token(&self) -> Result<String, Failure> {
        let Some(file) = &self.token_file else { return Ok(self.token.clone().unwrap_or_default()) };
        let mut text = String::new();
        let read = match file.as_os_str() == "-" {
            true => std::io::stdin().take(MAX_TOKEN_BYTES).read_to_string(&mut text),
            false => std::fs::File::open(file)
                .and_then(|file| file.take(MAX_TOKEN_BYTES).read_to_string(&mut text)),
        };
        match read {
            Ok(_) => Ok(text),
            Err(error) => {
                Err((EXIT_USAGE, format!("cannot read the token from {}: {error}", file.display())))
            }
        }
    }
}

fn asked(cloud: &Cloud, token: &EnrollToken, keys: &OwnKeys) -> Result<Checked, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(&error))?;
    runtime.block_on(cloud.enroll(token, keys)).map_err(|error| {
        let again = match error.needs_a_person() {
            true => "",
            false => ". If the token was used up by this attempt, the same command works again with it: the keys are kept",
        };
        (1, format!("not enrolled: {}{again}", with_causes(&error)))
    })
}

/// Whose the newest records on this disk are, if there are any that can be read.
fn owner_of_records(state_dir: &Path) -> Option<ControllerId> {
    let entries = std::fs::read_dir(state_dir.join("outbox")).ok()?;
    let files = entries.flatten().map(|entry| entry.path());
    let outboxes = files.filter(|file| file.extension().is_some_and(|end| end == "outbox"));
    let newest = outboxes.filter_map(|file| Outbox::open_to_read(&file).ok()).max_by_key(Outbox::ordinal);
    newest.map(|outbox| outbox.controller().clone())
}
