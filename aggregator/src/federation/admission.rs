//! Whose certificates count, as last read from the store. A value: connections and calls look at it.

use std::collections::BTreeMap;

use common::signed::VerifyingKey;
use common::{Digest, Holder, SiteId};

use crate::store::MemberRecord;

/// Who is enrolled: sites and persons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted(BTreeMap<Holder, MemberRecord>);

/// How a certificate that counts stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It is the newest one that its holder used.
    Used,
    /// It was issued after that, and is used for the first time.
    Newer,
}

impl Admitted {
    /// These.
    pub fn of(members: Vec<MemberRecord>) -> Self {
        Self(members.into_iter().map(|record| (record.holder.clone(), record)).collect())
    }

    /// What is known of a holder.
    pub fn member(&self, holder: &Holder) -> Option<&MemberRecord> {
        self.0.get(holder)
    }

    /// How a certificate stands, if it counts.
    pub fn stands(&self, holder: &Holder, serial: &str) -> Option<Stands> {
        let record = self.member(holder).filter(|record| !record.revoked)?;
        if record.serial == serial {
            Some(Stands::Used)
        } else {
            (record.renewal.as_deref() == Some(serial)).then_some(Stands::Newer)
        }
    }

    /// The CAs that a site knows if it calls with the certificate of this serial number.
    pub fn anchors(&self, site: &SiteId, serial: &str) -> Option<Digest> {
        let record = self.member(&site.into())?;
        let told = record.renewal_anchors.filter(|_| record.renewal.as_deref() == Some(serial));
        Some(told.unwrap_or(record.anchors))
    }

    /// What a site signs with.
    pub fn signing_key(&self, site: &SiteId) -> Option<VerifyingKey> {
        self.member(&site.into())?.signing_key
    }

    /// The sites that were revoked.
    pub(super) fn revoked(&self) -> Vec<SiteId> {
        self.0.values().filter(|record| record.revoked).filter_map(|record| record.holder.site().cloned()).collect()
    }
}
