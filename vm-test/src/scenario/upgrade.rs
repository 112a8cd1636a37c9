//! A newer package comes while people tap; then somebody tries to go back. It would catch maintainer scripts that lose the
//! outbox, the configuration or the keys, that leave the door closed, or that let an older program at newer files.
//!
//! The newer one has the same files under a higher version: what is looked at is what apt and the scripts do. What a newer
//! program does with older files is looked at by the products' own tests.

use std::time::Duration;

use anyhow::ensure;

use super::Stage;
use crate::door::{Door, Wishes};
use crate::report::Figure;
use crate::taps;

/// Taps before and after.
const SOME: usize = 50;

/// `apt-get install --only-upgrade`.
pub fn under_load(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let version = "dpkg-query --show --showformat '${Version}' edge-agent";
    let kept = "sha256sum /etc/edge-agent/conf.d/50-door.toml /var/lib/edge-agent/keys/record.key /etc/edge-agent/edge-agent.toml";
    let mut door = Door::open(stage, &Wishes::default())?;
    let (old, files) = (door.guest.run(version)?, door.guest.run(kept)?);
    let people = door.people(Duration::from_millis(20))?;
    let from = door.wait_for_taps(people, 0, SOME)?;
    stage.step("upgrading");
    door.offer("newer")?;
    let upgrade = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --only-upgrade edge-agent";
    door.guest.run(upgrade)?;
    let new = door.guest.run(version)?;
    ensure!(new != old, "apt left version {old} in place");
    door.wait_until_open()?;
    door.wait_for_taps(people, from, SOME)?;
    ensure!(door.guest.run(kept)? == files, "configuration or keys are not what they were");
    stage.step("trying to go back");
    door.offer("now")?;
    let (code, said) = door.guest.ask(&format!(
        "DEBIAN_FRONTEND=noninteractive apt-get -y install --allow-downgrades edge-agent={}",
        old.trim()
    ))?;
    ensure!(
        code != 0 && said.contains("refusing"),
        "an older package was taken, or refused without a word: {said}"
    );
    ensure!(door.guest.run(version)? == new, "the version is not what it was");
    let from = door.guest.lines(people).len();
    door.wait_for_taps(people, from, SOME)?;
    let told = door.settle(people)?;
    Ok(vec![
        Figure::words("from", old.trim()),
        Figure::words("to", new.trim()),
        Figure::seconds("longest time without a green light", taps::longest_gap(&told)),
        Figure::count("accepted taps, none missing", taps::accepted(&told).len()),
    ])
}
