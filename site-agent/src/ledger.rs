//! This site's ledger: what was agreed to here, what was trained, what left, and what was refused. One line an event, each with the
//! digest of the one before ([`common::ledger`]); appended and synced before what it tells goes on.
//!
//! The agent and the commands beside it append under a lock on the file. A line that a crash left half written is taken off, kept
//! beside, and told by the next entry. Where the ledger ends is noted beside it, so that a tail that is missing is missed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use common::ledger::{self, Broken, Entry, Head};
use common::signed::{Attestation, Lineage, SignedHead, VerifyingKey};
use common::{Decline, Digest, FederationName, RoundNumber, RunId, SiteId};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};

/// One event at a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// This site enrolled.
    Enrolled {
        /// Into which federation.
        federation: FederationName,
        /// As whom.
        site: SiteId,
        /// SHA-256 of the CA's certificate.
        authority: Digest,
        /// What the aggregator signs with.
        aggregator_key: VerifyingKey,
        /// What this site signs with.
        signing_key: VerifyingKey,
    },
    /// The certificate was renewed.
    Renewed {
        /// It expires then, in seconds since 1970.
        not_after_s: i64,
        /// SHA-256 of the certificate of each CA that came with it. Not told by an agent of before this was.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        authorities: Vec<Digest>,
    },
    /// A person at this site approved a plan.
    Approved {
        /// The plan.
        plan: Digest,
    },
    /// A round was accepted: its model's lineage holds.
    RoundAccepted {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundNumber,
        /// The plan.
        plan: Digest,
        /// Its first model.
        base: Digest,
        /// Where that comes from, in the aggregator's hand.
        lineage: Option<Lineage>,
        /// The aggregator's ledger as it was then, in the aggregator's hand.
        ledger: Option<SignedHead>,
    },
    /// A round was not accepted: its model's lineage does not hold. The signature is evidence.
    LineageRefused {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundNumber,
        /// The plan.
        plan: Digest,
        /// The model.
        base: Digest,
        /// What was said of it.
        lineage: Option<Lineage>,
        /// What is wrong.
        why: String,
    },
    /// An update passed this site's filters and was signed.
    UpdateSealed {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundNumber,
        /// The model it started from.
        base: Digest,
        /// Digest of the delta's file.
        blob: Digest,
        /// Subjects behind it, rounded down.
        subjects: u32,
        /// Optimizer steps.
        steps: u32,
        /// This site's hand under it.
        attestation: Option<Attestation>,
    },
    /// The aggregator acknowledged an update.
    UpdateAcknowledged {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundNumber,
        /// The update.
        blob: Digest,
    },
    /// This site did not take part in a round.
    Declined {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundNumber,
        /// Why.
        reason: Decline,
    },
    /// A run's last model is here.
    RunFinished {
        /// The run.
        run: RunId,
        /// The model.
        model: Digest,
    },
    /// A run that this site knew failed, or was aborted.
    RunFailed {
        /// The run.
        run: RunId,
        /// Why, in the aggregator's words.
        because: String,
    },
    /// The line before was cut short by a crash, and was taken off.
    TornTail {
        /// Bytes of it.
        bytes: u64,
    },
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It does not hold.
    #[error("{path} does not hold: {source}; keep the file, and find out who changed it: nothing is written after it")]
    Broken {
        /// The ledger.
        path: String,
        /// The first entry that does not, and why.
        source: Broken,
    },
}

impl LedgerError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Disk(error) if error.is_full())
    }
}

/// A site's ledger.
#[derive(Clone, Debug)]
pub struct Ledger(PathBuf);

