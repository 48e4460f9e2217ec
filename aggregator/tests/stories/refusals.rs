//! What cannot count is refused by name, and changes nothing.

use common::{Digest, Refusal, RoundNumber, UpdateManifest};

use crate::bench::{Bench, plan_draft, run_id, site_id, weights};

#[test]
fn an_announcement_that_cannot_be_of_this_round_is_refused_before_a_byte_is_taken() {
    let bench = Bench::with_run(100, 2, 2, 1);
    let good = bench.manifest("a", &weights(100, |_| 0.5));
    let (plan, base) = (good.plan, good.base);
    let other = Digest::of(b"other");
    type Change = fn(&mut UpdateManifest);
    let cases: [(Change, Refusal); 7] = [
        (|m| m.run = "other".parse().unwrap(), Refusal::UnknownRun("other".parse().unwrap())),
        (|m| m.round = RoundNumber(2), Refusal::RoundNotOpen { asked: RoundNumber(2), open: RoundNumber(1) }),
        (|m| m.round = RoundNumber(0), Refusal::RoundNotOpen { asked: RoundNumber(0), open: RoundNumber(1) }),
        (|m| m.plan = Digest::of(b"other"), Refusal::PlanDiffers { expected: plan, found: other }),
        (|m| m.base = Digest::of(b"other"), Refusal::BaseDiffers { expected: base, found: other }),
        (|m| m.site = "d".parse().unwrap(), Refusal::SpeaksForAnother { peer: site_id("a"), claimed: site_id("d") }),
        (|m| m.site = "b".parse().unwrap(), Refusal::SpeaksForAnother { peer: site_id("a"), claimed: site_id("b") }),
    ];
    for (change, expected) in cases {
        let mut manifest = good.clone();
        change(&mut manifest);
        assert_eq!(bench.federation().begin_upload(&site_id("a"), manifest), Err(expected));
    }
    let shapes: [(Change, &str); 9] = [
        (|m| m.bytes += 1, "bytes were announced"),
        (|m| m.bytes = 0, "bytes were announced"),
        (|m| m.bytes = u64::MAX, "bytes were announced"),
        (|m| m.subjects = 0, "0 subjects"),
        (|m| m.subjects = 12, "12 subjects"),
        (|m| m.subjects = u32::MAX, "subjects"),
        (|m| m.steps = 0, "0 steps"),
        (|m| m.steps = 11, "11 steps"),
        (|m| m.meters.loss = f64::NAN, "meter"),
    ];
    for (change, told) in shapes {
        let mut manifest = good.clone();
        change(&mut manifest);
        let refusal = bench.begin(&manifest).unwrap_err();
        assert!(matches!(&refusal, Refusal::Update(why) if why.contains(told)), "{refusal}");
    }
    let uninvited = UpdateManifest { site: site_id("d"), ..good };
    assert_eq!(bench.begin(&uninvited), Err(Refusal::NotInvited { run: run_id(), site: site_id("d") }));
    assert!(bench.store_is_untouched());
}

#[test]
fn bytes_that_are_no_mergeable_update_are_refused_at_the_end_and_the_round_goes_on() {
    let bench = Bench::with_run(100, 2, 1, 1);
    let with = |value: f32| weights(100, |place| if place == 57 { value } else { 0.0 });
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 8.5, -1e30] {
        let refusal = bench.reports("a", &with(value)).unwrap_err();
        assert!(matches!(&refusal, Refusal::Update(why) if why.contains("position 57")), "{value}: {refusal}");
    }
    let mut renamed = weights(100, |_| 0.0).to_safetensors();
    let place = renamed.windows(6).position(|window| window == b"center").unwrap();
    renamed[place..place + 6].copy_from_slice(b"c_nter");
    let manifest = UpdateManifest { blob: Digest::of(&renamed), ..bench.manifest("a", &weights(100, |_| 0.0)) };
    bench.send(&manifest, &renamed, 64, renamed.len()).unwrap();
    let refusal = bench.finish(&manifest).unwrap_err();
    assert!(matches!(&refusal, Refusal::Update(why) if why.contains("c_nter")), "{refusal}");

    assert!(bench.store_is_untouched());
    for site in ["a", "b", "c"] {
        bench.reports(site, &weights(100, |_| 0.5)).unwrap();
    }
    bench.merge();
    assert_eq!(bench.run().rounds[0].sites.len(), 3);
}

#[test]
fn a_delta_longer_than_the_plan_permits_is_refused_with_norm_and_bound() {
    let bench = Bench::empty();
    let mut draft = plan_draft("run", &["a"], 1, 1, 1);
    draft.privacy.max_delta_norm = 4.0;
    bench.start_run(draft, 100);
    let refusal = bench.reports("a", &weights(100, |_| 0.5)).unwrap_err();
    let told = "norm over all tensors is 5, above the 4 of the plan's `privacy.max_delta_norm`";
    assert!(matches!(&refusal, Refusal::Update(why) if why.contains(told)), "{refusal}");
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
fn a_chunk_of_nothing_announced_or_past_the_end_is_refused() {
    let bench = Bench::with_run(100, 2, 1, 1);
    let manifest = bench.manifest("a", &weights(100, |_| 0.5));
    let key = aggregator::store::UpdateKey::of(&manifest);
    let chunk = |offset, data: &[u8]| bench.federation().upload_chunk(&key, manifest.blob, offset, data);
    assert!(matches!(chunk(0, b"data"), Err(Refusal::Offset { expected: 0, .. })), "nothing was announced");
    bench.begin(&manifest).unwrap();
    assert!(matches!(chunk(0, b""), Err(Refusal::Malformed(_))));
    assert!(matches!(chunk(manifest.bytes - 1, b"xy"), Err(Refusal::Malformed(_))));
    assert!(matches!(chunk(u64::MAX, b"x"), Err(Refusal::Malformed(_))));
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
    assert_eq!(federation.plan(&site_id("a"), ours.digest()).unwrap(), ours.canonical_bytes());
    let unknown = Refusal::UnknownBlob(theirs.digest());
    assert_eq!(federation.plan(&site_id("a"), theirs.digest()), Err(unknown));
    assert_eq!(federation.blob(&site_id("c"), theirs.first_model).unwrap().bytes, 4 * 30 + theirs_header(&theirs));
    let unknown = Refusal::UnknownBlob(theirs.first_model);
    assert_eq!(federation.blob(&site_id("a"), theirs.first_model).unwrap_err(), unknown);
    assert!(federation.blob(&site_id("a"), Digest::of(b"?")).is_err());
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
