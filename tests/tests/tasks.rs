//! Clinical tasks at one hospital, by the real program on real DICOM files: finetuned, measured, used, killed and gone on with.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dicom_dictionary_std::tags;
use tests::phantom::{self, SiteSpec};
use tests::programs::{Process, ProgramError, Programs, run};

/// Waits until something has come about; two minutes are a failure.
fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

const PLAN: &str = include_str!("../plans/story.toml");

/// A hospital with indexed phantom images and its readers' labels.
struct Hospital {
    root: tempfile::TempDir,
    program: PathBuf,
}

impl Hospital {
    fn with(spec: SiteSpec) -> Self {
        let hospital = Self { root: tempfile::tempdir().unwrap(), program: Programs::build().unwrap().site_agent };
        phantom::write_site(&spec.small(), 5, hospital.root.path(), &|_| {}).unwrap();
        fs::write(hospital.path("plan.toml"), PLAN).unwrap();
        fs::create_dir_all(hospital.path("state")).unwrap();
        fs::write(hospital.path("state/site-agent.toml"), "held_out = 0.4\n").unwrap();
        // A secret of its own would draw other subjects to be held out each time.
        let secret = hospital.path("state/images/secret.key");
        fs::create_dir_all(secret.parent().unwrap()).unwrap();
        fs::write(&secret, "07".repeat(32)).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        hospital.done("index {}/dicom --plan {}/plan.toml");
        hospital
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Runs a verb; `{}` is the hospital's folder.
    fn tried(&self, verb: &str) -> Result<String, ProgramError> {
        let words = self.words(verb);
        run(&self.program, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn done(&self, verb: &str) -> String {
        self.tried(verb).unwrap()
    }

    fn refused(&self, verb: &str, parts: &[&str]) {
        let Err(ProgramError::Failed { words, .. }) = self.tried(verb) else { panic!("not refused: {verb}") };
        assert!(!words.contains("panicked"), "{words}");
        parts.iter().for_each(|part| assert!(words.contains(part), "{part:?} is missing from:\n{words}"));
    }

    fn words(&self, verb: &str) -> Vec<String> {
        let state = self.path("state").display().to_string();
        let words = verb.split(' ').map(|word| word.replace("{}", &self.root.path().display().to_string()));
        ["--state".to_owned(), state].into_iter().chain(words).collect()
    }
}

/// Finetunes `task` for a few steps into `out`.
fn finetune(task: &str, out: &str) -> String {
    format!(
        "finetune --task {task} --init random --plan {{}}/plan.toml --labels {{}}/labels --out {{}}/{out} --steps 6 \
         --batch-size 2 --min-subjects 2 --json"
    )
}

#[test]
fn all_nine_tasks_are_finetuned_measured_and_used_by_their_own_commands() {
    let hospital = Hospital::with(SiteSpec::b(12).same_mix());
    let tasks = site_agent::tasks::built_in();
    assert_eq!(tasks.len(), 9);
    for task in tasks.iter().map(|task| task.name.as_str()) {
        hospital.done(&finetune(task, task));
        let told = hospital.done(&format!("evaluate --finetuned {{}}/{task} --labels {{}}/labels --json"));
        let measured: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert!(measured["subjects"].as_u64().unwrap() > 0, "{task}: {told}");
        assert!(!measured["values"].as_array().unwrap().is_empty(), "{task}: {told}");
        let told = hospital.done(&format!("predict --finetuned {{}}/{task} --out {{}}/said --json"));
        let written: serde_json::Value = serde_json::from_str(&told).unwrap();
        let some = |what: &str| written[what].as_u64().unwrap();
        assert!(some("masks") + some("rows") > 0 && some("unplaced") == 0, "{task}: {told}");
    }
    one_page_tells_of_all(&hospital, &tasks);
    // What was said lies in the patient as the images do: the masks are those of the labels' own grid.
    let mut masks = Vec::new();
    for subject in fs::read_dir(hospital.path("said")).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        masks.extend(fs::read_dir(subject.path()).unwrap().flatten().map(|entry| entry.path()));
    }
    let drawn: Vec<_> = fs::read_dir(hospital.path("labels/masks"))
        .unwrap()
        .flatten()
        .flat_map(|subject| fs::read_dir(subject.path()).unwrap().flatten().map(|entry| entry.path()))
        .map(|path| data::read_nifti(&path).unwrap())
        .collect();
    let close = |a: &data::Affine, b: &data::Affine| {
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-3)
    };
    assert!(masks.len() > 20);
    for path in masks {
        let said = data::read_nifti(&path).unwrap();
        assert!(drawn.iter().any(|drawn| drawn.dims == said.dims && close(&drawn.affine, &said.affine)), "{path:?}");
    }
}

/// Pages on the nine finetunings: one for the site, with pictures, and one that may be sent.
fn one_page_tells_of_all(hospital: &Hospital, tasks: &[common::Task]) {
    let folders: Vec<String> = tasks.iter().map(|task| format!("{{}}/{}", task.name)).collect();
    let folders = folders.join(" ");
    let page = |name: &str| fs::read_to_string(hospital.path(name)).unwrap();
    hospital.done(&format!("report --out {{}}/site.html --with-images --labels {{}}/labels {folders}"));
    let (site, said) = (page("site.html"), hospital.done(&format!("report --out {{}}/sent.html {folders}")));
    assert!(said.contains("9 task(s)") && said.contains("no image"), "{said}");
    let sent = page("sent.html");
    for task in tasks {
        let head = format!("<h2>{}</h2>", task.name);
        assert!(site.contains(&head) && sent.contains(&head), "{head}");
    }
    // Five tasks are drawn whatever they came to: the segmentations and the landmarks.
    let pictures = site.matches("src=\"data:image/png;base64,").count();
    assert!(pictures >= 5, "{pictures} pictures");
    assert!(site.contains("stays at this site") && !sent.contains("<img") && !sent.contains("<circle"));
    assert!(!site.contains("://") && !sent.contains("://"), "it opens offline");
    for subject in fs::read_dir(hospital.path("said")).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        assert!(!sent.contains(&subject.file_name().into_string().unwrap()), "no pseudonym leaves");
    }
    hospital.refused("report --out {}/a.html --with-images {}/landmarks", &["landmarks.csv", "--labels"]);
    fs::remove_file(hospital.path("sequence/evaluation.json")).unwrap();
    hospital.refused("report --out {}/a.html {}/sequence", &["/sequence was not measured", "evaluate --finetuned"]);
    // Held out otherwise than when it was measured: a picture would be of another subject.
    fs::write(hospital.path("state/site-agent.toml"), "held_out = 0.6\n").unwrap();
    let stale = "report --out {}/a.html --with-images --labels {}/labels {}/landmarks";
    hospital.refused(stale, &["landmarks was measured on other images or labels"]);
    fs::write(hospital.path("state/site-agent.toml"), "held_out = 0.4\n").unwrap();
    assert!(!hospital.path("a.html").exists(), "nothing was written");
}

