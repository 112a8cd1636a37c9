//! Makes what a package puts beside the program: completions for bash, zsh and fish, and a man page per verb, from the same
//! definition that the program reads its command line with. `./dev pages` runs it. An example and no verb, because nobody
//! at a door needs a generator in the daemon.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

#[path = "../src/cli/mod.rs"]
#[expect(dead_code, reason = "only the definition is needed here, not what the verbs do")]
mod cli;

fn main() -> std::io::Result<()> {
    let usage = "usage: edge_shell_files FOLDER";
    let folder: PathBuf = std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other(usage))?.into();
    std::fs::create_dir_all(&folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut cli::Cli::command(), "edge-agent", &folder)?;
    }
    clap_mangen::generate_to(cli::Cli::command(), &folder)
}
