//! From a Debian without anything of ours to cards that become stored taps: apt, keys, certificates, a broker, enrolment, all
//! as the documents tell a person to do it. It would catch a dependency that is missing, a sandbox that is too tight, and
//! documents that leave a step out.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Stage;
use crate::door::{Door, Wishes};
use crate::report::Figure;

/// How many cards are shown.
const CARDS: usize = 5;

/// From a card to a record that the cloud has stored.
const STORED_WITHIN: Duration = Duration::from_secs(60);

/// No time server can be reached here.
const NO_TIME: &str = "clock";

const AS_CLOUD: &str =
    "as_cloud() { setpriv --reuid cloud-ingest --regid cloud-ingest --init-groups cloud-ingest \"$@\"; }";

/// What a person types at the cloud's machine, and at the door, which are one here.
const SET_UP_CLOUD: &str = r#"
install -d -o cloud-ingest -g cloud-ingest -m 700 /etc/cloud-ingest/keys /var/lib/cloud-ingest/issued
as_cloud keys create
as_cloud ca init
as_cloud ca issue-server --name localhost --ip 127.0.0.1 --out /var/lib/cloud-ingest/issued
mkdir -p /etc/mosquitto/tapline
install -o mosquitto -g mosquitto -m 600 -t /etc/mosquitto/tapline /var/lib/cloud-ingest/issued/*
# For taps over HTTPS, from systemd's credential store.
install -m 644 /var/lib/cloud-ingest/issued/server.pem /etc/cloud-ingest/capture.pem
mkdir -p -m 700 /etc/credstore
install -m 600 /var/lib/cloud-ingest/issued/server.key /etc/credstore/cloud-ingest.capture.key
cd /usr/share/doc/cloud-ingest/examples
for file in tapline.conf tapline.acl tapline-service.acl; do
  case $file in *.conf) to=/etc/mosquitto/conf.d ;; *) to=/etc/mosquitto ;; esac
  if test -e $file; then cp $file $to/; else zcat $file.gz >$to/$file; fi
done
systemctl start mosquitto
cat >/etc/cloud-ingest/cloud-ingest.toml <<'END'
data_dir = "/var/lib/cloud-ingest"
[broker]
url = "mqtt://127.0.0.1:1884"
client_id = "cloud-ingest"
[http]
listen = "127.0.0.1:8080"
[keys]
dir = "/etc/cloud-ingest/keys"
[enrolment]
listen = "127.0.0.1:8444"
url = "https://127.0.0.1:8444"
broker_url = "mqtts://127.0.0.1:8883"
[capture]
listen = "127.0.0.1:8445"
cert_file = "/etc/cloud-ingest/capture.pem"
key_file = "/run/credentials/cloud-ingest.service/capture.key"
[[site]]
id = "hq"
label = "Headquarters"
zone = "Europe/Berlin"
END
as_cloud config check
systemctl reset-failed cloud-ingest || true
systemctl restart cloud-ingest
"#;

const ENROLL: &str = r#"
sed -i 's/match = "ACR122U"/match = "Virtual PCD 00 00"/' /etc/edge-agent/edge-agent.toml
token=$(as_cloud enroll-token create --controller vm-door-1 --site hq --label Door --output json |
  sed -n 's/.*--token \([^" ]*\).*/\1/p')
echo "$token" | edge-agent enroll --url https://127.0.0.1:8444 --token-file -
systemctl reset-failed edge-agent || true
systemctl restart edge-agent
"#;

