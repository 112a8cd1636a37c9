//! `docs/verify_proof.py` in the hands of a third party: a real proof of real taps is believed, and nothing that was done
//! to it afterwards. It gets the file and public keys, nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use testbench::{
    rig::wait_until,
    site::{CONTROLLER, HEALS_WITHIN, Site, SiteOptions},
};

struct ThirdParty {
    folder: tempfile::TempDir,
    record_key: String,
    receipt_key: String,
}

impl ThirdParty {
    /// What the script says of these bytes, and whether it believes them.
    fn judges(&self, bytes: &[u8]) -> (bool, String) {
        self.judges_with(bytes, &self.record_key, &self.receipt_key)
    }

    fn judges_with(&self, bytes: &[u8], record_key: &str, receipt_key: &str) -> (bool, String) {
        let file = self.folder.path().join("a.proof");
        std::fs::write(&file, bytes).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/verify_proof.py");
        let said = Command::new("python3")
            .arg(script)
            .arg(&file)
            .args(["--record-key", record_key, "--receipt-key", receipt_key, "--list"])
            .output()
            .unwrap();
        assert!(said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
        (said.status.success(), String::from_utf8(said.stdout).unwrap())
    }

    #[track_caller]
    fn refuses(&self, bytes: &[u8], why: &str) {
        let (believed, said) = self.judges(bytes);
        assert!(!believed && said.contains("REFUSED") && said.contains(why), "not {why:?}: {said}");
    }
}

/// The parts of a proof, each with its length and kind.
fn parts(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut parts) = (&bytes[16..], Vec::new());
    while let Some(length) = rest.first_chunk::<4>() {
        let (part, after) = rest.split_at(4 + u32::from_be_bytes(*length) as usize);
        parts.push(part.to_vec());
        rest = after;
    }
    parts
}

/// Twelve taps in three batches at least; gives the last one's number.
async fn with_three_batches(site: &Site) -> u64 {
    let mut last = 0;
    for n in 0..12 {
        last = site.tap(n).await.unwrap().seq;
        if n % 4 == 3 {
            wait_until("a receipt", HEALS_WITHIN, &[], async || {
                site.edge_status().await.is_ok_and(|status| status.pending == 0)
            })
            .await;
        }
    }
    last
}

fn proof(site: &Site, name: &str, which: &[&str]) -> (PathBuf, Vec<u8>) {
    let out = site.dir().join(name);
    let to = out.display().to_string();
    site.cloud_cli(&[&["controllers", "proof", CONTROLLER, "--out", &to], which].concat()).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    (out, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_party_believes_a_proof_and_nothing_that_was_done_to_it() {
    let site = Site::start(SiteOptions::default()).await.unwrap();
    let last_tap = with_three_batches(&site).await.to_string();
    let public =
        |name: &str| std::fs::read_to_string(site.dir().join("keys").join(name)).unwrap().trim().to_owned();
    let third = ThirdParty {
        folder: tempfile::tempdir().unwrap(),
        record_key: public("record.pub"),
        receipt_key: public("receipt-1.pub"),
    };
    let (_, good) = proof(&site, "all.proof", &[]);
    let (believed, said) = third.judges(&good);
    assert!(believed, "{said}");
    for part in ["PROVED: controller hq-door-1", "there is nothing before it", "12 of them are taps"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(said.lines().filter(|line| line.contains(" at sim")).count(), 12, "{said}");

    let parts = parts(&good);
    assert!(parts.len() >= 4, "{} parts", parts.len());
    let join = |parts: &[Vec<u8>]| [&good[..16], &parts.concat()].concat();
    let last = parts.len() - 1;

    // A flipped bit in a record, in its signature, in the receipt, in the header, in a length.
    let at = |part: usize| 16 + parts[..part].iter().map(Vec::len).sum::<usize>();
    let flipped = |byte: usize| {
        let mut bytes = good.clone();
        bytes[byte] ^= 1;
        bytes
    };
    third.refuses(&flipped(at(1) + 90), "part 2 (at byte");
    third.refuses(&flipped(at(1) - 1), "part 1 (at byte 16) is not signed by --record-key");
    third.refuses(&flipped(good.len() - 70), "is not signed by --receipt-key");
    third.refuses(&flipped(3), "it is no proof of version 1");
    third.refuses(&flipped(at(1)), "has a length that cannot be");

    // Cut inside a part, and between two.
    third.refuses(&good[..good.len() - 1], "it is cut off in part");
    third.refuses(&join(&parts[..last]), "has no receipt");
    third.refuses(&good[..16], "there is nothing in it");

    // Batches swapped, one left out, the last one left out, one said twice under another outbox's receipt.
    let mut swapped = parts.clone();
    swapped.swap(0, 1);
    third.refuses(&join(&swapped), "does not continue what stands before it");
    third.refuses(&join(&[&parts[..1], &parts[2..]].concat()), "are missing");
    third.refuses(
        &join(&[&parts[..last - 1], &parts[last..]].concat()),
        "the cloud's receipt is not for exactly",
    );
    third.refuses(&join(&[parts.clone(), parts.clone()].concat()), "this outbox is in the file twice");

    // Other keys.
    let other = "d04ab232742bb4ab3a1368bd4615e4e6d0224ab71a016baf8520a332c9778737";
    let (believed, said) = third.judges_with(&good, other, &third.receipt_key);
    assert!(!believed && said.contains("is not signed by --record-key"), "{said}");
    let (believed, said) = third.judges_with(&good, &third.record_key, other);
    assert!(!believed && said.contains("is not signed by --receipt-key"), "{said}");

    // A part of it: whole batches, and a receipt for the last of them.
    let (out, part) = proof(&site, "part.proof", &["--from", &last_tap, "--to", &last_tap]);
    let (believed, said) = third.judges(&part);
    assert!(believed && part.len() < good.len(), "{said}");
    assert!(said.contains("come before them and are not in this file"), "{said}");
    let again = site.cloud_cli(&["controllers", "proof", CONTROLLER, "--out", &out.display().to_string()]);
    assert!(again.is_err(), "no proof is written over another file");
    let nothing = site.dir().join("none.proof").display().to_string();
    let refused = site.cloud_cli(&[
        "controllers",
        "proof",
        CONTROLLER,
        "--out",
        &nothing,
        "--from",
        "2001-01-01",
        "--to",
        "2001-01-02",
    ]);
    assert!(refused.unwrap_err().to_string().contains("has no such records"));
    assert!(!Path::new(&nothing).exists());
}
