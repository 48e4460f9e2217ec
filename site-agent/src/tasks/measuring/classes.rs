//! Classes of frames or of subjects.

use common::task::Metric;

use super::{Sheet, mean};
use crate::metrics::classification::{Confusion, Roc, RocPoint, auc_one_vs_rest};
use crate::tasks::asking::likeliest;
use crate::tasks::{Answer, Example, Said, TasksError};

/// A right class, and a probability a class.
type Sample<'a> = (usize, &'a [f64]);

impl Sheet<'_> {
    /// Measures classes, with the table of all samples and a curve a class.
    pub(super) fn classes(&mut self, asked: &[&Example], said: &[Said]) -> Result<(), TasksError> {
        let samples = asked.iter().zip(said).filter_map(|(example, said)| match (&example.answer, said) {
            (Answer::Class(class), Said::Scores(scores)) => Some((example.subject, (*class, scores.as_slice()))),
            _ => None,
        });
        let samples: Vec<Vec<Sample<'_>>> = self.by_subject(samples);
        let (names, classes) = (self.task.classes.clone(), self.task.classes.len());
        let rows = |some: &[usize]| some.iter().flat_map(|subject| &samples[*subject]).copied().collect::<Vec<_>>();
        let confusion = |some: &[usize]| {
            let (truth, found): (Vec<_>, Vec<_>) =
                rows(some).into_iter().map(|(truth, scores)| (truth, likeliest(scores))).unzip();
            Confusion::new(&truth, &found, classes).ok()
        };
        let auc = |some: &[usize]| {
            let rows = rows(some);
            if classes == 2 {
                return roc(&rows, 1).ok()?.auc();
            }
            let truth: Vec<usize> = rows.iter().map(|(truth, _)| *truth).collect();
            let scores: Vec<f64> = rows.iter().flat_map(|(_, scores)| scores.iter().copied()).collect();
            auc_one_vs_rest(&truth, &scores, classes).ok().flatten()
        };
        let told = (samples.iter().filter(|own| !own.is_empty()).count(), 0);
        type OfTable = fn(&Confusion) -> Option<f64>;
        let of_table: [(Metric, OfTable); 5] = [
            (Metric::Accuracy, Confusion::accuracy),
            (Metric::BalancedAccuracy, Confusion::balanced_accuracy),
            (Metric::F1Macro, Confusion::f1_macro),
            (Metric::Sensitivity, |table| table.sensitivity(1)),
            (Metric::Specificity, |table| table.specificity(1)),
        ];
        for (metric, of) in of_table {
            if self.has(metric) {
                self.add(metric, None, told, |some| of(&confusion(some)?));
            }
        }
        if self.has(Metric::Auc) {
            self.add(Metric::Auc, None, told, auc);
        }
        let all: Vec<usize> = (0..samples.len()).collect();
        self.measured.confusion = confusion(&all).map(|table| table.counts().to_vec()).unwrap_or_default();
        self.measured.of_class = (0..classes).map(|class| who_have(&samples, class)).collect();
        self.measured.behind =
            (0..classes).map(|truth| (0..classes).map(|said| called(&samples, truth, said)).collect()).collect();
        let rows_of_classes = names.iter().zip(&self.measured.confusion);
        let nobodys = rows_of_classes.filter(|(_, row)| row.iter().sum::<u64>() == 0).map(|(name, _)| name);
        let nobodys =
            nobodys.map(|name| format!("anything of class {name}: nobody here has it, and means are over the others"));
        self.measured.untold.extend(nobodys.collect::<Vec<_>>());
        // Of two classes the second is the finding, and the first's curve is the same one mirrored.
        for (class, name) in names.iter().enumerate().skip(usize::from(classes == 2)) {
            if let Some(points) = roc(&rows(&all), class)?.points() {
                let pair = |point: RocPoint| [point.false_positive_rate, point.true_positive_rate];
                self.measured.curves.insert(name.clone(), points.into_iter().map(pair).collect());
            }
        }
        let right = |(truth, scores): &Sample<'_>| f64::from(u8::from(likeliest(scores) == *truth));
        self.measured.each = samples.iter().map(|own| mean(own.iter().map(right))).collect();
        Ok(())
    }
}

/// Of subjects' samples: how many subjects have one of a class, and one of another.
fn who_have(samples: &[Vec<Sample<'_>>], class: usize) -> [u64; 2] {
    [true, false]
        .map(|own| samples.iter().filter(|all| all.iter().any(|(truth, _)| (*truth == class) == own)).count() as u64)
}

/// Of subjects' samples: how many subjects have one of a class that is called `said`.
fn called(samples: &[Vec<Sample<'_>>], class: usize, said: usize) -> u64 {
    let is = |(truth, scores): &Sample<'_>| *truth == class && likeliest(scores) == said;
    samples.iter().filter(|all| all.iter().any(is)).count() as u64
}

/// The curve of a class against the others.
fn roc(rows: &[Sample<'_>], class: usize) -> Result<Roc, crate::metrics::Unusable> {
    let truth: Vec<bool> = rows.iter().map(|(truth, _)| *truth == class).collect();
    let scores: Vec<f64> = rows.iter().map(|(_, scores)| scores[class]).collect();
    Roc::new(&truth, &scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_counted_once_whatever_number_of_frames_they_have() {
        let (first, second) = ([0.9, 0.1], [0.2, 0.8]);
        let one: Vec<Sample<'_>> = vec![(0, &first), (0, &first), (0, &second)];
        let both: Vec<Sample<'_>> = vec![(0, &first), (1, &second), (1, &second)];
        let samples = [one, both, Vec::new()];
        assert_eq!([0, 1].map(|class| who_have(&samples, class)), [[2, 1], [1, 2]]);
        assert_eq!([(0, 0), (0, 1), (1, 0), (1, 1)].map(|(class, said)| called(&samples, class, said)), [2, 1, 0, 1]);
    }
}
