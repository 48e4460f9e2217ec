//! A restart at any point goes on from what was written down, to the same bits.

use std::path::Path;
use std::time::Duration;

use aggregator::federation::{Federation, OpenError};
use aggregator::status::{OpenState, RunPhase};
use aggregator::store::{RoundState, Store};
use common::plan::Strategy;
use common::{Decline, Digest, Directive, NamedTensors, Phase, UpdateManifest};

use crate::bench::{Bench, plan_draft, run_id, weights};

/// Bytes between two syncs of an upload.
const SYNC_EVERY: usize = 8 << 20;

pub(crate) fn all_report(bench: &Bench) {
    for (index, site) in ["a", "b", "c"].into_iter().enumerate() {
        bench.reports(site, &weights(500, |place| (place + index) as f32 / 777.0)).unwrap();
    }
}

#[test]
fn a_crash_between_freeze_and_publication_ends_in_the_same_model() {
    let undisturbed = Bench::with_run(500, 2, 1, 1);
    all_report(&undisturbed);
    undisturbed.merge();

    let mut crashed = Bench::with_run(500, 2, 1, 1);
    all_report(&crashed);
    assert_eq!(crashed.run().open.unwrap().state, OpenState::Merging);
    // Dead before the merge; dead in it, with half a model on disk.
    crashed.restart();
    std::fs::write(crashed.path().join("tmp/run.1.model.part"), b"half").unwrap();
    crashed.restart();
    assert!(!crashed.path().join("tmp/run.1.model.part").exists());
    crashed.merge();
    assert_eq!(crashed.run().model, undisturbed.run().model);
    crashed.restart();
    assert_eq!((crashed.run().state, crashed.run().model), (RunPhase::Finished, undisturbed.run().model));
}

#[test]
fn after_a_restart_only_synced_bytes_count_and_the_upload_goes_on_from_there() {
    let mut bench = Bench::with_run(3 << 20, 1, 1, 1);
    let delta = weights(3 << 20, |place| (place % 100) as f32 / 640.0);
    let (manifest, bytes) = (bench.manifest("a", &delta), delta.to_safetensors());
    assert!(bytes.len() > SYNC_EVERY + 1000);
    bench.send(&manifest, &bytes, 1 << 20, SYNC_EVERY + 1000).unwrap();
    assert_eq!(bench.begin(&manifest).unwrap().next_offset as usize, SYNC_EVERY + 1000);
    bench.restart();
    assert_eq!(bench.begin(&manifest).unwrap().next_offset as usize, SYNC_EVERY);
    bench.send(&manifest, &bytes, 1 << 20, bytes.len()).unwrap();
    bench.finish(&manifest).unwrap();
    assert_eq!(bench.run().open.unwrap().reported.len(), 1);
}

#[test]
fn a_stored_file_whose_row_was_lost_in_a_crash_is_not_sent_again() {
    let bench = Bench::with_run(100, 1, 1, 1);
    let delta = weights(100, |_| 0.5);
    let manifest = bench.manifest("a", &delta);
    // Renamed to its digest, then dead before the transaction.
    aggregator::store::Blobs::open(&bench.path()).unwrap().put(&delta.to_safetensors()).unwrap();
    assert_eq!(bench.begin(&manifest).unwrap().next_offset, manifest.bytes);
    bench.finish(&manifest).unwrap();
    assert_eq!(bench.run().open.unwrap().reported.len(), 1);
}

#[test]
fn the_time_a_round_has_left_survives_a_restart() {
    let mut bench = Bench::with_run(20, 1, 1, 1);
    bench.joins("a");
    bench.clock.pass(Duration::from_secs(45));
    bench.federation().note_time();
    bench.restart();
    // The time the process was dead does not count.
    assert!(matches!(bench.joins("a"), Directive::Train(work) if work.time_left == Duration::from_secs(15)));
    bench.reports("b", &weights(20, |_| 0.5)).unwrap();
    bench.clock.pass(Duration::from_secs(15));
    bench.federation().tick();
    bench.merge();
    assert_eq!(bench.run().rounds[0].left_out.len(), 2);
}

#[test]
fn who_joined_and_who_declined_survives_a_restart() {
    let mut bench = Bench::with_run(20, 2, 1, 1);
    bench.says("a", Phase::Declined(Decline::DiskFull));
    bench.joins("b");
    bench.restart();
    let open = bench.run().open.unwrap();
    assert_eq!((open.joined.len(), open.declined.len()), (1, 1));
    bench.reports("c", &weights(20, |_| 0.5)).unwrap();
    bench.restart();
    bench.reports("b", &weights(20, |_| 0.25)).unwrap();
    bench.merge();
    assert_eq!(bench.run().rounds[0].sites.len(), 2);
}

#[test]
fn one_state_folder_has_one_server() {
    let bench = Bench::empty();
    let second = Federation::open(&bench.path(), bench.limits, bench.clock.clone());
    assert!(matches!(second, Err(OpenError::Lock(_))));
}

#[test]
fn updates_of_old_rounds_are_removed_and_models_never() {
    let bench = Bench::with_run(20, 3, 5, 1);
    let mut models = vec![bench.run().first_model];
    let mut updates: Vec<Vec<Digest>> = Vec::new();
    let blobs = aggregator::store::Blobs::open(&bench.path()).unwrap();
    let mut kept = Vec::new();
    for round in 0..5 {
        let report = |site: &str, value: f32| bench.reports(site, &weights(20, |_| value)).unwrap();
        let value = round as f32;
        updates.push(vec![report("a", value / 8.0), report("b", value / 16.0 + 1.0), report("c", value / 32.0 + 2.0)]);
        bench.merge();
        models.push(bench.run().model);
        kept = updates.iter().map(|round| round.iter().all(|blob| blobs.length(*blob).is_some())).collect();
        if round == 3 {
            assert_eq!(kept, [false, false, true, true]);
        }
    }
    assert!(models.iter().all(|model| blobs.length(*model).is_some()));
    assert_eq!(kept, [false; 5], "the run is over");
}

