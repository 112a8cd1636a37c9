//! Beside the line: once a second, whether anything was decided about the fleet: who is revoked is passed on to the worker
//! and to whoever ends sessions, and the broker's list of revoked certificates is written.
//!
//! The command line decides in the store's file while the service runs; here it is noticed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tap_protocol::ids::ControllerId;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::event_store::handle::StoreHandle;
use crate::event_store::{RevokedCertificate, Standing};
use crate::keyring;
use crate::keyring::live::LiveKeys;
use crate::stop::Stop;
use crate::telemetry::with_causes;
use crate::usher::Bell;

/// Seldom enough to cost nothing, often enough for "within seconds".
const EVERY: Duration = Duration::from_secs(1);

/// The broker reads it as another user.
const PUBLIC: u32 = 0o644;

/// What was decided, as far as this process has noticed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roll {
    /// How many deeds the store's log has: another number means that keys or standing may have changed.
    pub deeds: u64,
    /// Who is revoked.
    pub revoked: BTreeSet<ControllerId>,
}

/// Who calls it.
pub struct Calling {
    /// The store's reading side.
    pub store: StoreHandle,
    /// The roots that sign the broker's lists.
    pub keys: LiveKeys,
    /// The time.
    pub clock: Clock,
    /// Where the broker reads them.
    pub crl_file: Option<PathBuf>,
    /// Where the roll goes.
    pub roll: watch::Sender<Arc<Roll>>,
    /// Who ends sessions.
    pub usher: Bell,
    /// What the lists say that were written last: who is on them, and by which roots.
    pub written: Option<(Vec<RevokedCertificate>, Vec<u16>)>,
}

/// Runs until told to stop.
pub async fn run(mut calling: Calling, mut stop: Stop) {
    let mut backoff = Backoff::new(EVERY, Duration::from_secs(10));
    let mut said = false;
    while !stop.is_said() {
        let wait = match calling.call().await {
            Ok(()) => {
                backoff.reset();
                said = false;
                EVERY
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::error!(
                        why = with_causes(error.as_ref()),
                        "who is revoked cannot be read or told"
                    );
                }
                backoff.wait()
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.said() => {}
        }
    }
}

impl Calling {
    /// Looks once, and passes on what changed.
    pub async fn call(&mut self) -> anyhow::Result<()> {
        let before = Arc::clone(&self.roll.borrow());
        let deeds = self.store.run(|store| store.deed_count()).await?;
        let roots = self.keys.now().roots().iter().map(|root| root.number()).collect::<Vec<_>>();
        let same_roots = self.written.as_ref().is_some_and(|(_, by)| *by == roots);
        if deeds == before.deeds && same_roots {
            return Ok(());
        }
        let now = self.clock.now();
        let (fleet, certificates) =
            self.store.run(move |store| Ok((store.fleet()?, store.revoked_certificates(now)?))).await?;
        let revoked: BTreeSet<ControllerId> = fleet
            .into_iter()
            .filter(|member| member.standing == Standing::Revoked)
            .map(|member| member.controller.id)
            .collect();
        self.write_lists(certificates, roots)?;
        for controller in revoked.difference(&before.revoked) {
            tracing::warn!(%controller, "a controller is revoked: its new records are put aside from here on");
            self.usher.ring(controller);
        }
        self.roll.send_replace(Arc::new(Roll { deeds, revoked }));
        Ok(())
    }

    /// One list per root, in one file: a broker that has a list wants one of each root that it trusts.
    fn write_lists(&mut self, certificates: Vec<RevokedCertificate>, roots: Vec<u16>) -> anyhow::Result<()> {
        let unchanged = self.written.as_ref().is_some_and(|(on, by)| *on == certificates && *by == roots);
        if let Some(file) = &self.crl_file
            && !unchanged
        {
            let (keys, now) = (self.keys.now(), self.clock.now());
            let lists = keys.roots().iter().map(|root| root.revocation_list(&certificates, now));
            let text = lists.collect::<Result<String, _>>()?;
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder)?;
            }
            keyring::replace(file, PUBLIC, &text)?;
            tracing::info!(revoked = certificates.len(), "the list of revoked certificates was written");
        }
        self.written = Some((certificates, roots));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::event_store::UtcMs;
    use crate::event_store::{Deed, DeviceKeys, Enrolment, EventStore, Issue, NewToken};
    use crate::fixture::{self, START};
    use crate::usher;

    /// A door with a certificate, revoked.
    fn enrolled_and_revoked(store: &mut dyn EventStore) {
        let token = NewToken {
            id: [1; 5],
            secret_sha256: [2; 32],
            controller: "gate".parse().unwrap(),
            site: "hq".into(),
            label: "Gate".into(),
            expires: UtcMs(START.0 + 1_000),
        };
        store.put_enroll_tokens(&[token], &Deed::by_itself(START, "create_token", "gate")).unwrap();
        let record = fixture::Door::new(9).key.public();
        let issue = Issue {
            at: START,
            keys: DeviceKeys { tls: vec![4; 65], record },
            serial: crate::ca::serial([0xab; 16]),
            not_after: UtcMs(START.0 + 1_000_000),
            holds: vec![],
            agent_version: "0.1.0".into(),
        };
        store.enroll(&Enrolment { token: [1; 5], secret_sha256: [2; 32], issue }).unwrap().unwrap();
        let deed = Deed::by_itself(START, "revoke", "gate");
        store.set_standing(&"gate".parse().unwrap(), Standing::Revoked, &deed).unwrap();
    }

    #[tokio::test]
    async fn a_revocation_is_passed_on_once_and_put_on_the_brokers_list() {
        let dir = tempfile::tempdir().unwrap();
        let crl_file = dir.path().join("ca/crl.pem");
        let (store, thread) = StoreHandle::spawn("store", Box::new(fixture::store())).unwrap();
        let (roll, mut rolled) = watch::channel(Arc::default());
        let (usher, mut calls) = usher::bell();
        let mut calling = Calling {
            store: store.clone(),
            keys: fixture::keys(),
            clock: Clock::from_fn(|| START),
            crl_file: Some(crl_file.clone()),
            roll,
            usher,
            written: None,
        };
        calling.call().await.unwrap();
        let empty = fs::read_to_string(&crl_file).unwrap();
        assert_eq!(
            empty.matches("BEGIN X509 CRL").count(),
            1,
            "a broker wants a list of each root, if empty"
        );
        assert!(calls.heard().is_none());
        rolled.mark_unchanged();

        store
            .run(|store| {
                enrolled_and_revoked(store);
                Ok(())
            })
            .await
            .unwrap();
        calling.call().await.unwrap();
        assert!(rolled.has_changed().unwrap());
        assert!(rolled.borrow().revoked.contains(&"gate".parse::<ControllerId>().unwrap()));
        assert_eq!(calls.heard().unwrap().as_str(), "gate");
        let listed = fs::read_to_string(&crl_file).unwrap();
        assert!(listed.len() > empty.len());

        fs::remove_file(&crl_file).unwrap();
        calling.call().await.unwrap();
        assert!(calls.heard().is_none() && !crl_file.exists(), "nothing was decided since");
        thread.close().await;
    }
}
