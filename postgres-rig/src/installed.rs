//! Which PostgreSQL there is and who may run it; it doesn't know what for.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use rustix::process::geteuid;

/// Where Debian puts the programs of one version. Not in PATH: there, `psql` is a wrapper in Perl.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Debian's user for it. The server refuses to run as root.
const USER: &str = "postgres";

/// A program of PostgreSQL's.
pub(crate) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(PROGRAMS).join(name);
    ensure!(
        path.exists(),
        "{} isn't there: `./dev setup` installs it (Debian package postgresql-15)",
        path.display()
    );
    Ok(path)
}

/// A program of PostgreSQL's, run by somebody whom it accepts.
pub(crate) fn unprivileged(name: &str) -> anyhow::Result<Command> {
    let path = program(name)?;
    if !geteuid().is_root() {
        return Ok(Command::new(path));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"]).arg(path);
    Ok(command)
}

/// The same command in a world of mounts of its own, where `folder` is a disk of so many megabytes. Each step becomes the
/// next one, so it stays one process.
pub(crate) fn on_small_disk(command: &Command, folder: &Path, megabytes: u32) -> anyhow::Result<Command> {
    ensure!(geteuid().is_root(), "only root can mount a small disk");
    let script = format!(
        "mount -t tmpfs -o size={megabytes}m none \"$0\" && chown {USER}:{USER} \"$0\" && exec \"$@\""
    );
    let mut mounted = Command::new("unshare");
    mounted.args(["--mount", "sh", "-c", &script]).arg(folder);
    mounted.arg(command.get_program()).args(command.get_args());
    Ok(mounted)
}

/// Gives a folder to whoever runs the server.
pub(crate) fn hand_over(folder: &Path) -> anyhow::Result<()> {
    if geteuid().is_root() {
        run(Command::new("chown").args(["--recursive", &format!("{USER}:{USER}")]).arg(folder))
            .with_context(|| format!("giving {} to the user {USER}", folder.display()))?;
    }
    Ok(())
}

/// Runs a command to its end; what it printed. An error has what it said.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let said = command.output().with_context(|| format!("starting {command:?}"))?;
    if !said.status.success() {
        bail!("{command:?} ended with {}\n{}", said.status, String::from_utf8_lossy(&said.stderr));
    }
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}