#[test]
fn the_updates_of_a_run_that_failed_leave_their_room_to_the_next() {
    let bench = Bench::with_run(100, 2, 1, 1);
    let delta = weights(100, |_| 0.5);
    let one = bench.manifest("a", &delta);
    bench.reports("a", &delta).unwrap();
    bench.joins("b");
    bench.clock.pass(Duration::from_secs(60));
    bench.federation().tick();
    assert!(matches!(bench.run().state, RunPhase::Failed));
    assert!(aggregator::store::Blobs::open(&bench.path()).unwrap().length(one.blob).is_none());
    assert!(
        bench.store().begin_upload(&UpdateManifest { run: "next".parse().unwrap(), ..one.clone() }, one.bytes).unwrap()
    );
}

/// A run of three rounds with momentum at the server; the aggregator dies where `disturb` says so.
fn with_momentum(disturb: impl Fn(&mut Bench)) -> Bench {
    let mut bench = Bench::empty();
    let mut draft = plan_draft("run", &["a", "b", "c"], 2, 3, 1);
    draft.aggregation.strategy = Strategy::FedAvgM { learning_rate: 0.7, momentum: 0.9 };
    bench.start_run_of(draft, &student(500, 0));
    for round in 0..3 {
        for (index, site) in ["a", "b", "c"].into_iter().enumerate() {
            bench.reports(site, &student(500, 3 * round + index)).unwrap();
        }
        disturb(&mut bench);
        bench.merge();
        disturb(&mut bench);
    }
    bench
}

pub(crate) fn student(values: usize, turn: usize) -> NamedTensors {
    let mut weights = NamedTensors::new();
    weights.insert("student.w", vec![values], (0..values).map(|place| (place + turn) as f32 / 777.0).collect());
    weights
}

#[test]
fn the_servers_momentum_survives_a_restart_at_every_step_of_a_run() {
    let undisturbed = with_momentum(|_| {});
    let restarted = with_momentum(Bench::restart);
    assert_eq!(restarted.run().state, RunPhase::Finished);
    assert_eq!(restarted.run().model, undisturbed.run().model);
    // It is momentum: without what was kept, the last round would have come to another model.
    let value = |bench: &Bench| bench.blob(bench.run().model).get("student.w").unwrap().values[10];
    let mean = |round: usize| (10.0 + 3.0 * round as f32 + 1.0) / 777.0;
    let (mut weight, mut velocity) = (10.0 / 777.0, 0.0);
    for round in 0..3 {
        velocity = 0.9 * velocity + mean(round);
        weight += 0.7 * velocity;
    }
    assert!((value(&restarted) - weight).abs() < 1e-6, "{} {weight}", value(&restarted));
}

#[test]
fn the_servers_state_outlives_the_update_that_it_has_the_bytes_of_and_no_older_one_is_kept() {
    let mut bench = Bench::empty();
    bench.limits.keep_updates_of_rounds = 0;
    bench.restart();
    let mut draft = plan_draft("run", &["a", "b", "c"], 1, 3, 1);
    draft.aggregation.strategy = Strategy::FedAvgM { learning_rate: 0.7, momentum: 0.9 };
    bench.start_run_of(draft, &student(500, 0));
    let below =
        |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let blobs = |bench: &Bench| below(&bench.path().join("blobs")).iter().flat_map(|folder| below(folder)).count();
    // One site alone, on the merge's grid: the first momentum is its update, byte for byte.
    let mut delta = student(500, 0);
    delta.iter_mut().flat_map(|(_, values)| values).for_each(|value| *value = (*value * 1024.0).round() / 1024.0);
    for round in 1..=3 {
        for site in ["b", "c"] {
            bench.says(site, Phase::Declined(Decline::DiskFull));
        }
        let update = bench.reports("a", &delta).unwrap();
        bench.merge();
        let closed = bench.store().rounds(&run_id()).unwrap();
        let states = closed.iter().filter_map(|record| match &record.state {
            RoundState::Closed(_, merged) => merged.states.first().copied(),
            _ => None,
        });
        let states: Vec<_> = states.collect();
        assert!(round > 1 || states == [update]);
        // The models, and while the run goes on one state.
        assert_eq!(blobs(&bench), round + 1 + usize::from(round < 3), "after round {round}");
        bench.restart();
    }
    assert_eq!(bench.run().state, RunPhase::Finished);
}

#[test]
fn a_run_that_ends_leaves_the_files_of_its_updates_to_be_closed_where_no_call_waits() {
    let bench = Bench::with_run(500, 3, 1, 1);
    // Files below this folder that have no name any more, and whose room is not given back.
    let gone = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let named = open.filter_map(|file| Some(std::fs::read_link(file.path()).ok()?.to_str()?.to_owned()));
        let below = bench.path().display().to_string();
        named.filter(|name| name.starts_with(&below) && name.ends_with(" (deleted)")).count()
    };
    all_report(&bench);
    assert_eq!(gone(), 0);
    bench.merge();
    assert_eq!((bench.run().state, gone()), (RunPhase::Finished, 3));
    bench.federation().close_removed();
    assert_eq!(gone(), 0);
}
