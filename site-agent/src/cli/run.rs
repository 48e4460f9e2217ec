//! `site-agent run`: the agent at work, until it is stopped, or its run is over.

use anyhow::{Context, bail};
use certs::lock::Lock;
use clap::Args;

use super::runtime;
use crate::agent::{Agent, Until};
use crate::config::Config;
use crate::enrol::Member;
use crate::home::Home;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Stop when a run has finished and its last model is here, or none is for this site, which approved no plan of it; or, with exit code 8,
    /// when it has failed or was aborted.
    #[arg(long)]
    until_finished: bool,
}

pub(super) fn run(home: Home, config: Config, args: &RunArgs) -> anyhow::Result<()> {
    let member = Member::of(&home, &config.network)?;
    // Held until this returns.
    let Some(_lock) = Lock::take(&home.lock())? else {
        bail!("another agent works in {}: stop it first, or give this one its own --state", home.root().display());
    };
    let program = std::env::current_exe().context("finding this program")?;
    let until = if args.until_finished { Until::RunFinished } else { Until::Stopped };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let mut agent = Agent::new(member, home, config, program)?;
        let ended = tokio::select! {
            ended = agent.run(until) => ended,
            () = stopped() => {
                tracing::info!("stopping; a trainer at work ends with a checkpoint, and the next start goes on from it");
                Ok(())
            }
        };
        agent.end().await;
        Ok(ended?)
    });
    // Without waiting for an intake that may be reading images: what it has written counts, the rest is read again.
    runtime.shutdown_background();
    ended
}

/// Resolves at SIGTERM or Ctrl-C.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
