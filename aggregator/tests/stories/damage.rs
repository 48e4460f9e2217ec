//! What the disk changed or lost: noticed, named, handed out to nobody, and made again where what it came of is kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aggregator::status::{OpenState, RunPhase};
use aggregator::store::{Blobs, RoundRecord, RoundState, Store};
use common::plan::Strategy;
use common::{Decline, Digest, Directive, Phase, Progress, Refusal, UpdateManifest};
use tokio::time::timeout;

use crate::bench::{Bench, plan_draft, run_id, site_id, weights};
use crate::house::{House, WITHIN, code};
use crate::restarts::{all_report, student};

/// The file of what [`all_report`] sent for one of a, b and c.
fn file_of(bench: &Bench, site: usize) -> PathBuf {
    let update = weights(500, |place| (place + site) as f32 / 777.0);
    Blobs::open(&bench.path()).unwrap().path(update.digest())
}

fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[1234] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn path_of(bench: &Bench, blob: Digest) -> PathBuf {
    Blobs::open(&bench.path()).unwrap().path(blob)
}

#[test]
fn a_rotten_update_is_left_out_by_name_and_a_quorum_of_sound_ones_is_merged() {
    let mut bench = Bench::with_run(500, 2, 1, 1);
    all_report(&bench);
    flip_a_bit(&file_of(&bench, 1));
    bench.merge();
    assert_eq!(bench.run().open.unwrap().reported.len(), 2);
    // What was decided outlives the process.
    bench.restart();
    bench.merge();
    let run = bench.run();
    assert_eq!((run.state, run.because), (RunPhase::Finished, None));
    assert!(run.rounds[0].left_out[0].site == site_id("b") && run.rounds[0].left_out[0].reason.contains("damaged"));
    let moved = bench.blob(run.model).get("center").unwrap().values[0] - 497.0 / 1024.0;
    assert!((moved - (497.0 + 499.0) / 2.0 / 777.0).abs() < 1e-6, "{moved}");
}

#[test]
fn damage_that_leaves_less_than_a_quorum_abandons_the_attempt_and_the_lost_update_counts_no_more() {
    let mut bench = Bench::with_run(500, 2, 1, 2);
    bench.reports("a", &weights(500, |place| place as f32 / 777.0)).unwrap();
    bench.says("c", Phase::Declined(Decline::DiskFull));
    bench.reports("b", &weights(500, |place| (place + 1) as f32 / 777.0)).unwrap();
    std::fs::remove_file(file_of(&bench, 0)).unwrap();
    bench.merge();
    for _ in 0..2 {
        let open = bench.run().open.unwrap();
        assert_eq!((open.attempt, open.reported), (2, vec![site_id("b")]));
        bench.restart();
    }
    bench.reports("c", &weights(500, |_| 0.5)).unwrap();
    bench.clock.pass(Duration::from_secs(60));
    bench.joins("a");
    bench.clock.pass(Duration::from_secs(60));
    bench.federation().tick();
    bench.merge();
    assert_eq!(bench.run().rounds[1].sites.len(), 2);
}

#[test]
fn a_quorum_that_cannot_come_because_an_update_was_lost_ends_by_name_at_the_deadline_and_not_never() {
    for restarts in [false, true] {
        let mut bench = Bench::with_run(500, 3, 1, 2);
        all_report(&bench);
        std::fs::remove_file(file_of(&bench, 0)).unwrap();
        bench.merge();
        if restarts {
            bench.restart();
        }
        // They have reported, and say so: nobody joins.
        ["a", "b", "c"].iter().for_each(|site| drop(bench.says(site, Phase::Reported)));
        let open = bench.run().open.unwrap();
        assert_eq!((open.attempt, open.state, open.reported.len()), (2, OpenState::Training, 2));
        bench.clock.pass(Duration::from_secs(60));
        bench.federation().tick();
        let run = bench.run();
        assert_eq!(run.state, RunPhase::Failed);
        assert!(run.because.unwrap().contains("left out: a: its update is damaged"));
    }
}

