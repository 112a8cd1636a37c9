//! Takes checks away and plants bugs, in a copy of the sources: all of them at once, each behind a question that the attacks then answer
//! one by one. So the copy is built once, and the product has no trace of it. Knows the text of checks, not what they are
//! for.
//!
//! The copy is in the target folder, a workspace like this one with one more member, `planted`, whose only test plays the
//! attacks and the days. Crates from elsewhere were built for this workspace and serve that one too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::attacks::bait;
use crate::engine;

/// A change of the sources that somebody could make by mistake.
#[derive(Debug, Clone, Copy)]
pub struct Plant {
    /// What is changed.
    pub name: &'static str,
    /// Where it stands.
    pub file: &'static str,
    /// Its text.
    pub check: &'static str,
    /// What stands there instead; `PLANTED` asks whether this is the one.
    pub planted: &'static str,
}

/// All of them, numbered by their places: checks that the attacks must miss, then bugs that must spoil a day of the
/// engine.
pub fn all() -> Vec<Plant> {
    let checks = bait::all().into_iter().map(|bait::Bait { name, file, check, planted, .. }| Plant {
        name,
        file,
        check,
        planted,
    });
    checks.chain(engine::bait::all()).collect()
}

/// The class of those that spoil days.
pub const DAY: &str = "day";

/// What the attacks made of one check that was taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// Its place in [`all`].
    pub bait: usize,
    /// The class of attacks.
    pub class: String,
    /// Attacks played.
    pub cases: u64,
    /// Attacks that got through or were refused for another reason.
    pub missed: u64,
}

/// Why it could not be tried.
#[derive(Debug)]
pub enum PlantError {
    /// A check is not where the list says: it was changed, and the list must follow.
    NoSuchCheck {
        /// Which.
        bait: &'static str,
        /// How often its text is there.
        times: usize,
    },
    /// A file.
    Io(PathBuf, io::Error),
    /// The copy was not built, or its test ended badly.
    Build(String),
}

impl std::fmt::Display for PlantError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PlantError::NoSuchCheck { bait, times } => write!(
                f,
                "the check \"{bait}\" is {times} times in its file and not once: bring the list of baits below prove/src up to date"
            ),
            PlantError::Io(path, error) => write!(f, "{}: {error}", path.display()),
            PlantError::Build(what) => write!(f, "the copy with planted bugs cannot be used: {what}"),
        }
    }
}

impl std::error::Error for PlantError {}

