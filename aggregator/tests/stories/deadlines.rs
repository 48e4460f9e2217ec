//! Quorum, deadline, and who is left out.

use std::time::Duration;

use aggregator::status::{OpenState, RunPhase};
use aggregator::store::Store;
use common::{Decline, Directive, Phase, Progress, Refusal, RoundNumber};

use crate::bench::{Bench, plan_draft, site_id, weights};
use crate::pauses;

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn without_a_quorum_a_round_gathers_for_as_long_as_it_takes() {
    let bench = Bench::with_run(20, 2, 1, 1);
    bench.joins("a");
    bench.clock.pass(100 * DEADLINE);
    bench.federation().tick();
    assert_eq!(bench.run().open.unwrap().state, OpenState::Gathering);
    assert!(matches!(bench.says("b", Phase::AwaitingApproval), Directive::Train(_)));
    assert_eq!(bench.run().open.unwrap().state, OpenState::Gathering, "who awaits approval has not joined");
    assert!(matches!(bench.joins("b"), Directive::Train(work) if work.time_left == DEADLINE));
    assert_eq!(bench.run().open.unwrap().state, OpenState::Training);
}

#[test]
fn at_the_deadline_the_round_closes_without_the_late_who_are_named() {
    let bench = Bench::with_run(20, 1, 2, 1);
    let (delta, late) = (weights(20, |_| 0.5), weights(20, |_| 0.25));
    bench.joins("b");
    let manifest = bench.manifest("b", &late);
    bench.send(&manifest, &late.to_safetensors(), 64, 128).unwrap();
    bench.reports("a", &delta).unwrap();
    bench.clock.pass(DEADLINE - Duration::from_millis(1));
    bench.federation().tick();
    assert!(bench.run().open.is_some_and(|open| open.round == RoundNumber(1)));
    bench.clock.pass(Duration::from_millis(1));
    bench.federation().tick();
    assert_eq!(bench.run().open.unwrap().state, OpenState::Merging);
    bench.merge();

    let run = bench.run();
    let told: Vec<_> = run.rounds[0].left_out.iter().map(|it| (it.site.as_str(), it.reason.as_str())).collect();
    assert_eq!(told[0], ("b", "did not report in time"));
    assert!(told[1].0 == "c" && told[1].1.starts_with("never joined"));
    assert!(matches!(bench.begin(&manifest), Err(Refusal::RoundNotOpen { open: RoundNumber(2), .. })));
    assert!(matches!(bench.finish(&manifest), Err(Refusal::RoundNotOpen { .. })));
    bench.federation().tick();
    assert_eq!(std::fs::read_dir(bench.path().join("tmp")).unwrap().count(), 0, "what came too late is removed");
    // The late site hears of the next round.
    assert!(matches!(bench.joins("b"), Directive::Train(work) if work.round == RoundNumber(2)));
}

#[test]
fn a_round_below_quorum_is_tried_again_and_then_the_run_fails_by_name() {
    let bench = Bench::with_run(20, 2, 1, 2);
    let first = bench.run().first_model;
    bench.reports("a", &weights(20, |_| 0.5)).unwrap();
    for attempt in 1..=2 {
        assert_eq!(bench.run().open.unwrap().attempt, attempt);
        bench.joins("b");
        bench.clock.pass(DEADLINE);
        bench.federation().tick();
    }
    let run = bench.run();
    assert_eq!((run.state, run.model), (RunPhase::Failed, first));
    assert!(run.because.unwrap().contains("1 of the 2 updates"));
    assert_eq!(run.rounds.len(), 2);
    assert!(run.rounds.iter().all(|round| round.model.is_none() && round.sites.len() == 1));
    let directive = bench.federation().report(&site_id("a"), &Progress::idle()).unwrap();
    assert!(matches!(directive, Directive::Failed { because, .. } if because.contains("failed")));
}

