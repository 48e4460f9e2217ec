//! The agent's life: report, hear what is wanted, look at what is here, take one step; again.
//!
//! [`decide::next`] decides; this module carries out. Whatever fails for a reason that may pass is tried again; whatever
//! cannot succeed declines the round by name, and the agent lives on.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::privacy::{Pipeline, SUBJECTS_ROUNDED_TO};
use common::{
    Assignment, Decline, Digest, Directive, NamedTensors, Phase, Plan, Progress, RoundNumber, RunId, SiteId, Update,
};

use crate::config::Config;
use crate::decide::{self, Here, Kills, Step, Trainer};
use crate::durable::{self, DiskError};
use crate::home::Home;
use crate::images::{self, ImagesError};
use crate::job::{Job, JobError, JobFolder, JobLabels};
use crate::journal::{Journal, JournalError};
use crate::link::{Link, LinkError};
use crate::training::{State, TrainerProgram, Training};

/// One site's agent.
#[derive(Debug)]
pub struct Agent {
    site: SiteId,
    home: Home,
    config: Config,
    link: Link,
    journal: Journal,
    program: PathBuf,
    training: Option<Training>,
    kills: Option<(Work, Kills)>,
    indexing: Option<Indexing>,
    declined: Option<Declined>,
    said: Option<String>,
}

type Work = (RunId, RoundNumber, Digest);

#[derive(Debug)]
struct Declined {
    work: Work,
    reason: Decline,
    since: Instant,
}

/// After this a declined round is looked at again: a full disk may have been emptied, a share be mounted again.
const DECLINED_FOR: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Indexing {
    grid: Digest,
    task: tokio::task::JoinHandle<Result<images::Indexed, ImagesError>>,
}

/// What ends an agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A job's file cannot be used.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The aggregator refuses this site for good.
    #[error("{0}")]
    Refused(LinkError),
}

/// When an agent stops by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never: it waits for the next run.
    Stopped,
    /// When a run has finished and its last model is here.
    RunFinished,
}

impl Agent {
    /// The agent of the state folder `home`. `program` is this program, to start the trainer and the parser with.
    pub fn new(site: SiteId, home: Home, config: Config, link: Link, program: PathBuf) -> Result<Self, AgentError> {
        let journal = Journal::open(&home.journal())?;
        Ok(Self {
            site,
            home,
            config,
            link,
            journal,
            program,
            training: None,
            kills: None,
            indexing: None,
            declined: None,
            said: None,
        })
    }

    /// Works until stopped, or until a run has finished if `until` says so.
    pub async fn run(mut self, until: Until) -> Result<(), AgentError> {
        let report_every = self.config.report_every();
        // Two: an aggregator that answers reports may still refuse transfers.
        let (mut unheard, mut failing) = (Pauses::new(report_every), Pauses::new(report_every));
        let mut directive = Directive::Wait { because: "not connected yet".to_owned() };
        loop {
            match self.link.report(self.progress(&directive)).await {
                Ok(told) => {
                    unheard.reset();
                    directive = told;
                }
                Err(error) if is_final(&error) => return Err(AgentError::Refused(error)),
                Err(error) => {
                    self.say(format!("{error}; trying again"));
                    tokio::time::sleep(unheard.longer()).await;
                    continue;
                }
            }
            let here = self.look(&directive)?;
            let step = decide::next(&directive, &here);
            if until == Until::RunFinished && here.done && matches!(directive, Directive::Finished { .. }) {
                return Ok(());
            }
            match self.take(step, &directive).await {
                Ok(Then::AtOnce) => failing.reset(),
                Ok(Then::Later) => tokio::time::sleep(report_every).await,
                Err(Failure::Passing(error)) => {
                    self.say(format!("{error}; trying again"));
                    tokio::time::sleep(failing.longer()).await;
                }
                Err(Failure::Decline(reason, why)) => {
                    self.decline(&directive, reason, &why);
                    tokio::time::sleep(failing.longer()).await;
                }
                Err(Failure::Ends(error)) => return Err(error),
            }
        }
    }

