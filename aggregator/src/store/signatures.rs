//! Coordinators' hands under plans, as rows.

use common::{Digest, PersonId, RunId};
use rusqlite::{Row, Transaction, params};

use super::rows::{int, parsed, stamp};
use super::{SignatureRecord, StoreError, ledger};
use crate::ledger::Event;

type Result<T> = std::result::Result<T, StoreError>;

/// Writes a signature down, in the place of one of the same coordinator.
pub(super) fn sign(
    transaction: &Transaction<'_>,
    run: &RunId,
    plan: Digest,
    signature: &SignatureRecord,
) -> Result<()> {
    let SignatureRecord { coordinator, key, signature, certificate_pem, signed_at, counted } = signature;
    transaction.execute(
        "INSERT OR REPLACE INTO signatures (run, coordinator, signing_key, signature, certificate, signed_at_ms, counted) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            run.as_str(),
            coordinator.as_str(),
            key.to_string(),
            signature.to_string(),
            certificate_pem,
            int(signed_at.0),
            counted
        ],
    )?;
    let (by, signature) = (signature_of(coordinator), *signature);
    ledger::append(transaction, &Event::PlanSigned { run, plan, by: &by, signing_key: *key, signature }, *signed_at)
}

fn signature_of(coordinator: &PersonId) -> crate::ledger::Actor {
    crate::ledger::Actor::Person(common::Person::coordinator(coordinator.clone()))
}

/// Notes that the signatures of these coordinators are those that a run began with.
pub(super) fn count(transaction: &Transaction<'_>, run: &RunId, by: &[PersonId]) -> Result<()> {
    for coordinator in by {
        let changed = transaction.execute(
            "UPDATE signatures SET counted = 1 WHERE run = ?1 AND coordinator = ?2",
            params![run.as_str(), coordinator.as_str()],
        )?;
        if changed != 1 {
            return Err(StoreError::Damaged(format!("run {run} has no signature of coordinator {coordinator}")));
        }
    }
    Ok(())
}

/// A signature.
pub(super) fn signature(row: &Row<'_>) -> Result<SignatureRecord> {
    Ok(SignatureRecord {
        coordinator: parsed("signatures.coordinator", &row.get::<_, String>("coordinator")?)?,
        key: parsed("signatures.signing_key", &row.get::<_, String>("signing_key")?)?,
        signature: parsed("signatures.signature", &row.get::<_, String>("signature")?)?,
        certificate_pem: row.get("certificate")?,
        signed_at: stamp(row, "signed_at_ms")?,
        counted: row.get("counted")?,
    })
}
