//! What a finetuned network says of a site's subjects, as files: masks in the patient's space and what their values mean,
//! classes and landmarks as a table, pictures. For this site's own use: the files name subjects by pseudonym and show images.

use std::collections::BTreeMap;
use std::path::Path;

use common::Task;
use common::task::TaskKind;
use data::{
    Affine, FrameCache, FrameRef, Labels, MaskCodes, NiftiError, Plane, SeriesRecord, SubjectKey, Volume, stack_affine,
    write_nifti,
};
use model::Finetuner;
use serde_json::{Value, json};

use super::asking::likeliest;
use super::{Answer, Asked, Example, Said, TasksError, declared, drawing};
use crate::durable;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Predicted {
    /// Subjects.
    pub subjects: usize,
    /// Files of masks.
    pub masks: usize,
    /// Rows of the table.
    pub rows: usize,
    /// Series whose slices are not a stack, so that no file can hold them.
    pub unplaced: usize,
}

/// Asks the network of every frame that the task is shown of some subjects, and writes what it says into `folder`: masks in
/// the codes of the site's labels, or without any by each class's place in the task.
pub fn predict(
    task: &Task,
    cache: &FrameCache,
    network: &Finetuner,
    (side, channels): (usize, usize),
    subjects: &[SubjectKey],
    labels: Option<&Labels>,
    folder: &Path,
) -> Result<Predicted, TasksError> {
    let codes = match task.kind {
        TaskKind::Segmentation => Some(declare_codes(task, labels, folder)?),
        _ => None,
    };
    let seen_in = declared::seen_in(task)?;
    let frames = shown_frames(task, cache, subjects, &seen_in)?;
    let examples: Vec<Example> = match task.kind {
        TaskKind::Detection => {
            let mut of: BTreeMap<SubjectKey, Vec<FrameRef>> = BTreeMap::new();
            for frame in frames {
                of.entry(cache.series()[frame.series as usize].subject).or_default().push(frame);
            }
            let example = |(subject, frames)| Example { subject, frames, answer: Answer::Class(0) };
            of.into_iter().map(example).collect()
        }
        _ => {
            let subject = |frame: FrameRef| cache.series()[frame.series as usize].subject;
            let example = |frame| Example { subject: subject(frame), frames: vec![frame], answer: Answer::Class(0) };
            frames.into_iter().map(example).collect()
        }
    };
    let asked = Asked::new(cache, task, side, channels);
    let mut written = Predicted::default();
    let (mut text, mut answers) = (heading(task), Vec::new());
    // A subject at a time: the masks of all of them would fill the memory, and what is written is not lost to who comes later.
    for own in examples.chunk_by(|one, next| one.subject == next.subject) {
        let refs: Vec<&Example> = own.iter().collect();
        let (said, scores): (Vec<_>, Vec<_>) = asked.all_scored(network, &refs)?.into_iter().unzip();
        match &codes {
            Some(codes) => masks(cache, (own, &said), codes, folder, &mut written)?,
            None => {
                let (own_text, own_answers) = rows((task, &seen_in), cache, own, (&said, &scores));
                text += &own_text;
                answers.extend(own_answers);
            }
        }
        drawing::pictures((task, &seen_in), cache, (own, &said), folder)?;
        written.subjects += 1;
    }
    if codes.is_none() {
        written.rows = answers.len();
        let path = |kind: &str| folder.join(format!("{}.{kind}", task.name));
        durable::write(&path("csv"), text.as_bytes())?;
        let lines = answers.iter().map(|answer| format!("  {answer}")).collect::<Vec<_>>().join(",\n");
        durable::write(&path("json"), format!("[\n{lines}\n]\n").as_bytes())?;
    }
    Ok(written)
}

/// The frames that are asked: of the task's sequences, and of planes in which there is something to be seen.
fn shown_frames(
    task: &Task,
    cache: &FrameCache,
    subjects: &[SubjectKey],
    seen_in: &[Vec<Plane>],
) -> Result<Vec<FrameRef>, TasksError> {
    let sequences = declared::sequences(task)?;
    let wanted = |frame: &FrameRef| {
        let record = &cache.series()[frame.series as usize];
        sequences.contains(&record.sequence)
            && seen_in.iter().any(|planes| planes.contains(&record.plane))
            && subjects.binary_search(&record.subject).is_ok()
            && super::examples::is_shown(task, record, *frame)
    };
    Ok(cache.frames().filter(wanted).collect())
}

/// Says in `labels.toml` what the masks' values will mean, before there is one. A folder whose masks mean something else is
/// refused: nobody could tell them apart.
fn declare_codes(task: &Task, labels: Option<&Labels>, folder: &Path) -> Result<MaskCodes, TasksError> {
    let codes = match labels {
        Some(labels) => labels.mask_codes(&task.classes)?,
        None => MaskCodes::by_place(&task.classes),
    };
    let (path, text) = (folder.join("labels.toml"), codes.text());
    match durable::read_if_there(&path)? {
        Some(held) if held != text.as_bytes() => Err(TasksError::OtherCodes { path: path.display().to_string() }),
        Some(_) => Ok(codes),
        None => {
            durable::write(&path, text.as_bytes())?;
            Ok(codes)
        }
    }
}

/// What files and rows call a series: its key, and where halves of it in several sources have one key, which of them it is.
fn name_of(series: &[SeriesRecord], place: usize) -> String {
    let record = &series[place];
    // Series are in the order of subject and key.
    let is_of_it = |other: &&SeriesRecord| (other.subject, other.key) == (record.subject, record.key);
    let before = series[..place].iter().rev().take_while(is_of_it).count();
    let after = series[place + 1..].iter().take_while(is_of_it).count();
    if before + after == 0 { record.key.to_string() } else { format!("{}-part{}", record.key, before + 1) }
}

