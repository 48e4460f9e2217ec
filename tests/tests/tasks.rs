//! Clinical tasks at one hospital, by the real program on real DICOM files: finetuned, measured, used, killed and gone on with.

#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::plan::{FinetuningPlan, ImagePlan};
use common::{NamedTensors, PlanDraft, RoundNumber, Task};
use data::{FrameCache, FrameRef, Labels, SiteSecret, Split, SubjectKey};
use dicom_dictionary_std::tags;
use site_agent::config::{IntakeConfig, Source, Sources};
use site_agent::home::Home;
use site_agent::images;
use site_agent::job::{Job, JobFolder, JobLabels};
use site_agent::tasks::{Cohort, CohortError, Example, Examples, FewShot, Said, built_in, measure};
use site_agent::trainer::stopping::Stop;
use site_agent::trainer::{self, TrainerError};
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
/// The site's secret, which draws who is held out.
const SECRET: [u8; 32] = [7; 32];

fn task(name: &str) -> Task {
    built_in().into_iter().find(|task| task.name.as_str() == name).unwrap()
}

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
        fs::write(&secret, "07".repeat(SECRET.len())).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        hospital.done("index {}/dicom --plan {}/plan.toml");
        hospital
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Its frames, as the program has indexed them.
    fn cache(&self) -> FrameCache {
        let grid = toml::from_str::<PlanDraft>(PLAN).unwrap().images;
        let held = fs::read_dir(self.path("state/images")).unwrap().flatten().map(|entry| entry.path());
        let opened = held.filter(|path| path.is_dir()).find_map(|path| FrameCache::open(&path, &grid).ok());
        opened.expect("the program has indexed the images")
    }

    fn labels(&self) -> Labels {
        Labels::open(&self.path("labels"), &SiteSecret::new(SECRET)).unwrap()
    }

    /// What `finetune` wrote of a finetuning.
    fn told(&self, out: &str) -> site_agent::tasks::Finetuned {
        serde_json::from_slice(&fs::read(self.path(out).join("finetuned.json")).unwrap()).unwrap()
    }

    fn weights(&self, file: &str) -> NamedTensors {
        NamedTensors::from_safetensors(&fs::read(self.path(file)).unwrap()).unwrap()
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
        let told =
            hospital.done(&format!("predict --finetuned {{}}/{task} --labels {{}}/labels --out {{}}/said --json"));
        let written: serde_json::Value = serde_json::from_str(&told).unwrap();
        let some = |what: &str| written[what].as_u64().unwrap();
        assert!(some("masks") + some("rows") > 0 && some("unplaced") == 0, "{task}: {told}");
    }
    what_was_said_can_be_read_back(&hospital);
    what_masks_mean_and_whose_they_are_is_said_beside_them(&hospital);
    one_page_tells_of_all(&hospital, &tasks);
    // What was said lies in the patient as the images do: the masks are those of the labels' own grid.
    let mut masks = Vec::new();
    for subject in fs::read_dir(hospital.path("said")).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let files = fs::read_dir(subject.path()).unwrap().flatten().map(|entry| entry.path());
        masks.extend(files.filter(|path| path.extension().is_some_and(|kind| kind == "gz")));
    }
    let drawn: Vec<_> = fs::read_dir(hospital.path("labels/masks"))
        .unwrap()
        .flatten()
        .flat_map(|subject| fs::read_dir(subject.path()).unwrap().flatten().map(|entry| entry.path()))
        .map(|path| data::read_nifti(&path).unwrap())
        .collect();
    let close = |a: &data::Affine, b: &data::Affine| {
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-4)
    };
    assert!(masks.len() > 20);
    for path in masks {
        let said = data::read_nifti(&path).unwrap();
        assert!(drawn.iter().any(|drawn| drawn.dims == said.dims && close(&drawn.affine, &said.affine)), "{path:?}");
    }
}

/// The values of a folder's masks.
fn values(folder: &Path) -> BTreeSet<i64> {
    let masks = files(folder).into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "gz"));
    masks.flat_map(|path| data::read_nifti(&path).unwrap().values).map(|value| value as i64).collect()
}