impl Ledger {
    /// The ledger in `path`. Nothing is read yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Enters an event, and returns when it is on the disk.
    pub fn enter(&self, event: &Event) -> Result<(), LedgerError> {
        let told = |what| durable::told(what, &self.0);
        if let Some(folder) = self.0.parent() {
            std::fs::create_dir_all(folder).map_err(durable::told("create", folder))?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(&self.0);
        let mut file = file.map_err(told("open"))?;
        file.lock().map_err(told("lock"))?;
        let head = self.end(&mut file)?;
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        let (line, head) = ledger::line(head, now, event);
        file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(told("write"))?;
        let note = serde_json::to_vec(&head).map_err(|error| told("write")(error.into()))?;
        Ok(durable::write(&self.head_path(), &note)?)
    }

    /// Where the file ends, after a line that is cut short was taken off it.
    fn end(&self, file: &mut File) -> Result<Head, LedgerError> {
        let told = |what| durable::told(what, &self.0);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).map_err(told("read"))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |place| place + 1);
        let torn = bytes.split_off(whole);
        let text = String::from_utf8_lossy(&bytes);
        // The last line alone: a whole ledger is verified by `site-agent ledger verify`, and by the agent when it starts.
        let last = text.lines().last().map(ledger::head_of).transpose();
        let mut head = last.map_err(|source| self.broken(source))?.unwrap_or(Head::EMPTY);
        if !torn.is_empty() {
            tracing::warn!(
                bytes = torn.len(),
                "the ledger's last line was cut short by a crash; it is taken off and kept beside"
            );
            durable::write(&self.0.with_added_extension("torn"), &torn)?;
            file.set_len(whole as u64).map_err(told("write"))?;
            let (line, next) = ledger::line(head, 0, &Event::TornTail { bytes: torn.len() as u64 });
            file.write_all(format!("{line}\n").as_bytes()).map_err(told("write"))?;
            head = next;
        }
        Ok(head)
    }

    fn broken(&self, source: Broken) -> LedgerError {
        LedgerError::Broken { path: self.0.display().to_string(), source }
    }

    fn head_path(&self) -> PathBuf {
        self.0.with_added_extension("head")
    }

    /// Holds the whole ledger to its chain and to where it was noted to end; gives `each` every entry.
    pub fn verify(&self, each: impl FnMut(&Entry, Head)) -> Result<Head, LedgerError> {
        let noted = durable::read_if_there(&self.head_path())?;
        let noted: Option<Head> = noted.and_then(|note| serde_json::from_slice(&note).ok());
        let text = text_of(&self.0)?;
        ledger::verify(text.lines(), noted.as_slice(), each).map_err(|source| self.broken(source))
    }
}

/// The lines of a ledger's file that are whole; none if there is no file. Bytes that are no text are kept as such, so that their
/// line is found to be changed.
pub fn text_of(path: &Path) -> Result<String, DiskError> {
    let bytes = durable::read_if_there(path)?.unwrap_or_default();
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |place| place + 1);
    Ok(String::from_utf8_lossy(&bytes[..whole]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approved(number: u32) -> Event {
        Event::Approved { plan: Digest::of(&number.to_le_bytes()) }
    }

    #[test]
    fn what_is_entered_by_several_at_once_is_one_chain() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(folder.path().join("ledger"));
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let ledger = &ledger;
                scope.spawn(move || (0..5).for_each(|number| ledger.enter(&approved(writer * 5 + number)).unwrap()));
            }
        });
        let mut read = 0;
        let head = ledger.verify(|_, _| read += 1).unwrap();
        assert_eq!((head.entries, read), (20, 20));
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_taken_off_kept_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::at(&path);
        ledger.enter(&approved(1)).unwrap();
        ledger.enter(&approved(2)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for kept in 1..30 {
            let mut torn = whole.clone();
            torn.extend(br#"{"entry":3,"time_ms":1,"before":"0"#[..kept].iter());
            std::fs::write(&path, torn).unwrap();
            ledger.enter(&approved(3)).unwrap();
            let mut kinds = Vec::new();
            ledger.verify(|entry, _| kinds.push(entry.event["kind"].as_str().unwrap().to_owned())).unwrap();
            assert_eq!(kinds, ["approved", "approved", "torn-tail", "approved"]);
            assert_eq!(std::fs::read(path.with_extension("torn")).unwrap().len(), kept);
            std::fs::write(&path, &whole).unwrap();
        }
    }

    #[test]
    fn a_tail_that_is_missing_and_a_byte_that_was_changed_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::at(&path);
        (0..4).for_each(|number| ledger.enter(&approved(number)).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        std::fs::write(&path, lines[..3].join("\n") + "\n").unwrap();
        let told = ledger.verify(|_, _| {}).unwrap_err().to_string();
        assert!(told.contains("entry 4: it is missing"), "{told}");
        std::fs::write(&path, text.replacen("approved", "approVed", 2)).unwrap();
        let told = ledger.verify(|_, _| {}).unwrap_err().to_string();
        assert!(told.contains("entry 1: its text was changed"), "{told}");
    }
}
