//! The Nth write fails, for every N: before it has an effect, after it, or with the process dying of it. Nothing is
//! acknowledged that is not stored, and the run ends with the same model.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aggregator::clock::Stamp;
use aggregator::federation::Federation;
use aggregator::ledger::{Actor, Event};
use aggregator::round::Word;
use aggregator::round_time::Noted;
use aggregator::run::{Attempt, RunAction};
use aggregator::status::{self, RunPhase};
use aggregator::store::{
    Details, FederationRecord, Issued, MemberRecord, Moment, ProgressRecord, Revoked, RoundRecord, RunRecord,
    ScoresRecord, SignatureRecord, SqliteStore, Store, StoreError, UpdateKey, UpdateRecord, UploadRecord, Wish,
};
use common::ledger::Head;
use common::{Digest, Directive, Holder, Phase, Plan, Progress, RoundNumber, RunId, Score, SiteId, UpdateManifest};

use crate::bench::{Bench, ROOMY, plan_draft, run_id, site_id, weights};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The write does not happen.
    Before,
    /// The write happens, and is told as failed.
    After,
    /// The write happens, and the process dies: nothing of the turn runs after it but destructors.
    Crash,
}

/// What a store says that is not so: bugs, planted below the real aggregator to see that the stories find them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lie {
    /// Every third report was written down: it was not.
    SaysItWroteAReport,
    /// Nobody's update was ever retired.
    ForgetsWhoWasRetired,
    /// Nobody has said anything in this attempt.
    ForgetsTheRoll,
    /// A round that has a deadline has all the time in the world.
    LosesTheDeadline,
}

/// A store whose Nth write fails, or that lies.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) store: SqliteStore,
    pub(crate) writes: Arc<AtomicUsize>,
    pub(crate) fails_at: usize,
    pub(crate) fault: Fault,
    pub(crate) lie: Option<Lie>,
}

impl Faulty {
    fn write<T>(&self, write: impl FnOnce(&SqliteStore) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.writes.fetch_add(1, Ordering::SeqCst) != self.fails_at {
            return write(&self.store);
        }
        if self.fault != Fault::Before {
            write(&self.store)?;
        }
        if self.fault == Fault::Crash {
            // Unwinds without a word, to where the process's death is noticed.
            resume_unwind(Box::new("dead"));
        }
        Err(StoreError::Full)
    }
}

impl Store for Faulty {
    fn federation(&self) -> Result<FederationRecord, StoreError> {
        self.store.federation()
    }
    fn invite(
        &self,
        token: Digest,
        holder: &Holder,
        by: &Actor,
        now: Stamp,
        expires_at: Stamp,
    ) -> Result<usize, StoreError> {
        self.write(|store| store.invite(token, holder, by, now, expires_at))
    }
    fn redeem(
        &self,
        token: Digest,
        holder: &Holder,
        request: Digest,
        now: Stamp,
        issue: &mut dyn FnMut() -> Result<Issued, StoreError>,
    ) -> Result<Issued, StoreError> {
        self.write(|store| store.redeem(token, holder, request, now, issue))
    }
    fn renew(
        &self,
        holder: &Holder,
        serial: &str,
        request: Digest,
        now: Stamp,
        issue: &mut dyn FnMut() -> Result<Issued, StoreError>,
    ) -> Result<Option<Issued>, StoreError> {
        self.write(|store| store.renew(holder, serial, request, now, issue))
    }
    fn note_used(&self, holder: &Holder, serial: &str) -> Result<(), StoreError> {
        self.write(|store| store.note_used(holder, serial))
    }
    fn members(&self) -> Result<Vec<MemberRecord>, StoreError> {
        self.store.members()
    }
    fn revoke(&self, holder: &Holder, by: &Actor, now: Stamp) -> Result<Revoked, StoreError> {
        self.write(|store| store.revoke(holder, by, now))
    }
    fn sign(&self, run: &RunId, plan: Digest, signature: &SignatureRecord) -> Result<(), StoreError> {
        self.write(|store| store.sign(run, plan, signature))
    }
    fn signatures(&self, run: &RunId) -> Result<Vec<SignatureRecord>, StoreError> {
        self.store.signatures(run)
    }
    fn start_run(
        &self,
        plan: &Plan,
        hand: Option<&SignatureRecord>,
        by: &Actor,
        now: Stamp,
        check: &mut dyn FnMut() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.write(|store| store.start_run(plan, hand, by, now, check))
    }
    fn runs(&self, skip: usize) -> Result<Vec<Result<RunRecord, StoreError>>, StoreError> {
        self.store.runs(skip)
    }
    fn wish(&self, run: &RunId, before: &Wish, wish: &Wish, by: &Actor, now: Stamp) -> Result<bool, StoreError> {
        self.write(|store| store.wish(run, before, wish, by, now))
    }
    fn wishes(&self) -> Result<BTreeMap<RunId, Wish>, StoreError> {
        self.store.wishes()
    }
    fn rounds(&self, run: &RunId) -> Result<Vec<RoundRecord>, StoreError> {
        let mut rounds = self.store.rounds(run)?;
        if self.lie == Some(Lie::LosesTheDeadline) {
            const FOREVER: Duration = Duration::from_secs(1 << 30);
            rounds.iter_mut().for_each(|round| round.time.left = Some(FOREVER));
        }
        Ok(rounds)
    }
    fn roll(&self, run: &RunId, attempt: Attempt) -> Result<aggregator::round::Roll, StoreError> {
        match self.lie {
            Some(Lie::ForgetsTheRoll) => Ok(BTreeMap::new()),
            Some(Lie::ForgetsWhoWasRetired) => {
                let mut roll = self.store.roll(run, attempt)?;
                let updates = self.store.updates(run, attempt.round)?;
                roll.extend(updates.into_iter().map(|(site, update)| (site, Word::Reported(update.manifest.blob))));
                Ok(roll)
            }
            _ => self.store.roll(run, attempt),
        }
    }
    fn update(&self, key: &UpdateKey) -> Result<Option<UpdateRecord>, StoreError> {
        self.store.update(key)
    }

