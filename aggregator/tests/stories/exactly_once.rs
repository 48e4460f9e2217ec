//! An update counts once, however often it is sent, whatever gets lost, whoever dies.

use common::seed::SeedScope;
use common::{Directive, Refusal, RoundNumber};
use rand::RngExt;

use crate::bench::{Bench, run_id, site_id, weights};

#[test]
fn three_reports_become_the_next_model_and_its_bytes_are_those_of_the_whole_sum() {
    let bench = Bench::with_run(100, 2, 1, 1);
    let base = bench.blob(bench.run().first_model);
    for (index, site) in ["a", "b", "c"].into_iter().enumerate() {
        bench.joins(site);
        bench.reports(site, &weights(100, |_| [0.25, 0.5, 0.75][index])).unwrap();
    }
    bench.merge();
    let run = bench.run();
    let model = bench.blob(run.model);
    assert_eq!(model.digest(), run.model);
    for ((_, found), (_, base)) in model.iter().zip(base.iter()) {
        for (found, base) in found.values.iter().zip(&base.values) {
            assert_eq!(*found, base + 0.5, "equal subjects count equally");
        }
    }
    let round = &run.rounds[0];
    assert_eq!(round.sites.len(), 3);
    assert!((round.sites[0].cosine.unwrap() - 1.0).abs() < 1e-9);
    assert!((round.meters.unwrap().loss - 5.0).abs() < 1e-9);
    // What a report reads is what was written.
    let json = serde_json::to_value(&run).unwrap();
    assert_eq!(json["rounds"][0]["sites"][0]["teacher_entropy"], 1.5);
    assert_eq!(serde_json::from_value::<aggregator::status::RunStatus>(json).unwrap(), run);
}

#[test]
fn a_site_is_told_whether_its_update_is_awaited() {
    let mut bench = Bench::with_run(100, 2, 2, 1);
    let awaited = |bench: &Bench, site| match bench.joins(site) {
        Directive::Train(assignment) => assignment.awaited,
        other => panic!("{site} is told {other:?}"),
    };
    assert!(awaited(&bench, "a") && awaited(&bench, "b"));
    bench.reports("a", &weights(100, |_| 0.5)).unwrap();
    assert!(!awaited(&bench, "a") && awaited(&bench, "b"));
    bench.restart();
    assert!(!awaited(&bench, "a") && awaited(&bench, "b"));
}

#[test]
fn the_same_update_again_gets_the_same_answer_and_another_one_is_a_conflict() {
    let bench = Bench::with_run(100, 2, 2, 1);
    let (first, second) = (weights(100, |_| 0.5), weights(100, |_| 0.25));
    let acknowledged = bench.reports("a", &first).unwrap();
    let manifest = bench.manifest("a", &first);
    for _ in 0..2 {
        let state = bench.begin(&manifest).unwrap();
        assert!(state.acknowledged && state.next_offset == manifest.bytes);
        assert_eq!(bench.finish(&manifest), Ok(acknowledged), "the answer was lost, and is given again");
    }
    let conflict = Refusal::Conflict { site: site_id("a"), round: RoundNumber(1) };
    let other = bench.manifest("a", &second);
    assert_eq!(bench.begin(&other), Err(conflict.clone()));
    assert_eq!(bench.finish(&other), Err(conflict));

    // Also after the round has closed and the next is open.
    bench.reports("b", &second).unwrap();
    bench.reports("c", &second).unwrap();
    bench.merge();
    assert_eq!(bench.finish(&manifest), Ok(acknowledged));
    assert!(bench.begin(&manifest).unwrap().acknowledged);
}

#[test]
fn two_sites_with_the_same_bytes_both_count() {
    let bench = Bench::with_run(50, 2, 1, 1);
    let delta = weights(50, |_| 1.0);
    for site in ["a", "b", "c"] {
        bench.reports(site, &delta).unwrap();
    }
    bench.merge();
    assert_eq!(bench.run().rounds[0].sites.len(), 3);
}

#[test]
fn a_chunk_that_arrives_twice_is_written_once_and_one_from_ahead_is_refused() {
    let bench = Bench::with_run(1000, 2, 1, 1);
    let delta = weights(1000, |place| place as f32 / 1000.0);
    let (manifest, bytes) = (bench.manifest("a", &delta), delta.to_safetensors());
    bench.send(&manifest, &bytes, 1000, 2000).unwrap();
    let key = aggregator::store::UpdateKey::of(&manifest);
    let chunk = |offset: usize, end: usize| {
        bench.federation().upload_chunk(&key, manifest.blob, offset as u64, &bytes[offset..end])
    };
    assert_eq!(chunk(0, 1000).unwrap().next_offset, 2000);
    assert_eq!(chunk(1000, 2000).unwrap().next_offset, 2000);
    assert_eq!(chunk(3000, 4000), Err(Refusal::Offset { expected: 2000, found: 3000 }));
    assert_eq!(chunk(1500, 2500), Err(Refusal::Offset { expected: 2000, found: 1500 }));
    assert!(matches!(bench.finish(&manifest), Err(Refusal::Offset { expected: 2000, .. })));
    bench.send(&manifest, &bytes, 1000, bytes.len()).unwrap();
    bench.finish(&manifest).unwrap();
}

/// Every site moves a coordinate of its own by a distinct power of two: a sum tells who counted, and how often.
#[test]
fn through_lost_answers_repeats_and_crashes_every_site_counts_exactly_once() {
    let (run, nobody) = (run_id(), site_id("nobody"));
    let scope = SeedScope { plan_seed: 3, run: &run, round: RoundNumber(0), site: &nobody };
    for history in 0..12 {
        let mut rng = scope.rng(history, "faults");
        let mut bench = Bench::with_run(40, 3, 2, 1);
        let mut crashes = 0;
        for _ in 0..2 {
            let mut waiting = vec!["a", "b", "c"];
            while !waiting.is_empty() {
                let site = waiting[rng.random_range(0..waiting.len())];
                let power = ["a", "b", "c"].iter().position(|it| *it == site).unwrap();
                let delta = weights(40, |_| 2.0_f32.powi(-(power as i32)));
                let (manifest, bytes) = (bench.manifest(site, &delta), delta.to_safetensors());
                bench.send(&manifest, &bytes, rng.random_range(1..80), rng.random_range(0..=bytes.len())).unwrap();
                if rng.random_range(0..4) == 0 {
                    crashes += 1;
                    bench.restart();
                    continue;
                }
                bench.send(&manifest, &bytes, 64, bytes.len()).unwrap();
                for _ in 0..rng.random_range(1..3) {
                    bench.finish(&manifest).unwrap();
                }
                if rng.random_range(0..4) == 0 {
                    crashes += 1;
                    bench.restart();
                    bench.finish(&manifest).unwrap();
                }
                waiting.retain(|it| *it != site);
            }
            if rng.random_range(0..2) == 0 {
                bench.restart();
            }
            bench.merge();
        }
        let status = bench.run();
        let (first, last) = (bench.blob(status.first_model), bench.blob(status.model));
        let moved = last.get("center").unwrap().values[0] - first.get("center").unwrap().values[0];
        let once_each = 2.0 * (1.0 + 0.5 + 0.25) / 3.0;
        assert!((moved - once_each).abs() < 1e-5, "history {history} with {crashes} crashes: {moved}");
    }
}
