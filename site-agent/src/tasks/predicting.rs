//! What a finetuned network says of a site's subjects, as files: masks in the patient's space and what their values mean,
//! classes and landmarks as a table, pictures. For this site's own use: the files name subjects by pseudonym and show images.

use std::collections::BTreeMap;
use std::path::Path;

use common::Task;
use common::task::TaskKind;
use data::{
    Affine, FrameCache, FrameRef, Labels, MaskCodes, NiftiError, SubjectKey, Volume, stack_affine, write_nifti,
};
use model::Finetuner;
use serde_json::{Value, json};

use super::asking::likeliest;
use super::{Answer, Asked, Example, Said, TasksError, declared};
use crate::durable;
use crate::pictures::Picture;

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

/// Colors of structures in pictures.
const COLORS: [[u8; 3]; 6] =
    [[230, 70, 60], [70, 200, 90], [70, 120, 240], [240, 200, 60], [200, 90, 220], [80, 210, 220]];
const SHOWN_SIDE: usize = 160;

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
    let frames = shown_frames(task, cache, subjects)?;
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
    let refs: Vec<&Example> = examples.iter().collect();
    let said = asked.all(network, &refs)?;
    let mut written = Predicted::default();
    let mut seen: Vec<SubjectKey> = examples.iter().map(|example| example.subject).collect();
    seen.sort_unstable();
    seen.dedup();
    written.subjects = seen.len();
    if let Some(codes) = codes {
        masks(cache, (&examples, &said), &codes, folder, &mut written)?;
    } else {
        let (text, answers) = table(task, cache, &examples, &said);
        written.rows = answers.len();
        let path = |kind: &str| folder.join(format!("{}.{kind}", task.name));
        durable::write(&path("csv"), text.as_bytes())?;
        let lines = answers.iter().map(|answer| format!("  {answer}")).collect::<Vec<_>>().join(",\n");
        durable::write(&path("json"), format!("[\n{lines}\n]\n").as_bytes())?;
    }
    pictures(task, cache, &examples, &said, folder)?;
    Ok(written)
}

