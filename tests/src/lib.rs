//! The Federation harness, the CMR phantom, the demo, and stories between programs.

pub mod canary;
pub mod corporate;
pub mod demo;
pub mod experiment;
pub mod federation;
pub mod finetuning;
pub mod inspector;
pub mod learning;
pub mod liar;
pub mod matrix;
pub mod phantom;
pub mod programs;
pub mod proxy;
pub mod public_sets;
pub mod story;
pub mod tap;
