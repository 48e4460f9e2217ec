//! A finetuning's folder, read for a page.

use std::path::{Path, PathBuf};

use super::ReportError;
use crate::tasks::{Finetuned, FinetunedFolder, Measured};

/// A finetuning that has ended, and what was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Where it lies.
    pub folder: PathBuf,
    /// What was trained.
    pub told: Finetuned,
    /// What came of it.
    pub measured: Measured,
}

/// Reads a folder, or says which command it waits for.
pub fn read_run(folder: &Path) -> Result<Run, ReportError> {
    let (held, folder) = (FinetunedFolder::at(folder), folder.to_owned());
    let Some(told) = held.finetuned()? else { return Err(ReportError::NotFinetuned { folder }) };
    let Some(measured) = held.read("evaluation.json")? else { return Err(ReportError::NotEvaluated { folder }) };
    Ok(Run { folder, told, measured })
}

/// Runs that no training made.
#[cfg(test)]
pub(super) mod made {
    use common::task::Metric;
    use common::{Digest, PlanDraft};

    use super::*;
    use crate::tasks::{Agreement, Value, built_in};

    /// A run of the short-axis segmentation with this Dice.
    pub(in super::super) fn of(arm: &str, training_subjects: usize, seed: u64, dice: f64) -> Run {
        let plan: PlanDraft = toml::from_str(include_str!("../../../tests/plans/story.toml")).unwrap();
        // Random ones are drawn from the seed, the others were trained once.
        let backbone = match arm {
            "random" => model::initial_weights(&plan.model, seed).under("teacher.backbone.").digest(),
            trained => Digest::of(trained.as_bytes()),
        };
        let told = Finetuned {
            task: built_in().into_iter().find(|task| task.name.as_str() == "cine-sax-segmentation").unwrap(),
            model: plan.model,
            images: plan.images,
            backbone,
            arm: arm.to_owned(),
            frozen: false,
            seed,
            training_subjects,
            validation_subjects: 3,
            examples: 40,
            learnt_from: None,
        };
        let value = |metric, of: Option<&str>, value: f64, reach: f64| Value {
            metric,
            of: of.map(str::to_owned),
            value,
            interval: Some([value - reach, value + reach]),
            subjects: 6,
            missed: 0,
        };
        let agreement = Agreement {
            quantity: "LV EDV, mL".to_owned(),
            pairs: (0..6).map(|i| [100.0 + 13.0 * f64::from(i), 103.5 + 13.0 * f64::from(i)]).collect(),
            bias: 3.5,
            limits: Some([-11.25, 18.25]),
            mean_absolute_error: 6.5,
        };
        let values = vec![
            value(Metric::Dice, None, dice, 0.05),
            value(Metric::Dice, Some("LV"), 0.9312, 0.01),
            value(Metric::Volumes, Some("LV EDV, mL"), 6.5, 2.0),
        ];
        let measured = Measured { subjects: 6, frames: 60, values, agreements: vec![agreement], ..Measured::default() };
        Run { folder: PathBuf::from(format!("runs/{arm}-{training_subjects}-{seed}-{dice}")), told, measured }
    }

    /// The same, trained otherwise.
    pub(in super::super) fn with(mut run: Run, change: impl Fn(&mut Finetuned)) -> Run {
        change(&mut run.told);
        run
    }

    /// A disease told of `counts`, and a curve of five points.
    pub(in super::super) fn disease(counts: [[u64; 2]; 2]) -> Run {
        let mut run = with(of("pretrained", 20, 1, 0.5), |told| {
            let known = built_in();
            told.task = known.into_iter().find(|task| task.name.as_str() == "lge-hyperenhancement").unwrap();
        });
        let curve = vec![[0.0, 0.0], [0.0, 0.5], [0.25, 0.5], [0.25, 1.0], [1.0, 1.0]];
        let value = |metric| Value { metric, of: None, value: 0.875, interval: None, subjects: 12, missed: 0 };
        run.measured = Measured {
            subjects: 12,
            frames: 60,
            values: [Metric::Auc, Metric::Accuracy, Metric::Sensitivity].map(value).to_vec(),
            confusion: counts.map(|row| row.to_vec()).to_vec(),
            curves: [(run.told.task.classes[1].clone(), curve)].into(),
            ..Measured::default()
        };
        run
    }

    #[test]
    fn a_folder_that_is_not_measured_is_refused_with_its_name_and_the_command_that_it_waits_for() {
        let folder = tempfile::tempdir().unwrap();
        let told = read_run(folder.path()).unwrap_err().to_string();
        let name = folder.path().display().to_string();
        assert!(told.contains(&format!("site-agent finetune --out {name}")), "{told}");
        let run = of("random", 5, 1, 0.5);
        FinetunedFolder::at(folder.path()).end(&run.told).unwrap();
        let told = read_run(folder.path()).unwrap_err().to_string();
        assert!(told.starts_with(&name) && told.contains(&format!("site-agent evaluate --finetuned {name}")), "{told}");
        FinetunedFolder::at(folder.path()).write("evaluation.json", &run.measured).unwrap();
        assert_eq!(read_run(folder.path()).unwrap(), Run { folder: folder.path().to_owned(), ..run });
    }
}
