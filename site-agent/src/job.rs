//! The file contract between the agent and its trainer: one folder a round.
//!
//! The trainer is a child process that knows this folder and nothing else: no network, no key. It can be killed,
//! niced, or handed to a batch system, and started again on the same folder, where it goes on from its checkpoint.
//!
//! ```text
//! job.json                 written by the agent: what to train, from what
//! scores.json              of a run that finetunes: what the round's model is worth on subjects that train nothing
//! progress.jsonl           appended by the trainer, a line a step
//! trainer.log              what the trainer says, at each of its starts
//! checkpoint.safetensors   the trainer's own, replaced every few steps
//! delta.safetensors        the result: trained weights minus the round's start
//! kept.safetensors         what stays for the site's next round: AdamW's moments, and weights that do not travel
//! local.safetensors        tensors that the plan keeps at the site, as they were trained
//! result.json              written last: its presence says that the others are whole
//! sealed.safetensors       written by the agent: what passed the privacy pipeline
//! residual.safetensors     written by the agent: what the plan's encoding left out, owed to the next round
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Digest, Meters, PlanDraft, RoundNumber, Score, SiteId, TaskName};
use model::Precision;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};

/// What to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The plan.
    pub plan: PlanDraft,
    /// The round.
    pub round: RoundNumber,
    /// This site, for its seeds.
    pub site: SiteId,
    /// Steps of the global clock before this round.
    pub first_step: u64,
    /// The model to start from.
    pub base: PathBuf,
    /// Its digest.
    pub base_digest: Digest,
    /// What stayed at the site after its last round, unless it missed one.
    pub kept: Option<PathBuf>,
    /// The tensors that the plan keeps at the site, as its last round left them; none before its first.
    #[serde(default)]
    pub local: Option<PathBuf>,
    /// The frame cache.
    pub cache: PathBuf,
    /// Fraction of subjects kept out of training, for evaluation.
    pub held_out: f64,
    /// `cpu`, `cuda` or `cuda:<n>`.
    pub device: String,
    /// In what a step multiplies.
    #[serde(default)]
    pub precision: Precision,
    /// Images at a time; 0 for a whole batch.
    pub micro_batch: usize,
    /// The site's labels, for a run that finetunes.
    pub labels: Option<JobLabels>,
    /// Fewest subjects that may shape a head.
    pub min_subjects: u32,
    /// Whether the model that it starts from is measured, in a run that finetunes.
    pub measures: bool,
    /// The model is measured alone: the run is over, and nothing is trained.
    pub measure_only: bool,
}

/// Where a site's labels are, and the secret that its pseudonyms are made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobLabels {
    /// The folder of labels.toml and its tables.
    pub folder: PathBuf,
    /// The secret's file.
    pub secret: PathBuf,
}

/// How far the trainer is: one line of `progress.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepLine {
    /// Steps done in this round.
    pub step: u64,
    /// Loss of the step, in nats.
    pub loss: f64,
    /// Entropy of the teacher's output, in nats; 0 in a run that finetunes.
    pub teacher_entropy: f64,
    /// Entropy of its batch mean, in nats.
    pub batch_entropy: f64,
    /// Seconds a step takes, averaged since the trainer started.
    pub seconds_per_step: f64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobResult {
    /// Steps taken.
    pub steps: u32,
    /// Subjects trained on.
    pub subjects: u32,
    /// The heads that were trained, each with the subjects of its task; none in a run that pretrains.
    pub heads: BTreeMap<TaskName, u32>,
    /// Images (before cropping) seen.
    pub images: u64,
    /// Images that they were drawn from.
    #[serde(default)]
    pub examples: u32,
    /// Seconds of the last run of the trainer.
    pub seconds: f64,
    /// Means over the round.
    pub meters: Meters,
}

/// A job's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFolder(PathBuf);

/// Why a job's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Not what the contract says.
    #[error("{path} is not what the job contract says: {source}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl JobFolder {
    /// The job in this folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the trainer appends its progress.
    pub fn progress(&self) -> PathBuf {
        self.0.join("progress.jsonl")
    }

    /// Where the trainer's errors go.
    pub fn log(&self) -> PathBuf {
        self.0.join("trainer.log")
    }

    /// The trainer's checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    /// The trained delta.
    pub fn delta(&self) -> PathBuf {
        self.0.join("delta.safetensors")
    }

    /// What stays at the site after the round.
    pub fn kept(&self) -> PathBuf {
        self.0.join("kept.safetensors")
    }

    /// What passed the privacy pipeline.
    pub fn sealed(&self) -> PathBuf {
        self.0.join("sealed.safetensors")
    }

    /// What the plan's encoding left out of the update.
    pub fn residual(&self) -> PathBuf {
        self.0.join("residual.safetensors")
    }

    /// Tensors that the plan keeps at the site.
    pub fn local(&self) -> PathBuf {
        self.0.join("local.safetensors")
    }

    /// Writes the job.
    pub fn write_job(&self, job: &Job) -> Result<(), JobError> {
        self.write_json("job.json", job)
    }

    /// Reads the job.
    pub fn job(&self) -> Result<Job, JobError> {
        let path = self.0.join("job.json");
        serde_json::from_slice(&durable::read(&path)?).map_err(|source| content(&path, source))
    }

    /// Writes the result: the last thing a trainer does.
    pub fn write_result(&self, result: &JobResult) -> Result<(), JobError> {
        self.write_json("result.json", result)
    }

    /// The result, once the trainer has finished.
    pub fn result(&self) -> Result<Option<JobResult>, JobError> {
        self.read_json("result.json")
    }

    /// Writes what the round's model is worth here.
    pub fn write_scores(&self, scores: &[Score]) -> Result<(), JobError> {
        self.write_json("scores.json", &scores)
    }

    /// What the round's model is worth here, once that is measured.
    pub fn scores(&self) -> Result<Option<Vec<Score>>, JobError> {
        self.read_json("scores.json")
    }

    /// The last whole line of the progress.
    pub fn last_step(&self) -> Result<Option<StepLine>, JobError> {
        let text = durable::read_if_there(&self.progress())?.unwrap_or_default();
        let whole = text.rsplit(|&byte| byte == b'\n').skip(1);
        let lines = whole.filter(|line| !line.is_empty());
        Ok(lines.map(serde_json::from_slice).find_map(Result::ok))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), JobError> {
        let path = self.0.join(name);
        let bytes = serde_json::to_vec_pretty(value).map_err(|source| content(&path, source))?;
        Ok(durable::write(&path, &bytes)?)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JobError> {
        let path = self.0.join(name);
        match durable::read_if_there(&path)? {
            Some(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|source| content(&path, source))?)),
            None => Ok(None),
        }
    }
}

fn content(path: &Path, source: serde_json::Error) -> JobError {
    JobError::Content { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_progress_line_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let job = JobFolder::at(folder.path());
        assert_eq!(job.last_step().unwrap(), None);
        let line = StepLine { step: 3, loss: 5.0, teacher_entropy: 1.0, batch_entropy: 2.0, seconds_per_step: 0.5 };
        let torn = format!("{}\n{{\"step\":4,\"lo", serde_json::to_string(&line).unwrap());
        std::fs::write(job.progress(), torn).unwrap();
        assert_eq!(job.last_step().unwrap(), Some(line));
        assert_eq!(job.result().unwrap(), None);
    }
}
