//! All runs, sites and uploads of one state folder, and what is done when something is heard of them.
//!
//! [`crate::run`] decides; the store writes the decision down; only then is it believed here and acted on. So memory is
//! never ahead of the disk, and a crash at any point is a restart from what was written. Every method blocks; the server
//! calls them off its event loop. This module knows no wire and no TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certs::signing::SigningKey;
use common::signed::VerifyingKey;
use common::{Digest, FederationName, Holder, Person, Refusal, RunId, SiteId};
use tokio::sync::{Notify, watch};

use crate::allowance::{Allowance, Repeated};
use crate::checksum::Checksum;
use crate::clock::Clock;
use crate::door::{Door, TurnedAway};
use crate::forecast;
use crate::layout::Layout;
use crate::round::{Heard, Round, Word};
use crate::round_time::RoundTime;
use crate::run::{ABORTED, Attempt, Run, RunEvent, RunRules};
use crate::store::lock::LockError;
use crate::store::{
    Blobs, Details, MemberRecord, RunRecord, SqliteStore, StateLock, Store, StoreError, UpdateKey, Wish,
};
use course::grace_of;
use mending::Doubts;
use uploads::Upload;

mod acceptance;
mod admission;
mod course;
mod downloads;
mod enrolment;
mod mending;
mod merging;
mod received;
mod reports;
mod scores;
mod signing;
mod uploads;

pub use admission::{Admitted, Stands};
pub use downloads::{Blob, Handout};
pub use signing::Signatures;
pub use uploads::UploadState;

/// What the server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that uploads and stored updates may take together.
    pub spool_bytes: u64,
    /// Merged rounds whose updates stay on disk while the run goes on, for audit.
    pub keep_updates_of_rounds: u32,
}

/// One federation, served from one state folder.
#[derive(Debug)]
pub struct Federation {
    store: Box<dyn Store>,
    blobs: Blobs,
    clock: Arc<dyn Clock>,
    limits: Limits,
    live: Mutex<Live>,
    /// Who is enrolled, as last read. Apart from `live`, which is locked while the disk is waited for: every call asks this
    /// before it leaves the event loop, and every connection watches it.
    admitted: watch::Sender<Admitted>,
    /// Newer certificates that were presented: written down with the next refresh.
    used: Mutex<BTreeSet<(Holder, String)>>,
    /// Who was turned away: entered in the ledger with the next refresh.
    door: Mutex<Door>,
    /// What members had entered there in this hour.
    allowance: Mutex<Allowance>,
    uploads: Mutex<BTreeMap<UpdateKey, Arc<Upload>>>,
    /// How many they were when that was looked at last.
    uploading: AtomicUsize,
    /// Files that were removed, to be closed where nobody waits: of many gigabytes that takes seconds.
    closing: Mutex<Vec<File>>,
    /// Updates that are no longer needed, whose files wait to be written over by the next round's: so many as these take room,
    /// as the next uploads would anyway.
    spares: Mutex<Vec<Digest>>,
    /// Checksums of stored updates whose digest was taken as they came, in this process's life.
    checked: Mutex<BTreeMap<Digest, Checksum>>,
    /// Models that may be damaged.
    doubts: Mutex<Doubts>,
    /// A round's set was frozen.
    frozen: Notify,
    /// A model fell into doubt. Apart: one that cannot be mended does so again and again.
    doubted: Notify,
    /// The federation's name, which every statement holds.
    name: FederationName,
    /// What models are signed with; none where nobody checks.
    signer: Option<Arc<SigningKey>>,
    /// Signatures that a plan must ask for to be started.
    least_signatures: u32,
    _lock: StateLock,
}

/// Why a state folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder cannot be used.
    #[error("the state folder cannot be used: {0}")]
    Io(#[from] std::io::Error),
}

/// What is believed: exactly what was written down.
#[derive(Debug, Default)]
struct Live {
    /// In the order of their start.
    runs: Vec<LiveRun>,
    /// Runs that were read, with those that are damaged.
    read: usize,
}