#[test]
fn a_damaged_first_model_stops_the_merge_by_name_until_it_is_restored() {
    let bench = Bench::with_run(500, 2, 1, 1);
    all_report(&bench);
    let path = path_of(&bench, bench.run().first_model);
    flip_a_bit(&path);
    assert!(!bench.federation().merge_frozen());
    let because = bench.run().because.unwrap();
    assert!(because.contains("first model is damaged") && because.contains("backup"), "{because}");
    flip_a_bit(&path);
    bench.merge();
    assert_eq!((bench.run().state, bench.run().because), (RunPhase::Finished, None));
}

#[test]
fn a_model_that_the_disk_changed_is_made_again_from_the_updates_it_came_of_and_no_site_is_blamed() {
    for restarted in [false, true] {
        let mut bench = Bench::with_run(500, 2, 2, 1);
        all_report(&bench);
        bench.merge();
        let model = bench.run().model;
        let path = path_of(&bench, model);
        let sound = std::fs::read(&path).unwrap();
        ["a", "b", "c"].into_iter().for_each(|site| drop(bench.joins(site)));
        let fetch = |bench: &Bench| bench.federation().blob(&site_id("a"), model, 0);
        fetch(&bench).unwrap();
        flip_a_bit(&path);
        match restarted {
            true => bench.restart(),
            // What arrived was not what it is called.
            false => drop(fetch(&bench)),
        }
        bench.merge();
        // A site that asks again and again has it looked at no more than twice a minute.
        flip_a_bit(&path);
        drop(fetch(&bench).unwrap());
        bench.merge();
        assert!(std::fs::read(&path).unwrap() != sound);
        bench.clock.pass(Duration::from_secs(30));
        drop(fetch(&bench));
        bench.merge();
        assert!(std::fs::read(&path).unwrap() == sound);
        assert!(fetch(&bench).unwrap().version > 0);
        assert_eq!(bench.run().because, None);
        let told: Vec<_> = bench.store().ledger(0, 1000).unwrap();
        assert!(["model-damaged", "model-mended"].into_iter().all(|kind| told.iter().any(|line| line.contains(kind))));
        all_report(&bench);
        bench.merge();
        assert_eq!(bench.run().state, RunPhase::Finished);
    }
}

#[test]
fn a_model_that_a_servers_momentum_made_is_made_again_as_well_from_the_state_before() {
    let mut bench = Bench::empty();
    let mut draft = plan_draft("run", &["a", "b", "c"], 3, 4, 1);
    draft.aggregation.strategy = Strategy::FedAvgM { learning_rate: 0.7, momentum: 0.9 };
    bench.start_run_of(draft, &student(500, 0));
    let blobs = |bench: &Bench| Blobs::open(&bench.path()).unwrap();
    for round in 1..=3 {
        for (index, site) in ["a", "b", "c"].into_iter().enumerate() {
            bench.reports(site, &student(500, 10 * round + index)).unwrap();
        }
        bench.merge();
    }
    let path = blobs(&bench).path(bench.run().model);
    let sound = std::fs::read(&path).unwrap();
    flip_a_bit(&path);
    bench.restart();
    bench.merge();
    assert!(std::fs::read(&path).unwrap() == sound, "{:?}", bench.run().because);
    let closed = bench.store().rounds(&run_id()).unwrap();
    let state = |record: &RoundRecord| match &record.state {
        RoundState::Closed(_, merged) => merged.states.first().copied(),
        _ => None,
    };
    let is_there = |state| blobs(&bench).length(state).is_some();
    let kept: Vec<_> = closed.iter().filter_map(state).map(is_there).collect();
    assert_eq!(kept, [false, true, true], "the last one and the one before, and none older");
}

