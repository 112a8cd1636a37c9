//! What `./dev pages` makes is what shells and man read.

use std::path::Path;
use std::process::Command;

fn make(folder: &Path) {
    let us = std::env::current_exe().unwrap();
    let profile = us.parent().and_then(Path::parent).expect("a test lies in the profile's deps");
    let made = Command::new(profile.join("examples/edge_shell_files")).arg(folder).status();
    assert!(made.expect("cargo test builds examples").success());
}

#[test]
fn completions_are_complete_and_bash_can_read_them() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    for file in ["edge-agent.bash", "_edge-agent", "edge-agent.fish"] {
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        for word in ["test-connection", "warnings-as-errors", "collect"] {
            assert!(text.contains(word), "{word} in {file}");
        }
    }
    // What bash offers after `edge-agent co`.
    let offer = r#"source "$0"; COMP_WORDS=(edge-agent co); COMP_CWORD=1
        words=$(complete -p edge-agent); words=${words##*-F }; "${words%% *}" edge-agent co edge-agent; echo "${COMPREPLY[@]}""#;
    let said =
        Command::new("bash").args(["-c", offer]).arg(folder.path().join("edge-agent.bash")).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        "config\n",
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
}

#[test]
fn every_verb_has_a_page_and_the_first_one_tells_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for name in ["edge-agent.1", "edge-agent-check.1", "edge-agent-config-set.1", "edge-agent-diag-collect.1"]
    {
        let text = page(name);
        assert!(
            text.contains(".TH ") && text.contains(".SH SYNOPSIS") && text.contains(".SH OPTIONS"),
            "{name}:\n{text}"
        );
    }
    let first = page("edge-agent.1");
    assert!(first.contains("78  the configuration is wrong"), "{first}");
}