#[test]
fn a_finetuning_that_is_killed_goes_on_to_the_same_bits() {
    let hospital = Hospital::with(SiteSpec::c(8));
    let task = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../site-agent/tasks/cine-view.toml"));
    let often = task.unwrap() + "\n[training]\nvalidate_every = 2\npatience = 1000\n";
    fs::write(hospital.path("often.toml"), often).unwrap();
    let verb = |out: &str| finetune("{}/often.toml", out).replace("--steps 6", "--steps 40");
    hospital.done(&verb("unbroken"));

    let words = hospital.words(&verb("killed"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut process = Process::start("site-agent", &hospital.program, &words, &hospital.path("log")).unwrap();
    eventually("a checkpoint", || hospital.path("killed/checkpoint.safetensors").exists());
    process.kill();
    assert!(!hospital.path("killed/finetuned.json").exists(), "it was killed before its end");
    hospital.refused(&verb("killed").replace("--init random", "--init random --seed 9"), &["another finetuning"]);
    hospital.done(&verb("killed"));

    let bytes = |out: &str| fs::read(hospital.path(out).join("model.safetensors")).unwrap();
    assert!(bytes("killed") == bytes("unbroken"));

    // Typed once more, a finetuning that has ended says what came of it and touches nothing.
    let touched = || fs::metadata(hospital.path("killed/model.safetensors")).unwrap().modified().unwrap();
    let before = touched();
    let told = |out: &str| -> serde_json::Value {
        let mut told: serde_json::Value = serde_json::from_str(&hospital.done(&verb(out))).unwrap();
        // What a command takes is no part of what came of it.
        for key in ["seconds", "peak_mib"] {
            assert!(told.as_object_mut().unwrap().remove(key).is_some(), "{told}");
        }
        told
    };
    assert_eq!(told("killed"), told("unbroken"));
    assert_eq!(touched(), before);
}

#[test]
fn a_patient_under_two_identifiers_on_both_sides_of_the_split_is_refused() {
    let hospital = Hospital::with(SiteSpec::c(10));
    hospital.done(&finetune("sequence", "before"));
    // The first patient again, sent under other identifiers: some of them fall on the other side.
    let first = hospital.path("dicom/PHANTOM-C0000");
    assert!(first.is_dir(), "{first:?}");
    for copy in 0..12 {
        for (number, file) in files(&first).iter().enumerate() {
            let mut object = dicom_object::open_file(file).unwrap();
            for (tag, vr, kind) in [
                (tags::STUDY_INSTANCE_UID, dicom_core::VR::UI, 1),
                (tags::SERIES_INSTANCE_UID, dicom_core::VR::UI, 2),
                (tags::SOP_INSTANCE_UID, dicom_core::VR::UI, 3),
            ] {
                let old = object.element(tag).unwrap().to_str().unwrap().into_owned();
                let of =
                    if kind == 1 { 0 } else { old.bytes().map(u64::from).fold(7, |sum, b| (sum * 31 + b) % 999_983) };
                let uid = format!("2.25.{kind}{copy:02}{of:06}{}", if kind == 3 { number } else { 0 });
                object.put_str(tag, vr, uid);
            }
            object.put_str(tags::PATIENT_ID, dicom_core::VR::LO, format!("COPY-{copy}"));
            let folder = hospital.path("dicom").join(format!("COPY-{copy}"));
            fs::create_dir_all(&folder).unwrap();
            object.write_to_file(folder.join(format!("{number}.dcm"))).unwrap();
        }
    }
    hospital.done("index {}/dicom --plan {}/plan.toml");
    hospital.refused(&finetune("sequence", "after"), &["the same patient is here under two identifiers"]);
    assert!(!hospital.path("after").exists(), "nothing was begun");
}

#[test]
fn a_training_never_starts_on_labels_that_are_missing_or_too_few() {
    let hospital = Hospital::with(SiteSpec::c(6));
    let verb = finetune("cine-sax-segmentation", "out");
    hospital.refused(&verb.replace(" --labels {}/labels", ""), &["masks.csv", "--labels"]);
    hospital.refused(&verb.replace("--min-subjects 2", "--min-subjects 40"), &["at least 40", "--min-subjects"]);
    hospital.refused(&verb.replace("--json", "--subjects 40"), &["at least 40"]);
    // This hospital scans no maps: nobody is labelled for that task.
    hospital.refused(&finetune("mapping-sax-segmentation", "out"), &["only 0"]);
    hospital.refused(&finetune("no-such-task", "out"), &["cardiac-disease"]);
    hospital.refused("evaluate --finetuned {}/out --labels {}/labels", &["no finetuning that has ended"]);
    // A diagnosis of somebody whose images are not here, and a map that calls the right ventricle left.
    let table = hospital.path("labels/classes.csv");
    let sound = fs::read_to_string(&table).unwrap();
    fs::write(&table, format!("{sound}NOBODY,NOR,no\n")).unwrap();
    hospital.refused(&finetune("cardiac-disease", "out"), &["classes.csv, line 8"]);
    fs::write(&table, sound).unwrap();
    let codes = hospital.path("labels/labels.toml");
    let swapped = fs::read_to_string(&codes).unwrap().replace("LV = 500", "LV = 600").replace("RV = 600", "RV = 500");
    let swapped = swapped.replacen("RV = 500", "RV = 500 ", 1);
    fs::write(&codes, swapped).unwrap();
    hospital.refused(&verb, &["RV enclosed by myocardium", "LV = 500, myocardium = 200, RV = 600"]);
    assert!(!hospital.path("out").exists(), "nothing was begun");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .flat_map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { vec![entry.path()] })
        .collect();
    found.sort();
    found
}
