//! What the documents tell people to type at a door is what `edge-agent` takes, and the card beside the reader shows what the
//! reader shows.

use std::path::Path;

use clap::CommandFactory;
use clap::error::ErrorKind;
use edge_agent::signal::pattern::{Beep, Colour, Signal};

#[path = "../src/cli/mod.rs"]
#[expect(dead_code, reason = "only the definition is needed here, not what the verbs do")]
mod cli;

#[path = "../../testbench/src/documents.rs"]
mod documents;

#[test]
fn every_command_that_a_document_tells_people_to_type_is_one_of_edge_agent() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let written = documents::commands("edge-agent", root).unwrap();
    assert!(written.iter().filter(|w| w.is_whole).count() > 10, "the documents are full of commands");
    let mut wrong = Vec::new();
    for one in &written {
        let complaints = one.readings.iter().map(|words| {
            let line = std::iter::once("edge-agent").chain(words.iter().map(String::as_str));
            let error = cli::Cli::command().try_get_matches_from(line).err()?;
            let is_fine = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
                ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => false,
                _ => !one.is_whole,
            };
            (!is_fine).then(|| error.to_string())
        });
        let complaints: Vec<_> = complaints.collect();
        if complaints.iter().all(Option::is_some) {
            let words = one.readings[0].join(" ");
            let why = complaints[0].as_deref().unwrap_or_default().lines().next().unwrap_or_default();
            wrong.push(format!("{}:{}: edge-agent {words}\n    {why}", one.file.display(), one.line));
        }
    }
    assert!(wrong.is_empty(), "{} commands do not exist:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_card_beside_the_reader_has_every_signal_as_the_reader_shows_it() {
    let card = include_str!("../../docs/signals-card.md");
    let rows: Vec<&str> = card.lines().filter(|line| line.starts_with("| ")).collect();
    for signal in Signal::ALL {
        let pattern = signal.pattern();
        let colour = match pattern.colour {
            Colour::Green => "**green**",
            Colour::Amber => "**amber**",
            Colour::Red => "**red**",
        };
        let number = ["no", "one", "two", "three", "four"][usize::from(pattern.flashes)];
        let length = if pattern.lit_ms < 200 { "short" } else { "long" };
        let flashes = if pattern.flashes == 1 { "flash" } else { "flashes" };
        let light = match pattern.until_replaced {
            true => "blinking".to_owned(),
            false => format!("{number} {length} {flashes}"),
        };
        let sound = match (pattern.beep, pattern.flashes) {
            (Beep::Silent, _) => "–".to_owned(),
            (Beep::Throughout, _) => "one long beep".to_owned(),
            (Beep::WithLight, 1) => "one beep".to_owned(),
            (Beep::WithLight, _) => format!("{number} {length} beeps"),
        };
        let shown: Vec<_> = rows.iter().filter(|row| row.contains(colour) && row.contains(&light)).collect();
        let row = shown.iter().find(|row| row.split('|').nth(2).is_some_and(|cell| cell.trim() == sound));
        let row = row.unwrap_or_else(|| panic!("{signal}: {colour} {light}, {sound}: {shown:?}"));
        assert_eq!(row.contains("**recorded**"), signal.promises(), "{signal}: {row}");
    }
}
