//! The trainer as a child process: started, watched, stopped. What it computes is not known here.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Decline, Digest, Phase, Progress, RoundNumber, RunId};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::config::Config;
use crate::durable;
use crate::job::{Job, JobError, JobFolder};
use crate::trainer::stopping::ENDS_WITHIN;

/// A trainer at work on one round.
#[derive(Debug)]
pub struct Training {
    /// The round, with the model it started from.
    pub work: (RunId, RoundNumber, Digest),
    /// Its folder.
    pub folder: JobFolder,
    steps: u64,
    pretrains: bool,
    measures: bool,
    child: Child,
    /// When it was asked to end.
    asked: Option<Instant>,
}

/// How a trainer is, seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// At work.
    Running,
    /// Ended with a result on disk.
    Finished,
    /// Ended by itself without one, and says why.
    Failed(Decline),
    /// Ended by a signal: its checkpoint is as good as before.
    Killed,
    /// Ended because it was asked to, with a checkpoint of its last step.
    Stopped,
}

/// Exit code of a trainer that met a full disk.
pub const DISK_FULL: u8 = 3;

/// Exit code of a trainer whose site has no usable labels.
pub const NO_LABELS: u8 = 4;

/// Exit code of a trainer whose batches would hold fewer subjects than the site's policy asks for.
pub const TOO_FEW_SUBJECTS: u8 = 6;

/// Exit code of a trainer that was asked to end, and did, with a checkpoint.
pub const STOPPED: u8 = 7;

/// Which program trains, and how it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainerProgram {
    /// The program: this one, with the hidden verb `train`.
    pub program: PathBuf,
    /// Threads; 0 for one a core.
    pub threads: usize,
    /// Niceness, 0 to 19.
    pub nice: u8,
}

impl TrainerProgram {
    /// This program, under the site's settings.
    pub fn of(program: PathBuf, config: &Config) -> Self {
        Self { program, threads: config.threads, nice: config.nice }
    }

    /// Starts the trainer on a job. Its standard input stays open for as long as it is wanted: a trainer that reads the end of it,
    /// because its agent closed it or died, ends with a checkpoint.
    pub fn start(
        &self,
        work: (RunId, RoundNumber, Digest),
        folder: JobFolder,
        job: &Job,
    ) -> Result<Training, JobError> {
        folder.write_job(job)?;
        let log = OpenOptions::new().create(true).append(true).open(folder.log());
        let log = log.map_err(durable::told("create", &folder.log()))?;
        let mut command = match self.nice {
            0 => Command::new(&self.program),
            nice => {
                let mut command = Command::new("nice");
                command.arg("-n").arg(nice.to_string()).arg(&self.program);
                command
            }
        };
        if self.threads > 0 {
            command.env("RAYON_NUM_THREADS", self.threads.to_string());
        }
        command.arg("train").arg("--job").arg(folder.path()).arg("--stop-with-parent");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(durable::told("start", &self.program))?;
        let (steps, pretrains) = (job.plan.training.steps_per_round as u64, job.plan.finetuning.is_none());
        Ok(Training { work, folder, steps, pretrains, measures: job.measure_only, child, asked: None })
    }
}

/// Starts a trainer on the settings' device, for a step of a tiny network; how long that took, or its last words.
pub fn try_device(program: &Path, config: &Config, within: Duration) -> Result<Duration, String> {
    let mut command = std::process::Command::new(program);
    if config.threads > 0 {
        command.env("RAYON_NUM_THREADS", config.threads.to_string());
    }
    command.arg("--device").arg(&config.device).arg("--precision").arg(config.precision.to_string()).arg("try-device");
    let began = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    // A few hundred bytes at most are written, so the pipe never fills.
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if began.elapsed() > within {
            drop(child.kill());
            drop(child.wait());
            return Err(format!("no step within {} s", within.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = child.wait_with_output().map_err(|error| error.to_string())?;
    let words = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    if ended.status.success() { Ok(began.elapsed()) } else { Err(format!("{}: {words}", ended.status)) }
}

impl Training {
    /// How it is.
    pub fn state(&mut self) -> State {
        match self.child.try_wait().map(|ended| ended.map(|status| (status.success(), status.code()))) {
            Ok(None) => State::Running,
            Ok(Some((true, _))) => State::Finished,
            Ok(Some((false, Some(code)))) if code == i32::from(DISK_FULL) => State::Failed(Decline::DiskFull),
            Ok(Some((false, Some(code)))) if code == i32::from(NO_LABELS) => State::Failed(Decline::NoLabels),
            Ok(Some((false, Some(code)))) if code == i32::from(TOO_FEW_SUBJECTS) => {
                State::Failed(Decline::PolicySubjects)
            }
            Ok(Some((false, Some(code)))) if code == i32::from(STOPPED) => State::Stopped,
            Ok(Some((false, Some(_)))) if self.asked.is_some() => State::Stopped,
            Ok(Some((false, Some(_)))) | Err(_) => State::Failed(Decline::TrainingFailed),
            Ok(Some((false, None))) => State::Killed,
        }
    }

    /// Whether it is running.
    pub fn is_at_work(&mut self) -> bool {
        self.state() == State::Running
    }

    /// Steps of this round that it has taken.
    pub fn steps_taken(&self) -> u64 {
        self.folder.last_step().ok().flatten().map_or(0, |line| line.step)
    }

    /// How far it is, for the report to the aggregator.
    pub fn progress(&self) -> Progress {
        let (run, round, _) = self.work.clone();
        let work = Some((run, round));
        // As long as it measures a run's last model, this site is with the run.
        if self.measures {
            return Progress { work, ..Progress::idle() };
        }
        let last = self.folder.last_step().ok().flatten();
        let idle = Progress { work, phase: Phase::Training, total: self.steps, ..Progress::idle() };
        match last {
            None => idle,
            Some(line) => {
                let left = self.steps.saturating_sub(line.step) as f64;
                let eta = Duration::try_from_secs_f64(left * line.seconds_per_step).ok();
                // Three digits tell a person how it goes; more would tell more about the images than that.
                let told = |value: f64| Some((value * 1000.0).round() / 1000.0);
                let (loss, teacher_entropy) = (told(line.loss), told(line.teacher_entropy).filter(|_| self.pretrains));
                Progress { done: line.step, loss, teacher_entropy, eta, ..idle }
            }
        }
    }

    /// The last lines of its log, for a person at this site.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Asks it to end with a checkpoint; returns whether this is the first time. To be asked again for as long as it is at work: one
    /// that takes longer than [`ENDS_WITHIN`] is killed.
    pub fn end(&mut self) -> bool {
        drop(self.child.stdin.take());
        match self.asked {
            None => self.asked = Some(Instant::now()),
            Some(asked) if asked.elapsed() > ENDS_WITHIN => self.kill(),
            Some(_) => return false,
        }
        true
    }

    /// Asks it to end with a checkpoint, and waits until it has.
    pub async fn ended(&mut self) {
        self.end();
        match timeout(ENDS_WITHIN, self.child.wait()).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => self.kill(),
        }
    }

    /// Stops it at once. The checkpoint of some steps before stays.
    pub fn kill(&mut self) {
        if let Err(error) = self.child.start_kill() {
            tracing::warn!(%error, "the trainer could not be stopped; it stops by itself when this agent ends");
        }
    }
}