/// Why an event had no effect.
#[derive(Debug, thiserror::Error)]
enum Undecided {
    /// It does not count.
    #[error(transparent)]
    Refused(Refusal),
    /// What follows from it could not be written down.
    #[error(transparent)]
    Store(StoreError),
}

impl From<Undecided> for Refusal {
    fn from(undecided: Undecided) -> Self {
        match undecided {
            Undecided::Refused(refusal) => refusal,
            Undecided::Store(error) => refusal(error),
        }
    }
}

#[derive(Debug)]
struct LiveRun {
    record: RunRecord,
    rules: RunRules,
    layout: Arc<Layout>,
    run: Run,
    /// The open round's; its deadline is with the plan's grace.
    time: RoundTime,
    /// Whether the coordinator paused it: its round's time stands still.
    paused: bool,
    /// Whether the model that its round starts from is damaged: then as well.
    damaged: bool,
    /// The model that the last merged round started from; the first model if none was merged.
    before: Digest,
    /// Why the round's end could not be written, and when that was tried last.
    trouble: Option<(String, Duration)>,
}

/// Time between two notes of a round's time; a crash gives back no more than this.
const NOTED_EVERY: Duration = Duration::from_secs(1);
/// Pause before the end of a round that could not be written is tried again.
const END_AGAIN: Duration = Duration::from_secs(5);
/// Removed files that are closed later, at most: each is a file that is open.
const CLOSED_LATER: usize = 64;

impl Federation {
    /// Takes the state folder, and goes on from what is written there.
    pub fn open(state: &Path, limits: Limits, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::with_store(state, Box::new(SqliteStore::open(state)?.for_writing()?), limits, clock)
    }

    /// The same with a store of another kind; the blobs are in the state folder.
    pub fn with_store(
        state: &Path,
        store: Box<dyn Store>,
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let lock = StateLock::take(state)?;
        let blobs = Blobs::open(state)?;
        let name = store.federation()?.name;
        let federation = Self {
            name,
            signer: None,
            least_signatures: 0,
            store,
            blobs,
            clock,
            limits,
            live: Mutex::default(),
            admitted: watch::Sender::default(),
            used: Mutex::default(),
            door: Mutex::default(),
            allowance: Mutex::default(),
            uploads: Mutex::default(),
            uploading: AtomicUsize::default(),
            closing: Mutex::default(),
            spares: Mutex::default(),
            checked: Mutex::default(),
            doubts: Mutex::default(),
            frozen: Notify::new(),
            doubted: Notify::new(),
            _lock: lock,
        };
        federation.refresh()?;
        federation.resume_uploads()?;
        federation.doubt_all();
        Ok(federation)
    }

    /// The same with a key to sign models with.
    pub fn signing_with(self, key: SigningKey) -> Self {
        Self { signer: Some(Arc::new(key)), ..self }
    }

    /// The same, where a plan must ask for so many signatures of coordinators to be started.
    pub fn requiring_signatures(self, least: u32) -> Self {
        Self { least_signatures: least, ..self }
    }

    /// Signatures that a plan must ask for to be started.
    pub fn least_signatures(&self) -> u32 {
        self.least_signatures
    }

    /// The public half of the key that models are signed with.
    pub fn verifying_key(&self) -> Option<VerifyingKey> {
        self.signer.as_ref().map(|key| key.verifying())
    }

    /// The key itself, to sign answers with where TLS does not reach from one end to the other.
    pub fn signer(&self) -> Option<Arc<SigningKey>> {
        self.signer.clone()
    }

