//! A site may multiply in bfloat16 beside another that does not: one model comes of it, near the one of single precision.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use common::NamedTensors;
use tests::federation::Federation;
use tests::story::{self, SITES};

/// A run of two rounds and two sites.
fn prepared(folder: &Path) -> PathBuf {
    let prepared = folder.join("prepared");
    let plan =
        story::KILLS.replace("count = 5", "count = 2").replace("\"site-b\", ", "").replace("quorum = 3", "quorum = 2");
    story::prepare_with(&prepared, &plan, &SITES);
    prepared
}

/// Trains the story's run with these settings at the first site, after `first` there: digests of its models, and the last one.
fn trained(prepared: &Path, settings: &str, first: impl FnOnce(&Federation)) -> (Vec<String>, NamedTensors) {
    let root = prepared.with_file_name(if settings.is_empty() { "f32" } else { "bf16" });
    story::copy(prepared, &root).unwrap();
    let mut federation = Federation::open(&root).unwrap();
    federation.write_settings(SITES[0], settings).unwrap();
    federation.start_aggregator().unwrap();
    first(&federation);
    story::start_run(&federation, &root).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    let out = root.join("model.safetensors");
    federation.coordinator(&["model", "--run", "story", "--out", out.to_str().unwrap()]).unwrap();
    (story::models(&run), NamedTensors::from_safetensors(&fs::read(out).unwrap()).unwrap())
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// The first site's settings change the models, and hardly.
fn assert_near((rounded, found): &(Vec<String>, NamedTensors), (single, expected): &(Vec<String>, NamedTensors)) {
    assert_eq!(rounded.len(), single.len());
    assert!(rounded.iter().zip(single).all(|(one, other)| one != other), "the setting changed nothing");
    let values = |model: &NamedTensors| model.iter().flat_map(|(_, tensor)| tensor.values.clone()).collect::<Vec<_>>();
    let (found, expected) = (values(found), values(expected));
    let apart = length(found.iter().zip(&expected).map(|(found, expected)| f64::from(found - expected)))
        / length(expected.iter().map(|value| f64::from(*value)));
    println!("the models are {apart:.1e} of their length apart");
    assert!(apart < 0.05, "the models are {apart:e} of their length apart");
}

#[test]
fn a_site_that_multiplies_in_bfloat16_takes_part_beside_one_in_single_precision() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepared(folder.path());
    let expected = trained(&prepared, "", |_| ());
    assert_near(&trained(&prepared, "precision = 'bf16'", |_| ()), &expected);
}

/// `cargo test --features tests/cuda --package tests --test precision`, on a machine with an NVIDIA GPU.
#[cfg(feature = "cuda")]
#[test]
fn a_site_on_a_gpu_takes_part_beside_one_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepared(folder.path());
    let expected = trained(&prepared, "", |_| ());
    let on_gpu = trained(&prepared, "device = 'cuda'\nprecision = 'bf16'", |federation| {
        let told = match federation.at_site(SITES[0], &["doctor"]) {
            Ok(told) => told,
            Err(error) => error.to_string(),
        };
        println!("{told}");
        assert!(told.contains("starts on cuda"), "{told}");
    });
    assert_near(&on_gpu, &expected);
}
