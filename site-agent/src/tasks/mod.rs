//! Clinical tasks at this site: declared, finetuned, measured on subjects that no training saw, and used.
//!
//! ```text
//! declared   the task's file            examples   frames of the cache with their right answers
//! cohort     who trains, who picks, who is measured (by subject)
//! learnt     whom a model saw
//! folder     what a finetuning leaves   training   the loop: batches, validation, checkpoints
//! batches    what a step is shown
//! asking     what a network says of examples, in the images' own pixels
//! measuring  answers to clinical numbers, with intervals by subject
//! predicting what a network says, as files          pseudonyms  who is behind them, for this site alone
//! drawing    the same over the frames
//! ```

mod asking;
mod batches;
mod cohort;
mod declared;
mod drawing;
mod examples;
mod folder;
mod learnt;
mod measuring;
mod predicting;
mod pseudonyms;
mod training;

pub(crate) use asking::likeliest;
pub use asking::{Asked, Said};
pub use batches::Batches;
pub(crate) use cohort::MEASURED;
pub use cohort::{Cohort, CohortError, FewShot};
pub use declared::{built_in, read_task};
pub use examples::{Answer, Example, Examples, LeftOut};
pub use folder::{Finetuned, FinetunedFolder, Look};
pub use learnt::{Learnt, Seen};
pub use measuring::{Agreement, Measured, Value, evaluate, held_out_examples, measure};
pub use predicting::{Predicted, predict};
pub use pseudonyms::write_pseudonyms;
pub use training::{Course, Finetuning, Heard, finetune, thinned};

use common::task::TaskError;

use crate::durable::DiskError;
use crate::metrics::Unusable;

/// Why a task cannot be done here.
#[derive(Debug, thiserror::Error)]
pub enum TasksError {
    /// Asked to end before the last step. Nothing is lost: the checkpoint is of this very step.
    #[error("stopped after step {step}, with a checkpoint: the same command goes on from there")]
    Stopped {
        /// Steps taken.
        step: u64,
    },
    /// The declaration is not sound.
    #[error(transparent)]
    Declared(#[from] TaskError),
    /// No such file, or not TOML, or a key that is not ours.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, with its line.
        why: String,
    },
    /// A file that declares no sound task.
    #[error("the task file {path} cannot be used: {why}")]
    Declaration {
        /// The file.
        path: String,
        /// What is wrong, with its line, and what to do.
        why: String,
    },
    /// A name that is none of the built-in tasks'.
    #[error("there is no task {name:?}: name one of {known}, or a file that declares one (its name ends in .toml)")]
    Unknown {
        /// The name as typed.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A word that names no sequence or no plane.
    #[error("task {task}: {key} holds {word:?}, but knows only {known}")]
    Word {
        /// The task.
        task: String,
        /// Which list.
        key: &'static str,
        /// The word.
        word: String,
        /// The words there are.
        known: &'static str,
    },
    /// The task's answers are the site's own, and no folder was named.
    #[error("task {task} learns from {what}: name the folder that holds it with --labels")]
    NoLabels {
        /// The task.
        task: String,
        /// What is missing.
        what: &'static str,
    },
    /// Labels that cannot be used.
    #[error(transparent)]
    Labels(#[from] data::LabelError),
    /// Too few subjects, or subjects in two parts.
    #[error(transparent)]
    Cohort(#[from] CohortError),
    /// The frame cache cannot be used.
    #[error(transparent)]
    Cache(#[from] data::CacheError),
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The network or the device failed.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// A file of weights cannot be used.
    #[error("{what}: {source}")]
    Weights {
        /// Which file.
        what: String,
        /// What is wrong.
        source: common::weights::WeightsError,
    },
    /// Those to be measured were seen by the training.
    #[error(
        "{folder}: {seen}, while {learnt:.2} of the subjects were held out: set `held_out` in site-agent.toml back to at most \
         that, index each patient once, or finetune anew"
    )]
    Seen {
        /// The model's folder.
        folder: String,
        /// How many.
        seen: Seen,
        /// The fraction that was held out when it was trained.
        learnt: f64,
    },
    /// A metric was given something else than answers.
    #[error("the answers cannot be measured: {0}")]
    Measuring(#[from] Unusable),
    /// A folder of another finetuning.
    #[error("{folder} holds {held}: name another folder with --out, or remove this one to start over")]
    OtherFinetuning {
        /// The folder.
        folder: String,
        /// What it holds.
        held: String,
    },
    /// A folder whose masks have other codes.
    #[error(
        "{path} gives the masks there other codes than these would have: name another folder with --out (one for each task, \
         or one for all in the site's own codes with --labels), or remove that one"
    )]
    OtherCodes {
        /// The file that says so.
        path: String,
    },
    /// A mask that cannot be written.
    #[error("a mask cannot be written: {0}")]
    Mask(#[from] data::NiftiError),
}
