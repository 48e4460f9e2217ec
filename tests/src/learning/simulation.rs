//! One arm, from its first model to its last: real job folders, real trainer, real merge; only the network is left out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aggregator::aggregation::{self, Contribution, Drift, Merge, Partial, ServerState};
use aggregator::layout::Layout;
use anyhow::Context;
use common::plan::{Exchange, ShareBy};
use common::share::{Share, shares};
use common::{Digest, Encoding, Meters, NamedTensors, PlanDraft, RoundNumber, SiteId};
use serde::{Deserialize, Serialize};
use site_agent::job::{Job, JobFolder};
use site_agent::trainer::stopping::Stop;
use site_agent::{durable, trainer};

use super::arm::Arm;
use super::hospitals;
use super::measure::{Measures, measure};

/// Where an arm stands after some steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Rounds merged.
    pub round: u32,
    /// Optimizer steps of each site.
    pub steps: u64,
    /// What the teacher's features know.
    pub measures: Measures,
}

/// An arm's course so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Whether it is at its end.
    pub finished: bool,
    /// Its points, the first before any step.
    pub points: Vec<Point>,
    /// How each site went through each round.
    pub rounds: Vec<BTreeMap<SiteId, SiteRound>>,
}

/// How a site went through a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteRound {
    /// Means over the round's steps.
    pub meters: Meters,
    /// How its update went along with the others.
    pub drift: Drift,
}

/// Reads an arm's course.
pub fn course(folder: &Path) -> anyhow::Result<Course> {
    match durable::read_if_there(&folder.join("course.json"))? {
        Some(text) => Ok(serde_json::from_slice(&text)?),
        None => Ok(Course::default()),
    }
}

/// Where and how the arms of one seed run.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Folder of the caches.
    pub images: PathBuf,
    /// Fraction of each training site's subjects that no training sees.
    pub held_out: f64,
    /// How often a course is measured.
    pub points: u32,
}

/// Runs an arm to its end in `folder`, from where it stands there.
pub fn run(arm: &Arm, plan: &PlanDraft, setting: &Setting, folder: &Path) -> anyhow::Result<()> {
    let plan = arm.plan(plan);
    fs::create_dir_all(folder)?;
    let mut course = course(folder)?;
    if course.finished {
        return Ok(());
    }
    let base = |round: u32| folder.join(format!("model-{round}.safetensors"));
    if course.points.is_empty() {
        trainer::first_model(&plan, None, &base(0))?;
    }
    let read = |round: u32| -> anyhow::Result<NamedTensors> {
        Ok(NamedTensors::from_safetensors(&durable::read(&base(round))?)?)
    };
    let measured = |round: u32| {
        // Where the teachers stay at their sites, the merged student is the model.
        let network = match plan.aggregation.exchange {
            Exchange::All => "teacher.backbone.",
            Exchange::Student => "student.backbone.",
        };
        measure(&plan, &read(round)?.under(network), &setting.images, setting.held_out)
    };
    let write = |course: &Course| -> anyhow::Result<()> {
        Ok(durable::write(&folder.join("course.json"), &serde_json::to_vec_pretty(course)?)?)
    };
    if course.points.is_empty() {
        let measures = measured(0)?;
        course.points.push(Point { round: 0, steps: 0, measures });
    }
    let rounds = if *arm == Arm::Random { 0 } else { plan.rounds.count };
    let sites = arm.sites();
    let every = (rounds / setting.points.max(1)).max(1);
    let first = (0..=rounds).rev().find(|&round| base(round).exists()).unwrap_or(0);
    for round in first..rounds {
        let trained = train_round(arm, &plan, setting, folder, round, &sites, &base)?;
        course.rounds.truncate(round as usize);
        course.rounds.push(trained);
        if (round + 1) % every == 0 || round + 1 == rounds {
            let steps = u64::from(round + 1) * plan.training.steps_per_round as u64;
            let measures = measured(round + 1)?;
            course.points.retain(|point| point.round <= round);
            course.points.push(Point { round: round + 1, steps, measures });
        }
        write(&course)?;
    }
    course.finished = true;
    write(&course)
}