/// Masks are in the codes that `labels.toml` beside them has: the site's own, or each class's place in the task. A site may
/// look up who is behind a pseudonym, and only the user who asked.
fn what_masks_mean_and_whose_they_are_is_said_beside_them(hospital: &Hospital) {
    let codes = |folder: &str| -> BTreeSet<i64> {
        let text = fs::read_to_string(hospital.path(folder).join("labels.toml")).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        table["codes"].as_table().unwrap().values().map(|code| code.as_integer().unwrap()).collect()
    };
    let said = values(&hospital.path("said"));
    assert_eq!(codes("said"), codes("labels"));
    assert!(said.len() > 1 && said.iter().all(|value| *value == 0 || codes("labels").contains(value)), "{said:?}");
    let names = fs::read_to_string(hospital.path("said/subjects.csv")).unwrap();
    let held_out = Split::new(&hospital.cache().subjects(), 0.4).held_out().to_vec();
    let rows: Vec<(&str, &str)> = names.lines().skip(1).map(|row| row.split_once(',').unwrap()).collect();
    let identifiers = hospital.labels().identifiers(&SiteSecret::new(SECRET)).unwrap();
    assert_eq!(rows.len(), held_out.len());
    for ((pseudonym, identifier), subject) in rows.iter().zip(&held_out) {
        assert_eq!(*pseudonym, subject.to_string());
        assert_eq!(identifier.trim_matches('"'), identifiers[subject]);
    }
    let mode = fs::metadata(hospital.path("said/subjects.csv")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Without the site's labels a class is its place in the task, and nobody is named.
    let told = hospital.done("predict --finetuned {}/cine-sax-segmentation --out {}/plain");
    assert!(told.contains("labels.toml there says which value"), "{told}");
    assert_eq!(codes("plain"), BTreeSet::from([1, 2, 3]));
    assert!(values(&hospital.path("plain")).iter().all(|value| (0..=3).contains(value)));
    assert!(!hospital.path("plain/subjects.csv").exists());
    let other = "predict --finetuned {}/lge-sax-segmentation --out {}/plain";
    hospital.refused(other, &["plain/labels.toml gives the masks there other codes", "--out"]);

    // Who cannot be written takes nothing along of whom was written before.
    let [first, second, ..] = &held_out[..] else { panic!("{held_out:?}") };
    fs::create_dir(hospital.path("half")).unwrap();
    fs::write(hospital.path("half").join(second.to_string()), "").unwrap();
    hospital.refused("predict --finetuned {}/cine-sax-segmentation --out {}/half", &[second.to_string().as_str()]);
    let of_first = |folder: &str| files(&hospital.path(folder).join(first.to_string()));
    assert_eq!(of_first("half").len(), of_first("plain").len());
    assert!(!of_first("half").is_empty());

    // A map that has no scar.
    let (labels, poor) = (hospital.path("labels"), hospital.path("poor"));
    fs::create_dir(&poor).unwrap();
    fs::copy(labels.join("classes.csv"), poor.join("classes.csv")).unwrap();
    fs::write(poor.join("labels.toml"), "[codes]\nLV = 1\nmyocardium = 2\n").unwrap();
    let lacking = "predict --finetuned {}/lge-sax-segmentation --labels {}/poor --out {}/lacking";
    hospital.refused(lacking, &["poor/labels.toml has no code for the class \"scar\"", "under [codes]"]);
    assert!(!hospital.path("lacking").exists(), "nothing was written");
}

/// Landmarks lie on their slices, JSON says what the table says, and every subject that was drawn has a picture.
fn what_was_said_can_be_read_back(hospital: &Hospital) {
    let (cache, said) = (hospital.cache(), hospital.path("said"));
    let table = fs::read_to_string(said.join("landmarks.csv")).unwrap();
    let answers: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(said.join("landmarks.json")).unwrap()).unwrap();
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("subject,series,slice,phase,landmark,x_mm,y_mm,z_mm,score"));
    assert_eq!(lines.clone().count(), answers.len());
    let mut seen = BTreeSet::new();
    for (line, answer) in lines.zip(&answers) {
        let cells: Vec<&str> = line.split(',').collect();
        let [subject, series, slice, phase, landmark, x, y, z, score] = cells[..] else { panic!("{line}") };
        let number = |cell: &str| cell.parse::<f64>().unwrap();
        let point = [x, y, z].map(number);
        let record = cache.series().iter().find(|record| record.key.to_string() == series).unwrap();
        assert_eq!(record.subject.to_string(), subject);
        seen.insert((landmark.trim_matches('"').to_owned(), record.plane.to_string()));
        assert!((0.0..=1.0).contains(&number(score)), "{line}");
        assert!((answer["score"].as_f64().unwrap() - number(score)).abs() < 1e-4, "{line} {answer}");
        let placement = record.slices[slice.parse::<usize>().unwrap()].placement.unwrap();
        // To the two decimals that are written.
        assert!(placement.distance_mm(point).abs() < 0.01, "{line}");
        let pixel = placement.pixel(record.spacing_mm, point);
        let within = pixel.iter().zip(record.matrix).all(|(at, count)| (-1.0..=f64::from(count)).contains(at));
        assert!(within, "{line}: {pixel:?}");
        assert_eq!([&answer["subject"], &answer["series"]], [subject, series]);
        assert_eq!([&answer["slice"], &answer["phase"]].map(|value| value.to_string()), [slice, phase]);
        assert_eq!(answer["landmark"], landmark.trim_matches('"'));
        let same = point.iter().enumerate().all(|(i, mm)| (answer["lps_mm"][i].as_f64().unwrap() - mm).abs() < 0.006);
        assert!(same, "{line} {answer}");
    }
    // Each landmark where it is to be seen, and nowhere else.
    let pair = |(landmark, plane): (&str, &str)| (landmark.to_owned(), plane.to_owned());
    let where_it_is = [
        ("RV insertion anterior", "SAX"),
        ("RV insertion inferior", "SAX"),
        ("mitral annulus septal", "4CH"),
        ("mitral annulus lateral", "4CH"),
        ("apex", "2CH"),
        ("apex", "4CH"),
    ];
    assert_eq!(seen, BTreeSet::from(where_it_is.map(pair)));
    let answers: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(said.join("cardiac-disease.json")).unwrap()).unwrap();
    for answer in &answers {
        let each = answer["probabilities"].as_object().unwrap();
        let sum: f64 = each.values().map(|value| value.as_f64().unwrap()).sum();
        assert!(each.len() == 5 && each.contains_key(answer["class"].as_str().unwrap()) && (sum - 1.0).abs() < 1e-5);
    }
    // The held-out subjects, each with a picture a task that draws.
    let drawn = built_in().into_iter().filter(|task| fs::metadata(said.join(format!("{}.csv", task.name))).is_err());
    let drawn: Vec<String> = drawn.map(|task| task.name.to_string()).chain(["landmarks".to_owned()]).collect();
    let subjects =
        fs::read_dir(&said).unwrap().flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.path());
    let subjects: Vec<PathBuf> = subjects.collect();
    assert_eq!((drawn.len(), subjects.len()), (5, answers.len()));
    for path in subjects.iter().flat_map(|subject| drawn.iter().map(|task| subject.join(format!("{task}.png")))) {
        let mut picture =
            png::Decoder::new(std::io::BufReader::new(fs::File::open(&path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; picture.output_buffer_size().unwrap()];
        picture.next_frame(&mut pixels).unwrap();
        assert!(picture.info().width > 0 && pixels.iter().any(|value| *value != pixels[0]), "{path:?} shows nothing");
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
fn a_patient_who_was_learnt_from_is_never_measured_be_it_under_another_identifier() {
    let hospital = Hospital::with(SiteSpec::c(10));
    hospital.done(&finetune("sequence", "before"));
    let evaluate = "evaluate --finetuned {}/before --labels {}/labels";
    hospital.done(evaluate);
    // Some of those who are held out from now on have trained it.
    let config = hospital.path("state/site-agent.toml");
    fs::write(&config, "held_out = 0.9\n").unwrap();
    let learnt = ["before: of ", "trained this model or picked it", "while 0.40", "`held_out`"];
    hospital.refused(evaluate, &learnt);
    // Nor is it written of those who are held out what the model says of whom it has learnt.
    hospital.refused("predict --finetuned {}/before --out {}/said", &learnt);
    assert!(!hospital.path("said").exists(), "nothing was written");
    hospital.done("predict --finetuned {}/before --out {}/said --of all");
    fs::write(&config, "held_out = 0.4\n").unwrap();
    hospital.done(evaluate);
    // A patient who is learnt from again: some of the copies fall on the other side.
    sent_again(&hospital, "PHANTOM-C0002");
    hospital.refused(&finetune("sequence", "after"), &["the same patient is here under two identifiers"]);
    assert!(!hospital.path("after").exists(), "nothing was begun");
    hospital.refused(evaluate, &["0 trained this model or picked it, and", "under another identifier"]);

    // Where neighbors vote, a copy of who is asked has no voice.
    hospital.done("init-model {}/plan.toml --out {}/first.safetensors");
    let told = hospital.done("evaluate --model {}/first.safetensors --plan {}/plan.toml --json");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let cache = hospital.cache();
    let (plain, apart) = (Split::new(&cache.subjects(), 0.4), Split::of(&cache, 0.4));
    assert!(apart.training().len() < plain.training().len());
    assert_eq!(told["training_subjects"], apart.training().len(), "{told}");

    // None of the copies being measured, the model would still be picked by whom it has learnt.
    let (cache, task) = (hospital.cache(), task("sequence"));
    let mut examples = Examples::of(&task, &cache, None).unwrap();
    let cohort = |examples: &Examples| Cohort::new(&cache, &examples.all, 0.4, FewShot::All, &examples.classes, 2);
    assert!(matches!(cohort(&examples), Err(CohortError::Leak { one: "to be measured", .. })));
    let pixels = |subject: SubjectKey| {
        let own = cache.series().iter().filter(move |record| record.subject == subject);
        own.map(|record| record.pixels()).collect::<BTreeSet<_>>()
    };
    let subjects = cache.subjects();
    let twice = |subject: &SubjectKey| {
        subjects.iter().any(|other| other != subject && !pixels(*other).is_disjoint(&pixels(*subject)))
    };
    let measured: Vec<SubjectKey> =
        Split::new(&subjects, 0.4).held_out().iter().copied().filter(|subject| twice(subject)).collect();
    examples.all.retain(|example| !measured.contains(&example.subject));
    let refused = cohort(&examples).unwrap_err();
    assert!(
        matches!(refused, CohortError::Leak { one: "to pick the model", other: "to be trained on", .. }),
        "{refused}"
    );
    examples.all.retain(|example| !twice(&example.subject));
    cohort(&examples).unwrap();
}

/// What is measured of the readers' own masks: LV volumes, by subject.
fn own_volumes(hospital: &Hospital) -> Vec<Vec<[f64; 2]>> {
    let (cache, task) = (hospital.cache(), task("cine-sax-segmentation"));
    let examples = Examples::of(&task, &cache, Some(&hospital.labels())).unwrap();
    let drawn = |example: &Example| {
        let FrameRef { series, slice, phase } = example.frames[0];
        let own = examples.masks.iter().find(|mask| (mask.series, mask.phase) == (series, phase)).unwrap();
        Said::Pixels(own.slices[slice as usize].clone().unwrap())
    };
    let asked: Vec<&Example> = examples.all.iter().collect();
    let said: Vec<Said> = asked.iter().map(|example| drawn(example)).collect();
    let measured = measure(&task, &cache, &examples, &asked, &said, None).unwrap();
    let volumes = measured.agreements.into_iter().filter(|agreement| agreement.quantity.starts_with("LV E"));
    volumes.map(|agreement| agreement.pairs).collect()
}

#[test]
fn a_series_whose_halves_lie_in_two_folders_has_the_volumes_of_the_whole_and_a_mask_for_each_half() {
    let hospital = Hospital::with(SiteSpec::c(8));
    let whole = own_volumes(&hospital);
    assert!(whole.len() == 3 && whole.iter().all(|pairs| !pairs.is_empty()), "{whole:?}");
    // The last slice of each short axis lies elsewhere.
    let mut stacks: BTreeMap<String, Vec<(f64, PathBuf)>> = BTreeMap::new();
    for file in files(&hospital.path("dicom")) {
        let object = dicom_object::open_file(&file).unwrap();
        let text = |tag| object.element(tag).unwrap().to_str().unwrap().trim_end_matches(['\0', ' ']).to_owned();
        if text(tags::SERIES_DESCRIPTION) == "FIESTA SAX" {
            let place = object.element(tags::SLICE_LOCATION).unwrap().to_float64().unwrap();
            stacks.entry(text(tags::SERIES_INSTANCE_UID)).or_default().push((place, file));
        }
    }
    fs::create_dir(hospital.path("more")).unwrap();
    for (number, slices) in stacks.into_values().enumerate() {
        let last = slices.iter().map(|(place, _)| *place).fold(f64::NEG_INFINITY, f64::max);
        for (frame, (_, file)) in slices.iter().filter(|(place, _)| last - place < 1.0).enumerate() {
            fs::rename(file, hospital.path("more").join(format!("{number}-{frame}.dcm"))).unwrap();
        }
    }
    hospital.done("index {}/dicom --plan {}/plan.toml");
    hospital.done("index {}/more --plan {}/plan.toml");
    let halves = own_volumes(&hospital);
    let pairs = whole.iter().flatten().flatten().zip(halves.iter().flatten().flatten());
    assert!(pairs.into_iter().all(|(whole, halves)| (whole - halves).abs() < 0.1), "{whole:?} {halves:?}");
    assert_eq!(halves.concat().len(), whole.concat().len());

    hospital.done(&finetune("cine-sax-segmentation", "out"));
    let told = hospital.done("predict --finetuned {}/out --out {}/said --json");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let is_mask = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "gz");
    let masks: Vec<PathBuf> = files(&hospital.path("said")).into_iter().filter(is_mask).collect();
    assert_eq!(told["masks"], masks.len(), "{told}");
    let of_part = |part: &str| masks.iter().filter(|path| path.to_string_lossy().contains(part)).count();
    assert!(of_part("-part1-") > 0 && of_part("-part1-") == of_part("-part2-"), "{masks:?}");
}

/// Sends a patient twelve times more, each time under other identifiers.
fn sent_again(hospital: &Hospital, patient: &str) {
    let first = hospital.path("dicom").join(patient);
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
}

#[test]
fn a_training_never_starts_on_labels_that_are_missing_or_too_few() {
    let hospital = Hospital::with(SiteSpec::c(6));
    let verb = finetune("cine-sax-segmentation", "out");
    hospital.refused(&verb.replace(" --labels {}/labels", ""), &["masks.csv", "--labels"]);
    hospital.refused(&verb.replace("--min-subjects 2", "--min-subjects 40"), &["at least 40", "--min-subjects"]);
    hospital.refused(&verb.replace("--json", "--subjects 40"), &["at least 40", "lower --subjects"]);
    hospital.refused(&verb.replace("--min-subjects 2", "--min-subjects 0"), &["--min-subjects is 0", "at least 1"]);
    let settings = hospital.path("state/site-agent.toml");
    fs::write(&settings, "held_out = 0.0\n").unwrap();
    hospital.refused(&verb, &["none of this site's 6", "raise held_out in", "site-agent.toml"]);
    fs::write(&settings, "held_out = 0.4\n").unwrap();
    // What was asked for at the least holds for few shots as well.
    for few in ["--subjects 1", "--fraction 0.1"] {
        hospital.refused(&verb.replace("--json", few), &["only 1 of", "by --subjects or --fraction", "at least 2"]);
    }
    // This hospital scans no maps: nobody is labelled for that task, although the table of masks is there.
    let parts = ["0 of 6 subjects of masks.csv", "6 without a label on an image of the sequences", "only 0"];
    hospital.refused(&finetune("mapping-sax-segmentation", "out"), &parts);
    hospital.refused(&finetune("no-such-task", "out"), &["cardiac-disease"]);
    hospital.refused("evaluate --finetuned {}/out --labels {}/labels", &["no finetuning that has ended"]);
    // A diagnosis of somebody whose images are not here, and a map that calls the right ventricle left.
    let table = hospital.path("labels/classes.csv");
    let sound = fs::read_to_string(&table).unwrap();
    fs::write(&table, format!("{sound}NOBODY,NOR,no\n")).unwrap();
    hospital.refused(&finetune("cardiac-disease", "out"), &["classes.csv, line 8"]);
    let healthy =
        sound.lines().map(|line| line.rsplit_once(',').map_or(line.to_owned(), |(before, _)| format!("{before},no")));
    let healthy = healthy.collect::<Vec<_>>().join("\n").replacen(",no\n", ",hyperenhancement\n", 1);
    fs::write(&table, healthy).unwrap();
    let alone = finetune("lge-hyperenhancement", "out").replace("--min-subjects 2", "--min-subjects 1");
    hospital.refused(&alone, &["of class no", "another class"]);
    fs::write(&table, sound).unwrap();
    let codes = hospital.path("labels/labels.toml");
    let swapped = fs::read_to_string(&codes).unwrap().replace("LV = 500", "LV = 600").replace("RV = 600", "RV = 500");
    let swapped = swapped.replacen("RV = 500", "RV = 500 ", 1);
    fs::write(&codes, swapped).unwrap();
    hospital.refused(&verb, &["RV enclosed by myocardium", "LV = 500, myocardium = 200, RV = 600"]);
    assert!(!hospital.path("out").exists(), "nothing was begun");
}

#[test]
fn a_finetuning_takes_the_plan_that_was_announced_and_a_folder_of_its_own_if_none_is_named() {
    let hospital = Hospital::with(SiteSpec::c(10));
    let verb = "finetune --task sequence --init random --steps 6 --batch-size 2 --min-subjects 2";
    hospital.refused(verb, &["no plan was announced", "--plan"]);
    let announce = |text: &str| {
        let mut model = NamedTensors::new();
        model.insert("w", vec![1], vec![0.0]);
        let plan = toml::from_str::<PlanDraft>(text).unwrap().with_first_model(model.signature(), model.digest());
        fs::create_dir_all(hospital.path("state/plans")).unwrap();
        fs::write(hospital.path(&format!("state/plans/{}.json", plan.digest())), plan.canonical_bytes()).unwrap();
    };
    announce(PLAN);
    // Another run of the same network on the same grid.
    announce(&PLAN.replacen("run = \"", "run = \"another-", 1));
    hospital.done(verb);
    assert!(hospital.path("state/finetuned/sequence-random-1/finetuned.json").is_file());
    announce(&PLAN.replacen("run = \"", "run = \"larger-", 1).replacen("depth = ", "depth = 1", 1));
    hospital.refused(verb, &["of different networks or grids", "--plan"]);
}

#[test]
fn few_shots_are_the_same_people_whatever_the_seed_and_the_backbone_and_a_finetuning_goes_on_with_them_alone() {
    let hospital = Hospital::with(SiteSpec::b(12).same_mix());
    // A network that timm saved has two blocks.
    let deep = PLAN.replace("depth = 1", "depth = 2");
    fs::write(hospital.path("plan.toml"), &deep).unwrap();
    let timm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../site-agent/model/tests/fixtures/timm_tiny.safetensors");
    fs::copy(timm, hospital.path("timm.safetensors")).unwrap();
    hospital.done("init-model {}/plan.toml --out {}/first.safetensors");
    let verb = |init: &str, how: &str, out: &str| {
        let verb = finetune("cardiac-disease", out).replace("--init random", &format!("--init {init}"));
        verb.replace("--json", format!("--json {how}").trim_end())
    };
    let arms = [
        ("random", "--subjects 2 --seed 1", "a"),
        ("random", "--subjects 2 --seed 2", "b"),
        ("{}/first.safetensors", "--subjects 2 --seed 3", "c"),
        ("{}/timm.safetensors", "--subjects 2 --freeze", "d"),
    ];
    for (init, how, out) in arms {
        hospital.done(&verb(init, how, out));
        let (told, first) = (hospital.told(out), hospital.told("a"));
        assert_eq!((told.training_subjects, told.validation_subjects), (2, first.validation_subjects), "{out}");
        assert_eq!(told.learnt_from, first.learnt_from, "{out}");
    }
    // What they began from: a model of a run gives its teacher's backbone, and what is frozen stays as it was read.
    let plan: PlanDraft = toml::from_str(&deep).unwrap();
    let first = hospital.weights("first.safetensors").under("teacher.backbone.");
    assert_eq!(hospital.told("c").backbone, first.digest());
    let (frozen, told) = (hospital.weights("d/model.safetensors"), hospital.told("d"));
    assert_eq!(frozen.under("backbone.").digest(), told.backbone);
    assert_ne!(hospital.weights("c/model.safetensors").under("backbone.").digest(), first.digest());
    let published = model::weights_file::read(&fs::read(hospital.path("timm.safetensors")).unwrap()).unwrap();
    let imported = model::import::imported(&published, &plan.model, model::import::Network::Teacher).unwrap();
    assert_eq!(told.backbone, imported.backbone.digest());

    // A fraction is one of those who can be trained on, rounded up.
    hospital.done(&verb("random", "", "all"));
    hospital.done(&verb("random", "--fraction 0.3", "third"));
    let all = hospital.told("all").training_subjects;
    assert_eq!(hospital.told("third").training_subjects, (all * 3).div_ceil(10));
    assert!(all > hospital.told("third").training_subjects && hospital.told("all").learnt_from.is_some());

    // As many people as before, with other diagnoses: that is another finetuning.
    let table = hospital.path("labels/classes.csv");
    let sound = fs::read_to_string(&table).unwrap();
    fs::write(&table, sound.replace("NOR", "HELD").replace("DCM", "NOR").replace("HELD", "DCM")).unwrap();
    let parts =
        ["this finetuning, of cardiac-disease from random with seed 1", "other labels than the site has now", "--out"];
    hospital.refused(&verb("random", "", "all"), &parts);
    fs::write(&table, sound).unwrap();
    hospital.done(&verb("random", "", "all"));
}

#[test]
fn a_readers_table_of_series_teaches_what_the_tags_do_not_say() {
    let hospital = Hospital::with(SiteSpec::c(8));
    let (cache, labels) = (hospital.cache(), hospital.path("labels/series.csv"));
    // What a reader sees at this hospital, by the names that its technologists give.
    let named: BTreeMap<(String, String), &str> = files(&hospital.path("dicom"))
        .iter()
        .map(|file| {
            let object = dicom_object::open_file(file).unwrap();
            let text = |tag| object.element(tag).unwrap().to_str().unwrap().trim_end_matches(['\0', ' ']).to_owned();
            let view = match text(tags::SERIES_DESCRIPTION).as_str() {
                "FIESTA SAX" => "SAX",
                "FIESTA CINE 2ch" => "2CH",
                "FIESTA CINE 3ch" => "3CH",
                "FIESTA CINE 4ch" => "4CH",
                _ => "",
            };
            ((text(tags::PATIENT_ID), text(tags::SERIES_INSTANCE_UID)), view)
        })
        .collect();
    let rows: String = named.iter().map(|((patient, uid), view)| format!("{patient},{uid},{view}\n")).collect();
    fs::write(&labels, format!("subject,series,view\n{rows}")).unwrap();

    let by_tags = task("cine-view");
    let by_table = Task { labels: common::task::LabelSource::Series("view".to_owned()), ..by_tags.clone() };
    by_table.check().unwrap();
    let told = Examples::of(&by_table, &cache, Some(&hospital.labels())).unwrap();
    let tags = Examples::of(&by_tags, &cache, None).unwrap();
    assert!(!tags.all.is_empty() && told == tags, "a reader who writes what the tags say teaches the same");

    fs::write(hospital.path("by-table.toml"), toml::to_string(&by_table).unwrap()).unwrap();
    hospital.done(&finetune("{}/by-table.toml", "out"));
    let sound = fs::read_to_string(&labels).unwrap();
    let refused = |text: String, parts: &[&str]| {
        fs::write(&labels, text).unwrap();
        hospital.refused(&finetune("{}/by-table.toml", "other"), parts);
    };
    refused(sound.replacen("4CH", "four", 1), &["series.csv, line", "under \"view\" is none of SAX base"]);
    refused(
        format!("{sound}{}", sound.lines().nth(1).unwrap()),
        &["series.csv, line", "the series has a label already"],
    );
    refused(format!("{sound}NOBODY,1.2,2CH\n"), &["series.csv, line", "the subject is not in the frame cache"]);
    refused(sound.replace("view", "plane"), &["series.csv has no column \"view\" (it has plane)"]);
    fs::remove_file(&labels).unwrap();
    hospital.refused(&finetune("{}/by-table.toml", "other"), &["series.csv is not there"]);
}

const CINE: &str = "cine-sax-segmentation";
const DISEASE: &str = "cardiac-disease";

/// A round at the hospital, of a run that finetunes some tasks, or of one that pretrains, to be trained in this process.
fn round(hospital: &Hospital, name: &str, tasks: &[&str], change: impl FnOnce(&mut Job)) -> JobFolder {
    let mut plan: PlanDraft = toml::from_str(PLAN).unwrap();
    let tasks: Vec<Task> = tasks.iter().map(|name| task(name)).collect();
    plan.finetuning = (!tasks.is_empty()).then_some(FinetuningPlan { frozen_backbone: false, tasks });
    plan.training.steps_per_round = 4;
    let home = Home::at(hospital.path("state"));
    let cache = images::cache_for(&home, &plan.images, &IntakeConfig::default()).unwrap().unwrap();
    let folder = JobFolder::at(hospital.path(name));
    fs::create_dir_all(folder.path()).unwrap();
    let base = folder.path().join("base.safetensors");
    let base_digest = trainer::first_model(&plan, None, &base).unwrap();
    let labels = JobLabels { folder: hospital.path("labels"), secret: home.images().join("secret.key") };
    let mut job = Job {
        plan,
        round: RoundNumber(0),
        site: "site-c".parse().unwrap(),
        first_step: 8,
        base,
        base_digest,
        kept: None,
        local: None,
        cache,
        held_out: 0.4,
        device: "cpu".to_owned(),
        precision: model::Precision::F32,
        micro_batch: 0,
        labels: Some(labels),
        min_subjects: 2,
        measures: false,
        measure_only: false,
    };
    change(&mut job);
    folder.write_job(&job).unwrap();
    folder
}

/// The wish to stop once a trainer has taken so many steps.
fn after(steps: usize, job: &JobFolder) -> Stop {
    let progress = job.progress();
    Stop::when(move || fs::read_to_string(&progress).is_ok_and(|lines| lines.lines().count() >= steps))
}

/// What a round sent, and the heads that it trained.
fn trained(job: &JobFolder) -> (NamedTensors, Vec<String>) {
    trainer::train(job, &Stop::default()).unwrap();
    let heads = job.result().unwrap().unwrap().heads;
    let delta = NamedTensors::from_safetensors(&fs::read(job.delta()).unwrap()).unwrap();
    (delta, heads.keys().map(ToString::to_string).collect())
}

#[test]
fn a_round_is_trained_with_the_labels_that_are_there_and_a_wish_to_stop_is_heard_until_its_end() {
    let hospital = Hospital::with(SiteSpec::c(10));
    labels_that_come_in_the_middle_of_a_round(&hospital);
    a_task_whose_turn_never_comes(&hospital);
    nobody_held_out(&hospital);
    a_stop_before_the_first_step_and_after_the_last_one(&hospital);
}

fn labels_that_come_in_the_middle_of_a_round(hospital: &Hospital) {
    let classes = hospital.path("labels/classes.csv");
    let table = fs::read(&classes).unwrap();
    fs::remove_file(&classes).unwrap();
    let job = round(hospital, "interrupted", &[CINE, DISEASE], |_| {});
    assert!(matches!(trainer::train(&job, &after(2, &job)), Err(TrainerError::Stopped { step: 2 })));
    assert!(job.checkpoint().exists());
    fs::write(&classes, table).unwrap();
    let (delta, heads) = trained(&job);
    assert_eq!(heads, [DISEASE, CINE]);
    assert_eq!(delta, trained(&round(hospital, "unbroken", &[CINE, DISEASE], |_| {})).0);
}

fn a_task_whose_turn_never_comes(hospital: &Hospital) {
    let one_step = |job: &mut Job| job.plan.training.steps_per_round = 1;
    let (delta, heads) = trained(&round(hospital, "one-step", &[CINE, DISEASE], one_step));
    assert_eq!(heads, [CINE]);
    assert!(delta.iter().all(|(name, _)| !name.starts_with("heads.cardiac-disease.")), "{:?}", delta.signature());
    // A head that stays at the site is nowhere else: it is there for the round after one that left it out.
    let keeps = |job: &mut Job| {
        job.plan.aggregation.keep_local = serde_json::from_value(serde_json::json!(["heads.*"])).unwrap();
    };
    let both = round(hospital, "both", &[CINE, DISEASE], keeps);
    trained(&both);
    let left_out = round(hospital, "left-out", &[CINE, DISEASE], |job| {
        one_step(job);
        keeps(job);
        job.local = Some(both.local());
    });
    trained(&left_out);
    let kept = |job: &JobFolder| {
        let local = NamedTensors::from_safetensors(&fs::read(job.local()).unwrap()).unwrap();
        local.filtered(|name| name.starts_with("heads.cardiac-disease."))
    };
    assert!(kept(&both).iter().count() > 0);
    assert_eq!(kept(&left_out), kept(&both));
    let lonely = round(hospital, "lonely", &[CINE, DISEASE], |job| {
        one_step(job);
        job.plan.finetuning.as_mut().unwrap().tasks.iter_mut().for_each(|task| task.training.batch_size = 1);
    });
    let refused = trainer::train(&lonely, &Stop::default()).unwrap_err();
    assert!(matches!(refused, TrainerError::TooFewSubjects { .. }), "{refused}");
}

fn nobody_held_out(hospital: &Hospital) {
    let job = round(hospital, "nobody", &[CINE], |job| job.held_out = 0.0);
    let refused = trainer::train(&job, &Stop::default()).unwrap_err().to_string();
    assert!(refused.contains("held out to be measured, but at least 1 must: raise `held_out`"), "{refused}");
}

fn a_stop_before_the_first_step_and_after_the_last_one(hospital: &Hospital) {
    let measured = round(hospital, "measured", &[CINE], |job| job.measures = true);
    let refused = trainer::train(&measured, &Stop::when(|| true)).unwrap_err();
    assert!(matches!(refused, TrainerError::Stopped { step: 0 }), "{refused}");
    assert!(measured.scores().unwrap().is_none(), "nothing was measured");

    let asked = Arc::<AtomicUsize>::default();
    let times = |job: &JobFolder, stopped_at: usize| {
        let count = Arc::clone(&asked);
        asked.store(0, Ordering::Relaxed);
        let ended = trainer::train(job, &Stop::when(move || count.fetch_add(1, Ordering::Relaxed) + 1 == stopped_at));
        (ended, asked.load(Ordering::Relaxed))
    };
    let job = round(hospital, "last-step", &[], |_| {});
    assert!(matches!(trainer::train(&job, &after(4, &job)), Err(TrainerError::Stopped { step: 4 })));
    let checkpoint = NamedTensors::from_safetensors(&fs::read(job.checkpoint()).unwrap()).unwrap();
    assert_eq!(checkpoint.get("clock").unwrap().values, [12.0, 0.0]);
    // What follows is no step, and may be stopped as well.
    assert!(matches!(times(&job, 2), (Err(TrainerError::Stopped { step: 4 }), 2)));
    let (delta, _) = trained(&job);
    let whole = round(hospital, "whole", &[], |_| {});
    let (_, asks) = times(&whole, usize::MAX);
    assert_eq!(trained(&whole).0, delta);
    let (_, more) = times(&round(hospital, "in-parts", &[], |job| job.micro_batch = 8), usize::MAX);
    assert!(more > asks, "fewer frames at a time are asked for more often: {more}, {asks}");
}

#[test]
fn a_patient_under_two_identifiers_is_not_learnt_from_for_one_task_and_measured_for_another() {
    let hospital = Hospital::with(SiteSpec::c(10));
    sent_again(&hospital, "PHANTOM-C0002");
    // His masks are under one identifier, and his disease under one of the others: no task alone has him twice.
    let classes = hospital.path("labels/classes.csv");
    let table = fs::read_to_string(&classes).unwrap();
    let said = (0..12).filter_map(|copy| {
        fs::write(&classes, table.replace("PHANTOM-C0002", &format!("COPY-{copy}"))).unwrap();
        let job =
            round(&hospital, &format!("copy-{copy}"), &[CINE, DISEASE], |job| job.plan.training.steps_per_round = 2);
        trainer::train(&job, &Stop::default()).err()
    });
    let said: Vec<String> = said.map(|error| error.to_string()).collect();
    assert!((1..12).contains(&said.len()), "where both are on one side, nothing is wrong: {said:?}");
    assert!(said.iter().all(|error| error.contains("labels-refused.txt says why")), "{said:?}");
    let why = fs::read_to_string(hospital.path("state/images/labels-refused.txt")).unwrap();
    assert!(why.contains("the same patient is here under two identifiers"), "{why}");
}

#[test]
fn a_source_that_is_added_or_taken_off_while_images_are_read_stays_so_and_the_grid_is_read_again() {
    let hospital = Hospital::with(SiteSpec::c(4));
    let (home, config) = (Home::at(hospital.path("state")), IntakeConfig::default());
    let grid = toml::from_str::<PlanDraft>(PLAN).unwrap().images;
    let other = ImagePlan { frame_size: 48, ..grid.clone() };
    let first = hospital.path("dicom").canonicalize().unwrap();
    let mut patients: Vec<PathBuf> = fs::read_dir(&first).unwrap().map(|entry| entry.unwrap().path()).collect();
    patients.sort();
    let [second, third] = ["second", "third"].map(|name| first.with_file_name(name));
    [&second, &third].into_iter().for_each(|apart| fs::rename(patients.pop().unwrap(), apart).unwrap());
    let listed = || -> Vec<PathBuf> {
        images::sources(&home).unwrap().0.iter().map(|source| source.path().to_owned()).collect()
    };
    let is_read = || images::cache_for(&home, &grid, &config).unwrap().is_some();
    let index = |source: &Path, grid: &ImagePlan, meanwhile: &mut dyn FnMut()| {
        images::index_all(&home, source, grid, &config, &hospital.program, &mut |_| meanwhile()).unwrap();
    };
    let read = |meanwhile: &mut dyn FnMut()| {
        let stopped = Arc::default();
        images::index_until(&stopped, &home, &grid, &config, &hospital.program, &mut |_| meanwhile()).unwrap();
    };

    let mut typed = false;
    read(&mut || {
        if !std::mem::replace(&mut typed, true) {
            index(&second, &other, &mut || {});
        }
    });
    assert_eq!(listed(), [first.clone(), second.clone()]);
    assert!(!is_read(), "the new one is not on this grid");
    read(&mut || {});
    assert!(is_read());

    let alone = Sources(vec![Source::Dicom(first.clone())]);
    index(&third, &grid, &mut || alone.write(&home.images().join("sources.json")).unwrap());
    assert_eq!(listed(), [first, third]);
    assert!(!is_read(), "what was taken off is still there");
    read(&mut || {});
    assert!(is_read());
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
