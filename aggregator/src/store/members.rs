//! Who is invited, enrolled, renewed and revoked, as rows: inside a transaction, with what the ledger says of it.

use common::{Digest, Holder};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::rows::{int, parsed, stamp};
use super::{Issued, MemberRecord, Revoked, StoreError, ledger, seals};
use crate::clock::Stamp;
use crate::ledger::{Actor, Event, Subject};

type Result<T> = std::result::Result<T, StoreError>;

/// Remembers an invitation by the hash of its token.
pub(super) fn invite(
    transaction: &Transaction<'_>,
    token: Digest,
    holder: &Holder,
    by: &Actor,
    now: Stamp,
    expires_at: Stamp,
) -> Result<usize> {
    let expired = expire_invitations(transaction, holder, now)?;
    transaction.execute(
        "INSERT INTO tokens (hash, holder, expires_at_ms) VALUES (?1, ?2, ?3)",
        params![token.to_string(), holder.to_string(), int(expires_at.0)],
    )?;
    let invited = Event::Invited { who: Subject::of(holder), expires_at_ms: expires_at.0, by };
    ledger::append(transaction, &invited, now)?;
    Ok(expired)
}

/// Exchanges a token for a certificate.
pub(super) fn redeem(
    transaction: &Transaction<'_>,
    token: Digest,
    holder: &Holder,
    request: Digest,
    now: Stamp,
    issue: &mut dyn FnMut() -> Result<Issued>,
) -> Result<Issued> {
    let read = |row: &Row<'_>| Ok(seals::hold("tokens", row).and_then(|()| Ok(Token::read(row)?)));
    let found = transaction
        .query_row("SELECT * FROM tokens WHERE hash = ?1", [token.to_string()], read)
        .optional()?
        .transpose()?;
    let Some(found) = found.filter(|found| found.holder == holder.to_string()) else {
        // One answer for both, so that a guess learns nothing.
        return Err(StoreError::Token("unknown, or for somebody else"));
    };
    // A lost answer is given again also after the token would have expired.
    if let Some((used_by, issued)) = found.used {
        return if used_by == request.to_string() { Ok(issued) } else { Err(StoreError::Token("used already")) };
    }
    if found.expires_at <= now {
        return Err(StoreError::Token("expired"));
    }
    let issued = issue()?;
    let enrolled_at = after_what_was_signed(transaction, holder)?.max(now);
    transaction.execute(
        "UPDATE tokens SET used_at_ms = ?2, request = ?3, certificate = ?4, serial = ?5, cert_expires_at_ms = ?6, \
         anchors = ?7, signing_certificate = ?8 \
         WHERE hash = ?1",
        params![
            token.to_string(),
            int(now.0),
            request.to_string(),
            issued.certificate_pem,
            issued.serial,
            int(issued.expires_at.0),
            issued.anchors.to_string(),
            issued.signing_certificate
        ],
    )?;
    transaction.execute(
        "INSERT INTO members (holder, serial, expires_at_ms, enrolled_at_ms, signing_key, anchors, signing_certificate) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
         ON CONFLICT (holder) DO UPDATE SET serial = excluded.serial, expires_at_ms = excluded.expires_at_ms, \
         enrolled_at_ms = excluded.enrolled_at_ms, signing_key = excluded.signing_key, \
         signing_certificate = excluded.signing_certificate, renewal_signing = NULL, \
         anchors = excluded.anchors, renewal_anchors = NULL, revoked_at_ms = NULL, \
         renewal_serial = NULL, renewal_expires_at_ms = NULL, renewal_request = NULL, renewal_certificate = NULL",
        params![
            holder.to_string(),
            issued.serial,
            int(issued.expires_at.0),
            int(enrolled_at.0),
            issued.signing_key.map(|key| key.to_string()),
            issued.anchors.to_string(),
            issued.signing_certificate
        ],
    )?;
    let (serial, signing_key) = (issued.serial.as_str(), issued.signing_key);
    ledger::append(transaction, &Event::Enrolled { who: Subject::of(holder), serial, signing_key }, now)?;
    Ok(issued)
}

/// Gives a holder a newer certificate.
pub(super) fn renew(
    transaction: &Transaction<'_>,
    holder: &Holder,
    serial: &str,
    request: Digest,
    now: Stamp,
    issue: &mut dyn FnMut() -> Result<Issued>,
) -> Result<Option<Issued>> {
    // Whoever presents the newer one has used it.
    note_used(transaction, holder, serial)?;
    let read = |row: &Row<'_>| Ok(seals::hold("members", row).and_then(|()| renewal(row)));
    let found = transaction
        .query_row(
            "SELECT * FROM members WHERE holder = ?1 AND serial = ?2 AND revoked_at_ms IS NULL",
            params![holder.to_string(), serial],
            read,
        )
        .optional()?
        .transpose()?;
    match found {
        None => return Ok(None),
        Some(Some((asked, issued))) if asked == request.to_string() => return Ok(Some(issued)),
        Some(_) => {}
    }
    let issued = issue()?;
    transaction.execute(
        "UPDATE members SET renewal_serial = ?2, renewal_expires_at_ms = ?3, renewal_request = ?4, \
         renewal_certificate = ?5, renewal_anchors = ?6, renewal_signing = ?7 WHERE holder = ?1",
        params![
            holder.to_string(),
            issued.serial,
            int(issued.expires_at.0),
            request.to_string(),
            issued.certificate_pem,
            issued.anchors.to_string(),
            issued.signing_certificate
        ],
    )?;
    ledger::append(transaction, &Event::Renewed { who: Subject::of(holder), serial: &issued.serial }, now)?;
    Ok(Some(issued))
}

