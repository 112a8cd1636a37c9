//! Check: systemd starts the agent after a power cut, starts it again when it ends, and kills it when it hangs.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::json;

use super::{Finding, Subject};

const ASKED: &str = "LoadState,UnitFileState,ActiveState,Restart,WatchdogUSec,Type";

pub fn look(subject: &Subject) -> Finding {
    if !subject.path("/run/systemd/system").exists() {
        return Finding::skipped("this machine is not run by systemd");
    }
    let shown = Command::new("systemctl").args(["show", "edge-agent.service", "--property", ASKED]).output();
    match shown {
        Ok(output) if output.status.success() => judge(&String::from_utf8_lossy(&output.stdout)),
        Ok(output) => Finding::skipped(format!(
            "systemd does not tell: {}",
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no reason given")
        )),
        Err(error) => Finding::skipped(format!("systemctl cannot be run: {error}")),
    }
}

fn judge(shown: &str) -> Finding {
    let facts: BTreeMap<&str, &str> = shown.lines().filter_map(|line| line.split_once('=')).collect();
    let is = |name: &str, value: &str| facts.get(name).copied().unwrap_or_default() == value;
    let reinstall = "reinstall the package, and look for drop-ins with `systemctl cat edge-agent`";
    let finding = if !is("LoadState", "loaded") {
        Finding::warning(
            "the service edge-agent is not installed",
            "nothing starts the agent after a power cut",
            "install the package, or copy edge-agent.service to /etc/systemd/system and `systemctl enable --now edge-agent`",
        )
    } else if !["enabled", "enabled-runtime", "static"].iter().any(|state| is("UnitFileState", state)) {
        Finding::warning(
            "the service edge-agent is not enabled",
            "after a power cut the door stays out of service",
            "systemctl enable edge-agent",
        )
    } else if !is("ActiveState", "active") {
        Finding::warning(
            format!("the service edge-agent is {}", facts.get("ActiveState").unwrap_or(&"in no known state")),
            "unless you run the agent by hand, the door is out of service",
            "systemctl start edge-agent; why it ended: `journalctl -u edge-agent`",
        )
    } else if !is("Restart", "always") {
        Finding::warning(
            "systemd does not start the agent again when it ends",
            "the door stays out of service then",
            reinstall,
        )
    } else if is("WatchdogUSec", "0") || is("WatchdogUSec", "infinity") {
        Finding::warning("systemd does not watch over the agent", "an agent that hangs stays so", reinstall)
    } else {
        Finding::ok("systemd starts the agent, and watches over it")
    };
    finding.with(json!(facts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    const GOOD: &str = "Type=notify\nRestart=always\nWatchdogUSec=30s\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n";

    #[test]
    fn what_keeps_a_door_open_is_looked_at() {
        assert_eq!(judge(GOOD).state, State::Ok);
        for (from, to, part) in [
            ("loaded", "not-found", "not installed"),
            ("=enabled", "=disabled", "not enabled"),
            ("=active", "=failed", "is failed"),
            ("always", "on-failure", "start the agent again"),
            ("30s", "0", "watch over"),
        ] {
            let finding = judge(&GOOD.replace(from, to));
            assert_eq!(finding.state, State::Warning);
            assert!(finding.says.contains(part), "{finding:?}");
        }
    }
}
