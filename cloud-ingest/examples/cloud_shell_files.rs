//! Makes what a package puts beside the program: completions for bash, zsh and fish, and a man page per verb, from the same
//! definition that the program reads its command line with. `./dev pages` runs it.

use std::path::PathBuf;

use clap_complete::Shell;

fn main() -> std::io::Result<()> {
    let usage = "usage: cloud_shell_files FOLDER";
    let folder: PathBuf = std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other(usage))?.into();
    std::fs::create_dir_all(&folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut cloud_ingest::cli::command(), "cloud-ingest", &folder)?;
    }
    clap_mangen::generate_to(cloud_ingest::cli::command(), &folder)
}
