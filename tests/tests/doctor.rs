//! What the doctors say of a federation that is well, of one that is not, and of one that is only begun; and that what is sent to
//! a helper holds nothing of a patient.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::federation::Federation;
use tests::phantom;
use tests::programs::{self, ProgramError};
use tests::story::{self, SITES, WITHIN};

const DOCTOR_FAILED: i32 = 5;

/// Each check's outcome and what was found, and the exit code.
fn examined(answer: Result<String, ProgramError>) -> (BTreeMap<String, (String, String)>, i32) {
    let (text, code) = match answer {
        Ok(text) => (text, 0),
        Err(ProgramError::Failed { status, words, .. }) => (words, status.code().unwrap()),
        Err(error) => panic!("{error}"),
    };
    // The words of an exit code come after the JSON.
    let told: Value = serde_json::Deserializer::from_str(&text).into_iter().next().unwrap().unwrap();
    let word = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
    let checks = told["checks"].as_array().unwrap();
    let named = checks.iter().map(|check| (word(check, "name"), (word(check, "outcome"), word(check, "found"))));
    let named: BTreeMap<_, _> = named.collect();
    assert_eq!(named.len(), checks.len(), "every check has a name of its own");
    (named, code)
}

fn with_outcome<'a>(checks: &'a BTreeMap<String, (String, String)>, outcome: &str) -> Vec<&'a str> {
    checks.iter().filter(|(_, (found, _))| found == outcome).map(|(name, _)| name.as_str()).collect()
}

/// The secrets that a federation's aggregator keeps, a line or a file each: keys as PEM writes them, and as they are.
fn secrets(state: &Path) -> Vec<Vec<u8>> {
    let keys = below(state).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "key"));
    let lines = |path: PathBuf| {
        let whole = fs::read(&path).unwrap();
        let lines: Vec<Vec<u8>> = whole.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        [vec![whole], lines].concat()
    };
    keys.flat_map(lines).filter(|secret| secret.len() >= 16).collect()
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { [vec![path.clone()], below(&path)].concat() } else { vec![path] })
        .collect()
}

