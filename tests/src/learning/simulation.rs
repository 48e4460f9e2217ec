//! One arm, from its first model to its last: real job folders, real trainer, real merge; only the network is left out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aggregator::aggregation::{self, Contribution, Drift, Merge, Partial, ServerState};
use aggregator::layout::Layout;
use anyhow::Context;
use certs::lock::Lock;
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
    let alone = Lock::take(&folder.join("lock"))?;
    let _alone = alone.with_context(|| format!("another process is at work in {}", folder.display()))?;
    let rounds = if *arm == Arm::Random { 0 } else { plan.rounds.count };
    let schedule = Schedule { rounds, points: setting.points, steps: plan.training.steps_per_round as u64 };
    go_on(course(folder)?, &schedule, &mut Work { arm, plan: &plan, setting, folder })
}

/// How long a course is.
struct Schedule {
    rounds: u32,
    points: u32,
    /// Optimizer steps of a round.
    steps: u64,
}

impl Schedule {
    /// Whether the model after so many rounds is measured.
    fn is_due(&self, rounds: u32) -> bool {
        let every = (self.rounds / self.points.max(1)).max(1);
        rounds.is_multiple_of(every) || rounds == self.rounds
    }
}

/// What a course is made of, each a step that may be the last one before this process is stopped.
trait Steps {
    /// Makes the first model.
    fn begin(&mut self) -> anyhow::Result<()>;
    /// Rounds that have a model.
    fn newest(&self, most: u32) -> u32;
    /// Trains all sites for a round and merges them, into what is not a model yet.
    fn train(&mut self, round: u32) -> anyhow::Result<BTreeMap<SiteId, SiteRound>>;
    /// Makes what came of a round the next model, and removes what no later round needs.
    fn publish(&mut self, round: u32) -> anyhow::Result<()>;
    /// Measures the model after so many rounds.
    fn measure(&mut self, rounds: u32) -> anyhow::Result<Measures>;
    /// Keeps the course.
    fn write(&mut self, course: &Course) -> anyhow::Result<()>;
}

/// Takes a course to its end. A round is done when its model is there: it is in the course before that, where a round that is
/// trained again takes its own place, and is measured after.
fn go_on(mut course: Course, schedule: &Schedule, steps: &mut impl Steps) -> anyhow::Result<()> {
    if course.finished {
        return Ok(());
    }
    if course.points.is_empty() {
        steps.begin()?;
        measure_if_due(&mut course, 0, schedule, steps)?;
    }
    let first = steps.newest(schedule.rounds);
    anyhow::ensure!(
        course.rounds.len() >= first as usize,
        "the course does not tell of all {first} rounds that were trained: remove its folder, to train them again"
    );
    measure_if_due(&mut course, first, schedule, steps)?;
    for round in first..schedule.rounds {
        let trained = steps.train(round)?;
        course.rounds.truncate(round as usize);
        course.rounds.push(trained);
        steps.write(&course)?;
        steps.publish(round)?;
        measure_if_due(&mut course, round + 1, schedule, steps)?;
    }
    course.finished = true;
    steps.write(&course)
}

/// Adds a point to the course where one belongs and none is.
fn measure_if_due(course: &mut Course, rounds: u32, schedule: &Schedule, steps: &mut impl Steps) -> anyhow::Result<()> {
    if !schedule.is_due(rounds) || course.points.iter().any(|point| point.round == rounds) {
        return Ok(());
    }
    let measures = steps.measure(rounds)?;
    course.points.push(Point { round: rounds, steps: u64::from(rounds) * schedule.steps, measures });
    steps.write(course)
}

/// An arm's work in its folder.
struct Work<'a> {
    arm: &'a Arm,
    plan: &'a PlanDraft,
    setting: &'a Setting,
    folder: &'a Path,
}