/// Plays so many attacks on each check of the list, taken away. `target` is the target folder.
pub fn play(target: &Path, cases: u64) -> Result<Vec<Caught>, PlantError> {
    let copy = target.join("planted");
    write_copy(&copy)?;
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        // What cargo says to the programs that it starts would look like a change to the crates that ask for it.
        let name = name.to_string_lossy().into_owned();
        let is_kept = ["CARGO_HOME", "CARGO_INCREMENTAL", "CARGO_NET_OFFLINE"].contains(&name.as_str());
        if name.starts_with("CARGO") && !is_kept && !name.starts_with("CARGO_BUILD_") {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(&copy).arg("test").args(["--quiet", "--workspace", "--offline"]);
    // As `./dev test` builds, so that nothing from elsewhere is built twice.
    cargo.args(["--features", "cloud-ingest/crash-points", "--test", "planted"]);
    cargo.arg("--target-dir").arg(target).args(["--", &cases.to_string()]);
    let output = cargo
        .stdin(Stdio::null())
        .output()
        .map_err(|error| PlantError::Build(format!("{}: {error}", env!("CARGO"))))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = errors.lines().rev().take(60).collect();
        let told: Vec<&str> = last.into_iter().rev().collect();
        return Err(PlantError::Build(format!("{}\n{}", output.status, told.join("\n"))));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().filter(|line| line.starts_with("bait ")).map(read_line).collect()
}

/// `bait NUMBER CLASS CASES MISSED`.
fn read_line(line: &str) -> Result<Caught, PlantError> {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |n: usize| words.get(n).and_then(|word| word.parse::<u64>().ok());
    match (number(1), words.get(2), number(3), number(4)) {
        (Some(bait), Some(class), Some(cases), Some(missed)) => {
            Ok(Caught { bait: bait as usize, class: (*class).to_owned(), cases, missed })
        }
        _ => Err(PlantError::Build(format!("it said {line:?}"))),
    }
}

/// A file's text with what is planted in it. An error names one whose text is not there.
pub fn plant(file: &str, text: &str, baits: &[Plant]) -> Result<String, PlantError> {
    let ask = |n: usize| match file.starts_with("tap-protocol/") {
        true => format!("crate::bait::is_planted({n})"),
        false => format!("tap_protocol::bait::is_planted({n})"),
    };
    let mut places = Vec::new();
    for (n, bait) in baits.iter().enumerate().filter(|(_, bait)| bait.file == file) {
        match text.match_indices(bait.check).collect::<Vec<_>>().as_slice() {
            [(at, _)] => places.push((*at, bait.check.len(), bait::code(bait.planted, &ask(n)))),
            other => return Err(PlantError::NoSuchCheck { bait: bait.name, times: other.len() }),
        }
    }
    places.sort();
    let mut planted = text.to_owned();
    for (at, len, code) in places.into_iter().rev() {
        planted.replace_range(at..at + len, &code);
    }
    Ok(planted)
}

fn write_copy(copy: &Path) -> Result<(), PlantError> {
    let root = root();
    let baits = all();
    let manifest = read(&root.join("Cargo.toml"))?;
    let members = members(&manifest);
    for member in &members {
        put(copy, &format!("{member}/Cargo.toml"), &read(&root.join(member).join("Cargo.toml"))?)?;
        for file in files(&root.join(member).join("src"))? {
            let name = file.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            put(copy, &name, &plant(&name, &read(&file)?, &baits)?)?;
        }
    }
    // What sources include.
    for folder in ["packaging", "tap-protocol/tests/golden"] {
        for file in files(&root.join(folder))? {
            put(copy, &file.strip_prefix(&root).expect("below the root").to_string_lossy(), &read(&file)?)?;
        }
    }
    let module = read(&copy.join("tap-protocol/src/lib.rs"))?;
    put(
        copy,
        "tap-protocol/src/lib.rs",
        &format!("{module}\n/// Which check is taken away.\npub mod bait;\n"),
    )?;
    put(copy, "tap-protocol/src/bait.rs", QUESTION)?;
    put(copy, "planted/Cargo.toml", MEMBER)?;
    put(copy, "planted/tests/planted.rs", TEST)?;
    put(copy, "planted/src/lib.rs", "")?;
    put(copy, "Cargo.toml", &copys_manifest(&manifest)?)?;
    // Its own from the second time on: it knows the added member.
    if !copy.join("Cargo.lock").exists() || is_newer(&root.join("Cargo.lock"), &copy.join("Cargo.lock")) {
        put(copy, "Cargo.lock", &read(&root.join("Cargo.lock"))?)?;
    }
    Ok(())
}

/// One more member, and another version: cargo tells packages by name, version and place *in the workspace*, and what it
/// builds of the copy must never be taken for what it builds of the product.
fn copys_manifest(manifest: &str) -> Result<String, PlantError> {
    let place = "[workspace.package]\nversion = \"";
    let split = manifest.split_once(place).and_then(|(before, rest)| Some((before, rest.split_once('"')?)));
    let Some((before, (version, rest))) = split else {
        return Err(PlantError::Build("the workspace's version is not where it was".into()));
    };
    let with_version = format!("{before}{place}{version}-planted\"{rest}");
    Ok(with_version.replacen("members = [", "members = [\"planted\", ", 1))
}

/// The workspace that this was built in.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_owned()
}