fn shown_frames(task: &Task, cache: &FrameCache, subjects: &[SubjectKey]) -> Result<Vec<FrameRef>, TasksError> {
    let (sequences, planes) = (declared::sequences(task)?, declared::planes(task)?);
    let wanted = |frame: &FrameRef| {
        let record = &cache.series()[frame.series as usize];
        sequences.contains(&record.sequence)
            && planes.contains(&record.plane)
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
        let path = folder.join(format!("{}-{phase}.nii.gz", record.key));
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

/// A row for each answer: subject, series, slice and phase, and what was said; and the same as JSON. Landmarks in the
/// patient's coordinates (LPS).
fn table(task: &Task, cache: &FrameCache, examples: &[Example], said: &[Said]) -> (String, Vec<Value>) {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let place = |frame: &FrameRef| {
        let record = &cache.series()[frame.series as usize];
        format!("{},{},{},{}", record.subject, record.key, frame.slice, frame.phase)
    };
    let mut text = match task.kind {
        TaskKind::Localisation => "subject,series,slice,phase,landmark,x_mm,y_mm,z_mm\n".to_owned(),
        kind => {
            let who = if kind == TaskKind::Detection { "subject" } else { "subject,series,slice,phase" };
            let each = task.classes.iter().map(|class| quoted(&format!("probability of {class}")));
            format!("{who},class,{}\n", each.collect::<Vec<_>>().join(","))
        }
    };
    let mut answers = Vec::new();
    for (example, said) in examples.iter().zip(said) {
        let Some(frame) = example.frames.first() else { continue };
        let record = &cache.series()[frame.series as usize];
        let mut answer = json!({ "subject": example.subject.to_string() });
        if task.kind != TaskKind::Detection {
            answer["series"] = record.key.to_string().into();
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
                for (name, at) in task.classes.iter().zip(places) {
                    let [x, y, z] = placement.point(record.spacing_mm, *at);
                    text += &format!("{},{},{x:.2},{y:.2},{z:.2}\n", place(frame), quoted(name));
                    answer["landmark"] = name.as_str().into();
                    answer["lps_mm"] = json!([x, y, z]);
                    answers.push(answer.clone());
                }
            }
            Said::Pixels(_) => {}
        }
    }
    (text, answers)
}

/// Of each subject up to twelve frames with what was said of them, in one picture: `<subject>/<task>.png`.
fn pictures(
    task: &Task,
    cache: &FrameCache,
    examples: &[Example],
    said: &[Said],
    folder: &Path,
) -> Result<(), TasksError> {
    if !matches!(task.kind, TaskKind::Segmentation | TaskKind::Localisation) {
        return Ok(());
    }
    let mut by_subject: BTreeMap<SubjectKey, Vec<(FrameRef, &Said)>> = BTreeMap::new();
    for (example, said) in examples.iter().zip(said) {
        by_subject.entry(example.subject).or_default().extend(example.frames.first().map(|frame| (*frame, said)));
    }
    for (subject, shown) in by_subject {
        let folder = folder.join(subject.to_string());
        std::fs::create_dir_all(&folder).map_err(durable::told("create", &folder))?;
        let path = folder.join(format!("{}.png", task.name));
        picture(cache, &shown).write(&path).map_err(durable::told("write", &path))?;
    }
    Ok(())
}

/// Up to twelve of these frames, evenly spread.
fn picture(cache: &FrameCache, shown: &[(FrameRef, &Said)]) -> Picture {
    let (columns, rows) = (4, 3);
    let every = shown.len().div_ceil(columns * rows).max(1);
    let tiles: Vec<_> = shown.iter().step_by(every).collect();
    let mut picture = Picture::gray(columns.min(tiles.len()), tiles.len().div_ceil(columns), SHOWN_SIDE);
    for (tile, (frame, said)) in tiles.into_iter().enumerate() {
        picture.place_color(tile % columns, tile / columns, &overlay(cache, *frame, said, SHOWN_SIDE));
    }
    picture
}

/// A frame with what was said of it drawn over: structures tinted, landmarks as crosses. [side x side x 3]
pub(super) fn overlay(cache: &FrameCache, frame: FrameRef, said: &Said, side: usize) -> Vec<u8> {
    let gray = data::shown_frame(cache, frame, side);
    let record = &cache.series()[frame.series as usize];
    let grid = data::FrameGrid::new(record.matrix, record.spacing_mm, cache.images());
    let step = cache.images().frame_size as f64 / side as f64;
    let native = |pixel: usize| {
        let of_frame = |place: usize| (place as f64 + 0.5) * step - 0.5;
        grid.to_native([of_frame(pixel / side), of_frame(pixel % side)])
    };
    let mut color: Vec<u8> = gray.iter().flat_map(|value| [*value; 3]).collect();
    let mut tint = |pixel: usize, class: usize, strength: f32| {
        for (value, tint) in color[pixel * 3..pixel * 3 + 3].iter_mut().zip(COLORS[class % COLORS.len()]) {
            *value = (f32::from(*value) * (1.0 - strength) + f32::from(tint) * strength) as u8;
        }
    };
    let [rows, columns] = record.matrix.map(|count| count as usize);
    match said {
        Said::Pixels(pixels) => {
            for pixel in 0..side * side {
                let [row, column] = native(pixel).map(f64::round);
                let inside = row >= 0.0 && column >= 0.0 && (row as usize) < rows && (column as usize) < columns;
                let class = if inside { pixels[row as usize * columns + column as usize] } else { 0 };
                if class > 0 {
                    tint(pixel, usize::from(class) - 1, 0.45);
                }
            }
        }
        Said::Places(places) => {
            for (class, place) in places.iter().enumerate() {
                let [row, column] = grid.to_frame(*place).map(|value| (value + 0.5) / step - 0.5);
                for pixel in 0..side * side {
                    let (down, across) = ((pixel / side) as f64 - row, (pixel % side) as f64 - column);
                    if down.abs().min(across.abs()) < 0.8 && down.abs().max(across.abs()) < 5.0 {
                        tint(pixel, class, 0.9);
                    }
                }
            }
        }
        Said::Scores(_) => {}
    }
    color
}
