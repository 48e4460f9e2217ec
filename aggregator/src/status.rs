//! How the federation stands, as a value: what `aggregator status --json` prints and reports are made from.
//!
//! Read from the store alone, so it works while the server runs and while it does not. Text for people is in
//! [`crate::cli`].

use std::collections::BTreeMap;
use std::time::Duration;

use common::score::{self, Scores};
use common::share::Share;
use common::task::{Direction, Metric};
use common::{
    Decline, Digest, FederationName, Meters, Person, PersonId, Phase, Plan, RoundNumber, RunId, Score, SiteId, TaskName,
};
use serde::{Deserialize, Serialize};

use crate::aggregation::Merged;
use crate::alarms::{self, Alarm, Measured};
use crate::clock::Stamp;
use crate::federation::Admitted;
use crate::forecast;
use crate::round::{Outcome, Word};
use crate::signatures;
use crate::store::{
    MemberRecord, ProgressRecord, RoundRecord, RoundState, RunRecord, RunState, ScoresRecord, SignatureRecord, Store,
    StoreError, UpdateRecord,
};

/// The federation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub federation: FederationName,
    /// Where sites reach it.
    pub address: String,
    /// Who is enrolled.
    pub sites: Vec<EnrolledSite>,
    /// Persons who are enrolled, each in an office.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub persons: Vec<EnrolledPerson>,
    /// Runs in the order of their start.
    pub runs: Vec<RunStatus>,
    /// Why further runs cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged_runs: Vec<String>,
}

/// An enrolled site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrolledSite {
    /// The site.
    pub site: SiteId,
    /// Serial number of its certificate.
    pub serial: String,
    /// Whether that was revoked.
    pub revoked: bool,
    /// Milliseconds since it last said anything; null if it never did.
    pub last_word_ms: Option<u64>,
}

/// An enrolled person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrolledPerson {
    /// The person, with the office.
    pub person: Person,
    /// Serial number of the certificate.
    pub serial: String,
    /// Whether that was revoked.
    pub revoked: bool,
    /// When it expires: milliseconds since 1970, UTC.
    pub expires_at: Stamp,
}

/// A coordinator's hand under a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignedBy {
    /// Whose.
    pub coordinator: PersonId,
    /// When: milliseconds since 1970, UTC.
    pub signed_at: Stamp,
    /// Whether it counts: a revoked coordinator's does not, in a run that has not begun.
    pub counts: bool,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Its name.
    pub run: RunId,
    /// The plan's digest.
    pub plan: Digest,
    /// `awaiting-signatures`, `running`, `finished` or `failed`.
    pub state: RunPhase,
    /// Signatures of coordinators that the plan needs.
    #[serde(default)]
    pub signatures_needed: u32,
    /// Whose are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed_by: Vec<SignedBy>,
    /// Whether its rounds stand still, as the coordinator asked.
    #[serde(default)]
    pub paused: bool,
    /// Why it failed, or what keeps it from going on just now.
    pub because: Option<String>,
    /// The model before any training.
    pub first_model: Digest,
    /// The newest model.
    pub model: Digest,
    /// Length of every model, in bytes.
    pub model_bytes: u64,
    /// Rounds of the plan.
    pub rounds_planned: u32,
    /// Updates without which a round is abandoned.
    pub quorum: usize,
    /// When it was started: milliseconds since 1970, UTC.
    pub started_at: Stamp,
    /// The round that is open or being merged, if one is.
    pub open: Option<OpenRound>,
    /// How each invited site last said it goes; null for one that never said anything of this run.
    pub sites: BTreeMap<SiteId, Option<SiteProgress>>,
    /// Rounds that ended, in order; an abandoned try at a round has no model.
    pub rounds: Vec<RoundStatus>,
    /// Tasks of a run that finetunes: which of its models is the best.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskStatus>,
    /// What each site measured of each model, in the order of the rounds that made them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<ModelScores>,
}

