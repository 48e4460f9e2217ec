//! How well classes are told apart.

use super::{Unusable, check_finite, check_labels, check_length, fraction, mean};

/// The confusion matrix: how many samples of each class were called what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// `[truth, found]`.
    counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// Counts `truth` against `found`, one label a sample, labels below `classes`.
    pub fn new(truth: &[usize], found: &[usize], classes: usize) -> Result<Self, Unusable> {
        check_length("labels found", found.len(), truth.len())?;
        check_labels(truth.iter().copied(), classes)?;
        check_labels(found.iter().copied(), classes)?;
        let mut counts = vec![vec![0; classes]; classes];
        truth.iter().zip(found).for_each(|(truth, found)| counts[*truth][*found] += 1);
        Ok(Self { counts })
    }

    /// Samples, `[truth, found]`.
    pub fn counts(&self) -> &[Vec<u64>] {
        &self.counts
    }

    /// The fraction of samples called right; none of no sample.
    pub fn accuracy(&self) -> Option<f64> {
        fraction(self.right(), self.samples())
    }

    /// The mean sensitivity of the classes that the truth holds. A class absent from the truth is left out, whether or
    /// not it was called: as scikit-learn's `balanced_accuracy_score`.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        mean(self.classes().filter_map(|class| self.sensitivity(class)))
    }

    /// The mean over classes of F1, `2 TP / (2 TP + FP + FN)`. A class counts if it is in the truth or was called, with
    /// 0 if only one of the two: as scikit-learn's `f1_score(average="macro")`.
    pub fn f1_macro(&self) -> Option<f64> {
        let f1 = |class: usize| fraction(2 * self.counts[class][class], self.true_of(class) + self.called(class));
        mean(self.classes().filter_map(f1))
    }

    /// The correlation coefficient of Matthews 1975, for several classes as Gorodkin 2004. 0 where truth or calls are
    /// all of one class, as scikit-learn has it; none of no sample.
    pub fn matthews(&self) -> Option<f64> {
        let samples = self.samples() as f64;
        let of_pairs = |pair: &dyn Fn(usize) -> (u64, u64)| -> f64 {
            self.classes().map(pair).map(|(one, other)| one as f64 * other as f64).sum()
        };
        let both = of_pairs(&|class| (self.true_of(class), self.called(class)));
        let truth = of_pairs(&|class| (self.true_of(class), self.true_of(class)));
        let calls = of_pairs(&|class| (self.called(class), self.called(class)));
        let scale = ((samples * samples - truth) * (samples * samples - calls)).sqrt();
        let covariance = self.right() as f64 * samples - both;
        (samples > 0.0).then(|| if scale > 0.0 { covariance / scale } else { 0.0 })
    }

    /// Of the samples that are of `class`, the fraction called so; none if there is none, or no such class.
    pub fn sensitivity(&self, class: usize) -> Option<f64> {
        fraction(*self.counts.get(class)?.get(class)?, self.true_of(class))
    }

    /// Of the samples that are not of `class`, the fraction not called so; none if there is none, or no such class.
    pub fn specificity(&self, class: usize) -> Option<f64> {
        let others = self.samples() - self.counts.get(class).map(|row| row.iter().sum::<u64>())?;
        let wrongly_called = self.called(class) - self.counts[class][class];
        fraction(others - wrongly_called, others)
    }

    fn classes(&self) -> std::ops::Range<usize> {
        0..self.counts.len()
    }

    fn samples(&self) -> u64 {
        self.classes().map(|class| self.true_of(class)).sum()
    }

    fn right(&self) -> u64 {
        self.classes().map(|class| self.counts[class][class]).sum()
    }

    fn true_of(&self, class: usize) -> u64 {
        self.counts[class].iter().sum()
    }

    fn called(&self, class: usize) -> u64 {
        self.counts.iter().map(|row| row[class]).sum()
    }
}

/// The receiver operating characteristic of a score.
#[derive(Clone, Debug, PartialEq)]
pub struct Roc {
    /// From the highest threshold down, one entry a distinct score: the score, and the negatives and positives at or
    /// above it.
    steps: Vec<(f64, u64, u64)>,
}

/// A point of a ROC curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RocPoint {
    /// Samples that score this much or more are called positive; infinite at the curve's start, where none is.
    pub threshold: f64,
    /// Of the negatives, the fraction called positive.
    pub false_positive_rate: f64,
    /// Of the positives, the fraction called positive.
    pub true_positive_rate: f64,
}

impl Roc {
    /// Ranks samples by `scores`, higher for more surely positive; `truth` says which are.
    pub fn new(truth: &[bool], scores: &[f64]) -> Result<Self, Unusable> {
        check_length("scores", scores.len(), truth.len())?;
        check_finite("score", scores.iter().copied())?;
        let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(truth.iter().copied()).collect();
        ranked.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let mut steps = vec![(f64::INFINITY, 0, 0)];
        let (mut negatives, mut positives) = (0, 0);
        // Equal scores (0 and -0 too) are one step, since no threshold parts them.
        for tied in ranked.chunk_by(|(one, _), (other, _)| one == other) {
            let more = tied.iter().filter(|(_, positive)| *positive).count() as u64;
            positives += more;
            negatives += tied.len() as u64 - more;
            steps.push((tied[0].0, negatives, positives));
        }
        Ok(Self { steps })
    }

