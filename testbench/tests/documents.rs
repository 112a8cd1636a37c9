//! What the documents tell people to type is what `cloud-ingest` takes, and where they point there is something.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::error::ErrorKind;
use testbench::documents::{Written, commands, documents};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_owned()
}

/// Why the program would not take it. A part of a command may lack what is needed and say `NAME` for one.
fn complaint(written: &Written, words: &[String]) -> Option<String> {
    let line = std::iter::once("cloud-ingest").chain(words.iter().map(String::as_str));
    let error = cloud_ingest::cli::command().try_get_matches_from(line).err()?;
    let is_fine = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => false,
        _ => !written.is_whole,
    };
    (!is_fine).then(|| error.to_string())
}

#[test]
fn every_command_that_a_document_tells_people_to_type_is_one_of_cloud_ingest() {
    let written = commands("cloud-ingest", &root()).unwrap();
    let whole = written.iter().filter(|written| written.is_whole).count();
    assert!(
        whole > 40 && written.len() > 150,
        "{whole} of {}: the documents are full of commands",
        written.len()
    );
    let mut wrong = Vec::new();
    for one in &written {
        let complaints: Vec<_> = one.readings.iter().map(|words| complaint(one, words)).collect();
        if complaints.iter().all(Option::is_some) {
            let words = one.readings[0].join(" ");
            let why = complaints[0].as_deref().unwrap_or_default().lines().next().unwrap_or_default();
            wrong.push(format!("{}:{}: cloud-ingest {words}\n    {why}", one.file.display(), one.line));
        }
    }
    assert!(wrong.is_empty(), "{} commands do not exist:\n{}", wrong.len(), wrong.join("\n"));
}

/// The name that GitHub and most others give a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// `[words](target)`, outside of code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in (1..).zip(text.lines()) {
        in_code ^= line.trim_start().starts_with("```");
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        for rest in plain.split("](").skip(1).filter(|_| !in_code) {
            if let Some((target, _)) = rest.split_once(')') {
                found.push((number, target.to_owned()));
            }
        }
    }
    found
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for file in documents(&root()).unwrap() {
        let text = fs::read_to_string(&file).unwrap();
        for (line, target) in links(&text) {
            if target.contains("://") {
                continue;
            }
            let (path, section) = target.split_once('#').unwrap_or((&target, ""));
            let to = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            let there = to.exists()
                && (section.is_empty() || anchors(&fs::read_to_string(&to).unwrap()).contains(section));
            if !there {
                broken.push(format!("{}:{line}: {target}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
