//! What hospital IT and a coordinator can type wrongly: each time the program names the thing and the remedy, leaves
//! nothing half-made, and works once it is typed rightly.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::path::Path;

use tests::federation::Federation;
use tests::phantom::{self, SiteSpec};
use tests::programs::ProgramError;
use tests::story::{self, SITES};

const PLAN: &str = include_str!("../plans/story.toml");

/// What a program said when it refused; panics or a success fail the test.
fn refusal(answer: Result<String, ProgramError>) -> String {
    let Err(ProgramError::Failed { status, words, .. }) = answer else { panic!("not refused: {answer:?}") };
    assert!(status.code().is_some_and(|code| code != 101), "a panic or a signal is no answer: {status}\n{words}");
    assert!(!words.contains("panicked"), "{words}");
    words
}

fn assert_says(words: &str, parts: &[&str]) {
    for part in parts {
        assert!(words.contains(part), "{part:?} is missing from:\n{words}");
    }
}

fn created(root: &Path) -> Federation {
    let mut federation = Federation::create(root).unwrap();
    federation.start_aggregator().unwrap();
    federation
}

#[test]
fn an_invitation_that_is_garbled_used_up_or_of_another_authority_enrols_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let federation = created(folder.path());

    let words = refusal(federation.at_site("site-a", &["enrol", "cmrfed1.not-an-invitation"]));
    assert_says(&words, &["invitation"]);
    let words = refusal(federation.at_site("site-a", &["run"]));
    assert_says(&words, &["enrol"]);

    let invitation = federation.invite("site-a").unwrap();
    federation.at_site("site-a", &["enrol", &invitation]).unwrap();
    // The same text in another's hands: another key, so another certificate is asked for.
    let words = refusal(federation.at_site("elsewhere", &["enrol", &invitation]));
    assert_says(&words, &["invitation", "aggregator invite"]);
    assert!(!words.contains(&invitation), "the token is a secret even when it is used up:\n{words}");

    // Another federation's invitation, pointed at this address: its authority did not sign who answers here.
    let other = tempfile::tempdir().unwrap();
    let stranger = Federation::create_at(other.path(), federation.address().to_owned()).unwrap();
    let foreign = stranger.invite("site-b").unwrap();
    let words = refusal(federation.at_site("site-b", &["enrol", &foreign]));
    assert_says(&words, &["certificate is not signed by this federation's CA"]);
    assert!(!federation.site_state("site-b").join("identity").join("site.crt").exists());
}

#[test]
fn intake_says_what_is_missing_and_what_it_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let federation = created(folder.path());
    federation.enrol("site-c").unwrap();
    let plan = folder.path().join("plan.toml");
    fs::write(&plan, PLAN).unwrap();
    let plan = plan.display().to_string();
    let index =
        |source: &Path| federation.at_site("site-c", &["index", &source.display().to_string(), "--plan", &plan]);

    let missing = folder.path().join("nowhere");
    assert_says(&refusal(index(&missing)), &["nowhere"]);

    let letters = folder.path().join("letters");
    fs::create_dir(&letters).unwrap();
    fs::write(letters.join("letter.txt"), "Dear colleague").unwrap();
    let words = refusal(index(&letters));
    assert_says(&words, &["not-dicom", "skipped.jsonl"]);
    assert!(!words.contains("Dear colleague"), "{words}");

    // A hospital's export with one file cut short and one that is no image: the rest is read, both are counted.
    let images = folder.path().join("images");
    phantom::write_site(&SiteSpec::c(4).small(), 3, &images, &|_| {}).unwrap();
    let source = phantom::dicom_folder(&images);
    let cut = first_file(&source).unwrap();
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(source.join("notes.txt"), "not an image").unwrap();
    let told = index(&source).unwrap();
    assert_says(&told, &["left out", "truncated", "not-dicom"]);
}

#[test]
fn a_plan_that_is_mistyped_or_not_the_approved_one_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let federation = created(folder.path());
    federation.enrol("site-a").unwrap();
    let plan = folder.path().join("plan.toml");
    let text = plan.display().to_string();

    fs::write(&plan, PLAN.replace("batch_size", "batchsize")).unwrap();
    let words = refusal(federation.at_site("site-a", &["init-model", &text, "--out", "never.safetensors"]));
    assert_says(&words, &["batchsize"]);

    fs::write(&plan, PLAN.replace("patch_size = 8", "patch_size = 7")).unwrap();
    let words = refusal(federation.at_site("site-a", &["init-model", &text, "--out", "never.safetensors"]));
    assert_says(&words, &["patch_size", "7", "32"]);
    assert!(!Path::new("never.safetensors").exists());

    let unknown = "0".repeat(64);
    let words = federation.at_site("site-a", &["approve", &unknown]).unwrap();
    assert_says(&words, &["has not been announced", &unknown]);
    let words = refusal(federation.at_site("site-a", &["approve", &unknown[1..]]));
    assert_says(&words, &["64"]);

    let words = refusal(federation.at_site("site-a", &["--device", "gpu", "plans"]));
    assert_says(&words, &["gpu", "cpu", "cuda"]);
}

#[test]
fn a_site_without_images_declines_by_name_and_the_rounds_go_on_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    story::prepare(root);
    fs::write(story::plan(root), PLAN.replace(r#"["site-a", "site-c"]"#, r#"["site-a", "site-c", "empty"]"#)).unwrap();
    let mut federation = Federation::open(root).unwrap();
    federation.start_aggregator().unwrap();
    federation.enrol("empty").unwrap();
    let digest = story::start_run(&federation, root).unwrap();
    federation.at_site("empty", &["approve", &digest]).unwrap();
    SITES.iter().chain(&["empty"]).try_for_each(|site| federation.start_agent(site)).unwrap();

    let run = story::finished(&mut federation).unwrap();
    assert_eq!(run["state"], "finished", "{run:#}");
    for round in run["rounds"].as_array().unwrap() {
        assert_eq!(round["sites"].as_array().unwrap().len(), SITES.len(), "{round:#}");
        let left_out = &round["left_out"][0];
        assert_eq!(left_out["site"], "empty");
        assert!(left_out["reason"].as_str().unwrap().contains("too few usable images"), "{left_out}");
    }
    // Whoever waited for the run in a script hears of it as well.
    let waited = federation.coordinator(&["run", "wait", "story"]).unwrap_err().to_string();
    assert!(waited.contains("exit status: 6") && waited.contains("sites were left out. empty of round"), "{waited}");
}

fn first_file(folder: &Path) -> Option<std::path::PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries.into_iter().find_map(|path| if path.is_dir() { first_file(&path) } else { Some(path) })
}