    /// What to say of how it goes.
    fn progress(&self, directive: &Directive) -> Progress {
        let work = decide::work(directive);
        let named =
            |phase| Progress { work: work.clone().map(|(run, round, _)| (run, round)), phase, ..Progress::idle() };
        if let (Some(declined), Some(work)) = (&self.declined, &work)
            && declined.work == *work
        {
            return named(Phase::Declined(declined.reason));
        }
        match (&self.training, directive) {
            (Some(training), _) => training.progress(),
            (None, Directive::Train(assignment)) => named(self.phase_of(assignment)),
            (None, _) => Progress::idle(),
        }
    }

    fn phase_of(&self, assignment: &Assignment) -> Phase {
        if self.journal.is_acknowledged(&assignment.run, assignment.round, assignment.base) {
            Phase::Reported
        } else if self.home.plan(assignment.plan).exists() && !self.approves(assignment.plan) {
            Phase::AwaitingApproval
        } else if !self.home.plan(assignment.plan).exists() {
            // The plan is fetched before the site joins, so that a person can read it.
            Phase::Idle
        } else if self.indexing.is_some() {
            Phase::Indexing
        } else if self.journal.sealed(&assignment.run, assignment.round, assignment.base).is_some() {
            Phase::Sending
        } else {
            Phase::Fetching
        }
    }

    fn approves(&self, plan: Digest) -> bool {
        approvals(&self.home).is_ok_and(|approved| approved.contains(&plan))
    }

    /// What is here, as far as the directive asks.
    fn look(&mut self, directive: &Directive) -> Result<Here, AgentError> {
        let wanted = decide::work(directive);
        let mut here = Here { trainer: self.trainer(wanted.as_ref()), ..Here::default() };
        self.declined = self.declined.take().filter(|declined| declined.since.elapsed() < DECLINED_FOR);
        match directive {
            Directive::Wait { .. } => {}
            Directive::Finished { run, model, .. } => {
                here.model = self.home.model(*model).exists();
                here.done = self.journal.run(run).is_some_and(|run| run.finished == Some(*model));
                here.measured = here.done || self.plan_to_measure_by(run, *model)?.is_none();
                self.look_for_result(&mut here, run, decide::AFTER_THE_LAST, *model);
            }
            Directive::Train(assignment) => {
                let (run, round, base) = (&assignment.run, assignment.round, assignment.base);
                here.plan = self.home.plan(assignment.plan).exists();
                here.approved = here.plan && approvals(&self.home)?.contains(&assignment.plan);
                here.model = self.home.model(base).exists();
                here.sealed = self.journal.sealed(run, round, base).is_some();
                here.done = self.journal.is_acknowledged(run, round, base);
                if let Some(declined) = &self.declined {
                    here.declined = (Some(&declined.work) == wanted.as_ref()).then_some(declined.reason);
                }
                if here.plan && !here.done {
                    let plan = self.read_plan(assignment.plan)?;
                    here.images =
                        images::cache_for(&self.home, &plan.draft.images)?.is_some() && self.indexing.is_none();
                }
                self.look_for_result(&mut here, run, round, base);
            }
        }
        Ok(here)
    }

    /// A trainer of an earlier life of this agent may have ended.
    fn look_for_result(&self, here: &mut Here, run: &RunId, round: RoundNumber, base: Digest) {
        let result = || JobFolder::at(self.home.job(run, round, base)).result();
        if here.trainer == Trainer::Absent && matches!(result(), Ok(Some(_))) {
            here.trainer = Trainer::Finished;
        }
    }

    /// The plan to measure a run's last model by: of a run that finetuned, in which this site took part, and whose last model
    /// the aggregator has no scores of.
    fn plan_to_measure_by(&self, run: &RunId, model: Digest) -> Result<Option<Plan>, AgentError> {
        let record = self.journal.run(run);
        let scored = record.is_some_and(|record| record.scored == Some(model));
        let plan = record.and_then(|record| Some(record.sealed.as_ref()?.plan));
        let Some(plan) = plan.filter(|plan| !scored && self.config.policy.scores && self.approves(*plan)) else {
            return Ok(None);
        };
        let plan = self.read_plan(plan)?;
        let has_images = images::cache_for(&self.home, &plan.draft.images)?.is_some();
        Ok((plan.draft.finetuning.is_some() && has_images).then_some(plan))
    }

