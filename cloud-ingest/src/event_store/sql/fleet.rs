//! Step 9 of 12: trust as rows: standing, certificates, enrolment tokens and the log of who decided what. Knows no keys'
//! private halves; what may be done is said by [`crate::event_store::may_enroll`] and its like.

use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::keys::PublicKey;

use super::intake::{controller_no, site_is_known};
use super::session::{Row, Session, all, one};
use super::values::capped;
use super::writing::Writing;
use super::{capture, reading, statements as sql};
use crate::event_store::{
    CERTIFICATES_KEPT_MS, Certificate, Controller, Deed, DeviceKeys, Enrolment, Fetched, Issue, Member,
    NewToken, Refusal, Renewal, RevokedCertificate, Standing, StoreError, TokenId, TokenState, UtcMs,
    may_enroll, may_renew,
};

pub fn fleet(snapshot: &dyn Session) -> Result<Vec<Member>, StoreError> {
    let ids = all(snapshot, sql::CONTROLLER_IDS, [], |row| row.get::<String>(0))?;
    let members = ids.iter().map(|id| member(snapshot, &reading::controller_id(id)?));
    Ok(members.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

pub fn member(snapshot: &dyn Session, id: &ControllerId) -> Result<Option<Member>, StoreError> {
    let Some(controller) = reading::controller(snapshot, id)? else { return Ok(None) };
    let no: Option<i64> = one(snapshot, sql::CONTROLLER_NO, [id.as_str()], |row| row.get(0))?;
    let Some(no) = no else { return Ok(None) };
    let decided = one(snapshot, sql::STANDING, [no], |row| {
        Ok((row.get::<String>(0)?, (row.get(1)?, row.get::<String>(2)?)))
    })?;
    let standing = match &decided {
        None => Standing::Active,
        Some((name, _)) => Standing::from_name(name)
            .ok_or_else(|| StoreError::broken(format!("{name:?} is no standing of a controller")))?,
    };
    let certificate = one(snapshot, sql::LAST_CERTIFICATE, [no], |row| {
        Ok(Certificate { serial: row.get(0)?, issued: row.get(1)?, not_after: row.get(2)? })
    })?;
    let fetched = one(snapshot, sql::FETCH, [no], |row| {
        let holds: String = row.get(1)?;
        let holds = holds.split_whitespace().map(str::to_owned).collect();
        Ok(Fetched { at: row.get(0)?, holds, agent_version: row.get(2)? })
    })?;
    let decided = decided.map(|(_, decided)| decided);
    Ok(Some(Member { controller, standing, decided, certificate, fetched }))
}

pub fn rename(
    writing: &mut Writing<'_>,
    id: &ControllerId,
    label: Option<&str>,
    site: Option<&str>,
    deed: &Deed,
) -> Result<(), StoreError> {
    controller_no(writing, id)?;
    let found = writing
        .one(sql::CONTROLLER, [id.as_str()], |row| Ok((row.get::<String>(1)?, row.get::<String>(2)?)))?;
    let (old_label, old_site) = found.unwrap_or_default();
    let (label, site) = (label.unwrap_or(&old_label), site.unwrap_or(&old_site));
    site_is_known(writing, site)?;
    writing.execute(sql::PUT_CONTROLLER, (id.as_str(), label, site))?;
    note_deed(writing, deed)
}

pub fn set_standing(
    writing: &mut Writing<'_>,
    id: &ControllerId,
    standing: Standing,
    deed: &Deed,
) -> Result<(), StoreError> {
    let no = controller_no(writing, id)?;
    put_standing(writing, no, standing, deed.at, &deed.why)?;
    writing.execute(sql::WITHDRAW_TOKENS_OF, (id.as_str(), deed.at, None::<TokenId>))?;
    if standing == Standing::Revoked {
        writing.execute(sql::REVOKE_CERTIFICATES, (no, deed.at, None::<Vec<u8>>))?;
    }
    note_deed(writing, deed)
}

fn put_standing(
    writing: &Writing<'_>,
    no: i64,
    standing: Standing,
    at: UtcMs,
    why: &str,
) -> Result<(), StoreError> {
    // Whether a record came before it is asked of what intake has written.
    let at = writing.now(at);
    let before = writing.one(sql::STANDING, [no], |row| row.get::<String>(0))?;
    let was_revoked = before.as_deref() == Some(Standing::Revoked.name());
    match (was_revoked, standing) {
        (false, Standing::Revoked) => {
            writing.execute(sql::BEGIN_REVOCATION, (no, at))?;
            writing.execute(sql::REVOKE_OUTBOXES, [no])?;
        }
        (true, Standing::Active | Standing::Retired) => {
            writing.execute(sql::END_REVOCATION, (no, at))?;
            writing.execute(sql::UNREVOKE_OUTBOXES, [no])?;
        }
        (true, Standing::Revoked) | (false, Standing::Active | Standing::Retired) => {}
    }
    writing.execute(sql::PUT_STANDING, (no, standing.name(), at, why))?;
    Ok(())
}

pub fn trusted_through(
    snapshot: &dyn Session,
    id: &ControllerId,
    outbox: OutboxId,
) -> Result<Option<Seq>, StoreError> {
    let no: Option<i64> = one(snapshot, sql::CONTROLLER_NO, [id.as_str()], |row| row.get(0))?;
    let Some(no) = no else { return Ok(None) };
    let standing = one(snapshot, sql::STANDING, [no], |row| row.get::<String>(0))?;
    if standing.as_deref() != Some(Standing::Revoked.name()) {
        return Ok(None);
    }
    let through = one(snapshot, sql::TRUSTED_THROUGH, (no, outbox.0), |row| row.get(0).map(Seq))?;
    Ok(Some(through.unwrap_or(Seq::ZERO)))
}

pub fn revoked_certificates(
    snapshot: &dyn Session,
    now: UtcMs,
) -> Result<Vec<RevokedCertificate>, StoreError> {
    all(snapshot, sql::REVOKED_CERTIFICATES, [now], |row| {
        Ok(RevokedCertificate { serial: row.get(0)?, revoked: row.get(1)? })
    })
}

pub fn put_enroll_tokens(
    writing: &mut Writing<'_>,
    tokens: &[NewToken],
    deed: &Deed,
) -> Result<(), StoreError> {
    for token in tokens {
        site_is_known(writing, &token.site)?;
        is_no_source(writing, &token.controller)?;
        let NewToken { id, secret_sha256, controller, site, label, expires } = token;
        let columns = (id, secret_sha256, controller.as_str(), site, label, deed.at, expires);
        writing.execute(sql::NEW_TOKEN, columns)?;
    }
    note_deed(writing, deed)
}

/// For a source the cloud itself signs: no door may speak in its name.
fn is_no_source(writing: &Writing<'_>, id: &ControllerId) -> Result<(), StoreError> {
    match capture::is_source(writing.aside(), id)? {
        false => Ok(()),
        true => {
            Err(StoreError::NotFound { what: "door, but a source of taps over HTTP,", name: id.to_string() })
        }
    }
}

pub fn enroll_tokens(snapshot: &dyn Session, id: Option<TokenId>) -> Result<Vec<TokenState>, StoreError> {
    all(snapshot, sql::TOKENS, [id], token_state)?.into_iter().collect()
}

fn token_state(row: &Row<'_>) -> Result<Result<TokenState, StoreError>, StoreError> {
    let controller = match reading::controller_id(&row.get::<String>(2)?) {
        Ok(controller) => controller,
        Err(broken) => return Ok(Err(broken)),
    };
    let used: Option<UtcMs> = row.get(7)?;
    let keys = row.get::<Option<Vec<u8>>>(8)?.zip(row.get::<Option<[u8; 32]>>(9)?);
    Ok(Ok(TokenState {
        token: NewToken {
            id: row.get(0)?,
            secret_sha256: row.get(1)?,
            controller,
            site: row.get(3)?,
            label: row.get(4)?,
            expires: row.get(6)?,
        },
        created: row.get(5)?,
        used: used.zip(keys.map(|(tls, record)| DeviceKeys { tls, record: PublicKey(record) })),
        withdrawn: row.get(10)?,
    }))
}

pub fn withdraw_enroll_token(
    writing: &mut Writing<'_>,
    id: TokenId,
    deed: &Deed,
) -> Result<bool, StoreError> {
    if writing.execute(sql::WITHDRAW_TOKEN, (id, deed.at))? == 0 {
        return Ok(false);
    }
    note_deed(writing, deed)?;
    Ok(true)
}

pub fn enroll(
    writing: &mut Writing<'_>,
    enrolment: &Enrolment,
) -> Result<Result<Controller, Refusal>, StoreError> {
    let Enrolment { token, issue, .. } = enrolment;
    let known = writing.all(sql::TOKENS, [token], token_state)?.pop().transpose()?;
    let state = match may_enroll(known.as_ref(), enrolment) {
        Err(refusal) => return Ok(Err(refusal)),
        Ok(()) => known.expect("who may enroll has a token"),
    };
    let id = &state.token.controller;
    if state.used.is_none() {
        writing.execute(sql::PUT_CONTROLLER, (id.as_str(), &state.token.label, &state.token.site))?;
        let no = controller_no(writing, id)?;
        writing.execute(sql::END_RECORD_KEYS, [no])?;
        writing.execute(sql::PUT_RECORD_KEY, (no, issue.keys.record.0, None::<UtcMs>))?;
        put_standing(writing, no, Standing::Active, issue.at, "enrolled")?;
        writing.execute(sql::REVOKE_CERTIFICATES, (no, issue.at, Some(&issue.keys.tls)))?;
        writing.execute(sql::WITHDRAW_TOKENS_OF, (id.as_str(), issue.at, Some(token)))?;
        writing.execute(sql::USE_TOKEN, (token, issue.at, &issue.keys.tls, issue.keys.record.0))?;
    }
    write_down(writing, id, issue, "enroll")?;
    known_now(writing, id).map(Ok)
}

pub fn renew(
    writing: &mut Writing<'_>,
    renewal: &Renewal,
) -> Result<Result<Controller, Refusal>, StoreError> {
    let Renewal { controller: id, issue, overlap_until, .. } = renewal;
    if let Err(refusal) = may_renew(member(writing.snapshot()?, id)?.as_ref(), renewal) {
        return Ok(Err(refusal));
    }
    let no = controller_no(writing, id)?;
    writing.execute(sql::OVERLAP_RECORD_KEYS, (no, issue.keys.record.0, overlap_until))?;
    writing.execute(sql::PUT_RECORD_KEY, (no, issue.keys.record.0, None::<UtcMs>))?;
    write_down(writing, id, issue, "renew")?;
    known_now(writing, id).map(Ok)
}

fn write_down(
    writing: &mut Writing<'_>,
    id: &ControllerId,
    issue: &Issue,
    what: &str,
) -> Result<(), StoreError> {
    let no = controller_no(writing, id)?;
    let Issue { at, keys, serial, not_after, holds, agent_version } = issue;
    let long_over = UtcMs(writing.now(*at).0 - CERTIFICATES_KEPT_MS);
    writing.execute(sql::FORGET_CERTIFICATES, (no, long_over))?;
    writing.execute(sql::NEW_CERTIFICATE, (serial, no, &keys.tls, at, not_after))?;
    writing.execute(sql::PUT_FETCH, (no, at, holds.join(" "), agent_version))?;
    note_deed(writing, &Deed::by_itself(*at, what, id.as_str()))
}

fn known_now(writing: &Writing<'_>, id: &ControllerId) -> Result<Controller, StoreError> {
    let known = reading::controller(writing.snapshot()?, id)?;
    known.ok_or_else(|| StoreError::NotFound { what: "controller", name: id.to_string() })
}

pub fn note_deed(writing: &mut Writing<'_>, deed: &Deed) -> Result<(), StoreError> {
    let Deed { at, who, what, about, why } = deed;
    writing.execute(sql::NEW_DEED, (at, who, what, about, why))?;
    Ok(())
}

pub fn deeds(snapshot: &dyn Session, limit: usize) -> Result<Vec<Deed>, StoreError> {
    all(snapshot, sql::DEEDS, [capped(limit as u64)], |row| {
        Ok(Deed {
            at: row.get(0)?,
            who: row.get(1)?,
            what: row.get(2)?,
            about: row.get(3)?,
            why: row.get(4)?,
        })
    })
}

pub fn deed_count(snapshot: &dyn Session) -> Result<u64, StoreError> {
    Ok(one(snapshot, sql::DEED_COUNT, [], |row| row.get(0))?.unwrap_or(0))
}
