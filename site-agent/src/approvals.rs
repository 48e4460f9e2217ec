//! Which plans a person at this site approved, by their digests.

use std::collections::BTreeSet;

use common::Digest;

use crate::durable::{self, DiskError};
use crate::home::Home;

/// The plans that a person at this site approved.
pub fn approved(home: &Home) -> Result<BTreeSet<Digest>, DiskError> {
    let path = home.approvals();
    let bytes = durable::read_if_there(&path)?;
    bytes.map_or(Ok(BTreeSet::new()), |bytes| {
        serde_json::from_slice(&bytes).map_err(|error| durable::told("read", &path)(error.into()))
    })
}

/// Records a person's approval of a plan.
pub fn approve(home: &Home, plan: Digest) -> Result<(), DiskError> {
    let mut all = approved(home)?;
    all.insert(plan);
    let path = home.approvals();
    let bytes = serde_json::to_vec_pretty(&all).map_err(|error| durable::told("write", &path)(error.into()))?;
    durable::write(&path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_is_remembered_by_the_whole_digest() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        assert!(approved(&home).unwrap().is_empty());
        approve(&home, Digest::of(b"plan")).unwrap();
        approve(&home, Digest::of(b"another")).unwrap();
        assert!(approved(&home).unwrap().contains(&Digest::of(b"plan")));
        assert!(!approved(&home).unwrap().contains(&Digest::of(b"plan ")));
    }
}