    /// Looks for what the operator's commands wrote: sites that were enrolled or revoked, runs that were started. A run that
    /// is damaged is left aside; the others go on.
    pub fn refresh(&self) -> Result<(), StoreError> {
        // Locked from the first read on: of two refreshes, the later one must not be overwritten by what the other read.
        let mut live = self.live();
        for (holder, serial) in self.take_used() {
            self.store.note_used(&holder, &serial)?;
        }
        self.admit(self.store.members()?);
        for found in self.store.runs(live.read)? {
            match found.and_then(|record| self.restored(record)) {
                Ok(run) => {
                    tracing::info!(run = %run.id(), plan = %run.record.plan_digest, "run found");
                    if matches!(run.run, Run::Merging(..)) {
                        self.frozen.notify_one();
                    }
                    live.runs.push(run);
                }
                Err(error @ StoreError::Damaged(_)) => {
                    tracing::error!(%error, "a run is left aside until the next start")
                }
                Err(error) => return Err(error),
            }
            live.read += 1;
        }
        let wishes = self.store.wishes()?;
        let revoked = self.admitted.borrow().revoked();
        for run in &mut live.runs {
            if let Some(wish) = wishes.get(run.id()) {
                self.heed(run, wish);
            }
            if let Err(error) = self.release(run) {
                tracing::error!(run = %run.id(), %error, "a run that is signed could not begin; it is tried again");
            }
            self.leave_revoked_out(run, &revoked);
        }
        drop(live);
        self.forget_uploads_of(&revoked);
        self.enter_turned_away();
        Ok(())
    }

    /// Writes down at once which newer certificates were presented. Whoever is told so reads it there.
    pub fn note_used(&self) -> Result<(), StoreError> {
        // Whoever holds this may be about to write down what it has taken.
        drop(self.live());
        let is_noted = self.used.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_noted { Ok(()) } else { self.refresh() }
    }

    /// Somebody was turned away: the ledger tells of it with the next refresh, if [`Door`] says so.
    pub fn turned_away(&self, turned_away: TurnedAway) {
        self.door().hears(turned_away, self.clock.wall());
    }

    /// Whether a member may have one more entry of this kind in the ledger, of so many in an hour; that it may not is told there, once in an hour.
    fn allows(&self, who: &Holder, what: Repeated, most: u32) -> bool {
        let deed = what.words();
        let takes = {
            let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
            allowance.takes(who, what, most, self.clock.wall())
        };
        if !takes {
            tracing::debug!(%who, deed, "too often in this hour");
            self.turned_away(TurnedAway::Calling { who: Some(who.clone()), deed, code: "too-often" });
        }
        takes
    }

