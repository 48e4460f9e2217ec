//! A simulated site: the agent's protocol, without its science. It asks, trains, seals its update on disk before a byte
//! leaves, announces, sends in chunks, finishes; whatever it does not hear an answer to, it says again.

use std::collections::{BTreeMap, BTreeSet};

use common::{Assignment, Decline, Directive, Meters, Phase, Progress, Refusal, RoundNumber, SiteId, UpdateManifest};

use super::call::{Answer, Call, Reply};
use super::dice::Dice;
use super::update::Made;
use aggregator::store::UpdateKey;

/// Bytes of a chunk.
const CHUNK: usize = 40;

/// What survives the agent's death.
#[derive(Debug, Default)]
struct Disk {
    sealed: BTreeMap<RoundNumber, Made>,
    done: BTreeSet<RoundNumber>,
    declined: BTreeMap<RoundNumber, Decline>,
}

/// What does not.
#[derive(Debug)]
enum Stage {
    Asking,
    Training { until: u64 },
    Beginning,
    Sending { offset: u64 },
    Finishing,
}

/// A site.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) id: SiteId,
    index: usize,
    disk: Disk,
    stage: Stage,
    work: Option<Assignment>,
    /// Times an update of some round was made.
    made: u32,
    /// Times in a thousand that a training ends with a decline.
    pub(crate) declines: u64,
    /// Times in a thousand that a chunk is not what was read from the disk.
    pub(crate) garbles: u64,
}

impl Site {
    pub(crate) fn new(index: usize) -> Self {
        let id = format!("site-{index}").parse().expect("a site's name");
        let (disk, stage) = (Disk::default(), Stage::Asking);
        Self { id, index, disk, stage, work: None, made: 0, declines: 0, garbles: 0 }
    }

    /// The agent is killed and started again.
    pub(crate) fn dies(&mut self) {
        self.stage = Stage::Asking;
        self.work = None;
    }

    /// Its disk is lost: it will train again, and come to another update.
    pub(crate) fn loses_its_disk(&mut self) {
        self.dies();
        self.disk = Disk::default();
    }

    /// What it asks next.
    pub(crate) fn asks(&mut self, now: u64, dice: &mut Dice, made: &mut Vec<(RoundNumber, Made)>) -> Call {
        if let (Stage::Training { until }, Some(work)) = (&self.stage, &self.work)
            && now >= *until
        {
            let round = work.round;
            if dice.per_mille(self.declines) {
                self.disk.declined.insert(round, Decline::TrainingFailed);
                self.stage = Stage::Asking;
            } else {
                let update = Made::of(self.index, round, self.made);
                self.made += 1;
                made.push((round, update.clone()));
                self.disk.sealed.insert(round, update);
                self.stage = Stage::Beginning;
            }
        }
        let upload = self.work.as_ref().and_then(|work| Some((work, self.disk.sealed.get(&work.round)?)));
        match (&self.stage, upload) {
            (Stage::Beginning, Some((work, update))) => Call::Begin(self.manifest(work, update)),
            (Stage::Sending { offset }, Some((work, update))) => {
                let begin = (*offset as usize).min(update.bytes.len() - 1);
                let end = update.bytes.len().min(begin + CHUNK);
                let mut data = update.bytes[begin..end].to_vec();
                if dice.per_mille(self.garbles) {
                    let place = dice.index(data.len());
                    data[place] ^= 1 << dice.below(8);
                }
                Call::Chunk { key: self.key(work), blob: update.digest, offset: begin as u64, data }
            }
            (Stage::Finishing, Some((work, update))) => Call::Finish { key: self.key(work), blob: update.digest },
            _ => Call::Report(self.progress()),
        }
    }

    fn progress(&self) -> Progress {
        let Some(work) = &self.work else { return Progress::idle() };
        let phase = match &self.stage {
            _ if self.disk.done.contains(&work.round) => Phase::Reported,
            _ if self.disk.declined.contains_key(&work.round) => Phase::Declined(Decline::TrainingFailed),
            Stage::Asking => Phase::Idle,
            Stage::Training { .. } => Phase::Training,
            _ => Phase::Sending,
        };
        Progress { work: Some((work.run.clone(), work.round)), phase, ..Progress::idle() }
    }

    fn key(&self, work: &Assignment) -> UpdateKey {
        UpdateKey { run: work.run.clone(), round: work.round, site: self.id.clone() }
    }

    fn manifest(&self, work: &Assignment, update: &Made) -> UpdateManifest {
        UpdateManifest {
            run: work.run.clone(),
            round: work.round,
            site: self.id.clone(),
            plan: work.plan,
            base: work.base,
            blob: update.digest,
            bytes: update.bytes.len() as u64,
            subjects: 10,
            heads: BTreeMap::new(),
            examples: 0,
            steps: 1,
            meters: Meters::default(),
            attestation: None,
        }
    }

    /// What it makes of an answer.
    pub(crate) fn hears(&mut self, reply: Reply, now: u64, dice: &mut Dice) {
        match reply {
            Ok(Answer::Directive(directive)) => self.is_told(directive, now, dice),
            Ok(Answer::Upload(state)) if state.acknowledged => self.is_done(),
            Ok(Answer::Upload(state)) => {
                let length = self.sealed().map_or(0, |update| update.bytes.len() as u64);
                self.stage = match state.next_offset >= length {
                    true => Stage::Finishing,
                    false => Stage::Sending { offset: state.next_offset },
                };
            }
            Ok(Answer::Stored(_)) => self.is_done(),
            Err(Refusal::Offset { .. } | Refusal::Corrupt { .. }) => self.stage = Stage::Beginning,
            // The first one counts.
            Err(Refusal::Conflict { .. }) => self.is_done(),
            Err(Refusal::Unavailable | Refusal::DiskFull) => {}
            Err(_) => self.dies(),
        }
    }

    /// No answer came.
    pub(crate) fn gives_up_waiting(&mut self) {
        if matches!(self.stage, Stage::Sending { .. } | Stage::Finishing) {
            self.stage = Stage::Beginning;
        }
    }

    fn sealed(&self) -> Option<&Made> {
        self.disk.sealed.get(&self.work.as_ref()?.round)
    }

    fn is_done(&mut self) {
        if let Some(work) = &self.work {
            self.disk.done.insert(work.round);
        }
        self.stage = Stage::Asking;
    }

    fn is_told(&mut self, directive: Directive, now: u64, dice: &mut Dice) {
        let Directive::Train(work) = directive else { return self.dies() };
        let same = self.work.as_ref().is_some_and(|current| current.round == work.round);
        let round = work.round;
        self.work = Some(work);
        if self.disk.done.contains(&round) || self.disk.declined.contains_key(&round) {
            // A site that declined may come back.
            if dice.per_mille(100) && self.disk.declined.remove(&round).is_some() {
                self.stage = Stage::Training { until: now };
            } else {
                self.stage = Stage::Asking;
            }
        } else if !same || matches!(self.stage, Stage::Asking) {
            self.stage = match self.disk.sealed.contains_key(&round) {
                true => Stage::Beginning,
                false => Stage::Training { until: now + dice.within(1_000, 30_000) },
            };
        }
    }
}
