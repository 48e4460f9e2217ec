//! What outlives the process: who is enrolled, what runs there are, how their rounds go, what was acknowledged.
//!
//! Files are in [`blobs`]; everything else is behind the [`Store`] trait, whose embedded form is [`sqlite`]. Rounds and merges know
//! the trait alone. Another form of it is named where a folder is opened, which is [`SqliteStore`] by name today (the commands, the
//! doctor, [`crate::federation::Federation::open`]); blobs are files in any case. The store decides nothing: it writes down what
//! [`crate::run`] decided, in one transaction a decision, and reads it back.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use common::{
    Digest, FederationName, Holder, Person, PersonId, Plan, Progress, RoundNumber, RunId, Score, SiteId, UpdateManifest,
};

use common::ledger::Head;
use common::signed::{Ed25519, VerifyingKey};

use crate::aggregation::Merged;
use crate::clock::Stamp;
use crate::ledger::{Actor, Event};
use crate::round::{Outcome, Roll};
use crate::round_time::Noted;
use crate::run::{Attempt, RunAction};

pub mod blobs;
mod database;
mod decisions;
pub(crate) mod durable;
mod ledger;
pub mod lock;
mod members;
mod rows;
mod seals;
mod signatures;
pub mod sqlite;

pub use blobs::Blobs;
pub use lock::StateLock;
pub use sqlite::SqliteStore;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder holds no federation.
    #[error("{0} holds no federation: make one with `aggregator init`")]
    NoFederation(PathBuf),
    /// Whether the folder holds one cannot be seen.
    #[error(
        "{folder} cannot be read: {source}; type the command as the user whose folder it is, or as a person with --as and a folder of \
         your own"
    )]
    Unreadable {
        /// The state folder.
        folder: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The folder holds one already.
    #[error("{0} holds a federation already: use another folder; nothing was changed")]
    AlreadyThere(PathBuf),
    /// The folder holds a part of one.
    #[error(
        "{folder} holds a federation that `aggregator init` did not finish: remove {leftovers} there, and make it again"
    )]
    HalfMade {
        /// The state folder.
        folder: PathBuf,
        /// What it left there.
        leftovers: String,
    },
    /// Written by another version.
    #[error("{path} has schema version {found}, this program reads {expected}: use the version that wrote it")]
    Version {
        /// The state folder.
        path: PathBuf,
        /// What it has.
        found: i64,
        /// What is read here.
        expected: i64,
    },
    /// A run of that name exists.
    #[error("there is a run {0} already: give the plan another `run`")]
    RunExists(RunId),
    /// The token is unknown, used, expired, or for another site.
    #[error("{0}")]
    Token(&'static str),
    /// It was done too often in an hour.
    #[error("it was done too often in this hour")]
    TooOften,
    /// The disk is full.
    #[error("the disk is full: free some room below the state folder")]
    Full,
    /// A file could not be read or written; the state is as it was.
    #[error(
        "{what}: {source}; nothing was changed: see to the disk below the state folder, then it may be tried again"
    )]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// What is stored cannot be read back.
    #[error("the state is damaged: {0}; restore the state folder from a backup")]
    Damaged(String),
    /// The database said no.
    #[error(
        "the database: {0}; nothing was changed: if it is locked, end the other program that has state.db open, then it may \
         be tried again"
    )]
    Database(rusqlite::Error),
}

impl StoreError {
    /// What the system answered while something was being done with a file.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        if durable::is_full(&source) { Self::Full } else { Self::Io { what: what.into(), source } }
    }
}

/// The federation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationRecord {
    /// Its name.
    pub name: FederationName,
    /// Where sites reach it: host:port, as it stands in invitations.
    pub address: String,
    /// When it was made.
    pub created_at: Stamp,
}

/// An enrolled site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRecord {
    /// The site.
    pub site: SiteId,
    /// Serial number of its certificate: the newest one that it used.
    pub serial: String,
    /// When that expires.
    pub expires_at: Stamp,
    /// Serial number of a newer one, which was issued and not used yet. Both count until it is.
    pub renewal: Option<String>,
    /// When it enrolled.
    pub enrolled_at: Stamp,
    /// Whether its certificate was revoked.
    pub revoked: bool,
    /// What it signs its updates with.
    pub signing_key: Option<VerifyingKey>,
    /// The CAs that it knows: [`certs::authority::Authority::anchors`].
    pub anchors: Digest,
}