impl RunStatus {
    /// The rounds that are to come, and about how long they take in milliseconds: each as long as the merged round in the middle of
    /// those there are. None before the first one, and while the run stands still.
    pub fn expected_end(&self) -> Option<(u32, u64)> {
        let merged = self.rounds.iter().filter(|round| round.merged);
        let left = self.rounds_planned.checked_sub(u32::try_from(merged.clone().count()).ok()?)?;
        let mut took: Vec<u64> = merged.filter_map(|round| round.took_ms).collect();
        took.sort_unstable();
        let middle = *took.get(took.len() / 2)?;
        let goes_on = self.state == RunPhase::Running && !self.paused && left > 0;
        goes_on.then(|| (left, middle.saturating_mul(left.into())))
    }
}

/// A task of a run that finetunes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// The task.
    pub task: TaskName,
    /// What picks its best model.
    pub metric: Metric,
    /// Which values are better.
    pub direction: Direction,
    /// The round that made the best model, 0 for the first, and the metric's mean over the sites' validation subjects; null
    /// while no model was measured by every site that measures.
    pub best: Option<(RoundNumber, f64)>,
}

/// What the sites measured of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelScores {
    /// The round that made it; 0 for the first model.
    pub round: RoundNumber,
    /// The model.
    pub model: Digest,
    /// Each site's scores.
    pub sites: BTreeMap<SiteId, Vec<Score>>,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunPhase {
    /// Coordinators must sign its plan first.
    AwaitingSignatures,
    /// Its rounds go on.
    Running,
    /// All rounds are done.
    Finished,
    /// It ended before its last round.
    Failed,
}

/// The round that is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenRound {
    /// Its number.
    pub round: RoundNumber,
    /// The try at it, counted from 1.
    pub attempt: u32,
    /// `gathering`, `training` or `merging`.
    pub state: OpenState,
    /// The model it starts from.
    pub base: Digest,
    /// Time left when the server last noted it, in milliseconds; null while no deadline runs.
    pub time_left_ms: Option<u64>,
    /// Who has joined and not reported yet.
    pub joined: Vec<SiteId>,
    /// When those of them are expected that were in a round before, in milliseconds from now; 0 for who is later than usual.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expected_in_ms: BTreeMap<SiteId, u64>,
    /// Whose update is stored.
    pub reported: Vec<SiteId>,
    /// Who declined.
    pub declined: BTreeMap<SiteId, Decline>,
}

/// How an open round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenState {
    /// Fewer than a quorum have joined; no deadline runs.
    Gathering,
    /// The deadline runs.
    Training,
    /// The reports are frozen and being merged.
    Merging,
}

/// How a site last said it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteProgress {
    /// The round it works on.
    pub round: Option<RoundNumber>,
    /// `idle`, `awaiting-approval`, `outside-hours`, `fetching`, `indexing`, `training`, `sending`, `reported` or `declined`.
    pub phase: String,
    /// Why it declined.
    pub declined: Option<Decline>,
    /// Units done of the phase: optimizer steps, or bytes.
    pub done: u64,
    /// Units of the phase in all; 0 if unknown.
    pub total: u64,
    /// Latest loss.
    pub loss: Option<f64>,
    /// Latest teacher entropy, in nats.
    pub teacher_entropy: Option<f64>,
    /// Expected time to the end of the phase.
    pub eta_ms: Option<u64>,
    /// Milliseconds since it said so.
    pub age_ms: u64,
}

/// A round that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundStatus {
    /// Its number.
    pub round: RoundNumber,
    /// The try at it.
    pub attempt: u32,
    /// Whether it was merged.
    pub merged: bool,
    /// The model it started from.
    pub base: Digest,
    /// The model that came of it; null if it was abandoned.
    pub model: Option<Digest>,
    /// Milliseconds from its begin until its reports were all there, or its time was up: without pauses, and without times when no
    /// server ran.
    pub took_ms: Option<u64>,
    /// L2 norm of the merged delta.
    pub delta_norm: Option<f64>,
    /// Meters of the sites, averaged by share.
    pub meters: Option<Meters>,
    /// Who is in it.
    pub sites: Vec<SitePart>,
    /// Who is not, and why.
    pub left_out: Vec<LeftOutSite>,
    /// Who goes astray.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
}