    /// What the trainer is doing, seen from the round `wanted`. One that has ended without being of use is let go.
    fn trainer(&mut self, wanted: Option<&Work>) -> Trainer {
        let Some(training) = &mut self.training else { return Trainer::Absent };
        let of_this_round = wanted == Some(&training.work);
        match training.state() {
            State::Running if of_this_round => Trainer::Running,
            State::Running => Trainer::RunningAnother,
            State::Finished if of_this_round => Trainer::Finished,
            State::Failed(why) if of_this_round => Trainer::Failed(why),
            State::Killed if of_this_round => {
                let (work, step) = (training.work.clone(), training.steps_taken());
                let before = self.kills.take().filter(|(killed, _)| *killed == work);
                let kills = before.map_or(Kills::default(), |(_, kills)| kills).after(step);
                tracing::warn!(step, "the trainer was killed; it goes on from its checkpoint");
                self.kills = Some((work, kills));
                self.training = None;
                if kills.too_many() { Trainer::Failed(Decline::TrainingFailed) } else { Trainer::Absent }
            }
            State::Finished | State::Failed(_) | State::Killed => {
                self.training = None;
                Trainer::Absent
            }
        }
    }

    async fn take(&mut self, step: Step, directive: &Directive) -> Result<Then, Failure> {
        match (step, directive) {
            (Step::Rest, Directive::Wait { because }) => self.say(format!("waiting: {because}")),
            (Step::Rest | Step::KeepTraining, _) => {}
            (Step::FetchPlan(digest), _) => {
                let plan = self.link.plan(digest).await?;
                durable::write(&self.home.plan(digest), &plan.canonical_bytes())?;
                return Ok(Then::AtOnce);
            }
            (Step::AwaitApproval(digest), _) => self.say(format!(
                "plan {digest} awaits the approval of a person at this site: read it with `site-agent plans`, then \
                 `site-agent approve {digest}`"
            )),
            (Step::FetchModel { model, bytes }, _) => {
                self.link.fetch_model(model, bytes, &self.home.model(model)).await?;
                return Ok(Then::AtOnce);
            }
            (Step::StopTraining, _) => {
                if let Some(training) = self.training.take() {
                    tracing::info!(run = %training.work.0, round = training.work.1.0, "stopping the trainer: its round is over");
                    training.stop().await;
                }
            }
            (Step::Index, Directive::Train(assignment)) => return self.index(assignment).await,
            (Step::Train, Directive::Train(assignment)) => self.train(assignment)?,
            (Step::Measure, Directive::Finished { run, model, .. }) => {
                if let Some(plan) = self.plan_to_measure_by(run, *model)? {
                    tracing::info!(%run, "measuring the last model");
                    self.start_trainer(plan, (run.clone(), decide::AFTER_THE_LAST, *model), 0, true)?;
                }
            }
            (Step::SendScores, Directive::Finished { run, model, .. }) => {
                self.training = None;
                self.send_scores(run, decide::AFTER_THE_LAST, *model).await?;
                // Whatever was there to send, it is sent once.
                self.journal.score(run, *model).map_err(AgentError::from)?;
                return Ok(Then::AtOnce);
            }
            (Step::Seal, Directive::Train(assignment)) => {
                self.seal(assignment)?;
                return Ok(Then::AtOnce);
            }
            (Step::Send, Directive::Train(assignment)) => {
                self.send(assignment).await?;
                return Ok(Then::AtOnce);
            }
            (Step::Decline(reason), _) => {
                let words = self.training.take().map(|training| training.last_words()).unwrap_or_default();
                let declined = self.declined.as_ref().map(|declined| &declined.work);
                let said = declined.is_some() && declined == decide::work(directive).as_ref();
                return if said { Ok(Then::Later) } else { Err(Failure::Decline(reason, words)) };
            }
            (Step::Finish(run, model), _) => {
                self.training = None;
                self.journal.finish(&run, model).map_err(AgentError::from)?;
                self.forget_models(model);
                tracing::info!(%run, %model, path = %self.home.model(model).display(), "the run is over; its last model is here");
                return Ok(Then::AtOnce);
            }
            (Step::Index | Step::Train | Step::Seal | Step::Send | Step::Measure | Step::SendScores, _) => {}
        }
        Ok(Then::Later)
    }

