//! `edge-agent cert`: what this controller's certificate and keys are, and getting the next ones now.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use edge_agent::agent::with_causes;
use edge_agent::certificate::About;
use edge_agent::check::Agent;
use edge_agent::clock;
use edge_agent::config::Config;
use edge_agent::control::{Request, Response};
use edge_agent::enrolment::folder::{Folder, RecordKey, Set};
use edge_agent::identity::Identity;
use edge_agent::known_time::KnownTime;
use edge_agent::probe::{Greeting, reach};
use edge_agent::renewal_task::{Renewed, Renewer, due_of};
use edge_agent::tls::about_all_of_file;
use serde::Serialize;

use super::check::seen;
use super::clock::utc;
use super::{ConfigArg, EXIT_UNAVAILABLE, Output, ask, complain, say, with_config};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show this controller's certificate, when it is renewed, whom it trusts, and the numbers of its keys.
    Status {
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Fetch the next certificate and keys from the cloud now. Works with an expired certificate too.
    Renew {
        /// Make a new record key as well, for when somebody may have seen the old one.
        #[arg(long)]
        new_record_key: bool,
        #[command(flatten)]
        config: ConfigArg,
        /// For people or for scripts.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

/// What goes wrong in words, and the exit code for it.
type Failed = (String, u8);

impl Verb {
    pub fn run(self) -> ExitCode {
        let ended = |result: Result<(), Failed>| match result {
            Ok(()) => ExitCode::SUCCESS,
            Err((why, code)) => {
                complain(&why);
                ExitCode::from(code)
            }
        };
        match self {
            Verb::Status { config, output } => with_config(&config, |config| ended(status(&config, output))),
            Verb::Renew { new_record_key, config, output } => {
                with_config(&config, |config| match renew(&config, new_record_key) {
                    Ok(renewed) => {
                        say(&told(&renewed, output));
                        ExitCode::SUCCESS
                    }
                    Err(failed) => ended(Err(failed)),
                })
            }
        }
    }
}

#[derive(Debug, Serialize)]
struct CertStatus {
    controller: String,
    /// Whether the cloud gave it, or a person put it there.
    enrolled: bool,
    certificate: Option<About>,
    /// Where the cloud gave it: when it is renewed, seconds since 1970-01-01 UTC.
    renewal_due_s: Option<i64>,
    /// A newer certificate that has not worked yet.
    on_trial: Option<About>,
    roots: Vec<About>,
    record_key: String,
    token_key_id: u16,
    receipt_keys: Vec<String>,
    control_keys: Vec<String>,
}

fn status(config: &Config, output: Output) -> Result<(), Failed> {
    let read = |error: &dyn std::error::Error| (with_causes(error), 1);
    let identity = Identity::load(&config.keys).map_err(|error| read(&error))?;
    let about = |file: &Path| {
        about_all_of_file(file).map_err(|why| (format!("cannot read {}: {why}", file.display()), 1))
    };
    let first = |file: &Path| about(file).map(|all| all.into_iter().next());
    let of_set = |set: &Set| first(&set.file("certificate.pem"));
    let sets = config.enrolment.as_ref();
    let newest = sets.map(|sets| sets.newest().read()).transpose().map_err(|error| read(&error))?;
    let keys = |keys: &[tap_protocol::keys::PublicKey]| keys.iter().map(ToString::to_string).collect();
    let status = CertStatus {
        controller: config.controller.to_string(),
        enrolled: sets.is_some(),
        certificate: config.broker.cert_file.as_deref().map(first).transpose()?.flatten(),
        renewal_due_s: newest.as_ref().map(due_of),
        on_trial: sets.and_then(|sets| sets.trial.as_ref()).map(of_set).transpose()?.flatten(),
        roots: config.broker.ca_file.as_deref().map(about).transpose()?.unwrap_or_default(),
        record_key: identity.record_key.public().to_string(),
        token_key_id: config.keys.token_key_id,
        receipt_keys: keys(&identity.receipt_keys),
        control_keys: keys(&identity.control_keys),
    };
    say(&match output {
        Output::Json => serde_json::to_string_pretty(&status).unwrap_or_default() + "\n",
        Output::Text => text(&status),
    });
    Ok(())
}

fn text(status: &CertStatus) -> String {
    let mut lines = vec![("controller", status.controller.clone())];
    let dates = |about: &About| {
        let (from, to) = (about.dates.not_before_s * 1000, about.dates.not_after_s * 1000);
        format!("{}, by {}, from {} to {}", about.subject, about.issuer, utc(from), utc(to))
    };
    match &status.certificate {
        Some(about) => {
            lines.push(("certificate", dates(about)));
            lines.push(("number", about.serial.clone()));
        }
        None => lines.push(("certificate", "none".into())),
    }
    lines.push((
        "renewal",
        match status.renewal_due_s {
            Some(due_s) => format!("by itself from {} on", utc(due_s * 1000)),
            None => "by hand: the files are named in the configuration".into(),
        },
    ));
    lines.extend(status.on_trial.iter().map(|about| ("on trial", dates(about))));
    lines.extend(status.roots.iter().map(|root| ("root", dates(root))));
    lines.push(("record key", status.record_key.clone()));
    lines.push(("token key", format!("number {}", status.token_key_id)));
    lines.extend(status.receipt_keys.iter().map(|key| ("receipt key", key.clone())));
    lines.extend(status.control_keys.iter().map(|key| ("control key", key.clone())));
    lines.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
}

fn told(renewed: &Renewed, output: Output) -> String {
    match output {
        Output::Json => serde_json::to_string_pretty(renewed).unwrap_or_default() + "\n",
        Output::Text => format!(
            "a new certificate is here, number {}, until {}\nrecord key   {}\nIt is tried now; `edge-agent cert status` shows it as the certificate when it has worked\n",
            renewed.serial,
            utc(renewed.not_after_s * 1000),
            renewed.record_key
        ),
    }
}

fn renew(config: &Config, new_record_key: bool) -> Result<Renewed, Failed> {
    if config.enrolment.is_none() {
        let why = "this controller was provisioned by hand: replace the files that the configuration names, or take controller, [broker] and [keys] out of it and run `edge-agent enroll`";
        return Err((why.into(), 1));
    }
    match seen(config) {
        Agent::Stopped => renew_here(config, new_record_key),
        Agent::Unknown(why) => Err((why, EXIT_UNAVAILABLE)),
        Agent::Running(_) => match ask(config, &Request::Renew { new_record_key }) {
            Ok(Response::Renewed(renewed)) => Ok(renewed),
            Ok(Response::Refused { why }) => Err((why, 1)),
            Ok(_) => Err(("the agent answered something else: is it of the same version?".into(), 1)),
            Err(_) => Err(("the agent was asked, and its answer did not come".into(), EXIT_UNAVAILABLE)),
        },
    }
}

/// No agent runs: the same as it would do, with a greeting to the broker as the trial.
fn renew_here(config: &Config, new_record_key: bool) -> Result<Renewed, Failed> {
    let failed = |error: &dyn std::error::Error| (with_causes(error), 1);
    let time = KnownTime::to_look_with(&config.state_dir);
    let renewer = Renewer::new(config.state_dir.clone(), time.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let record = if new_record_key { RecordKey::New } else { RecordKey::Same };
    let renewing = runtime.map_err(|error| failed(&error))?.block_on(renewer.renew(record));
    let (set, came) = renewing.map_err(|error| failed(&error))?;
    time.learn(came.bundle.cloud_utc_ms, clock::boottime_ms());
    time.write_last();
    let broker = set.broker_config(&set.path).map_err(|error| failed(&error))?;
    let steps = reach(&broker, Greeting::AsController(&config.controller), &time);
    match steps.iter().find_map(|step| step.problem.as_ref()) {
        None => Folder::of(&config.state_dir).promote(&set).map_err(|error| failed(&error))?,
        Some(problem) => complain(&format!(
            "the new certificate is kept, and is tried when the agent runs; now the broker did not take it: {}",
            problem.what
        )),
    }
    Ok(Renewed {
        serial: came.certificate.serial,
        not_after_s: came.certificate.dates.not_after_s,
        record_key: set.record_key().map_err(|error| failed(&error))?.public().to_string(),
    })
}