/// One site's part in a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SitePart {
    /// The site.
    pub site: SiteId,
    /// Its share, as a fraction of the round; null if the round was abandoned.
    pub share: Option<f64>,
    /// Its share, as the integer that the sum was made with.
    pub share_parts: Option<Share>,
    /// Subjects trained on, rounded down to a multiple of 5.
    pub subjects: u32,
    /// The heads in its update, each with the subjects of its task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub heads: BTreeMap<TaskName, u32>,
    /// Optimizer steps.
    pub steps: u32,
    /// How training went: loss, teacher_entropy, batch_entropy, rank_me.
    #[serde(flatten)]
    pub meters: Meters,
    /// L2 norm of its delta.
    pub delta_norm: Option<f64>,
    /// Cosine of its delta to the merged delta.
    pub cosine: Option<f64>,
    /// Digest of its update.
    pub update: Digest,
    /// Length of its update, in bytes.
    pub bytes: u64,
}

/// A site that is not in a round's merge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutSite {
    /// The site.
    pub site: SiteId,
    /// Why, for people.
    pub reason: String,
}

/// The federation as the store has it, `now`.
pub fn read(store: &dyn Store, now: Stamp) -> Result<Status, StoreError> {
    let federation = store.federation()?;
    let progress = store.progress()?;
    let wishes = store.wishes()?;
    let members = store.members()?;
    let admitted = Admitted::of(members.clone());
    let (mut runs, mut damaged_runs) = (Vec::new(), Vec::new());
    for found in store.runs(0)? {
        match found.and_then(|record| run_status(store, &record, &progress, &admitted, now)) {
            Ok(run) => {
                let wish = wishes.get(&run.run);
                let goes_on = matches!(run.state, RunPhase::Running | RunPhase::AwaitingSignatures);
                let paused = goes_on && wish.is_some_and(|wish| wish.paused);
                runs.push(RunStatus { paused, ..run });
            }
            Err(error @ StoreError::Damaged(_)) => damaged_runs.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    let person = |record: &MemberRecord| {
        let (person, serial) = (record.holder.person()?.clone(), record.serial.clone());
        Some(EnrolledPerson { person, serial, revoked: record.revoked, expires_at: record.expires_at })
    };
    let persons = members.iter().filter_map(person).collect();
    let sites = members.into_iter().filter_map(MemberRecord::of_site).map(|record| {
        let heard = progress.iter().filter(|said| said.site == record.site).map(|said| said.heard_at).max();
        let last_word_ms = heard.map(|heard| milliseconds(now.since(heard)));
        EnrolledSite { site: record.site, serial: record.serial, revoked: record.revoked, last_word_ms }
    });
    let (name, sites) = (federation.name, sites.collect());
    Ok(Status { federation: name, address: federation.address, sites, persons, runs, damaged_runs })
}

fn run_status(
    store: &dyn Store,
    record: &RunRecord,
    progress: &[ProgressRecord],
    admitted: &Admitted,
    now: Stamp,
) -> Result<RunStatus, StoreError> {
    let RunRecord { plan, state, trouble, .. } = record;
    let run = plan.run();
    let rounds = store.rounds(run)?;
    let mut ended = Vec::new();
    let mut before: Option<&RoundRecord> = None;
    for round in &rounds {
        let updates = store.updates(run, round.attempt.round)?;
        let earlier = before.filter(|before| before.attempt.round == round.attempt.round);
        let took = round.time.spent.saturating_sub(earlier.map_or(Duration::ZERO, |earlier| earlier.time.spent));
        ended.extend(ended_round(round, took, &updates, plan.draft.finetuning.is_none()));
        before = Some(round);
    }
    let model = rounds.iter().rev().find_map(|round| match &round.state {
        RoundState::Closed(_, merged) => Some(merged.model),
        _ => None,
    });
    let grace = Duration::from_secs(plan.draft.rounds.grace_s);
    let open = rounds.last().map(|last| open_round(store, run, last, grace)).transpose()?.flatten();
    let (state, because) = match state {
        RunState::Awaiting => (RunPhase::AwaitingSignatures, trouble.clone()),
        RunState::Running => (RunPhase::Running, trouble.clone()),
        RunState::Finished => (RunPhase::Finished, trouble.clone()),
        RunState::Failed { because } => {
            let trouble = trouble.iter().map(|trouble| format!("; {trouble}"));
            (RunPhase::Failed, Some(std::iter::once(because.clone()).chain(trouble).collect()))
        }
    };
    let said = |site: &SiteId| {
        let of_this_run = |said: &&ProgressRecord| {
            said.site == *site && said.progress.work.as_ref().is_some_and(|(work, _)| work == run)
        };
        progress.iter().find(of_this_run).map(|said| site_progress(said, now))
    };
    let signed = store.signatures(run)?;
    let counting = signatures::counting(&signed, admitted);
    let signed_by = |record: SignatureRecord| SignedBy {
        counts: record.counted || counting.contains(&record.coordinator),
        coordinator: record.coordinator,
        signed_at: record.signed_at,
    };
    let (tasks, scores) = cross_site(plan, &rounds, store.scores(run)?);
    let layout = crate::layout::Layout::of(&plan.signature);
    Ok(RunStatus {
        run: run.clone(),
        plan: record.plan_digest,
        state,
        signatures_needed: plan.draft.signatures,
        signed_by: signed.into_iter().map(signed_by).collect(),
        paused: false,
        because,
        first_model: plan.first_model,
        model: model.unwrap_or(plan.first_model),
        model_bytes: layout.map_or(0, |layout| layout.bytes()),
        rounds_planned: plan.draft.rounds.count,
        quorum: plan.draft.rounds.quorum,
        started_at: record.started_at,
        open,
        sites: plan.draft.rounds.sites.iter().map(|site| (site.clone(), said(site))).collect(),
        rounds: ended,
        tasks,
        scores,
    })
}

/// The models of a run, each with the round that made it: 0 is the first model's.
pub(crate) fn models<'a>(
    plan: &Plan,
    rounds: &'a [RoundRecord],
) -> impl Iterator<Item = (RoundNumber, Digest)> + use<'a> {
    let closed = rounds.iter().filter_map(|round| match &round.state {
        RoundState::Closed(_, merged) => Some((round.attempt.round, merged.model)),
        _ => None,
    });
    [(RoundNumber(0), plan.first_model)].into_iter().chain(closed)
}

