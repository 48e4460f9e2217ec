//! Files of weights as they are named on the command line: whose network, and how it fits a plan.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use common::plan::{Exchange, ModelPlan};
use common::{NamedTensors, PlanDraft};
use model::import::{self, Network};
use model::weights_file::{self, FileError};

use crate::durable;

/// A file of weights that is not a run's next step.
#[derive(Debug, Args)]
pub(super) struct OfPlan {
    /// The run's plan (TOML).
    #[arg(long)]
    pub(super) plan: PathBuf,
    /// Whose backbone, if the file holds both; the teacher's without, or the student's if the plan exchanges nothing else.
    #[arg(long, value_enum)]
    pub(super) network: Option<Which>,
}

impl OfPlan {
    pub(super) fn network(&self, plan: &PlanDraft) -> Which {
        self.network.unwrap_or(match plan.aggregation.exchange {
            Exchange::All => Which::Teacher,
            Exchange::Student => Which::Student,
        })
    }
}

/// One of the two networks that a model of a run holds.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Which {
    Student,
    #[default]
    Teacher,
}

impl Which {
    pub(super) fn word(self) -> &'static str {
        match self {
            Which::Student => "student",
            Which::Teacher => "teacher",
        }
    }
}

impl From<Which> for Network {
    fn from(which: Which) -> Self {
        match which {
            Which::Student => Network::Student,
            Which::Teacher => Network::Teacher,
        }
    }
}

/// The tensors of a file of any format that is read; its size is seen before its bytes.
pub(super) fn read_weights(path: &Path) -> anyhow::Result<NamedTensors> {
    let of_file = || format!("in the model {}", path.display());
    let bytes = std::fs::metadata(path).map_err(durable::told("read", path))?.len();
    if bytes > weights_file::MAX_BYTES {
        return Err(FileError::TooLarge { bytes }).with_context(of_file);
    }
    weights_file::read(&durable::read(path)?).with_context(of_file)
}

/// The backbone among a file's weights, as the network of `plan` has it. Says what was changed.
pub(super) fn fitted_backbone(
    path: &Path,
    weights: &NamedTensors,
    plan: &ModelPlan,
    network: Which,
) -> anyhow::Result<NamedTensors> {
    let imported = import::imported(weights, plan, network.into());
    let imported = imported.with_context(|| format!("in the model {}", path.display()))?;
    for change in imported.changes {
        tracing::info!(%change, "the backbone is fitted to the plan");
    }
    Ok(imported.backbone)
}
