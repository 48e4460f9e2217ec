//! `aggregator serve`: runs the server in the foreground.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, State, print};
use crate::authority;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::federation::Federation;
use crate::identity::Places;
use crate::serving::{ServeError, Serving, listen};
use crate::store::{SqliteStore, Store};

/// Threads that may wait for the disk at a time. No call holds one while it waits for the network, and every one costs
/// memory that it has used once.
const DISK_THREADS: usize = 8;

/// Where to listen and how to tell that it does.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Address and port to listen on, instead of the settings'; port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// The settings, instead of aggregator.toml in the state folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file that gets the address once the server listens; it appears whole.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

/// Open files that are asked for: those of the most connections, and a merge of the largest cohort.
const OPEN_FILES: u64 = 1 << 17;

pub(super) fn serve(arguments: Serve) -> Result<(), Failure> {
    // A connection and an update that is merged are an open file each, and systems permit few without being asked.
    if let Err(error) = rlimit::increase_nofile_limit(OPEN_FILES) {
        tracing::warn!(%error, "the system permits no more open files; a large cohort may need more");
    }
    let state = arguments.state.folder()?;
    let config = arguments.config.as_deref().map_or_else(|| Config::of_state(&state), Config::read)?;
    let record = SqliteStore::open(&state)?.federation()?;
    let certificates = |error| Failure::failed("the certificate authority", error);
    let signer = authority::signing_key(&state).map_err(|error| Failure::failed("the signing key", error))?;
    let federation = Federation::open(&state, config.limits(), Arc::new(SystemClock::new()))?;
    let federation = federation.signing_with(signer).requiring_signatures(config.signatures);
    let authority = authority::load(&state, &record.name).map_err(certificates)?;
    let authority = authority.with_leaves_of(config.certificate_life_s.into());
    let serving = Serving {
        state,
        federation: Arc::new(federation),
        authority: Arc::new(authority),
        names: config.names(&record),
        places: Places::new(config.max_connections),
        renewed_every: Duration::from_secs(u64::from(config.certificate_life_s)) / 2,
        renew: Arc::default(),
    };
    let runtime = Builder::new_multi_thread().max_blocking_threads(DISK_THREADS).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed("starting", error))?;
    let served = runtime.block_on(async {
        let listener = listen(arguments.listen.unwrap_or(config.listen))?;
        let address = listener.local_addr()?;
        let stop = interrupted()?;
        tell(address, arguments.ready_file.as_deref())?;
        tracing::info!(federation = %record.name, %address, "serving");
        serving.serve(listener, stop).await
    });
    served.map_err(|error: ServeError| Failure::Failed(error.to_string()))
}

/// Completes on SIGTERM and on ctrl-c.
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn tell(address: SocketAddr, ready_file: Option<&Path>) -> Result<(), ServeError> {
    print(&format!("listening on {address}\n")).map_err(std::io::Error::other)?;
    let Some(path) = ready_file else { return Ok(()) };
    let beside = path.with_added_extension("part");
    let written = fs::write(&beside, address.to_string()).and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| ServeError::ReadyFile { path: path.to_owned(), source })
}