    /// Every point of the curve from (0, 0) to (1, 1), one a distinct score; none without both positives and negatives.
    pub fn points(&self) -> Option<Vec<RocPoint>> {
        let (_, negatives, positives) = *self.steps.last()?;
        let point = |&(threshold, false_positives, true_positives): &(f64, u64, u64)| {
            let false_positive_rate = fraction(false_positives, negatives)?;
            Some(RocPoint { threshold, false_positive_rate, true_positive_rate: fraction(true_positives, positives)? })
        };
        self.steps.iter().map(point).collect()
    }

    /// The area under the curve: the chance that a positive scores above a negative, ties as a half (the statistic of
    /// Mann and Whitney 1947 over the pairs). None without both positives and negatives.
    pub fn auc(&self) -> Option<f64> {
        let (_, negatives, positives) = *self.steps.last()?;
        let trapezoid = |pair: &[(f64, u64, u64)]| (pair[1].1 - pair[0].1) * (pair[0].2 + pair[1].2);
        fraction(self.steps.windows(2).map(trapezoid).sum(), 2 * negatives * positives)
    }
}

/// The mean over classes of the area under the curve of one class against the rest.
///
/// `scores` is `[samples, classes]`, each column a score for its class. A class without samples, or without others to
/// tell it from, has no area and is left out, where scikit-learn would refuse or answer NaN; none if that leaves none.
pub fn auc_one_vs_rest(truth: &[usize], scores: &[f64], classes: usize) -> Result<Option<f64>, Unusable> {
    check_length("scores", scores.len(), truth.len().saturating_mul(classes))?;
    check_labels(truth.iter().copied(), classes)?;
    let mut areas = Vec::with_capacity(classes);
    for class in 0..classes {
        let is_class: Vec<bool> = truth.iter().map(|label| *label == class).collect();
        let column: Vec<f64> = scores.iter().skip(class).step_by(classes).copied().collect();
        areas.extend(Roc::new(&is_class, &column)?.auc());
    }
    Ok(mean(areas))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_absent_from_the_truth_counts_for_f1_only_if_it_was_called() {
        // Class 2 is called once and never true; class 3 is neither.
        let confusion = Confusion::new(&[0, 0, 1, 1], &[0, 2, 1, 1], 4).unwrap();
        assert_eq!(confusion.counts()[0], [1, 0, 1, 0]);
        assert_eq!((confusion.accuracy(), confusion.balanced_accuracy()), (Some(0.75), Some(0.75)));
        assert_eq!(confusion.f1_macro(), Some((2.0 / 3.0 + 1.0 + 0.0) / 3.0));
        assert_eq!((confusion.sensitivity(2), confusion.specificity(2)), (None, Some(0.75)));
        assert_eq!((confusion.sensitivity(4), confusion.specificity(4)), (None, None));
    }

    #[test]
    fn no_sample_has_no_score_and_a_constant_answer_no_correlation() {
        let nothing = Confusion::new(&[], &[], 2).unwrap();
        assert_eq!((nothing.accuracy(), nothing.balanced_accuracy()), (None, None));
        assert_eq!((nothing.f1_macro(), nothing.matthews()), (None, None));
        assert_eq!(Confusion::new(&[0, 1], &[1, 1], 2).map(|c| c.matthews()), Ok(Some(0.0)));
        assert_eq!(Confusion::new(&[1, 1], &[1, 1], 2).map(|c| c.specificity(1)), Ok(None));
    }

    #[test]
    fn a_tie_is_half_right_and_one_class_alone_has_no_area() {
        let auc = |truth: &[bool], scores: &[f64]| Roc::new(truth, scores).map(|roc| roc.auc());
        assert_eq!(auc(&[true, false], &[0.5, 0.5]), Ok(Some(0.5)));
        assert_eq!(auc(&[true, false], &[0.0, -0.0]), Ok(Some(0.5)));
        assert_eq!(auc(&[true, false, false], &[0.5, 0.5, 0.1]), Ok(Some(0.75)));
        assert_eq!(auc(&[true, true], &[0.5, 0.4]), Ok(None));
        assert_eq!(auc(&[], &[]), Ok(None));
        assert_eq!(Roc::new(&[false], &[0.5]).unwrap().points(), None);
    }

    #[test]
    fn a_class_without_samples_is_left_out_of_one_against_the_rest() {
        let scores = [0.9, 0.1, 0.0, 0.2, 0.7, 0.1, 0.6, 0.3, 0.1];
        assert_eq!(auc_one_vs_rest(&[0, 1, 1], &scores, 3), Ok(Some(1.0)));
        assert_eq!(auc_one_vs_rest(&[1, 1, 1], &scores, 3), Ok(None));
    }

    #[test]
    fn labels_and_scores_that_do_not_belong_together_are_refused() {
        assert!(Confusion::new(&[0], &[0, 1], 2).is_err() && Confusion::new(&[0], &[2], 2).is_err());
        assert!(Roc::new(&[true], &[]).is_err() && Roc::new(&[true, false], &[0.0, f64::NAN]).is_err());
        assert!(auc_one_vs_rest(&[0, 1], &[0.5; 3], 2).is_err() && auc_one_vs_rest(&[2], &[0.5; 2], 2).is_err());
    }
}