impl Work<'_> {
    fn base(&self, round: u32) -> PathBuf {
        self.folder.join(format!("model-{round}.safetensors"))
    }

    /// What becomes the model of a round.
    fn unpublished(&self, round: u32) -> PathBuf {
        self.base(round).with_added_extension("part")
    }

    fn jobs(&self, round: u32) -> PathBuf {
        self.folder.join("jobs").join(round.to_string())
    }

    /// What the server keeps beside the model of a round.
    fn states(&self, round: u32) -> impl Iterator<Item = PathBuf> {
        let state = move |index: usize| self.folder.join(format!("state-{index}-{round}.safetensors"));
        (0..aggregation::state_count(self.plan.aggregation.strategy)).map(state)
    }
}

impl Steps for Work<'_> {
    fn begin(&mut self) -> anyhow::Result<()> {
        trainer::first_model(self.plan, None, &self.base(0))?;
        Ok(())
    }

    fn newest(&self, most: u32) -> u32 {
        (0..=most).rev().find(|&round| self.base(round).exists()).unwrap_or(0)
    }

    fn train(&mut self, round: u32) -> anyhow::Result<BTreeMap<SiteId, SiteRound>> {
        train_round(self, round)
    }

    fn publish(&mut self, round: u32) -> anyhow::Result<()> {
        fs::rename(self.unpublished(round + 1), self.base(round + 1))?;
        if let Some(before) = round.checked_sub(1) {
            fs::remove_dir_all(self.jobs(before))?;
            fs::remove_file(self.base(before))?;
            self.states(before).filter(|path| path.exists()).try_for_each(fs::remove_file)?;
        }
        Ok(())
    }

    fn measure(&mut self, rounds: u32) -> anyhow::Result<Measures> {
        // Where the teachers stay at their sites, the merged student is the model.
        let network = match self.plan.aggregation.exchange {
            Exchange::All => "teacher.backbone.",
            Exchange::Student => "student.backbone.",
        };
        let model = NamedTensors::from_safetensors(&durable::read(&self.base(rounds))?)?;
        measure(self.plan, &model.under(network), &self.setting.images, self.setting.held_out)
    }

    fn write(&mut self, course: &Course) -> anyhow::Result<()> {
        Ok(durable::write(&self.folder.join("course.json"), &serde_json::to_vec_pretty(course)?)?)
    }
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