#[test]
fn the_doctors_find_what_is_well_what_is_not_and_what_cannot_be_looked_at_yet_and_send_nothing_of_a_patient() {
    let folder = tempfile::tempdir().unwrap();
    let root = &folder.path().join("CANARY-export");
    story::prepare(root);
    let mut federation = Federation::open(root).unwrap();
    let site = SITES[0];
    let doctor = |federation: &Federation| examined(federation.at_site(site, &["doctor", "--json"]));

    // Nothing there yet: nothing failed, and what cannot be looked at says so.
    let (checks, code) = examined(federation.at_site("newcomer", &["doctor", "--json"]));
    assert_eq!((with_outcome(&checks, "failure"), code), (vec![], 0), "{checks:#?}");
    let not_yet = with_outcome(&checks, "not-yet");
    for name in
        ["enrolment", "certificate", "reach", "TLS chain", "aggregator", "clock", "image folders", "frame cache"]
    {
        assert!(not_yet.contains(&name), "{name}: {checks:#?}");
    }
    assert!(checks.len() >= 20, "{} checks", checks.len());
    assert_eq!(checks["trainer"].0, "ok", "{checks:#?}");

    // The aggregator is down.
    let (checks, code) = doctor(&federation);
    assert_eq!(with_outcome(&checks, "failure"), ["TLS chain", "aggregator", "reach"], "{checks:#?}");
    assert_eq!(code, DOCTOR_FAILED);
    let (checks, code) = examined(federation.coordinator(&["doctor", "--json"]));
    assert_eq!((with_outcome(&checks, "failure"), code), (vec!["server"], DOCTOR_FAILED), "{checks:#?}");

    // A file of the export is none (the first, which every sample holds), and every name says whose it is.
    let images = phantom::dicom_folder(&root.join("images").join(site));
    fs::write(images.join("0 CANARY^PATIENT 19450508.dcm"), "CANARY").unwrap();
    federation.start_aggregator().unwrap();
    story::start_run(&federation, root).unwrap();
    federation.start_agent(site).unwrap();
    let jobs = federation.site_state(site).join("jobs/story");
    federation.wait_until("the site in the round", WITHIN, |_| Ok(jobs.exists())).unwrap();
    let bundle = folder.path().join("bundle.zip");
    let state = federation.site_state(site);
    fs::write(state.join("site-agent.toml"), format!("labels = '{}'", root.join("CANARY-labels").display())).unwrap();
    let answer = federation.at_site(site, &["doctor", "--json", "--bundle", &bundle.display().to_string()]);
    let (checks, code) = examined(answer);
    assert_eq!((with_outcome(&checks, "failure"), code), (vec!["labels"], DOCTOR_FAILED), "{checks:#?}");
    for (name, part) in [
        ("TLS chain", "issued by this federation's CA (CN=demo certificate authority)"),
        ("aggregator", "answers this site in"),
        ("clock", "as the aggregator's"),
        ("bandwidth", "MB/s from the aggregator"),
        ("enrolment", "site-a in demo"),
        ("plans", "1 known, all approved"),
        ("image sample", "not-dicom 1"),
        ("frame cache", "each as its checksum says"),
        ("certificate", "days left"),
    ] {
        assert!(checks[name].1.contains(part), "{part:?} is missing from {name}: {checks:#?}");
    }
    // Whatever the agent has written of its images and rounds is its user's alone.
    for path in ["images", "jobs", "plans"].into_iter().flat_map(|part| below(&state.join(part))) {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
    let sent = programs::texts(&bundle).unwrap();
    let mut words = vec!["CANARY".to_owned(), "PHANTOM".to_owned(), root.display().to_string()];
    words.extend(below(&images).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()));
    for word in words {
        // A name of a digit or two is in every text.
        assert!(word.len() < 4 || !sent.contains(&word), "the bundle says {word}:\n{sent}");
    }
    for part in ["doctor.json", "settings.toml", "versions.json", "jobs.json", "(set, not shown)", "\"story\""] {
        assert!(sent.contains(part), "{part:?} is missing from:\n{sent}");
    }

    // Each fault is found by the check that is for it.
    fs::remove_file(state.join("site-agent.toml")).unwrap();
    let key = state.join("identity/site.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    federation.at_site(site, &["stop"]).unwrap();
    let (checks, _) = doctor(&federation);
    assert_eq!(
        with_outcome(&checks, "failure"),
        ["aggregator", "key files"],
        "a key that others read is not used: {checks:#?}"
    );
    assert!(with_outcome(&checks, "warning").contains(&"switch and hours"), "{checks:#?}");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    federation.kill_agent(site);
    federation.coordinator(&["revoke", site]).unwrap();
    // A server that runs notices by itself.
    let is_refused = |federation: &Federation| Ok(doctor(federation).0["aggregator"].0 == "failure");
    federation.wait_until("the revocation", WITHIN, is_refused).unwrap();
    let (checks, _) = doctor(&federation);
    assert_eq!(with_outcome(&checks, "failure"), ["aggregator"], "{checks:#?}");
    assert!(checks["aggregator"].1.contains("refuses this site (revoked)"), "{checks:#?}");
    let told = federation.at_site(site, &["doctor"]).unwrap_err().to_string();
    assert!(
        told.contains("FAILURE  refuses this site (revoked)") && told.contains("->  the coordinator sees why"),
        "{told}"
    );

    // What cannot be read is told, and not taken for what is not there.
    for (file, check) in [
        ("identity/federation.json", "enrolment"),
        ("plans/approved.json", "plans"),
        ("images/sources.json", "image folders"),
        ("ledger", "ledger"),
    ] {
        let path = state.join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..whole.len() / 2], b"\n"].concat()).unwrap();
        let (checks, _) = doctor(&federation);
        assert_eq!(checks[check].0, "failure", "{file}: {checks:#?}");
        fs::write(&path, whole).unwrap();
    }

    let invitation = federation.invite("newcomer").unwrap();
    let bundle = folder.path().join("of-the-aggregator.zip");
    let answer = federation.coordinator(&["doctor", "--json", "--bundle", &bundle.display().to_string()]);
    let (checks, code) = examined(answer);
    // The run needs both sites, and one is revoked.
    assert_eq!((with_outcome(&checks, "failure"), code), (vec!["cohorts"], DOCTOR_FAILED), "{checks:#?}");
    assert!(checks.len() >= 20, "{} checks", checks.len());
    for (name, part) in [
        ("sites", "2 enrolled, 1 revoked"),
        ("ledger", "entries hold"),
        ("next CA", "none takes"),
        ("handshake", "TLS 1.3, as this federation's CA vouches for"),
        ("address", "the one in invitations answers"),
        ("disk speed", "an fsync takes"),
        ("open files", "permitted"),
        ("memory", "free"),
        ("cohorts", "not let in are 1 of 2 in story, whose quorum is 2: site-a"),
        ("spool", "updates may take"),
        ("silence", "1 of 1 sites of running rounds: site-c (never heard)"),
        ("signatures", "no plan waits"),
        ("connections", "1 members are let in"),
    ] {
        assert!(checks[name].1.contains(part), "{part:?} is missing from {name}: {checks:#?}");
    }
    let sent = programs::texts(&bundle).unwrap();
    for part in ["doctor.json", "settings.toml", "versions.json", "runs.json", "\"story\"", "not shown"] {
        assert!(sent.contains(part), "{part:?} is missing from:\n{sent}");
    }
    let host = federation.address().rsplit_once(':').unwrap().0;
    let token = invitation.strip_prefix("cmrfed1.").unwrap();
    for word in ["CANARY", "PHANTOM", "PRIVATE", "BEGIN", "cmrfed1", &token[..16], host, &root.display().to_string()] {
        assert!(!sent.contains(word), "the bundle says {word}:\n{sent}");
    }
    let kept = secrets(&federation.aggregator_state());
    assert!(kept.len() >= 6, "the CA's key, the server's, the one that signs: {}", kept.len());
    for secret in kept {
        assert!(!sent.as_bytes().windows(secret.len()).any(|part| part == secret), "the bundle holds a key:\n{sent}");
    }
    let authority = federation.aggregator_state().join("authority/ca.key");
    fs::set_permissions(&authority, Permissions::from_mode(0o640)).unwrap();
    let first = fs::read(story::plan(root).with_file_name("first-model.safetensors")).unwrap();
    let digest = common::Digest::of(&first).to_string();
    let blob = below(&federation.aggregator_state()).into_iter().find(|path| path.ends_with(&digest)).unwrap();
    fs::write(blob, &first[1..]).unwrap();
    let (checks, _) = examined(federation.coordinator(&["doctor", "--json"]));
    assert_eq!(with_outcome(&checks, "failure"), ["blobs", "cohorts", "keys"], "{checks:#?}");
    fs::set_permissions(&authority, Permissions::from_mode(0o600)).unwrap();

    // Another CA waits, and a plan must ask for two signatures where nobody can sign.
    federation.coordinator(&["authority", "next"]).unwrap();
    let settings = federation.aggregator_state().join("aggregator.toml");
    let written = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, written.replace("signatures = 0", "signatures = 2")).unwrap();
    let (checks, _) = examined(federation.coordinator(&["doctor", "--json"]));
    assert_eq!(with_outcome(&checks, "failure"), ["blobs", "cohorts", "signatures"], "{checks:#?}");
    let (outcome, found) = &checks["next CA"];
    assert!(outcome == "warning" && found.contains("do not know it yet: site-c"), "{checks:#?}");

    // A database that cannot be read hides nothing that can be looked at without it.
    let database = federation.aggregator_state().join("state.db");
    federation.kill_aggregator();
    fs::rename(&database, database.with_extension("gone")).unwrap();
    let (checks, code) = examined(federation.coordinator(&["doctor", "--json"]));
    assert_eq!(with_outcome(&checks, "failure"), ["database", "server"], "{checks:#?}");
    assert_eq!(
        (with_outcome(&checks, "not-yet").len(), checks["disk speed"].0.as_str(), code),
        (14, "ok", DOCTOR_FAILED)
    );
}
