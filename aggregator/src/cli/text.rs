//! The federation's status as text for people.

use std::fmt::Write;

use common::score::{self, MeasuredOn};
use common::words::plain;
use common::{Digest, Meters, SiteId};

use crate::run::ABORTED;
use crate::status::{
    ModelScores, OpenRound, OpenState, RoundStatus, RunPhase, RunStatus, SignedBy, SiteProgress, Status, TaskStatus,
};

/// The whole status.
pub(super) fn status(status: &Status) -> String {
    let mut text = format!("federation {}, reached at {}\n", status.federation, status.address);
    if status.sites.is_empty() {
        text += "no site is enrolled: invite one with `aggregator invite <site>`\n";
    }
    for site in &status.sites {
        let heard = site.last_word_ms.map_or("never connected".to_owned(), |ms| format!("last word {} ago", time(ms)));
        let revoked = if site.revoked { ", REVOKED" } else { "" };
        line(&mut text, format_args!("  {}: {heard}{revoked}", site.site));
    }
    for person in &status.persons {
        let revoked = if person.revoked { ", REVOKED" } else { "" };
        line(&mut text, format_args!("  {}{revoked}", person.person.told()));
    }
    if status.runs.is_empty() {
        text += "no run: start one with `aggregator run start <plan.toml> --first-model <file>`\n";
    }
    status.runs.iter().for_each(|run| run_status(&mut text, run));
    status.damaged_runs.iter().for_each(|trouble| line(&mut text, format_args!("\na run cannot be read: {trouble}")));
    text
}

/// One line a run.
pub(super) fn runs(status: &Status) -> String {
    let mut text = String::new();
    for run in &status.runs {
        let because = match (run.state, &run.because) {
            (RunPhase::Failed, Some(because)) => {
                format!(": {}", plain(because.strip_prefix(ABORTED).unwrap_or(because)))
            }
            _ => String::new(),
        };
        line(&mut text, format_args!("{}  {}{because}  plan {}{}", run.run, standing(run), run.plan, signed_by(run)));
    }
    if text.is_empty() && status.damaged_runs.is_empty() { "no run\n".to_owned() } else { text }
}

/// The rounds that ended after the first `told`, as in the status.
pub(super) fn rounds(run: &RunStatus, told: usize) -> String {
    let mut text = String::new();
    run.rounds.iter().skip(told).for_each(|round| ended_round(&mut text, round, run.tasks.is_empty()));
    text
}

/// How a run stands, as a line.
pub(super) fn standing_line(run: &RunStatus) -> String {
    format!("run {}: {}\n", run.run, standing(run))
}

/// How a run that is not over stands, its open round and about when it ends.
pub(super) fn under_way(run: &RunStatus) -> String {
    let mut text = standing(run);
    if let Some(because) = &run.because {
        text += &format!("; {}", plain(because));
    }
    if let Some(open) = run.open.as_ref().filter(|_| !run.paused) {
        text += &format!("; {}", open_round_line(run, open));
    }
    if let Some((_, left)) = run.expected_end() {
        text += &format!("; about {} to the run's end", time(left));
    }
    text
}

fn run_status(text: &mut String, run: &RunStatus) {
    line(text, format_args!("\nrun {}: {}", run.run, standing(run)));
    line(text, format_args!("  plan {}{}", run.plan, signed_by(run)));
    line(text, format_args!("  first model {}", run.first_model));
    if let Some(because) = &run.because {
        line(text, format_args!("  {}", plain(because)));
    }
    if let Some(open) = &run.open {
        open_round(text, run, open);
    }
    if let Some((rounds, left)) = run.expected_end() {
        line(text, format_args!("  about {} to the run's end: {rounds} rounds as long as those before", time(left)));
    }
    if !run.rounds.is_empty() {
        let head = ["round", "loss", "entropy", "rank-me", "|delta|", "model"];
        line(
            text,
            format_args!(
                "  {:>5}  {:>7}  {:>7}  {:>7}  {:>8}  {}",
                head[0], head[1], head[2], head[3], head[4], head[5]
            ),
        );
        run.rounds.iter().for_each(|round| ended_round(text, round, run.tasks.is_empty()));
    }
    run.tasks.iter().for_each(|task| task_scores(text, run, task));
}

