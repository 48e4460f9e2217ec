//! A site says how it goes, and hears what to do.

use std::time::Duration;

use common::signed::{Lineage, SignedHead, ledger_statement, model_statement};
use common::{Assignment, Digest, Directive, Phase, Progress, Refusal, RoundNumber, RunId, SiteId};

use super::course::{deadline_of, grace_of};
use super::{Federation, Live, LiveRun, Undecided, refusal};
use crate::allowance::{OF_A_KIND, Repeated};
use crate::round::{Heard, Word, without_names};
use crate::run::{Attempt, Run, RunEvent};
use crate::store::Details;

impl Federation {
    /// Takes note of a site's progress, counts it in if it joins or declines a round, and says what to do next.
    pub fn report(&self, site: &SiteId, progress: &Progress) -> Result<Directive, Refusal> {
        let at_work = progress.work.as_ref().map(|(run, _)| run);
        let mut live = self.live();
        let is_known = at_work.is_none_or(|run| live.run(run).is_some_and(|run| run.invites(site)));
        drop(live);
        // Only of runs that invite the site: a site must not fill the disk with names that it made up.
        if is_known && let Err(error) = self.store.note_progress(site, progress, self.clock.wall()) {
            tracing::warn!(%site, %error, "how a site goes could not be noted; its report counts");
        }
        let mut live = self.live();
        if let (Some((run, round)), Some(word)) = (&progress.work, word(&progress.phase))
            && let Some(live) = live.run(run)
        {
            let heard = Heard { site: site.clone(), round: *round, word };
            match self.hear(live, heard).map_err(Refusal::from) {
                Err(refusal) if refusal.is_transient() => return Err(refusal),
                // Late, or of another round: the directive says what to do instead.
                Err(refusal) => tracing::debug!(%site, %run, %round, %refusal, "a word that does not count"),
                Ok(()) => {}
            }
        }
        let directive = directive(&live, site, at_work, self.clock.elapsed());
        match directive {
            Directive::Train(work) => {
                let before = live.runs.iter().find(|run| *run.id() == work.run).map(|run| run.before);
                let awaited = is_awaited(&live, site, &work.run);
                Ok(Directive::Train(self.vouched(Assignment { awaited, ..work }, before)?))
            }
            directive => Ok(directive),
        }
    }

    /// Counts a site's word in. One that it changes again and again in a round is left as it was: each change is an entry in the
    /// ledger, and its update counts whatever it said before.
    fn hear(&self, live: &mut LiveRun, heard: Heard) -> Result<(), Undecided> {
        let open = live.open().filter(|(attempt, _)| attempt.round == heard.round);
        let said = open.and_then(|(_, round)| round.roll()?.get(&heard.site).copied());
        let is_change = matches!(said, Some(Word::Joined | Word::Declined(_))) && said != Some(heard.word);
        let what = Repeated::Word(live.id().clone(), heard.round);
        if is_change && !self.allows(&(&heard.site).into(), what, OF_A_KIND) {
            return Ok(());
        }
        self.decide(live, RunEvent::Heard(heard), Details::None)
    }

    /// An assignment with the lineage of its model in the aggregator's hand, and with the ledger's head.
    fn vouched(&self, work: Assignment, before: Option<Digest>) -> Result<Assignment, Refusal> {
        let (Some(signer), Some(before)) = (&self.signer, before) else { return Ok(work) };
        let round = RoundNumber(work.round.0.saturating_sub(1));
        let statement = model_statement(&self.name, &work.run, work.plan, (round, before), work.base);
        let lineage = Some(Box::new(Lineage { round, before, signature: signer.sign(&statement) }));
        let head = self.store.ledger_head().map_err(refusal)?;
        let signature = signer.sign(&ledger_statement(&self.name, head));
        Ok(Assignment { lineage, ledger: Some(Box::new(SignedHead { head, signature })), ..work })
    }
}

/// What a phase says of a site's part in its round, if anything.
fn word(phase: &Phase) -> Option<Word> {
    match phase {
        Phase::Fetching | Phase::Indexing | Phase::Training | Phase::Sending => Some(Word::Joined),
        Phase::Declined(reason) => Some(Word::Declined(*reason)),
        Phase::Idle | Phase::AwaitingApproval | Phase::OutsideHours | Phase::Reported => None,
    }
}

