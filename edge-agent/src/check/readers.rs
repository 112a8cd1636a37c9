//! Check: every configured PC/SC reader is there: by the agent's word where it runs, else by pcscd's.

use serde_json::json;
use tap_protocol::hello::ReaderState;

use super::pcscd::{Service, ask};
use super::{Agent, Finding, Subject};

pub fn look(subject: &Subject) -> Finding {
    subject.with_pcsc(|config| {
        let wanted: Vec<_> =
            config.readers.iter().filter_map(|reader| Some((&reader.name, reader.pcsc.as_ref()?))).collect();
        if let Agent::Running(status) = &subject.agent {
            let ours = status.readers.iter().filter(|reader| wanted.iter().any(|(name, _)| **name == reader.reader));
            let down: Vec<_> = ours.clone().filter(|reader| reader.state != ReaderState::Up).collect();
            let evidence = json!({"readers": ours.collect::<Vec<_>>()});
            return match down.first() {
                None => Finding::ok(all_there(wanted.len())).with(evidence),
                Some(reader) => Finding::error(
                    format!("the reader {} does not work: {}", reader.reader, reader.detail),
                    "nobody can tap there",
                    "if that does not help, unplug it for ten seconds; `edge-agent readers list` shows what is connected",
                )
                .with(evidence),
            };
        }
        let present = match ask() {
            Service::Readers(present) => present,
            Service::Wrong(_) => return Finding::skipped("pcscd does not answer, so no reader can be looked for"),
        };
        let evidence = json!({"present": present});
        let is_there = |part: &Option<String>| match part {
            Some(part) => present.iter().any(|name| name.to_lowercase().contains(&part.to_lowercase())),
            None => !present.is_empty(),
        };
        let finding = match wanted.iter().find(|(_, pcsc)| !is_there(&pcsc.matching)) {
            None => Finding::ok(all_there(wanted.len())),
            Some((name, pcsc)) => {
                let called = pcsc.matching.as_ref().map(|part| format!(" called {part:?}")).unwrap_or_default();
                let others = match present.as_slice() {
                    [] => "none is connected".to_owned(),
                    names => format!("connected: {}", names.join(", ")),
                };
                Finding::error(
                    format!("the reader {name} is not there: no PC/SC reader{called}; {others}"),
                    "nobody can tap there",
                    "plug it in, or correct its name with `edge-agent config set`; does `lsusb` show it?",
                )
            }
        };
        finding.with(evidence)
    })
}

fn all_there(count: usize) -> String {
    if count == 1 {
        "the PC/SC reader is there".into()
    } else {
        format!("all {count} PC/SC readers are there")
    }
}