#[test]
fn how_a_run_failed_is_told_to_a_site_without_what_the_others_declined() {
    let bench = Bench::with_run(20, 2, 1, 1);
    bench.reports("a", &weights(20, |_| 0.5)).unwrap();
    bench.says("b", Phase::Declined(Decline::DiskFull));
    bench.joins("c");
    bench.clock.pass(DEADLINE);
    bench.federation().tick();
    assert!(bench.run().because.unwrap().contains("b: declined"), "the coordinator sees all");
    for site in ["a", "b"] {
        let told = bench.federation().report(&site_id(site), &Progress::idle()).unwrap();
        let Directive::Failed { because, .. } = told else { panic!("{told:?}") };
        assert!(because.ends_with("ask the coordinator") && !because.contains("declined"), "{because}");
    }
}

#[test]
fn a_decline_that_is_said_every_second_costs_a_deadline_an_attempt_and_the_site_may_come_back() {
    let mut bench = Bench::with_run(20, 3, 1, 2);
    let declines = || Phase::Declined(Decline::DiskFull);
    bench.reports("a", &weights(20, |_| 0.5)).unwrap();
    bench.reports("b", &weights(20, |_| 0.25)).unwrap();
    for attempt in 1..=2 {
        (0..5).for_each(|_| drop(bench.says("c", declines())));
        bench.restart();
        let open = bench.run().open.unwrap();
        assert_eq!((open.attempt, open.state, open.declined.len()), (attempt, OpenState::Training, 1));
        if attempt == 1 {
            bench.clock.pass(DEADLINE);
            bench.federation().tick();
        }
    }
    bench.reports("c", &weights(20, |_| 0.125)).unwrap();
    bench.merge();
    assert_eq!((bench.run().state, bench.run().rounds[1].sites.len()), (RunPhase::Finished, 3));
}

#[test]
fn progress_of_runs_that_do_not_invite_the_site_is_not_kept() {
    let bench = Bench::with_run(20, 2, 1, 1);
    for run in ["made-up-1", "made-up-2", "run"] {
        let work = Some((run.parse().unwrap(), RoundNumber(1)));
        for site in ["a", "z"] {
            let progress = Progress { work: work.clone(), phase: Phase::Training, ..Progress::idle() };
            bench.federation().report(&site_id(site), &progress).unwrap();
        }
    }
    let kept = bench.store().progress().unwrap();
    assert!(kept.len() == 1 && kept[0].site == site_id("a"), "{kept:?}");
}

#[test]
fn a_decline_is_named_and_nobody_waits_for_who_declined() {
    let bench = Bench::with_run(20, 2, 1, 1);
    bench.says("c", Phase::Declined(Decline::TooManySkipped));
    bench.reports("a", &weights(20, |_| 0.5)).unwrap();
    bench.reports("b", &weights(20, |_| 0.5)).unwrap();
    bench.merge();
    let run = bench.run();
    assert_eq!(run.state, RunPhase::Finished);
    assert_eq!(run.rounds[0].left_out[0].reason, "declined: more unreadable images than the site tolerates");
    let directive = bench.federation().report(&site_id("c"), &Progress::idle()).unwrap();
    assert!(matches!(directive, Directive::Finished { model, .. } if model == run.model));
}

/// A run of two rounds of three sites with a grace, whose first round c ended last, after 50 seconds; in the second, a and b
/// have reported after a second.
fn second_round(grace_s: u64) -> Bench {
    let bench = Bench::empty();
    let mut draft = plan_draft("run", &["a", "b", "c"], 2, 2, 1);
    draft.rounds.grace_s = grace_s;
    bench.start_run(draft, 20);
    for round in 1..=2 {
        ["a", "b", "c"].into_iter().for_each(|site| drop(bench.joins(site)));
        bench.clock.pass(Duration::from_secs(1));
        for site in ["a", "b"] {
            bench.reports(site, &weights(20, |_| 0.5)).unwrap();
        }
        if round == 1 {
            bench.clock.pass(Duration::from_secs(49));
            bench.reports("c", &weights(20, |_| 0.25)).unwrap();
            bench.merge();
        }
    }
    bench
}

