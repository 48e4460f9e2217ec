//! What was measured, as a table for people and as JSON.

use std::fs;

use serde_json::{Value, json};

use crate::limits::Limits;
use crate::merging::{Kernel, Merged};
use crate::rounds::{Measured, Round};

/// Everything that was measured. What is added is told at once, on the standard error.
pub(crate) struct Report {
    machine: Value,
    limits: Limits,
    merges: Vec<Value>,
    rounds: Vec<Value>,
}

const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;

/// The middle of some figures.
pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len().is_multiple_of(2) { (figures[middle - 1] + figures[middle]) / 2.0 } else { figures[middle] }
}

impl Report {
    pub(crate) fn of_this_machine(limits: Limits) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let cpu = cpu.trim_start_matches(['\t', ' ', ':']);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let Limits { read, copy, sha256, synced } = &limits;
        eprintln!("{cpu}, {cores} cores, {profile} profile; GiB per CPU second of one thread, and of two together:");
        eprintln!(
            "  memory read {:.1} {:.1}, copy {:.1} {:.1}; SHA-256 {:.2} {:.2}; disk, synced every 8 MiB, {synced:.2}",
            read[0], read[1], copy[0], copy[1], sha256[0], sha256[1]
        );
        let machine = json!({ "cpu": cpu, "cores": cores, "profile": profile });
        Self { machine, limits, merges: Vec::new(), rounds: Vec::new() }
    }

    pub(crate) fn add_merge(&mut self, merged: Merged) {
        let Merged { case, bytes, wall_s, cpu_s, kernel, from_files } = merged;
        let rate = bytes as f64 / GIB / cpu_s;
        let of_sha256 = rate / self.limits.sha256[0];
        let told = |[one, two]: [Kernel; 2]| {
            format!(
                "{:.1} {:.1} GiB/s = {:.2} {:.2} of the read bandwidth",
                one.gib_s, two.gib_s, one.of_read, two.of_read
            )
        };
        let figures = |kernel: [Kernel; 2]| (kernel.map(|it| it.gib_s), kernel.map(|it| it.of_read));
        eprintln!(
            "merge of {} sites: {wall_s:.2} s, CPU {cpu_s:.2} s, {rate:.2} GiB per CPU second = {of_sha256:.2} of SHA-256; kernel \
             {}, from files {}",
            case.sites,
            told(kernel),
            told(from_files)
        );
        let ((kernel, of_read), (from_files, files_of_read)) = (figures(kernel), figures(from_files));
        self.merges.push(json!({
            "sites": case.sites, "parameters": case.size, "wall_s": wall_s, "cpu_s": cpu_s, "gib_per_cpu_s": rate,
            "of_sha256": of_sha256, "kernel_gib_s": kernel, "kernel_of_read": of_read,
            "kernel_from_files_gib_s": from_files, "kernel_from_files_of_read": files_of_read, "exact": true,
        }));
    }

    pub(crate) fn add_rounds(&mut self, all: Vec<Measured>) {
        for Measured { case, tensors, model_bytes, rounds, peak_mib } in all {
            let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
            let (wall, cpu) = (of(|round| round.wall_s), of(|round| round.server_cpu_s));
            let (tls_wall, tls_cpu) = (of(|round| round.tls_wall_s), of(|round| round.tls_server_cpu_s));
            let wall_ratio = of(|round| round.wall_s / round.tls_wall_s);
            let cpu_ratio = of(|round| round.server_cpu_s / round.tls_server_cpu_s);
            let wire = of(|round| round.wire_bytes as f64);
            let overhead = wire / (2 * case.sites as u64 * model_bytes) as f64 - 1.0;
            let exchanged = of(|round| round.exchanged_s);
            eprintln!(
                "{} sites, {tensors} tensors of {:.1} MiB: round {wall:.2} s (exchange {exchanged:.2}), TLS {tls_wall:.2} s, x \
                 {wall_ratio:.2}; server CPU {cpu:.2} s, TLS {tls_cpu:.2} s, x {cpu_ratio:.2}; peak {peak_mib:.0} MiB; wire \
                 {:.0} MiB, +{:.2} %",
                case.sites,
                model_bytes as f64 / MIB,
                wire / MIB,
                100.0 * overhead,
            );
            self.rounds.push(json!({
                "sites": case.sites, "parameters": case.size, "tensors": tensors, "model_bytes": model_bytes,
                "runs": rounds, "wall_s": wall, "exchanged_s": exchanged, "server_cpu_s": cpu, "tls_wall_s": tls_wall,
                "tls_server_cpu_s": tls_cpu, "wall_of_tls": wall_ratio, "cpu_of_tls": cpu_ratio, "peak_mib": peak_mib,
                "wire_bytes": wire, "wire_overhead": overhead, "exact": true,
            }));
        }
    }

    pub(crate) fn json(&self) -> String {
        let Self { machine, limits, merges, rounds } = self;
        let all = json!({ "machine": machine, "limits_gib_s": limits, "merges": merges, "rounds": rounds });
        serde_json::to_string_pretty(&all).expect("figures")
    }
}
