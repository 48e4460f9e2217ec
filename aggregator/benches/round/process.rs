//! A child process, and what the system says that it used.

use std::fs;
use std::process::{Child, Command};

use rustix::time::{ClockId, clock_gettime};

/// A process that ends with this.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Processor time of all its threads, ended ones too, in seconds; the system counts in hundredths.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.0.id().to_string())
    }

    /// Most memory that it ever had, in MiB.
    pub(crate) fn peak_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("the process is alive");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak of memory");
        peak.trim().trim_end_matches(" kB").parse::<f64>().expect("a count") / 1024.0
    }
}

/// The same of this process.
pub(crate) fn own_cpu_seconds() -> f64 {
    cpu_seconds("self")
}

/// Processor time of this thread, in seconds: on a machine with other work it tells more than a clock.
pub(crate) fn thread_cpu_seconds() -> f64 {
    // What /proc says of it may be as old as the scheduler's last tick: too coarse for a few milliseconds.
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

fn cpu_seconds(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process is alive");
    // After the name, which may hold anything: fields 14 and 15 of proc(5).
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a count"));
    ticks.sum::<u64>() as f64 / 100.0
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
