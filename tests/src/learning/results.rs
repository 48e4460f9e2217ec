//! What came of an experiment: tables for the terminal and for a page in Markdown, curves as SVG. Figures are means over the
//! seeds with their standard deviation; every verdict is made here from the same figures.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use aggregator::alarms::{self, Alarm, Measured};
use common::{Meters, PlanDraft, SiteId};

use super::arm::{Arm, FAULTY_SITE, TRAINING_SITES, UNSEEN_SITE, Way};
use super::simulation::{self, Course, Point, SiteRound};
use crate::demo::chart::{Chart, Series};

/// The courses of an experiment, by arm and seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Experiment {
    /// As far as they got.
    pub courses: BTreeMap<Arm, BTreeMap<u64, Course>>,
}

/// Reads the courses below `out`.
pub fn read(out: &Path, seeds: &[u64], arms: &[Arm]) -> anyhow::Result<Experiment> {
    let mut experiment = Experiment::default();
    for arm in arms {
        for &seed in seeds {
            let course = simulation::course(&course_folder(out, seed, arm))?;
            if !course.points.is_empty() {
                experiment.courses.entry(arm.clone()).or_default().insert(seed, course);
            }
        }
    }
    Ok(experiment)
}

/// The arms of each seed whose courses below `out` are not at their end.
pub fn unfinished<'a>(out: &Path, seeds: &[u64], arms: &'a [Arm]) -> anyhow::Result<Vec<(u64, &'a Arm)>> {
    let mut left = Vec::new();
    for &seed in seeds {
        for arm in arms {
            if !simulation::course(&course_folder(out, seed, arm))?.finished {
                left.push((seed, arm));
            }
        }
    }
    Ok(left)
}

/// Where the course of an arm is.
pub fn course_folder(out: &Path, seed: u64, arm: &Arm) -> PathBuf {
    out.join(format!("seed-{seed}")).join(arm.to_string())
}

/// A figure of a point.
type Figure = fn(&Point) -> f64;

/// Mean accuracy over all four sites, when all training sites vote: what the arms are compared by.
fn consortium(point: &Point) -> f64 {
    mean(point.measures.consortium.values().copied())
}

fn seen(point: &Point) -> f64 {
    mean(TRAINING_SITES.iter().filter_map(|site| point.measures.consortium.get(*site)).copied())
}

fn unseen(point: &Point) -> f64 {
    point.measures.consortium.get(UNSEEN_SITE).copied().unwrap_or(f64::NAN)
}

fn within(point: &Point) -> f64 {
    mean(point.measures.within.values().copied())
}

fn few(point: &Point) -> f64 {
    mean(point.measures.few.values().copied())
}

fn site_probe(point: &Point) -> f64 {
    point.measures.site_probe
}

/// How much better than at first a site may be told by features, as a fraction of frames.
const TELLS_SITES: f64 = 0.1;

