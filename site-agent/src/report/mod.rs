//! A page on finished finetunings: what each beginning was worth, in clinical units, with pictures where they may be seen.
//!
//! ```text
//! runs        folders that are finetuned and measured          overlays   the best, median and worst subject, drawn
//! arms        runs by task and arm, over seeds                 curves     ROC
//! audience    what may be read where                           agreement  Bland and Altman
//! plot        scales, ticks, axes as SVG                       confusion  a shaded table
//! shares      of subjects, no finer than they may be told      page       one HTML file: no script, nothing to fetch
//! ```
//!
//! Numbers are the evaluations' own: nothing is measured anew here, and a picture of other images than were measured is refused.

mod agreement;
mod arms;
mod audience;
mod confusion;
mod curves;
mod overlays;
mod page;
pub mod plot;
mod runs;
mod shares;

pub use arms::{Arm, Figure, TaskRuns, grouped};
pub use audience::Audience;
pub use overlays::{Shown, draw};
pub use page::{Report, page};
pub use runs::{Run, read_run};

use std::path::PathBuf;

use crate::tasks::TasksError;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A folder whose training has not ended.
    #[error(
        "{folder} holds no finetuning that has ended: run `site-agent finetune --out {folder}` with its arguments to its \
         end", folder = folder.display()
    )]
    NotFinetuned {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder that was not measured.
    #[error(
        "{folder} was not measured: run `site-agent evaluate --finetuned {folder} --labels <folder>` first",
        folder = folder.display()
    )]
    NotEvaluated {
        /// The folder.
        folder: PathBuf,
    },
    /// Two folders that only their names tell apart.
    #[error(
        "{one} and {other} both hold seed {seed} of {arm} on {task}: name one of them, or give them different names with \
         `site-agent finetune --arm`", one = one.display(), other = other.display()
    )]
    SameSeed {
        /// The one.
        one: PathBuf,
        /// The other.
        other: PathBuf,
        /// Their seed.
        seed: u64,
        /// Their arm.
        arm: String,
        /// Their task.
        task: String,
    },
    /// Runs of one task that were measured on different people.
    #[error(
        "{one} and {other}, both of {task}, were measured on different subjects: run `site-agent evaluate --finetuned` on each of \
         them again, with the images and the `held_out` that are here now", one = one.display(), other = other.display()
    )]
    OtherSubjects {
        /// The one.
        one: PathBuf,
        /// The other.
        other: PathBuf,
        /// Their task.
        task: String,
    },
    /// Images or labels changed since the measurement.
    #[error(
        "{folder} was measured on other images or labels than are here now: run `site-agent evaluate --finetuned {folder} \
         --labels <folder>` again", folder = folder.display()
    )]
    Stale {
        /// The folder.
        folder: PathBuf,
    },
    /// Images, labels or the network cannot be used.
    #[error(transparent)]
    Tasks(#[from] TasksError),
    /// A picture that cannot be encoded.
    #[error("a picture cannot be drawn: {0}")]
    Picture(#[from] std::io::Error),
}