    fn read_plan(&self, digest: Digest) -> Result<Plan, AgentError> {
        let bytes = durable::read(&self.home.plan(digest))?;
        Plan::from_agreed_bytes(&bytes, digest).map_err(|error| AgentError::Refused(error.into()))
    }

    /// Reads the images onto the plan's grid, beside the reports.
    async fn index(&mut self, assignment: &Assignment) -> Result<Then, Failure> {
        let plan = self.read_plan(assignment.plan)?;
        let grid = images::grid_digest(&plan.draft.images);
        match self.indexing.take() {
            Some(indexing) if indexing.grid == grid && !indexing.task.is_finished() => self.indexing = Some(indexing),
            Some(indexing) if indexing.grid == grid => match indexing.task.await {
                Ok(Ok(indexed)) => tracing::info!(frames = indexed.frames, "the images are on the plan's grid"),
                Ok(Err(error)) => return Err(Failure::Decline(error.decline(), error.to_string())),
                Err(error) => return Err(Failure::Decline(Decline::TooFewImages, error.to_string())),
            },
            _ => {
                tracing::info!("reading the images onto the plan's grid");
                let (home, config, program) = (self.home.clone(), self.config.intake.clone(), self.program.clone());
                let images = plan.draft.images;
                let task = tokio::task::spawn_blocking(move || {
                    images::index_all(&home, None, &images, &config, &program, &mut |_| {})
                });
                self.indexing = Some(Indexing { grid, task });
            }
        }
        Ok(Then::Later)
    }

    fn train(&mut self, assignment: &Assignment) -> Result<(), Failure> {
        let plan = self.read_plan(assignment.plan)?;
        let work = (assignment.run.clone(), assignment.round, assignment.base);
        tracing::info!(run = %work.0, round = %work.1, "training");
        self.start_trainer(plan, work, assignment.first_step, false)
    }

    fn start_trainer(&mut self, plan: Plan, work: Work, first_step: u64, measure_only: bool) -> Result<(), Failure> {
        let (run, round, base) = (&work.0, work.1, work.2);
        let Some(cache) = images::cache_for(&self.home, &plan.draft.images)? else { return Ok(()) };
        let secret = images::secret_path(&self.home);
        let labels = self.config.labels.clone().map(|folder| JobLabels { folder, secret });
        let job = Job {
            plan: plan.draft,
            round,
            site: self.site.clone(),
            first_step,
            base: self.home.model(base),
            base_digest: base,
            kept: self.kept_before(run, round),
            cache,
            held_out: self.config.held_out,
            device: self.config.device.clone(),
            micro_batch: self.config.micro_batch,
            labels,
            min_subjects: self.config.policy.min_subjects.max(SUBJECTS_ROUNDED_TO),
            measure_only,
        };
        let folder = JobFolder::at(self.home.job(run, round, base));
        let program = TrainerProgram::of(self.program.clone(), &self.config);
        let training = program.start(work, folder, &job).map_err(AgentError::from)?;
        self.training = Some(training);
        Ok(())
    }

    /// What stays at the site goes from round to round, and starts over when it missed one. What was sealed counts: an
    /// aggregator that ended between storing an update and acknowledging it must not cost the site that.
    fn kept_before(&self, run: &RunId, round: RoundNumber) -> Option<PathBuf> {
        Some(self.job_before(run, round)?.kept()).filter(|kept| kept.exists())
    }

    /// The folder of the round before, if this site was in it.
    fn job_before(&self, run: &RunId, round: RoundNumber) -> Option<JobFolder> {
        let last = self.journal.run(run)?.sealed.as_ref().filter(|last| last.round.next() == round)?;
        Some(JobFolder::at(self.home.job(run, last.round, last.base)))
    }

