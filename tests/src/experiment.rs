//! What a folder is of: whoever goes on in it with other settings is refused, and does not find old figures or images under new ones.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use site_agent::durable;

/// Whether a folder is held to settings.
pub fn is_held(folder: &Path) -> bool {
    settings_file(folder).exists()
}

fn settings_file(folder: &Path) -> PathBuf {
    folder.join("experiment.json")
}

/// Holds a folder to settings: to those that it was begun with, or from now on to these.
pub fn hold<T: Serialize + DeserializeOwned + PartialEq>(folder: &Path, settings: &T) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let held = settings_file(folder);
    match durable::read_if_there(&held)? {
        Some(bytes) => anyhow::ensure!(
            serde_json::from_slice::<T>(&bytes).ok().as_ref() == Some(settings),
            "{} was begun with other settings ({}): name another folder with --out, or remove this one to start over",
            folder.display(),
            String::from_utf8_lossy(&bytes)
        ),
        None => durable::write(&held, &serde_json::to_vec(settings)?)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use common::{Digest, PlanDraft};

    use super::*;
    use crate::finetuning::{Effort, Experiment};
    use crate::learning::Settings;

    /// A folder that is begun with the first settings is held to them, and says what to do.
    fn require_held<T: Serialize + DeserializeOwned + PartialEq>(first: &T, others: &[T]) {
        let folder = tempfile::tempdir().unwrap();
        hold(folder.path(), first).unwrap();
        for other in others {
            let why = hold(folder.path(), other).unwrap_err().to_string();
            assert!(why.contains("other settings") && why.contains("--out"), "{why}");
        }
        hold(folder.path(), first).unwrap();
    }

    #[test]
    fn courses_of_one_plan_and_held_out_fraction_are_not_gone_on_with_as_those_of_another() {
        let plan: PlanDraft = toml::from_str(include_str!("../plans/learning.toml")).unwrap();
        let settings = Settings { plan: plan.clone(), held_out: 0.45, points: 6 };
        let mut longer = plan;
        longer.rounds.count += 1;
        let others = [
            Settings { plan: longer, ..settings.clone() },
            Settings { held_out: 0.8, ..settings.clone() },
            Settings { points: 7, ..settings.clone() },
        ];
        require_held(&settings, &others);
    }

    #[test]
    fn trainings_from_one_backbone_are_not_gone_on_with_as_those_from_another() {
        let of = |pretrained| Experiment {
            patients: 50,
            patients_seed: 77,
            effort: Effort::Quick,
            dense_steps: None,
            frozen: false,
            pretrained,
        };
        let [one, other] = ["one", "other"].map(|bytes| of(Some(Digest::of(bytes.as_bytes()))));
        require_held(&of(None), &[one, other]);
        require_held(&one, &[other, of(None)]);
    }
}