fn rank_me(point: &Point) -> f64 {
    point.measures.rank_me
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean and standard deviation (of the sample).
fn spread(values: &[f64]) -> (f64, f64) {
    let middle = mean(values.iter().copied());
    let squares = values.iter().map(|value| (value - middle).powi(2)).sum::<f64>();
    (middle, (squares / (values.len().max(2) - 1) as f64).sqrt())
}

impl Experiment {
    fn last(&self, arm: &Arm, figure: Figure) -> BTreeMap<u64, f64> {
        let courses = self.courses.get(arm).into_iter().flatten();
        courses.filter_map(|(seed, course)| Some((*seed, figure(course.points.last()?)))).collect()
    }

    /// Of the last round, averaged over its sites.
    fn meter(&self, arm: &Arm, meter: fn(&Meters) -> f64) -> Vec<f64> {
        let of = |course: &Course| Some(mean(course.rounds.last()?.values().map(|site| meter(&site.meters))));
        self.courses.get(arm).into_iter().flatten().filter_map(|(_, course)| of(course)).collect()
    }

    /// One line an arm: accuracies in percent.
    pub fn table(&self) -> String {
        let head = [
            "arm",
            "seeds",
            "A-D",
            "A-C",
            "D (unseen)",
            "own site",
            "few voters",
            "site probe",
            "RankMe",
            "entropy",
            "of the mean",
        ];
        let mut text = format!("| {} |\n|---|{}\n", head.join(" | "), "--:|".repeat(head.len() - 1));
        for arm in self.courses.keys() {
            let percent = |figure: Figure| {
                let values: Vec<f64> = self.last(arm, figure).into_values().collect();
                let (middle, deviation) = spread(&values);
                format!("{:.1} ± {:.1}", middle * 100.0, deviation * 100.0)
            };
            let plain =
                |values: &[f64]| if values.is_empty() { "–".to_owned() } else { format!("{:.2}", spread(values).0) };
            let rank: Vec<f64> = self.last(arm, rank_me).into_values().collect();
            let cells = [
                arm.to_string(),
                rank.len().to_string(),
                percent(consortium),
                percent(seen),
                percent(unseen),
                percent(within),
                percent(few),
                percent(site_probe),
                format!("{:.0}", spread(&rank).0),
                plain(&self.meter(arm, |meters| meters.teacher_entropy)),
                plain(&self.meter(arm, |meters| meters.batch_entropy)),
            ];
            put(&mut text, format_args!("| {} |", cells.join(" | ")));
        }
        text
    }

    /// Whether an arm stayed clear of collapse all the way: the highest mean entropy of the teacher's output in any round, by
    /// seed, and RankMe at each measure, averaged over seeds.
    pub fn health(&self) -> String {
        let mut text =
            String::from("| arm | highest entropy of a round, by seed | RankMe, measure by measure |\n|---|---|---|\n");
        for (arm, courses) in &self.courses {
            let highest = courses.values().filter_map(|course| {
                let of_rounds =
                    course.rounds.iter().map(|sites| mean(sites.values().map(|site| site.meters.teacher_entropy)));
                of_rounds.reduce(f64::max).map(|highest| format!("{highest:.2}"))
            });
            let measures = courses.values().map(|course| course.points.len()).max().unwrap_or(0);
            let ranks = (0..measures).map(|place| {
                let of_seeds = courses.values().filter_map(|course| course.points.get(place));
                format!("{:.0}", mean(of_seeds.map(rank_me)))
            });
            let (highest, ranks) = (highest.collect::<Vec<_>>(), ranks.collect::<Vec<_>>());
            put(&mut text, format_args!("| {arm} | {} | {} |", highest.join(", "), ranks.join(", ")));
        }
        text
    }

    /// What was asked of the recipe and of the federation, seed by seed, and whether it is so.
    pub fn verdicts(&self) -> String {
        let federated = Arm::Federated(Way::Plan);
        let [random, pooled, together] = [&Arm::Random, &Arm::Pooled, &federated].map(|arm| self.last(arm, consortium));
        let best_alone = |figure: Figure| {
            let mut best = BTreeMap::<u64, f64>::new();
            for site in TRAINING_SITES {
                for (seed, value) in self.last(&Arm::Alone(site.to_owned()), figure) {
                    best.entry(seed).and_modify(|best| *best = best.max(value)).or_insert(value);
                }
            }
            best
        };
        let mut text = String::from("| question | by seed, in points | so? |\n|---|---|---|\n");
        let mut ask = |question: &str, one: &BTreeMap<u64, f64>, other: &BTreeMap<u64, f64>, least: f64| {
            let gains: Vec<f64> = one.iter().filter_map(|(seed, one)| Some((one - other.get(seed)?) * 100.0)).collect();
            let told: Vec<_> = gains.iter().map(|gain| format!("{gain:+.1}")).collect();
            let right = gains.iter().filter(|gain| **gain >= least).count();
            put(&mut text, format_args!("| {question} | {} | {right} of {} |", told.join(", "), gains.len()));
        };
        ask("pooled is 15 points above the random network it began as", &pooled, &random, 15.0);
        ask("federated is 15 points above it too", &together, &random, 15.0);
        ask("federated is within 3 points of pooled", &together, &pooled, -3.0);
        ask(
            "federated is above the best site alone, on the mean over the sites",
            &together,
            &best_alone(consortium),
            0.0,
        );
        let unseen_together = self.last(&federated, unseen);
        ask("federated is above the best site alone, on the unseen vendor", &unseen_together, &best_alone(unseen), 0.0);
        ask(
            "federated is above the best site alone, when three subjects a site vote",
            &self.last(&federated, few),
            &best_alone(few),
            0.0,
        );
        text
    }

    /// Who was named as going astray, in rounds where nobody did and in those where a fault was injected.
    pub fn alarms(&self, plan: &PlanDraft) -> String {
        let (mut clean, mut false_alarms, mut injected) = (0, Vec::new(), String::new());
        for (arm, courses) in self.courses.iter().filter(|(arm, _)| matches!(arm, Arm::Federated(_))) {
            let from = arm.faulty_from(plan);
            for (seed, course) in courses {
                let honest = from.map_or(course.rounds.len(), |from| course.rounds.len().min(from as usize));
                clean += honest;
                for (round, sites) in course.rounds.iter().enumerate().take(honest) {
                    false_alarms.extend(
                        named(sites).into_iter().map(|alarm| format!("{arm}, seed {seed}, round {round}: {alarm}")),
                    );
                }
                if let Some(from) = from {
                    let faulty = |sites| named(sites).into_iter().find(|alarm| alarm.site.as_str() == FAULTY_SITE);
                    let first = course
                        .rounds
                        .iter()
                        .enumerate()
                        .skip(honest)
                        .find_map(|(round, sites)| Some((round, faulty(sites)?)));
                    let told = first.map_or("not named".to_owned(), |(round, alarm)| {
                        format!("named in round {} of the fault: {alarm}", round + 1 - from as usize)
                    });
                    put(&mut injected, format_args!("- {arm}, seed {seed}: {told}"));
                }
            }
        }
        let listed: String = false_alarms.iter().map(|alarm| format!("- {alarm}\n")).collect();
        let told = self.shortcuts();
        format!("{clean} clean rounds of three sites, {} false alarms\n\n{listed}{injected}{told}", false_alarms.len())
    }

    /// Where training made sites easier to tell apart than the network that it began as: its features are about scanners then.
    /// An alarm of the laboratory alone: nobody else sees features of several sites side by side.
    fn shortcuts(&self) -> String {
        let mut text = String::new();
        for (arm, courses) in &self.courses {
            for (seed, course) in courses {
                let Some((first, later)) = course.points.split_first() else { continue };
                let worse = later.iter().find(|point| site_probe(point) > site_probe(first) + TELLS_SITES);
                if let Some(point) = worse {
                    let (found, began) = (site_probe(point) * 100.0, site_probe(first) * 100.0);
                    put(
                        &mut text,
                        format_args!(
                            "- {arm}, seed {seed}, round {}: features tell sites apart: site probe {found:.1} %, {began:.1} % at first",
                            point.round
                        ),
                    );
                }
            }
        }
        text
    }

    /// Mean accuracy over all sites against steps, a line an arm.
    pub fn curves(&self, title: &str, arms: &[Arm]) -> Chart {
        let series = arms.iter().filter(|arm| self.courses.contains_key(*arm)).zip('a'..).map(|(arm, color)| {
            let courses = &self.courses[arm];
            let steps: std::collections::BTreeSet<u64> =
                courses.values().flat_map(|course| course.points.iter().map(|point| point.steps)).collect();
            let at = |steps: u64| {
                let here =
                    courses.values().filter_map(|course| course.points.iter().find(|point| point.steps == steps));
                mean(here.map(consortium)) * 100.0
            };
            let points = steps.into_iter().map(|steps| (steps as f64, at(steps))).collect();
            Series { name: arm.to_string(), color, points }
        });
        Chart {
            title: title.to_owned(),
            x_label: "optimizer steps of each site".to_owned(),
            series: series.collect(),
            reference: None,
        }
    }

    /// Frames asked at each site: the least over the seeds.
    pub fn images(&self) -> BTreeMap<String, usize> {
        let mut least = BTreeMap::new();
        let points = self.courses.values().flatten().filter_map(|(_, course)| course.points.last());
        for (site, &count) in points.flat_map(|point| &point.measures.images) {
            least.entry(site.clone()).and_modify(|least: &mut usize| *least = (*least).min(count)).or_insert(count);
        }
        least
    }

    /// Writes `results.md`, and the curves beside it.
    pub fn write(&self, folder: &Path, plan: &PlanDraft) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let federated = Arm::Federated(Way::Plan);
        let alone = TRAINING_SITES.map(|site| Arm::Alone(site.to_owned()));
        let arms = [vec![Arm::Pooled, federated.clone()], alone.to_vec()].concat();
        let ways = [Way::Plan, Way::StudentOnly, Way::Nesterov].map(Arm::Federated);
        let mut steps: Vec<Arm> =
            self.courses.keys().filter(|arm| matches!(arm, Arm::Federated(Way::Steps(_)))).cloned().collect();
        steps.insert(0, federated);
        let mut text = format!(
            "{} steps a site, {} a round, batches of {}; images asked at each site: {}\n\n{}\n{}\n{}\n",
            plan.total_steps(),
            plan.training.steps_per_round,
            plan.training.batch_size,
            self.images().iter().map(|(site, count)| format!("{site} {count}")).collect::<Vec<_>>().join(", "),
            self.table(),
            self.verdicts(),
            self.health()
        );
        put(&mut text, format_args!("{}\n", self.alarms(plan)));
        for (file, title, arms) in [
            ("arms.svg", "k-NN accuracy over all sites (%)", arms.as_slice()),
            ("ways.svg", "ways to federate: accuracy (%)", &ways),
            ("steps.svg", "steps between two merges: accuracy (%)", &steps),
        ] {
            let chart = self.curves(title, arms);
            if chart.series.len() > 1 {
                std::fs::write(folder.join(file), chart.file())?;
                put(&mut text, format_args!("![{title}]({file})\n"));
            }
        }
        Ok(std::fs::write(folder.join("results.md"), text)?)
    }
}

