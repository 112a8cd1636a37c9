//! Check: how worn the memory card is, as far as it tells, and whether the file system has complained.

use std::path::Path;

use serde_json::{Value, json};

use super::{Finding, Subject, word};

pub fn look(subject: &Subject) -> Finding {
    let mut findings = Vec::new();
    let mut evidence = Vec::new();
    for card in subject.entries("/sys/block").iter().filter(|path| name(path).starts_with("mmcblk")) {
        let device = card.join("device");
        let fact = |file: &str| word(&device.join(file));
        let life = fact("life_time");
        let facts = json!({
            "card": name(card), "type": fact("type"), "name": fact("name"), "date": fact("date"),
            "life_time": life, "pre_eol_info": fact("pre_eol_info"),
        });
        evidence.push(facts);
        findings.extend(life.and_then(|life| judge_life(&name(card), &life)));
    }
    for disk in subject.entries("/sys/fs/ext4") {
        let Some(errors) = word(&disk.join("errors_count")).and_then(|count| count.parse::<u64>().ok())
        else {
            continue;
        };
        evidence.push(json!({"ext4": name(&disk), "errors": errors}));
        if errors > 0 {
            findings.push(Finding::error(
                format!("the file system on {} has found {errors} errors", name(&disk)),
                "the card is worn out or was pulled; more will follow",
                "replace the card soon; `dmesg | grep EXT4` tells more",
            ));
        }
    }
    let fine = match evidence.is_empty() {
        true => Finding::skipped("there is no memory card, or it tells nothing of itself"),
        false => {
            Finding::skipped("the card does not tell how worn it is; its file system has found no error")
        }
    };
    Finding::worst(findings, fine).with(Value::Array(evidence))
}

/// eMMC says in tenths how much of its life is used, for two kinds of cells: `0x03 0x01` (JEDEC 84-B50, EXT_CSD 268, 269).
fn judge_life(card: &str, life: &str) -> Option<Finding> {
    let tenths = |word: &str| u8::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    let used = life.split_whitespace().filter_map(tenths).max().filter(|tenths| *tenths > 0)?;
    let says = match used {
        1..=10 => format!(
            "{} to {} % of the life of {card} is used",
            u16::from(used - 1) * 10,
            u16::from(used) * 10
        ),
        _ => format!("the life of {card} is used up"),
    };
    Some(match used {
        0..=8 => Finding::ok(says),
        9..=10 => Finding::warning(says, "it will begin to lose data", "plan to replace it"),
        _ => Finding::error(says, "it may refuse to write any day", "replace it now"),
    })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{State, fake};

    const LIFE: &str = "/sys/block/mmcblk0/device/life_time";
    const ERRORS: &str = "/sys/fs/ext4/mmcblk0p2/errors_count";

    #[test]
    fn wear_and_errors_are_told() {
        fake::check(look, &[], State::Skipped, "no memory card");
        fake::check(
            look,
            &[("/sys/block/mmcblk0/device/type", "SD\n"), (ERRORS, "0\n")],
            State::Skipped,
            "no error",
        );
        fake::check(look, &[(LIFE, "0x02 0x01\n")], State::Ok, "10 to 20 % of the life of mmcblk0");
        fake::check(look, &[(LIFE, "0x01 0x0a\n")], State::Warning, "90 to 100 %");
        fake::check(look, &[(LIFE, "0x0b 0x0b\n")], State::Error, "used up");
        fake::check(look, &[(LIFE, "0x01 0x01\n"), (ERRORS, "3\n")], State::Error, "3 errors");
    }
}