    /// Enters who was turned away. What cannot be written stays due, and keeps nothing else from being done.
    pub(crate) fn enter_turned_away(&self) {
        let now = self.clock.wall();
        let mut due = self.door().take_due(now);
        let entered = due.iter().position(|telling| {
            let entered = self.store.enter(&telling.event(), now);
            entered.inspect_err(|error| tracing::debug!(%error, "who was turned away is not entered yet")).is_err()
        });
        if let Some(entered) = entered {
            self.door().put_back(due.split_off(entered));
        }
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts who is enrolled in the place of who was; every connection hears of a change.
    fn admit(&self, members: Vec<MemberRecord>) {
        self.admitted.send_if_modified(|admitted| {
            let now = Admitted::of(members);
            let changed = *admitted != now;
            *admitted = now;
            changed
        });
    }

    fn take_used(&self) -> BTreeSet<(Holder, String)> {
        std::mem::take(&mut self.used.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets nothing of sites that were revoked count in the open round.
    fn leave_revoked_out(&self, live: &mut LiveRun, revoked: &[SiteId]) {
        for site in revoked {
            let Some((attempt, round)) = live.open().filter(|_| live.invites(site)) else { continue };
            if round.roll().and_then(|roll| roll.get(site)) == Some(&Word::Revoked) {
                continue;
            }
            tracing::warn!(run = %live.id(), round = %attempt.round, %site, "revoked: nothing of it counts in this round");
            let said = Heard { site: site.clone(), round: attempt.round, word: Word::Revoked };
            if let Err(error) = self.decide(live, RunEvent::Heard(said), Details::None) {
                tracing::error!(run = %live.id(), %site, %error, "a revoked site could not be left out; it is tried again");
            }
        }
    }

    /// Does what the coordinator asked of a run.
    fn heed(&self, live: &mut LiveRun, wish: &Wish) {
        if wish.paused != live.paused && !live.run.is_over() {
            tracing::info!(run = %live.id(), paused = wish.paused, "as the coordinator asks");
            live.paused = wish.paused;
            live.let_time_pass(self.clock.elapsed());
        }
        if let Some(because) = wish.abort.as_ref().filter(|_| !live.run.is_over()) {
            let aborted = RunEvent::Aborted { because: format!("{ABORTED}{because}") };
            if let Err(error) = self.decide(live, aborted, Details::None) {
                tracing::error!(run = %live.id(), %error, "the run could not be aborted; it is tried again");
            }
        }
    }

    /// Ends rounds whose time is up, and forgets uploads that came too late.
    pub fn tick(&self) {
        let now = self.clock.elapsed();
        let mut live = self.live();
        for run in &mut live.runs {
            let Some(left) = run.time.left(now).filter(|_| run.time.passes()) else { continue };
            if run.trouble.as_ref().is_some_and(|(_, tried)| now < *tried + END_AGAIN) {
                continue;
            }
            if left > grace_of(&run.record) || (!left.is_zero() && self.is_worth_waiting(run, now)) {
                continue;
            }
            let (time, before) = (run.time, run.trouble.take());
            if let Err(error) = self.decide(run, RunEvent::TimeUp, Details::None) {
                let trouble = error.to_string();
                if before.is_none_or(|(before, _)| before != trouble) {
                    tracing::error!(run = %run.id(), %error, "the round's time is up, but its end could not be written");
                }
                // Unless it was written after all, and what was read again has another deadline or none.
                if run.time.end() == time.end() {
                    run.trouble = Some((trouble, now));
                }
            }
        }
        self.forget_late_uploads(&live);
    }

    /// Gives back the room of files that were removed.
    pub fn close_removed(&self) {
        let removed = std::mem::take(&mut *self.closing());
        drop(removed);
    }

    /// Whether somebody is no later than usual in a round whose deadline has passed. What cannot be read is not waited for.
    fn is_worth_waiting(&self, run: &LiveRun, now: Duration) -> bool {
        let Some((attempt, round)) = run.open() else { return false };
        let forecasts = forecast::read(&*self.store, run.id(), attempt.round);
        let at_work =
            self.store.joined(run.id(), attempt.round).map(|joined| forecast::at_work(joined, run.time.spent(now)));
        let told = || Some(forecast::is_worth_waiting(round.roll()?, &forecasts.ok()?, &at_work.ok()?));
        told().unwrap_or(false)
    }

    /// Notes the time of the open rounds; to be called every [`Federation::noted_every`].
    pub fn note_time(&self) {
        let now = self.clock.elapsed();
        for run in self.live().runs.iter().filter(|run| run.time.passes()) {
            if let Some((attempt, _)) = run.open()
                && let Err(error) = self.store.note_time(run.id(), attempt, run.time.noted(now))
            {
                tracing::warn!(run = %run.id(), %error, "the round's time could not be noted");
            }
        }
    }

    /// Time between two calls of [`Federation::note_time`].
    pub fn noted_every() -> Duration {
        NOTED_EVERY
    }

    /// Completes when a round's set was frozen since the last time, or a model fell into doubt: there is something to merge.
    pub async fn something_to_merge(&self) {
        tokio::select! {
            () = self.frozen.notified() => {}
            () = self.doubted.notified() => {}
        }
    }

    /// Completes when a round's set was frozen since the last time.
    pub async fn round_frozen(&self) {
        self.frozen.notified().await;
    }

    /// Whether a certificate still counts: the newest one that an enrolled site used, or a newer one; not revoked.
    pub fn admits(&self, site: &SiteId, serial: &str) -> Result<(), Refusal> {
        if self.counts(&site.into(), serial) { Ok(()) } else { Err(Refusal::Revoked(site.clone())) }
    }

    /// Whether a person's certificate still counts.
    pub fn admits_person(&self, person: &Person, serial: &str) -> Result<(), Refusal> {
        match self.counts(&person.clone().into(), serial) {
            true => Ok(()),
            false => Err(Refusal::PersonRevoked(person.clone())),
        }
    }

    fn counts(&self, holder: &Holder, serial: &str) -> bool {
        let stands = self.admitted.borrow().stands(holder, serial);
        if stands == Some(Stands::Newer) {
            let used = (holder.clone(), serial.to_owned());
            self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(used);
        }
        stands.is_some()
    }

    /// The store, for what people ask for; [`Federation::refresh`] takes over what is written there.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The blobs.
    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The federation's name.
    pub fn name(&self) -> &FederationName {
        &self.name
    }

    /// What the server may take.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// The ledger's end in the aggregator's hand; none where it signs with nothing.
    pub fn colophon(&self, head: common::ledger::Head) -> Option<crate::ledger::Colophon> {
        Some(crate::ledger::Colophon::signed(&self.name, head, self.signer.as_ref()?))
    }

    /// Who is enrolled, and every change of it.
    pub fn admitted(&self) -> watch::Receiver<Admitted> {
        self.admitted.subscribe()
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // A thread that panicked changed nothing here: a decision is believed after it is written, by one assignment.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checked(&self) -> MutexGuard<'_, BTreeMap<Digest, Checksum>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closing(&self) -> MutexGuard<'_, Vec<File>> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_blob(&self, blob: Digest) -> Result<(), StoreError> {
        self.checked().remove(&blob);
        let removed =
            self.blobs.remove(blob).map_err(|error| StoreError::io(format!("removing blob {blob}"), error))?;
        let mut closing = self.closing();
        // One too many is closed here.
        let has_room = closing.len() < CLOSED_LATER;
        closing.extend(removed.filter(|_| has_room));
        Ok(())
    }
}

impl LiveRun {
    fn id(&self) -> &RunId {
        self.record.plan.run()
    }

    /// The time of its round passes, unless something is in its way.
    fn let_time_pass(&mut self, now: Duration) {
        self.time.let_pass(!self.paused && !self.damaged && self.open().is_some(), now);
    }

    fn invites(&self, site: &SiteId) -> bool {
        self.record.plan.draft.rounds.sites.contains(site)
    }

    /// The attempt whose round takes updates.
    fn open(&self) -> Option<(Attempt, &Round)> {
        match &self.run {
            Run::Open(attempt, round) => Some((*attempt, round)),
            _ => None,
        }
    }
}

impl Live {
    fn run(&mut self, run: &RunId) -> Option<&mut LiveRun> {
        self.runs.iter_mut().find(|live| live.id() == run)
    }

    /// A run as one of its sites finds it. To any other it is as if it were not there: what runs there are is none of its business.
    fn run_of(&mut self, run: &RunId, site: &SiteId) -> Option<&mut LiveRun> {
        self.run(run).filter(|live| live.invites(site))
    }
}

/// What the wire hears of the store's trouble; the log hears more.
fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Full => {
            tracing::error!("the disk is full");
            Refusal::DiskFull
        }
        StoreError::Token(why) => Refusal::Token(why.to_owned()),
        StoreError::TooOften => Refusal::Unavailable,
        error => {
            tracing::error!(%error, "the store failed");
            Refusal::Unavailable
        }
    }
}

/// What the wire hears of the disk's trouble; the log hears more.
fn io_refusal(what: &str, error: &std::io::Error) -> Refusal {
    tracing::error!(what, %error, "the disk failed");
    if crate::store::durable::is_full(error) { Refusal::DiskFull } else { Refusal::Unavailable }
}
