//! Runs queue: which one a site is sent to.

use std::time::Duration;

use aggregator::status::RunPhase;
use aggregator::store::Wish;
use common::{Decline, Directive, Phase, Progress, RoundNumber, RunId};

use crate::bench::{Bench, plan_draft, run_id, site_id, weights};

/// A run of two rounds that closes with two of its three sites, and a second one behind it.
fn two_runs() -> Bench {
    let bench = Bench::with_run(20, 2, 2, 1);
    bench.start_run(plan_draft("second", &["a", "b", "c"], 1, 1, 1), 20);
    bench
}

/// What a site is to do that says how it goes with a run, or that it does nothing.
fn asks(bench: &Bench, site: &str, at_work: Option<(&str, Phase)>) -> Directive {
    let progress = match at_work {
        None => Progress::idle(),
        Some((run, phase)) => {
            Progress { work: Some((run.parse().unwrap(), RoundNumber(1))), phase, ..Progress::idle() }
        }
    };
    bench.federation().report(&site_id(site), &progress).unwrap()
}

fn trains(directive: Directive) -> (String, u32) {
    match directive {
        Directive::Train(work) => (work.run.to_string(), work.round.0),
        other => panic!("{other:?}"),
    }
}

fn first(round: u32) -> (String, u32) {
    ("run".to_owned(), round)
}

fn second() -> (String, u32) {
    ("second".to_owned(), 1)
}

#[test]
fn who_has_reported_waits_for_the_next_round_and_is_not_away_for_a_later_run_when_it_begins() {
    let bench = two_runs();
    for site in ["a", "b", "c"] {
        assert_eq!(trains(bench.joins(site)), first(1));
    }
    bench.reports("a", &weights(20, |_| 0.5)).unwrap();
    assert_eq!(trains(asks(&bench, "a", None)), first(1), "done here, and staying");
    bench.reports("b", &weights(20, |_| 0.5)).unwrap();
    bench.clock.pass(Duration::from_secs(60));
    bench.federation().tick();
    let Directive::Wait { because } = asks(&bench, "a", None) else { panic!("a is sent to another run") };
    assert!(because.contains("a round of run run is being merged"), "{because}");
    bench.merge();
    assert_eq!(trains(asks(&bench, "a", None)), first(2));
    for site in ["a", "b", "c"] {
        bench.joins(site);
        bench.reports(site, &weights(20, |_| 0.5)).unwrap();
    }
    bench.merge();
    assert_eq!(trains(asks(&bench, "a", None)), second(), "the first run is over");
}

#[test]
fn who_was_with_a_run_that_is_over_hears_how_it_ended_before_other_work_begins() {
    let bench = Bench::with_run(20, 2, 1, 1);
    bench.start_run(plan_draft("second", &["a", "b", "c"], 1, 1, 1), 20);
    for site in ["a", "b", "c"] {
        bench.reports(site, &weights(20, |_| 0.5)).unwrap();
    }
    bench.merge();
    let last = bench.run().model;
    for phase in [Phase::Idle, Phase::Reported, Phase::Training, Phase::Declined(Decline::DiskFull)] {
        let told = asks(&bench, "a", Some(("run", phase.clone())));
        assert!(
            matches!(told, Directive::Finished { run, model, .. } if run == run_id() && model == last),
            "{phase:?}"
        );
    }
    assert_eq!(trains(asks(&bench, "a", None)), second());
    let wish = Wish { paused: false, abort: Some("a mistake".to_owned()) };
    bench.wishes(&"second".parse().unwrap(), &wish);
    bench.federation().refresh().unwrap();
    bench.start_run(plan_draft("third", &["a", "b", "c"], 1, 1, 1), 20);
    let told = asks(&bench, "a", Some(("second", Phase::Training)));
    assert!(matches!(told, Directive::Failed { because, .. } if because.ends_with("a mistake")));
    assert_eq!(trains(asks(&bench, "a", None)), ("third".to_owned(), 1));
}

#[test]
fn work_at_hand_is_finished_before_other_work_begins() {
    let bench = two_runs();
    assert_eq!(trains(asks(&bench, "a", Some(("second", Phase::Training)))), second());
    assert_eq!(trains(asks(&bench, "a", Some(("run", Phase::Training)))), first(1));
    assert_eq!(trains(asks(&bench, "b", Some(("unknown", Phase::Training)))), first(1));
    assert_eq!(trains(asks(&bench, "b", Some(("second", Phase::AwaitingApproval)))), first(1), "that is no work");
    let stranger = asks(&bench, "z", None);
    assert!(matches!(stranger, Directive::Wait { because } if because.contains("no run invites")));
}

#[test]
fn who_declines_a_run_goes_on_to_the_next_one_and_without_one_is_asked_again() {
    let bench = two_runs();
    let declines = || Phase::Declined(Decline::DiskFull);
    assert_eq!(trains(asks(&bench, "a", Some(("run", declines())))), second());
    assert_eq!(trains(asks(&bench, "a", Some(("second", declines())))), first(1));
    assert_eq!(trains(asks(&bench, "b", None)), first(1));
}

#[test]
fn while_a_run_is_paused_its_sites_work_on_the_next_one_and_then_come_back() {
    let bench = two_runs();
    let wishes = |paused| {
        bench.wishes(&run_id(), &Wish { paused, abort: None });
        bench.federation().refresh().unwrap();
    };
    wishes(true);
    assert_eq!(trains(bench.joins("a")), second());
    assert_eq!(trains(asks(&bench, "a", Some(("second", Phase::Training)))), second());
    wishes(false);
    assert_eq!(trains(asks(&bench, "a", Some(("second", Phase::Training)))), second());
    assert_eq!(trains(asks(&bench, "b", None)), first(1));
    let second: RunId = "second".parse().unwrap();
    let status = bench.status();
    let state = |run: &RunId| status.runs.iter().find(|found| found.run == *run).unwrap().state;
    assert_eq!((state(&run_id()), state(&second)), (RunPhase::Running, RunPhase::Running));
}
