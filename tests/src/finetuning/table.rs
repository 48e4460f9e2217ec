//! The tables of what was found, and what they say: plain functions of the values.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use common::Task;
use common::task::Direction;
use serde::{Deserialize, Serialize};

use super::{At, Beginning, Cell};

/// What came of one training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The task's best metric, by place; none where it could not be told.
    pub values: BTreeMap<At, Option<f64>>,
    /// What the training took.
    pub spent: Option<Spent>,
}

/// What one training took: what `site-agent finetune --json` says of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Wall seconds on one thread, from the program's start to its end.
    pub seconds: f64,
    /// The most memory it held, where the system tells it.
    pub peak_mib: Option<u64>,
}

/// What came of each training.
pub type Found = BTreeMap<Cell, Outcome>;

/// How the values of one beginning compare with those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Better on the mean, by more than either deviation over the seeds.
    Beyond,
    /// Better on the mean, within the deviation.
    Within,
    /// Better, of one seed: no deviation to hold it to.
    OneSeed,
    /// Equal or worse.
    NotBetter,
    /// One of the two has no value.
    Untold,
}

/// The tables, and what they say.
pub fn tables(tasks: &[Task], found: &Found, beginnings: &[Beginning], seeds: &[u64]) -> String {
    let whole = |at, title: &str| {
        let table = Table { tasks, found, at, beginnings, seeds };
        format!("{title}\n\n{}\n{}\n{}", table.means(), table.verdicts(), table.by_seed())
    };
    let mut text = whole(At::Home, "Held-out patients of the hospital that trained:");
    if found.values().any(|outcome| outcome.values.contains_key(&At::Unseen)) {
        text += &whole(At::Unseen, "\nPatients of a vendor that no training saw:");
    }
    text
}

struct Table<'a> {
    tasks: &'a [Task],
    found: &'a Found,
    at: At,
    beginnings: &'a [Beginning],
    seeds: &'a [u64],
}

impl Table<'_> {
    /// Mean and deviation over the seeds; what a training takes.
    fn means(&self) -> String {
        let columns: Vec<(Beginning, bool)> =
            both(|few| self.beginnings.iter().map(move |&beginning| (beginning, few)).collect());
        let heads = columns.iter().map(|(beginning, few)| format!(" {beginning}, {} |", labels(*few)));
        let mut text = format!(
            "| task | metric |{} s | MiB |\n|---|---|{}--:|--:|\n",
            heads.collect::<String>(),
            "--:|".repeat(columns.len())
        );
        for (place, task) in self.tasks.iter().enumerate() {
            let told = |&(beginning, few): &(Beginning, bool)| format!(" {} |", told(&self.of(place, beginning, few)));
            let cells: String = columns.iter().map(told).collect();
            let spent: Vec<Spent> =
                self.found.iter().filter(|(cell, _)| cell.task == place).filter_map(|(_, o)| o.spent).collect();
            let seconds = mean(&spent.iter().map(|spent| spent.seconds).collect::<Vec<_>>());
            let seconds = seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1}"));
            let peak = spent.iter().filter_map(|spent| spent.peak_mib).max();
            let peak = peak.map_or_else(|| "–".to_owned(), |peak| peak.to_string());
            let _ = writeln!(text, "| {} | {} |{cells} {seconds} | {peak} |", task.name, task.best.metric);
        }
        text
    }

    /// In how many tasks the federated backbone is better, and in which it is not.
    fn verdicts(&self) -> String {
        let mut text = String::new();
        if !self.beginnings.contains(&Beginning::Federated) {
            return text;
        }
        let others = self.beginnings.iter().filter(|&&beginning| beginning != Beginning::Federated);
        for (few, &other) in others.flat_map(|other| [(true, other), (false, other)]) {
            let mut by = BTreeMap::<&str, Vec<&str>>::new();
            for (place, task) in self.tasks.iter().enumerate() {
                let of = |beginning| self.of(place, beginning, few);
                let said = match verdict(task.best.direction, &of(Beginning::Federated), &of(other)) {
                    Verdict::Beyond => "by more than the seeds' deviation",
                    Verdict::Within => "within it",
                    Verdict::OneSeed => "of one seed, which has no deviation",
                    Verdict::NotBetter => "not",
                    Verdict::Untold => "without a value",
                };
                by.entry(said).or_default().push(task.name.as_str());
            }
            let parts: Vec<String> =
                by.iter().map(|(said, tasks)| format!("{said} in {} ({})", tasks.len(), tasks.join(", "))).collect();
            let _ = writeln!(
                text,
                "With {} labels, of {} tasks federated is better than {other}, on the mean over seeds: {}.",
                labels(few),
                self.tasks.len(),
                parts.join("; ")
            );
        }
        text
    }

    /// Each seed's value, and what the federated backbone gains in it.
    fn by_seed(&self) -> String {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let mut text = format!("By seed ({}):\n\n| task | labels |", seeds.join(", "));
        self.beginnings.iter().for_each(|beginning| text += &format!(" {beginning} |"));
        let others: Vec<Beginning> = match self.beginnings.contains(&Beginning::Federated) {
            true => self.beginnings.iter().copied().filter(|&other| other != Beginning::Federated).collect(),
            false => Vec::new(),
        };
        others.iter().for_each(|other| text += &format!(" gain over {other} |"));
        text += &format!("\n|---|---|{}\n", "---|".repeat(self.beginnings.len() + others.len()));
        for (place, task) in self.tasks.iter().enumerate() {
            for few in [false, true] {
                let of = |beginning, seed| self.value(&Cell { task: place, beginning, few, seed });
                let joined = |one: &dyn Fn(u64) -> Option<String>| {
                    let all = self.seeds.iter().map(|&seed| one(seed).unwrap_or_else(|| "–".to_owned()));
                    all.collect::<Vec<_>>().join(", ")
                };
                let _ = write!(text, "| {} | {} |", task.name, labels(few));
                for &beginning in self.beginnings {
                    let values = joined(&|seed| of(beginning, seed).map(|value| format!("{value:.3}")));
                    let _ = write!(text, " {values} |");
                }
                for &other in &others {
                    let gain = |seed| {
                        let gain = gain(task.best.direction, of(Beginning::Federated, seed)?, of(other, seed)?);
                        Some(format!("{gain:+.3}"))
                    };
                    let _ = write!(text, " {} |", joined(&gain));
                }
                text.push('\n');
            }
        }
        text
    }

    fn value(&self, cell: &Cell) -> Option<f64> {
        self.found.get(cell)?.values.get(&self.at).copied().flatten()
    }

    /// The values there are, by seed.
    fn of(&self, task: usize, beginning: Beginning, few: bool) -> Vec<f64> {
        self.seeds.iter().filter_map(|&seed| self.value(&Cell { task, beginning, few, seed })).collect()
    }
}