/// A task's metric at every site: of each model on validation subjects, and of the best model on those held out.
fn task_scores(text: &mut String, run: &RunStatus, task: &TaskStatus) {
    let TaskStatus { task: name, metric, best, .. } = task;
    let sites: Vec<&SiteId> = run.sites.keys().collect();
    // The widest name, and a space between it and the one before.
    let width = sites.iter().map(|site| site.as_str().len() + 1).max().unwrap_or(0).max(12);
    let row = |text: &mut String, what: &str, scores: &ModelScores, on: MeasuredOn| {
        let each = sites.iter().map(|site| {
            let told = scores.sites.get(*site).and_then(|scores| score::value(scores, name, *metric, on));
            told.map_or_else(|| format!("{:>width$}", "-"), |value| format!("{value:>width$.3}"))
        });
        line(text, format_args!("  {what:<22}{}", each.collect::<String>()));
    };
    line(text, format_args!("  {name}: {metric}"));
    let names: String = sites.iter().map(|site| format!("{:>width$}", site.as_str())).collect();
    line(text, format_args!("  {:<22}{names}", "model of round"));
    for scores in &run.scores {
        row(text, &format!("{}, {}", scores.round, MeasuredOn::Validation), scores, MeasuredOn::Validation);
    }
    let Some((round, value)) = best else {
        return line(
            text,
            format_args!("  no model has a value of every site (of fewer than five validation subjects none is sent)"),
        );
    };
    line(text, format_args!("  best model: that of round {round}, {value:.3} on average over the sites"));
    if let Some(scores) = run.scores.iter().find(|scores| scores.round == *round) {
        row(text, &format!("{round}, {}", MeasuredOn::HeldOut), scores, MeasuredOn::HeldOut);
    }
}

/// Whose hands are under a plan.
fn signed_by(run: &RunStatus) -> String {
    let name = |signed: &SignedBy| match signed.counts {
        true => signed.coordinator.to_string(),
        false => format!("{} (counts no more)", signed.coordinator),
    };
    let names: Vec<String> = run.signed_by.iter().map(name).collect();
    if names.is_empty() { String::new() } else { format!(", signed by {}", names.join(", ")) }
}

fn standing(run: &RunStatus) -> String {
    let closed = run.rounds.iter().filter(|round| round.merged).count();
    let of = format!("{closed} of {} rounds", run.rounds_planned);
    match run.state {
        RunPhase::AwaitingSignatures => {
            let there = run.signed_by.iter().filter(|signed| signed.counts).count();
            format!(
                "AWAITS SIGNATURES, {there} of {}: `aggregator run sign {} --as <folder>`",
                run.signatures_needed, run.run
            )
        }
        RunPhase::Running if run.paused => format!("PAUSED, {of} done: `aggregator run resume {}`", run.run),
        RunPhase::Running => format!("running, {of} done"),
        RunPhase::Finished => format!("finished, {of}"),
        RunPhase::Failed if run.because.as_ref().is_some_and(|because| because.starts_with(ABORTED)) => {
            format!("aborted, {of}")
        }
        RunPhase::Failed => format!("FAILED, {of}"),
    }
}

fn open_round_line(run: &RunStatus, open: &OpenRound) -> String {
    let state = match (open.state, open.time_left_ms) {
        (OpenState::Gathering, _) => match run.quorum {
            1 => "gathering, until a site has joined".to_owned(),
            quorum => format!("gathering, until {quorum} sites have joined"),
        },
        (OpenState::Training, Some(0)) if !open.expected_in_ms.is_empty() => {
            "training, past its deadline: who is no later than usual is waited for, if the plan has a grace".to_owned()
        }
        (OpenState::Training, Some(left)) => format!("training, at most {} left", time(left)),
        (OpenState::Training, None) => "training".to_owned(),
        (OpenState::Merging, _) => "merging".to_owned(),
    };
    let attempt = if open.attempt > 1 { format!(", attempt {}", open.attempt) } else { String::new() };
    let reported = open.reported.len();
    format!("round {}{attempt}: {state}; {reported} of {} reported", open.round, run.sites.len())
}

fn open_round(text: &mut String, run: &RunStatus, open: &OpenRound) {
    line(text, format_args!("  {}", open_round_line(run, open)));
    for (site, progress) in &run.sites {
        let told = match progress {
            _ if open.reported.contains(site) => "reported".to_owned(),
            _ if open.declined.contains_key(site) => format!("declined: {}", open.declined[site]),
            None => "not seen yet".to_owned(),
            Some(progress) => site_progress(progress),
        };
        let age = progress.as_ref().map_or(String::new(), |progress| format!("  ({} ago)", time(progress.age_ms)));
        let expected = match open.expected_in_ms.get(site) {
            None => String::new(),
            Some(0) => "  later than usual".to_owned(),
            Some(expected) => format!("  expected in {}", time(*expected)),
        };
        line(text, format_args!("    {site:<12} {told}{expected}{age}"));
    }
}

