//! The `.deb`s that are installed, as an apt repository on a disk. Knows files and names; nothing of what is in them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::host;

/// The architecture of the guest, and of this machine.
const ARCHITECTURE: &str = "amd64";

/// Room for the packages beside each other, and as much again.
const DISK_BYTES: u64 = 1 << 30;

const AGENT: &str = include_str!("../guest/agent.pl");
const TAPPER: &str = include_str!("../guest/tapper.pl");
const CARD: &str = include_str!("../guest/card.pl");

/// What is installed.
#[derive(Debug, Clone)]
pub struct Packages {
    folder: PathBuf,
    sums: Vec<String>,
}

impl Packages {
    /// Takes the packages of both products out of `from`, makes a newer version of each beside it, and puts all on a disk in
    /// `folder`, which is made anew.
    ///
    /// # Errors
    ///
    /// When there are none, or a tool fails.
    pub fn lay_out(from: &Path, folder: &Path) -> anyhow::Result<Packages> {
        let _ = std::fs::remove_dir_all(folder);
        let tree = folder.join("tree");
        let (now, newer) = (tree.join("now"), tree.join("newer"));
        for folder in [&now, &newer] {
            std::fs::create_dir_all(folder)?;
        }
        let mut sums = Vec::new();
        for name in ["edge-agent", "cloud-ingest"] {
            let package = find(from, name)?;
            let file = package.file_name().context("a package has a name")?;
            std::fs::copy(&package, now.join(file))?;
            sums.push(format!("{} (SHA-256 {})", file.to_string_lossy(), sha256(&package)?));
            repack_as_newer(&package, &newer.join(format!("{name}.deb")), &folder.join("repack"))?;
        }
        for repository in [&now, &newer] {
            std::fs::write(repository.join("Packages"), index(repository)?)?;
        }
        for (name, text) in [("agent.pl", AGENT), ("tapper.pl", TAPPER), ("card.pl", CARD)] {
            std::fs::write(tree.join(name), text)?;
        }
        let packages = Packages { folder: folder.to_owned(), sums };
        host::make_ext4(&packages.disk(), "xfer", DISK_BYTES, Some(&tree))?;
        let agent = find(&now, "edge-agent")?;
        host::run("dpkg-deb", &["-x", host::text(&agent), host::text(&folder.join("here"))])?;
        Ok(packages)
    }

    /// The files that are installed, with what proves which these were.
    pub fn sums(&self) -> &[String] {
        &self.sums
    }

    /// The disk that guests find at `/run/xfer`, with the repositories `now` and `newer`.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("xfer.img")
    }

    /// The very program that is installed in the guest, for this machine.
    pub fn edge_agent(&self) -> PathBuf {
        self.folder.join("here/usr/bin/edge-agent")
    }
}

/// The newest package of this name.
fn find(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("looking for packages in {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        if file.starts_with(&format!("{name}_")) && file.ends_with(&format!("_{ARCHITECTURE}.deb")) {
            found.push((path.metadata()?.modified()?, path));
        }
    }
    let newest = found.into_iter().max().map(|(_, path)| path);
    newest.with_context(|| {
        format!("no package {name} for {ARCHITECTURE} in {}; `./dev deb` makes it", folder.display())
    })
}

/// The same files under a higher version: what an upgrade does is done by what the maintainer scripts do.
fn repack_as_newer(package: &Path, to: &Path, scratch: &Path) -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(scratch);
    host::run("dpkg-deb", &["-R", host::text(package), host::text(scratch)])?;
    let control = scratch.join("DEBIAN/control");
    let newer = newer_version(&std::fs::read_to_string(&control)?).context("the package says its version")?;
    std::fs::write(&control, newer)?;
    host::run("dpkg-deb", &["-b", "--root-owner-group", "-Znone", host::text(scratch), host::text(to)])?;
    std::fs::remove_dir_all(scratch)?;
    Ok(())
}

/// A control file with a version that apt takes for newer.
fn newer_version(control: &str) -> Option<String> {
    let line = control.lines().find(|line| line.starts_with("Version:"))?;
    Some(control.replacen(line, &format!("{line}+newer"), 1))
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let said = host::run("sha256sum", &[host::text(file)])?;
    Ok(said.split(' ').next().unwrap_or_default().to_owned())
}

/// What apt wants to know of each package in a folder.
fn index(folder: &Path) -> anyhow::Result<String> {
    let mut index = String::new();
    let mut packages: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    packages.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    packages.sort();
    for package in packages {
        let control = host::run("dpkg-deb", &["-f", host::text(&package)])?;
        let sum = sha256(&package)?;
        let file = package.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        let bytes = package.metadata()?.len();
        // A String takes everything.
        let _ = writeln!(index, "{}\nFilename: ./{file}\nSize: {bytes}\nSHA256: {sum}\n", control.trim_end());
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_is_newer_and_nothing_else_changes() {
        let control = "Package: edge-agent\nVersion: 0.1.0-1\nDepends: adduser\n";
        let newer = "Package: edge-agent\nVersion: 0.1.0-1+newer\nDepends: adduser\n";
        assert_eq!(newer_version(control).unwrap(), newer);
        assert_eq!(newer_version("Package: x\n"), None);
    }

    #[test]
    fn without_packages_it_says_how_to_make_them() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("edge-agent_0.1.0_arm64.deb"), "").unwrap();
        let error = find(folder.path(), "edge-agent").unwrap_err().to_string();
        assert!(error.contains("no package edge-agent for amd64") && error.contains("./dev deb"), "{error}");
    }
}