/// An enrolled site or person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// Who.
    pub holder: Holder,
    /// Serial number of the certificate: the newest one that was used.
    pub serial: String,
    /// When that expires.
    pub expires_at: Stamp,
    /// Serial number of a newer one, which was issued and not used yet. Both count until it is.
    pub renewal: Option<String>,
    /// When the holder enrolled.
    pub enrolled_at: Stamp,
    /// Whether the certificate was revoked.
    pub revoked: bool,
    /// What the holder signs with: a site its updates, a coordinator plans.
    pub signing_key: Option<VerifyingKey>,
    /// A coordinator's certificate for that key.
    pub signing_certificate: Option<String>,
    /// The CAs that it knows: [`certs::authority::Authority::anchors`].
    pub anchors: Digest,
    /// The CAs that it was told of with the newer certificate: who uses that one knows them.
    pub renewal_anchors: Option<Digest>,
}

impl MemberRecord {
    /// The record of a site, if it is one.
    pub fn of_site(self) -> Option<SiteRecord> {
        let Holder::Site(site) = self.holder else { return None };
        Some(SiteRecord {
            site,
            serial: self.serial,
            expires_at: self.expires_at,
            renewal: self.renewal,
            enrolled_at: self.enrolled_at,
            revoked: self.revoked,
            signing_key: self.signing_key,
            anchors: self.anchors,
        })
    }
}

/// A coordinator's hand under the plan of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureRecord {
    /// Whose.
    pub coordinator: PersonId,
    /// The key.
    pub key: VerifyingKey,
    /// Over [`common::signed::plan_statement`].
    pub signature: Ed25519,
    /// The key's certificate, as it was then.
    pub certificate_pem: String,
    /// When.
    pub signed_at: Stamp,
    /// Whether it counted when the run began, or was given after that.
    pub counted: bool,
}

impl SignatureRecord {
    /// Whose, as a holder.
    pub fn holder(&self) -> Holder {
        Holder::Person(Person::coordinator(self.coordinator.clone()))
    }
}

/// What a revocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Whether there was a certificate that counted.
    pub certificate: bool,
    /// Invitations that could still have been used.
    pub invitations: usize,
}

/// A certificate as it was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its serial number.
    pub serial: String,
    /// When it expires.
    pub expires_at: Stamp,
    /// What who enrols signs with; nothing in a renewal.
    pub signing_key: Option<VerifyingKey>,
    /// A coordinator's certificate for that key.
    pub signing_certificate: Option<String>,
    /// The CAs that are told along with it.
    pub anchors: Digest,
}

/// A run as it is written down.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// Order of start.
    pub ordinal: i64,
    /// Its plan.
    pub plan: Plan,
    /// The plan's canonical bytes, as sites approve them.
    pub plan_bytes: Vec<u8>,
    /// The plan's digest.
    pub plan_digest: Digest,
    /// When it was started.
    pub started_at: Stamp,
    /// How it stands.
    pub state: RunState,
    /// What keeps it from going on just now.
    pub trouble: Option<String>,
}

/// What the coordinator asked of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Its rounds are to stand still.
    pub paused: bool,
    /// It is to end, for this reason.
    pub abort: Option<String>,
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Coordinators must sign its plan first.
    Awaiting,
    /// Its rounds go on.
    Running,
    /// All rounds are done.
    Finished,
    /// It ended before its last round.
    Failed {
        /// Why.
        because: String,
    },
}

/// A try at a round, as it is written down.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundRecord {
    /// Which.
    pub attempt: Attempt,
    /// How it stands.
    pub state: RoundState,
    /// When it began.
    pub began_at: Stamp,
    /// When it ended.
    pub ended_at: Option<Stamp>,
    /// Its time, when that was last noted.
    pub time: Noted,
}

/// How a round stands.
#[derive(Clone, Debug, PartialEq)]
pub enum RoundState {
    /// Fewer than a quorum have joined.
    Gathering,
    /// The deadline runs.
    Training,
    /// The set is frozen.
    Merging(Outcome),
    /// Merged.
    Closed(Outcome, Merged),
    /// Ended without a merge.
    Abandoned(Outcome),
}

/// An acknowledged update.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateRecord {
    /// What was said of it.
    pub manifest: UpdateManifest,
    /// When it was acknowledged.
    pub received_at: Stamp,
    /// What had passed of the round's time then.
    pub spent: Duration,
    /// Its file is no longer kept, or is damaged.
    pub retired: bool,
}

