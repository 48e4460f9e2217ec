//! Frozen reports become the next model.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use common::plan::{Plan, ShareBy};
use common::share::{Share, shares};
use common::{Digest, Encoding, RoundNumber, RunId, SiteId, TaskName, UpdateManifest};

use super::{Federation, LiveRun, Undecided};
use crate::aggregation::{Contribution, Damage, Merge, MergeError, Merged, Partial, ServerState, merge, state_count};
use crate::layout::Layout;
use crate::round::Outcome;
use crate::run::{Attempt, Run, RunEvent};
use crate::store::{Details, RoundRecord, RoundState, StoreError, durable};

/// Why a merge did not become a model.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMerged {
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

pub(super) struct Job {
    run: RunId,
    plan: Plan,
    layout: Arc<Layout>,
    attempt: Attempt,
    outcome: Outcome,
}

impl Job {
    /// The merge of these reports of a run.
    pub(super) fn of(live: &LiveRun, attempt: Attempt, outcome: Outcome) -> Self {
        let (plan, layout) = (live.record.plan.clone(), Arc::clone(&live.layout));
        Self { run: live.id().clone(), plan, layout, attempt, outcome }
    }
}

/// The shares of a round: over all its sites, and for each head over the sites that sent it.
struct Shared {
    whole: BTreeMap<SiteId, Share>,
    heads: BTreeMap<TaskName, BTreeMap<SiteId, Share>>,
}

impl Shared {
    fn of(plan: &Plan, manifests: &BTreeMap<SiteId, UpdateManifest>) -> Self {
        let rule = &plan.draft.aggregation;
        let of = |counts: BTreeMap<SiteId, u32>| shares(&counts, rule.share_alpha, rule.share_cap);
        let counted = |manifest: &UpdateManifest| match rule.share_by {
            ShareBy::Subjects => manifest.subjects,
            ShareBy::Examples => manifest.examples,
        };
        let with = |task: &TaskName| {
            let own = |(site, manifest): (&SiteId, &UpdateManifest)| Some((site.clone(), *manifest.heads.get(task)?));
            of(manifests.iter().filter_map(own).collect())
        };
        Self {
            whole: of(manifests.iter().map(|(site, manifest)| (site.clone(), counted(manifest))).collect()),
            heads: plan.tasks().map(|task| (task.clone(), with(task))).collect(),
        }
    }
}

/// What an update's file holds of the model, unless it is all of it as it is.
fn partial(job: &Job, manifest: &UpdateManifest, shared: &Shared) -> Result<Option<Partial>, String> {
    let encoding = job.plan.draft.aggregation.encoding;
    let signature = job.plan.update_signature(&manifest.tasks()).map_err(|error| error.to_string())?;
    if signature == job.plan.signature && encoding == Encoding::F32 && job.plan.draft.finetuning.is_none() {
        return Ok(None);
    }
    let layout = Layout::encoded(&signature, encoding).map_err(|error| error.to_string())?;
    let share = |task: &TaskName| shared.heads.get(task)?.get(&manifest.site).copied();
    let heads = manifest.heads.keys().filter_map(|task| Some((task.head_prefix(), share(task)?))).collect();
    Ok(Some(Partial { layout, heads }))
}

impl Federation {
    /// Merges every frozen round and publishes its model; says whether all went well. What did not is noted for the
    /// operator and left as it was, to be tried again; only an update that is damaged is left out for good.
    ///
    /// The same reports give the same model, so it does not matter how often a crash interrupts this.
    pub fn merge_frozen(&self) -> bool {
        let mut all_well = self.settle_doubts();
        let jobs: Vec<Job> = self
            .live()
            .runs
            .iter()
            .filter_map(|live| {
                let Run::Merging(attempt, outcome) = &live.run else { return None };
                Some(Job::of(live, *attempt, outcome.clone()))
            })
            .collect();
        // What it says of a run's trouble stands.
        for job in jobs.into_iter().filter(|job| !self.is_damaged(job.attempt.base)) {
            let merged = match self.merged(&job) {
                Ok(merged) => self.publish(&job, &merged),
                Err(NotMerged::Merge(MergeError::Update { site, damage })) => self.leave_out(&job, site, damage),
                Err(error) => Err(error),
            };
            if let Err(error) = merged {
                all_well = false;
                // If it is room that it lacks, there it is.
                self.remove_spares();
                // What cannot be read may be the model that the round starts from, and that can be made again.
                let may_be_the_base = match &error {
                    NotMerged::Merge(MergeError::Base(_)) => true,
                    NotMerged::Merge(MergeError::Io { source, .. }) => !durable::is_full(source),
                    _ => false,
                };
                if may_be_the_base {
                    self.doubt(job.attempt.base);
                }
                tracing::error!(run = %job.run, round = %job.attempt.round, %error, "the round could not be merged; it is tried again");
                self.note_trouble(&job.run, Some(&format!("round {} cannot be merged: {error}", job.attempt.round)));
            }
        }
        all_well
    }