    /// The delta with what the encoding left out of the last one. Of tensors that this update does not hold, nothing.
    fn with_what_is_owed(&self, work: &Assignment, mut delta: NamedTensors) -> Result<NamedTensors, Failure> {
        let Some(before) = self.job_before(&work.run, work.round) else { return Ok(delta) };
        let Some(file) = durable::read_if_there(&before.residual())? else { return Ok(delta) };
        let owed = NamedTensors::from_safetensors(&file).map_err(unreadable)?;
        for (name, values) in delta.iter_mut() {
            if let Some(owed) = owed.get(name).filter(|owed| owed.values.len() == values.len()) {
                values.iter_mut().zip(&owed.values).for_each(|(value, owed)| *value += owed);
            }
        }
        Ok(delta)
    }

    /// Passes the trained delta through the privacy pipeline, and records it before a byte of it is sent.
    fn seal(&mut self, assignment: &Assignment) -> Result<(), Failure> {
        self.training = None;
        let plan = self.read_plan(assignment.plan)?;
        let folder = JobFolder::at(self.home.job(&assignment.run, assignment.round, assignment.base));
        let result = folder.result().map_err(AgentError::from)?;
        let Some(result) = result else {
            return Err(Failure::Decline(Decline::TrainingFailed, "the trainer left no result".to_owned()));
        };
        let trained = NamedTensors::from_safetensors(&durable::read(&folder.delta())?).map_err(unreadable)?;
        let delta = self.with_what_is_owed(assignment, trained)?;
        let update = Update {
            run: assignment.run.clone(),
            round: assignment.round,
            site: self.site.clone(),
            plan: assignment.plan,
            base: assignment.base,
            subjects: result.subjects,
            heads: result.heads,
            steps: result.steps,
            meters: result.meters,
            delta,
        };
        let sealed = Pipeline::new(&plan, self.config.policy.clone()).seal(update);
        let sealed = sealed.map_err(|withheld| Failure::Decline(Decline::Withheld, withheld.to_string()))?;
        if let Some(residual) = sealed.residual() {
            durable::write(&folder.residual(), &residual.to_safetensors())?;
        }
        durable::write(&folder.sealed(), sealed.blob())?;
        self.journal.seal(sealed.manifest().clone()).map_err(AgentError::from)?;
        Ok(())
    }

    async fn send(&mut self, assignment: &Assignment) -> Result<(), Failure> {
        let sealed = self.journal.sealed(&assignment.run, assignment.round, assignment.base).cloned();
        let Some(manifest) = sealed else { return Ok(()) };
        self.send_scores(&manifest.run, manifest.round, manifest.base).await?;
        let folder = JobFolder::at(self.home.job(&assignment.run, assignment.round, assignment.base));
        self.link.send(&manifest, &folder.sealed()).await?;
        self.journal.acknowledge(&manifest).map_err(AgentError::from)?;
        tracing::info!(run = %manifest.run, round = %manifest.round, bytes = manifest.bytes, "update acknowledged");
        self.forget_older_than(&manifest.run, manifest.round);
        self.forget_models(manifest.base);
        Ok(())
    }

    /// Sends what the trainer measured of a round's first model, if it did, unless the aggregator has it.
    async fn send_scores(&mut self, run: &RunId, round: RoundNumber, model: Digest) -> Result<(), Failure> {
        let scored = self.journal.run(run).is_some_and(|record| record.scored == Some(model));
        let scores = JobFolder::at(self.home.job(run, round, model)).scores().map_err(AgentError::from)?;
        let Some(scores) = scores.filter(|_| !scored && self.config.policy.scores) else { return Ok(()) };
        match self.link.scores(run, model, scores).await {
            Err(error) if !error.is_transient() && !is_final(&error) => {
                tracing::warn!(%run, %round, %error, "the scores do not count; the update does");
            }
            sent => sent?,
        }
        self.journal.score(run, model).map_err(AgentError::from)?;
        Ok(())
    }

