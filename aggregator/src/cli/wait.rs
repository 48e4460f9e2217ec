//! `aggregator run wait`: stays until a run is over, tells each round as it ends, and ends with a code that says how it went.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use clap::Args;
use common::{Digest, RoundNumber, RunId, SiteId};
use serde::Serialize;

use super::acting::{Acting, State};
use super::status::{LOOKED_EVERY, Source};
use super::terminal::Line;
use super::{Failure, Json, print, print_json, text};
use crate::clock::{Clock, SystemClock};
use crate::desk::DeskError;
use crate::status::{RoundStatus, RunPhase, RunStatus, Status};

/// What to wait for.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// The run.
    run: RunId,
    /// Wait so many seconds and no longer; without it, as long as the run takes.
    #[arg(long, value_name = "SECONDS")]
    within_s: Option<u64>,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    json: Json,
}

/// How a run stands when the waiting is over.
#[derive(Debug, Serialize)]
struct Waited {
    run: RunId,
    state: RunPhase,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    rounds: usize,
    rounds_planned: u32,
    model: Digest,
    left_out: Vec<LeftOutOfRound>,
}

/// A site that is not in a merged round's model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct LeftOutOfRound {
    round: RoundNumber,
    site: SiteId,
    reason: String,
}

pub(super) fn wait(arguments: Wait, acting: &Acting) -> Result<(), Failure> {
    let Wait { run: name, within_s, state, json } = arguments;
    let clock = SystemClock::new();
    let mut source = Source::of(acting.desk(state)?)?;
    let mut line = Line::new(!json.json);
    let (mut told, mut is_known) = (0, false);
    loop {
        let is_time_up = within_s.is_some_and(|seconds| clock.elapsed() >= Duration::from_secs(seconds));
        match source.status().and_then(|status| find(status, &name)) {
            // Whoever waits for a day is not to be told of every connection that was cut.
            Err(Failure::Failed(why)) if is_known && source.is_afar() => {
                if is_time_up {
                    line.clear();
                    return Err(Failure::NotOver(format!(
                        "run {name} was not over when it could be asked last: {why}"
                    )));
                }
                line.trouble(&why);
            }
            Err(failure) => {
                line.clear();
                return Err(failure);
            }
            Ok(run) => {
                is_known = true;
                if !json.json && told < run.rounds.len() {
                    line.clear();
                    print(&text::rounds(&run, told))?;
                    told = run.rounds.len();
                }
                let verdict = verdict(&run).or_else(|| is_time_up.then(|| Err(not_over(&run))));
                if let Some(verdict) = verdict {
                    line.clear();
                    match json.json {
                        true => print_json(&waited(run))?,
                        false => print(&text::standing_line(&run))?,
                    }
                    return verdict;
                }
                line.show(&text::under_way(&run));
            }
        }
        thread::sleep(LOOKED_EVERY);
    }
}

/// The run of a name. Where another one is damaged, none is told not to be there.
pub(super) fn find(status: Status, name: &RunId) -> Result<RunStatus, Failure> {
    let found = status.runs.into_iter().find(|run| run.run == *name);
    match (found, status.damaged_runs.into_iter().next()) {
        (Some(run), _) => Ok(run),
        // It may be the one that is waited for.
        (None, Some(damage)) => Err(Failure::Failed(damage)),
        (None, None) => Err(DeskError::NoRun(name.clone()).into()),
    }
}

/// How the run went, once it is over.
fn verdict(run: &RunStatus) -> Option<Result<(), Failure>> {
    match run.state {
        RunPhase::AwaitingSignatures | RunPhase::Running => None,
        RunPhase::Failed => Some(Err(Failure::RunFailed(format!(
            "run {} is over before its last round: {}",
            run.run,
            run.because.as_deref().unwrap_or("it does not say why")
        )))),
        RunPhase::Finished => Some(match left_out(run) {
            all if all.is_empty() => Ok(()),
            all => Err(Failure::LeftOut(told(run, &all))),
        }),
    }
}

fn not_over(run: &RunStatus) -> Failure {
    Failure::NotOver(format!("run {} is not over yet: {}", run.run, text::under_way(run)))
}

/// Who is not in the model of which round. Of a try that was abandoned nothing is in any model.
fn left_out(run: &RunStatus) -> Vec<LeftOutOfRound> {
    let of = |round: &RoundStatus| {
        let number = round.round;
        let left_out = round.left_out.clone();
        left_out.into_iter().map(move |left| LeftOutOfRound { round: number, site: left.site, reason: left.reason })
    };
    run.rounds.iter().filter(|round| round.merged).flat_map(of).collect()
}

