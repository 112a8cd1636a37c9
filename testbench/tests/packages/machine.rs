//! This machine once more, to install things on: what is done there is done in memory, and gone with it. Needs root.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A mount namespace in which `root` is this machine under a layer of its own, with an empty `/run` and without a running
/// systemd, as in a container. The folder `packages` is at `/mnt`.
const FURNISH: &str = r#"
mount -t tmpfs -o mode=755 none "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" none "$0/root"
mount --rbind /proc "$0/root/proc"
mount --rbind /dev "$0/root/dev"
mount -t tmpfs none "$0/root/run"
mount --rbind "$1" "$0/root/mnt"
echo furnished
exec sleep infinity
"#;

/// The machine; it ends on drop.
pub struct Machine {
    holder: Child,
    dir: tempfile::TempDir,
}

/// What came of a command.
#[derive(Debug)]
pub struct Said {
    /// It ended with 0.
    pub well: bool,
    /// Its standard output, then its standard error.
    pub text: String,
}

impl Machine {
    /// One with these packages at `/mnt`.
    pub fn with(packages: &Path) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "sh", "-e", "-c", FURNISH])
            .args([dir.path(), packages])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "furnished\n", "mounting an overlay needs root");
        Machine { holder, dir }
    }

    /// A file or folder of its, as seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        let root = self.dir.path().join("root");
        Path::new(&format!("/proc/{}/root", self.holder.id()))
            .join(root.strip_prefix("/").unwrap())
            .join(path.trim_start_matches('/'))
    }

    /// Runs a shell script there, as root.
    pub fn sh(&self, script: &str) -> Said {
        let output = Command::new("nsenter")
            .args(["--target", &self.holder.id().to_string(), "--mount", "chroot"])
            .arg(self.dir.path().join("root"))
            .args(["/bin/sh", "-e", "-c", script])
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        Said { well: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// The same; it must end well. Gives what it said.
    #[track_caller]
    pub fn well(&self, script: &str) -> String {
        let said = self.sh(script);
        assert!(said.well, "{script}:\n{}", said.text);
        said.text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