fn both<T>(of: impl Fn(bool) -> Vec<T>) -> Vec<T> {
    [false, true].into_iter().flat_map(of).collect()
}

fn labels(few: bool) -> &'static str {
    if few { "few" } else { "all" }
}

/// Mean and deviation as a cell of a table.
fn told(values: &[f64]) -> String {
    match (mean(values), deviation(values)) {
        (None, _) => "–".to_owned(),
        (Some(mean), None) => format!("{mean:.3}"),
        (Some(mean), Some(deviation)) => format!("{mean:.3} ± {deviation:.3}"),
    }
}

/// How much better one value is than another.
fn gain(direction: Direction, one: f64, other: f64) -> f64 {
    if direction == Direction::Higher { one - other } else { other - one }
}

fn verdict(direction: Direction, ours: &[f64], others: &[f64]) -> Verdict {
    let (Some(our_mean), Some(other_mean)) = (mean(ours), mean(others)) else { return Verdict::Untold };
    let gain = gain(direction, our_mean, other_mean);
    match (deviation(ours), deviation(others)) {
        _ if gain <= 0.0 => Verdict::NotBetter,
        (Some(one), Some(other)) if gain > one.max(other) => Verdict::Beyond,
        (Some(_), Some(_)) => Verdict::Within,
        _ => Verdict::OneSeed,
    }
}