    fn updates(&self, run: &RunId, round: RoundNumber) -> Result<BTreeMap<SiteId, UpdateRecord>, StoreError> {
        self.store.updates(run, round)
    }
    fn joined(&self, run: &RunId, round: RoundNumber) -> Result<BTreeMap<SiteId, Duration>, StoreError> {
        self.store.joined(run, round)
    }
    fn record(&self, run: &RunId, actions: &[RunAction], details: Details<'_>, at: Moment) -> Result<(), StoreError> {
        let says_so = self.lie == Some(Lie::SaysItWroteAReport) && self.writes.load(Ordering::SeqCst).is_multiple_of(3);
        if says_so && matches!(actions, [RunAction::Record(heard)] if matches!(heard.word, Word::Reported(_))) {
            return Ok(());
        }
        self.write(|store| store.record(run, actions, details, at))
    }
    fn note_time(&self, run: &RunId, attempt: Attempt, time: Noted) -> Result<(), StoreError> {
        self.write(|store| store.note_time(run, attempt, time))
    }
    fn note_trouble(&self, run: &RunId, trouble: Option<&str>) -> Result<(), StoreError> {
        self.write(|store| store.note_trouble(run, trouble))
    }
    fn begin_upload(&self, manifest: &UpdateManifest, room: u64) -> Result<bool, StoreError> {
        self.write(|store| store.begin_upload(manifest, room))
    }
    fn uploads(&self) -> Result<Vec<UploadRecord>, StoreError> {
        self.store.uploads()
    }
    fn note_durable(&self, key: &UpdateKey, bytes: u64) -> Result<(), StoreError> {
        self.write(|store| store.note_durable(key, bytes))
    }
    fn note_scores(
        &self,
        run: &RunId,
        model: Digest,
        site: &SiteId,
        scores: &[Score],
        now: Stamp,
    ) -> Result<(), StoreError> {
        self.write(|store| store.note_scores(run, model, site, scores, now))
    }
    fn scores(&self, run: &RunId) -> Result<Vec<ScoresRecord>, StoreError> {
        self.store.scores(run)
    }
    fn forget_upload(
        &self,
        key: &UpdateKey,
        remove: &mut dyn FnMut(Digest) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.write(|store| store.forget_upload(key, remove))
    }
    fn retire(
        &self,
        run: &RunId,
        keep: Option<u32>,
        remove: &mut dyn FnMut(Digest) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.write(|store| store.retire(run, keep, remove))
    }
    fn remove_unnamed(
        &self,
        blobs: &[Digest],
        remove: &mut dyn FnMut(Digest) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.write(|store| store.remove_unnamed(blobs, remove))
    }
    fn note_progress(&self, site: &SiteId, progress: &Progress, now: Stamp) -> Result<(), StoreError> {
        self.write(|store| store.note_progress(site, progress, now))
    }
    fn enter(&self, event: &Event<'_>, now: Stamp) -> Result<(), StoreError> {
        self.write(|store| store.enter(event, now))
    }
    fn ledger_head(&self) -> Result<Head, StoreError> {
        self.store.ledger_head()
    }
    fn ledger(&self, skip: u64, most: u64) -> Result<Vec<String>, StoreError> {
        self.store.ledger(skip, most)
    }
    fn progress(&self) -> Result<Vec<ProgressRecord>, StoreError> {
        self.store.progress()
    }
}