/// What a site sends, as its agent would: encoded, with what the encoding left out of its last update.
fn contribution(
    encoding: Encoding,
    whole: bool,
    job: &JobFolder,
    before: Option<&JobFolder>,
    share: Share,
) -> anyhow::Result<Contribution> {
    let trained = durable::read(&job.delta())?;
    if encoding == Encoding::F32 && whole {
        return Ok(Contribution {
            file: File::open(job.delta())?,
            digest: Digest::of(&trained),
            share,
            partial: None,
            checked: None,
        });
    }
    let mut delta = NamedTensors::from_safetensors(&trained)?;
    let owed = before.map(|before| durable::read_if_there(&before.residual())).transpose()?.flatten();
    if let Some(owed) = owed {
        delta = delta.plus(&NamedTensors::from_safetensors(&owed)?);
    }
    let (file, signature) = (encoding.encode(&delta), delta.signature());
    if encoding.has_residual() {
        let residual = delta.minus(&encoding.decode(&file, &signature)?)?;
        durable::write(&job.residual(), &residual.to_safetensors())?;
    }
    durable::write(&job.sealed(), &file)?;
    let partial = Some(Partial { layout: Layout::encoded(&signature, encoding)?, heads: BTreeMap::new() });
    Ok(Contribution { file: File::open(job.sealed())?, digest: Digest::of(&file), share, partial, checked: None })
}

/// Trains all sites for a round and merges them into the next model.
fn train_round(
    arm: &Arm,
    plan: &PlanDraft,
    setting: &Setting,
    folder: &Path,
    round: u32,
    sites: &[&str],
    base: &dyn Fn(u32) -> PathBuf,
) -> anyhow::Result<BTreeMap<SiteId, SiteRound>> {
    let jobs = |round: u32| folder.join("jobs").join(round.to_string());
    let model = durable::read(&base(round))?;
    let (mut counts, mut meters) = (BTreeMap::new(), BTreeMap::new());
    for site in sites {
        let job = JobFolder::at(jobs(round).join(site));
        fs::create_dir_all(job.path())?;
        let before = round.checked_sub(1).map(|before| JobFolder::at(jobs(before).join(site)));
        let kept = before.as_ref().map(JobFolder::kept);
        job.write_job(&Job {
            plan: arm.plan_at(plan, site, round),
            round: RoundNumber(round),
            site: site.parse()?,
            first_step: u64::from(round) * plan.training.steps_per_round as u64,
            base: base(round),
            base_digest: Digest::of(&model),
            local: before.map(|before| before.local()).filter(|local| local.exists()),
            kept,
            cache: hospitals::cache(&setting.images, site),
            held_out: setting.held_out,
            device: "cpu".to_owned(),
            precision: model::Precision::F32,
            micro_batch: 0,
            labels: None,
            min_subjects: 5,
            measures: false,
            measure_only: false,
        })?;
        trainer::train(&job, &Stop::default())?;
        let result = job.result()?.context("a trainer that ended well left no result")?;
        let counted = match plan.aggregation.share_by {
            ShareBy::Subjects => result.subjects,
            ShareBy::Examples => result.examples,
        };
        counts.insert(site.parse::<SiteId>()?, counted);
        meters.insert(site.parse::<SiteId>()?, result.meters);
    }
    let weights = NamedTensors::from_safetensors(&model)?;
    let layout = Layout::of(&weights.signature())?;
    let rule = &plan.aggregation;
    let shares = shares(&counts, rule.share_alpha, rule.share_cap);
    let mut contributions = BTreeMap::new();
    for (site, share) in shares {
        let own = |round: u32| JobFolder::at(jobs(round).join(site.as_str()));
        let contribution = contribution(
            rule.encoding,
            rule.keep_local.is_empty(),
            &own(round),
            round.checked_sub(1).map(own).as_ref(),
            share,
        )?;
        contributions.insert(site.clone(), contribution);
    }
    let (from, next) = (File::open(base(round))?, base(round + 1));
    let state = |round: u32, index: usize| folder.join(format!("state-{index}-{round}.safetensors"));
    let count = aggregation::state_count(rule.strategy);
    let mut before = Vec::new();
    for path in (0..count).map(|index| state(round, index)).filter(|_| round > 0) {
        before.push(ServerState { digest: Digest::of(&durable::read(&path)?), file: File::open(path)? });
    }
    let mut after = (0..count).map(|index| File::create(state(round + 1, index))).collect::<Result<Vec<_>, _>>()?;
    let beside = next.with_added_extension("part");
    let mut out = File::create(&beside)?;
    let merge = Merge {
        layout: &layout,
        base: &from,
        base_digest: Digest::of(&model),
        contributions: &contributions,
        states: &before,
    };
    let merged = aggregation::merge(rule.strategy, &merge, &mut out, &mut after)?;
    fs::rename(beside, next)?;
    if let Some(before) = round.checked_sub(1) {
        fs::remove_dir_all(jobs(before))?;
        fs::remove_file(base(before))?;
        (0..count).map(|index| state(before, index)).filter(|path| path.exists()).try_for_each(fs::remove_file)?;
    }
    let drift = |(site, drift): (SiteId, Drift)| Some((site.clone(), SiteRound { meters: *meters.get(&site)?, drift }));
    Ok(merged.sites.into_iter().filter_map(drift).collect())
}
