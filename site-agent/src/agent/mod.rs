//! The agent's life: report, hear what is wanted, look at what is here, take one step; again.
//!
//! [`decide::next`] decides; this module carries out. Whatever fails for a reason that may pass is tried again; whatever
//! cannot succeed declines the round by name, and the agent lives on.

mod arriving;
mod beside;
mod ends;
mod failure;
mod intake;
mod leaving;
mod looking;
mod membership;
mod pauses;
mod permitted;
mod saying;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::privacy::SUBJECTS_ROUNDED_TO;
use common::{Assignment, Decline, Digest, Directive, Phase, Plan, Progress, RoundNumber, RunId, SiteId};

use crate::approvals;
use crate::begun::Begun;
use crate::clock;
use crate::config::Config;
use crate::decide::{self, Kills, Step};
use crate::durable::{self, DiskError};
use crate::enrol::{EnrolError, Member};
use crate::home::Home;
use crate::images;
use crate::job::{Job, JobError, JobFolder, JobLabels};
use crate::journal::{Journal, JournalError};
use crate::ledger::{Event, Ledger, LedgerError};
use crate::link::{Link, LinkError};
use crate::runs::Runs;
use crate::standing::Still;
use crate::training::{TrainerProgram, Training};
use ends::Ends;
use failure::{Failure, Then, is_final, is_of_an_old_round};
use intake::Indexing;
use membership::Certificate;
use pauses::Pauses;
use saying::Said;

/// One site's agent.
#[derive(Debug)]
pub struct Agent {
    site: SiteId,
    member: Member,
    certificate: Certificate,
    home: Home,
    config: Config,
    link: Link,
    journal: Journal,
    begun: Begun,
    program: PathBuf,
    training: Option<Training>,
    kills: Option<(Work, Kills)>,
    indexing: Option<Indexing>,
    declined: Option<Declined>,
    refused_lineage: Option<Work>,
    /// The plan whose signatures were asked for last, and when.
    signatures_asked: Option<(Digest, Instant)>,
    said: Option<Said>,
    ends: Ends,
    /// Events that a full disk kept out of the ledger, oldest first.
    owed: Vec<Event>,
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
    /// The run that it was to work for failed, or was aborted: which, and why.
    #[error("{0}; an agent that is started without `--until-finished` waits for the next run")]
    RunFailed(String),
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The site's key or certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] EnrolError),
    /// The site's certificate has expired.
    #[error(
        "the certificate of {site} expired at {end}, by this machine's clock: ask the coordinator for an invitation (`aggregator \
         invite {site}`), then `site-agent enrol <invitation>` in this state folder; what was trained stays and goes on"
    )]
    Expired {
        /// This site.
        site: SiteId,
        /// When.
        end: String,
    },
}

/// When an agent stops by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never: it waits for the next run.
    Stopped,
    /// When a run has finished and its last model is here, or when it has failed.
    RunFinished,
}

impl Agent {
    /// The agent of the state folder `home`. `program` is this program, to start the trainer and the parser with.
    pub fn new(member: Member, home: Home, config: Config, program: PathBuf) -> Result<Self, AgentError> {
        let journal = Journal::open(&home.journal())?;
        let link = member.link()?.under(&config.policy, &home);
        let (site, certificate, begun) = (member.enrolled.site.clone(), Certificate::of(&member)?, Begun::read(&home)?);
        let ends = Ends::by(&Runs::of(&Ledger::at(home.ledger()))?);
        Ok(Self {
            site,
            member,
            certificate,
            home,
            config,
            link,
            journal,
            begun,
            program,
            training: None,
            kills: None,
            indexing: None,
            declined: None,
            refused_lineage: None,
            signatures_asked: None,
            said: None,
            ends,
            owed: Vec::new(),
        })
    }

