//! What this site has promised and been acknowledged for: the record that makes every round count once.
//!
//! A trained update is sealed and on disk before a byte of it is sent, so a crash never trains the same round into a
//! second, different update.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::codec::{self, Kind};
use common::{Digest, RoundNumber, RunId, UpdateManifest};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};
use crate::lineage::Accepted;

const KIND: Kind = Kind { name: *b"journal\0", version: 3 };

/// The journal of one agent.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    runs: BTreeMap<RunId, RunRecord>,
}

/// What is known of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The update that is sealed and not yet acknowledged, or the last one acknowledged.
    pub sealed: Option<UpdateManifest>,
    /// The last round that was acknowledged.
    pub acknowledged: Option<Acknowledged>,
    /// The newest round that this site accepted, and its first model.
    pub accepted: Option<Accepted>,
    /// The last model that this site measured, once the aggregator has what was measured.
    pub scored: Option<Digest>,
    /// The last model, once the run has finished and it is here.
    pub finished: Option<Digest>,
}

/// A round whose update the aggregator has stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The round.
    pub round: RoundNumber,
    /// The model it started from.
    pub base: Digest,
    /// The update's digest.
    pub blob: Digest,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is not a journal of ours.
    #[error(
        "{path}: {source}; move the file away to start over: rounds already acknowledged will not be counted twice"
    )]
    Damaged {
        /// The journal.
        path: String,
        /// What is wrong.
        source: codec::CodecError,
    },
}

impl Journal {
    /// Opens the journal, or begins one.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let damaged = |source| JournalError::Damaged { path: path.display().to_string(), source };
        let runs = match durable::read_if_there(path)? {
            Some(bytes) => codec::decode(KIND, &bytes).map_err(damaged)?,
            None => BTreeMap::new(),
        };
        Ok(Self { path: path.to_owned(), runs })
    }

    /// What is known of a run.
    pub fn run(&self, run: &RunId) -> Option<&RunRecord> {
        self.runs.get(run)
    }

    /// Runs that this site took part in and has not heard the end of.
    pub fn unended(&self) -> impl Iterator<Item = &RunId> {
        let is_unended = |record: &RunRecord| record.acknowledged.is_some() && record.finished.is_none();
        self.runs.iter().filter(move |(_, record)| is_unended(record)).map(|(run, _)| run)
    }

    /// The last models of the runs that have finished.
    pub fn last_models(&self) -> impl Iterator<Item = Digest> {
        self.runs.values().filter_map(|run| run.finished)
    }

    /// The sealed update of this very round, if there is one.
    pub fn sealed(&self, run: &RunId, round: RoundNumber, base: Digest) -> Option<&UpdateManifest> {
        let sealed = self.runs.get(run)?.sealed.as_ref()?;
        (sealed.round == round && sealed.base == base).then_some(sealed)
    }

    /// Whether this very round is acknowledged.
    pub fn is_acknowledged(&self, run: &RunId, round: RoundNumber, base: Digest) -> bool {
        let acknowledged = self.runs.get(run).and_then(|run| run.acknowledged.as_ref());
        acknowledged.is_some_and(|done| done.round == round && done.base == base)
    }

    /// Records an update whose file is on disk already.
    pub fn seal(&mut self, manifest: UpdateManifest) -> Result<(), JournalError> {
        self.change(&manifest.run.clone(), |run| run.sealed = Some(manifest))
    }

    /// Records a round whose lineage holds, before anything of it is trained.
    pub fn accept(&mut self, run: &RunId, accepted: Accepted) -> Result<(), JournalError> {
        self.change(run, |run| run.accepted = Some(accepted))
    }

    /// Records the aggregator's acknowledgement.
    pub fn acknowledge(&mut self, manifest: &UpdateManifest) -> Result<(), JournalError> {
        let done = Acknowledged { round: manifest.round, base: manifest.base, blob: manifest.blob };
        self.change(&manifest.run, |run| run.acknowledged = Some(done))
    }

    /// Records that the aggregator has what this site measured of a model.
    pub fn score(&mut self, run: &RunId, model: Digest) -> Result<(), JournalError> {
        self.change(run, |run| run.scored = Some(model))
    }

    /// Records that the run's last model is here.
    pub fn finish(&mut self, run: &RunId, model: Digest) -> Result<(), JournalError> {
        self.change(run, |run| run.finished = Some(model))
    }

    /// What cannot be written is not so here either.
    fn change(&mut self, run: &RunId, change: impl FnOnce(&mut RunRecord)) -> Result<(), JournalError> {
        let mut runs = self.runs.clone();
        change(runs.entry(run.clone()).or_default());
        let damaged = |source| JournalError::Damaged { path: self.path.display().to_string(), source };
        let record = codec::encode(KIND, &runs).map_err(damaged)?;
        durable::write(&self.path, &record)?;
        self.runs = runs;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use common::Meters;

    use super::*;

    fn manifest(round: u32) -> UpdateManifest {
        UpdateManifest {
            run: "run".parse().unwrap(),
            round: RoundNumber(round),
            site: "aalst".parse().unwrap(),
            plan: Digest::of(b"plan"),
            base: Digest::of(b"base"),
            blob: Digest::of(b"blob"),
            bytes: 4,
            subjects: 5,
            heads: BTreeMap::new(),
            examples: 0,
            steps: 1,
            meters: Meters::default(),
            attestation: None,
        }
    }

    #[test]
    fn what_was_sealed_and_acknowledged_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        journal.seal(manifest(2)).unwrap();
        let journal = Journal::open(&path).unwrap();
        let run = "run".parse().unwrap();
        assert_eq!(journal.sealed(&run, RoundNumber(2), Digest::of(b"base")), Some(&manifest(2)));
        assert_eq!(journal.sealed(&run, RoundNumber(2), Digest::of(b"other")), None);
        assert!(!journal.is_acknowledged(&run, RoundNumber(2), Digest::of(b"base")));
        let mut journal = journal;
        journal.acknowledge(&manifest(2)).unwrap();
        assert!(Journal::open(&path).unwrap().is_acknowledged(&run, RoundNumber(2), Digest::of(b"base")));
    }

    #[test]
    fn what_could_not_be_written_is_not_taken_for_done() {
        let folder = tempfile::tempdir().unwrap();
        let (path, run) = (folder.path().join("journal"), "run".parse().unwrap());
        let mut journal = Journal::open(&path).unwrap();
        journal.seal(manifest(2)).unwrap();
        // Where the next record is written first.
        let odd = path.with_added_extension("part");
        std::fs::create_dir(&odd).unwrap();
        journal.acknowledge(&manifest(2)).unwrap_err();
        journal.seal(manifest(3)).unwrap_err();
        journal
            .accept(&"another".parse().unwrap(), Accepted { round: RoundNumber(1), base: Digest::of(b"base") })
            .unwrap_err();
        let base = Digest::of(b"base");
        assert!(!journal.is_acknowledged(&run, RoundNumber(2), base));
        assert_eq!(journal.sealed(&run, RoundNumber(2), base), Some(&manifest(2)));
        assert_eq!(journal.runs.len(), 1);
        std::fs::remove_dir(&odd).unwrap();
        journal.acknowledge(&manifest(2)).unwrap();
        assert!(Journal::open(&path).unwrap().is_acknowledged(&run, RoundNumber(2), base));
    }

    #[test]
    fn a_damaged_journal_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, b"garbage").unwrap();
        let told = Journal::open(&path).unwrap_err().to_string();
        assert!(told.contains("move the file away"), "{told}");
    }
}
