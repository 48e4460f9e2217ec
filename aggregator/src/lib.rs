//! Rounds, merging, durable store, server and operator's command line.
//!
//! What decides is plain values ([`round`], [`run`], [`aggregation`]); what touches the world is thin and named for it
//! ([`store`], [`clock`], [`server`]). The aggregator knows a model as names, shapes and numbers.

#![warn(clippy::print_stderr, reason = "it panics where nothing can be written: `cli::say` does not")]

pub mod aggregation;
pub mod alarms;
pub mod allowance;
pub mod audit;
pub mod authority;
pub mod checksum;
pub mod cli;
pub mod clock;
pub mod config;
pub mod desk;
pub mod doctor;
pub mod door;
pub mod download;
pub mod driver;
pub mod federation;
pub mod forecast;
pub mod gate;
pub mod identity;
pub mod inspection;
pub mod layout;
pub mod ledger;
pub mod permissions;
pub mod permitting;
pub mod round;
pub mod round_time;
pub mod run;
pub mod seats;
pub mod server;
pub mod serving;
pub mod signatures;
pub mod status;
pub mod store;
