//! What may be read where. A page that can be sent holds no image, no value of a single subject and no small count; it is what
//! a site gets unless it asks for more.

use common::privacy::SUBJECTS_ROUNDED_TO;
use common::task::{Metric, TaskKind};

use super::{Arm, Figure, Run, shares};

/// Who reads a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The people of this site: everything, images too. The page stays here.
    Site,
    /// Anyone: means, intervals, and counts as the agent rounds them wherever they leave.
    Elsewhere,
}

/// Fewest subjects behind a number that leaves.
pub(super) const LEAST: u64 = SUBJECTS_ROUNDED_TO as u64;

impl Audience {
    /// Whether single subjects may be shown.
    pub fn sees_subjects(self) -> bool {
        self == Self::Site
    }

    /// Whether a number over so many subjects may be shown.
    pub fn sees(self, subjects: usize) -> bool {
        self == Self::Site || subjects as u64 >= LEAST
    }

    /// A count of subjects: elsewhere rounded down to a multiple of five, so that no difference of two tells of one.
    pub fn count(self, subjects: usize) -> String {
        match (self, subjects as u64) {
            (Self::Site, exact) => exact.to_string(),
            (Self::Elsewhere, few) if few < LEAST => format!("fewer than {LEAST}"),
            (Self::Elsewhere, many) => format!("≥ {}", many / LEAST * LEAST),
        }
    }

    /// A count of subjects beside a number over them.
    pub fn n(self, subjects: usize) -> String {
        match (self, self.sees(subjects)) {
            (Self::Site, _) => format!("n = {subjects}"),
            (Self::Elsewhere, true) => format!("n {}", self.count(subjects)),
            (Self::Elsewhere, false) => format!("n < {LEAST}"),
        }
    }

    /// A count in a table of classes, with the subjects behind it; elsewhere rounded down to a multiple of five, and
    /// none where they are too few. Nought is few too: it says that nobody is.
    pub fn cell(self, count: u64, subjects: u64) -> Option<u64> {
        match self {
            Self::Site => Some(count),
            Self::Elsewhere => (subjects >= LEAST).then_some(count / LEAST * LEAST),
        }
    }

    /// A count without a number beside it; elsewhere none where it is small, so that nought is not told from a few.
    pub fn lost(self, count: usize) -> Option<String> {
        let told = if self == Self::Site { count > 0 } else { count as u64 >= LEAST };
        told.then(|| self.count(count))
    }

    /// Whether a class may be told apart from the others: both are at least five subjects'.
    pub fn sees_class(self, run: &Run, class: usize) -> bool {
        self == Self::Site || behind_class(run, class) >= LEAST
    }

    /// Whether a metric of the whole task may be shown: what tells of a class needs enough subjects of it, and a mean
    /// over classes enough of each, since it can be solved for the one that is not told.
    pub fn sees_metric(self, run: &Run, metric: Metric, subjects: usize) -> bool {
        self == Self::Site
            || run.measured.may_leave(&run.told.task, metric, subjects) && behind(run, metric, subjects) >= LEAST
    }

    /// From what to what a share of subjects is told to be; none if it is told as it is.
    pub fn range(self, arm: &Arm, metric: Metric, figure: &Figure) -> Option<[f64; 2]> {
        use Metric::{Accuracy, BalancedAccuracy, F1Macro, Sensitivity, Specificity, Within5Mm};
        let share = matches!(metric, Accuracy | BalancedAccuracy | F1Macro | Sensitivity | Specificity | Within5Mm);
        if self == Self::Site || !share {
            return None;
        }
        if arm.first().told.task.kind == TaskKind::Detection {
            return shares::by_tables(&arm.runs, metric);
        }
        let behind = arm.runs.iter().map(|run| behind(run, metric, figure.subjects)).min()?;
        Some(shares::part(figure.mean, shares::parts(behind, FINEST)))
    }

    /// Decimals of a metric that is told less finely than its unit has it.
    pub fn decimals(self, run: &Run, metric: Metric) -> Option<usize> {
        classes(run).filter_map(|class| self.area_decimals(run, class)).min().filter(|_| metric == Metric::Auc)
    }

    /// Decimals of the area under a class's curve; none if it is told as it is.
    ///
    /// An area is a number of pairs of subjects over all their pairs. Finer than a pair it would say how many subjects
    /// the class has, and a row of the table with a count that is not told might be solved by that.
    pub fn area_decimals(self, run: &Run, class: usize) -> Option<usize> {
        let [own, rest] = run.measured.class_and_rest(&run.told.task, class).map(|count| count / LEAST * LEAST);
        (self == Self::Elsewhere).then_some(if own * rest >= 100 { 2 } else { 1 })
    }

    /// Steps of a class's curve from 0 to 1, upwards and to the right; none if it is drawn as it is.
    pub fn curve_steps(self, run: &Run, class: usize) -> Option<[u64; 2]> {
        let behind = run.measured.class_and_rest(&run.told.task, class);
        (self == Self::Elsewhere).then(|| behind.map(|subjects| shares::parts(subjects, CURVE)))
    }
}

/// Most parts of a share that leaves.
const FINEST: u64 = 200;
/// Most steps of a curve that leaves.
const CURVE: u64 = 20;

fn classes(run: &Run) -> std::ops::Range<usize> {
    0..run.told.task.classes.len()
}

/// The fewer of the subjects with a class and of those with another.
fn behind_class(run: &Run, class: usize) -> u64 {
    run.measured.class_and_rest(&run.told.task, class).into_iter().fold(u64::MAX, u64::min)
}

/// Fewest subjects behind a part of what a metric of the whole task is made of.
fn behind(run: &Run, metric: Metric, subjects: usize) -> u64 {
    let [sick, healthy] = run.measured.class_and_rest(&run.told.task, 1);
    match metric {
        Metric::Sensitivity => sick,
        Metric::Specificity => healthy,
        Metric::BalancedAccuracy | Metric::F1Macro | Metric::Auc => {
            classes(run).map(|class| behind_class(run, class)).min().unwrap_or(0)
        }
        _ => subjects as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_is_rounded_down_and_what_is_below_five_is_not_told_even_if_it_is_nought() {
        let told = |count| Audience::Elsewhere.count(count);
        assert_eq!([4, 5, 9, 27].map(told), ["fewer than 5", "≥ 5", "≥ 5", "≥ 25"]);
        let cell = |(count, subjects)| Audience::Elsewhere.cell(count, subjects);
        assert_eq!([(0, 0), (4, 4), (5, 5), (9, 9)].map(cell), [None, None, Some(5), Some(5)]);
        assert_eq!([(40, 4), (43, 5)].map(cell), [None, Some(40)], "frames of four subjects, and of five");
        let lost = |count| Audience::Elsewhere.lost(count);
        assert_eq!(([0, 4].map(lost), lost(9)), ([None, None], Some("≥ 5".to_owned())));
        assert!(!Audience::Elsewhere.sees(4) && Audience::Elsewhere.sees(5) && Audience::Site.sees(1));
        assert_eq!([(Audience::Site, 7), (Audience::Elsewhere, 7)].map(|(who, n)| who.n(n)), ["n = 7", "n ≥ 5"]);
        assert_eq!((Audience::Site.count(3), Audience::Site.cell(1, 1)), ("3".to_owned(), Some(1)));
    }
}
