//! The site agent; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    site_agent::cli::main()
}