#[test]
fn while_a_round_has_a_damaged_model_that_cannot_be_made_again_its_time_stands_still_and_nobody_is_sent_it() {
    let bench = Bench::with_run(500, 2, 1, 1);
    let model = bench.run().first_model;
    let path = path_of(&bench, model);
    ["a", "b", "c"].into_iter().for_each(|site| drop(bench.joins(site)));
    bench.clock.pass(Duration::from_secs(20));
    let fetch = |site: &str| bench.federation().blob(&site_id(site), model, 0);
    drop((fetch("a").unwrap(), flip_a_bit(&path), fetch("a")));
    assert!(!bench.federation().merge_frozen());
    assert!(matches!(fetch("b"), Err(Refusal::Unavailable)));
    let because = bench.run().because.unwrap();
    assert!(because.contains("first model is damaged") && because.contains("backup"), "{because}");
    for _ in 0..3 {
        bench.clock.pass(Duration::from_secs(1000));
        bench.federation().tick();
        assert!(!bench.federation().merge_frozen());
    }
    flip_a_bit(&path);
    bench.merge();
    assert_eq!((bench.run().because, fetch("b").unwrap().digest), (None, model));
    bench.clock.pass(Duration::from_secs(39));
    bench.federation().tick();
    bench.reports("a", &weights(500, |_| 0.5)).unwrap();
    bench.reports("b", &weights(500, |_| 0.25)).unwrap();
    bench.clock.pass(Duration::from_secs(1));
    bench.federation().tick();
    bench.merge();
    assert_eq!((bench.run().state, bench.run().rounds[0].sites.len()), (RunPhase::Finished, 2));
}