fn named(sites: &BTreeMap<SiteId, SiteRound>) -> Vec<Alarm> {
    let measured = |(site, round): (&SiteId, &SiteRound)| {
        (site.clone(), Measured { meters: round.meters, norm: round.drift.norm, cosine: round.drift.cosine })
    };
    alarms::alarms(&sites.iter().map(measured).collect::<Vec<_>>())
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let written = writeln!(text, "{line}");
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::measure::Measures;

    fn course(all: f64) -> Course {
        let consortium = ["a", "b", "c", "d"].map(|site| (site.to_owned(), all)).into();
        let measures = Measures { consortium, ..Measures::default() };
        Course { finished: true, points: vec![Point { round: 0, steps: 0, measures }], rounds: Vec::new() }
    }

    #[test]
    fn features_that_come_to_tell_sites_apart_are_named_and_others_are_not() {
        let point = |round: u32, site_probe: f64| Point {
            round,
            steps: 30 * u64::from(round),
            measures: Measures { site_probe, ..Measures::default() },
        };
        let told = |probes: [f64; 3]| {
            let points = (0..).zip(probes).map(|(round, probe)| point(round, probe)).collect();
            let course = Course { finished: true, points, rounds: Vec::new() };
            Experiment { courses: [(Arm::Federated(Way::Plan), [(7, course)].into())].into() }.shortcuts()
        };
        assert_eq!(told([0.6, 0.69, 0.5]), "");
        let text = told([0.6, 0.65, 0.72]);
        assert!(text.contains("federated, seed 7, round 2") && text.contains("72.0 %, 60.0 % at first"), "{text}");
    }

    #[test]
    fn arms_that_are_at_their_end_are_no_more_to_be_done() {
        let (folder, arms) = (tempfile::tempdir().unwrap(), [Arm::Pooled, Arm::Random]);
        for (seed, arm, finished) in [(1, &Arm::Pooled, true), (2, &Arm::Random, true), (2, &Arm::Pooled, false)] {
            let place = course_folder(folder.path(), seed, arm);
            std::fs::create_dir_all(&place).unwrap();
            let course = Course { finished, ..course(0.5) };
            std::fs::write(place.join("course.json"), serde_json::to_vec(&course).unwrap()).unwrap();
        }
        let left = unfinished(folder.path(), &[1, 2], &arms).unwrap();
        assert_eq!(left, [(1, &Arm::Random), (2, &Arm::Pooled)]);
    }

    #[test]
    fn a_verdict_counts_the_seeds_in_which_it_holds() {
        let mut experiment = Experiment::default();
        let mut put = |arm: Arm, values: [f64; 2]| {
            experiment.courses.insert(arm, [(1, course(values[0])), (2, course(values[1]))].into());
        };
        put(Arm::Random, [0.5, 0.5]);
        put(Arm::Pooled, [0.7, 0.6]);
        put(Arm::Federated(Way::Plan), [0.66, 0.62]);
        put(Arm::Alone("a".to_owned()), [0.6, 0.65]);
        put(Arm::Alone("b".to_owned()), [0.64, 0.5]);
        let text = experiment.verdicts();
        for line in ["+20.0, +10.0 | 1 of 2", "-4.0, +2.0 | 1 of 2", "sites | +2.0, -3.0 | 1 of 2"] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
