//! The aggregator as a value: the real [`Run`] and the real fixed-point fold, around them a shell that does in memory what
//! the server does with files and rows. Ten thousand rounds a second, and it can be given a [`Bug`].

use std::collections::BTreeMap;

use aggregator::federation::UploadState;
use aggregator::round::{Heard, Outcome, Roll, Word};
use aggregator::run::{Attempt, Run, RunAction, RunEvent, RunRules};
use common::fixed_point::{Sums, mean};
use common::share::shares;
use common::{Assignment, Digest, Directive, Phase, Plan, Progress, Refusal, RoundNumber, SiteId, UpdateManifest};

use super::call::{Answer, Call, Closed, Died, Reply, Server};
use super::disk::{Disk, Key, Part, State, Stored};
use super::planted::Bug;
use super::update::{tensors, values_of};

/// Time that a round has once a quorum has joined.
pub(crate) const DEADLINE: u64 = 60_000;
/// Bytes between two syncs of an upload: smaller than any, so that a restart cuts in the middle.
const SYNC_EVERY: usize = 64;

/// A process and its disk.
#[derive(Debug)]
pub(crate) struct Value {
    plan: Plan,
    digest: Digest,
    rules: RunRules,
    bug: Option<Bug>,
    disk: Disk,
    /// What dies with the process: how the run goes, until when, and the uploads that it knows of.
    run: Run,
    deadline: Option<u64>,
    known: BTreeMap<Key, ()>,
    /// Sums of a merge that was interrupted; only a bug looks at them.
    half_made: Option<Vec<i64>>,
    now: u64,
    fuse: Option<u32>,
    broken: Option<String>,
}

