//! Check: the broker's certificate files can be read, belong together, and are valid for some time to come.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::{Finding, Subject};
use crate::agent::with_causes;
use crate::certificate::{About, Dates};
use crate::clock;
use crate::credentials::tls;
use crate::known_time::KnownTime;
use crate::tls::about_file;

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
        if let Err(error) = tls(broker, &KnownTime::to_look_with(&config.state_dir)) {
            return Finding::error(
                with_causes(&error),
                "the agent does not start with them, and nothing can be sent",
                "the files must be PEM and readable by the user edge-agent",
            )
            .with(evidence);
        }
        let now_s = clock::read().wall_ms / 1000;
        let judged =
            found.iter().filter_map(|(file, about)| Some(judge(file, &about.as_ref().ok()?.dates, now_s)));
        let open_key = broker
            .key_file
            .iter()
            .filter(|key| key.metadata().is_ok_and(|key| key.permissions().mode() & 0o077 != 0));
        let open_key = open_key.map(|key| {
            Finding::warning(
                format!("others may read the private key {}", key.display()),
                "who reads it can speak to the broker as this controller",
                format!("chmod 600 {}", key.display()),
            )
        });
        let findings: Vec<_> = judged.chain(open_key).collect();
        Finding::worst(findings, Finding::ok("the certificate files are right")).with(evidence)
    })
}

fn judge(file: &Path, dates: &Dates, now_s: i64) -> Finding {
    let shown = file.display();
    let days = (dates.not_after_s - now_s) / 86_400;
    let remedy = format!("replace {shown}, then `systemctl restart edge-agent`");
    if now_s < dates.not_before_s {
        Finding::error(
            format!("{shown} is not valid yet, by this machine's clock"),
            "the broker cannot be reached until it is; taps are recorded and kept",
            "if the clock is wrong, see `timedatectl`; else get the right file",
        )
    } else if now_s > dates.not_after_s {
        Finding::error(
            format!("{shown} has expired {} days ago", -days),
            "the broker cannot be reached; taps are recorded and kept",
            remedy,
        )
    } else if now_s + SOON_S > dates.not_after_s {
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

    #[test]
    fn a_certificate_is_judged_by_its_dates() {
        let dates = Dates { not_before_s: 1_000, not_after_s: 1_000 + 3 * SOON_S };
        let at = |now_s| judge(Path::new("ca.pem"), &dates, now_s).state;
        assert_eq!(at(999), State::Error);
        assert_eq!(at(1_000), State::Ok);
        assert_eq!(at(1_001 + 2 * SOON_S), State::Warning);
        assert_eq!(at(1_001 + 3 * SOON_S), State::Error);
    }
}