fn members(manifest: &str) -> Vec<String> {
    let list = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    let names =
        list.map_or("", |(list, _)| list).split(',').map(|name| name.trim().trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

fn is_newer(one: &Path, other: &Path) -> bool {
    let when = |path: &Path| fs::metadata(path).and_then(|about| about.modified()).ok();
    when(one) > when(other)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, PlantError> {
    let error = |error| PlantError::Io(folder.to_owned(), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String, PlantError> {
    fs::read_to_string(path).map_err(|error| PlantError::Io(path.to_owned(), error))
}

/// Only what is another text: an untouched file need not be compiled again.
fn put(copy: &Path, name: &str, text: &str) -> Result<(), PlantError> {
    let path = copy.join(name);
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let error = |error| PlantError::Io(path.clone(), error);
    fs::create_dir_all(path.parent().expect("it is in a folder")).map_err(error)?;
    fs::write(&path, text).map_err(error)
}

const QUESTION: &str = "\
//! Which check is taken away.

use std::sync::atomic::{AtomicUsize, Ordering};

static PLANTED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Takes one away, and puts all others back.
pub fn plant(bait: usize) {
    PLANTED.store(bait, Ordering::Relaxed);
}

/// Whether it is this one.
pub fn is_planted(bait: usize) -> bool {
    PLANTED.load(Ordering::Relaxed) == bait
}
";

const MEMBER: &str = "\
[package]
name = \"planted\"
version.workspace = true
edition.workspace = true
publish.workspace = true

[dev-dependencies]
prove.workspace = true
tap-protocol.workspace = true

[[test]]
name = \"planted\"
harness = false
";

const TEST: &str = "\
//! Plays the attacks on each check that is taken away, and first with all checks in their places.

use prove::attacks::{Class, bait, prove};
use prove::engine;
use prove::planting::DAY;

fn main() {
    let cases: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).expect(\"how many\");
    std::panic::set_hook(Box::new(|_| {}));
    for class in Class::ALL {
        let tally = prove(class, cases, 1, &|_| {});
        assert_eq!(tally.broken, 0, \"with all checks in their places: {:?}\", tally.examples);
    }
    for (n, bait) in bait::all().into_iter().enumerate() {
        tap_protocol::bait::plant(n);
        for class in bait.classes {
            let tally = prove(*class, cases, 1, &|_| {});
            println!(\"bait {n} {} {} {}\", class.name(), tally.cases, tally.broken);
        }
    }
    let first = bait::all().len();
    for n in first..first + engine::bait::all().len() {
        tap_protocol::bait::plant(n);
        let (days, wrong) = engine::until_wrong(300, 1);
        println!(\"bait {n} {DAY} {days} {wrong}\");
    }
}
";

#[cfg(test)]
mod tests {
    use super::*;

    fn bait(check: &'static str, planted: &'static str) -> Plant {
        Plant { name: "one", file: "a/src/b.rs", check, planted }
    }

    #[test]
    fn a_check_is_taken_away_where_its_text_is() {
        let baits = [bait("x > 1", "(x > 1 && !PLANTED)"), bait("y", "if PLANTED { 0 } else { y }")];
        assert_eq!(
            plant("a/src/b.rs", "if x > 1 { y }", &baits).unwrap(),
            "if (x > 1 && !tap_protocol::bait::is_planted(0)) { if tap_protocol::bait::is_planted(1) { 0 } else { y } }"
        );
        assert_eq!(plant("a/src/c.rs", "if x > 1 { y }", &baits).unwrap(), "if x > 1 { y }");
    }

    #[test]
    fn the_copy_is_of_another_version_so_that_nothing_is_mixed_up() {
        let manifest = "[workspace]\nmembers = [\"a\"]\n\n[workspace.package]\nversion = \"0.1.0\"\n";
        let copys = "[workspace]\nmembers = [\"planted\", \"a\"]\n\n[workspace.package]\nversion = \"0.1.0-planted\"\n";
        assert_eq!(copys_manifest(manifest).unwrap(), copys);
        let real = copys_manifest(&fs::read_to_string(root().join("Cargo.toml")).unwrap()).unwrap();
        assert!(real.contains("-planted\""));
    }

    #[test]
    fn a_check_that_is_not_there_once_is_named() {
        for text in ["", "x > 1, x > 1"] {
            let error = plant("a/src/b.rs", text, &[bait("x > 1", "PLANTED")]).unwrap_err();
            assert!(error.to_string().starts_with("the check \"one\" is "), "{error}");
        }
    }
}
