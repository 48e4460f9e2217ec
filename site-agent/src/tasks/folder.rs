//! What a finetuning leaves: one folder, safe to kill at any instant.
//!
//! ```text
//! finetuning.json          written first: what is trained, from what, on how many subjects
//! learnt.json              whom it learns from at this site, to know them again
//! progress.jsonl           a line a look at the validation subjects
//! checkpoint.safetensors   the training's own, replaced at every look and at least every minute
//! model.safetensors        the best weights so far: backbone and head
//! finetuned.json           written last: its presence says that the training has ended
//! evaluation.json          what `evaluate` measured of it
//! ```

use std::path::{Path, PathBuf};

use common::plan::{ImagePlan, ModelPlan};
use common::{Digest, NamedTensors, Task};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Learnt, TasksError};
use crate::durable;

const LEARNT: &str = "learnt.json";

/// A finetuning's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinetunedFolder(PathBuf);

/// What is trained, from what, on whom: told by counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finetuned {
    /// The task.
    pub task: Task,
    /// The network.
    pub model: ModelPlan,
    /// The grid of its images.
    pub images: ImagePlan,
    /// SHA-256 of the backbone it began from.
    pub backbone: Digest,
    /// How that backbone is called in tables.
    pub arm: String,
    /// Whether the backbone was held as it was.
    pub frozen: bool,
    /// Drawn from: the head, every batch.
    pub seed: u64,
    /// Subjects trained on.
    pub training_subjects: usize,
    /// Subjects that picked the model.
    pub validation_subjects: usize,
    /// Frames, or subjects, that are trained on.
    pub examples: usize,
    /// SHA-256 of who trains and who picks, and of their right answers; none where that happened elsewhere.
    #[serde(default)]
    pub learnt_from: Option<Digest>,
}

/// How far a training is: one line of `progress.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// Steps done.
    pub step: u64,
    /// Mean loss since the line before, or since this process started, in nats.
    pub loss: f64,
    /// The task's best metric on the validation subjects; none if it could not be told.
    pub value: Option<f64>,
    /// Whether it was better than all before.
    pub better: bool,
    /// Seconds a step takes, since this process started.
    pub seconds_per_step: f64,
}

impl FinetunedFolder {
    /// The finetuning in this folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes what is to be trained, or refuses a folder that holds something else.
    pub fn begin(&self, finetuned: &Finetuned) -> Result<(), TasksError> {
        match self.read::<Finetuned>("finetuning.json")? {
            None => self.write("finetuning.json", finetuned),
            Some(held) if held == *finetuned => Ok(()),
            Some(held) => {
                let of = format!("{} from {} with seed {}", held.task.name, held.arm, held.seed);
                let same_but_for_its_subjects = Finetuned { learnt_from: finetuned.learnt_from, ..held } == *finetuned;
                let held = match same_but_for_its_subjects {
                    true => format!(
                        "this finetuning, of {of}, on other subjects or other labels than the site has now: their number is \
                         the same, and they are not"
                    ),
                    false => format!("another finetuning, of {of}"),
                };
                Err(TasksError::OtherFinetuning { folder: self.0.display().to_string(), held })
            }
        }
    }

    /// Whom it learns from, written before a step is trained.
    pub fn write_learnt(&self, learnt: &Learnt) -> Result<(), TasksError> {
        self.write(LEARNT, learnt)
    }

    /// Whom it has learnt from; none if that happened elsewhere, or before it was written down.
    pub fn learnt(&self) -> Result<Option<Learnt>, TasksError> {
        self.read(LEARNT)
    }

    /// What is trained here, once it has ended.
    pub fn finetuned(&self) -> Result<Option<Finetuned>, TasksError> {
        self.read("finetuned.json")
    }

    /// Marks the training as ended.
    pub fn end(&self, finetuned: &Finetuned) -> Result<(), TasksError> {
        self.write("finetuned.json", finetuned)
    }

    /// The looks so far; a torn last line is not believed.
    pub fn looks(&self) -> Result<Vec<Look>, TasksError> {
        let text = durable::read_if_there(&self.progress())?.unwrap_or_default();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(|error| self.content("progress.jsonl", &error))).collect()
    }

    /// Replaces the looks.
    pub fn write_looks(&self, looks: &[Look]) -> Result<(), TasksError> {
        let text = looks.iter().filter_map(|line| serde_json::to_string(line).ok()).map(|line| line + "\n");
        Ok(durable::write(&self.progress(), text.collect::<String>().as_bytes())?)
    }

    /// The best weights.
    pub fn model(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }

    /// The training's checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    /// The best weights, read.
    pub fn weights(&self) -> Result<NamedTensors, TasksError> {
        let path = self.model();
        let told = |source| TasksError::Weights { what: path.display().to_string(), source };
        NamedTensors::from_safetensors(&durable::read(&path)?).map_err(told)
    }

    /// Writes JSON into the folder.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<(), TasksError> {
        let bytes = serde_json::to_vec_pretty(value).map_err(|error| self.content(name, &error))?;
        Ok(durable::write(&self.0.join(name), &bytes)?)
    }

    /// Reads JSON of the folder, if it is there.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, TasksError> {
        let bytes = durable::read_if_there(&self.0.join(name))?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|error| self.content(name, &error))).transpose()
    }

    fn progress(&self) -> PathBuf {
        self.0.join("progress.jsonl")
    }

    fn content(&self, name: &str, error: &serde_json::Error) -> TasksError {
        TasksError::File { path: self.0.join(name).display().to_string(), why: error.to_string() }
    }
}