fn after(bench: &Bench, seconds: u64) -> Option<OpenState> {
    bench.clock.pass(Duration::from_secs(seconds));
    bench.federation().tick();
    bench.federation().note_time();
    bench.run().open.map(|open| open.state)
}

#[test]
fn a_site_that_is_no_later_than_usual_is_waited_for_in_the_grace_and_is_in_the_round() {
    let bench = second_round(30);
    bench.federation().note_time();
    let open = bench.run().open.unwrap();
    assert_eq!(open.expected_in_ms[&site_id("c")], 61_500, "50 s and a quarter, of which one second has passed");
    assert!(matches!(bench.joins("c"), Directive::Train(work) if work.time_left == Duration::from_secs(59)));
    assert_eq!(after(&bench, 60), Some(OpenState::Training), "past the deadline");
    bench.reports("c", &weights(20, |_| 0.25)).unwrap();
    bench.merge();
    assert_eq!(bench.run().rounds[1].sites.len(), 3);
}

#[test]
fn a_site_that_is_later_than_usual_is_waited_for_no_longer() {
    let bench = second_round(600);
    assert_eq!(after(&bench, 61), Some(OpenState::Training));
    assert_eq!(bench.run().open.unwrap().expected_in_ms[&site_id("c")], 500);
    assert_eq!(after(&bench, 1), Some(OpenState::Merging));
    bench.merge();
    assert_eq!(bench.run().rounds[1].left_out[0].reason, "did not report in time");
}

#[test]
fn nobody_is_waited_for_longer_than_the_grace_also_after_a_restart_in_it_and_without_one_not_at_all() {
    let mut bench = second_round(2);
    assert_eq!(after(&bench, 60), Some(OpenState::Training));
    bench.federation().note_time();
    bench.restart();
    assert_eq!(after(&bench, 0), Some(OpenState::Training));
    assert_eq!(after(&bench, 1), Some(OpenState::Merging));
    assert_eq!(after(&second_round(0), 59), Some(OpenState::Merging));
}

/// A run of two rounds of three sites with a grace of ten minutes.
fn with_grace(attempts: u32) -> Bench {
    let bench = Bench::empty();
    let mut draft = plan_draft("run", &["a", "b", "c"], 2, 2, attempts);
    draft.rounds.grace_s = 600;
    bench.start_run(draft, 20);
    bench
}

fn everybody_reports(bench: &Bench, sites: &[&str]) {
    for site in sites {
        bench.reports(site, &weights(20, |_| 0.5)).unwrap();
    }
}

/// How long the sites are expected to be at work in a round that they have just joined.
fn expected_s(bench: &Bench) -> [f64; 3] {
    ["a", "b", "c"].into_iter().for_each(|site| drop(bench.joins(site)));
    let expected = bench.run().open.unwrap().expected_in_ms;
    ["a", "b", "c"].map(|site| expected[&site_id(site)] as f64 / 1e3)
}

