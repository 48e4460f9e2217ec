//! A run that finetunes: updates hold the heads they name, sites' scores are noted, and the best model is picked.

use std::collections::BTreeMap;

use common::plan::FinetuningPlan;
use common::score::MeasuredOn;
use common::task::Metric;
use common::{Digest, NamedTensors, PlanDraft, Refusal, RoundNumber, Score, TaskName, UpdateManifest};

use crate::bench::{Bench, plan_draft, run_id, site_id};

const NAMES: [&str; 3] = ["backbone.norm.bias", "heads.cine.w", "heads.lge.w"];

fn task(name: &str) -> TaskName {
    TaskName::try_from(name.to_owned()).unwrap()
}

fn draft() -> PlanDraft {
    let declared = |name: &str| {
        serde_json::from_value(serde_json::json!({
            "name": name, "about": "", "kind": "segmentation", "labels": "masks", "classes": ["LV"], "input": {},
            "metrics": ["dice", "hd95"], "best": { "metric": "dice", "direction": "higher" },
        }))
        .unwrap()
    };
    let finetuning = FinetuningPlan { frozen_backbone: false, tasks: vec![declared("cine"), declared("lge")] };
    PlanDraft { finetuning: Some(finetuning), ..plan_draft("run", &["a", "b", "c"], 2, 2, 1) }
}

fn tensors(some: &[(&str, f32)]) -> NamedTensors {
    let mut tensors = NamedTensors::new();
    some.iter().for_each(|(name, value)| tensors.insert(*name, vec![4], vec![*value; 4]));
    tensors
}

fn bench() -> Bench {
    let bench = Bench::empty();
    bench.start_run_of(draft(), &tensors(&NAMES.map(|name| (name, 1.0))));
    bench
}

fn manifest(bench: &Bench, site: &str, delta: &NamedTensors, heads: &[(&str, u32)]) -> UpdateManifest {
    let heads = heads.iter().map(|(name, subjects)| (task(name), *subjects)).collect();
    UpdateManifest { heads, ..bench.manifest(site, delta) }
}

fn reports(bench: &Bench, manifest: &UpdateManifest, delta: &NamedTensors) -> Result<Digest, Refusal> {
    let bytes = delta.to_safetensors();
    bench.send(manifest, &bytes, 1 << 20, bytes.len())?;
    bench.finish(manifest)
}

#[test]
fn an_update_must_hold_the_heads_it_names_and_each_head_is_merged_over_its_own_sites() {
    let mut bench = bench();
    let of_cine = tensors(&[(NAMES[0], 0.5), (NAMES[1], 1.0)]);
    let good = manifest(&bench, "a", &of_cine, &[("cine", 10)]);
    for (heads, told) in [
        (&[][..], "holds one head or more"),
        (&[("lge", 10)], "tensor heads.cine.w: expected no such tensor"),
        (&[("cine", 10), ("lge", 10)], "bytes were announced"),
        (&[("views", 10)], "no task views"),
        (&[("cine", 0)], "0 subjects"),
        (&[("cine", 7)], "7 subjects"),
    ] {
        let other = UpdateManifest { heads: manifest(&bench, "a", &of_cine, heads).heads, ..good.clone() };
        let refusal = reports(&bench, &other, &of_cine).unwrap_err();
        assert!(matches!(&refusal, Refusal::Update(_, why) if why.contains(told)), "{heads:?}: {refusal}");
    }
    assert!(bench.store_is_untouched());

    let of_both = tensors(&[(NAMES[0], -0.5), (NAMES[1], 2.0), (NAMES[2], 4.0)]);
    let both = manifest(&bench, "b", &of_both, &[("cine", 40), ("lge", 5)]);
    bench.send(&both, &of_both.to_safetensors(), 7, 30).unwrap();
    // What an upload holds is known from its manifest after a restart as well.
    bench.restart();
    reports(&bench, &good, &of_cine).unwrap();
    reports(&bench, &both, &of_both).unwrap();
    let of_lge = tensors(&[(NAMES[0], 0.0), (NAMES[2], 1.0)]);
    reports(&bench, &manifest(&bench, "c", &of_lge, &[("lge", 5)]), &of_lge).unwrap();
    bench.merge();
    let round = bench.run().rounds.remove(0);
    assert_eq!(round.sites[1].heads, BTreeMap::from([(task("cine"), 40), (task("lge"), 5)]));
    let model = bench.blob(round.model.unwrap());
    let value = |name: &str| model.get(name).unwrap().values[0];
    // Of cine b has four times the subjects of a, and so twice its share; of lge b and c have the same.
    assert_eq!(value(NAMES[0]), 1.0);
    assert!((value(NAMES[1]) - (1.0 + 5.0 / 3.0)).abs() < 1e-5 && value(NAMES[2]) == 3.5, "{model:?}");
}

