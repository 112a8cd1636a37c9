//! Check: the broker's certificate files can be read, belong together, and are valid for some time to come.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::{Agent, Finding, Subject};
use crate::agent::with_causes;
use crate::certificate::{About, Dates};
use crate::config::Config;
use crate::credentials::tls;
use crate::identity::others_may_read;
use crate::known_time::KnownTime;
use crate::tls::about_file;
use crate::verification_time::CheckAt;

/// A device certificate is renewed long before; one that is not needs a person.
const SOON_S: i64 = 10 * 86_400;

pub fn look(subject: &Subject) -> Finding {
    subject.with_config(|config| {
        let broker = &config.broker;
        if !broker.url.tls {
            return Finding::skipped("the broker is spoken to in clear (mqtt://): there is no certificate");
        }
        let files = [&broker.ca_file, &broker.cert_file];
        let named: Vec<&Path> = files.into_iter().flatten().map(|file| file.as_path()).collect();
        let found: Vec<(&Path, Result<About, String>)> =
            named.iter().map(|file| (*file, about_file(file))).collect();
        let facts = found.iter().map(|(file, about)| match about {
            Ok(about) => json!({"file": file, "certificate": about}),
            Err(error) => json!({"file": file, "error": error}),
        });
        let evidence = Value::Array(facts.collect());
        let time = KnownTime::to_look_with(&config.state_dir);
        if let Err(error) = tls(broker, &time) {
            return Finding::error(
                with_causes(&error),
                "the agent does not start with them, and nothing can be sent",
                "the files must be PEM and readable by the user edge-agent",
            )
            .with(evidence);
        }
        let at = time.check_at();
        let whose = |file: &Path| match (&config.enrolment, &broker.cert_file) {
            (None, _) => Whose::Named,
            (Some(_), Some(own)) if own == file => Whose::Renewed,
            (Some(_), _) => Whose::Fetched,
        };
        let judged = found
            .iter()
            .filter_map(|(file, about)| Some(judge(file, &about.as_ref().ok()?.dates, at, whose(file))));
        let open_key = broker
            .key_file
            .iter()
            .filter(|key| key.metadata().is_ok_and(|meta| others_may_read(key, meta.permissions().mode())));
        let open_key = open_key.map(|key| {
            Finding::warning(
                format!("others may read the private key {}", key.display()),
                "who reads it can speak to the broker as this controller",
                format!("chmod 600 {}", key.display()),
            )
        });
        let findings: Vec<_> = judged.chain(open_key).chain(renewal(subject, config)).collect();
        Finding::worst(findings, Finding::ok("the certificate files are right")).with(evidence)
    })
}

/// What the agent says of renewals, and a new certificate that has not worked yet.
fn renewal(subject: &Subject, config: &Config) -> Option<Finding> {
    let sets = config.enrolment.as_ref()?;
    if let Agent::Running(status) = &subject.agent
        && let Some(problem) = status.problems.iter().find(|problem| problem.contains("certificate"))
    {
        return Some(Finding::warning(
            problem.clone(),
            "the agent tries again by itself; when the certificate has ended, nothing can be sent any more",
            "do what it says, then `edge-agent cert renew`",
        ));
    }
    sets.trial.as_ref().map(|_| {
        Finding::warning(
            "a new certificate is here and has not worked yet",
            "the old one is used; the agent tries the new one at its next session, at the latest after a day",
            "does the broker know the certificate authority's newest root?",
        )
    })
}

/// Who sees to it that another one comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// A person, who named the file.
    Named,
    /// The agent, at two thirds of its life and a twelfth.
    Renewed,
    /// The cloud, with each renewal.
    Fetched,
}

fn judge(file: &Path, dates: &Dates, at: CheckAt, whose: Whose) -> Finding {
    // As a connection does: who does not know the time cannot say that it is too early.
    let earliest_s = if at.may_be_later() { dates.not_before_s } else { i64::MIN };
    let now_s = (at.utc_ms / 1000).max(earliest_s);
    let shown = file.display();
    let days = (dates.not_after_s - now_s) / 86_400;
    let (soon_s, remedy) = match whose {
        Whose::Named => (SOON_S, format!("replace {shown}; the next session uses it")),
        // A quarter of its life is left when the last door has renewed.
        Whose::Renewed => {
            let life_s = dates.not_after_s - dates.not_before_s;
            (life_s / 5, "edge-agent cert renew; if that fails, it says what to do".to_owned())
        }
        Whose::Fetched => (
            SOON_S,
            "replace the certificate authority's root in the cloud, then `edge-agent cert renew`".to_owned(),
        ),
    };
    if now_s < dates.not_before_s {
        Finding::error(
            format!("{shown} is not valid yet, by what is known of the time"),
            "the broker may not be reached until it is; taps are recorded and kept",
            "if the clock is wrong, see `timedatectl`; else get the right file",
        )
    } else if now_s > dates.not_after_s {
        Finding::error(
            format!("{shown} has expired {} days ago", -days),
            "the broker cannot be reached; taps are recorded and kept",
            remedy,
        )
    } else if now_s + soon_s > dates.not_after_s {
        Finding::warning(
            format!("{shown} expires in {days} days"),
            "then nothing can be sent any more",
            remedy,
        )
    } else {
        Finding::ok(format!("valid for {days} more days"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    fn known(utc_s: i64) -> CheckAt {
        CheckAt { utc_ms: utc_s * 1000, is_known: true }
    }

    #[test]
    fn who_does_not_know_the_time_does_not_say_that_it_is_too_early() {
        let dates = Dates { not_before_s: 1_000, not_after_s: 1_000 + 3 * SOON_S };
        let at = |utc_s: i64| CheckAt { utc_ms: utc_s * 1000, is_known: false };
        assert_eq!(judge(Path::new("ca.pem"), &dates, at(0), Whose::Named).state, State::Ok);
        assert_eq!(
            judge(Path::new("ca.pem"), &dates, at(2_000 + 3 * SOON_S), Whose::Named).state,
            State::Error
        );
    }

    #[test]
    fn a_certificate_is_judged_by_its_dates() {
        let dates = Dates { not_before_s: 1_000, not_after_s: 1_000 + 3 * SOON_S };
        let at = |now_s| judge(Path::new("ca.pem"), &dates, known(now_s), Whose::Named).state;
        assert_eq!(at(999), State::Error);
        assert_eq!(at(1_000), State::Ok);
        assert_eq!(at(1_001 + 2 * SOON_S), State::Warning);
        assert_eq!(at(1_001 + 3 * SOON_S), State::Error);
    }

    #[test]
    fn one_that_renews_itself_is_worth_a_word_only_when_the_last_door_should_have_done_it() {
        let day_s = 86_400;
        let dates = Dates { not_before_s: 0, not_after_s: 30 * day_s };
        let at = |day: i64| judge(Path::new("own.pem"), &dates, known(day * day_s + 1), Whose::Renewed);
        assert_eq!(at(23).state, State::Ok);
        assert_eq!(at(24).state, State::Warning);
        assert!(at(24).remedy.unwrap().contains("edge-agent cert renew"));
        assert_eq!(at(30).state, State::Error);
    }
}
