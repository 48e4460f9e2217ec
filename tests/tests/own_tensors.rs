//! Tensors that a plan leaves to the sites are each site's own, and shares may be counted by images.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::PathBuf;

use common::NamedTensors;
use serde_json::Value;
use tests::federation::Federation;
use tests::story::{self, SITES, WITHIN};

const SETTINGS: &str = "
[aggregation]
share_by = \"examples\"
share_alpha = 1.0
share_cap = 1.0
keep_local = [\"*.norm*\"]
[privacy]
noise_multiplier = 1e-8
";

fn tensors(file: PathBuf) -> NamedTensors {
    NamedTensors::from_safetensors(&fs::read(file).unwrap()).unwrap()
}

/// The folder of a site's job in a round, while it is there.
fn job(federation: &Federation, site: &str, round: u32) -> Option<PathBuf> {
    let jobs = federation.site_state(site).join("jobs/story");
    let of_round = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{round:05}-"));
    fs::read_dir(jobs).ok()?.map(|entry| entry.unwrap().path()).find(of_round)
}

#[test]
fn norms_that_stay_at_their_sites_are_in_no_update_go_on_from_round_to_round_and_are_untouched_in_the_merged_model() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    story::prepare(root);
    let written =
        fs::read_to_string(story::plan(root)).unwrap().replace("steps_per_round = 300", "steps_per_round = 20");
    fs::write(story::plan(root), written + SETTINGS).unwrap();
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, root).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!((run["state"].as_str(), story::models(&run).len()), (Some("finished"), 3), "{run:#}");
    let own_model = |site: &str| root.join(format!("{site}.safetensors"));
    let fetch = |federation: &Federation, site: &str| {
        federation.at_site(site, &["model", "--run", "story", "--out", own_model(site).to_str().unwrap()])
    };
    let both = |federation: &Federation| Ok(SITES.iter().all(|site| fetch(federation, site).is_ok()));
    federation.wait_until("the last model at both sites", WITHIN, both).unwrap();
    SITES.iter().for_each(|site| federation.kill_agent(site));
    let told = federation.at_site(SITES[0], &["plans"]).unwrap();
    for part in
        ["without *.norm*, which stay here", "noise of standard deviation 0.00001", "images trained from, in fives"]
    {
        assert!(told.contains(part), "{part:?} is missing from:\n{told}");
    }

    let is_norm = |name: &str| name.contains(".norm");
    let first = tensors(root.join("first-model.safetensors"));
    let out = root.join("merged.safetensors");
    federation.coordinator(&["model", "--run", "story", "--out", out.to_str().unwrap()]).unwrap();
    let merged = tensors(out);
    assert_eq!(merged.clone().filtered(is_norm), first.clone().filtered(is_norm));
    assert_ne!(merged.clone().filtered(|name| !is_norm(name)), first.clone().filtered(|name| !is_norm(name)));

    let own = SITES.map(|site| {
        let folder = job(&federation, site, 3).unwrap();
        let (sent, local) = (tensors(folder.join("sealed.safetensors")), tensors(folder.join("local.safetensors")));
        assert!(sent.iter().all(|(name, _)| !is_norm(name)));
        assert_eq!(sent.signature().len() + local.signature().len(), first.signature().len());
        assert_ne!(local, first.clone().filtered(is_norm), "norms are trained");
        let trained = tensors(folder.join("delta.safetensors"));
        let noise = sent.minus(&trained).unwrap();
        let each = noise.l2_norm() / (noise.signature().value_count() as f64).sqrt();
        assert!((0.9e-5..1.1e-5).contains(&each), "noise of deviation {each} on every value that left");
        let begun: Value = serde_json::from_slice(&fs::read(folder.join("job.json")).unwrap()).unwrap();
        assert!(
            begun["local"].as_str().unwrap().contains("/00002-"),
            "it goes on from what the round before left here"
        );
        // The run is over, and the site's own model is the merged one with the site's own tensors.
        assert_eq!(tensors(own_model(site)), merged.clone().replaced_by(local.clone()));
        local
    });
    assert_ne!(own[0], own[1]);

    let sites = run["rounds"][0]["sites"].as_array().unwrap();
    let fractions: Vec<f64> = sites.iter().map(|site| site["share"].as_f64().unwrap()).collect();
    let counts = SITES.map(|site| {
        let result: Value =
            serde_json::from_slice(&fs::read(job(&federation, site, 3).unwrap().join("result.json")).unwrap()).unwrap();
        (result["examples"].as_u64().unwrap() / 5 * 5) as f64
    });
    assert!(counts[0] != counts[1] && counts.iter().all(|count| *count > 12.0), "images, not subjects: {counts:?}");
    assert!((fractions[0] - counts[0] / (counts[0] + counts[1])).abs() < 1e-5, "{fractions:?} {counts:?}");
}
