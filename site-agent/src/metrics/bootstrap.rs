//! How sure a number is, by the bootstrap over subjects.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::quantile;

/// The 95 % interval of a statistic by Efron's percentile method (1979), lower and upper end.
///
/// Each of `rounds` rounds draws as many of `groups` as there are, with replacement, and asks the `statistic` of the
/// groups drawn, given by index and as often as drawn. A group is a subject with all its images: images of one subject
/// resemble each other, and drawing them singly would give intervals too narrow. The same seed gives the same interval.
///
/// A round without a finite statistic (an AUC, say, where no positive was drawn) is left out. None of fewer than two
/// groups, of which a draw says nothing that the one itself does not, and none if more than a tenth of the rounds would be left out: the rest would be a biased choice.
pub fn interval(
    groups: usize,
    seed: u64,
    rounds: usize,
    statistic: impl Fn(&[usize]) -> Option<f64>,
) -> Option<[f64; 2]> {
    if groups < 2 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = vec![0; groups];
    let mut values = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        drawn.fill_with(|| rng.random_range(0..groups));
        values.extend(statistic(&drawn).filter(|value| value.is_finite()));
    }
    if (rounds - values.len()) * 10 > rounds {
        return None;
    }
    Some([quantile(values.clone(), 0.025)?, quantile(values, 0.975)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_of(drawn: &[usize]) -> f64 {
        drawn.iter().sum::<usize>() as f64 / drawn.len() as f64
    }

    #[test]
    fn the_same_seed_gives_the_same_interval_and_another_seed_another() {
        let of_seed = |seed| interval(20, seed, 200, |drawn| Some(mean_of(drawn)));
        assert_eq!(of_seed(1), of_seed(1));
        assert_ne!(of_seed(1), of_seed(2));
    }

    #[test]
    fn the_interval_of_a_mean_has_the_width_that_theory_gives() {
        // Of 0..100: SD 28.87, so 1.96 x 28.87 / √100 to each side of 49.5.
        let [low, high] = interval(100, 7, 4000, |drawn| Some(mean_of(drawn))).unwrap();
        assert!((low - 43.84).abs() < 0.4 && (high - 55.16).abs() < 0.4, "{low} {high}");
    }

    #[test]
    fn a_statistic_that_is_often_undefined_has_no_interval() {
        // Of thirty subjects the first is missing in (1 - 1/30)^30 of the rounds, a third.
        let needs_the_first = |drawn: &[usize]| drawn.contains(&0).then(|| mean_of(drawn));
        assert_eq!(interval(30, 3, 500, needs_the_first), None);
        assert_eq!(interval(30, 3, 500, |_| Some(f64::NAN)), None);
        // All of the first three are missing in (1 - 3/30)^30 of them, 4 %: these rounds are left out.
        let needs_three = |drawn: &[usize]| drawn.iter().any(|group| *group < 3).then_some(1.0);
        assert_eq!(interval(30, 3, 500, needs_three), Some([1.0, 1.0]));
    }

    #[test]
    fn fewer_than_two_subjects_have_no_interval() {
        assert_eq!(interval(0, 1, 100, |_| Some(1.0)), None);
        assert_eq!(interval(5, 1, 0, |_| Some(1.0)), None);
        assert_eq!(interval(1, 1, 100, |drawn| Some(mean_of(drawn))), None);
        assert!(interval(2, 1, 100, |drawn| Some(mean_of(drawn))).is_some());
    }
}
