//! The power goes while people tap. A disk may then have kept anything of what no flush covers; so its log is played back
//! up to hundreds of moments, and each image that could be on the disk is looked into.
//! It would catch a light that is green before the tap is flushed, and an outbox that a torn write damages. That it does is
//! shown by the control: the same on a disk whose flushes mean nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Stage;
use crate::block_log::BlockLog;
use crate::door::{Door, Wishes, empty_state_disk, told};
use crate::guest::{self, Line};
use crate::host;
use crate::outbox::{self, Reader};
use crate::power_cut::{Cut, Disk, cuts};
use crate::report::Figure;
use crate::taps::Told;

/// Taps before the power goes: enough that the log of the outbox is written back into it meanwhile.
const TAPS: usize = 1_500;

/// Who tap at once: commits take more than one tap in, as they do at a gate in the morning.
const PEOPLE: usize = 3;

/// How many images show that a disk without barriers is noticed.
const CONTROL_IMAGES: usize = 30;

/// On a disk whose flushes mean something.
pub fn with_barriers(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let taken = tap_and_cut(stage, &Wishes::default())?;
    let found = look_into(stage, &taken, stage.images)?;
    ensure!(
        found.broken.is_empty(),
        "{} of {} images break the promise; the first: {}",
        found.broken.len(),
        found.images,
        found.broken.first().map_or("", String::as_str)
    );
    ensure!(found.accepted > 0, "nothing was accepted before any of the cuts");
    let last = goes_on(stage)?;
    Ok(figures(&taken, &found, Figure::words("booted again from the last image", last)))
}

/// On a disk whose flushes mean nothing: once as it is, and once against the agent's will.
pub fn without_barriers(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let why = refuses_without_barriers(stage)?;
    let more = "[outbox]\nallow_volatile = true";
    let taken = tap_and_cut(stage, &Wishes { mount_options: "nobarrier", more, ..Wishes::default() })?;
    let found = look_into(stage, &taken, CONTROL_IMAGES.min(stage.images))?;
    ensure!(
        !found.broken.is_empty(),
        "none of {} images lacks an accepted tap: nothing would be noticed with barriers either",
        found.images
    );
    Ok(figures(&taken, &found, Figure::words("without being told to, it says", why)))
}

/// What a machine that lost its power has left behind.
struct Taken {
    /// The disk before it was used.
    before: Vec<u8>,
    /// What the disk was told.
    log: Vec<u8>,
    /// What people were told, and how long the log was then.
    lines: Vec<Line>,
}

impl Taken {
    /// The highest number that somebody had seen green for when the log was as long as this. 0 for none.
    fn accepted_by(&self, log_end: u64) -> u64 {
        let before = self.lines.iter().filter(|line| line.log_bytes <= log_end);
        let numbers = before.filter_map(|line| Told::parse(&line.text)?.accepted());
        numbers.max().unwrap_or_default()
    }

    /// How long the log was at the first green.
    fn first_green(&self) -> u64 {
        let greens = |line: &&Line| Told::parse(&line.text).is_some_and(|told| told.accepted().is_some());
        self.lines.iter().find(greens).map_or(0, |line| line.log_bytes)
    }
}

/// What the images showed.
#[derive(Default)]
struct Found {
    images: usize,
    flushes: usize,
    writes: usize,
    /// Accepted taps that had to be found, over all images.
    accepted: u64,
    broken: Vec<String>,
}

fn tap_and_cut(stage: &Stage<'_>, wishes: &Wishes) -> anyhow::Result<Taken> {
    let (disk, log) = (empty_state_disk(stage)?, stage.file("state.log"));
    let before = std::fs::read(&disk)?;
    std::fs::write(&log, [])?;
    let logged = guest::Disk::Logged { disk, log: log.clone() };
    let mut door = Door::open(stage, &Wishes { disk: Some(logged), ..wishes.clone() })?;
    stage.step("people tap");
    let script = format!("for _ in $(seq {PEOPLE}); do perl /run/xfer/tapper.pl & done\nwait");
    let people = door.guest.begin(&script)?;
    door.wait_for_taps(people, 0, TAPS)?;
    stage.step("cutting the power");
    let lines = door.guest.cut_power(people)?;
    Ok(Taken { before, log: std::fs::read(log)?, lines })
}

/// Judges so many of the images that the cut may have left.
fn look_into(stage: &Stage<'_>, taken: &Taken, images: usize) -> anyhow::Result<Found> {
    let log = BlockLog::read(&taken.log)?;
    let first_green = taken.first_green();
    let from = log.entries.iter().position(|entry| entry.log_end >= first_green).unwrap_or_default();
    let mut disk = Disk::new(taken.before.clone(), &log, &taken.log);
    let mut found = Found {
        flushes: log.entries.iter().filter(|entry| entry.act == crate::block_log::Act::Flush).count(),
        writes: log.entries.len(),
        ..Found::default()
    };
    found.writes -= found.flushes;
    let reader = Reader::new(stage.packages.edge_agent(), stage.folder)?;
    let mut hashes = BTreeMap::new();
    for cut in cuts(from..log.entries.len(), images, stage.seed) {
        found.images += 1;
        if found.images.is_multiple_of(10) {
            stage.step(&format!("looking into images: {} of {images}", found.images));
        }
        let image = stage.file("cut.img");
        write_sparsely(&image, &disk.cut(cut))?;
        let must = log.entries.get(cut.after).map_or(0, |entry| taken.accepted_by(entry.log_end));
        found.accepted += must;
        if let Some(why) = judge(&image, &reader, must, &mut hashes)? {
            let Cut { after, fate, .. } = cut;
            found.broken.push(format!("cut after entry {after}, {}: {why}", fate.name()));
        }
    }
    Ok(found)
}

