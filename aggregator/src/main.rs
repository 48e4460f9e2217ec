//! The aggregator's program: see the library.

use std::process::ExitCode;

use aggregator::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    Cli::parse().run()
}
