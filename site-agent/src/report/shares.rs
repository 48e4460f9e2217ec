//! Shares of subjects as a page that leaves tells them: from what to what. Beside rounded counts three decimals would
//! say how many were called wrong: 0.931 is 27 of 29, and of hardly anything else.
//!
//! Of a detection the counts of the table are of subjects, and what they leave open once they are rounded is told:
//! nothing that the table does not tell too. Where a subject has many samples it is one of equal parts from 0 to 1, as
//! wide as five subjects.

use common::task::Metric;

use super::Run;
use super::audience::LEAST;
use crate::metrics::classification::Confusion;

/// Parts from 0 to 1 for a share of so many subjects: as many as are at least five of them wide, so that whoever is
/// right or wrong as one of fewer than five lies in the first or the last part.
pub(super) fn parts(subjects: u64, most: u64) -> u64 {
    (subjects / LEAST).clamp(1, most)
}

/// The one of so many equal parts from 0 to 1 in which a share lies.
pub(super) fn part(share: f64, parts: u64) -> [f64; 2] {
    let all = parts as f64;
    // A share at a part's beginning is not to fall below it by how it is rounded.
    let part = (share * all + 1e-9).floor().clamp(0.0, all - 1.0);
    [part / all, (part + 1.0) / all]
}

/// From what to what a metric of classes is by the tables of a detection's runs, rounded down to multiples of five; the
/// mean over the runs.
pub(super) fn by_tables(runs: &[Run], metric: Metric) -> Option<[f64; 2]> {
    let each: Vec<[f64; 2]> =
        runs.iter().map(|run| by_table(&run.measured.confusion, metric)).collect::<Option<_>>()?;
    Some([0, 1].map(|end| each.iter().map(|ends| ends[end]).sum::<f64>() / each.len() as f64))
}

fn by_table(counts: &[Vec<u64>], metric: Metric) -> Option<[f64; 2]> {
    let [low, high] = [false, true].map(|best| value(&open_end(counts, metric, best), counts.len(), metric));
    let ([low, high], [least, most]) = ([low?, high?], by_totals(counts, metric));
    Some([low.max(least), high.min(most)])
}

/// Whether more of a cell makes the metric better.
fn is_good(metric: Metric, truth: usize, said: usize) -> bool {
    if metric == Metric::Specificity { truth != 1 && said != 1 } else { truth == said }
}

/// The worst or the best table that is rounded to the same as `counts`.
fn open_end(counts: &[Vec<u64>], metric: Metric, best: bool) -> Vec<Vec<u64>> {
    let cell = |truth: usize, said: usize, count: u64| {
        rounded(count) + if is_good(metric, truth, said) == best { LEAST - 1 } else { 0 }
    };
    let row = |(truth, row): (usize, &Vec<u64>)| {
        row.iter().enumerate().map(|(said, count)| cell(truth, said, *count)).collect()
    };
    counts.iter().enumerate().map(row).collect()
}

fn rounded(count: u64) -> u64 {
    count / LEAST * LEAST
}

fn value(counts: &[Vec<u64>], classes: usize, metric: Metric) -> Option<f64> {
    let cells =
        counts.iter().enumerate().flat_map(|(truth, row)| row.iter().enumerate().map(move |cell| (truth, cell)));
    let samples = cells.flat_map(|(truth, (said, count))| std::iter::repeat_n((truth, said), *count as usize));
    let (truth, said): (Vec<usize>, Vec<usize>) = samples.unzip();
    let table = Confusion::new(&truth, &said, classes).ok()?;
    match metric {
        Metric::Accuracy => table.accuracy(),
        Metric::BalancedAccuracy => table.balanced_accuracy(),
        Metric::F1Macro => table.f1_macro(),
        Metric::Sensitivity => table.sensitivity(1),
        Metric::Specificity => table.specificity(1),
        _ => None,
    }
}

/// The same by the rounded number of those whom a share is of, which says more where many cells are rounded.
fn by_totals(counts: &[Vec<u64>], metric: Metric) -> [f64; 2] {
    let share = |of: &dyn Fn(usize) -> bool| {
        let rows = || counts.iter().enumerate().filter(|(truth, _)| of(*truth));
        let cells =
            rows().flat_map(|(truth, row)| row.iter().enumerate().map(move |(said, count)| (truth, said, count)));
        let right = cells.filter(|(truth, said, _)| is_good(metric, *truth, *said));
        let [least, most] = right
            .fold([0, 0], |[least, most], (_, _, count)| [least + rounded(*count), most + rounded(*count) + LEAST - 1]);
        let all = rounded(rows().flat_map(|(_, row)| row).sum());
        [least as f64 / (all + LEAST - 1) as f64, (most as f64 / all.max(1) as f64).min(1.0)]
    };
    match metric {
        Metric::Accuracy => share(&|_| true),
        Metric::Sensitivity => share(&|truth| truth == 1),
        Metric::Specificity => share(&|truth| truth != 1),
        Metric::BalancedAccuracy => {
            let each: Vec<[f64; 2]> = (0..counts.len()).map(|class| share(&|truth| truth == class)).collect();
            [0, 1].map(|end| each.iter().map(|ends| ends[end]).sum::<f64>() / each.len().max(1) as f64)
        }
        _ => [0.0, 1.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Metric; 5] =
        [Metric::Accuracy, Metric::BalancedAccuracy, Metric::F1Macro, Metric::Sensitivity, Metric::Specificity];

    #[test]
    fn whoever_is_wrong_as_one_of_fewer_than_five_lies_in_the_last_part() {
        for subjects in 5..400_u64 {
            let of = |right: u64| part(right as f64 / subjects as f64, parts(subjects, 200));
            assert!((0..5).all(|few| of(subjects - few) == of(subjects) && of(few) == of(0)), "{subjects}");
        }
    }

    #[test]
    fn the_range_holds_the_share_and_is_the_same_for_every_table_that_is_rounded_to_the_same() {
        let counts = |cells: [[u64; 3]; 3]| cells.map(|row| row.to_vec()).to_vec();
        let tables = [[[17, 1, 0], [2, 27, 6], [0, 3, 9]], [[15, 4, 2], [0, 25, 9], [1, 1, 5]]].map(counts);
        for metric in [Metric::Accuracy, Metric::F1Macro, Metric::BalancedAccuracy] {
            for table in &tables {
                let ([low, high], share) = (by_table(table, metric).unwrap(), value(table, 3, metric).unwrap());
                assert!(low <= share && share <= high, "{metric}: {share} in {low} to {high}");
            }
        }
        let two = |cells: [[u64; 2]; 2]| cells.map(|row| row.to_vec()).to_vec();
        for metric in ALL {
            let of = |cells| by_table(&two(cells), metric).unwrap();
            assert_eq!(of([[22, 2], [1, 17]]), of([[21, 2], [0, 18]]), "{metric}");
            let ([low, high], share) = (of([[22, 2], [1, 17]]), value(&two([[22, 2], [1, 17]]), 2, metric).unwrap());
            assert!(low <= share && share <= high && high - low < 0.3, "{metric}: {share} in {low} to {high}");
        }
    }
}
