//! ViT and DINO in the published architecture, the training engine, and what is measured of features.
//!
//! burn lives here alone, and behind [`DeviceChoice`] its backends do too: nothing public is generic over one. Weights
//! and AdamW's moments are named f32 tensors, whatever [`Precision`] a step multiplies in; between the steps of a training they
//! stay where it computes, in a GPU's memory or the host's. This crate knows no DICOM and no network, and no file but the
//! kernels that were compiled for a GPU.

mod batch;
pub mod checkpoint;
#[cfg(feature = "cuda")]
mod compiled;
mod compute;
pub mod device;
mod dino;
mod drop_path;
pub mod export;
pub mod features;
mod finetune;
mod fused;
mod heads;
mod hugging_face;
pub mod import;
mod init;
pub mod knn;
pub mod losses;
pub mod meters;
mod names;
mod optimizer;
mod parameters;
#[cfg(test)]
mod parity;
mod position;
mod precision;
pub mod schedule;
pub mod trainer;
mod training;
mod vit;
pub mod weights_file;

pub use batch::CropBatch;
pub use device::DeviceChoice;
pub use features::Backbone;
pub use finetune::{Answers, Finetuner, TaskImages, outputs};
pub use init::{backbone_signature, initial_weights, signature, travelling};
pub use names::BACKBONE;
pub use precision::Precision;
pub use trainer::{StepReport, Trainer};

/// Why a model cannot be built, trained or read.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A device that this program or machine does not have.
    #[error("{0}")]
    Device(String),
    /// A precision that there is not.
    #[error("precision {0:?} is not known: use f32 or bf16")]
    Precision(String),
    /// Tensors that are not those of the plan's network.
    #[error("these are not the weights of the plan's network: {0}")]
    Weights(#[from] common::weights::WeightsError),
    /// A file of another program whose backbone is not the plan's.
    #[error(transparent)]
    Import(#[from] import::ImportError),
    /// A checkpoint that was cut short or belongs to another plan.
    #[error("the checkpoint cannot be used: {0}; remove it to train the round from its start")]
    Checkpoint(String),
    /// Training left the finite numbers.
    #[error("the loss at step {step} is {loss}: training diverged; lower the learning rate of the plan")]
    Diverged {
        /// The step of the global clock.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// Patches that a decoder cannot double to pixels.
    #[error("tasks that answer for every pixel need patches of 2, 4, 8, 16 ... pixels, but this network's have {0}")]
    Patch(usize),
    /// A batch that cannot be computed in parts.
    #[error(
        "micro_batch is {images}, but this plan balances or spreads its whole batch (centering = \"sinkhorn-knopp\", or koleo): \
         it must be at least {batch}, the plan's batch_size, or 0"
    )]
    MicroBatch {
        /// Images at a time.
        images: usize,
        /// Images in a batch.
        batch: usize,
    },
    /// Crops of another size than the plan says.
    #[error("{what} holds {found} values, but the plan's crops have {expected}")]
    Crops {
        /// Which crops.
        what: &'static str,
        /// Values expected.
        expected: usize,
        /// Values found.
        found: usize,
    },
}
