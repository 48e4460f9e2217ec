//! The intake worker alone, for this crate's tests; a site runs it as a hidden verb of its agent.

fn main() -> std::process::ExitCode {
    data::worker_main()
}