/// The same in words: each site and reason once, with the rounds.
fn told(run: &RunStatus, left_out: &[LeftOutOfRound]) -> String {
    let mut each = BTreeMap::<(&SiteId, &str), Vec<String>>::new();
    for left in left_out {
        each.entry((&left.site, &left.reason)).or_default().push(left.round.to_string());
    }
    let line = |((site, reason), rounds): ((&SiteId, &str), Vec<String>)| {
        let plural = if rounds.len() == 1 { "" } else { "s" };
        format!("{site} of round{plural} {}: {reason}", rounds.join(", "))
    };
    let each: Vec<String> = each.into_iter().map(line).collect();
    format!("run {} is finished, and sites were left out. {}", run.run, each.join("; "))
}

fn waited(run: RunStatus) -> Waited {
    let left_out = left_out(&run);
    let rounds = run.rounds.iter().filter(|round| round.merged).count();
    let RunStatus { run, state, because, rounds_planned, model, .. } = run;
    Waited { run, state, because, rounds, rounds_planned, model, left_out }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A round's number, whether it was merged, and who was left out why.
    type Round = (u32, bool, &'static [(&'static str, &'static str)]);

    fn run(state: &str, rounds: &[Round]) -> RunStatus {
        let digest = Digest::of(b"model");
        let round = |(number, merged, left_out): &Round| {
            let left_out: Vec<_> =
                left_out.iter().map(|(site, reason)| json!({"site": site, "reason": reason})).collect();
            json!({
                "round": number, "attempt": 1, "merged": merged, "base": digest, "model": digest, "took_ms": 1,
                "delta_norm": null, "meters": null, "sites": [], "left_out": left_out,
            })
        };
        let rounds: Vec<_> = rounds.iter().map(round).collect();
        serde_json::from_value(json!({
            "run": "pretrain", "plan": digest, "state": state, "because": "a reason", "first_model": digest,
            "model": digest, "model_bytes": 7, "rounds_planned": 5, "quorum": 1, "started_at": 0, "open": null,
            "sites": {}, "rounds": rounds,
        }))
        .unwrap()
    }

    #[test]
    fn a_run_that_everybody_was_in_is_done_and_one_that_goes_on_is_waited_for() {
        assert!(matches!(verdict(&run("finished", &[(1, true, &[])])), Some(Ok(()))));
        assert!(verdict(&run("running", &[(1, true, &[("a", "late")])])).is_none());
        assert!(verdict(&run("awaiting-signatures", &[])).is_none());
        assert!(
            matches!(verdict(&run("failed", &[])), Some(Err(Failure::RunFailed(why))) if why.ends_with(": a reason"))
        );
    }

    #[test]
    fn a_run_that_may_be_damaged_is_not_told_to_be_none() {
        let status = |damaged: &[&str]| -> Status {
            serde_json::from_value(json!({
                "federation": "test", "address": "localhost:1", "sites": [], "runs": [run("running", &[])],
                "damaged_runs": damaged,
            }))
            .unwrap()
        };
        let (known, other) = ("pretrain".parse().unwrap(), "other".parse().unwrap());
        assert_eq!(find(status(&["a row"]), &known).unwrap().run, known);
        assert!(matches!(find(status(&["a row"]), &other), Err(Failure::Failed(why)) if why == "a row"));
        assert!(matches!(find(status(&[]), &other), Err(Failure::Refused(_))));
    }

    #[test]
    fn who_was_left_out_of_a_model_is_named_once_a_reason_with_the_rounds_and_of_an_abandoned_try_not() {
        const LATE: &str = "did not report in time";
        let rounds: [Round; 4] = [
            (1, true, &[("a", LATE), ("b", "declined")]),
            (2, false, &[("c", LATE)]),
            (2, true, &[]),
            (3, true, &[("a", LATE)]),
        ];
        let Some(Err(Failure::LeftOut(told))) = verdict(&run("finished", &rounds)) else {
            panic!("sites were left out")
        };
        assert!(told.ends_with("left out. a of rounds 1, 3: did not report in time; b of round 1: declined"), "{told}");
        assert_eq!(waited(run("finished", &rounds)).left_out.len(), 3);
    }
}
