//! The coordinator lets a run stand still, go on, or end.

use std::time::Duration;

use aggregator::clock::wall;
use aggregator::desk::{self, Asking, DeskError, Wanted};
use aggregator::ledger::Actor;
use aggregator::status::RunPhase;
use aggregator::store::{Store, Wish};
use common::Directive;

use crate::bench::{Bench, plan_draft, run_id, weights};

pub(crate) fn asks(bench: &Bench, wish: &Wish) {
    bench.wishes(&run_id(), wish);
    bench.federation().refresh().unwrap();
}

pub(crate) fn paused(paused: bool) -> Wish {
    Wish { paused, abort: None }
}

#[test]
fn a_paused_run_asks_nobody_keeps_its_deadline_and_still_takes_what_is_trained() {
    let mut bench = Bench::with_run(100, 2, 2, 1);
    for site in ["a", "b"] {
        bench.joins(site);
    }
    bench.clock.pass(Duration::from_secs(20));
    bench.federation().note_time();
    asks(&bench, &paused(true));
    assert!(bench.run().paused);
    let Directive::Wait { because } = bench.joins("a") else { panic!("a is asked to train") };
    assert!(because.contains("paused by the coordinator"), "{because}");
    bench.clock.pass(Duration::from_secs(1000));
    bench.federation().tick();
    bench.restart();
    bench.clock.pass(Duration::from_secs(1000));
    bench.federation().tick();
    assert!(bench.run().open.is_some(), "time does not pass in a pause, nor in a restart");
    bench.reports("a", &weights(100, |_| 0.5)).unwrap();

    asks(&bench, &paused(false));
    let Directive::Train(assignment) = bench.joins("b") else { panic!("b is not asked to train") };
    assert_eq!(assignment.time_left, Duration::from_secs(40));
    bench.clock.pass(Duration::from_secs(39));
    bench.federation().tick();
    bench.reports("b", &weights(100, |_| 0.25)).unwrap();
    bench.clock.pass(Duration::from_secs(1));
    bench.federation().tick();
    bench.merge();
    assert_eq!(bench.run().rounds[0].sites.len(), 2);
}

#[test]
fn a_round_that_all_report_in_a_pause_is_merged_and_the_next_one_waits() {
    let bench = Bench::with_run(100, 3, 2, 1);
    asks(&bench, &paused(true));
    for site in ["a", "b", "c"] {
        bench.reports(site, &weights(100, |_| 0.5)).unwrap();
    }
    bench.merge();
    assert!(matches!(bench.joins("a"), Directive::Wait { .. }));
    asks(&bench, &paused(false));
    let Directive::Train(assignment) = bench.joins("a") else { panic!("the next round does not begin") };
    assert_eq!(assignment.round.0, 2);
}

#[test]
fn of_two_who_ask_at_the_same_time_the_slower_one_takes_nothing_back() {
    let bench = Bench::with_run(100, 3, 2, 1);
    let abort = Wish { paused: false, abort: Some("a mistake".to_owned()) };
    let ask = |before: &Wish, wish: &Wish| bench.store().wish(&run_id(), before, wish, &Actor::StateFolder, wall());
    assert!(ask(&Wish::default(), &abort).unwrap());
    let entries = bench.store().ledger_head().unwrap().entries;
    // It has read that nothing is asked.
    assert!(!ask(&Wish::default(), &paused(true)).unwrap());
    assert_eq!(bench.store().wishes().unwrap()[&run_id()], abort);
    assert_eq!(bench.store().ledger_head().unwrap().entries, entries, "nothing was asked");
    let asking = Asking { by: Actor::StateFolder, now: wall() };
    let told = desk::ask(&bench.store(), &run_id(), &Wanted::Pause, &asking).unwrap_err();
    assert!(matches!(told, DeskError::Over { how, .. } if how.ends_with("a mistake")));
}

#[test]
fn an_aborted_run_frees_its_sites_at_once_and_says_why_also_when_no_server_was_running() {
    for restart in [false, true] {
        let mut bench = Bench::with_run(100, 2, 2, 1);
        bench.joins("a");
        bench.reports("b", &weights(100, |_| 0.5)).unwrap();
        let wish = Wish { paused: restart, abort: Some("a scanner was exchanged".to_owned()) };
        if restart {
            bench.wishes(&run_id(), &wish);
            bench.restart();
        } else {
            asks(&bench, &wish);
        }
        let run = bench.run();
        assert_eq!((run.state, run.model), (RunPhase::Failed, run.first_model));
        let Directive::Failed { run: failed, because } = bench.joins("a") else { panic!("a is asked to train") };
        assert_eq!(failed, run_id());
        assert!(because.contains("aborted by the coordinator: a scanner was exchanged"), "{because}");
        assert_eq!(run.rounds[0].sites.len(), 1, "what was reported is told");
        bench.restart();
        assert_eq!(bench.run().state, RunPhase::Failed);
        bench.start_run(plan_draft("second", &["a", "b", "c"], 2, 1, 1), 100);
        assert!(matches!(
            bench.federation().report(&"a".parse().unwrap(), &common::Progress::idle()),
            Ok(Directive::Train(_))
        ));
    }
}