#[test]
fn a_lost_state_of_the_server_stops_the_merge_and_is_named() {
    let bench = Bench::empty();
    let mut draft = plan_draft("run", &["a", "b", "c"], 2, 2, 1);
    draft.aggregation.strategy = Strategy::Nesterov { learning_rate: 0.7, momentum: 0.9 };
    bench.start_run_of(draft, &student(500, 0));
    let report = |turn: usize| {
        for (index, site) in ["a", "b", "c"].into_iter().enumerate() {
            bench.reports(site, &student(500, turn + index)).unwrap();
        }
    };
    report(0);
    bench.merge();
    let rounds = bench.store().rounds(&run_id()).unwrap();
    let state = rounds.iter().find_map(|round| match &round.state {
        RoundState::Closed(_, merged) => merged.states.first().copied(),
        _ => None,
    });
    let blobs = Blobs::open(&bench.path()).unwrap();
    let (path, aside) = (blobs.path(state.unwrap()), bench.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    report(3);
    assert!(!bench.federation().merge_frozen());
    let because = bench.run().because.unwrap();
    assert!(because.contains("the server optimizer's state is damaged") && because.contains("backup"), "{because}");
    // Restored, the round goes on.
    std::fs::rename(&aside, &path).unwrap();
    bench.merge();
    assert_eq!(bench.run().state, RunPhase::Finished);
}

#[test]
fn a_model_that_is_gone_or_cut_short_is_made_again_although_no_site_asks_from_its_beginning() {
    for is_gone in [false, true] {
        let bench = Bench::with_run(500, 2, 2, 1);
        all_report(&bench);
        bench.merge();
        let model = bench.run().model;
        let path = path_of(&bench, model);
        let sound = std::fs::read(&path).unwrap();
        match is_gone {
            true => std::fs::remove_file(&path).unwrap(),
            false => std::fs::write(&path, &sound[..1300]).unwrap(),
        }
        // Whoever was cut off in the middle, and whoever wants nothing but what has changed.
        let fetch = || bench.federation().blob(&site_id("a"), model, 900);
        assert!(matches!(fetch(), Err(Refusal::Unavailable)));
        bench.merge();
        assert!(std::fs::read(&path).unwrap() == sound);
        assert_eq!(fetch().unwrap().bytes as usize, sound.len());
        assert_eq!(bench.run().because, None);
    }
}

#[test]
fn the_damaged_last_model_of_a_run_that_is_over_is_handed_out_to_nobody_until_it_is_restored() {
    let mut bench = Bench::with_run(500, 2, 1, 1);
    all_report(&bench);
    bench.merge();
    let model = bench.run().model;
    let path = path_of(&bench, model);
    let fetch = |bench: &Bench, site: &str| bench.federation().blob(&site_id(site), model, 0);
    fetch(&bench, "a").unwrap();
    flip_a_bit(&path);
    // What arrived was not what it is called.
    drop(fetch(&bench, "a"));
    assert!(!bench.federation().merge_frozen());
    assert!(matches!(fetch(&bench, "b"), Err(Refusal::Unavailable)));
    let run = bench.run();
    let because = run.because.unwrap();
    assert!(because.contains("the run's last model is damaged") && because.contains("restore blob"), "{because}");
    assert_eq!(run.state, RunPhase::Finished);
    flip_a_bit(&path);
    // It is looked at twice a minute, for as long as it takes.
    assert!(!bench.federation().merge_frozen());
    bench.clock.pass(Duration::from_secs(30));
    bench.merge();
    assert_eq!((fetch(&bench, "b").unwrap().digest, bench.run().because), (model, None));
    // Nobody is told of it any more after a restart either.
    bench.restart();
    bench.merge();
    fetch(&bench, "b").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_model_that_nobody_can_make_again_delays_no_merge_of_another_run() {
    const ROUNDS: u32 = 10;
    let mut house = House::new();
    house.start();
    house.start_run(&["a"], 1);
    let (mut site, delta) = (house.site("a").await, weights(600_000, |_| 0.25));
    let work = site.work(1).await;
    site.send(&work, &delta).await.unwrap();
    let last = |directive| if let Directive::Finished { model, .. } = directive { Some(model) } else { None };
    let model = site.told(last).await;
    std::fs::remove_file(Blobs::open(house.path()).unwrap().path(model)).unwrap();
    assert_eq!(code(&site.download(model, 0).await.unwrap_err()), "unavailable");
    let damaged = async {
        while house.store().runs(0).unwrap().remove(0).unwrap().trouble.is_none() {
            site.report(Progress::idle()).await.unwrap();
        }
    };
    timeout(WITHIN, damaged).await.expect("the damage is told");
    house.start_run_of(plan_draft("next", &["a"], 1, ROUNDS, 1));
    let began = Instant::now();
    for round in 1..=ROUNDS {
        let work = site.work(round).await;
        site.send(&work, &delta).await.unwrap();
    }
    site.told(|directive| matches!(directive, Directive::Finished { run, .. } if run.as_str() == "next").then_some(()))
        .await;
    // A merge that is tried again is tried after up to five seconds, each time.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    house.stop().await;
}

#[test]
fn what_is_restored_while_no_server_runs_is_no_trouble_any_more() {
    let mut bench = Bench::with_run(500, 2, 1, 1);
    let path = path_of(&bench, bench.run().first_model);
    flip_a_bit(&path);
    bench.restart();
    assert!(!bench.federation().merge_frozen());
    assert!(bench.run().because.unwrap().contains("restore blob"));
    flip_a_bit(&path);
    bench.restart();
    bench.merge();
    assert_eq!(bench.run().because, None);
}

#[test]
fn the_file_of_an_update_that_counts_no_more_takes_no_room_and_the_site_may_send_it_again() {
    let bench = Bench::with_run(500, 3, 1, 2);
    all_report(&bench);
    let path = file_of(&bench, 1);
    flip_a_bit(&path);
    bench.merge();
    assert!(!path.exists() && file_of(&bench, 0).exists());
    assert_eq!(bench.run().open.unwrap().reported, [site_id("a"), site_id("c")]);
}

#[test]
fn of_blobs_that_a_merge_made_those_that_no_record_names_are_removed_and_no_others() {
    let bench = Bench::with_run(500, 2, 2, 1);
    all_report(&bench);
    bench.merge();
    let stray = Blobs::open(&bench.path()).unwrap().put(b"a model of a run that was ended meanwhile").unwrap();
    let mut removed = Vec::new();
    let made = [bench.run().model, bench.run().first_model, stray];
    bench
        .store()
        .remove_unnamed(&made, &mut |blob| {
            removed.push(blob);
            Ok(())
        })
        .unwrap();
    assert_eq!(removed, [stray]);
}

#[test]
fn the_first_model_of_a_run_that_awaits_its_signatures_is_nobodys_upload_to_forget() {
    let bench = Bench::with_run(500, 2, 1, 1);
    let mut waiting = plan_draft("waiting", &["a", "b", "c"], 2, 1, 1);
    waiting.signatures = 2;
    let first = bench.start_run_of(waiting, &weights(500, |place| place as f32)).first_model;
    let announced = bench.manifest("a", &weights(500, |_| 0.5));
    for blob in [first, announced.blob] {
        bench.begin(&UpdateManifest { blob, ..announced.clone() }).unwrap();
    }
    assert!(path_of(&bench, first).exists());
}