fn site_progress(progress: &SiteProgress) -> String {
    let mut text = progress.phase.clone();
    if let Some(reason) = progress.declined {
        text += &format!(": {reason}");
    }
    if progress.total > 0 {
        text += &format!("  {}/{}", progress.done, progress.total);
    }
    if let Some(loss) = progress.loss {
        text += &format!("  loss {loss:.3}");
    }
    if let Some(entropy) = progress.teacher_entropy {
        text += &format!("  entropy {entropy:.3}");
    }
    if let Some(eta) = progress.eta_ms {
        text += &format!("  {} left", time(eta));
    }
    text
}

fn ended_round(text: &mut String, round: &RoundStatus, pretrains: bool) {
    let number = round.round.to_string();
    if round.merged {
        // A column that is not told to who asks is as empty as one that a run of tasks does not have.
        let shown = |value: Option<f64>, width: usize, digits: usize| {
            value.map_or_else(|| format!("{:>width$}", "-"), |value| format!("{value:>width$.digits$}"))
        };
        let meter = |of: fn(&Meters) -> f64| round.meters.as_ref().map(of);
        let of_dino = |of: fn(&Meters) -> f64| meter(of).filter(|_| pretrains);
        let loss = shown(meter(|meters| meters.loss), 7, 3);
        let entropy = shown(of_dino(|meters| meters.teacher_entropy), 7, 3);
        let rank_me = shown(of_dino(|meters| meters.rank_me).filter(|rank_me| *rank_me > 0.0), 7, 1);
        let norm = shown(round.delta_norm, 8, 3);
        let model = round.model.as_ref().map_or_else(|| "-".to_owned(), Digest::short);
        line(text, format_args!("  {number:>5}  {loss}  {entropy}  {rank_me}  {norm}  {model}"));
    } else {
        line(text, format_args!("  {number:>5}  abandoned (attempt {})", round.attempt));
    }
    for part in &round.sites {
        let share = part.share.map_or(String::new(), |share| format!("share {share:.2}  "));
        let cosine = part.cosine.map_or(String::new(), |cosine| format!("  cosine {cosine:.2}"));
        let heads = part.heads.iter().map(|(task, subjects)| format!("  {task} {subjects}")).collect::<String>();
        let told = match pretrains {
            true => format!("  entropy {:.3}{cosine}", part.meters.teacher_entropy),
            false => heads,
        };
        line(
            text,
            format_args!(
                "           {:<12} {share}{} subjects  loss {:.3}{told}",
                part.site.as_str(),
                part.subjects,
                part.meters.loss,
            ),
        );
    }
    for left_out in &round.left_out {
        line(text, format_args!("           {:<12} left out: {}", left_out.site.as_str(), left_out.reason));
    }
    round.alarms.iter().for_each(|alarm| line(text, format_args!("           ALARM        {alarm}")));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let written = writeln!(text, "{line}");
    debug_assert!(written.is_ok());
}

/// A duration as a person says it.
fn time(milliseconds: u64) -> String {
    match milliseconds.div_ceil(1000) {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h{}", seconds / 3600, further(seconds % 3600 / 60, "min")),
        seconds => format!("{} days{}", seconds / 86_400, further(seconds % 86_400 / 3600, "h")),
    }
}

