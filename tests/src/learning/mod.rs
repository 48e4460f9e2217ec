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
