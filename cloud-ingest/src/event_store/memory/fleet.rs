//! Step 9 of 12: trust in memory: standing, certificates, enrolment tokens and the log. The model of what the rows of
//! other stores say.

use std::collections::BTreeMap;

use tap_protocol::ids::{ControllerId, OutboxId, Seq};

use super::{MemoryStore, Outbox, keys};
use crate::event_store::{
    CERTIFICATES_KEPT_MS, Certificate, Controller, Deed, Enrolment, Fetched, Issue, Member, NewToken,
    RecordKey, Refusal, Renewal, RevokedCertificate, Standing, StoreError, TokenId, TokenState, UtcMs,
    may_enroll, may_renew,
};

/// All that the store knows of trust.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    standings: BTreeMap<ControllerId, (Standing, UtcMs, String)>,
    /// When each was revoked, and until when.
    revocations: BTreeMap<ControllerId, Vec<(UtcMs, Option<UtcMs>)>>,
    /// Only of those who are revoked now.
    trusted_through: BTreeMap<ControllerId, Vec<(OutboxId, Seq)>>,
    /// In the order in which they were issued.
    certificates: Vec<Issued>,
    fetches: BTreeMap<ControllerId, Fetched>,
    tokens: Vec<TokenState>,
    log: Vec<Deed>,
}

#[derive(Debug, Clone)]
struct Issued {
    controller: ControllerId,
    tls_key: Vec<u8>,
    certificate: Certificate,
    revoked: Option<UtcMs>,
}

impl Trust {
    pub fn member(&self, controller: &Controller) -> Member {
        let id = &controller.id;
        let decided = self.standings.get(id);
        let mut newest_first = self.certificates.iter().rev();
        Member {
            controller: controller.clone(),
            standing: decided.map_or(Standing::Active, |(standing, ..)| *standing),
            decided: decided.map(|(_, since, why)| (*since, why.clone())),
            certificate: newest_first
                .find(|issued| issued.controller == *id)
                .map(|issued| issued.certificate),
            fetched: self.fetches.get(id).cloned(),
        }
    }

    pub fn set_standing(&mut self, id: &ControllerId, standing: Standing, deed: &Deed, outboxes: &[Outbox]) {
        self.put_standing(id, standing, deed.at, &deed.why, outboxes);
        self.withdraw_all_of(id, deed.at, None);
        if standing == Standing::Revoked {
            self.revoke_certificates(id, deed.at, None);
        }
        self.note(deed);
    }

    fn put_standing(
        &mut self,
        id: &ControllerId,
        standing: Standing,
        at: UtcMs,
        why: &str,
        outboxes: &[Outbox],
    ) {
        let before = self.standings.insert(id.clone(), (standing, at, why.to_owned()));
        let was_revoked = before.is_some_and(|(before, ..)| before == Standing::Revoked);
        let periods = self.revocations.entry(id.clone()).or_default();
        match (was_revoked, standing) {
            (false, Standing::Revoked) => {
                match periods.last_mut() {
                    Some((from, until)) if *from == at => *until = None,
                    Some(_) | None => periods.push((at, None)),
                }
                let theirs = outboxes.iter().filter(|outbox| outbox.controller == *id);
                let through = theirs.map(|outbox| (outbox.id, outbox.last_seq)).collect();
                self.trusted_through.insert(id.clone(), through);
            }
            (true, Standing::Active | Standing::Retired) => {
                periods.last_mut().expect("it was revoked").1 = Some(at);
                self.trusted_through.remove(id);
            }
            (true, Standing::Revoked) | (false, Standing::Active | Standing::Retired) => {}
        }
    }

    pub fn was_revoked(&self, id: &ControllerId, at: UtcMs) -> bool {
        let periods = self.revocations.get(id);
        periods.into_iter().flatten().any(|(from, until)| *from <= at && until.is_none_or(|until| at < until))
    }

    pub fn trusted_through(&self, id: &ControllerId, outbox: OutboxId) -> Option<Seq> {
        let known = self.trusted_through.get(id)?;
        Some(known.iter().find(|(known, _)| *known == outbox).map_or(Seq::ZERO, |(_, through)| *through))
    }

    fn revoke_certificates(&mut self, id: &ControllerId, at: UtcMs, but: Option<&[u8]>) {
        let theirs = self.certificates.iter_mut().filter(|issued| issued.controller == *id);
        for issued in theirs.filter(|issued| but != Some(&issued.tls_key)) {
            issued.revoked.get_or_insert(at);
        }
    }

    pub fn revoked_certificates(&self, now: UtcMs) -> Vec<RevokedCertificate> {
        let running = self.certificates.iter().filter(|issued| issued.certificate.not_after > now);
        let mut revoked: Vec<_> = running
            .filter_map(|issued| {
                Some(RevokedCertificate { serial: issued.certificate.serial, revoked: issued.revoked? })
            })
            .collect();
        revoked.sort_by_key(|revoked| revoked.serial);
        revoked
    }

    pub fn put_tokens(&mut self, tokens: &[NewToken], deed: &Deed) {
        let made = |token: &NewToken| TokenState {
            token: token.clone(),
            created: deed.at,
            used: None,
            withdrawn: None,
        };
        self.tokens.extend(tokens.iter().map(made));
        self.note(deed);
    }

