//! Files of weights as they are named on the command line: whose network, and how it fits a plan.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use common::NamedTensors;
use common::plan::ModelPlan;
use model::import::{self, Network};

use crate::durable;

/// A file of weights that is not a run's next step.
#[derive(Debug, Args)]
pub(super) struct OfPlan {
    /// The run's plan (TOML).
    #[arg(long)]
    pub(super) plan: PathBuf,
    /// Whose backbone, if the file holds both.
    #[arg(long, value_enum, default_value_t)]
    pub(super) network: Which,
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

pub(super) fn read_weights(path: &Path) -> anyhow::Result<NamedTensors> {
    NamedTensors::from_safetensors(&durable::read(path)?).with_context(|| {
        let remedy = "other formats become safetensors with site-agent/model/scripts/interchange.py convert";
        format!("in the model {} ({remedy})", path.display())
    })
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
        tracing::info!("to fit the plan, {change}");
    }
    Ok(imported.backbone)
}
