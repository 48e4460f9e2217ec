//! Whose certificates count, as last read from the store. A value: connections and calls look at it.

use std::collections::BTreeMap;

use common::signed::VerifyingKey;
use common::{Digest, SiteId};

use crate::store::SiteRecord;

/// Who is enrolled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted(BTreeMap<SiteId, SiteRecord>);

/// How a certificate that counts stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It is the newest one that its site used.
    Used,
    /// It was issued after that, and is used for the first time.
    Newer,
}

impl Admitted {
    pub(crate) fn of(sites: Vec<SiteRecord>) -> Self {
        Self(sites.into_iter().map(|record| (record.site.clone(), record)).collect())
    }

    /// How a certificate stands, if it counts.
    pub fn stands(&self, site: &SiteId, serial: &str) -> Option<Stands> {
        let record = self.0.get(site).filter(|record| !record.revoked)?;
        if record.serial == serial {
            Some(Stands::Used)
        } else {
            (record.renewal.as_deref() == Some(serial)).then_some(Stands::Newer)
        }
    }

    /// The CAs that a site knows.
    pub fn anchors(&self, site: &SiteId) -> Option<Digest> {
        Some(self.0.get(site)?.anchors)
    }

    /// What a site signs with.
    pub fn signing_key(&self, site: &SiteId) -> Option<VerifyingKey> {
        self.0.get(site)?.signing_key
    }

    /// The sites that were revoked.
    pub(super) fn revoked(&self) -> Vec<SiteId> {
        self.0.values().filter(|record| record.revoked).map(|record| record.site.clone()).collect()
    }
}