fn cross_site(plan: &Plan, rounds: &[RoundRecord], noted: Vec<ScoresRecord>) -> (Vec<TaskStatus>, Vec<ModelScores>) {
    let mut of: BTreeMap<Digest, BTreeMap<SiteId, Vec<Score>>> = BTreeMap::new();
    noted.into_iter().for_each(|record| drop(of.entry(record.model).or_default().insert(record.site, record.scores)));
    let scores: Vec<ModelScores> = models(plan, rounds)
        .filter_map(|(round, model)| Some(ModelScores { round, model, sites: of.get(&model)?.clone() }))
        .collect();
    let by_round: Scores = scores.iter().map(|model| (model.round, model.sites.clone())).collect();
    let tasks = plan.draft.finetuning.iter().flat_map(|finetuning| &finetuning.tasks).map(|task| TaskStatus {
        task: task.name.clone(),
        metric: task.best.metric,
        direction: task.best.direction,
        best: score::best_model(&by_round, &task.name, task.best),
    });
    (tasks.collect(), scores)
}

fn open_round(
    store: &dyn Store,
    run: &RunId,
    last: &RoundRecord,
    grace: Duration,
) -> Result<Option<OpenRound>, StoreError> {
    let state = match last.state {
        RoundState::Gathering => OpenState::Gathering,
        RoundState::Training => OpenState::Training,
        RoundState::Merging(_) => OpenState::Merging,
        RoundState::Closed(..) | RoundState::Abandoned(_) => return Ok(None),
    };
    let mut open = OpenRound {
        round: last.attempt.round,
        attempt: last.attempt.attempt,
        state,
        base: last.attempt.base,
        time_left_ms: last.time.left.map(|left| milliseconds(left.saturating_sub(grace))),
        joined: Vec::new(),
        expected_in_ms: BTreeMap::new(),
        reported: Vec::new(),
        declined: BTreeMap::new(),
    };
    for (site, word) in store.roll(run, last.attempt)? {
        match word {
            Word::Joined => open.joined.push(site),
            Word::Reported(_) => open.reported.push(site),
            Word::Declined(reason) => drop(open.declined.insert(site, reason)),
            // The attempt before has named it.
            Word::Lost => {}
            // Listed with the sites.
            Word::Revoked => {}
        }
    }
    let forecasts = forecast::read(store, run, last.attempt.round)?;
    let at_work = forecast::at_work(store.joined(run, last.attempt.round)?, last.time.spent);
    let expected =
        |site: &SiteId| Some((site.clone(), milliseconds(forecasts.get(site)?.saturating_sub(*at_work.get(site)?))));
    open.expected_in_ms = open.joined.iter().filter_map(expected).collect();
    Ok(Some(open))
}

