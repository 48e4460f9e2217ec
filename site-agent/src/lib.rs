//! The site agent: the only program that sees images.
//!
//! It reads DICOM, trains on its own device, passes each delta through the site's privacy pipeline, and speaks to the
//! aggregator over one outbound connection. [`decide`] says what to do next and touches nothing; the modules named for
//! disk, network and processes do it.

#![warn(clippy::print_stderr, reason = "it panics where nothing can be written: `cli::say` does not")]

pub mod agent;
pub mod approvals;
pub mod architecture;
pub mod begun;
pub mod card;
pub mod changes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decide;
pub mod doctor;
pub mod durable;
pub mod enrol;
pub mod evaluate;
pub mod hands;
pub mod home;
pub mod images;
pub mod job;
pub mod journal;
pub mod ledger;
mod lettering;
pub mod lineage;
pub mod link;
pub mod log;
pub mod metrics;
pub mod network;
pub mod pace;
pub mod pictures;
pub mod plan_words;
pub mod report;
pub mod runs;
pub mod standing;
pub mod switch;
pub mod tasks;
pub mod trainer;
pub mod training;