/// A run of two rounds to its end, with sites that try again; returns the models and how many writes it took.
fn story(fails_at: usize, fault: Fault) -> (Vec<Digest>, usize) {
    let bench = Bench::with_run(60, 2, 2, 2);
    let (path, clock) = (bench.path(), bench.clock.clone());
    let bench = bench.closed();
    let writes = Arc::new(AtomicUsize::new(0));
    let open = |path: &Path| {
        let store = SqliteStore::open(path).unwrap();
        let store = Faulty { store, writes: writes.clone(), fails_at, fault, lie: None };
        Federation::with_store(path, Box::new(store), ROOMY, clock.clone())
    };
    let mut federation = None;
    for turn in 0..200 {
        // A start may fail as well; it is tried again.
        let start = || open(&path).ok();
        let living = federation.take().or_else(|| catch_unwind(AssertUnwindSafe(start)).ok().flatten());
        let Some(living) = living else { continue };
        let run = status::read(&bench.store(), Stamp(0)).unwrap().runs.remove(0);
        if run.state != RunPhase::Running {
            assert_eq!(run.state, RunPhase::Finished, "write {fails_at} {fault:?}: {:?}", run.because);
            assert!(run.rounds.iter().all(|round| round.sites.len() == 3), "write {fails_at} {fault:?}");
            return (run.rounds.iter().filter_map(|round| round.model).collect(), writes.load(Ordering::SeqCst));
        }
        // What fails is tried again in the next turn, as agents do.
        let lived = catch_unwind(AssertUnwindSafe(|| {
            match turn % 4 {
                0 => drop(living.merge_frozen()),
                index => drop(one_turn(&living, &bench, ["a", "b", "c"][index - 1], index)),
            }
            living.tick();
        }));
        match lived {
            Ok(()) => federation = Some(living),
            Err(died) => assert_eq!(died.downcast_ref(), Some(&"dead"), "write {fails_at} {fault:?}"),
        }
    }
    panic!("write {fails_at} {fault:?}: the run did not end");
}

fn one_turn(federation: &Federation, bench: &Bench, site: &str, index: usize) -> Result<(), common::Refusal> {
    let idle = federation.report(&site_id(site), &Progress::idle())?;
    let Directive::Train(work) = idle else { return Ok(()) };
    let work = Some((run_id(), work.round));
    federation.report(&site_id(site), &Progress { work, phase: Phase::Training, ..Progress::idle() })?;
    if bench.run().open.is_none_or(|open| open.state == status::OpenState::Merging) {
        return Ok(());
    }
    let delta = weights(60, |place| (place * (index + 1)) as f32 / 500.0);
    let (manifest, bytes) = (bench.manifest(site, &delta), delta.to_safetensors());
    let key = UpdateKey::of(&manifest);
    let state = federation.begin_upload(&site_id(site), manifest.clone())?;
    if state.acknowledged {
        return Ok(());
    }
    let mut offset = state.next_offset as usize;
    while offset < bytes.len() {
        let end = bytes.len().min(offset + 100);
        offset = federation.upload_chunk(&key, manifest.blob, offset as u64, &bytes[offset..end])?.next_offset as usize;
    }
    federation.finish_upload(&key, manifest.blob)?;
    let stored = bench.store().updates(&run_id(), manifest.round).unwrap();
    assert!(stored.contains_key(&site_id(site)), "what is acknowledged is stored");
    Ok(())
}

