//! A run that finetunes: three hospitals with different labels, real processes, real DICOM.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::fixed_point::{Sums, mean};
use common::share::shares;
use common::{NamedTensors, SiteId};
use serde_json::Value;
use tests::federation::Federation;
use tests::phantom::{self, SiteSpec};
use tests::programs::{ProgramError, Programs, run};

const CINE: &str = "cine-sax-segmentation";
const LONG_AXIS: &str = "cine-lax-segmentation";
const DISEASE: &str = "cardiac-disease";
/// The labels that each hospital has.
const SITES: [(&str, &[&str]); 3] =
    [("site-a", &["masks.csv"]), ("site-b", &["masks.csv", "classes.csv"]), ("site-c", &["classes.csv"])];

type Hospital = (&'static str, &'static [&'static str]);

/// A plan of some tasks, declared by the program itself.
fn plan(tasks: &[&str], frozen: bool, sites: &[Hospital], quorum: i64, steps: i64) -> String {
    let program = Programs::build().unwrap().site_agent;
    let declared = run(&program, &[&["tasks", "--declare"], tasks].concat()).unwrap();
    let mut plan: toml::Table = include_str!("../plans/story.toml").parse().unwrap();
    let mut finetuning: toml::Table = declared.parse().unwrap();
    let finetuning = finetuning.remove("finetuning").unwrap();
    plan.insert("finetuning".to_owned(), finetuning);
    plan["finetuning"].as_table_mut().unwrap().insert("frozen_backbone".to_owned(), frozen.into());
    for task in plan["finetuning"]["tasks"].as_array_mut().unwrap() {
        task["training"].as_table_mut().unwrap().insert("batch_size".to_owned(), 8.into());
        // Of two diseases so few patients pick a model that an area would tell of one: it stays, and accuracy picks.
        if task["name"].as_str() == Some(DISEASE) {
            task["best"].as_table_mut().unwrap().insert("metric".to_owned(), "accuracy".into());
        }
    }
    plan["training"].as_table_mut().unwrap().insert("steps_per_round".to_owned(), steps.into());
    let rounds = plan["rounds"].as_table_mut().unwrap();
    rounds.insert("count".to_owned(), 2.into());
    rounds.insert("sites".to_owned(), sites.iter().map(|(site, _)| *site).collect::<Vec<_>>().into());
    rounds.insert("quorum".to_owned(), quorum.into());
    plan.to_string()
}

/// A federation whose hospitals have indexed images and approved the plan.
fn house(root: &Path, plan: &str, sites: &[Hospital]) -> Federation {
    let mut federation = Federation::create(&root.join("federation")).unwrap();
    let path = root.join("plan.toml");
    fs::write(&path, plan).unwrap();
    federation.start_aggregator().unwrap();
    for (site, tables) in sites {
        let folder = root.join("phantom").join(site);
        let spec = SiteSpec::b(36).same_mix().small();
        phantom::write_site(&spec, 11, &folder, &|_| {}).unwrap();
        let labels = phantom::labels_folder(&folder);
        for table in ["masks.csv", "classes.csv", "landmarks.csv"] {
            if !tables.contains(&table) {
                fs::remove_file(labels.join(table)).unwrap();
            }
        }
        federation.seed_secret(site, 5).unwrap();
        let settings = format!("held_out = 0.3\nthreads = 1\nreport_every_s = 0.1\nlabels = {labels:?}\n");
        fs::write(federation.site_state(site).join("site-agent.toml"), settings).unwrap();
        federation.enrol(site).unwrap();
        let dicom = phantom::dicom_folder(&folder).display().to_string();
        federation.at_site(site, &["index", &dicom, "--plan", &path.display().to_string()]).unwrap();
    }
    let digest = federation.start_run(sites[0].0, &path).unwrap();
    for (site, _) in sites {
        federation.at_site(site, &["approve", &digest]).unwrap();
    }
    federation
}

/// Waits for the end of the run, and for what was measured of its last model at so many sites.
fn finished(federation: &mut Federation, sites: usize) -> Value {
    let done = |federation: &Federation| Ok(federation.status()?["runs"][0]["state"] == "finished");
    federation.wait_until("the run finished", Duration::from_secs(300), done).unwrap();
    let scored = |federation: &Federation| {
        let scores = federation.status()?["runs"][0]["scores"].clone();
        Ok(scores[2]["sites"].as_object().is_some_and(|held| held.len() == sites))
    };
    federation.wait_until("the last model measured by all", Duration::from_secs(60), scored).unwrap();
    federation.status().unwrap()["runs"][0].clone()
}

fn model(federation: &Federation, root: &Path, round: u32) -> (PathBuf, NamedTensors) {
    let path = root.join(format!("model-{round}.safetensors"));
    let (out, round) = (path.display().to_string(), round.to_string());
    federation.coordinator(&["model", "--run", "story", "--round", &round, "--out", &out]).unwrap();
    let weights = NamedTensors::from_safetensors(&fs::read(&path).unwrap()).unwrap();
    (path, weights)
}

/// What a site sent in the last round.
fn sent(federation: &Federation, site: &str) -> NamedTensors {
    let jobs = fs::read_dir(federation.site_state(site).join("jobs/story")).unwrap().flatten();
    let last = jobs.map(|job| job.path()).find(|job| job.to_string_lossy().contains("/00002-")).unwrap();
    NamedTensors::from_safetensors(&fs::read(last.join("sealed.safetensors")).unwrap()).unwrap()
}

#[test]
fn each_head_is_the_mean_over_the_sites_that_have_its_labels_and_no_other_site_sends_it() {
    let root = tempfile::tempdir().unwrap();
    let mut federation = house(root.path(), &plan(&[CINE, DISEASE], false, &SITES, 3, 8), &SITES);
    SITES.iter().for_each(|(site, _)| federation.start_agent(site).unwrap());
    let run = finished(&mut federation, 3);

    let part =
        |site: &str| run["rounds"][1]["sites"].as_array().unwrap().iter().find(|part| part["site"] == site).unwrap();
    let heads = |site: &str| -> BTreeMap<String, u32> {
        let heads = part(site)["heads"].as_object().unwrap().iter();
        heads.map(|(task, subjects)| (task.clone(), subjects.as_u64().unwrap() as u32)).collect()
    };
    let names = |site: &str| heads(site).into_keys().collect::<Vec<_>>();
    assert_eq!(SITES.map(|(site, _)| names(site)), [vec![CINE], vec![DISEASE, CINE], vec![DISEASE]]);

    // From what the sites sent to what was published, to the bit.
    let ((_, base), (path, last)) = (model(&federation, root.path(), 1), model(&federation, root.path(), 2));
    let updates: BTreeMap<SiteId, NamedTensors> =
        SITES.iter().map(|(site, _)| (site.parse().unwrap(), sent(&federation, site))).collect();
    let (mut moved, mut of_heads) = (0, BTreeMap::<&str, usize>::new());
    for (name, before) in base.iter() {
        let task = [CINE, DISEASE].into_iter().find(|task| name.starts_with(&format!("heads.{task}.")));
        let subjects = |site: &SiteId| match task {
            Some(task) => heads(site.as_str())[task],
            None => part(site.as_str())["subjects"].as_u64().unwrap() as u32,
        };
        let having: Vec<&SiteId> = updates.keys().filter(|site| updates[*site].get(name).is_some()).collect();
        let expected = SITES.iter().filter(|(site, _)| task.is_none_or(|task| heads(site).contains_key(task))).count();
        assert_eq!(having.len(), expected, "{name}");
        let shares = shares(&having.iter().map(|site| ((*site).clone(), subjects(site))).collect(), 0.5, 0.5);
        let mut sums = Sums::new(before.values.len());
        for site in &having {
            sums.add(&[(updates[*site].get(name).unwrap().values.as_slice(), shares[*site])]).unwrap();
        }
        let total = shares.values().map(|share| u64::from(share.0)).sum();
        let next = sums
            .integers()
            .iter()
            .zip(&before.values)
            .map(|(sum, before)| (f64::from(*before) + f64::from(mean(*sum, total))) as f32);
        let after = &last.get(name).unwrap().values;
        assert!(next.zip(after).all(|(next, after)| next == *after), "{name}");
        moved += usize::from(*after != before.values);
        *of_heads.entry(task.unwrap_or("backbone")).or_default() += 1;
    }
    assert!(of_heads.len() == 3 && moved * 10 > base.iter().count() * 9, "{of_heads:?}, {moved} moved");

    // Every site measured every model of its own tasks, in scalars and rounded counts.
    let scores = run["scores"].as_array().unwrap();
    assert_eq!(scores.iter().map(|model| model["round"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    for (site, tables) in SITES {
        for model in scores {
            let own = model["sites"][site].as_array().unwrap();
            let tasks =
                own.iter().map(|score| score["task"].as_str().unwrap()).collect::<std::collections::BTreeSet<_>>();
            assert_eq!(tasks.contains(CINE), tables.contains(&"masks.csv"), "{site}: {own:?}");
            assert_eq!(tasks.contains(DISEASE), tables.contains(&"classes.csv"), "{site}: {own:?}");
            assert!(own.iter().all(|score| score["subjects"].as_u64().unwrap() % 5 == 0));
            let picking = own.iter().filter(|score| score["task"] == DISEASE && score["on"] == "validation");
            assert!(picking.into_iter().all(|score| score["metric"] == "accuracy"), "{site}: {own:?}");
        }
    }
    assert!(run["tasks"].as_array().unwrap().iter().all(|task| task["best"].is_array()), "{}", run["tasks"]);
    let text = federation.coordinator(&["status"]).unwrap();
    assert!(text.contains("best model: that of round") && text.contains("model of round"), "{text}");

    // What came of it is used at a site without labels of its own.
    let (file, plan) = (path.display().to_string(), root.path().join("plan.toml").display().to_string());
    let adopted = root.path().join("adopted").display().to_string();
    federation.at_site("site-c", &["adopt", &file, "--plan", &plan, "--task", CINE, "--out", &adopted]).unwrap();
    let said = root.path().join("said").display().to_string();
    let told = federation.at_site("site-c", &["predict", "--finetuned", &adopted, "--out", &said, "--json"]).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(told["masks"].as_u64().unwrap() > 0, "{told}");
    let unknown = federation.at_site("site-c", &["adopt", &file, "--plan", &plan, "--task", "lge", "--out", &adopted]);
    let Err(ProgramError::Failed { words, .. }) = unknown else { panic!("adopted a task that the run does not have") };
    assert!(words.contains("has no task \"lge\": cine-sax-segmentation, cardiac-disease"), "{words}");
}

#[test]
fn a_frozen_backbone_is_neither_sent_nor_moved_and_a_killed_trainer_and_a_site_of_wrong_labels_hold_nobody_up() {
    let root = tempfile::tempdir().unwrap();
    let sites = &SITES[1..];
    let mut federation = house(root.path(), &plan(&[CINE, LONG_AXIS, DISEASE], true, sites, 1, 60), sites);
    // The readers of one hospital draw no atria, as an import of ACDC: that task is not its own, and the others are.
    let codes = phantom::labels_folder(&root.path().join("phantom/site-b")).join("labels.toml");
    let text = fs::read_to_string(&codes).unwrap();
    let without = text.lines().filter(|line| !line.starts_with("LA") && !line.starts_with("RA"));
    fs::write(&codes, without.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    // A slip of the pen at another.
    let classes = phantom::labels_folder(&root.path().join("phantom/site-c")).join("classes.csv");
    let text = fs::read_to_string(&classes).unwrap().replacen("MINF", "MINFARCT", 1);
    fs::write(&classes, text).unwrap();
    sites.iter().for_each(|(site, _)| federation.start_agent(site).unwrap());
    let started = federation.site_state("site-b").join("jobs/story");
    let at_work = |folder: &Path| {
        let jobs = fs::read_dir(folder).into_iter().flatten().flatten();
        jobs.filter_map(|job| fs::read_to_string(job.path().join("progress.jsonl")).ok())
            .any(|lines| lines.lines().count() > 25)
    };
    federation
        .wait_until("a trainer past its first checkpoint", Duration::from_secs(120), |_| Ok(at_work(&started)))
        .unwrap();
    assert!(federation.kill_trainer("site-b").unwrap());
    let run = finished(&mut federation, 1);

    let left_out = &run["rounds"][0]["left_out"][0];
    assert_eq!(left_out["site"], "site-c", "{run}");
    assert!(left_out["reason"].as_str().unwrap().contains("no usable labels for any task of the run"), "{left_out}");
    let log = fs::read_to_string(federation.log("site-c")).unwrap();
    assert!(log.contains("labels-refused.txt says why") && !log.contains("classes.csv"), "{log}");
    let why = fs::read_to_string(federation.site_state("site-c").join("images/labels-refused.txt")).unwrap();
    assert!(why.contains("classes.csv, line"), "the person at the site hears which line: {why}");
    assert!(fs::read_to_string(federation.log("site-b")).unwrap().contains("the trainer was killed"));
    let sent = sent(&federation, "site-b");
    let of = |task: &str| sent.iter().filter(|(name, _)| name.starts_with(&format!("heads.{task}."))).count();
    assert!(of(CINE) > 0 && of(DISEASE) > 0 && of(LONG_AXIS) == 0, "{:?}", sent.signature());
    assert_eq!(of(CINE) + of(DISEASE), sent.iter().count(), "{:?}", sent.signature());
    let ((_, first), (_, last)) = (model(&federation, root.path(), 0), model(&federation, root.path(), 2));
    assert_eq!(first.under("backbone."), last.under("backbone."));
    // Nor is it fetched again: of the second round's model, and of the last, what came is the heads.
    let log = fs::read_to_string(federation.log("site-b")).unwrap();
    let heads: usize =
        last.iter().filter(|(name, _)| name.starts_with("heads.")).map(|(_, head)| 4 * head.values.len()).sum();
    let came = format!("bytes={heads}");
    let changes =
        log.lines().filter(|line| line.contains("what has changed of the model is here") && line.ends_with(&came));
    assert_eq!(changes.count(), 2, "{came}: {log}");
    assert!(last.iter().any(|(name, tensor)| tensor != first.get(name).unwrap()));
}

#[test]
fn the_last_model_is_fetched_and_measured_although_other_runs_failed_or_wait_meanwhile() {
    let root = tempfile::tempdir().unwrap();
    let sites = &SITES[1..2];
    let written = plan(&[DISEASE], true, sites, 1, 8);
    let mut federation = house(root.path(), &written, sites);
    // Whom nothing is asked of any more hears of the one that waits, or else of the one that ended last.
    for name in ["mistaken", "waiting"] {
        let other = root.path().join(format!("{name}.toml"));
        fs::write(&other, written.replace("run = \"story\"", &format!("run = \"{name}\""))).unwrap();
        federation.start_run("site-b", &other).unwrap();
    }
    federation.coordinator(&["run", "abort", "mistaken", "--because", "the wrong plan"]).unwrap();
    federation.coordinator(&["run", "pause", "waiting"]).unwrap();
    federation.start_agent("site-b").unwrap();
    let run = finished(&mut federation, 1);
    assert!(run["scores"][2]["sites"]["site-b"].is_array(), "{run:#}");
    assert_eq!(federation.end_of_agent("site-b", Duration::from_secs(60)).unwrap(), Some(0));
    let log = fs::read_to_string(federation.log("site-b")).unwrap();
    assert!(!log.contains("stopping the trainer"), "{log}");
    let ledger = federation.at_site("site-b", &["ledger", "show"]).unwrap();
    let held = |kind: &str| ledger.lines().filter(|line| line.contains(kind)).count();
    assert_eq!([held("run-finished"), held("run-failed")], [1, 0], "{ledger}");
}