/// Trains all sites for a round and merges them into what becomes the next model.
fn train_round(work: &Work<'_>, round: u32) -> anyhow::Result<BTreeMap<SiteId, SiteRound>> {
    let Work { arm, plan, setting, .. } = work;
    let (base, jobs) = (work.base(round), |round: u32| work.jobs(round));
    let model = durable::read(&base)?;
    let (mut counts, mut meters) = (BTreeMap::new(), BTreeMap::new());
    for site in arm.sites() {
        let job = JobFolder::at(jobs(round).join(site));
        fs::create_dir_all(job.path())?;
        let before = round.checked_sub(1).map(|before| JobFolder::at(jobs(before).join(site)));
        let kept = before.as_ref().map(JobFolder::kept);
        job.write_job(&Job {
            plan: arm.plan_at(plan, site, round),
            round: RoundNumber(round),
            site: site.parse()?,
            first_step: u64::from(round) * plan.training.steps_per_round as u64,
            base: base.clone(),
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
    let from = File::open(&base)?;
    let mut before = Vec::new();
    for path in work.states(round).filter(|_| round > 0) {
        before.push(ServerState { digest: Digest::of(&durable::read(&path)?), file: File::open(path)? });
    }
    let mut after = work.states(round + 1).map(File::create).collect::<Result<Vec<_>, _>>()?;
    let mut out = File::create(work.unpublished(round + 1))?;
    let merge = Merge {
        layout: &layout,
        base: &from,
        base_digest: Digest::of(&model),
        contributions: &contributions,
        states: &before,
    };
    let merged = aggregation::merge(rule.strategy, &merge, &mut out, &mut after)?;
    let drift = |(site, drift): (SiteId, Drift)| Some((site.clone(), SiteRound { meters: *meters.get(&site)?, drift }));
    Ok(merged.sites.into_iter().filter_map(drift).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps that leave what they are to, and stop before the one of a number.
    #[derive(Default)]
    struct Stopped {
        steps: usize,
        before: usize,
        models: u32,
        trained: Option<u32>,
        written: Course,
    }

    impl Stopped {
        fn step(&mut self) -> anyhow::Result<()> {
            self.steps += 1;
            anyhow::ensure!(self.steps != self.before, "stopped");
            Ok(())
        }
    }

    impl Steps for Stopped {
        fn begin(&mut self) -> anyhow::Result<()> {
            self.step()
        }

        fn newest(&self, _: u32) -> u32 {
            self.models
        }

        fn train(&mut self, round: u32) -> anyhow::Result<BTreeMap<SiteId, SiteRound>> {
            self.step()?;
            self.trained = Some(round);
            let drift = Drift { share: Share(1), fraction: 1.0, norm: 1.0, cosine: round.into() };
            Ok([("a".parse()?, SiteRound { meters: Meters::default(), drift })].into())
        }

        fn publish(&mut self, round: u32) -> anyhow::Result<()> {
            self.step()?;
            assert_eq!(self.trained.take(), Some(round));
            self.models = round + 1;
            Ok(())
        }

        fn measure(&mut self, rounds: u32) -> anyhow::Result<Measures> {
            self.step()?;
            assert_eq!(rounds, self.models);
            Ok(Measures { rank_me: rounds.into(), ..Measures::default() })
        }

        fn write(&mut self, course: &Course) -> anyhow::Result<()> {
            self.step()?;
            self.written = course.clone();
            Ok(())
        }
    }

    const SCHEDULE: Schedule = Schedule { rounds: 7, points: 3, steps: 30 };

    #[test]
    fn stopped_before_whichever_step_and_begun_again_a_course_ends_as_one_that_nobody_stopped() {
        let mut undisturbed = Stopped::default();
        go_on(Course::default(), &SCHEDULE, &mut undisturbed).unwrap();
        let expected = &undisturbed.written;
        assert!(expected.finished);
        let rounds: Vec<f64> =
            expected.rounds.iter().flat_map(|sites| sites.values()).map(|site| site.drift.cosine).collect();
        assert_eq!(rounds, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let points: Vec<_> =
            expected.points.iter().map(|point| (point.round, point.steps, point.measures.rank_me)).collect();
        assert_eq!(points, [(0, 0, 0.0), (2, 60, 2.0), (4, 120, 4.0), (6, 180, 6.0), (7, 210, 7.0)]);

        for before in 1..=undisturbed.steps {
            let mut steps = Stopped { before, ..Stopped::default() };
            go_on(Course::default(), &SCHEDULE, &mut steps).unwrap_err();
            go_on(steps.written.clone(), &SCHEDULE, &mut steps).unwrap();
            assert_eq!(&steps.written, expected, "stopped before step {before}");
        }
    }

    #[test]
    fn an_arm_that_another_process_is_at_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let plan = toml::from_str(include_str!("../../plans/learning.toml")).unwrap();
        let setting = Setting { images: folder.path().to_owned(), held_out: 0.45, points: 1 };
        let _other = Lock::take(&folder.path().join("lock")).unwrap().unwrap();
        let why = run(&Arm::Random, &plan, &setting, folder.path()).unwrap_err().to_string();
        assert!(why.starts_with("another process is at work in "), "{why}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was begun");
    }

    #[test]
    fn a_course_that_does_not_tell_of_a_round_with_a_model_is_not_gone_on_with() {
        let mut steps = Stopped::default();
        go_on(Course::default(), &SCHEDULE, &mut steps).unwrap();
        let mut course = steps.written.clone();
        (course.finished, course.rounds) = (false, course.rounds[..6].to_vec());
        let why = go_on(course, &SCHEDULE, &mut steps).unwrap_err().to_string();
        assert!(why.contains("all 7 rounds"), "{why}");
    }
}