/// The smaller unit of a duration, if there is any of it.
fn further(count: u64, unit: &str) -> String {
    if count == 0 { String::new() } else { format!(" {count} {unit}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest() -> Digest {
        Digest::of(b"model")
    }

    /// A run of five rounds, of which one was merged and one abandoned.
    fn told_of() -> Status {
        let meters = json!({ "loss": 5.25, "teacher_entropy": 1.5, "batch_entropy": 3.0, "rank_me": 12.0 });
        let round = |number: u32, merged: bool| {
            json!({
                "round": number, "attempt": 1, "merged": merged, "base": digest(), "model": merged.then(digest),
                "took_ms": 600_000, "delta_norm": merged.then_some(0.5), "meters": merged.then(|| meters.clone()),
                "sites": [], "left_out": [],
            })
        };
        let run = json!({
            "run": "pretrain", "plan": digest(), "state": "running", "because": null, "first_model": digest(),
            "model": digest(), "model_bytes": 7, "rounds_planned": 5, "quorum": 1, "started_at": 0, "open": null,
            "sites": { "aalst": null }, "rounds": [round(1, true), round(2, false)],
        });
        let status = json!({ "federation": "cmr", "address": "localhost:1", "sites": [], "runs": [run] });
        serde_json::from_value(status).unwrap()
    }

    /// The line of a round.
    fn of_round(text: &str, number: u32) -> String {
        let begins = |line: &&str| line.trim_start().starts_with(&format!("{number}  "));
        text.lines().find(begins).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_run_that_ended_before_its_last_round_is_listed_with_the_reason_and_as_aborted_if_a_person_ended_it() {
        let listed = |because: &str| {
            let mut told = told_of();
            told.runs[0] =
                RunStatus { state: RunPhase::Failed, because: Some(because.to_owned()), ..told.runs[0].clone() };
            runs(&told)
        };
        let aborted = listed("aborted by the coordinator: a mistake");
        assert!(aborted.contains("pretrain  aborted, 1 of 5 rounds: a mistake  plan "), "{aborted}");
        let failed = listed("round 2 was abandoned");
        assert!(failed.contains("pretrain  FAILED, 1 of 5 rounds: round 2 was abandoned  plan "), "{failed}");
    }

    #[test]
    fn names_of_sites_never_run_together_above_their_scores() {
        let mut told = told_of();
        let task = json!({ "task": "ventricles", "metric": "dice", "direction": "higher", "best": null });
        told.runs[0].tasks = vec![serde_json::from_value(task).unwrap()];
        told.runs[0].sites = ["groningen-north", "groningen-south"].map(|site| (site.parse().unwrap(), None)).into();
        let text = status(&told);
        let head: Vec<&str> =
            text.lines().find(|line| line.contains("model of round")).unwrap().split_whitespace().collect();
        assert_eq!(head, ["model", "of", "round", "groningen-north", "groningen-south"]);
    }

    #[test]
    fn a_duration_is_told_in_its_two_largest_units() {
        let told = |seconds: u64| time(seconds * 1000);
        assert_eq!([told(119), told(120), told(7199)], ["119 s", "2 min", "119 min"]);
        assert_eq!([told(7200), told(3 * 3600 - 60), told(47 * 3600 + 60)], ["2 h", "2 h 59 min", "47 h 1 min"]);
        assert_eq!([told(48 * 3600), told(75 * 3600)], ["2 days", "3 days 3 h"]);
    }

    #[test]
    fn the_time_of_an_open_round_is_told_as_the_most_that_it_may_take_and_the_runs_end_by_its_merged_rounds() {
        let mut told = told_of();
        let open = json!({
            "round": 2, "attempt": 2, "state": "training", "base": digest(), "time_left_ms": 300_000, "joined": [],
            "reported": [], "declined": {},
        });
        told.runs[0].open = serde_json::from_value(open).unwrap();
        let text = status(&told);
        assert!(text.contains("round 2, attempt 2: training, at most 5 min left; 0 of 1 reported"), "{text}");
        assert!(text.contains("  about 40 min to the run's end: 4 rounds as long as those before\n"), "{text}");
        // By the one in the middle: an outlier, a pause for example, does not count for all that are to come.
        for took in [720_000, 90_000_000] {
            let round = RoundStatus { took_ms: Some(took), ..told.runs[0].rounds[0].clone() };
            told.runs[0].rounds.push(round);
        }
        assert_eq!(told.runs[0].expected_end(), Some((2, 2 * 720_000)));
        told.runs[0].paused = true;
        assert_eq!(told.runs[0].expected_end(), None);
    }

    #[test]
    fn a_merged_round_is_told_as_one_to_who_may_not_see_its_meters() {
        let model = digest().short();
        let all = status(&told_of());
        assert_eq!(of_round(&all, 1), format!("1 5.250 1.500 12.0 0.500 {model}"));
        let own = status(&told_of().seen_by_site(&"aalst".parse().unwrap()));
        assert_eq!(of_round(&own, 1), format!("1 - - - - {model}"));
        assert_eq!(of_round(&own, 2), "2 abandoned (attempt 1)");
    }
}
