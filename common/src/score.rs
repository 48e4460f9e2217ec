//! Cross-site evaluation: what every site measures of a merged model, and which model is the best of a run.
//!
//! Only scalars and counts leave a site: a metric's value, and how many subjects it is the mean of, rounded down; of fewer
//! subjects than the rounding nothing leaves at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{RoundNumber, SiteId};
use crate::privacy::SUBJECTS_ROUNDED_TO;
use crate::task::{Best, Metric, TaskName};
use crate::update::can_be;

/// One number that a site measured of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Of which task.
    pub task: TaskName,
    /// What was measured.
    pub metric: Metric,
    /// On whom.
    pub on: MeasuredOn,
    /// The mean over these subjects, to four decimals.
    pub value: f64,
    /// Subjects, rounded down to a multiple of [`SUBJECTS_ROUNDED_TO`].
    pub subjects: u32,
}

/// On which of a site's subjects something was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MeasuredOn {
    /// Those who pick a model; none of them is trained on.
    Validation,
    /// Those who neither train nor pick.
    HeldOut,
}

impl fmt::Display for MeasuredOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Validation => "validation",
            Self::HeldOut => "held out",
        })
    }
}

impl Score {
    /// What may leave of a measurement: nothing of fewer subjects than counts are rounded to, or of a value that is no number.
    pub fn reportable(task: &TaskName, metric: Metric, on: MeasuredOn, value: f64, subjects: usize) -> Option<Self> {
        let subjects = u32::try_from(subjects).unwrap_or(u32::MAX) / SUBJECTS_ROUNDED_TO * SUBJECTS_ROUNDED_TO;
        let value = (value * 1e4).round() / 1e4;
        (subjects > 0 && value.is_finite()).then(|| Self { task: task.clone(), metric, on, value, subjects })
    }

    /// Whether it could have left a site as it is.
    pub fn is_reportable(&self) -> bool {
        can_be(self.value) && self.subjects > 0 && self.subjects.is_multiple_of(SUBJECTS_ROUNDED_TO)
    }
}

/// Scores of a run's models: a model is named by the round that made it, 0 for the first.
pub type Scores = BTreeMap<RoundNumber, BTreeMap<SiteId, Vec<Score>>>;

/// A site's value of a metric among its scores.
pub fn value(scores: &[Score], task: &TaskName, metric: Metric, on: MeasuredOn) -> Option<f64> {
    scores.iter().find(|score| score.task == *task && score.metric == metric && score.on == on).map(|score| score.value)
}

/// The best model of a task, and its value: the mean of the metric over the sites' validation subjects, each site counting
/// the same. Models are compared only if every site that scored any of them scored them; of equals the first is the best.
pub fn best_model(scores: &Scores, task: &TaskName, best: Best) -> Option<(RoundNumber, f64)> {
    let of = |scores: &BTreeMap<SiteId, Vec<Score>>| -> BTreeMap<SiteId, f64> {
        let value = |scores: &Vec<Score>| value(scores, task, best.metric, MeasuredOn::Validation);
        scores.iter().filter_map(|(site, scores)| Some((site.clone(), value(scores)?))).collect()
    };
    let models: Vec<_> = scores.iter().map(|(round, scores)| (*round, of(scores))).collect();
    let sites: BTreeSet<&SiteId> = models.iter().flat_map(|(_, values)| values.keys()).collect();
    let comparable = models.iter().filter(|(_, values)| !sites.is_empty() && values.len() == sites.len());
    let means = comparable.map(|(round, values)| (*round, values.values().sum::<f64>() / values.len() as f64));
    means.reduce(|held, other| if best.direction.is_better(other.1, held.1) { other } else { held })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Direction;

    fn task() -> TaskName {
        TaskName::try_from("lge".to_owned()).unwrap()
    }

    fn scores(rounds: &[&[(&str, f64)]]) -> Scores {
        let of = |sites: &[(&str, f64)]| {
            let one = |&(site, value): &(&str, f64)| {
                let score = Score::reportable(&task(), Metric::Dice, MeasuredOn::Validation, value, 5).unwrap();
                (site.parse().unwrap(), vec![score])
            };
            sites.iter().map(one).collect()
        };
        rounds.iter().enumerate().map(|(round, sites)| (RoundNumber(round as u32), of(sites))).collect()
    }

    #[test]
    fn nothing_leaves_of_a_handful_of_subjects_and_counts_are_rounded_down() {
        let of = |value, subjects| Score::reportable(&task(), Metric::Dice, MeasuredOn::HeldOut, value, subjects);
        assert_eq!(of(0.9, 4), None);
        assert_eq!(of(f64::NAN, 100), None);
        let left = of(0.912_345_6, 14).unwrap();
        assert_eq!((left.value, left.subjects), (0.9123, 10));
        assert!(left.is_reportable() && !Score { subjects: 13, ..left }.is_reportable());
    }

    #[test]
    fn the_best_model_is_picked_by_the_mean_over_sites_in_the_declared_direction() {
        let scores = scores(&[&[("a", 0.1), ("b", 0.9)], &[("a", 0.6), ("b", 0.6)], &[("a", 0.3), ("b", 0.8)]]);
        let best = |direction| best_model(&scores, &task(), Best { metric: Metric::Dice, direction });
        assert_eq!(best(Direction::Higher), Some((RoundNumber(1), 0.6)));
        assert_eq!(best(Direction::Lower), Some((RoundNumber(0), 0.5)));
        let other = Best { metric: Metric::Hd95, direction: Direction::Lower };
        assert_eq!(best_model(&scores, &task(), other), None);
    }

    #[test]
    fn a_model_that_a_site_did_not_score_is_not_compared() {
        let best = Best { metric: Metric::Dice, direction: Direction::Higher };
        let scores = scores(&[&[("a", 0.5), ("b", 0.5)], &[("a", 0.9)]]);
        assert_eq!(best_model(&scores, &task(), best), Some((RoundNumber(0), 0.5)));
    }
}