/// None of no values: nothing would be the best of all distances.
fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of a sample; none of fewer than two values.
fn deviation(values: &[f64]) -> Option<f64> {
    let middle = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_is_no_value_and_wins_against_none() {
        assert_eq!((mean(&[]), deviation(&[]), deviation(&[3.0])), (None, None, None));
        assert_eq!((mean(&[1.0, 3.0]), deviation(&[1.0, 3.0])), (Some(2.0), Some(2.0_f64.sqrt())));
        assert_eq!(verdict(Direction::Lower, &[], &[4.0, 5.0]), Verdict::Untold);
        assert_eq!(verdict(Direction::Higher, &[4.0], &[]), Verdict::Untold);
        assert_eq!((told(&[]), told(&[0.5]), told(&[0.5, 0.7])), ("–".into(), "0.500".into(), "0.600 ± 0.141".into()));
    }

    #[test]
    fn better_is_beyond_the_deviation_only_if_both_deviations_are_exceeded() {
        let wide = [0.5, 0.7];
        assert_eq!(verdict(Direction::Higher, &[0.8, 0.81], &wide), Verdict::Beyond);
        assert_eq!(verdict(Direction::Higher, &[0.7, 0.71], &wide), Verdict::Within);
        assert_eq!(verdict(Direction::Higher, &wide, &[0.5, 0.51]), Verdict::Within);
        assert_eq!(verdict(Direction::Higher, &wide, &wide), Verdict::NotBetter);
        // Of distances the smaller is better.
        assert_eq!(verdict(Direction::Lower, &[4.0, 4.1], &[9.0, 9.1]), Verdict::Beyond);
        assert_eq!(verdict(Direction::Lower, &[9.0, 9.1], &[4.0, 4.1]), Verdict::NotBetter);
    }

    #[test]
    fn one_seed_has_no_deviation_to_be_beyond() {
        assert_eq!(verdict(Direction::Higher, &[0.9], &[0.1]), Verdict::OneSeed);
        assert_eq!(verdict(Direction::Higher, &[0.9], &[0.1, 0.11]), Verdict::OneSeed);
        assert_eq!(verdict(Direction::Higher, &[0.1], &[0.9]), Verdict::NotBetter);
    }

    /// Two tasks, one of distances; three seeds; the second task's few-shot trainings from the federated backbone told nothing.
    fn found(tasks: &[Task], unseen: bool) -> Found {
        let mut found = Found::new();
        for (task, declared) in tasks.iter().enumerate() {
            for (beginning, few) in both(|few| vec![(Beginning::Random, few), (Beginning::Federated, few)]) {
                for seed in 1..=3 {
                    let lower = declared.best.direction == Direction::Lower;
                    let better = (beginning == Beginning::Federated) != lower;
                    let value = if better { 0.9 } else { 0.6 } + 0.01 * seed as f64;
                    let value = (!(lower && few && beginning == Beginning::Federated)).then_some(value);
                    let mut values = BTreeMap::from([(At::Home, value)]);
                    if unseen {
                        values.insert(At::Unseen, value);
                    }
                    let spent = Some(Spent { seconds: 2.0 * seed as f64, peak_mib: Some(40 + seed) });
                    found.insert(Cell { task, beginning, few, seed }, Outcome { values, spent });
                }
            }
        }
        found
    }

    #[test]
    fn a_table_tells_means_seconds_memory_verdicts_and_the_value_of_each_seed() {
        let mut tasks = site_agent::tasks::built_in();
        tasks.retain(|task| ["sequence", "landmarks"].contains(&task.name.as_str()));
        let arms = [Beginning::Random, Beginning::Federated];
        let text = tables(&tasks, &found(&tasks, false), &arms, &[1, 2, 3]);
        for line in [
            "| task | metric | random, all | federated, all | random, few | federated, few | s | MiB |",
            "| sequence | balanced accuracy | 0.620 ± 0.010 | 0.920 ± 0.010 | 0.620 ± 0.010 | 0.920 ± 0.010 | 4.0 | 43 |",
            "With few labels, of 2 tasks federated is better than random, on the mean over seeds: by more than the seeds' deviation in 1 \
             (sequence); without a value in 1 (landmarks).",
            "With all labels, of 2 tasks federated is better than random, on the mean over seeds: by more than the seeds' deviation in 2 \
             (sequence, landmarks).",
            "| task | labels | random | federated | gain over random |",
            "| sequence | few | 0.610, 0.620, 0.630 | 0.910, 0.920, 0.930 | +0.300, +0.300, +0.300 |",
            "| landmarks | all | 0.910, 0.920, 0.930 | 0.610, 0.620, 0.630 | +0.300, +0.300, +0.300 |",
            "| landmarks | few | 0.910, 0.920, 0.930 | –, –, – | –, –, – |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis missing from:\n{text}");
        }
        assert!(!text.contains("vendor"), "{text}");
        let text = tables(&tasks, &found(&tasks, true), &arms, &[1, 2, 3]);
        assert!(text.contains("Patients of a vendor that no training saw:"), "{text}");
    }

    #[test]
    fn a_table_of_one_seed_says_so() {
        let mut tasks = site_agent::tasks::built_in();
        tasks.retain(|task| task.name.as_str() == "sequence");
        let text = tables(&tasks, &found(&tasks, false), &[Beginning::Random, Beginning::Federated], &[2]);
        assert!(text.contains("of one seed, which has no deviation in 1 (sequence)"), "{text}");
        assert!(!text.contains("more than the seeds' deviation") && !text.contains('±'), "{text}");
    }
}