impl Value {
    pub(crate) fn new(plan: Plan, first: &[f32], bug: Option<Bug>) -> Self {
        let mut rules_of = plan.clone();
        if bug == Some(Bug::ClosesBelowTheQuorum) {
            rules_of.draft.rounds.quorum = (rules_of.draft.rounds.quorum - 1).max(1);
        }
        let rules = RunRules::of(&rules_of);
        let (run, actions) = Run::begin(plan.first_model);
        let mut disk = Disk::default();
        disk.models.insert(plan.first_model, first.to_vec());
        let broken = disk.record(&actions, &[]).err();
        let (digest, known, half_made) = (plan.digest(), BTreeMap::new(), None);
        Self { plan, digest, rules, bug, disk, run, deadline: None, known, half_made, now: 0, fuse: None, broken }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// A durable step: here the process may die.
    fn step(&mut self) -> Result<(), Died> {
        match &mut self.fuse {
            Some(0) => Err(Died),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Decides, writes down, believes, acts.
    fn decide(&mut self, event: RunEvent, sums: &[i64]) -> Result<Result<(), Refusal>, Died> {
        let (mut next, mut actions) = self.run.clone().on(event, &self.rules);
        if let Some(RunAction::Refuse(refusal)) = actions.first() {
            return Ok(Err(refusal.clone()));
        }
        if self.has(Bug::ForgetsReportsOfAnAbandonedAttempt)
            && actions.iter().any(|action| matches!(action, RunAction::Abandon(..)))
            && let Some(attempt) = next.attempt()
        {
            actions.retain(|action| matches!(action, RunAction::Abandon(..) | RunAction::Begin(_)));
            next = Run::resumed(attempt, Roll::new(), false, &self.rules).0;
        }
        if self.has(Bug::StartsFromTheModelBefore)
            && let [RunAction::Publish(merged, _), RunAction::Begin(begun)] = &mut actions[..]
        {
            begun.base = merged.base;
            next = Run::resumed(*begun, Roll::new(), false, &self.rules).0;
        }
        if actions.is_empty() {
            return Ok(Ok(()));
        }
        self.step()?;
        if let Err(why) = self.disk.record(&actions, sums) {
            self.broken.get_or_insert(why);
        }
        self.step()?;
        self.believe(next, &actions);
        Ok(Ok(()))
    }

    fn believe(&mut self, next: Run, actions: &[RunAction]) {
        self.run = next;
        for action in actions {
            match action {
                RunAction::ArmDeadline(_) => self.deadline = Some(self.now + DEADLINE),
                RunAction::Freeze(..) | RunAction::Abandon(..) => self.deadline = None,
                _ => {}
            }
        }
    }

    fn report(&mut self, site: &SiteId, progress: &Progress) -> Result<Reply, Died> {
        let word = match &progress.phase {
            Phase::Fetching | Phase::Indexing | Phase::Training | Phase::Sending => Some(Word::Joined),
            Phase::Declined(reason) => Some(Word::Declined(*reason)),
            Phase::Idle | Phase::AwaitingApproval | Phase::OutsideHours | Phase::Reported => None,
        };
        if let (Some((_, round)), Some(word)) = (&progress.work, word) {
            let heard = Heard { site: site.clone(), round: *round, word };
            // A word that does not count is no refusal: the directive says what to do instead.
            let _told = self.decide(RunEvent::Heard(heard), &[])?;
        }
        Ok(Ok(Answer::Directive(self.directive())))
    }

    fn directive(&self) -> Directive {
        match &self.run {
            Run::Open(Attempt { round, base, .. }, _) => Directive::Train(Assignment {
                run: self.plan.run().clone(),
                round: *round,
                plan: self.digest,
                base: *base,
                base_bytes: 0,
                first_step: 0,
                time_left: std::time::Duration::ZERO,
                awaited: true,
                lineage: None,
                ledger: None,
            }),
            Run::Awaiting { .. } => Directive::Wait { because: "signatures".to_owned() },
            Run::Merging(..) => Directive::Wait { because: "merging".to_owned() },
            Run::Finished { model } => Directive::Finished { run: self.plan.run().clone(), model: *model, bytes: 0 },
            Run::Failed { because, .. } => Directive::Wait { because: because.clone() },
        }
    }

    /// Whether the open round takes what is of this round; if not, why.
    fn takes(&self, round: RoundNumber) -> Result<Attempt, Refusal> {
        let open = match &self.run {
            Run::Open(attempt, _) => Some(*attempt),
            _ => None,
        };
        let late = |attempt: &Attempt| self.has(Bug::TakesTheRoundBefore) && attempt.round == round.next();
        match open.filter(|attempt| attempt.round == round || late(attempt)) {
            Some(attempt) => Ok(attempt),
            None => Err(Refusal::RoundNotOpen { asked: round, open: open.map_or(RoundNumber(0), |it| it.round) }),
        }
    }

    fn begin(&mut self, site: &SiteId, manifest: &UpdateManifest) -> Result<Reply, Died> {
        let key = (manifest.round, site.clone());
        if self.replaced(&key, manifest.blob) {
            // It is sent with its announcement, to be short.
            self.disk.blobs.insert(manifest.blob, Vec::new());
        }
        if let Some(stored) = self.stored(&key) {
            return Ok(same(&key, stored.digest, manifest.blob)
                .map(|_| Answer::Upload(UploadState { next_offset: manifest.bytes, acknowledged: true })));
        }
        let attempt = match self.takes(manifest.round) {
            Ok(attempt) => attempt,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if manifest.base != attempt.base && !self.has(Bug::TakesTheRoundBefore) {
            return Ok(Err(Refusal::BaseDiffers { expected: attempt.base, found: manifest.base }));
        }
        self.step()?;
        let part =
            self.disk.parts.get(&key).filter(|part| part.digest == manifest.blob && self.known.contains_key(&key));
        let next_offset = match part {
            Some(part) => part.bytes.len() as u64,
            None => {
                let whole = self.disk.blobs.get(&manifest.blob).cloned();
                let (bytes, length) = (whole.unwrap_or_default(), manifest.bytes);
                let part = Part { digest: manifest.blob, length, synced: bytes.len(), bytes };
                let next = part.bytes.len() as u64;
                self.disk.parts.insert(key.clone(), part);
                self.known.insert(key, ());
                next
            }
        };
        Ok(Ok(Answer::Upload(UploadState { next_offset, acknowledged: false })))
    }

    fn chunk(&mut self, key: &Key, blob: Digest, offset: u64, data: &[u8]) -> Result<Reply, Died> {
        if let Err(refusal) = self.takes(key.0) {
            return Ok(Err(refusal));
        }
        let twice = self.has(Bug::AppendsRepeatedChunks);
        let part = self.disk.parts.get_mut(key).filter(|part| part.digest == blob && self.known.contains_key(key));
        let Some(part) = part else { return Ok(Err(Refusal::Offset { expected: 0, found: offset })) };
        let (count, end) = (part.bytes.len() as u64, offset + data.len() as u64);
        if end > count || (twice && count < part.length) {
            if offset != count && !twice {
                return Ok(Err(Refusal::Offset { expected: count, found: offset }));
            }
            part.bytes.extend_from_slice(data);
            part.bytes.truncate(part.length as usize);
            if part.bytes.len() - part.synced >= SYNC_EVERY {
                part.synced = part.bytes.len();
            }
        }
        let next_offset = part.bytes.len() as u64;
        self.step()?;
        Ok(Ok(Answer::Upload(UploadState { next_offset, acknowledged: false })))
    }

    fn finish(&mut self, key: &Key, blob: Digest) -> Result<Reply, Died> {
        if let Some(stored) = self.stored(key) {
            if self.has(Bug::SkipsTheDedupe) {
                self.disk.arrivals.push((key.0, key.1.clone(), stored.digest));
            }
            return Ok(same(key, stored.digest, blob).map(Answer::Stored));
        }
        if let Err(refusal) = self.takes(key.0) {
            return Ok(Err(refusal));
        }
        let part = self.disk.parts.get(key).filter(|part| part.digest == blob && self.known.contains_key(key));
        let Some(part) = part else { return Ok(Err(Refusal::Offset { expected: 0, found: 0 })) };
        if part.bytes.len() as u64 != part.length {
            return Ok(Err(Refusal::Offset { expected: part.bytes.len() as u64, found: part.length }));
        }
        let found = Digest::of(&part.bytes);
        let unchecked = self.has(Bug::SkipsTheCheck)
            || self.has(Bug::AppendsRepeatedChunks)
            || self.has(Bug::TrustsBytesThatWereNotSynced);
        if found != blob && !unchecked {
            self.disk.parts.remove(key);
            self.known.remove(key);
            // A blob that is not what its name says is nobody's.
            self.disk.blobs.remove(&blob);
            return Ok(Err(Refusal::Corrupt { expected: blob, found }));
        }
        let bytes = part.bytes.clone();
        self.step()?;
        self.disk.blobs.insert(blob, bytes);
        self.step()?;
        if self.has(Bug::AcknowledgesBeforeCommit) && self.fuse == Some(0) {
            // The answer is on its way when the process dies.
            return Ok(Ok(Answer::Stored(blob)));
        }
        let heard = Heard {
            site: key.1.clone(),
            round: self.takes(key.0).map_or(key.0, |it| it.round),
            word: Word::Reported(blob),
        };
        let decided = self.decide(RunEvent::Heard(heard), &[])?;
        self.known.remove(key);
        Ok(decided.map(|()| Answer::Stored(blob)))
    }

    fn stored(&self, key: &Key) -> Option<Stored> {
        self.disk.updates.get(key).copied()
    }

    /// What a second digest does that takes the place of the first.
    fn replaced(&mut self, key: &Key, blob: Digest) -> bool {
        let Run::Open(attempt, _) = &self.run else { return false };
        let attempt = *attempt;
        let other = self.disk.updates.get_mut(key).filter(|stored| stored.digest != blob && attempt.round == key.0);
        let Some(stored) = other.filter(|_| self.bug == Some(Bug::TakesASecondDigest)) else { return false };
        stored.digest = blob;
        let roll = self.disk.roll(&attempt, false);
        self.run = Run::resumed(attempt, roll, self.deadline.is_some(), &self.rules).0;
        true
    }

    /// The sums of the frozen deltas; or whose is damaged.
    fn folded(&self, outcome: &Outcome) -> Result<(Vec<i64>, u64, Vec<f32>), SiteId> {
        let subjects = outcome.reports.keys().map(|site| (site.clone(), 10)).collect();
        let shares = shares(&subjects, 0.5, 1.0);
        let total = shares.values().map(|share| u64::from(share.0)).sum();
        let (mut sums, mut floats) = (Sums::new(4), vec![0.0_f32; 4]);
        let arrived = |of: Digest| self.disk.arrivals.iter().filter(|(_, _, found)| *found == of).count();
        for (site, digest) in &outcome.reports {
            let bytes = self.disk.blobs.get(digest).ok_or_else(|| site.clone())?;
            if Digest::of(bytes) != *digest && !self.unlooked_at() {
                return Err(site.clone());
            }
            let times = match self.has(Bug::SkipsTheDedupe) {
                true => arrived(*digest),
                false => 1,
            };
            let delta = values_of(bytes);
            for _ in 0..times {
                sums.add(&[(&delta, shares[site])]).map_err(|_| site.clone())?;
            }
        }
        if self.has(Bug::FoldsFloats) {
            for (_, site, digest) in
                self.disk.arrivals.iter().filter(|(_, site, digest)| outcome.reports.get(site) == Some(digest))
            {
                let delta = values_of(&self.disk.blobs[digest]);
                floats
                    .iter_mut()
                    .zip(delta)
                    .for_each(|(sum, value)| *sum += value * shares[site].0 as f32 / total as f32);
            }
        } else {
            floats = sums.integers().iter().map(|&sum| mean(sum, total)).collect();
        }
        Ok((sums.integers().to_vec(), total, floats))
    }

    fn unlooked_at(&self) -> bool {
        [Bug::MergesWhatIsDamaged, Bug::SkipsTheCheck, Bug::AppendsRepeatedChunks, Bug::TrustsBytesThatWereNotSynced]
            .iter()
            .any(|bug| self.has(*bug))
    }
}

fn same(key: &Key, stored: Digest, asked: Digest) -> Result<Digest, Refusal> {
    if stored == asked { Ok(stored) } else { Err(Refusal::Conflict { site: key.1.clone(), round: key.0 }) }
}

impl Server for Value {
    fn hear(&mut self, site: &SiteId, call: Call) -> Result<Reply, Died> {
        match call {
            Call::Report(progress) => self.report(site, &progress),
            Call::Begin(manifest) => self.begin(site, &manifest),
            Call::Chunk { key, blob, offset, data } => self.chunk(&(key.round, site.clone()), blob, offset, &data),
            Call::Finish { key, blob } => self.finish(&(key.round, site.clone()), blob),
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += milliseconds;
    }

    fn tick(&mut self) -> Result<(), Died> {
        if self.has(Bug::CountsDeclinesAsReports)
            && let Run::Open(attempt, round) = &self.run
            && let Some(roll) = round.roll()
            && self.deadline.is_some_and(|deadline| deadline <= self.now)
        {
            let said = roll.values().filter(|word| !matches!(word, Word::Joined)).count();
            let reports: BTreeMap<_, _> = roll
                .iter()
                .filter_map(|(site, word)| match word {
                    Word::Reported(digest) => Some((site.clone(), *digest)),
                    _ => None,
                })
                .collect();
            if said >= self.plan.draft.rounds.quorum && !reports.is_empty() {
                let left_out = self.plan.draft.rounds.sites.iter().filter(|site| !reports.contains_key(*site));
                let left_out = left_out.map(|site| (site.clone(), aggregator::round::LeftOut::NotInTime)).collect();
                let (attempt, outcome) = (*attempt, Outcome { reports, left_out });
                let actions = [RunAction::Freeze(attempt, outcome.clone())];
                self.broken = self.broken.take().or(self.disk.record(&actions, &[]).err());
                self.believe(Run::Merging(attempt, outcome), &actions);
            }
        }
        if self.deadline.is_some_and(|deadline| deadline <= self.now) {
            let _told = self.decide(RunEvent::TimeUp, &[])?;
        }
        Ok(())
    }

    fn note(&mut self) {
        if let (Some(deadline), Some(row)) = (self.deadline, self.disk.rounds.last_mut()) {
            row.remaining = Some(deadline.saturating_sub(self.now));
        }
    }

    fn merge(&mut self) -> Result<(), Died> {
        let Run::Merging(attempt, outcome) = &self.run else { return Ok(()) };
        let attempt = *attempt;
        let (mut sums, total, mut means) = match self.folded(outcome) {
            Ok(folded) => folded,
            Err(site) => {
                let _told = self.decide(RunEvent::Damaged { site }, &[])?;
                return Ok(());
            }
        };
        if self.has(Bug::AddsOnAfterARestart) {
            if let Some(half) = self.half_made.take() {
                sums.iter_mut().zip(half).for_each(|(sum, half)| *sum += half);
                means = sums.iter().map(|&sum| mean(sum, total)).collect();
            }
            self.half_made = Some(sums.clone());
        }
        self.step()?;
        let moved =
            |base: &f32, mean: f32| if mean == 0.0 { *base } else { (f64::from(*base) + f64::from(mean)) as f32 };
        let mut base = self.disk.models[&attempt.base].clone();
        let times = if self.has(Bug::PublishesTwice) && self.disk.models.len().is_multiple_of(2) { 2 } else { 1 };
        for _ in 0..times {
            base = base.iter().zip(&means).map(|(base, mean)| moved(base, *mean)).collect();
        }
        let model = tensors(&base).digest();
        self.disk.models.insert(model, base);
        // The share of every site is the same: divided by it, the sums tell who was counted.
        let share = (total / outcome_len(&self.run)).max(1);
        let counted: Vec<i64> = sums.iter().map(|sum| sum / share as i64).collect();
        let _told = self.decide(RunEvent::Merged { model }, &counted)?;
        self.half_made = None;
        Ok(())
    }

    fn light_fuse(&mut self, steps: u32) {
        self.fuse = Some(steps);
    }

    fn restart(&mut self) {
        self.fuse = None;
        self.known.clear();
        let trusting = self.has(Bug::TrustsBytesThatWereNotSynced);
        for (key, part) in &mut self.disk.parts {
            match trusting {
                // The file has its length, and zeros where nothing was written.
                true => part.bytes[part.synced..].fill(0),
                false => part.bytes.truncate(part.synced),
            }
            self.known.insert(key.clone(), ());
        }
        let Some(last) = self.disk.rounds.last().cloned() else { return };
        self.deadline = None;
        let mut undone = Vec::new();
        self.run = match (&self.disk.over, &last.state) {
            (Some(Ok(model)), _) => Run::Finished { model: *model },
            (Some(Err(because)), _) => Run::Failed { because: because.clone(), model: last.attempt.base },
            (None, State::Merging(outcome)) => Run::Merging(last.attempt, outcome.clone()),
            (None, state) => {
                let armed = matches!(state, State::Training);
                let roll = match self.has(Bug::ResumesWithoutTheRoll) {
                    true => Roll::new(),
                    false => self.disk.roll(&last.attempt, self.has(Bug::ForgetsWhoWasRetired)),
                };
                let left = last.remaining.unwrap_or(DEADLINE);
                self.deadline = (armed && !self.has(Bug::LosesTheDeadline)).then(|| self.now + left);
                let (run, actions) = Run::resumed(last.attempt, roll, armed, &self.rules);
                undone = actions;
                run
            }
        };
        if !undone.is_empty() {
            self.broken = self.broken.take().or(self.disk.record(&undone, &[]).err());
            self.believe(self.run.clone(), &undone);
        }
    }

    fn rot(&mut self, chance: u64) -> Option<Digest> {
        let open = self.run.attempt()?.round;
        let stored: Vec<_> =
            self.disk.updates.iter().filter(|((round, _), stored)| *round == open && !stored.retired).collect();
        let (_, Stored { digest, .. }) = stored.get(chance as usize % stored.len().max(1))?;
        let digest = *digest;
        let bytes = self.disk.blobs.get_mut(&digest)?;
        // The last digit of a count: a delta that could be merged, were its digest not looked at.
        let place = bytes.len() - 1 - (chance as usize >> 8) % 12;
        bytes[place] ^= 1;
        Some(digest)
    }

    fn closed(&self, skip: usize) -> Vec<Closed> {
        let closed = self.disk.rounds.iter().filter_map(|row| match &row.state {
            State::Closed(outcome, model, sums) => Some(Closed {
                round: row.attempt.round,
                base: row.attempt.base,
                model: *model,
                reports: outcome.reports.iter().map(|(site, digest)| (site.clone(), *digest)).collect(),
                left_out: outcome.left_out.keys().cloned().collect(),
                values: self.disk.models[model].clone(),
                sums: Some(sums.clone()),
            }),
            _ => None,
        });
        closed.skip(skip).collect()
    }

    fn over(&self) -> Option<Result<Digest, String>> {
        self.disk.over.clone()
    }

    fn broken(&self) -> Option<String> {
        self.broken.clone()
    }
}

/// How many updates are being merged.
fn outcome_len(run: &Run) -> u64 {
    match run {
        Run::Merging(_, outcome) => outcome.reports.len() as u64,
        _ => 1,
    }
}