#[test]
fn neither_a_pause_nor_a_server_that_was_down_nor_what_came_before_it_joined_makes_a_site_a_slow_one() {
    let bench = with_grace(1);
    let (pass, hour) = (|bench: &Bench, seconds| bench.clock.pass(Duration::from_secs(seconds)), 3600);
    pass(&bench, hour);
    ["a", "b"].into_iter().for_each(|site| drop(bench.joins(site)));
    pass(&bench, 20);
    bench.joins("c");
    pass(&bench, 10);
    pauses::asks(&bench, &pauses::paused(true));
    pass(&bench, hour);
    pauses::asks(&bench, &pauses::paused(false));
    pass(&bench, 10);
    bench.federation().note_time();
    let bench = bench.closed();
    pass(&bench, hour);
    let bench = bench.reopened();
    everybody_reports(&bench, &["a", "b", "c"]);
    bench.merge();
    assert_eq!(expected_s(&bench), [50.0, 50.0, 25.0], "40 s, and 20 s, and a quarter more");
    assert_eq!(bench.run().rounds[0].took_ms, Some(3_640_000), "and the hour before anybody joined");

    // Nor does an hour's pause in the next round end the waiting for a site that is no later than usual.
    bench.reports("a", &weights(20, |_| 0.5)).unwrap();
    bench.reports("c", &weights(20, |_| 0.5)).unwrap();
    assert_eq!(after(&bench, 45), Some(OpenState::Training));
    pauses::asks(&bench, &pauses::paused(true));
    assert_eq!(after(&bench, hour), Some(OpenState::Training));
    let bench = bench.closed();
    pass(&bench, hour);
    let bench = bench.reopened();
    pauses::asks(&bench, &pauses::paused(false));
    assert_eq!(bench.run().open.unwrap().expected_in_ms[&site_id("b")], 5_000);
    bench.reports("b", &weights(20, |_| 0.5)).unwrap();
    bench.merge();
    assert_eq!(bench.run().rounds[1].sites.len(), 3);
}

#[test]
fn past_its_deadline_a_round_waits_for_who_is_no_later_than_usual_also_when_it_was_paused_and_restarted_then() {
    let mut bench = second_round(600);
    assert_eq!(after(&bench, 60), Some(OpenState::Training), "past the deadline; c has a second and a half left");
    pauses::asks(&bench, &pauses::paused(true));
    assert_eq!(after(&bench, 1000), Some(OpenState::Training));
    bench.restart();
    pauses::asks(&bench, &pauses::paused(false));
    assert_eq!(after(&bench, 1), Some(OpenState::Training));
    assert_eq!(after(&bench, 1), Some(OpenState::Merging), "now it is later than usual");
}

#[test]
fn the_time_of_a_site_that_needed_two_attempts_is_that_of_both() {
    let bench = with_grace(2);
    ["a", "b", "c"].into_iter().for_each(|site| drop(bench.joins(site)));
    bench.reports("a", &weights(20, |_| 0.5)).unwrap();
    bench.clock.pass(DEADLINE);
    bench.federation().tick();
    assert_eq!(bench.run().open.unwrap().attempt, 2);
    ["b", "c"].into_iter().for_each(|site| drop(bench.joins(site)));
    bench.clock.pass(Duration::from_secs(20));
    everybody_reports(&bench, &["b", "c"]);
    bench.merge();
    assert_eq!(expected_s(&bench), [0.0, 100.0, 100.0], "60 s and 20 s, and a quarter more");
}

#[test]
fn who_declined_in_between_is_at_work_since_it_came_back() {
    let bench = with_grace(2);
    ["a", "b", "c"].into_iter().for_each(|site| drop(bench.joins(site)));
    bench.reports("a", &weights(20, |_| 0.5)).unwrap();
    bench.clock.pass(DEADLINE);
    bench.federation().tick();
    bench.says("b", Phase::Declined(Decline::DiskFull));
    bench.joins("c");
    bench.clock.pass(Duration::from_secs(10));
    bench.joins("b");
    bench.clock.pass(Duration::from_secs(8));
    everybody_reports(&bench, &["b", "c"]);
    bench.merge();
    assert_eq!(expected_s(&bench), [0.0, 10.0, 97.5], "8 s, and 78 s of both attempts, and a quarter more");
}

#[test]
fn who_was_in_no_round_yet_is_not_waited_for() {
    let bench = Bench::empty();
    let mut draft = plan_draft("run", &["a", "b"], 1, 1, 1);
    draft.rounds.grace_s = 600;
    bench.start_run(draft, 20);
    bench.joins("b");
    bench.reports("a", &weights(20, |_| 0.5)).unwrap();
    assert_eq!(after(&bench, 60), Some(OpenState::Merging));
}
