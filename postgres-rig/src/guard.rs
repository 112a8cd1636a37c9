//! Sees to it that nothing of a cluster is left when its owner is gone, in whatever way; it starts nothing.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

/// Waits until nobody holds the other end of its standard input any more: the kernel closes it for a process that
/// panics or is killed. The process id is believed only if that process works in the cluster's folder. A cluster that
/// was killed leaves its id and a shared memory segment behind.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
runs() { [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; }
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && runs "$1"; then
  kill -CONT "$pid" $(cat "/proc/$pid/task/$pid/children")
  kill -QUIT "$pid"
  while runs "$1"; do sleep 0.01; done
fi
segment=$(sed -n 7p "$1/data/postmaster.pid" 2>/dev/null | tr -s ' ' | cut -d ' ' -f 3)
[ -z "$segment" ] || ipcrm --shmem-id "$segment"
rm -rf "$1"
"#;

/// A process of its own, because ours may be killed.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Has the cluster in `folder` (its files in `data`) removed, with the folder, when this is dropped or our process
    /// ends.
    pub(crate) fn set(folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "guard"]).arg(folder);
        // Of a group of its own, so that what ends our group (Ctrl-C, a runner's time-out) spares it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("starting a shell that cleans up after PostgreSQL").map(Self)
    }

    fn release(&mut self) -> io::Result<()> {
        drop(self.0.stdin.take());
        self.0.wait().map(drop)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nothing can be done about it in a drop; the folder would be left.
        let _ = self.release();
    }
}