/// Revokes a holder's certificate, and lets its unused invitations expire.
pub(super) fn revoke(transaction: &Transaction<'_>, holder: &Holder, by: &Actor, now: Stamp) -> Result<Revoked> {
    let invitations = expire_invitations(transaction, holder, now)?;
    let changed = transaction.execute(
        "UPDATE members SET revoked_at_ms = ?2 WHERE holder = ?1 AND revoked_at_ms IS NULL",
        params![holder.to_string(), int(now.0)],
    )?;
    if changed > 0 {
        ledger::append(transaction, &Event::Revoked { who: Subject::of(holder), by }, now)?;
    }
    Ok(Revoked { certificate: changed > 0, invitations })
}

/// An enrolled holder.
pub(super) fn member(row: &Row<'_>) -> Result<MemberRecord> {
    Ok(MemberRecord {
        holder: parsed("members.holder", &row.get::<_, String>("holder")?)?,
        serial: row.get("serial")?,
        expires_at: stamp(row, "expires_at_ms")?,
        renewal: row.get("renewal_serial")?,
        enrolled_at: stamp(row, "enrolled_at_ms")?,
        revoked: row.get::<_, Option<i64>>("revoked_at_ms")?.is_some(),
        anchors: parsed("members.anchors", &row.get::<_, String>("anchors")?)?,
        renewal_anchors: match row.get::<_, Option<String>>("renewal_anchors")? {
            Some(anchors) => Some(parsed("members.renewal_anchors", &anchors)?),
            None => None,
        },
        signing_key: match row.get::<_, Option<String>>("signing_key")? {
            Some(key) => Some(parsed("members.signing_key", &key)?),
            None => None,
        },
        signing_certificate: row.get("signing_certificate")?,
    })
}

/// A digest that stands in a row.
fn digest_of(row: &Row<'_>, column: &'static str) -> rusqlite::Result<Digest> {
    let text: String = row.get(column)?;
    text.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))
}

/// The newer one of a holder's certificates, and the key it was issued for.
fn renewal(row: &Row<'_>) -> Result<Option<(String, Issued)>> {
    let request: Option<String> = row.get("renewal_request")?;
    let Some(request) = request else { return Ok(None) };
    let (certificate_pem, serial) = (row.get("renewal_certificate")?, row.get("renewal_serial")?);
    let expires_at = stamp(row, "renewal_expires_at_ms")?;
    let anchors = digest_of(row, "renewal_anchors")?;
    let signing_certificate = row.get("renewal_signing")?;
    Ok(Some((request, Issued { certificate_pem, serial, expires_at, signing_key: None, signing_certificate, anchors })))
}

/// The newer one of a holder's certificates takes the place of the older one, if `serial` is it.
pub(super) fn note_used(transaction: &Transaction<'_>, holder: &Holder, serial: &str) -> Result<()> {
    transaction.execute(
        "UPDATE members SET serial = renewal_serial, expires_at_ms = renewal_expires_at_ms, renewal_serial = NULL, \
         anchors = renewal_anchors, renewal_anchors = NULL, \
         signing_certificate = renewal_signing, renewal_signing = NULL, \
         renewal_expires_at_ms = NULL, renewal_request = NULL, renewal_certificate = NULL \
         WHERE holder = ?1 AND renewal_serial = ?2",
        params![holder.to_string(), serial],
    )?;
    Ok(())
}

/// The first moment after all that a holder signed: what was signed before an enrolment counts no more, also where the clock was set
/// back since.
fn after_what_was_signed(transaction: &Transaction<'_>, holder: &Holder) -> Result<Stamp> {
    let Some(person) = holder.person() else { return Ok(Stamp(0)) };
    let newest: Option<i64> = transaction.query_row(
        "SELECT MAX(signed_at_ms) FROM signatures WHERE coordinator = ?1",
        [person.name.as_str()],
        |row| row.get(0),
    )?;
    Ok(Stamp(newest.and_then(|newest| u64::try_from(newest).ok()).map_or(0, |newest| newest.saturating_add(1))))
}

/// Lets the invitations of a holder that could still be used expire, whatever the clock says later; says how many.
fn expire_invitations(transaction: &Transaction<'_>, holder: &Holder, now: Stamp) -> Result<usize> {
    Ok(transaction.execute(
        "UPDATE tokens SET expires_at_ms = 0 WHERE holder = ?1 AND used_at_ms IS NULL AND expires_at_ms > ?2",
        params![holder.to_string(), int(now.0)],
    )?)
}

struct Token {
    holder: String,
    expires_at: Stamp,
    used: Option<(String, Issued)>,
}

impl Token {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let request: Option<String> = row.get("request")?;
        let used = match request {
            None => None,
            Some(request) => {
                let (certificate_pem, serial) = (row.get("certificate")?, row.get("serial")?);
                Some((
                    request,
                    Issued {
                        certificate_pem,
                        serial,
                        expires_at: stamp(row, "cert_expires_at_ms")?,
                        signing_key: None,
                        signing_certificate: row.get("signing_certificate")?,
                        anchors: digest_of(row, "anchors")?,
                    },
                ))
            }
        };
        Ok(Self { holder: row.get("holder")?, expires_at: stamp(row, "expires_at_ms")?, used })
    }
}