#[test]
fn scores_that_could_not_have_left_a_site_are_refused_and_the_best_model_is_that_of_the_best_mean() {
    let bench = bench();
    let score = |value: f64| Score {
        task: task("cine"),
        metric: Metric::Dice,
        on: MeasuredOn::Validation,
        value,
        subjects: 10,
    };
    let first = bench.run().first_model;
    let says = |site: &str, model: Digest, scores: &[Score]| {
        bench.federation().report_scores(&site_id(site), &run_id(), model, scores)
    };
    let other_run = "other".parse().unwrap();
    let refused = bench.federation().report_scores(&site_id("a"), &other_run, first, &[]);
    assert_eq!(refused, Err(Refusal::UnknownRun(other_run)));
    assert_eq!(says("d", first, &[]), Err(Refusal::UnknownRun(run_id())), "as if it were not there");
    let made_up = Digest::of(b"made up");
    assert_eq!(says("a", made_up, &[score(0.5)]), Err(Refusal::UnknownBlob(made_up)));
    let good = score(0.5);
    for (scores, told) in [
        (vec![Score { task: task("views"), ..good.clone() }], "no task views"),
        (vec![Score { metric: Metric::Auc, ..good.clone() }], "auc is no metric of task cine"),
        (vec![Score { subjects: 7, ..good.clone() }], "over 7 subjects"),
        (vec![Score { subjects: 0, ..good.clone() }], "over 0 subjects"),
        (vec![Score { value: f64::NAN, ..good.clone() }], "a number"),
        (vec![good.clone(), good.clone()], "is there twice"),
    ] {
        let refusal = says("a", first, &scores).unwrap_err();
        assert!(matches!(&refusal, Refusal::Scores(why) if why.contains(told)), "{refusal}");
    }
    assert!(bench.run().scores.is_empty());

    says("a", first, &[score(0.2)]).unwrap();
    says("a", first, &[score(0.4), Score { on: MeasuredOn::HeldOut, ..score(0.3) }]).unwrap();
    says("b", first, &[score(0.6)]).unwrap();
    let delta = tensors(&[(NAMES[0], 0.0), (NAMES[1], 0.0)]);
    for site in ["a", "b", "c"] {
        let moved = tensors(&[(NAMES[0], 0.0), (NAMES[1], 0.5)]);
        let delta = if site == "a" { &moved } else { &delta };
        reports(&bench, &manifest(&bench, site, delta, &[("cine", 10)]), delta).unwrap();
    }
    bench.merge();
    let next = bench.run().model;
    says("a", next, &[score(0.9)]).unwrap();
    let best = |bench: &Bench| bench.run().tasks[0].best;
    assert_eq!(best(&bench), Some((RoundNumber(0), 0.5)), "b has not measured the second yet");
    says("b", next, &[score(0.3)]).unwrap();
    assert_eq!(best(&bench).unwrap().0, RoundNumber(1));
    assert_eq!(bench.run().scores[0].sites[&site_id("a")].len(), 2);
    assert_eq!(bench.reopened().run().scores.len(), 2);
}
