//! Holds badge after badge to a virtual reader from inside pcscd's namespace; it doesn't know who reads them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdin, ChildStdout},
};

use super::{
    Pcscd, VirtualReader, program_path,
    tethered::{Tethered, tethered},
};
use crate::virtual_card::{Tap, TapCommand, VirtualCard};

/// A running `virtual-card --stdin`; survives restarts of pcscd, ends on drop.
///
/// Badges come one after the other, with the reader [`EMPTY`](crate::virtual_card::EMPTY) between them.
#[derive(Debug)]
pub struct CardFeeder {
    _process: Tethered,
    commands: ChildStdin,
    outcomes: Lines<BufReader<ChildStdout>>,
    /// Outcomes still to come of taps that nobody waits for any more.
    abandoned: u32,
}

impl CardFeeder {
    /// Gets ready to hold badges to this reader of this pcscd. Its log is in `dir`.
    ///
    /// # Errors
    ///
    /// When the binary `virtual-card` hasn't been built.
    pub fn start(pcscd: &Pcscd, reader: VirtualReader, dir: &Path) -> anyhow::Result<Self> {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, reader.port()));
        let mut enter = pcscd.card_command().into_iter();
        let mut command = tethered(enter.next().expect("the prefix starts with a program"));
        command.args(enter).arg(program_path("virtual-card")?);
        command.args(["--stdin", "--addr"]).arg(addr.to_string());
        let (process, commands, outcomes) =
            Tethered::spawn_talking("virtual-card", &mut command, &dir.join("virtual-card.log"))?;
        let outcomes = BufReader::new(outcomes).lines();
        Ok(Self { _process: process, commands, outcomes, abandoned: 0 })
    }

    /// Holds a well-behaved badge with this UID to the reader, for at least `hold`
    /// ([`HOLD`](crate::virtual_card::HOLD) is a good choice) and until it was read.
    ///
    /// # Errors
    ///
    /// When there is no reader. A badge that nobody reads is an outcome, not an error: see [`Tap::uid_was_read`].
    pub async fn tap(&mut self, uid: &[u8], hold: Duration) -> anyhow::Result<Tap> {
        self.present(VirtualCard::with_uid(uid), hold).await
    }

    /// Holds any badge to the reader.
    ///
    /// # Errors
    ///
    /// Like [`tap`](Self::tap).
    pub async fn present(&mut self, card: VirtualCard, hold: Duration) -> anyhow::Result<Tap> {
        let command = format!("{}\n", TapCommand { card, hold });
        self.commands.write_all(command.as_bytes()).await.context("telling virtual-card to tap")?;
        self.abandoned += 1;
        while self.abandoned > 1 {
            self.next_outcome().await?;
        }
        match self.next_outcome().await? {
            Outcome::Tap(tap) => Ok(tap),
            Outcome::Failed { error } => bail!(error),
        }
    }

    async fn next_outcome(&mut self) -> anyhow::Result<Outcome> {
        let line = self.outcomes.next_line().await.context("reading from virtual-card")?;
        let line = line.context("virtual-card has ended")?;
        self.abandoned -= 1;
        serde_json::from_str(&line).with_context(|| format!("reading `{line}` from virtual-card"))
    }
}

/// A line from `virtual-card --stdin`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Outcome {
    Tap(Tap),
    Failed { error: String },
}
