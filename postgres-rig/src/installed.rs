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
