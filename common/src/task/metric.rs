//! What is measured of a task, and which value of it is better.

use std::fmt;
use std::str::FromStr;

use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

/// What can be measured of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Fraction right.
    Accuracy,
    /// Mean over classes of the fraction right.
    BalancedAccuracy,
    /// Mean over classes of the harmonic mean of precision and recall.
    F1Macro,
    /// Area under the receiver operating characteristic; one against the rest, for several classes.
    Auc,
    /// Of the last class, against the first.
    Sensitivity,
    /// Of the first class, against the last.
    Specificity,
    /// Overlap of each structure, 3-D, mean over structures.
    Dice,
    /// 95th percentile of the surface distance, mm, mean over structures.
    Hd95,
    /// End-diastolic and end-systolic volume of each cavity, mL.
    Volumes,
    /// Ejection fraction of the left ventricle, percentage points.
    EjectionFraction,
    /// Myocardial mass at end-diastole, g.
    Mass,
    /// Scar as a percentage of the myocardium.
    ScarFraction,
    /// Mean of a T1 map's values over the myocardium, ms.
    MeanValue,
    /// Mean distance to the landmark, mm.
    Distance,
    /// Fraction of landmarks within 5 mm.
    Within5Mm,
}

impl Metric {
    /// Its name in declarations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::BalancedAccuracy => "balanced-accuracy",
            Self::F1Macro => "f1-macro",
            Self::Auc => "auc",
            Self::Sensitivity => "sensitivity",
            Self::Specificity => "specificity",
            Self::Dice => "dice",
            Self::Hd95 => "hd95",
            Self::Volumes => "volumes",
            Self::EjectionFraction => "ejection-fraction",
            Self::Mass => "mass",
            Self::ScarFraction => "scar-fraction",
            Self::MeanValue => "mean-value",
            Self::Distance => "distance",
            Self::Within5Mm => "within5-mm",
        }
    }
}

impl FromStr for Metric {
    type Err = serde::de::value::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::deserialize(text.into_deserializer())
    }
}

impl fmt::Display for Metric {
    /// As tables call it, with its unit; of a clinical quantity, the mean absolute error is what is told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Accuracy => "accuracy",
            Self::BalancedAccuracy => "balanced accuracy",
            Self::F1Macro => "F1 (macro)",
            Self::Auc => "AUC",
            Self::Sensitivity => "sensitivity",
            Self::Specificity => "specificity",
            Self::Dice => "Dice",
            Self::Hd95 => "HD95, mm",
            Self::Volumes => "volume error, mL",
            Self::EjectionFraction => "EF error, points",
            Self::Mass => "mass error, g",
            Self::ScarFraction => "scar error, points",
            Self::MeanValue => "T1 error, ms",
            Self::Distance => "distance, mm",
            Self::Within5Mm => "within 5 mm",
        })
    }
}

/// Which model is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// By this.
    pub metric: Metric,
    /// In this direction.
    pub direction: Direction,
}

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Higher ones.
    Higher,
    /// Lower ones.
    Lower,
}

impl Direction {
    /// Whether `value` is better than `than`.
    pub fn is_better(self, value: f64, than: f64) -> bool {
        match self {
            Self::Higher => value > than,
            Self::Lower => value < than,
        }
    }
}
