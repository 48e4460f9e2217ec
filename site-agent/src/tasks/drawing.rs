//! What a network said of frames, drawn over them, with a legend: pictures of a subject, for this site's own use.

use std::collections::BTreeMap;
use std::path::Path;

use common::Task;
use common::task::TaskKind;
use data::{CacheError, FrameCache, FrameRef, Plane, SubjectKey};

use super::{Example, Said, TasksError};
use crate::durable;
use crate::pictures::Picture;

/// Colors of structures in pictures.
const COLORS: [[u8; 3]; 6] =
    [[230, 70, 60], [70, 200, 90], [70, 120, 240], [240, 200, 60], [200, 90, 220], [80, 210, 220]];
const SHOWN_SIDE: usize = 160;

/// Of each subject up to twelve frames with what was said of them, in one picture: `<subject>/<task>.png`.
pub(super) fn pictures(
    (task, seen_in): (&Task, &[Vec<Plane>]),
    cache: &FrameCache,
    (examples, said): (&[Example], &[Said]),
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
        let mut picture = picture(cache, &shown, seen_in)?;
        picture.add_legend(&legend(task));
        picture.write(&path).map_err(durable::told("write", &path))?;
    }
    Ok(())
}

/// Up to twelve of these frames, evenly spread.
fn picture(cache: &FrameCache, shown: &[(FrameRef, &Said)], seen_in: &[Vec<Plane>]) -> Result<Picture, CacheError> {
    let (columns, rows) = (4, 3);
    let every = shown.len().div_ceil(columns * rows).max(1);
    let tiles: Vec<_> = shown.iter().step_by(every).collect();
    // Two are as wide as a legend's longer names.
    let mut picture = Picture::gray(tiles.len().clamp(2, columns), tiles.len().div_ceil(columns), SHOWN_SIDE);
    for (tile, (frame, said)) in tiles.into_iter().enumerate() {
        picture.place_color(tile % columns, tile / columns, &overlay(cache, *frame, said, seen_in)?);
    }
    Ok(picture)
}

/// Which color each class has.
fn legend(task: &Task) -> Vec<([u8; 3], &str)> {
    task.classes.iter().enumerate().map(|(class, name)| (color_of(class), name.as_str())).collect()
}

fn color_of(class: usize) -> [u8; 3] {
    COLORS[class % COLORS.len()]
}

/// A frame with what was said of it drawn over: structures tinted, and as crosses the landmarks that are to be seen in its
/// plane. [SHOWN_SIDE x SHOWN_SIDE x 3]
fn overlay(cache: &FrameCache, frame: FrameRef, said: &Said, seen_in: &[Vec<Plane>]) -> Result<Vec<u8>, CacheError> {
    let side = SHOWN_SIDE;
    let gray = data::shown_frame(cache, frame, side)?;
    let record = &cache.series()[frame.series as usize];
    let grid = data::FrameGrid::new(record.matrix, record.spacing_mm, cache.images());
    let step = cache.images().frame_size as f64 / side as f64;
    let native = |pixel: usize| {
        let of_frame = |place: usize| (place as f64 + 0.5) * step - 0.5;
        grid.to_native([of_frame(pixel / side), of_frame(pixel % side)])
    };
    let mut color: Vec<u8> = gray.iter().flat_map(|value| [*value; 3]).collect();
    let mut tint = |pixel: usize, class: usize, strength: f32| {
        for (value, tint) in color[pixel * 3..pixel * 3 + 3].iter_mut().zip(color_of(class)) {
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
            let is_seen = |class: &usize| seen_in[*class].contains(&record.plane);
            for (class, place) in places.iter().enumerate().filter(|(class, _)| is_seen(class)) {
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
    Ok(color)
}