/// What a site is to do. Of a run that is over it first hears how that ended, if it is still with it: its last model is fetched before other
/// work begins. Work at hand is finished before other work begins as well. Otherwise runs queue in the order of their start: while
/// a round of one is open or being merged, the site is with that one and a later run waits, for the next round would have to wait
/// for the site. But a site that declined, or was revoked, has no part in a round, and goes on to the next run.
fn directive(live: &Live, site: &SiteId, at_work: Option<&RunId>, now: Duration) -> Directive {
    let invited: Vec<&LiveRun> = live.runs.iter().filter(|run| run.invites(site)).collect();
    let word = |run: &LiveRun| run.open().and_then(|(_, round)| round.roll()?.get(site).copied());
    let trains = |run: &LiveRun| train(run, now).unwrap_or_else(|| wait("the round is about to change"));
    let is_at_hand = |run: &LiveRun| Some(run.id()) == at_work && word(run) == Some(Word::Joined) && !run.paused;
    if let Some(run) = invited.iter().find(|run| is_at_hand(run)) {
        return trains(run);
    }
    let is_left = |run: &LiveRun| Some(run.id()) == at_work && run.run.is_over();
    if let Some(told) = invited.iter().find(|run| is_left(run)).and_then(|run| end(run, site)) {
        return told;
    }
    let (mut declined, mut shut_out, mut paused, mut unsigned) = (None, None, None, None);
    for &run in &invited {
        match (&run.run, word(run)) {
            (Run::Finished { .. } | Run::Failed { .. }, _) => {}
            _ if run.paused => _ = paused.get_or_insert(run),
            (Run::Awaiting { .. }, _) => _ = unsigned.get_or_insert(run),
            (Run::Merging(..), _) => return wait(&format!("a round of run {} is being merged", run.id())),
            (Run::Open(..), Some(Word::Declined(_))) => _ = declined.get_or_insert(run),
            (Run::Open(..), Some(Word::Revoked)) => _ = shut_out.get_or_insert(run),
            // One that has done its part stays, and rests.
            (Run::Open(..), None | Some(Word::Joined | Word::Reported(_) | Word::Lost)) => return trains(run),
        }
    }
    if let Some(run) = declined {
        return trains(run);
    }
    if let Some(run) = shut_out {
        return wait(&format!(
            "this site was revoked in the open round of run {}: it takes part again in the next",
            run.id()
        ));
    }
    if let Some(run) = paused {
        return wait(&format!("run {} is paused by the coordinator", run.id()));
    }
    if let Some(run) = unsigned {
        return wait(&format!("run {} awaits signatures of coordinators under its plan", run.id()));
    }
    invited.last().and_then(|run| end(run, site)).unwrap_or_else(|| wait("no run invites this site yet"))
}

/// How a run ended, if it is over, as it is told to one of its sites.
fn end(live: &LiveRun, site: &SiteId) -> Option<Directive> {
    let run = live.id().clone();
    let told = |because: &String| without_names(because.clone(), live.record.plan.draft.rounds.sites.iter(), site);
    match &live.run {
        Run::Finished { model } => Some(Directive::Finished { run, model: *model, bytes: live.layout.bytes() }),
        Run::Failed { because, .. } => {
            Some(Directive::Failed { because: format!("run {run} failed: {}", told(because)), run })
        }
        Run::Awaiting { .. } | Run::Open(..) | Run::Merging(..) => None,
    }
}

/// Whether an update of the site is still to come in a run's open round. One that it was acknowledged for may be among what a disk
/// lost: the site has it still.
fn is_awaited(live: &Live, site: &SiteId, run: &RunId) -> bool {
    let roll = live.runs.iter().find(|live| live.id() == run).and_then(|live| live.open()?.1.roll());
    roll.is_some_and(|roll| !matches!(roll.get(site), Some(Word::Reported(_) | Word::Lost | Word::Revoked)))
}

fn train(live: &LiveRun, now: Duration) -> Option<Directive> {
    let (Attempt { round, base, .. }, _) = live.open()?;
    let time_left =
        live.time.left(now).map_or(deadline_of(&live.record), |left| left.saturating_sub(grace_of(&live.record)));
    let steps = live.record.plan.draft.training.steps_per_round as u64;
    Some(Directive::Train(Assignment {
        run: live.id().clone(),
        round,
        plan: live.record.plan_digest,
        base,
        base_bytes: live.layout.bytes(),
        first_step: steps * u64::from(round.0.saturating_sub(1)),
        time_left,
        awaited: false,
        lineage: None,
        ledger: None,
    }))
}

fn wait(because: &str) -> Directive {
    Directive::Wait { because: because.to_owned() }
}
