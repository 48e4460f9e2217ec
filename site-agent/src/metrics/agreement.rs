//! How far measurements by two methods, or by one twice, agree.

use super::{Unusable, check_finite, check_length, mean};

/// Measurements of the same things in the same unit, in pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// `(found, truth)`.
    pairs: Vec<(f64, f64)>,
}

impl Pairs {
    /// Pairs what was `found` with the `truth` of it, in that unit.
    pub fn new(truth: &[f64], found: &[f64]) -> Result<Self, Unusable> {
        check_length("measurements found", found.len(), truth.len())?;
        check_finite("true value", truth.iter().copied())?;
        check_finite("measurement", found.iter().copied())?;
        Ok(Self { pairs: found.iter().copied().zip(truth.iter().copied()).collect() })
    }

    /// The mean of found − truth (Bland and Altman 1986): above zero where too much is found. None of no pair.
    pub fn bias(&self) -> Option<f64> {
        mean(self.differences())
    }

    /// The standard deviation of found − truth over a sample, with n − 1. None below two pairs.
    pub fn deviation(&self) -> Option<f64> {
        let (bias, degrees) = (self.bias()?, self.pairs.len() - 1);
        let squares: f64 = self.differences().map(|difference| (difference - bias).powi(2)).sum();
        (degrees > 0).then(|| (squares / degrees as f64).sqrt())
    }

    /// The 95 % limits of agreement, `bias ± 1.96 SD`, lower and upper. None below two pairs.
    pub fn limits(&self) -> Option<[f64; 2]> {
        let (bias, reach) = (self.bias()?, 1.96 * self.deviation()?);
        Some([bias - reach, bias + reach])
    }

    /// The mean of |found − truth|; none of no pair.
    pub fn mean_absolute_error(&self) -> Option<f64> {
        mean(self.differences().map(f64::abs))
    }

    /// Pearson's correlation. None below two pairs, or where one side does not vary.
    pub fn pearson(&self) -> Option<f64> {
        let sides = self.pairs.iter().copied();
        let (x_mean, y_mean) = (mean(sides.clone().map(|(x, _)| x))?, mean(sides.clone().map(|(_, y)| y))?);
        let centered = || sides.clone().map(|(x, y)| (x - x_mean, y - y_mean));
        let [xx, xy, yy] = centered().fold([0.0; 3], |[xx, xy, yy], (x, y)| [xx + x * x, xy + x * y, yy + y * y]);
        // The mean of equal values may differ from them in its last bit, so equality is asked of the values.
        let varies = |side: fn(&(f64, f64)) -> f64| self.pairs.windows(2).any(|two| side(&two[0]) != side(&two[1]));
        (varies(|(x, _)| *x) && varies(|(_, y)| *y)).then(|| (xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0))
    }

    /// The within-subject coefficient of variation, a fraction: `√ mean(((x − y)² / 2) / ((x + y) / 2)²)`, by the
    /// root mean square method (Hyslop and White 2009). None of no pair, or if a pair's mean is zero.
    pub fn coefficient_of_variation(&self) -> Option<f64> {
        let relative = |(x, y): &(f64, f64)| ((x - y).powi(2) / 2.0) / ((x + y) / 2.0).powi(2);
        let has_mean = self.pairs.iter().all(|(x, y)| x + y != 0.0);
        mean(self.pairs.iter().map(relative)).filter(|_| has_mean).map(f64::sqrt)
    }

    fn differences(&self) -> impl Iterator<Item = f64> {
        self.pairs.iter().map(|(found, truth)| found - truth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_found_is_a_bias_above_zero() {
        let pairs = Pairs::new(&[10.0, 20.0, 30.0], &[11.0, 22.0, 33.0]).unwrap();
        assert_eq!((pairs.bias(), pairs.deviation(), pairs.mean_absolute_error()), (Some(2.0), Some(1.0), Some(2.0)));
        assert_eq!(pairs.limits(), Some([2.0 - 1.96, 2.0 + 1.96]));
    }

    #[test]
    fn what_too_few_or_constant_pairs_leave_open_is_none() {
        let nothing = Pairs::new(&[], &[]).unwrap();
        assert_eq!((nothing.bias(), nothing.mean_absolute_error()), (None, None));
        assert_eq!((nothing.deviation(), nothing.coefficient_of_variation(), nothing.pearson()), (None, None, None));
        let single = Pairs::new(&[1.0], &[2.0]).unwrap();
        assert_eq!((single.bias(), single.deviation(), single.limits()), (Some(1.0), None, None));
        assert_eq!(single.pearson(), None);
        assert_eq!(Pairs::new(&[0.1; 3], &[1.0, 2.0, 3.0]).map(|pairs| pairs.pearson()), Ok(None));
        assert_eq!(Pairs::new(&[0.0, 1.0], &[0.0, 1.0]).map(|pairs| pairs.coefficient_of_variation()), Ok(None));
    }

    #[test]
    fn unpaired_and_infinite_values_are_refused() {
        assert!(Pairs::new(&[1.0], &[]).is_err() && Pairs::new(&[f64::INFINITY], &[1.0]).is_err());
        assert!(Pairs::new(&[1.0], &[f64::NAN]).is_err());
    }
}