/// What a site last said of how it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgressRecord {
    /// Who.
    pub site: SiteId,
    /// What.
    pub progress: Progress,
    /// When.
    pub heard_at: Stamp,
}

/// What a site measured of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoresRecord {
    /// The model.
    pub model: Digest,
    /// Who measured.
    pub site: SiteId,
    /// What.
    pub scores: Vec<Score>,
}

/// An upload on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadRecord {
    /// What was announced.
    pub manifest: UpdateManifest,
    /// Bytes that survive a power cut.
    pub durable: u64,
}

/// Which update: the key that has one digest for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpdateKey {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundNumber,
    /// The site.
    pub site: SiteId,
}

impl UpdateKey {
    /// The key of an announced update.
    pub fn of(manifest: &UpdateManifest) -> Self {
        Self { run: manifest.run.clone(), round: manifest.round, site: manifest.site.clone() }
    }
}

/// When actions are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the wall's clock.
    pub wall: Stamp,
    /// By the time of the round that is open.
    pub of_round: Duration,
}

/// What belongs to actions that are written down.
#[derive(Clone, Copy, Debug)]
pub enum Details<'a> {
    /// Nothing.
    None,
    /// The update of a site's report.
    Update(&'a UpdateManifest),
    /// What came of the merge.
    Merge(&'a Merged),
}

/// The durable state of one federation. Every method is one transaction.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The federation.
    fn federation(&self) -> Result<FederationRecord, StoreError>;

    /// Remembers an invitation by the hash of its token. Earlier ones of the holder that are unused expire; says how many.
    fn invite(
        &self,
        token: Digest,
        holder: &Holder,
        by: &Actor,
        now: Stamp,
        expires_at: Stamp,
    ) -> Result<usize, StoreError>;

    /// Exchanges a token for a certificate: burns it and writes down what `issue` made, together. The same token with the
    /// same request gets the same certificate again, so that a lost answer costs nothing.
    fn redeem(
        &self,
        token: Digest,
        holder: &Holder,
        request: Digest,
        now: Stamp,
        issue: &mut dyn FnMut() -> Result<Issued, StoreError>,
    ) -> Result<Issued, StoreError>;

    /// Gives a holder that presents the certificate `serial` a newer one. Asked again with the same request, the answer is the
    /// same, until that certificate was used. None if what it presents does not count.
    fn renew(
        &self,
        holder: &Holder,
        serial: &str,
        request: Digest,
        now: Stamp,
        issue: &mut dyn FnMut() -> Result<Issued, StoreError>,
    ) -> Result<Option<Issued>, StoreError>;

    /// Notes that a holder used the newer one of its certificates: the older one counts no more.
    fn note_used(&self, holder: &Holder, serial: &str) -> Result<(), StoreError>;

    /// The enrolled sites and persons.
    fn members(&self) -> Result<Vec<MemberRecord>, StoreError>;

    /// The enrolled sites.
    fn sites(&self) -> Result<Vec<SiteRecord>, StoreError> {
        Ok(self.members()?.into_iter().filter_map(MemberRecord::of_site).collect())
    }

    /// Revokes a holder's certificate, and lets its unused invitations expire; says what there was.
    fn revoke(&self, holder: &Holder, by: &Actor, now: Stamp) -> Result<Revoked, StoreError>;

    /// Starts a run, or lets it await its signatures if the plan needs some. Its first model is stored before; `check` sees that
    /// it is there, while nothing can take it away. With it a coordinator's `hand` is put under the plan, if there is one: both or neither
    /// are written down.
    fn start_run(
        &self,
        plan: &Plan,
        hand: Option<&SignatureRecord>,
        by: &Actor,
        now: Stamp,
        check: &mut dyn FnMut() -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// All runs, in the order of their start, but for the first `skip`. One that is damaged hides no other.
    fn runs(&self, skip: usize) -> Result<Vec<Result<RunRecord, StoreError>>, StoreError>;

    /// Writes down what the coordinator asks of a run, in the place of what was asked `before`; of a run of which nothing was, that
    /// is the default. False, and nothing is written, if by now something else is asked: somebody else was quicker.
    fn wish(&self, run: &RunId, before: &Wish, wish: &Wish, by: &Actor, now: Stamp) -> Result<bool, StoreError>;

    /// Writes down a coordinator's hand under the plan of a run, in the place of one of the same coordinator.
    fn sign(&self, run: &RunId, plan: Digest, signature: &SignatureRecord) -> Result<(), StoreError>;

    /// The coordinators' hands under the plan of a run.
    fn signatures(&self, run: &RunId) -> Result<Vec<SignatureRecord>, StoreError>;

    /// What was asked of runs.
    fn wishes(&self) -> Result<BTreeMap<RunId, Wish>, StoreError>;

    /// All tries at all rounds of a run, in their order.
    fn rounds(&self, run: &RunId) -> Result<Vec<RoundRecord>, StoreError>;

    /// Everybody's last word in the open try at a round.
    fn roll(&self, run: &RunId, attempt: Attempt) -> Result<Roll, StoreError>;

    /// The acknowledged updates of a round.
    fn updates(&self, run: &RunId, round: RoundNumber) -> Result<BTreeMap<SiteId, UpdateRecord>, StoreError>;

    /// The acknowledged update of a key.
    fn update(&self, key: &UpdateKey) -> Result<Option<UpdateRecord>, StoreError>;

    /// Writes down what was decided.
    fn record(
        &self,
        run: &RunId,
        actions: &[RunAction],
        details: Details<'_>,
        moment: Moment,
    ) -> Result<(), StoreError>;

    /// What had passed of a round's time when each site first joined it, of those that did and have not declined since.
    fn joined(&self, run: &RunId, round: RoundNumber) -> Result<BTreeMap<SiteId, Duration>, StoreError>;

    /// Notes a round's time.
    fn note_time(&self, run: &RunId, attempt: Attempt, time: Noted) -> Result<(), StoreError>;

    /// Notes what keeps a run from going on, or that nothing does.
    fn note_trouble(&self, run: &RunId, trouble: Option<&str>) -> Result<(), StoreError>;

    /// Announces an upload, in the place of another one of the same key. False if uploads and stored updates would take
    /// more than `room` bytes.
    fn begin_upload(&self, manifest: &UpdateManifest, room: u64) -> Result<bool, StoreError>;

    /// Uploads on their way.
    fn uploads(&self) -> Result<Vec<UploadRecord>, StoreError>;

    /// Notes how many bytes of an upload survive a power cut.
    fn note_durable(&self, key: &UpdateKey, bytes: u64) -> Result<(), StoreError>;

    /// Forgets an upload, and gives `remove` its blob if no other record names it.
    fn forget_upload(
        &self,
        key: &UpdateKey,
        remove: &mut dyn FnMut(Digest) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Gives `remove` those of some blobs that no record names.
    fn remove_unnamed(
        &self,
        blobs: &[Digest],
        remove: &mut dyn FnMut(Digest) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Gives `remove` every blob of an update that none of the last `keep` merged rounds of a run needs and no other
    /// record names, and stops counting them against the room; without `keep`, every update of the run. Every state of the
    /// server's as well, but for the last one of a run that goes on.
    fn retire(
        &self,
        run: &RunId,
        keep: Option<u32>,
        remove: &mut dyn FnMut(Digest) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Notes what a site says of how it goes. The one thing that may be lost in a power cut.
    fn note_progress(&self, site: &SiteId, progress: &Progress, now: Stamp) -> Result<(), StoreError>;

    /// Writes down what a site measured of a model, in the place of what it said before.
    fn note_scores(
        &self,
        run: &RunId,
        model: Digest,
        site: &SiteId,
        scores: &[Score],
        now: Stamp,
    ) -> Result<(), StoreError>;

    /// What was measured of a run's models.
    fn scores(&self, run: &RunId) -> Result<Vec<ScoresRecord>, StoreError>;

    /// Enters into the ledger what no other method does.
    fn enter(&self, event: &Event<'_>, now: Stamp) -> Result<(), StoreError>;

    /// How far the ledger goes.
    fn ledger_head(&self) -> Result<Head, StoreError>;

    /// The ledger's lines after the first `skip`, `most` at a time.
    fn ledger(&self, skip: u64, most: u64) -> Result<Vec<String>, StoreError>;

    /// What the sites last said, for each run they said it of.
    fn progress(&self) -> Result<Vec<ProgressRecord>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_trouble_with_a_file_keeps_its_cause_and_is_not_told_as_damage() {
        let told = StoreError::io("storing a model", io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(told.contains("storing a model: permission denied") && !told.contains("backup"), "{told}");
        assert!(matches!(StoreError::io("storing a model", io::ErrorKind::StorageFull.into()), StoreError::Full));
    }
}
