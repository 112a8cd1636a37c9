//! Asks `edge-agent` what is in an outbox, running where this runs: the same program that a person would ask.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// What `edge-agent outbox verify --output json` says of one file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Verified {
    /// Which.
    pub file: PathBuf,
    /// How many records there are.
    pub records: u64,
    /// Proved from the record after this one on …
    pub after: Option<u64>,
    /// … to this one …
    pub last: Option<u64>,
    /// … whose hash stands for all of them.
    pub hash: Option<String>,
    /// What is wrong.
    pub found: Vec<String>,
}

/// The program, and a configuration that leads it to one folder.
#[derive(Debug)]
pub struct Reader {
    edge_agent: PathBuf,
    folder: PathBuf,
}

impl Reader {
    /// Reads outboxes with this program; `folder` is for what it needs.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written to.
    pub fn new(edge_agent: PathBuf, folder: &Path) -> anyhow::Result<Reader> {
        let reader = Reader { edge_agent, folder: folder.to_owned() };
        let at = reader.state().display().to_string();
        let config = format!(
            "controller = \"vm-door-1\"\nstate_dir = \"{at}\"\n[broker]\nurl = \"mqtt://127.0.0.1:1\"\n[keys]\nrecord_key_file = \"{at}/no.key\"\ntoken_key_file = \"{at}/no.key\"\nreceipt_public_key_file = \"{at}/no.pub\"\n"
        );
        std::fs::write(reader.config(), config)?;
        Ok(reader)
    }

    /// Where the state folder of a controller is to be put.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What is in the outboxes there; nothing if there is no folder of outboxes yet.
    ///
    /// # Errors
    ///
    /// When the program says no JSON.
    pub fn verify(&self) -> anyhow::Result<Vec<Verified>> {
        if !self.state().join("outbox").is_dir() {
            return Ok(Vec::new());
        }
        let output = Command::new(&self.edge_agent)
            .args(["outbox", "verify", "--output", "json", "--config"])
            .arg(self.config())
            .output()
            .context("edge-agent cannot be started")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let verified: Vec<Verified> = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("edge-agent outbox verify ended with {}: {said}", output.status))?;
        let is_fine = verified.iter().all(|verified| verified.found.is_empty());
        ensure!(is_fine == output.status.success(), "the exit code {} says otherwise", output.status);
        Ok(verified)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("edge-agent.toml")
    }
}

/// Why these outboxes break a promise, where everything up to `must` was accepted and nothing ever confirmed or deleted.
pub fn why_broken(must: u64, verified: &[Verified]) -> Option<String> {
    if let Some(damaged) = verified.iter().find(|verified| !verified.found.is_empty()) {
        return Some(format!("the outbox is damaged: {}", damaged.found.join("; ")));
    }
    if must == 0 {
        return None;
    }
    let [only] = verified else {
        return Some(format!("{must} were accepted, and there are {} outboxes", verified.len()));
    };
    match (only.after, only.last) {
        (Some(0), Some(last)) if last >= must => None,
        (Some(0), Some(last)) => Some(format!("{must} were accepted, and the outbox ends with {last}")),
        (after, last) => Some(format!("{must} were accepted, and what is proved is {after:?} to {last:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(after: u64, last: u64) -> Verified {
        Verified {
            file: "1.outbox".into(),
            records: last - after,
            after: Some(after),
            last: Some(last),
            hash: Some("a1".into()),
            found: Vec::new(),
        }
    }

    #[test]
    fn more_than_was_accepted_is_fine_and_less_is_not() {
        assert_eq!(why_broken(5, &[verified(0, 5)]), None);
        assert_eq!(why_broken(5, &[verified(0, 9)]), None);
        let less = why_broken(5, &[verified(0, 4)]).unwrap();
        assert_eq!(less, "5 were accepted, and the outbox ends with 4");
    }

    #[test]
    fn before_the_first_tap_there_may_be_no_outbox_and_after_it_there_must_be_one() {
        assert_eq!(why_broken(0, &[]), None);
        assert_eq!(why_broken(1, &[]).unwrap(), "1 were accepted, and there are 0 outboxes");
        assert!(why_broken(1, &[verified(0, 1), verified(0, 1)]).is_some());
    }

    #[test]
    fn damage_breaks_the_promise_also_where_nothing_was_accepted() {
        let damaged = Verified { found: vec!["a page is not what it was".into()], ..verified(0, 9) };
        assert!(why_broken(0, &[damaged]).unwrap().contains("a page is not what it was"));
        let unproved = Verified { after: None, last: None, hash: None, ..verified(0, 9) };
        assert!(why_broken(5, &[unproved]).is_some());
        assert!(why_broken(5, &[verified(2, 9)]).is_some());
    }

    #[test]
    fn what_the_program_prints_is_read() {
        let said = r#"[{"file":"/s/outbox/1.outbox","records":3,"after":0,"last":3,"hash":"ab","found":[]},
            {"file":"/s/outbox/2.outbox","records":0,"after":null,"last":null,"hash":null,"found":["torn"]}]"#;
        let verified: Vec<Verified> = serde_json::from_str(said).unwrap();
        assert_eq!((verified[0].last, verified[1].found.len()), (Some(3), 1));
    }
}
