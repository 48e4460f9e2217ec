//! A whole run of real programs with one hospital behind a proxy that opens TLS: the same models, certificates that are renewed
//! under it, and a revocation in the middle of an upload.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use aggregator::store::{SqliteStore, Store};
use tests::federation::Federation;
use tests::inspector::Inspector;
use tests::story::{self, SITES, WITHIN};

/// Life of a certificate: some renewals fall into a run.
const LIFE_S: u32 = 6;

/// The models of the story's run in a copy of a prepared federation.
fn models(federation: &mut Federation, root: &Path) -> Vec<String> {
    federation.start_aggregator().unwrap();
    story::start_run(federation, root).unwrap();
    SITES.iter().try_for_each(|site| federation.start_agent(site)).unwrap();
    let run = story::finished(federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    for round in run["rounds"].as_array().unwrap() {
        assert_eq!((round["attempt"].as_u64(), round["sites"].as_array().unwrap().len()), (Some(1), SITES.len()));
    }
    story::models(&run)
}

#[test]
fn a_run_with_a_site_behind_an_inspector_ends_with_the_models_of_one_without_and_renews_its_certificate_there() {
    let folder = tempfile::tempdir().unwrap();
    let [prepared, straight, inspected] = ["prepared", "straight", "inspected"].map(|name| folder.path().join(name));
    story::prepare(&prepared);
    story::copy(&prepared, &straight).unwrap();
    story::copy(&prepared, &inspected).unwrap();
    let mut federation = Federation::open(&straight).unwrap();
    let expected = models(&mut federation, &straight);
    assert_eq!(expected.len(), 3);
    drop(federation);

    let mut federation = Federation::open(&inspected).unwrap();
    let settings = federation.aggregator_state().join("aggregator.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let short = format!("certificate_life_s = {LIFE_S}");
    fs::write(&settings, text.replace("certificate_life_s = 2592000", &short)).unwrap();
    let inspector = Inspector::start("demo", &federation.aggregator_state(), inspected.join("corporate.pem")).unwrap();
    federation.write_settings(SITES[0], &inspector.settings()).unwrap();
    federation.start_aggregator().unwrap();
    federation.enrol(SITES[0]).unwrap();
    federation.kill_aggregator();
    assert_eq!(models(&mut federation, &inspected), expected);
    let seen = inspector.seen();
    for method in ["Report", "GetPlan", "Download", "BeginUpload", "UploadChunk", "FinishUpload", "Renew"] {
        assert!(seen.iter().any(|(call, _)| call.path.ends_with(&format!("/{method}"))), "{method} went through it");
    }
    // A certificate that lives longer than whatever comes before the doctor.
    federation.kill_aggregator();
    fs::write(&settings, &text).unwrap();
    federation.start_aggregator().unwrap();
    federation.enrol(SITES[0]).unwrap();
    let doctor = federation.at_site(SITES[0], &["doctor"]).unwrap_or_else(|error| error.to_string());
    for told in ["by signed messages", "every message is signed, and may be read there", "Corporate Inspection CA"] {
        assert!(doctor.contains(told), "{told:?}: {doctor}");
    }
    // The settings of everybody: what stands in between is named, and both remedies.
    federation.write_settings(SITES[0], &format!("[network]\nproxy = 'http://{}'", inspector.address())).unwrap();
    let doctor = federation.at_site(SITES[0], &["doctor"]).unwrap_err().to_string();
    for told in ["issued by CN=Corporate Inspection CA", "exempted from TLS inspection", "`channel = \"signed\"`"] {
        assert!(doctor.contains(told), "{told:?}: {doctor}");
    }
    // Without the CA that it shows, and with another.
    let proxy = format!("[network]\nproxy = 'http://{}'\nchannel = 'signed'\n", inspector.address());
    federation.write_settings(SITES[0], &proxy).unwrap();
    let doctor = federation.at_site(SITES[0], &["doctor"]).unwrap_err().to_string();
    assert!(doctor.contains("name the PEM file of the CA that issues it as `inspection_roots`"), "{doctor}");
    let other = federation.aggregator_state().join("authority/ca.crt").display().to_string();
    federation.write_settings(SITES[0], &format!("{proxy}inspection_roots = '{other}'")).unwrap();
    let doctor = federation.at_site(SITES[0], &["doctor"]).unwrap_err().to_string();
    assert!(doctor.contains("neither by this federation's CA nor by `inspection_roots`"), "{doctor}");
}

#[test]
fn a_revocation_ends_an_upload_through_an_inspector_within_seconds_and_nothing_of_it_is_merged() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    story::prepare(root);
    let plan = fs::read_to_string(story::plan(root)).unwrap();
    fs::write(story::plan(root), plan.replace("steps_per_round = 300", "steps_per_round = 20")).unwrap();
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, root).unwrap();
    let inspector = Inspector::start("demo", &federation.aggregator_state(), root.join("corporate.pem")).unwrap();
    // So slow that the update takes many seconds.
    let slow = "[policy]\nmax_upload_mb_s = 0.01\n";
    federation.write_settings(SITES[0], &format!("{}{slow}", inspector.settings())).unwrap();
    federation.start_agent(SITES[0]).unwrap();
    let store = SqliteStore::open(&federation.aggregator_state()).unwrap();
    let chunks = || inspector.seen().iter().filter(|(call, _)| call.path.ends_with("/UploadChunk")).count();
    federation
        .wait_until("the middle of the upload", WITHIN, |_| Ok(!store.uploads().unwrap().is_empty() && chunks() > 0))
        .unwrap();
    federation.coordinator(&["revoke", SITES[0]]).unwrap();
    let began = Instant::now();
    while federation.is_at_work(SITES[0]) {
        assert!(began.elapsed() < Duration::from_secs(5), "{}", federation.last_words(SITES[0]));
        // Another process is waited for: whether it is there is looked at, not assumed after a time.
        thread::park_timeout(Duration::from_millis(20));
    }
    let words = federation.last_words(SITES[0]);
    assert!(words.contains("revoked"), "{words}");
    assert!(store.uploads().unwrap().is_empty(), "what had come of it is forgotten");
    let run = story::run(&federation).unwrap();
    assert!(story::models(&run).is_empty(), "{run:#}");
}
