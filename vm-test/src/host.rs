//! Programs of this machine, run to their end. Knows how to say what went wrong.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, bail};

/// Runs it and gives what it said, whatever its exit code.
pub(crate) fn output(program: &str, args: &[&str]) -> anyhow::Result<Output> {
    Command::new(program).args(args).output().with_context(|| format!("{program} cannot be started"))
}

/// What must be on this machine, and Debian's name for where it is.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("qemu-system-x86_64", "--version", "qemu-system-x86"),
    ("setpriv", "--version", "util-linux"),
    ("mmdebstrap", "--version", "mmdebstrap"),
    ("mke2fs", "-V", "e2fsprogs"),
    ("debugfs", "-V", "e2fsprogs"),
    ("dpkg-deb", "--version", "dpkg"),
];

/// Whether everything is there that scenarios need, said before the first of them begins.
///
/// # Errors
///
/// With the packages to install.
pub fn has_all_programs() -> anyhow::Result<()> {
    let missing: Vec<String> = PROGRAMS
        .iter()
        .filter(|(program, version, _)| Command::new(program).arg(version).output().is_err())
        .map(|(program, _, package)| format!("{program} (package {package})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks {}; `./dev vm-test` installs what is missing", missing.join(", "))
}

/// Runs it and gives its standard output.
pub(crate) fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = output(program, args)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = said.lines().rev().take(20).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{program} {} ended with {}:\n{}", args.join(" "), output.status, tail.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A path as text: all of ours are.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths here are made of text")
}

/// An ext4 image of this size with this label, and with what is in `from`.
pub(crate) fn make_ext4(image: &Path, label: &str, bytes: u64, from: Option<&Path>) -> anyhow::Result<()> {
    let file = std::fs::File::create(image).with_context(|| format!("making {}", image.display()))?;
    file.set_len(bytes)?;
    let mut args = vec!["-q", "-F", "-t", "ext4", "-L", label];
    if let Some(from) = from {
        args.extend(["-d", text(from)]);
    }
    args.push(text(image));
    run("mke2fs", &args).map(drop)
}
