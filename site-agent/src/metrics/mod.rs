//! The numbers by which the downstream tasks are judged, as plain functions of plain slices.
//!
//! ```text
//! overlap         Dice                           classification  accuracies, F1, MCC, ROC and the area below it
//! surface         HD95 in mm                     agreement       Bland-Altman, Pearson, coefficient of variation
//! distance        landmarks in mm                cardiac         volumes, ejection fraction, mass, scar, map values
//! bootstrap       an interval by subject for any of them
//! ```
//!
//! Three answers are kept apart: input that cannot be used is an [`Unusable`]; a number that its definition leaves open
//! on this input (the Dice of two empty masks, an AUC without positives) is `None`, for the caller to count; the rest
//! is a number. Knows no network, no image file and no model. Checked against MONAI, scikit-learn, SciPy and NumPy by
//! `oracle.json`, which `scripts/metrics_oracle.py` writes.

pub mod agreement;
pub mod bootstrap;
pub mod cardiac;
pub mod classification;
pub mod distance;
#[cfg(test)]
mod oracle;
pub mod overlap;
pub mod surface;

/// Input that no metric can be computed from: the caller's mistake, not a bad prediction.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// Slices that do not belong together.
    #[error("{found} {what} where there should be {expected}")]
    Length {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A label that names no class.
    #[error("label {label} at {index}: there are {classes} classes")]
    Label {
        /// The label.
        label: usize,
        /// Where it stands.
        index: usize,
        /// Classes there are, from 0.
        classes: usize,
    },
    /// A value that is infinite or not a number.
    #[error("{what} at {index} is {value}: it should be finite")]
    NotFinite {
        /// What it is a value of.
        what: &'static str,
        /// Where it stands.
        index: usize,
        /// The value.
        value: f64,
    },
    /// A spacing that is no length.
    #[error("spacing of {0:?} mm: each should be above zero and finite")]
    Spacing([f64; 3]),
}

fn check_length(what: &'static str, found: usize, expected: usize) -> Result<(), Unusable> {
    if found == expected { Ok(()) } else { Err(Unusable::Length { what, found, expected }) }
}

fn check_labels(labels: impl IntoIterator<Item = usize>, classes: usize) -> Result<(), Unusable> {
    match labels.into_iter().enumerate().find(|(_, label)| *label >= classes) {
        Some((index, label)) => Err(Unusable::Label { label, index, classes }),
        None => Ok(()),
    }
}

fn check_finite(what: &'static str, values: impl IntoIterator<Item = f64>) -> Result<(), Unusable> {
    match values.into_iter().enumerate().find(|(_, value)| !value.is_finite()) {
        Some((index, value)) => Err(Unusable::NotFinite { what, index, value }),
        None => Ok(()),
    }
}

fn check_spacing(spacing_mm: [f64; 3]) -> Result<(), Unusable> {
    let is_length = |mm: &f64| mm.is_finite() && *mm > 0.0;
    if spacing_mm.iter().all(is_length) { Ok(()) } else { Err(Unusable::Spacing(spacing_mm)) }
}

/// `part / whole`; none of nothing.
fn fraction(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The mean of the values that there are.
fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.into_iter().fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// The quantile at `at` in 0..=1 with linear interpolation between order statistics: type 7 of Hyndman and Fan 1996,
/// the default of NumPy and of `torch.quantile`.
fn quantile(mut values: Vec<f64>, at: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let place = last as f64 * at;
    let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}
