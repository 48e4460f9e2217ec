//! The round's update on its way out, and what stays: sealed on disk before a byte of it is sent, acknowledged, tidied up.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use common::plan::Plan;
use common::privacy::{NoiseKey, Pipeline};
use common::{Assignment, Decline, Digest, Directive, NamedTensors, RoundNumber, RunId, Update, UpdateManifest};

use super::beside::Transfer;
use super::failure::{Failure, Then, is_final, unreadable};
use super::{Agent, AgentError};
use crate::job::JobFolder;
use crate::ledger::Event;
use crate::{durable, images};

impl Agent {
    /// What stays at the site goes from round to round, and starts over when it missed one. What was sealed counts: an
    /// aggregator that ended between storing an update and acknowledging it must not cost the site that.
    pub(super) fn kept_before(&self, run: &RunId, round: RoundNumber) -> Option<PathBuf> {
        Some(self.job_before(run, round)?.kept()).filter(|kept| kept.exists())
    }

    /// What the plan keeps at the site, as the last round that this site was in left it, however long ago.
    pub(super) fn local_before(&self, run: &RunId, round: RoundNumber) -> Option<PathBuf> {
        let last = self.journal.run(run)?.sealed.as_ref().filter(|last| last.round < round)?;
        Some(JobFolder::at(self.home.job(run, last.round, last.base)).local()).filter(|local| local.exists())
    }

    /// The folder of the round before, if this site was in it.
    fn job_before(&self, run: &RunId, round: RoundNumber) -> Option<JobFolder> {
        let last = self.journal.run(run)?.sealed.as_ref().filter(|last| round.follows(last.round))?;
        Some(JobFolder::at(self.home.job(run, last.round, last.base)))
    }

    /// The delta with what the encoding left out of the last one. Of tensors that this update does not hold, nothing.
    fn with_what_is_owed(&self, work: &Assignment, delta: NamedTensors) -> Result<NamedTensors, Failure> {
        let Some(before) = self.job_before(&work.run, work.round) else { return Ok(delta) };
        let Some(file) = durable::read_if_there(&before.residual())? else { return Ok(delta) };
        let owed = NamedTensors::from_safetensors(&file).map_err(unreadable)?;
        Ok(delta.plus(&owed))
    }

    /// Passes the trained delta through the privacy pipeline, and records it before a byte of it is sent.
    pub(super) fn seal(&mut self, assignment: &Assignment) -> Result<(), Failure> {
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
            examples: result.examples,
            steps: result.steps,
            meters: result.meters,
            delta,
        };
        let sealed = self.pipeline(&plan)?.seal(update);
        let sealed = sealed.map_err(|withheld| Failure::Decline(withheld.decline(), withheld.to_string()))?;
        let attestation = self.member.attest(sealed.manifest(), assignment.ledger.as_deref());
        let sealed = sealed.attested(attestation);
        if let Some(residual) = sealed.residual() {
            durable::write(&folder.residual(), &residual.to_safetensors())?;
        }
        durable::write(&folder.sealed(), sealed.blob())?;
        let UpdateManifest { run, round, base, blob, subjects, steps, attestation, .. } = sealed.manifest().clone();
        self.enter(&Event::UpdateSealed { run, round, base, blob, subjects, steps, attestation })?;
        self.journal.seal(sealed.manifest().clone()).map_err(AgentError::from)?;
        Ok(())
    }

    /// What the update passes on its way out. The site's own secret is read only if the plan asks for noise.
    fn pipeline(&self, plan: &Plan) -> Result<Pipeline, Failure> {
        let pipeline = Pipeline::new(plan, self.config.policy.clone());
        if plan.draft.privacy.noise_multiplier == 0.0 {
            return Ok(pipeline);
        }
        let unreadable = |error: images::ImagesError| Failure::Decline(Decline::Withheld, error.for_a_log());
        let secret = images::secret(&self.home).map_err(unreadable)?;
        Ok(pipeline.with_noise_from(NoiseKey::of(secret.to_hex().as_bytes())))
    }

    /// Sends the sealed update as long as the directive holds that asks for it.
    pub(super) async fn send(&mut self, assignment: &Assignment, directive: &Directive) -> Result<Then, Failure> {
        let sealed = self.journal.sealed(&assignment.run, assignment.round, assignment.base).cloned();
        let Some(mut manifest) = sealed else { return Ok(Then::Later) };
        let again = self.is_acknowledged(assignment);
        if again {
            tracing::warn!(run = %manifest.run, round = %manifest.round, "the aggregator lost what it acknowledged: it is sent again");
            // What it signs of the ledger is as told now: the end of that may be lost as well.
            manifest.attestation = Some(self.member.attest(&manifest, assignment.ledger.as_deref()));
        }
        match self.send_scores(&manifest.run, manifest.round, manifest.base).await {
            // They never hold the update up; whatever keeps both from being sent is met again, and both are tried again.
            Err(Failure::Passing(error)) => tracing::warn!(run = %manifest.run, %error, "the scores are not sent yet"),
            sent => sent?,
        }
        let folder = JobFolder::at(self.home.job(&assignment.run, assignment.round, assignment.base));
        let (ear, sealed) = (self.ear(directive), folder.sealed());
        match ear.beside(self.link.upload(&manifest, &sealed)).await? {
            // All bytes are there: the answer is waited for, since what it says is what counts, here and there.
            Transfer::Whole(()) => self.link.finish(&manifest).await?,
            Transfer::Dropped(told) => return Ok(Then::Instead(told)),
        }
        if !again {
            let (run, round, blob) = (manifest.run.clone(), manifest.round, manifest.blob);
            self.enter(&Event::UpdateAcknowledged { run, round, blob })?;
        }
        self.journal.acknowledge(&manifest).map_err(AgentError::from)?;
        tracing::info!(run = %manifest.run, round = %manifest.round, bytes = manifest.bytes, "update acknowledged");
        self.forget_older_than(&manifest.run, manifest.round);
        self.forget_models(manifest.base);
        if again {
            return Ok(Then::Later);
        }
        // It was awaited when that was told, and is no more.
        Ok(Then::Instead(Directive::Train(Assignment { awaited: false, ..assignment.clone() })))
    }

    /// Sends what the trainer measured of a round's first model, if it did, unless the aggregator has it.
    pub(super) async fn send_scores(&mut self, run: &RunId, round: RoundNumber, model: Digest) -> Result<(), Failure> {
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

    /// Removes models that no round goes on from: all but `base`, the last models of finished runs, what is here of those that are
    /// still to be had, and of runs that are not over the one that a later model is mostly the same as.
    pub(super) fn forget_models(&self, base: Digest) {
        let mut kept: BTreeSet<PathBuf> = self.journal.last_models().map(|model| self.home.model(model)).collect();
        kept.insert(self.home.model(base));
        let others = self.journal.unended().filter(|run| !self.ends.has_failed(run));
        let sealed = others.filter_map(|run| self.journal.run(run)?.sealed.as_ref());
        kept.extend(sealed.map(|sealed| self.home.model(sealed.base)));
        let unfinished = |model| ["part", "changes"].map(|end| self.home.model(model).with_added_extension(end));
        kept.extend(self.ends.awaited_models().flat_map(unfinished));
        for entry in fs::read_dir(self.home.models()).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path())
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(%error, "an old model could not be removed");
            }
        }
    }
}