    pub(super) fn merged(&self, job: &Job) -> Result<Merged, NotMerged> {
        let updates = self.store.updates(&job.run, job.attempt.round)?;
        let counted = updates.into_iter().filter(|(site, _)| job.outcome.reports.contains_key(site));
        let manifests: BTreeMap<SiteId, UpdateManifest> =
            counted.map(|(site, update)| (site, update.manifest)).collect();
        let rule = &job.plan.draft.aggregation;
        let shared = Shared::of(&job.plan, &manifests);
        let mut contributions = BTreeMap::new();
        for (site, &digest) in &job.outcome.reports {
            let missing = || StoreError::Damaged(format!("{site} reported, but its update is not written down"));
            let manifest = manifests.get(site).ok_or_else(missing)?;
            let share = *shared.whole.get(site).ok_or_else(missing)?;
            let partial = partial(job, manifest, &shared).map_err(|why| {
                StoreError::Damaged(format!("the update of {site} for round {}: {why}", manifest.round))
            })?;
            let file = self.blobs.open_blob(digest).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => MergeError::Update { site: site.clone(), damage: Damage::Gone(digest) },
                _ => MergeError::Io { what: format!("the update of {site}"), source },
            })?;
            let checked = self.checked().get(&digest).copied();
            contributions.insert(site.clone(), Contribution { file, digest, share, partial, checked });
        }
        let told = |what: &'static str| move |source| StoreError::io(what, source);
        let base = self.blobs.open_blob(job.attempt.base).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => MergeError::Base(Damage::Gone(job.attempt.base)),
            _ => MergeError::Io { what: "the round's first model".to_owned(), source },
        })?;
        let mut rounds = self.store.rounds(&job.run)?;
        // Of later ones there are some if a model is made again.
        rounds.retain(|record| record.attempt.round <= job.attempt.round);
        // Sites have fetched this round's model. The next is written to the memory that the one before it gives back.
        if let Some(before) = rounds.iter().rev().find(|record| record.attempt.base != job.attempt.base) {
            self.blobs.let_go_of_memory(before.attempt.base);
        }
        let states = self.states_before(&rounds, job.attempt.round)?;
        let part = |what: &str| format!("{}.{}.{what}", job.run, job.attempt.round);
        let name = part("model");
        let (mut out, path) = self.blobs.begin_file(&name).map_err(told("making the next model's file"))?;
        let names: Vec<String> = (0..state_count(rule.strategy)).map(|index| part(&format!("state-{index}"))).collect();
        let (mut next, mut paths) = (Vec::new(), Vec::new());
        for name in &names {
            let (file, path) =
                self.blobs.begin_file(name).map_err(told("making a file for the server's next state"))?;
            next.push(file);
            paths.push(path);
        }
        let what = Merge {
            layout: &job.layout,
            base: &base,
            base_digest: job.attempt.base,
            contributions: &contributions,
            states: &states,
        };
        let merged = match merge(rule.strategy, &what, &mut out, &mut next) {
            Ok(merged) => merged,
            Err(error) => {
                [&name].into_iter().chain(&names).for_each(|name| self.blobs.remove_part(name));
                return Err(error.into());
            }
        };
        // The states first: a model whose states are not there would never be merged into.
        for ((file, path), digest) in next.iter().zip(&paths).zip(&merged.states) {
            durable::sync_file(file, path);
            self.blobs.adopt(path, *digest).map_err(told("storing the server's next state"))?;
        }
        durable::sync_file(&out, &path);
        self.blobs.adopt(&path, merged.model).map_err(told("storing the next model"))?;
        Ok(merged)
    }

    /// The states of the server's optimizer after the last round that was merged before this one; none before a run's first.
    fn states_before(&self, rounds: &[RoundRecord], open: RoundNumber) -> Result<Vec<ServerState>, NotMerged> {
        let last =
            rounds.iter().rev().filter(|record| record.attempt.round < open).find_map(|record| match &record.state {
                RoundState::Closed(_, merged) => Some(&merged.states),
                _ => None,
            });
        let open = |&digest: &Digest| match self.blobs.open_blob(digest) {
            Ok(file) => Ok(ServerState { file, digest }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(MergeError::State(Damage::Gone(digest)).into())
            }
            Err(source) => Err(MergeError::Io { what: "the server optimizer's state".to_owned(), source }.into()),
        };
        last.into_iter().flatten().map(open).collect()
    }

    fn publish(&self, job: &Job, merged: &Merged) -> Result<(), NotMerged> {
        let event = RunEvent::Merged { model: merged.model };
        self.decide_on(&job.run, event, Details::Merge(merged))?;
        self.note_trouble(&job.run, None);
        self.remove_unnamed(merged);
        Ok(())
    }

    /// Removes what a merge made and no record names: its run was ended meanwhile.
    pub(super) fn remove_unnamed(&self, merged: &Merged) {
        let made: Vec<Digest> = [merged.model].into_iter().chain(merged.states.iter().copied()).collect();
        if let Err(error) = self.store.remove_unnamed(&made, &mut |blob| self.remove_blob(blob)) {
            tracing::warn!(%error, "what a merge made for a run that is over could not be removed; it takes room");
        }
    }

    /// The round goes on without an update whose file is lost or changed: its bytes are nowhere else.
    fn leave_out(&self, job: &Job, site: SiteId, damage: Damage) -> Result<(), NotMerged> {
        let (run, round) = (&job.run, job.attempt.round);
        tracing::error!(%run, %round, %site, %damage, "an update is left out: see to the disk");
        self.decide_on(run, RunEvent::Damaged { site }, Details::None)?;
        // What kept it from being merged before is over, whether it is tried again without the update or as another attempt.
        self.note_trouble(run, None);
        Ok(())
    }

    fn decide_on(&self, run: &RunId, event: RunEvent, details: Details<'_>) -> Result<(), Undecided> {
        let mut live = self.live();
        live.run(run).map_or(Ok(()), |run| self.decide(run, event, details))
    }

    pub(super) fn note_trouble(&self, run: &RunId, trouble: Option<&str>) {
        if let Err(error) = self.store.note_trouble(run, trouble) {
            tracing::warn!(%run, %error, "the run's trouble could not be noted");
        }
    }
}