/// Does what a boot does with a disk, and then asks for the outbox.
fn judge(
    image: &Path,
    reader: &Reader,
    must: u64,
    hashes: &mut BTreeMap<u64, String>,
) -> anyhow::Result<Option<String>> {
    let image = host::text(image);
    // 1 is "repaired", by what is in the journal; 4 and more need a person.
    let repaired = host::output("e2fsck", &["-p", image])?;
    if repaired.status.code().is_none_or(|code| code >= 4) {
        return Ok(Some(format!(
            "the file system needs a person: {}",
            String::from_utf8_lossy(&repaired.stdout)
        )));
    }
    let sound = host::output("e2fsck", &["-fn", image])?;
    if !sound.status.success() {
        let said = String::from_utf8_lossy(&sound.stdout);
        return Ok(Some(format!("the file system is not sound after its journal was played: {said}")));
    }
    let state = reader.state();
    let _ = std::fs::remove_dir_all(&state);
    std::fs::create_dir(&state)?;
    host::output("debugfs", &["-R", &format!("rdump /outbox {}", host::text(&state)), image])?;
    let verified = reader.verify()?;
    if let Some(why) = outbox::why_broken(must, &verified) {
        return Ok(Some(why));
    }
    // One history: whoever has the same last record has the same ones before it.
    for (last, hash) in verified.iter().filter_map(|verified| Some((verified.last?, verified.hash.clone()?)))
    {
        let known = hashes.entry(last).or_insert_with(|| hash.clone());
        if *known != hash {
            return Ok(Some(format!("record {last} has the hash {hash}, and {known} in another image")));
        }
    }
    Ok(None)
}

/// Boots from the last image, and taps.
fn goes_on(stage: &Stage<'_>) -> anyhow::Result<String> {
    let image = stage.file("cut.img");
    let reader = Reader::new(stage.packages.edge_agent(), stage.folder)?;
    let last = reader.verify()?.first().and_then(|verified| verified.last).context("an outbox is there")?;
    let disk = Some(guest::Disk::Plain(image));
    let mut door = Door::open(stage, &Wishes { disk, ..Wishes::default() })?;
    let people = door.people(Duration::from_millis(20))?;
    door.wait_for_taps(people, 0, 10)?;
    let told = door.settle(people)?;
    let first = told.iter().find_map(Told::accepted).context("a tap was accepted")?;
    ensure!(first > last, "the next tap has number {first}, and {last} was there");
    Ok(format!("after record {last}, the next tap is {first}"))
}

/// The agent on a disk without barriers, as it is shipped: what it tells people.
fn refuses_without_barriers(stage: &Stage<'_>) -> anyhow::Result<String> {
    let disk = Some(guest::Disk::Plain(empty_state_disk(stage)?));
    let mut door = Door::open(stage, &Wishes { disk, mount_options: "nobarrier", ..Wishes::default() })?;
    let people = door.people(Duration::from_millis(20))?;
    let limit = Duration::from_secs(60);
    door.guest.wait_for_lines(people, "taps", limit, |lines| lines.len() >= 10)?;
    let told = told(&door.guest.stop(people)?);
    let why = told.iter().find_map(|told| match told {
        Told::Refused { why, .. } => Some(why.clone()),
        Told::Accepted { .. } | Told::Away { .. } => None,
    });
    ensure!(told.iter().all(|told| told.accepted().is_none()), "it takes taps on a disk without barriers");
    let why = why.context("it refused")?;
    ensure!(why.contains("nobarrier"), "it does not say why: {why}");
    Ok(why)
}

fn figures(taken: &Taken, found: &Found, more: Figure) -> Vec<Figure> {
    let accepted = told(&taken.lines).iter().filter(|told| told.accepted().is_some()).count();
    vec![
        Figure::count("taps accepted before the cut", accepted),
        Figure::count("writes of the disk", found.writes),
        Figure::count("flushes", found.flushes),
        Figure::count("images looked into", found.images),
        Figure::count("accepted taps to be found in them", found.accepted as usize),
        Figure::count("images that break the promise", found.broken.len()),
        more,
    ]
}

/// Most of an image is nothing, and need not be written.
fn write_sparsely(to: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt as _;
    const STEP: usize = 4096;
    let file = std::fs::File::create(to)?;
    file.set_len(bytes.len() as u64)?;
    for (n, step) in bytes.chunks(STEP).enumerate() {
        if step.iter().any(|byte| *byte != 0) {
            file.write_all_at(step, (n * STEP) as u64)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, log_bytes: u64) -> Line {
        Line { text: text.to_owned(), log_bytes }
    }

    #[test]
    fn only_what_was_said_before_a_moment_must_be_there_at_it() {
        let lines = vec![
            line("away 100 x", 512),
            line("tap 4 a 200", 2048),
            line("tap 3 b 201", 2048),
            line("refused 300 y", 4096),
            line("tap 9 c 400", 8192),
        ];
        let taken = Taken { before: Vec::new(), log: Vec::new(), lines };
        let by = [2047, 2048, 8191, 8192, 10_000].map(|end| taken.accepted_by(end));
        assert_eq!(by, [0, 4, 4, 9, 9]);
        assert_eq!(taken.first_green(), 2048);
    }

    #[test]
    fn an_image_is_written_with_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image");
        let mut bytes = vec![0; 3 * 4096 + 512];
        bytes[5000] = 7;
        bytes[3 * 4096] = 8;
        write_sparsely(&file, &bytes).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
    }
}