/// A file for each series and phase: `<subject>/<series>-<phase>.nii.gz`.
fn masks(
    cache: &FrameCache,
    (examples, said): (&[Example], &[Said]),
    codes: &MaskCodes,
    folder: &Path,
    written: &mut Predicted,
) -> Result<(), TasksError> {
    let mut stacks: BTreeMap<(u32, u32), BTreeMap<u32, &Vec<u8>>> = BTreeMap::new();
    for (example, said) in examples.iter().zip(said) {
        if let (Some(frame), Said::Pixels(pixels)) = (example.frames.first(), said) {
            stacks.entry((frame.series, frame.phase)).or_default().insert(frame.slice, pixels);
        }
    }
    for ((series, phase), slices) in stacks {
        let record = &cache.series()[series as usize];
        let [rows, columns] = record.matrix.map(|count| count as usize);
        let Ok(affine) = stack_affine(record) else {
            written.unplaced += 1;
            continue;
        };
        // A slice that has no such phase is empty.
        let empty = vec![0; rows * columns];
        let all = (0..record.slices.len() as u32).flat_map(|slice| slices.get(&slice).copied().unwrap_or(&empty));
        let values: Vec<i64> = all.map(|place| codes.value(*place)).collect();
        let folder = folder.join(record.subject.to_string());
        std::fs::create_dir_all(&folder).map_err(durable::told("create", &folder))?;
        let path = folder.join(format!("{}-{phase}.nii.gz", name_of(cache.series(), series as usize)));
        write_mask(&path, [columns, rows, record.slices.len(), 1], affine, &values, codes.largest())?;
        written.masks += 1;
    }
    Ok(())
}

/// In the smallest numbers that hold every code: bytes, then 16 bits, then 32-bit floats, which hold whole numbers exactly as
/// far as codes go.
fn write_mask(path: &Path, dims: [usize; 4], affine: Affine, values: &[i64], largest: i64) -> Result<(), NiftiError> {
    let all = values.iter().copied();
    if largest <= i64::from(u8::MAX) {
        return write_nifti(path, &Volume { dims, affine, values: all.map(|value| value as u8).collect() });
    }
    if largest <= i64::from(i16::MAX) {
        return write_nifti(path, &Volume { dims, affine, values: all.map(|value| value as i16).collect() });
    }
    write_nifti(path, &Volume { dims, affine, values: all.map(|value| value as f32).collect() })
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table's first line.
fn heading(task: &Task) -> String {
    match task.kind {
        TaskKind::Localisation => "subject,series,slice,phase,landmark,x_mm,y_mm,z_mm,score\n".to_owned(),
        kind => {
            let who = if kind == TaskKind::Detection { "subject" } else { "subject,series,slice,phase" };
            let each = task.classes.iter().map(|class| quoted(&format!("probability of {class}")));
            format!("{who},class,{}\n", each.collect::<Vec<_>>().join(","))
        }
    }
}

/// A row for each answer: subject, series, slice and phase, and what was said; and the same as JSON. Landmarks in the
/// patient's coordinates (LPS), of the planes in which they are to be seen, each with its score.
fn rows(
    (task, seen_in): (&Task, &[Vec<Plane>]),
    cache: &FrameCache,
    examples: &[Example],
    (said, scores): (&[Said], &[Vec<f64>]),
) -> (String, Vec<Value>) {
    let series = |frame: &FrameRef| name_of(cache.series(), frame.series as usize);
    let place = |frame: &FrameRef| {
        let subject = cache.series()[frame.series as usize].subject;
        format!("{subject},{},{},{}", series(frame), frame.slice, frame.phase)
    };
    let mut text = String::new();
    let mut answers = Vec::new();
    for ((example, said), scores) in examples.iter().zip(said).zip(scores) {
        let Some(frame) = example.frames.first() else { continue };
        let record = &cache.series()[frame.series as usize];
        let mut answer = json!({ "subject": example.subject.to_string() });
        if task.kind != TaskKind::Detection {
            answer["series"] = series(frame).into();
            answer["slice"] = frame.slice.into();
            answer["phase"] = frame.phase.into();
        }
        match said {
            Said::Scores(scores) => {
                let best = &task.classes[likeliest(scores)];
                let who = if task.kind == TaskKind::Detection { example.subject.to_string() } else { place(frame) };
                let each: Vec<String> = scores.iter().map(|score| format!("{score:.4}")).collect();
                text += &format!("{who},{},{}\n", quoted(best), each.join(","));
                answer["class"] = best.as_str().into();
                answer["probabilities"] =
                    task.classes.iter().cloned().zip(scores.iter().map(|score| json!(score))).collect();
                answers.push(answer);
            }
            Said::Places(places) => {
                let Some(placement) = record.slices[frame.slice as usize].placement else { continue };
                let all = task.classes.iter().zip(seen_in).zip(places.iter().zip(scores));
                for ((name, _), (at, score)) in all.filter(|((_, planes), _)| planes.contains(&record.plane)) {
                    let [x, y, z] = placement.point(record.spacing_mm, *at);
                    text += &format!("{},{},{x:.2},{y:.2},{z:.2},{score:.4}\n", place(frame), quoted(name));
                    answer["landmark"] = name.as_str().into();
                    answer["lps_mm"] = json!([x, y, z]);
                    answer["score"] = json!(score);
                    answers.push(answer.clone());
                }
            }
            Said::Pixels(_) => {}
        }
    }
    (text, answers)
}