    /// Works until stopped, or until a run has finished if `until` says so.
    pub async fn run(&mut self, until: Until) -> Result<(), AgentError> {
        let report_every = self.config.report_every();
        // Two: an aggregator that answers reports may still refuse transfers.
        let (mut unheard, mut failing) = (Pauses::new(report_every), Pauses::new(report_every));
        let mut directive = Directive::Wait { because: "not connected yet".to_owned() };
        loop {
            self.keep_certificate().await?;
            match self.hear(&directive).await {
                Ok(told) => {
                    unheard.reset();
                    directive = told;
                }
                Err(error) if is_final(&error) => return Err(AgentError::Refused(error)),
                Err(error) => {
                    self.say(Said::TriesAgain { error: error.to_string() });
                    self.rest(unheard.longer()).await;
                    continue;
                }
            }
            self.enter_failures(&directive)?;
            let here = self.look(&directive)?;
            let step = decide::next(&directive, &here);
            if until == Until::RunFinished
                && let Some(ended) = decide::end_of_run(&directive, &here)
            {
                return ended.map_err(AgentError::RunFailed);
            }
            let taken = match self.hold_to_lineage(&directive) {
                Ok(()) => self.take(step, &directive).await,
                Err(failure) => Err(failure),
            };
            match (&taken, &directive) {
                // What is left to do of a run that is over is done: whatever else there is, it is another run's.
                (Ok(_), Directive::Finished { .. } | Directive::Failed { .. }) if until == Until::RunFinished => {
                    let here = self.look(&directive)?;
                    if let Some(ended) = decide::end_of_run(&directive, &here) {
                        return ended.map_err(AgentError::RunFailed);
                    }
                }
                (Err(Failure::Passing(_) | Failure::Decline(..)), Directive::Finished { run, model, .. }) => {
                    self.ends.put_off(run, *model)
                }
                _ => {}
            }
            match taken {
                Ok(Then::AtOnce) => failing.reset(),
                Ok(Then::Later) => self.rest(report_every).await,
                Ok(Then::Instead(told)) => {
                    failing.reset();
                    directive = told;
                }
                Err(Failure::Passing(error)) => {
                    self.say(Said::TriesAgain { error: error.to_string() });
                    self.rest(decide::asks_again_after(failing.longer(), is_of_an_old_round(&error))).await;
                }
                Err(Failure::Decline(reason, why)) => {
                    self.decline(&directive, reason, &why)?;
                    self.rest(failing.longer()).await;
                }
                Err(Failure::Ends(error)) => return Err(error),
            }
        }
    }

    /// Ends: a trainer at work writes a checkpoint first.
    pub async fn end(mut self) {
        self.indexing.iter().for_each(Indexing::stop);
        if let Some(mut training) = self.training.take_if(|training| training.is_at_work()) {
            training.ended().await;
        }
    }

    /// What to say of how it goes.
    fn progress(&self, directive: &Directive) -> Progress {
        let work = decide::work(directive);
        let named =
            |phase| Progress { work: work.clone().map(|(run, round, _)| (run, round)), phase, ..Progress::idle() };
        let still = self.still();
        if still == Some(Still::Stopped) {
            let wanted = matches!(directive, Directive::Train(assignment) if !self.is_done(assignment));
            return if wanted { named(Phase::Declined(Decline::Stopped)) } else { Progress::idle() };
        }
        if let (Some(declined), Some(work), Directive::Train(_)) = (&self.declined, &work, directive)
            && declined.work == *work
        {
            return named(Phase::Declined(declined.reason));
        }
        match (&self.training, directive) {
            (Some(training), _) => training.progress(),
            (None, Directive::Train(assignment)) => match (self.phase_of(assignment), still) {
                (Phase::Fetching | Phase::Indexing, Some(Still::OutsideHours { opens_in })) => {
                    Progress { eta: Some(opens_in), ..named(Phase::OutsideHours) }
                }
                (phase, _) => named(phase),
            },
            // As long as it can do what is left to do, this site is with the run.
            (None, Directive::Finished { run, model, .. })
                // Approvals that cannot be read are told when it is looked at what is here.
                if still.is_none()
                    && !self.has_ended(run, *model).is_ok_and(|ended| ended)
                    && !self.ends.is_put_off(run) =>
            {
                named(Phase::Idle)
            }
            (None, _) => Progress::idle(),
        }
    }

    fn phase_of(&self, assignment: &Assignment) -> Phase {
        if self.is_done(assignment) {
            Phase::Reported
        } else if self.home.plan(assignment.plan).exists() && !self.approves(assignment.plan) {
            Phase::AwaitingApproval
        } else if !self.home.plan(assignment.plan).exists() {
            // The plan is fetched before the site joins, so that a person can read it.
            Phase::Idle
        } else if self.indexing.as_ref().is_some_and(|indexing| !indexing.is_stopped()) {
            Phase::Indexing
        } else if self.journal.sealed(&assignment.run, assignment.round, assignment.base).is_some() {
            Phase::Sending
        } else {
            Phase::Fetching
        }
    }

    /// Whether the coordinator is being told that this site takes no part in the round.
    fn has_declined(&self, directive: &Directive) -> bool {
        self.declined.as_ref().is_some_and(|declined| Some(&declined.work) == decide::work(directive).as_ref())
    }

    fn is_done(&self, assignment: &Assignment) -> bool {
        decide::is_done(assignment, self.is_acknowledged(assignment))
    }