#[test]
fn whichever_write_fails_the_run_ends_with_the_same_models() {
    let (undisturbed, writes) = story(usize::MAX, Fault::Before);
    assert_eq!(undisturbed.len(), 2);
    for fault in [Fault::Before, Fault::After, Fault::Crash] {
        for fails_at in 0..writes {
            assert_eq!(story(fails_at, fault).0, undisturbed, "write {fails_at} of {writes}, {fault:?}");
        }
    }
}

#[test]
fn a_report_counts_although_how_the_site_goes_cannot_be_noted() {
    let bench = Bench::with_run(60, 1, 1, 1);
    let (path, clock) = (bench.path(), bench.clock.clone());
    let bench = bench.closed();
    let store = SqliteStore::open(&path).unwrap();
    let faulty = Faulty { store, writes: Arc::default(), fails_at: 0, fault: Fault::Before, lie: None };
    let federation = Federation::with_store(&path, Box::new(faulty), ROOMY, clock).unwrap();
    let joined = Progress { work: Some((run_id(), RoundNumber(1))), phase: Phase::Training, ..Progress::idle() };
    federation.report(&site_id("a"), &joined).unwrap();
    let open = bench.run().open.unwrap();
    assert_eq!((open.joined, bench.store().progress().unwrap().len()), (vec![site_id("a")], 0));
}

/// A round whose time is up, and whose end is written by the write that fails. With a grace, c is expected in the 86th second.
fn overdue(fault: Fault, grace: u64) -> (Bench, Federation, Arc<AtomicUsize>) {
    const FAILS_AT: usize = 1000;
    let bench = Bench::empty();
    let mut draft = plan_draft("run", &["a", "b", "c"], 2, 3, 3);
    draft.rounds.grace_s = grace;
    bench.start_run(draft, 60);
    for seconds in [58, 69].into_iter().filter(|_| grace > 0) {
        ["a", "b", "c"].into_iter().for_each(|site| drop(bench.joins(site)));
        for site in ["a", "b"] {
            bench.reports(site, &weights(60, |_| 0.5)).unwrap();
        }
        bench.clock.pass(Duration::from_secs(seconds));
        bench.reports("c", &weights(60, |_| 0.25)).unwrap();
        bench.merge();
    }
    let round = bench.run().open.unwrap().round;
    let (path, clock) = (bench.path(), bench.clock.clone());
    let bench = bench.closed();
    let (store, writes) = (SqliteStore::open(&path).unwrap(), Arc::new(AtomicUsize::new(0)));
    let faulty = Faulty { store, writes: writes.clone(), fails_at: FAILS_AT, fault, lie: None };
    let federation = Federation::with_store(&path, Box::new(faulty), ROOMY, clock).unwrap();
    for site in ["a", "b", "c"] {
        let work = Some((run_id(), round));
        federation.report(&site_id(site), &Progress { work, phase: Phase::Training, ..Progress::idle() }).unwrap();
    }
    bench.clock.pass(Duration::from_secs(60 + grace));
    writes.store(FAILS_AT, Ordering::SeqCst);
    federation.tick();
    (bench, federation, writes)
}

#[test]
fn the_end_of_a_round_that_cannot_be_written_is_tried_again_after_a_pause() {
    for grace in [0, 10] {
        let (bench, federation, writes) = overdue(Fault::Before, grace);
        let tried = writes.load(Ordering::SeqCst);
        federation.tick();
        assert_eq!((writes.load(Ordering::SeqCst), bench.run().open.unwrap().attempt), (tried, 1), "not at once");
        // A pause that is asked for meanwhile lets it stand still as at any other time.
        for paused in [true, false] {
            bench.wishes(&run_id(), &Wish { paused, abort: None });
            federation.refresh().unwrap();
            assert_eq!(bench.run().open.unwrap().attempt, 1);
        }
        bench.clock.pass(Duration::from_secs(5));
        federation.tick();
        assert_eq!(bench.run().open.unwrap().attempt, 2, "a grace that is over does not begin anew");
    }
}

#[test]
fn the_end_of_a_round_that_was_written_and_told_as_failed_counts_once() {
    let (bench, federation, _) = overdue(Fault::After, 0);
    for _ in 0..3 {
        assert_eq!(bench.run().open.unwrap().attempt, 2);
        bench.clock.pass(Duration::from_secs(60));
        federation.tick();
    }
}
