//! The learning experiment: does a recipe learn at all, and what does federating it cost or bring?
//!
//! Arms (random, pooled, each site alone, federated in several ways) train on the same phantom hospitals with the same
//! code as the programs: the trainer's job folders and the aggregator's merge, called in one process without a network.
//! Each arm of each seed is a process of its own and leaves a result on disk, so that a stopped experiment goes on.

pub mod arm;
pub mod hospitals;
pub mod measure;
pub mod results;
pub mod simulation;

use common::PlanDraft;
use serde::{Deserialize, Serialize};

/// What an experiment's folder is of, whatever arms and seeds it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How the arms train.
    pub plan: PlanDraft,
    /// Fraction of each training site's subjects that no training sees.
    pub held_out: f64,
    /// How often a course is measured.
    pub points: u32,
}
