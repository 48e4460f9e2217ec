//! What cannot count is refused by name, and changes nothing. [`crate::refusal_table`] has what is refused of one message or file.

use common::{Digest, Refusal};

use crate::bench::{Bench, plan_draft, site_id, weights};

#[test]
fn a_delta_longer_than_the_plan_permits_is_refused_with_norm_and_bound() {
    let bench = Bench::empty();
    let mut draft = plan_draft("run", &["a"], 1, 1, 1);
    draft.privacy.max_delta_norm = 4.0;
    bench.start_run(draft, 100);
    let refusal = bench.reports("a", &weights(100, |_| 0.5)).unwrap_err();
    let told = "norm over all tensors is 5, above the 4 of the plan's `privacy.max_delta_norm`";
    assert!(matches!(&refusal, Refusal::Update(_, why) if why.contains(told)), "{refusal}");
    bench.reports("a", &weights(100, |_| 0.4)).unwrap();
}

#[test]
fn bytes_that_changed_on_the_way_start_over() {
    let bench = Bench::with_run(100, 2, 1, 1);
    let delta = weights(100, |_| 0.5);
    let (manifest, mut bytes) = (bench.manifest("a", &delta), delta.to_safetensors());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bench.send(&manifest, &bytes, 64, bytes.len()).unwrap();
    let expected = manifest.blob;
    assert!(matches!(bench.finish(&manifest), Err(Refusal::Corrupt { expected: told, .. }) if told == expected));
    assert_eq!(bench.begin(&manifest).unwrap().next_offset, 0);
    bytes[last] ^= 1;
    bench.send(&manifest, &bytes, 64, bytes.len()).unwrap();
    assert_eq!(bench.finish(&manifest), Ok(expected));
}

#[test]
fn without_room_nothing_is_acknowledged_and_the_upload_goes_on_when_there_is_room() {
    let mut bench = Bench::with_run(100, 2, 3, 1);
    let one = bench.manifest("a", &weights(100, |_| 0.5)).bytes;
    bench.limits.spool_bytes = 2 * one;
    bench.limits.keep_updates_of_rounds = 0;
    bench.restart();
    bench.reports("a", &weights(100, |_| 0.5)).unwrap();
    bench.reports("b", &weights(100, |_| 0.25)).unwrap();
    assert_eq!(bench.reports("c", &weights(100, |_| 0.125)), Err(Refusal::DiskFull));
    assert_eq!(bench.run().open.unwrap().reported.len(), 2);
    bench.limits.spool_bytes = 3 * one;
    bench.restart();
    bench.reports("c", &weights(100, |_| 0.125)).unwrap();
    bench.merge();
    // What is merged no longer takes room.
    for site in ["a", "b", "c"] {
        bench.reports(site, &weights(100, |_| 1.0)).unwrap();
    }
    bench.merge();
    assert_eq!(bench.run().rounds.len(), 2);
}

#[test]
fn models_and_plans_are_for_the_sites_of_their_run_alone() {
    let bench = Bench::empty();
    let ours = bench.start_run(plan_draft("run", &["a", "b"], 1, 1, 1), 20);
    let theirs = bench.start_run(plan_draft("theirs", &["c"], 1, 1, 1), 30);
    let federation = bench.federation();
    assert_eq!(federation.plan(&site_id("a"), ours.digest()).unwrap().canonical, ours.canonical_bytes());
    let unknown = Refusal::UnknownBlob(theirs.digest());
    assert_eq!(federation.plan(&site_id("a"), theirs.digest()), Err(unknown));
    assert_eq!(federation.blob(&site_id("c"), theirs.first_model, 0).unwrap().bytes, 4 * 30 + theirs_header(&theirs));
    let unknown = Refusal::UnknownBlob(theirs.first_model);
    assert_eq!(federation.blob(&site_id("a"), theirs.first_model, 0).unwrap_err(), unknown);
    assert!(federation.blob(&site_id("a"), Digest::of(b"?"), 0).is_err());
}

fn theirs_header(plan: &common::Plan) -> u64 {
    aggregator::layout::Layout::of(&plan.signature).unwrap().header().len() as u64
}

impl Bench {
    pub(crate) fn store_is_untouched(&self) -> bool {
        let run = self.run();
        let open = run.open.as_ref().unwrap();
        run.model == run.first_model && open.reported.is_empty() && run.rounds.is_empty()
    }
}
