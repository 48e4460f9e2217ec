//! The site's images on a plan's grid: read beside the reports, one intake at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Assignment, Decline, Digest, Plan};

use super::Agent;
use super::failure::{Failure, Then};
use crate::config::{Config, IntakeConfig};
use crate::durable::DiskError;
use crate::images::{self, ImagesError};

/// Of an intake that panicked.
const BROKE_OFF: &str = "reading the images broke off by a fault of this program: its standard error says where";

#[derive(Debug)]
pub(super) struct Indexing {
    pub(super) grid: Digest,
    /// Set, it ends soon.
    pub(super) stopped: Arc<AtomicBool>,
    pub(super) task: tokio::task::JoinHandle<Result<images::Indexed, ImagesError>>,
}

impl Indexing {
    /// Asks it to end. What it has read counts; the rest is read when it is wanted again.
    pub(super) fn stop(&self) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            tracing::info!("reading the images no further");
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

impl Agent {
    /// The images on a plan's grid, if all are read.
    pub(super) fn cache_for(&self, plan: &Plan) -> Result<Option<PathBuf>, DiskError> {
        images::cache_for(&self.home, &plan.draft.images, &self.intake_settings())
    }

    /// What is tolerated by now: who raises it because the site declines, and indexes again, need not start the agent again.
    fn intake_settings(&self) -> IntakeConfig {
        Config::read(&self.home.config()).map_or_else(|_| self.config.intake.clone(), |now| now.intake)
    }

    /// Reads the images onto the plan's grid, beside the reports.
    pub(super) async fn index(&mut self, assignment: &Assignment) -> Result<Then, Failure> {
        let plan = self.read_plan(assignment.plan)?;
        let grid = images::grid_digest(&plan.draft.images);
        match self.indexing.take() {
            // One at a time, also while one that was stopped ends.
            Some(indexing) if !indexing.task.is_finished() => self.indexing = Some(indexing),
            Some(indexing) if indexing.grid == grid && !indexing.is_stopped() => match indexing.task.await {
                Ok(Ok(indexed)) => tracing::info!(frames = indexed.frames, "the images are on the plan's grid"),
                Ok(Err(error)) => return Err(Failure::Decline(error.decline(), error.for_a_log())),
                // Its words may hold what it had read.
                Err(_) => return Err(Failure::Decline(Decline::TrainingFailed, BROKE_OFF.to_owned())),
            },
            _ => {
                tracing::info!("reading the images onto the plan's grid");
                let (home, config, program) = (self.home.clone(), self.intake_settings(), self.program.clone());
                let (images, stopped) = (plan.draft.images, Arc::<AtomicBool>::default());
                let asked = Arc::clone(&stopped);
                let task = tokio::task::spawn_blocking(move || {
                    images::index_until(&asked, &home, &images, &config, &program, &mut |_| {})
                });
                self.indexing = Some(Indexing { grid, stopped, task });
            }
        }
        Ok(Then::Later)
    }
}
