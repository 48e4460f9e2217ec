//! What a trainer says of how it goes, a line a step, for the agent beside it and for the meters of the round.

use std::fs::{File, OpenOptions};
use std::io::Write;

use common::Meters;

use crate::durable::{self, DiskError};
use crate::job::{JobFolder, StepLine};

/// The progress file, and the means of what it holds.
pub(super) struct Progress {
    file: File,
    path: std::path::PathBuf,
    lines: Vec<StepLine>,
}

impl Progress {
    /// Keeps the lines up to `step`, the checkpoint's: later ones will be trained again.
    pub(super) fn from_step(folder: &JobFolder, step: u64) -> Result<Self, DiskError> {
        let path = folder.progress();
        let text = durable::read_if_there(&path)?.unwrap_or_default();
        let parsed = text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let lines: Vec<StepLine> = parsed.filter(|line: &StepLine| line.step <= step).collect();
        let kept: String = lines.iter().map(line_text).collect();
        durable::write(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(durable::told("open", &path))?;
        Ok(Self { file, path, lines })
    }

    pub(super) fn append(&mut self, line: StepLine) -> Result<(), DiskError> {
        self.lines.push(line);
        self.file.write_all(line_text(&line).as_bytes()).map_err(durable::told("write", &self.path))
    }

    /// Waits until every line so far is on the disk: before a checkpoint is, from which nobody takes these steps again.
    pub(super) fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_all().map_err(durable::told("sync", &self.path))
    }

    pub(super) fn meters(&self) -> Meters {
        let mean = |of: fn(&StepLine) -> f64| self.lines.iter().map(of).sum::<f64>() / self.lines.len().max(1) as f64;
        Meters {
            loss: mean(|line| line.loss),
            teacher_entropy: mean(|line| line.teacher_entropy),
            batch_entropy: mean(|line| line.batch_entropy),
            rank_me: 0.0,
        }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.lines.last().map_or(0.0, |line| line.seconds_per_step * line.step as f64)
    }
}

fn line_text(line: &StepLine) -> String {
    serde_json::to_string(line).map(|text| text + "\n").unwrap_or_default()
}
