//! The loops that make time pass for a federation: deadlines, the operator's new runs, merges.
//!
//! Thin: what time it is and what follows from it is the federation's business.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::federation::Federation;

/// Time between two looks at the deadlines.
const TICK: Duration = Duration::from_millis(100);
/// Time between two looks for what the operator's commands wrote.
const REFRESH: Duration = Duration::from_millis(200);
/// Pause before a merge that failed is tried again.
const MERGE_AGAIN: Duration = Duration::from_secs(5);

/// Drives a federation until it is dropped. Returns only when a loop panicked: the server must not go on without it.
pub async fn drive(federation: Arc<Federation>) -> JoinError {
    let every = |period, work: fn(&Federation)| repeat(Arc::clone(&federation), period, work);
    tokio::select! {
        panicked = every(TICK, Federation::tick) => panicked,
        panicked = every(REFRESH, refresh) => panicked,
        panicked = every(REFRESH, Federation::close_removed) => panicked,
        panicked = every(Federation::noted_every(), Federation::note_time) => panicked,
        panicked = merge(Arc::clone(&federation)) => panicked,
    }
}

fn refresh(federation: &Federation) {
    if let Err(error) = federation.refresh() {
        tracing::error!(%error, "the store cannot be read");
    }
}

async fn repeat(federation: Arc<Federation>, period: Duration, work: fn(&Federation)) -> JoinError {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let federation = Arc::clone(&federation);
        if let Err(panicked) = spawn_blocking(move || work(&federation)).await {
            return panicked;
        }
    }
}

async fn merge(federation: Arc<Federation>) -> JoinError {
    loop {
        federation.something_to_merge().await;
        loop {
            let merging = Arc::clone(&federation);
            match spawn_blocking(move || merging.merge_frozen()).await {
                Ok(true) => break,
                // What failed waits; a round that is frozen meanwhile does not wait with it.
                Ok(false) => tokio::select! {
                    () = sleep(MERGE_AGAIN) => {}
                    () = federation.round_frozen() => {}
                },
                Err(panicked) => return panicked,
            }
        }
    }
}
