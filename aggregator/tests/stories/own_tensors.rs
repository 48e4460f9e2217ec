//! Tensors that sites keep for themselves, and shares by images.

use common::plan::{ShareBy, Strategy};
use common::{NamedTensors, Refusal, UpdateManifest};

use crate::bench::{Bench, plan_draft};

const NAMES: [&str; 3] = ["student.a.weight", "student.b.norm.weight", "student.c.weight"];

fn tensors(some: &[(&str, f32)]) -> NamedTensors {
    let mut tensors = NamedTensors::new();
    some.iter().for_each(|(name, value)| tensors.insert(*name, vec![4], vec![*value; 4]));
    tensors
}

fn value(model: &NamedTensors, name: &str) -> f32 {
    model.get(name).unwrap().values[0]
}

#[test]
fn what_sites_keep_is_refused_in_an_update_and_stays_as_it_was_while_the_rest_has_its_momentum_across_a_restart() {
    let nesterov = Strategy::Nesterov { learning_rate: 0.7, momentum: 0.9 };
    let after_three_rounds = |kept: &[&str]| {
        let mut bench = Bench::empty();
        let mut draft = plan_draft("run", &["a", "b", "c"], 3, 3, 1);
        draft.aggregation.strategy = nesterov;
        draft.aggregation.keep_local = toml::Value::from(kept.to_vec()).try_into().unwrap();
        bench.start_run_of(draft, &tensors(&NAMES.map(|name| (name, 1.0))));
        for round in 1..=3_u8 {
            let whole = |site: usize| tensors(&NAMES.map(|name| (name, f32::from(round) / 64.0 + site as f32 / 128.0)));
            for (place, site) in ["a", "b", "c"].into_iter().enumerate() {
                let delta = whole(place);
                if !kept.is_empty() {
                    let refusal = bench.reports(site, &delta).unwrap_err();
                    assert!(
                        matches!(&refusal, Refusal::Update(_, why) if why.contains("bytes were announced")),
                        "{refusal}"
                    );
                }
                bench.reports(site, &delta.filtered(|name| kept.is_empty() || !name.contains("norm"))).unwrap();
            }
            bench.merge();
            bench.restart();
        }
        let model = bench.run().model;
        bench.blob(model)
    };
    let (own, all) = (after_three_rounds(&["*.norm.*"]), after_three_rounds(&[]));
    assert_eq!(value(&own, NAMES[1]), 1.0);
    assert_ne!(value(&all, NAMES[1]), 1.0);
    for name in [NAMES[0], NAMES[2]] {
        assert_eq!(value(&own, name).to_bits(), value(&all, name).to_bits(), "{name}: as if nothing were kept");
    }
}

#[test]
fn by_images_a_site_of_three_times_as_many_counts_three_times_and_a_count_nobody_asked_for_is_refused() {
    let of = |by: ShareBy| {
        let bench = Bench::empty();
        let mut draft = plan_draft("run", &["a", "b"], 2, 1, 1);
        (draft.aggregation.share_by, draft.aggregation.share_alpha) = (by, 1.0);
        bench.start_run_of(draft, &tensors(&NAMES.map(|name| (name, 0.0))));
        bench
    };
    let delta = |value: f32| tensors(&NAMES.map(|name| (name, value)));
    let says = |bench: &Bench, site: &str, value: f32, examples: u32| {
        let (delta, bytes) = (delta(value), delta(value).to_safetensors());
        let manifest = UpdateManifest { examples, ..bench.manifest(site, &delta) };
        bench.send(&manifest, &bytes, 1 << 20, bytes.len()).and_then(|_| bench.finish(&manifest))
    };
    let bench = of(ShareBy::Examples);
    for (count, told) in [(0, "0 images: shares are counted by them"), (7, "7 images")] {
        let refusal = says(&bench, "a", 4.0, count).unwrap_err();
        assert!(matches!(&refusal, Refusal::Update(_, why) if why.contains(told)), "{refusal}");
    }
    assert!(bench.store_is_untouched());
    says(&bench, "a", 4.0, 300).unwrap();
    says(&bench, "b", 0.0, 100).unwrap();
    bench.merge();
    let model = bench.run().model;
    assert!((value(&bench.blob(model), NAMES[0]) - 3.0).abs() < 1e-5);

    let bench = of(ShareBy::Subjects);
    let refusal = says(&bench, "a", 4.0, 300).unwrap_err();
    assert!(matches!(&refusal, Refusal::Update(_, why) if why.contains("does not ask for their count")), "{refusal}");
}
