//! A restart at any point goes on from what was written down, to the same bits.

use std::time::Duration;

use aggregator::federation::{Federation, OpenError};
use aggregator::status::{OpenState, RunPhase};
use common::{Decline, Digest, Directive, Phase};

use crate::bench::{Bench, weights};

/// Bytes between two syncs of an upload.
const SYNC_EVERY: usize = 8 << 20;

fn all_report(bench: &Bench) {
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
    let delta = weights(3 << 20, |place| (place % 100) as f32 / 64.0);
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
    bench.federation().note_remaining();
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
fn a_rotten_update_stops_the_merge_by_name_until_it_is_restored() {
    let bench = Bench::with_run(500, 2, 1, 1);
    all_report(&bench);
    let rotten = bench.manifest("b", &weights(500, |place| (place + 1) as f32 / 777.0)).blob;
    let path = aggregator::store::Blobs::open(&bench.path()).unwrap().path(rotten);
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[1234] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    assert!(!bench.federation().merge_frozen());
    let run = bench.run();
    assert_eq!(run.state, RunPhase::Running);
    assert!(run.because.unwrap().contains("update of b"));
    assert_eq!(run.model, run.first_model);
    std::fs::write(&path, &good).unwrap();
    bench.merge();
    assert_eq!((bench.run().state, bench.run().because), (RunPhase::Finished, None));
}

#[test]
fn one_state_folder_has_one_server() {
    let bench = Bench::empty();
    let second = Federation::open(&bench.path(), bench.limits, bench.clock.clone());
    assert!(matches!(second, Err(OpenError::Lock(_))));
}

#[test]
fn updates_of_old_rounds_are_removed_and_models_never() {
    let bench = Bench::with_run(20, 3, 4, 1);
    let mut models = vec![bench.run().first_model];
    let mut updates: Vec<Vec<Digest>> = Vec::new();
    for round in 0..4 {
        let report = |site: &str, value: f32| bench.reports(site, &weights(20, |_| value)).unwrap();
        let value = round as f32;
        updates.push(vec![report("a", value / 8.0), report("b", value / 16.0 + 1.0), report("c", value / 32.0 + 2.0)]);
        bench.merge();
        models.push(bench.run().model);
    }
    let blobs = aggregator::store::Blobs::open(&bench.path()).unwrap();
    assert!(models.iter().all(|model| blobs.length(*model).is_some()));
    let kept: Vec<bool> = updates.iter().map(|round| round.iter().all(|blob| blobs.length(*blob).is_some())).collect();
    assert_eq!(kept, [false, false, true, true]);
}
