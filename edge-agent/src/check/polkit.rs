//! Check: where pcscd asks polkit whom to serve, polkit knows the agent. Without a rule it serves the person at the screen
//! alone, which no door has.

use serde_json::json;

use super::{Finding, Subject};

const ACTIONS: &str = "/usr/share/polkit-1/actions/org.debian.pcsc-lite.policy";
const RULES: [&str; 2] = ["/etc/polkit-1/rules.d", "/usr/share/polkit-1/rules.d"];

/// Both must be allowed.
const WANTED: [&str; 2] = ["org.debian.pcsc-lite.access_pcsc", "org.debian.pcsc-lite.access_card"];

pub fn look(subject: &Subject) -> Finding {
    subject.with_pcsc(|_| {
        if !subject.path(ACTIONS).exists() {
            return Finding::ok("pcscd does not ask polkit here");
        }
        let mut allowed: Vec<&str> = Vec::new();
        let mut unreadable = Vec::new();
        for folder in RULES {
            if std::fs::read_dir(subject.path(folder)).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied) {
                unreadable.push(folder);
            }
            for rule in subject.entries(folder).iter().filter(|path| path.extension().is_some_and(|e| e == "rules")) {
                let text = std::fs::read_to_string(rule).unwrap_or_default();
                if text.contains("edge-agent") {
                    allowed.extend(WANTED.iter().filter(|action| text.contains(**action)));
                }
            }
        }
        let missing: Vec<_> = WANTED.iter().filter(|action| !allowed.contains(action)).collect();
        let evidence = json!({"missing": missing, "unreadable": unreadable});
        if missing.is_empty() {
            Finding::ok("polkit lets the agent use pcscd").with(evidence)
        } else if !unreadable.is_empty() {
            Finding::skipped("polkit's rules cannot be read: run this as root (sudo)").with(evidence)
        } else {
            Finding::warning(
                "no polkit rule lets the user edge-agent use pcscd",
                "a pcscd that asks polkit refuses it, and no card is read at a PC/SC reader",
                "reinstall the package, which brings /usr/share/polkit-1/rules.d/50-edge-agent.rules, or write a rule for both actions",
            )
            .with(evidence)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{State, fake};

    #[test]
    fn both_actions_must_be_allowed_to_the_agent() {
        let rule = "/etc/polkit-1/rules.d/50-edge-agent.rules";
        let both = "if ((action.id == 'org.debian.pcsc-lite.access_pcsc' || action.id == 'org.debian.pcsc-lite.access_card') && subject.user == 'edge-agent') return 'yes'";
        fake::check(look, &[], State::Ok, "does not ask polkit");
        fake::check(look, &[(ACTIONS, "")], State::Warning, "no polkit rule");
        fake::check(look, &[(ACTIONS, ""), (rule, both)], State::Ok, "lets the agent");
        fake::check(
            look,
            &[(ACTIONS, ""), (rule, &both.replace("access_card", "x"))],
            State::Warning,
            "both actions",
        );
        fake::check(
            look,
            &[(ACTIONS, ""), (rule, &both.replace("edge-agent", "kiosk"))],
            State::Warning,
            "edge-agent",
        );
    }
}