    pub fn tokens(&self, id: Option<TokenId>) -> Vec<TokenState> {
        self.tokens.iter().rev().filter(|state| id.is_none_or(|id| state.token.id == id)).cloned().collect()
    }

    pub fn withdraw(&mut self, id: TokenId, deed: &Deed) -> bool {
        let mut there = self.tokens.iter_mut().filter(|state| state.withdrawn.is_none());
        let Some(state) = there.find(|state| state.token.id == id) else { return false };
        state.withdrawn = Some(deed.at);
        self.note(deed);
        true
    }

    fn withdraw_all_of(&mut self, id: &ControllerId, at: UtcMs, but: Option<TokenId>) {
        let theirs = self.tokens.iter_mut().filter(|state| state.token.controller == *id);
        for state in theirs.filter(|state| but != Some(state.token.id)) {
            state.withdrawn.get_or_insert(at);
        }
    }

    fn write_down(&mut self, id: &ControllerId, issue: &Issue, what: &str) {
        let Issue { at, keys, serial, not_after, holds, agent_version } = issue.clone();
        let forgotten = UtcMs(at.0 - CERTIFICATES_KEPT_MS);
        self.certificates
            .retain(|issued| issued.controller != *id || issued.certificate.not_after >= forgotten);
        let certificate = Certificate { serial, issued: at, not_after };
        self.certificates.push(Issued {
            controller: id.clone(),
            tls_key: keys.tls,
            certificate,
            revoked: None,
        });
        self.fetches.insert(id.clone(), Fetched { at, holds, agent_version });
        self.note(&Deed::by_itself(at, what, id.as_str()));
    }

    pub fn note(&mut self, deed: &Deed) {
        self.log.push(deed.clone());
    }

    pub fn deeds(&self, limit: usize) -> Vec<Deed> {
        self.log.iter().rev().take(limit).cloned().collect()
    }

    pub fn deed_count(&self) -> u64 {
        self.log.len() as u64
    }
}

impl MemoryStore {
    pub(super) fn rename_known(
        &mut self,
        id: &ControllerId,
        label: Option<&str>,
        site: Option<&str>,
        deed: &Deed,
    ) -> Result<(), StoreError> {
        if let Some(site) = site
            && !self.sites.contains_key(site)
        {
            return Err(StoreError::NotFound { what: "site", name: site.to_owned() });
        }
        if let Some(known) = self.controllers.get_mut(id) {
            let controller = &mut known.controller;
            label.into_iter().for_each(|label| controller.label = label.to_owned());
            site.into_iter().for_each(|site| controller.site = site.to_owned());
        }
        self.trust.note(deed);
        Ok(())
    }

    pub(super) fn enroll_with_token(&mut self, enrolment: &Enrolment) -> Result<Controller, Refusal> {
        let Enrolment { token, issue, .. } = enrolment;
        let place = self.trust.tokens.iter().position(|state| state.token.id == *token);
        may_enroll(place.map(|place| &self.trust.tokens[place]), enrolment)?;
        let place = place.expect("who may enroll has a token");
        let NewToken { controller: id, label, site, .. } = self.trust.tokens[place].token.clone();
        if self.trust.tokens[place].used.is_none() {
            let known = self.controllers.get(&id).map(|known| known.controller.record_keys.clone());
            let named = [RecordKey::new(issue.keys.record)];
            let record_keys = keys::with_those_of_old(known.unwrap_or_default(), &named);
            self.put_known(Controller { id: id.clone(), label, site, record_keys });
            self.trust.put_standing(&id, Standing::Active, issue.at, "enrolled", &self.outboxes);
            self.trust.revoke_certificates(&id, issue.at, Some(&issue.keys.tls));
            self.trust.withdraw_all_of(&id, issue.at, Some(*token));
            self.trust.tokens[place].used = Some((issue.at, issue.keys.clone()));
        }
        self.trust.write_down(&id, issue, "enroll");
        Ok(self.controllers[&id].controller.clone())
    }

    pub(super) fn renew_known(&mut self, renewal: &Renewal) -> Result<Controller, Refusal> {
        let Renewal { controller: id, issue, overlap_until, .. } = renewal;
        let member = self.controllers.get(id).map(|known| self.trust.member(&known.controller));
        may_renew(member.as_ref(), renewal)?;
        let mut controller = member.expect("who may renew is known").controller;
        let new = issue.keys.record;
        for old in controller.record_keys.iter_mut().filter(|known| known.key != new) {
            old.good_until = Some(old.good_until.map_or(*overlap_until, |until| until.min(*overlap_until)));
        }
        let mut named = controller.record_keys.clone();
        match named.iter_mut().find(|known| known.key == new) {
            Some(known) => known.good_until = None,
            None => named.insert(0, RecordKey::new(new)),
        }
        controller.record_keys = named;
        self.put_known(controller);
        self.trust.write_down(id, issue, "renew");
        Ok(self.controllers[id].controller.clone())
    }

    fn put_known(&mut self, controller: Controller) {
        let new = || super::KnownController { controller: controller.clone(), hello: None, gone: None };
        self.controllers.entry(controller.id.clone()).or_insert_with(new).controller = controller.clone();
    }
}