    fn is_acknowledged(&self, assignment: &Assignment) -> bool {
        self.journal.is_acknowledged(&assignment.run, assignment.round, assignment.base)
    }

    fn approves(&self, plan: Digest) -> bool {
        approvals::approved(&self.home).is_ok_and(|approved| approved.contains(&plan))
    }

    async fn take(&mut self, step: Step, directive: &Directive) -> Result<Then, Failure> {
        match (step, directive) {
            (Step::Rest, Directive::Wait { because } | Directive::Failed { because, .. }) => {
                self.say(Said::Waits { because: because.clone() })
            }
            (Step::Rest | Step::KeepTraining, _) => {}
            (Step::FetchPlan(digest), _) => {
                self.fetch_plan(digest).await?;
                return Ok(Then::AtOnce);
            }
            (Step::AwaitApproval(plan), _) => self.say(Said::AwaitsApproval(plan)),
            (Step::FetchModel { model, bytes }, _) => return self.fetch_model(model, bytes, directive).await,
            (Step::StopTraining, _) => {
                if let Some(mut training) = self.training.take() {
                    tracing::info!(run = %training.work.0, round = training.work.1.0, "stopping the trainer: its round is no longer asked for");
                    training.kill();
                }
            }
            (Step::StopIndexing, _) => {
                self.indexing.iter().for_each(Indexing::stop);
                return Ok(Then::AtOnce);
            }
            (Step::PauseTraining, _) => self.stop_if_still(),
            (Step::StandStill(Still::Stopped), _) => self.say(Said::Stopped),
            (Step::StandStill(Still::OutsideHours { .. }), _) => self.say(Said::OutsideHours(self.config.policy.hours)),
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
            (Step::Send, Directive::Train(assignment)) => return self.send(assignment, directive).await,
            (Step::Decline(reason), _) => {
                let words = self.training.take().map(|training| training.last_words());
                let words = words.or_else(|| self.words_of_objection(directive)).unwrap_or_default();
                return if self.has_declined(directive) {
                    Ok(Then::Later)
                } else {
                    Err(Failure::Decline(reason, words))
                };
            }
            (Step::Finish(run, model), _) => {
                self.training = None;
                self.enter(&Event::RunFinished { run: run.clone(), model })?;
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
        Plan::from_kept_bytes(&bytes, digest).map_err(|error| AgentError::Refused(error.into()))
    }

    fn train(&mut self, assignment: &Assignment) -> Result<(), Failure> {
        let plan = self.read_plan(assignment.plan)?;
        let work = (assignment.run.clone(), assignment.round, assignment.base);
        self.begun.begin(&work, clock::wall().day(), &self.home)?;
        tracing::info!(run = %work.0, round = %work.1, "training");
        self.start_trainer(plan, work, assignment.first_step, false)
    }

    fn start_trainer(&mut self, plan: Plan, work: Work, first_step: u64, measure_only: bool) -> Result<(), Failure> {
        let (run, round, base) = (&work.0, work.1, work.2);
        let Some(cache) = self.cache_for(&plan)? else { return Ok(()) };
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
            local: self.local_before(run, round),
            cache,
            held_out: self.config.held_out,
            device: self.config.device.clone(),
            precision: self.config.precision,
            micro_batch: self.config.micro_batch,
            labels,
            min_subjects: self.config.policy.min_subjects.max(SUBJECTS_ROUNDED_TO),
            measures: self.config.policy.scores,
            measure_only,
        };
        let folder = JobFolder::at(self.home.job(run, round, base));
        let program = TrainerProgram::of(self.program.clone(), &self.config);
        let training = program.start(work, folder, &job).map_err(AgentError::from)?;
        self.training = Some(training);
        Ok(())
    }

    fn decline(&mut self, directive: &Directive, reason: Decline, why: &str) -> Result<(), AgentError> {
        if let Directive::Finished { run, .. } = directive {
            tracing::error!(%run, %reason, detail = why, "the last model of the run cannot be had just now");
            return Ok(());
        }
        tracing::error!(%reason, detail = why, "this site declines the round");
        if let Some(work) = decide::work(directive) {
            let before = self.declined.as_ref().map(|declined| (&declined.work, declined.reason));
            let is_news = before != Some((&work, reason));
            let event = Event::Declined { run: work.0.clone(), round: work.1, reason };
            // Whatever the ledger's disk says: the coordinator is to hear it.
            self.declined = Some(Declined { work, reason, since: Instant::now() });
            if is_news {
                self.enter_or_owe(event)?;
            }
        }
        Ok(())
    }
}
