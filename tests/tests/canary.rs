//! What is planted into a hospital's files leaves it nowhere: not on the wire, inside TLS; not in a log, a state folder or the
//! output of a command; not when programs die, files are unreadable or folders are gone.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::Path;

use tests::canary::{Planted, found, found_below};
use tests::federation::Federation;
use tests::phantom::{self, SiteSpec};
use tests::story::{self, SITES, WITHIN};
use tests::tap::{self, Heard};

/// A story whose hospitals' files are full of strings; returns what was planted, and what the commands showed.
fn prepare(root: &Path) -> (Planted, String) {
    fs::create_dir_all(root).unwrap();
    fs::write(story::plan(root), include_str!("../plans/story.toml").replace("count = 3", "count = 2")).unwrap();
    let mut federation = Federation::create(root).unwrap();
    federation.start_aggregator().unwrap();
    let (mut planted, mut shown) = (Planted::default(), String::new());
    for (site, spec) in SITES.into_iter().zip([SiteSpec::b(12).small(), SiteSpec::c(12).small()]) {
        let images = root.join("images").join(site);
        phantom::write_site(&spec, 3, &images, &|_| {}).unwrap();
        let folder = images.join(planted.string(&format!("export of {site}")));
        planted.plant(&phantom::dicom_folder(&images), &folder).unwrap();
        federation.enrol(site).unwrap();
        let (plan, source) = (story::plan(root).display().to_string(), folder.display().to_string());
        shown += &federation.at_site(site, &["index", &source, "--plan", &plan]).unwrap();
        shown += &federation.at_site(site, &["index", &source, "--plan", &plan, "--json"]).unwrap();
    }
    (planted, shown)
}

#[test]
fn no_planted_string_leaves_a_hospital_or_its_image_cache() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("federation");
    let (planted, mut shown) = prepare(&root);
    assert!(planted.strings() >= 200, "{}", planted.strings());
    // The search finds what is there: in the files, and in the caches' own folder.
    assert!(!found_below(&root.join("images"), &[]).unwrap().is_empty());

    // The first round at an aggregator that listens in.
    let mut federation = Federation::open(&root).unwrap();
    let heard = Heard::default();
    let listening = tap::listen(&federation.aggregator_state(), federation.address(), &heard).unwrap();
    story::start_run(&federation, &root).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    federation.wait_until("a trainer at work", WITHIN, |federation| Ok(federation.has_trainer(SITES[0]))).unwrap();
    federation.kill_agent(SITES[0]);
    federation.start_agent(SITES[0]).unwrap();
    let rounds = |federation: &Federation| Ok(!story::models(&story::run(federation)?).is_empty());
    federation.wait_until("the first round", WITHIN, rounds).unwrap();
    drop(listening);
    // The rest at the real one, which is killed in between.
    federation.start_aggregator().unwrap();
    federation.kill_aggregator();
    federation.start_aggregator().unwrap();
    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");

    // A run on another grid, for which the images are read again: one hospital's export is gone, the other's cannot be read.
    let mut sources: Vec<_> = Vec::new();
    for site in SITES {
        let images = root.join("images").join(site);
        let of_site = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path());
        sources.push(of_site.into_iter().find(|path| !found(path.as_os_str().as_encoded_bytes()).is_empty()).unwrap());
    }
    fs::rename(&sources[0], root.join("gone")).unwrap();
    let plan = fs::read_to_string(story::plan(&root)).unwrap();
    let plan = plan.replace("run = \"story\"", "run = \"again\"").replace("frame_size = 40", "frame_size = 44");
    fs::write(story::plan(&root), plan.replace("spacing_mm = 4.0", "spacing_mm = 3.6")).unwrap();
    story::start_run(&federation, &root).unwrap();
    // An agent that asks before the server knows of the run would hear that the last one is over, and end.
    let log = federation.log("aggregator");
    let known = |_: &Federation| Ok(fs::read_to_string(&log)?.contains("run found run=again"));
    federation.wait_until("the second run at the server", WITHIN, known).unwrap();
    for site in SITES {
        federation.kill_agent(site);
        federation.start_agent(site).unwrap();
    }
    let declined = |federation: &Federation| {
        let status = federation.status()?;
        let runs = status["runs"].as_array().cloned().unwrap_or_default();
        let again = runs.iter().find(|run| run["run"] == "again").cloned().unwrap_or_default();
        Ok(again["open"]["declined"].as_object().is_some_and(|declined| !declined.is_empty()))
    };
    federation.wait_until("a declined round", WITHIN, declined).unwrap();

    for site in SITES {
        for words in [&["plans"][..], &["ledger", "show"], &["ledger", "verify"], &["tasks"]] {
            shown += &federation.at_site(site, words).unwrap();
        }
    }
    for words in [&["status"][..], &["status", "--json"], &["ledger", "show"], &["run", "list"]] {
        shown += &federation.coordinator(words).unwrap();
    }
    let caches = SITES.map(|site| federation.site_state(site).join("images"));
    let planted_here = root.join("images");
    let gone = root.join("gone");
    let but: Vec<&Path> =
        caches.iter().map(|path| path.as_path()).chain([planted_here.as_path(), gone.as_path()]).collect();
    let wire = heard.all();
    let bytes: usize = wire.iter().map(Vec::len).sum();
    assert!(bytes > 100_000, "{bytes} bytes passed");
    let mut leaks: Vec<String> = wire.iter().flat_map(|bytes| found(bytes)).map(|it| format!("wire: …{it}…")).collect();
    leaks.extend(found(shown.as_bytes()).into_iter().map(|it| format!("shown: …{it}…")));
    leaks.extend(found_below(&root, &but).unwrap());
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
    println!(
        "{} strings were looked for in {bytes} bytes of the wire, in the logs and in every folder: none",
        planted.strings()
    );
}