    /// Removes job folders of rounds before the last one: only what it kept is still of use.
    fn forget_older_than(&self, run: &RunId, round: RoundNumber) {
        let jobs = self.home.root().join(format!("jobs/{run}"));
        let kept = format!("{:05}-", round.0);
        for entry in fs::read_dir(jobs).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().as_ref() < kept.as_str()
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, "an old job folder could not be removed");
            }
        }
    }

    /// Removes models that no round goes on from: all but `base` and the last models of finished runs.
    fn forget_models(&self, base: Digest) {
        let mut kept: BTreeSet<PathBuf> = self.journal.last_models().map(|model| self.home.model(model)).collect();
        kept.insert(self.home.model(base));
        for entry in fs::read_dir(self.home.models()).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path())
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(%error, "an old model could not be removed");
            }
        }
    }

    fn decline(&mut self, directive: &Directive, reason: Decline, why: &str) {
        tracing::error!(%reason, detail = why, "this site declines the round");
        if let Some(work) = decide::work(directive) {
            self.declined = Some(Declined { work, reason, since: Instant::now() });
        }
    }

    /// Says a thing once, not with every report.
    fn say(&mut self, line: String) {
        if self.said.as_ref() != Some(&line) {
            tracing::info!("{line}");
            self.said = Some(line);
        }
    }
}

fn unreadable(error: common::weights::WeightsError) -> Failure {
    Failure::Decline(Decline::TrainingFailed, error.to_string())
}

/// The plans that a person at this site approved.
pub fn approvals(home: &Home) -> Result<BTreeSet<Digest>, DiskError> {
    let path = home.approvals();
    let bytes = durable::read_if_there(&path)?;
    bytes.map_or(Ok(BTreeSet::new()), |bytes| {
        serde_json::from_slice(&bytes).map_err(|error| durable::told("read", &path)(error.into()))
    })
}

/// Records a person's approval of a plan.
pub fn approve(home: &Home, plan: Digest) -> Result<(), DiskError> {
    let mut approved = approvals(home)?;
    approved.insert(plan);
    let path = home.approvals();
    let bytes = serde_json::to_vec_pretty(&approved).map_err(|error| durable::told("write", &path)(error.into()))?;
    durable::write(&path, &bytes)
}

/// Refusals after which asking again is of no use.
fn is_final(error: &LinkError) -> bool {
    matches!(error.refusal(), Some("unidentified" | "speaks-for-another" | "revoked"))
}

enum Then {
    AtOnce,
    Later,
}

enum Failure {
    /// Try again.
    Passing(LinkError),
    /// This round goes on without this site.
    Decline(Decline, String),
    /// The agent cannot go on.
    Ends(AgentError),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Plan(error) => Self::Decline(Decline::PlanDiffers, error.to_string()),
            LinkError::Disk(error) => error.into(),
            // The round has moved on, or counts without us: the next directive says how.
            LinkError::Refused { ref code, .. } if code == "update" || code == "conflict" => {
                Self::Decline(Decline::Withheld, error.to_string())
            }
            error if is_final(&error) => Self::Ends(AgentError::Refused(error)),
            error => Self::Passing(error),
        }
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        if error.is_full() { Self::Decline(Decline::DiskFull, error.to_string()) } else { Self::Ends(error.into()) }
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Disk(error)
            | AgentError::Job(JobError::Disk(error))
            | AgentError::Journal(JournalError::Disk(error)) => error.into(),
            error => Self::Ends(error),
        }
    }
}

/// Pauses that double after each failure, up to half a minute.
#[derive(Debug)]
struct Pauses {
    first: Duration,
    next: Duration,
}

impl Pauses {
    fn new(first: Duration) -> Self {
        Self { first, next: first }
    }

    fn reset(&mut self) {
        self.next = self.first;
    }

    fn longer(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(Duration::from_secs(30));
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_start_over_after_a_success() {
        let mut pauses = Pauses::new(Duration::from_secs(10));
        let taken: Vec<_> = (0..4).map(|_| pauses.longer().as_secs()).collect();
        assert_eq!(taken, [10, 20, 30, 30]);
        pauses.reset();
        assert_eq!(pauses.longer().as_secs(), 10);
    }

    #[test]
    fn an_approval_is_remembered_by_the_whole_digest() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        assert!(approvals(&home).unwrap().is_empty());
        approve(&home, Digest::of(b"plan")).unwrap();
        approve(&home, Digest::of(b"another")).unwrap();
        assert!(approvals(&home).unwrap().contains(&Digest::of(b"plan")));
        assert!(!approvals(&home).unwrap().contains(&Digest::of(b"plan ")));
    }
}
