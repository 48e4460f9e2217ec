//! What is planted into a hospital's files leaves it nowhere: not on the wire, inside TLS, from the enrolment on; not in a log, a state
//! folder or the output of a command, the doctor's with it; not when programs die, files are unreadable or folders are gone.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::canary::{Planted, Searched, found};
use tests::federation::Federation;
use tests::phantom::{self, SiteSpec};
use tests::programs;
use tests::story::{self, SITES, WITHIN};
use tests::tap::{self, Heard, Listening};

/// A hospital's export: a folder whose name, files and tags are full of strings.
fn export(planted: &mut Planted, site: &str, spec: &SiteSpec, root: &Path) -> PathBuf {
    let images = root.join("images").join(site);
    phantom::write_site(spec, 3, &images, &|_| {}).unwrap();
    let folder = images.join(planted.string(&format!("export of {site}")));
    planted.plant(&phantom::dicom_folder(&images), &folder).unwrap();
    folder
}

/// A federation and an aggregator that listens in.
fn begin(root: &Path, heard: &Heard) -> (Federation, Listening) {
    fs::create_dir_all(root).unwrap();
    fs::write(story::plan(root), include_str!("../plans/story.toml").replace("count = 3", "count = 2")).unwrap();
    tap::log_into(&root.join("logs/tap.log")).unwrap();
    let mut federation = Federation::create(root).unwrap();
    let listening = tap::listen(&federation.aggregator_state(), federation.address(), heard).unwrap();
    for site in SITES {
        // All that the agent itself would ever log.
        federation.set_variable(site, "RUST_LOG", "info,site_agent=trace,data=trace,model=trace,certs=trace");
    }
    (federation, listening)
}

/// What a site's doctor shows: its table, its JSON, and what it writes for whoever helps.
struct Examined {
    table: String,
    json: String,
    bundle: String,
}

fn examined(federation: &Federation, site: &str, folder: &Path, name: &str) -> Examined {
    let bundle = folder.join(format!("{site}-{name}.zip"));
    let table = federation.said_at_site(site, &["doctor"]).unwrap();
    let told = ["doctor", "--json", "--bundle", &bundle.display().to_string()];
    let json = federation.said_at_site(site, &told).unwrap();
    let checks: Value = serde_json::Deserializer::from_str(&json).into_iter().next().unwrap().unwrap();
    assert!(checks["checks"].as_array().unwrap().len() >= 20, "{json}");
    Examined { table, json, bundle: programs::texts(&bundle).unwrap() }
}

/// The same JSON without what a check has for whoever sits at that machine alone.
fn without_words_of_this_place(json: &str) -> String {
    let mut told: Value = serde_json::Deserializer::from_str(json).into_iter().next().unwrap().unwrap();
    for check in told["checks"].as_array_mut().unwrap() {
        check.as_object_mut().unwrap().remove("here");
    }
    told.to_string()
}