fn ended_round(
    round: &RoundRecord,
    took: Duration,
    updates: &BTreeMap<SiteId, UpdateRecord>,
    pretrains: bool,
) -> Option<RoundStatus> {
    let (outcome, merged): (&Outcome, Option<&Merged>) = match &round.state {
        RoundState::Closed(outcome, merged) => (outcome, Some(merged)),
        RoundState::Abandoned(outcome) => (outcome, None),
        RoundState::Gathering | RoundState::Training | RoundState::Merging(_) => return None,
    };
    let part = |site: &SiteId| {
        let manifest = &updates.get(site)?.manifest;
        let drift = merged.and_then(|merged| merged.sites.get(site));
        Some(SitePart {
            site: site.clone(),
            share: drift.map(|drift| drift.fraction),
            share_parts: drift.map(|drift| drift.share),
            subjects: manifest.subjects,
            heads: manifest.heads.clone(),
            steps: manifest.steps,
            meters: manifest.meters,
            delta_norm: drift.map(|drift| drift.norm),
            cosine: drift.map(|drift| drift.cosine),
            update: manifest.blob,
            bytes: manifest.bytes,
        })
    };
    let sites: Vec<SitePart> = outcome.reports.keys().filter_map(part).collect();
    let left_out = outcome.left_out.iter();
    let measured = |part: &SitePart| {
        let (norm, cosine) = part.delta_norm.zip(part.cosine)?;
        Some((part.site.clone(), Measured { meters: part.meters, norm, cosine }))
    };
    let measured: Vec<_> = sites.iter().filter_map(measured).collect();
    Some(RoundStatus {
        round: round.attempt.round,
        attempt: round.attempt.attempt,
        merged: merged.is_some(),
        base: round.attempt.base,
        model: merged.map(|merged| merged.model),
        took_ms: Some(milliseconds(took)),
        delta_norm: merged.map(|merged| merged.norm),
        meters: merged.map(|_| mean_meters(&sites)),
        sites,
        left_out: left_out
            .map(|(site, reason)| LeftOutSite { site: site.clone(), reason: reason.to_string() })
            .collect(),
        // What tells a collapse, and that sites pull one way, holds for DINO: of heads for different tasks neither does.
        alarms: if pretrains { alarms::alarms(&measured) } else { Vec::new() },
    })
}

fn mean_meters(sites: &[SitePart]) -> Meters {
    let mean = |meter: fn(&Meters) -> f64| {
        sites.iter().map(|part| part.share.unwrap_or_default() * meter(&part.meters)).sum::<f64>()
    };
    // Of the sites that measured it.
    let ranked = mean(|meters| f64::from(u8::from(meters.rank_me > 0.0)));
    let rank_me = if ranked > 0.0 { mean(|meters| meters.rank_me) / ranked } else { 0.0 };
    Meters {
        loss: mean(|meters| meters.loss),
        teacher_entropy: mean(|meters| meters.teacher_entropy),
        batch_entropy: mean(|meters| meters.batch_entropy),
        rank_me,
    }
}

fn site_progress(said: &ProgressRecord, now: Stamp) -> SiteProgress {
    let progress = &said.progress;
    let (phase, declined) = match progress.phase {
        Phase::Idle => ("idle", None),
        Phase::AwaitingApproval => ("awaiting-approval", None),
        Phase::Fetching => ("fetching", None),
        Phase::Indexing => ("indexing", None),
        Phase::OutsideHours => ("outside-hours", None),
        Phase::Training => ("training", None),
        Phase::Sending => ("sending", None),
        Phase::Reported => ("reported", None),
        Phase::Declined(reason) => ("declined", Some(reason)),
    };
    SiteProgress {
        round: progress.work.as_ref().map(|(_, round)| *round),
        phase: phase.to_owned(),
        declined,
        done: progress.done,
        total: progress.total,
        loss: progress.loss,
        teacher_entropy: progress.teacher_entropy,
        eta_ms: progress.eta.map(milliseconds),
        age_ms: milliseconds(now.since(said.heard_at)),
    }
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
