//! A tar archive (POSIX ustar): enough of the format for some text files. Pure.

const BLOCK: usize = 512;

/// Files with these names (at most 100 bytes) and contents, readable by their owner alone.
pub fn archive<'a>(files: impl IntoIterator<Item = (String, &'a [u8])>, modified_s: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        out.extend_from_slice(&header(&name, content.len(), modified_s));
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    // Two empty blocks end it.
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn header(name: &str, length: usize, modified_s: u64) -> [u8; BLOCK] {
    assert!(name.len() <= 100, "names are ours, and short");
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{length:011o}\0"));
    put(136, &format!("{:011o}\0", modified_s.min(0o77_777_777_777)));
    // The checksum counts itself as spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(265, "root");
    put(297, "root");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_itself_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let long = vec![b'x'; 1000];
        let files =
            [("d/a.txt".to_owned(), b"one".as_slice()), ("d/b".to_owned(), &long), ("d/c".to_owned(), b"")];
        std::fs::write(folder.path().join("x.tar"), archive(files, 1_795_264_584)).unwrap();
        let tar = std::process::Command::new("tar").args(["xf", "x.tar"]).current_dir(folder.path()).status();
        assert!(tar.unwrap().success());
        let read = |name| std::fs::read(folder.path().join("d").join(name)).unwrap();
        assert_eq!((read("a.txt"), read("b"), read("c")), (b"one".to_vec(), long, Vec::new()));
    }
}
