//! What fuzzers have found interesting is read again with every test run.

use std::fs;
use std::path::{Path, PathBuf};

use prove::fuzzing::{ALL, run, seeds};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn everything_that_a_fuzzer_kept_is_read_without_a_panic() {
    let mut files = 0;
    for target in ALL {
        seeds::of(target.name).iter().for_each(|bytes| run(target.name, bytes));
        let folder = fuzz().join("corpus").join(target.name);
        for name in names(&folder) {
            // The last one told is the one that panicked.
            println!("fuzz/corpus/{}/{name}", target.name);
            run(target.name, &fs::read(folder.join(name)).unwrap());
            files += 1;
        }
    }
    assert!(files > 500, "only {files} files");
}

#[test]
fn every_target_has_its_binary_and_its_corpus() {
    let mut expected: Vec<&str> = ALL.iter().map(|target| target.name).collect();
    expected.sort_unstable();
    assert_eq!(names(&fuzz().join("corpus")), expected);
    assert_eq!(
        names(&fuzz().join("fuzz_targets")),
        expected.iter().map(|name| format!("{name}.rs")).collect::<Vec<_>>()
    );
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in expected {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has no binary");
        let code = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(code.contains(&format!("run(\"{name}\", bytes)")), "{name} runs another target");
    }
}