#[test]
fn no_planted_string_leaves_a_hospital_or_its_image_cache() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("federation");
    let (mut planted, heard, mut searched) = (Planted::default(), Heard::default(), Searched::default());
    let (mut federation, listening) = begin(&root, &heard);
    let mut sources = Vec::new();
    for (site, spec) in SITES.into_iter().zip([SiteSpec::b(12).small(), SiteSpec::c(12).small()]) {
        let source = export(&mut planted, site, &spec, &root);
        let before = heard.bytes();
        let invitation = federation.invite(site).unwrap();
        searched.through("shown", federation.said_at_site(site, &["enrol", &invitation]).unwrap().as_bytes());
        assert!(heard.bytes() > before, "the enrolment is heard as well");
        let (plan, from) = (story::plan(&root).display().to_string(), source.display().to_string());
        for words in [&["index", &from, "--plan", &plan][..], &["index", &from, "--plan", &plan, "--json"]] {
            searched.through("shown", federation.said_at_site(site, words).unwrap().as_bytes());
        }
        sources.push(source);
    }
    assert!(planted.strings() >= 200, "{}", planted.strings());
    // The search finds what is there.
    let mut planted_here = Searched::default();
    planted_here.below(&root.join("images"), &[]).unwrap();
    assert!(planted_here.leaks().len() > 200, "{planted_here}");

    // A run whose agents die, one with its trainer.
    story::start_run(&federation, &root).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    federation.wait_until("a trainer at work", WITHIN, |federation| Ok(federation.has_trainer(SITES[0]))).unwrap();
    federation.kill_agent(SITES[0]);
    federation.start_agent(SITES[0]).unwrap();
    let a_round = |federation: &Federation| Ok(!story::models(&story::run(federation)?).is_empty());
    federation.wait_until("the first round", WITHIN, a_round).unwrap();
    federation.kill_at_once(&[SITES[1]]).unwrap();
    federation.start_agent(SITES[1]).unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    for site in SITES {
        let Examined { table, json, bundle } = examined(&federation, site, folder.path(), "well");
        [table, json, bundle].iter().for_each(|told| searched.through("shown by the doctor", told.as_bytes()));
    }

    // A run on another grid, for which the images are read again: one hospital's export is gone.
    let gone = root.join("gone");
    fs::rename(&sources[0], &gone).unwrap();
    let plan = fs::read_to_string(story::plan(&root)).unwrap();
    let again = plan.replace("run = \"story\"", "run = \"again\"").replace("frame_size = 40", "frame_size = 44");
    fs::write(story::plan(&root), again.replace("spacing_mm = 4.0", "spacing_mm = 3.6")).unwrap();
    story::start_run(&federation, &root).unwrap();
    // An agent that asks before the server knows of the run would hear that the last one is over, and end.
    let log = federation.log("tap");
    let known = |_: &Federation| Ok(fs::read_to_string(&log)?.contains("run found run=again"));
    federation.wait_until("the second run at the server", WITHIN, known).unwrap();
    for site in SITES {
        federation.kill_agent(site);
        federation.start_lasting_agent(site).unwrap();
    }
    let declined = |federation: &Federation| {
        let status = federation.status()?;
        let runs = status["runs"].as_array().cloned().unwrap_or_default();
        let again = runs.iter().find(|run| run["run"] == "again").cloned().unwrap_or_default();
        Ok(again["open"]["declined"].as_object().is_some_and(|declined| !declined.is_empty()))
    };
    federation.wait_until("a declined round", WITHIN, declined).unwrap();
    // The folder that is gone is named to whoever sits there, and to nobody else.
    let Examined { table, json, bundle } = examined(&federation, SITES[0], folder.path(), "gone");
    assert!(table.contains("FAILURE") && !found(table.as_bytes()).is_empty(), "{table}");
    searched.through("shown by the doctor", without_words_of_this_place(&json).as_bytes());
    searched.through("shown by the doctor", bundle.as_bytes());
    let told = federation.said_at_site(SITES[1], &["doctor"]).unwrap();
    searched.through("shown by the doctor", told.as_bytes());
    // Heard to its end, agents at work.
    drop(listening);

    // The same agents and a third run at the real aggregator, which is killed in between.
    fs::rename(&gone, &sources[0]).unwrap();
    federation.start_aggregator().unwrap();
    federation.coordinator(&["run", "abort", "again", "--because", "its images are gone"]).unwrap();
    let plan = plan.replace("run = \"story\"", "run = \"last\"").replace("count = 2", "count = 1");
    fs::write(story::plan(&root), plan).unwrap();
    story::start_run(&federation, &root).unwrap();
    federation.kill_aggregator();
    federation.start_aggregator().unwrap();
    for site in SITES {
        federation.kill_agent(site);
        federation.start_agent(site).unwrap();
    }
    let last = |federation: &Federation| {
        let runs = federation.status()?["runs"].as_array().cloned().unwrap_or_default();
        Ok(runs.iter().any(|run| run["run"] == "last" && run["state"] == "finished"))
    };
    federation.wait_until("the end of the last run", WITHIN, last).unwrap();

    for site in SITES {
        for words in [&["plans"][..], &["ledger", "show"], &["ledger", "verify"], &["tasks"]] {
            searched.through("shown", federation.said_at_site(site, words).unwrap().as_bytes());
        }
    }
    for words in [&["status"][..], &["status", "--json"], &["ledger", "show"], &["run", "list"], &["doctor", "--json"]]
    {
        searched.through("shown", federation.coordinator(words).unwrap().as_bytes());
    }
    heard.all().iter().for_each(|bytes| searched.through("sent", bytes));
    let caches = SITES.map(|site| federation.site_state(site).join("images"));
    let images = root.join("images");
    let but: Vec<&Path> = caches.iter().map(PathBuf::as_path).chain([images.as_path()]).collect();
    searched.below(&root, &but).unwrap();
    println!("{} strings were looked for in {searched}", planted.strings());
    assert!(searched.leaks().is_empty(), "{} leaks:\n{}", searched.leaks().len(), searched.leaks().join("\n"));
    for (kind, least) in
        [("sent", 100_000), ("stored", 100_000), ("logs", 1_000), ("shown", 1_000), ("shown by the doctor", 10_000)]
    {
        assert!(searched.bytes_of(kind) > least, "{kind}: {searched}");
    }
}