/// All of it.
pub fn from_nothing(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut door = Door::boot(stage, &Wishes::default())?;
    stage.step("installing with apt");
    let install = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y install edge-agent cloud-ingest";
    door.guest.run(install)?;
    door.plant(stage)?;
    let version = door.guest.run("dpkg-query --show --showformat '${Version}' edge-agent")?;
    stage.step("setting up the cloud's side");
    door.guest.run(&format!("set -e\n{AS_CLOUD}\n{SET_UP_CLOUD}"))?;
    stage.step("enrolling the door");
    door.guest.run(&format!("set -e\n{AS_CLOUD}\n{ENROLL}"))?;
    door.wait_until_open()?;
    stage.step("showing cards");
    let reader = "edge-agent status | grep -q '^reader .*up Virtual PCD 00 00'";
    door.guest.until("the virtual reader to be up", STORED_WITHIN, reader)?;
    for n in 1..=CARDS {
        door.guest.run(&format!("perl /run/xfer/card.pl 04A224B1C2D3{n:02X}\nsleep 0.6"))?;
    }
    let stored = "{ setpriv --reuid cloud-ingest --regid cloud-ingest --init-groups cloud-ingest ledger --output json; }";
    let ledger = door.guest.until("the cloud to have all taps", STORED_WITHIN, &format!(
        "said=$({stored}); echo \"$said\"; echo \"$said\" | tr -d ' \\n' | grep -q '\"taps\":{CARDS}[,}}]'"
    ))?;
    door.guest.run("edge-agent test-connection")?;
    stage.step("checking");
    door.guest
        .run(": </dev/tcp/127.0.0.1/8445")
        .context("taps over HTTPS, with a key from the credential store")?;
    let (_, said) = door.guest.ask("edge-agent check --output json 2>/dev/null")?;
    let warnings = judge_checks(&said)?;
    let failed = door.guest.run("systemctl --failed --no-legend --plain")?;
    ensure!(failed.trim().is_empty(), "units have failed: {failed}");
    let sandbox = door.guest.run(
        "for unit in edge-agent cloud-ingest; do systemd-analyze security $unit --no-pager | tail -n 1; done",
    )?;
    let ledger: Value = serde_json::from_str(&ledger).context("the ledger is JSON")?;
    let exposures: Vec<&str> = sandbox.lines().filter_map(exposure).collect();
    Ok(vec![
        Figure::words("version", version.trim()),
        Figure::words("taps stored", ledger["taps"].to_string()),
        Figure::words("warnings of `edge-agent check`", warnings.join(", ")),
        Figure::words("exposure by `systemd-analyze security`", exposures.join(", ")),
    ])
}

/// The checks that warn. Errors, and warnings about anything but the time, break the promise.
fn judge_checks(said: &str) -> anyhow::Result<Vec<String>> {
    let document: Value = serde_json::from_str(said).context("edge-agent check says JSON")?;
    let checks = document["checks"].as_array().context("there are checks")?;
    ensure!(!checks.is_empty(), "nothing was checked");
    let in_state = |state: &str| -> Vec<String> {
        let matching = checks.iter().filter(|check| check["state"] == state);
        matching.filter_map(|check| check["check"].as_str().map(str::to_owned)).collect()
    };
    let (errors, warnings) = (in_state("error"), in_state("warning"));
    let unexpected: Vec<&String> =
        errors.iter().chain(warnings.iter().filter(|name| *name != NO_TIME)).collect();
    ensure!(unexpected.is_empty(), "edge-agent check is not content with {unexpected:?}: {said}");
    Ok(warnings)
}

/// `→ Overall exposure level for edge-agent.service: 1.1 OK 🙂`
fn exposure(line: &str) -> Option<&str> {
    line.split_once("level for ").map(|(_, rest)| rest.trim_end_matches(|c: char| !c.is_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_about_the_time_is_told_and_anything_else_breaks_it() {
        let checks = |state: &str, name: &str| {
            format!(
                r#"{{"checks":[{{"check":"outbox","state":"ok"}},{{"check":"{name}","state":"{state}"}}]}}"#
            )
        };
        assert_eq!(judge_checks(&checks("warning", "clock")).unwrap(), ["clock"]);
        assert!(judge_checks(&checks("ok", "clock")).unwrap().is_empty());
        assert!(judge_checks(&checks("skipped", "serial ports")).unwrap().is_empty());
        let error = judge_checks(&checks("warning", "nfc modules")).unwrap_err().to_string();
        assert!(error.contains("nfc modules"), "{error}");
        assert!(judge_checks(&checks("error", "clock")).is_err());
        assert!(judge_checks(r#"{"checks":[]}"#).is_err() && judge_checks("").is_err());
    }

    #[test]
    fn the_exposure_is_read_out_of_a_sentence() {
        let line = "→ Overall exposure level for edge-agent.service: 1.1 OK 🙂";
        assert_eq!(exposure(line), Some("edge-agent.service: 1.1 OK"));
        assert_eq!(exposure("x"), None);
    }
}
