//! The best, the median and the worst held-out subject, drawn: what a reader drew and what the network says, in two colours over
//! the image; of classes, frames that were told wrong. These are images: they are for the site alone.

use std::collections::BTreeSet;

use common::task::{Direction, TaskKind};
use data::{FrameCache, FrameGrid, FrameRef, SubjectKey};
use model::Finetuner;

use super::{ReportError, Run};
use crate::pictures::Picture;
use crate::tasks::{self, Answer, Asked, Example, Examples, Said, TasksError, likeliest};

/// A subject, drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Who, and how well it went.
    pub caption: String,
    /// A strip of frames, as PNG.
    pub png: Vec<u8>,
}

/// Pixels of a tile's side.
const TILE: usize = 184;
/// Half the size of a landmark's mark, in pixels.
const MARK: f64 = 8.0;
/// Most frames of a subject.
const FRAMES: usize = 6;
/// What the reader drew: a wide line, or a ring.
pub(super) const READER: [u8; 3] = [64, 208, 196];
/// What the network says: a narrow line, or a cross.
pub(super) const NETWORK: [u8; 3] = [255, 138, 61];

/// Draws the best, the median and the worst subject of a run, as its evaluation has it; of classes the worst alone.
pub fn draw(
    run: &Run,
    cache: &FrameCache,
    examples: &Examples,
    held_out: f64,
    network: &Finetuner,
) -> Result<Vec<Shown>, ReportError> {
    let task = &run.told.task;
    let asked = tasks::held_out_examples(task, cache, examples, held_out);
    let subjects: BTreeSet<SubjectKey> = asked.iter().map(|example| example.subject).collect();
    let subjects: Vec<SubjectKey> = subjects.into_iter().collect();
    let stale = || ReportError::Stale { folder: run.folder.clone() };
    let frames: usize = asked.iter().map(|example| example.frames.len()).sum();
    if subjects.len() != run.measured.each.len() || frames != run.measured.frames {
        return Err(stale());
    }
    let side = run.told.model.image_size * task.input.scale;
    let network_says = Asked::new(cache, task, side, run.told.model.in_channels);
    let mut shown = Vec::new();
    for (rank, place, value) in told_apart(&run.measured.each, task.kind) {
        let subject = subjects[place];
        let own: Vec<&Example> = asked.iter().copied().filter(|example| example.subject == subject).collect();
        let said = network_says.all(network, &own)?;
        // The same network on the same frames says the same, but for the order of sums on another device.
        let again = tasks::measure(task, cache, examples, &own, &said, None)?.each;
        if again.first().copied().flatten().is_none_or(|again| (again - value).abs() > 0.02 * value.abs().max(0.05)) {
            return Err(stale());
        }
        shown.extend(strip(run, cache, examples, &own, &said, (rank, subject, value))?);
    }
    Ok(shown)
}

/// The places of the best, the median and the worst subject, with their values; of fewer than three subjects fewer, the worst
/// first of all. Of classes, the worst if anything of it was told wrong.
fn told_apart(each: &[Option<f64>], kind: TaskKind) -> Vec<(&'static str, usize, f64)> {
    let direction = if kind == TaskKind::Localisation { Direction::Lower } else { Direction::Higher };
    let mut told: Vec<(usize, f64)> = each.iter().enumerate().filter_map(|(i, value)| Some((i, (*value)?))).collect();
    told.sort_by(|(_, a), (_, b)| match direction {
        Direction::Higher => b.total_cmp(a),
        Direction::Lower => a.total_cmp(b),
    });
    let Some(last) = told.len().checked_sub(1) else { return Vec::new() };
    let classes = matches!(kind, TaskKind::Classification | TaskKind::Detection);
    let ranks = [("Worst", last), ("Median", told.len() / 2), ("Best", 0)];
    let mut taken = BTreeSet::new();
    let some = ranks.into_iter().filter(|(_, at)| taken.insert(*at)).take(if classes { 1 } else { ranks.len() });
    let mut some: Vec<_> = some.map(|(rank, at)| (rank, told[at].0, told[at].1)).collect();
    some.retain(|(_, _, value)| !classes || *value < 1.0);
    some.reverse();
    some
}

/// Up to six frames of a subject, in one picture.
fn strip(
    run: &Run,
    cache: &FrameCache,
    examples: &Examples,
    own: &[&Example],
    said: &[Said],
    (rank, subject, value): (&str, SubjectKey, f64),
) -> Result<Option<Shown>, ReportError> {
    let task = &run.told.task;
    let mut answers: Vec<(&Example, &Said)> = own.iter().copied().zip(said).collect();
    let name = |class: usize| task.classes.get(class).map_or("?", String::as_str);
    let tiles: Vec<Vec<u8>>;
    let words = match task.kind {
        TaskKind::Segmentation | TaskKind::Localisation => {
            answers.sort_by_key(|(example, _)| example.frames.first().map(|f| (f.phase, f.series, f.slice)));
            let answers = some_of(&answers);
            let frames: Vec<Drawn<'_>> =
                answers.iter().filter_map(|(example, said)| drawn(cache, examples, example, said)).collect();
            let window = Window::around(&frames, cache.images().frame_size);
            tiles = frames.iter().map(|frame| frame.tile(cache, window)).collect::<Result<_, _>>()?;
            let moment = |frame: &Drawn<'_>| format!("{}/{}", frame.frame.slice, frame.frame.phase);
            let moments: Vec<String> = frames.iter().map(moment).collect();
            let value = match task.kind {
                TaskKind::Segmentation => format!("Dice {value:.3}"),
                _ => format!("mean distance {value:.1} mm"),
            };
            format!("{value}; slice/phase from the left: {}", moments.join(", "))
        }
        TaskKind::Classification => {
            let wrong =
                |(example, said): &(&Example, &Said)| called(example, said).is_some_and(|(is, called)| is != called);
            answers.retain(wrong);
            let answers = some_of(&answers);
            let frames = answers.iter().filter_map(|(example, _)| example.frames.first());
            tiles = frames.map(|frame| tile(cache, *frame)).collect::<Result<_, _>>()?;
            let told = answers.iter().filter_map(|(example, said)| called(example, said));
            let told: Vec<String> = told.map(|(is, called)| format!("{} called {}", name(is), name(called))).collect();
            format!("{:.0} % of the frames told right; wrong, from the left: {}", value * 100.0, told.join("; "))
        }
        TaskKind::Detection => {
            let Some((example, said)) = answers.first() else { return Ok(None) };
            let Some((is, calls)) = called(example, said) else { return Ok(None) };
            let frames = some_of(&example.frames);
            tiles = frames.iter().map(|frame| tile(cache, *frame)).collect::<Result<_, _>>()?;
            let sure = if let Said::Scores(scores) = said { scores[calls] } else { 0.0 };
            format!("{} called {} with a probability of {sure:.2}", name(is), name(calls))
        }
    };
    if tiles.is_empty() {
        return Ok(None);
    }
    let mut picture = Picture::gray(tiles.len(), 1, TILE);
    tiles.iter().enumerate().for_each(|(column, tile)| picture.place_color(column, 0, tile));
    let caption = format!("{rank} subject ({subject}): {words}");
    Ok(Some(Shown { caption, png: picture.png()? }))
}

/// The right class and the one that was said.
fn called(example: &Example, said: &Said) -> Option<(usize, usize)> {
    match (&example.answer, said) {
        (Answer::Class(class), Said::Scores(scores)) => Some((*class, likeliest(scores))),
        _ => None,
    }
}

/// Up to six, evenly from the first to the last.
fn some_of<T: Copy>(all: &[T]) -> Vec<T> {
    let count = all.len().min(FRAMES);
    (0..count).map(|i| all[(2 * i + 1) * all.len() / (2 * count)]).collect()
}

/// A frame as it is. [TILE x TILE x 3]
fn tile(cache: &FrameCache, frame: FrameRef) -> Result<Vec<u8>, TasksError> {
    Ok(colored(&data::shown_frame(cache, frame, TILE)?))
}

fn colored(gray: &[u8]) -> Vec<u8> {
    gray.iter().flat_map(|value| [*value; 3]).collect()
}

/// A frame with what is to be drawn over it.
struct Drawn<'a> {
    frame: FrameRef,
    grid: FrameGrid,
    /// Rows and columns as acquired.
    matrix: [usize; 2],
    over: Over<'a>,
}

enum Over<'a> {
    /// A class a pixel as acquired: by the reader, by the network.
    Masks([&'a [u8]; 2]),
    /// (row, column) in pixels of the cached frame: by the reader, by the network.
    Places(Vec<[[f64; 2]; 2]>),
}

fn drawn<'a>(cache: &FrameCache, examples: &'a Examples, example: &Example, said: &'a Said) -> Option<Drawn<'a>> {
    let frame = *example.frames.first()?;
    let record = &cache.series()[frame.series as usize];
    let grid = FrameGrid::new(record.matrix, record.spacing_mm, cache.images());
    let over = match (&example.answer, said) {
        (Answer::Mask(_), Said::Pixels(found)) => {
            let of = examples.masks.iter().find(|mask| mask.series == frame.series && mask.phase == frame.phase)?;
            Over::Masks([of.slices.get(frame.slice as usize)?.as_deref()?, found])
        }
        (Answer::Places(truth), Said::Places(found)) => {
            let both = truth.iter().zip(found).filter_map(|(truth, found)| Some([(*truth)?, grid.to_frame(*found)]));
            Over::Places(both.collect())
        }
        _ => return None,
    };
    Some(Drawn { frame, grid, matrix: record.matrix.map(|count| count as usize), over })
}

/// The square of the frames that is shown, as a part of frames enlarged to `full` pixels: the same for all of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    full: usize,
    top: usize,
    left: usize,
}

impl Window {
    /// Around all that is drawn, by the reader or by the network, with some of the image about it.
    fn around(frames: &[Drawn<'_>], frame_size: usize) -> Self {
        Self::of(frames.iter().flat_map(Drawn::places), frame_size)
    }

    /// Around places in pixels of the frame.
    fn of(places: impl Iterator<Item = [f64; 2]>, frame_size: usize) -> Self {
        let frame_size = frame_size as f64;
        let (low, high) = places.fold(([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]), |(low, high), place| {
            (std::array::from_fn(|i| low[i].min(place[i])), std::array::from_fn(|i| high[i].max(place[i])))
        });
        if low[0] > high[0] {
            return Self { full: TILE, top: 0, left: 0 };
        }
        let reach = (high[0] - low[0]).max(high[1] - low[1]) * 1.3;
        let shown = reach.clamp(frame_size * 0.35, frame_size);
        let full = (TILE as f64 * frame_size / shown).round();
        let [top, left] = [0, 1].map(|i| {
            let from = ((low[i] + high[i] + 1.0) / 2.0 - shown / 2.0) * full / frame_size;
            from.round().clamp(0.0, full - TILE as f64) as usize
        });
        Self { full: full as usize, top, left }
    }

    /// Where a pixel of the tile lies in the frame.
    fn to_frame(self, [row, column]: [usize; 2], frame_size: usize) -> [f64; 2] {
        let step = frame_size as f64 / self.full as f64;
        [row + self.top, column + self.left].map(|place| (place as f64 + 0.5) * step - 0.5)
    }

    /// Where a place of the frame lies in the tile.
    fn to_tile(self, place: [f64; 2], frame_size: usize) -> [f64; 2] {
        let step = frame_size as f64 / self.full as f64;
        let [row, column] = place.map(|value| (value + 0.5) / step - 0.5);
        [row - self.top as f64, column - self.left as f64]
    }
}

impl Drawn<'_> {
    /// Places in pixels of the frame that are to be seen.
    fn places(&self) -> Vec<[f64; 2]> {
        match &self.over {
            Over::Places(both) => both.iter().flatten().copied().collect(),
            Over::Masks(masks) => {
                let [_, columns] = self.matrix;
                let held = |mask: &[u8]| {
                    let held = mask.iter().enumerate().filter(|(_, class)| **class > 0);
                    let place = |i: usize| self.grid.to_frame([(i / columns) as f64, (i % columns) as f64]);
                    held.map(|(i, _)| place(i)).collect::<Vec<_>>()
                };
                masks.iter().flat_map(|mask| held(mask)).collect()
            }
        }
    }

    /// The window of the frame, with what is drawn over it. [TILE x TILE x 3]
    fn tile(&self, cache: &FrameCache, window: Window) -> Result<Vec<u8>, TasksError> {
        let side = cache.images().frame_size;
        let all = data::shown_frame(cache, self.frame, window.full)?;
        let row = |row: usize| &all[(row + window.top) * window.full + window.left..][..TILE];
        let mut tile: Vec<u8> = (0..TILE).flat_map(|at| colored(row(at))).collect();
        match &self.over {
            Over::Masks(masks) => {
                for (mask, color, reach, strength) in [(masks[0], READER, 1, 0.75), (masks[1], NETWORK, 0, 1.0)] {
                    let at = |i: usize| self.grid.to_native(window.to_frame([i / TILE, i % TILE], side));
                    let classes: Vec<u8> = (0..TILE * TILE).map(|i| class_at(mask, self.matrix, at(i))).collect();
                    paint(&mut tile, &widened(&edges(&classes), reach), color, strength);
                }
            }
            Over::Places(both) => {
                for places in both {
                    // What lies beyond the edge is marked on it.
                    let [truth, found] = places
                        .map(|place| window.to_tile(place, side).map(|at| at.clamp(MARK, TILE as f64 - 1.0 - MARK)));
                    paint(&mut tile, &between(truth, found), NETWORK, 0.6);
                    let ring = |down: f64, across: f64| (down.hypot(across) - MARK + 1.0).abs() < 1.2;
                    paint(&mut tile, &marked(truth, ring), READER, 1.0);
                    let cross = |down: f64, across: f64| {
                        (down.abs() - across.abs()).abs() < 1.2 && down.abs().max(across.abs()) < MARK - 2.0
                    };
                    paint(&mut tile, &marked(found, cross), NETWORK, 1.0);
                }
            }
        }
        Ok(tile)
    }
}

/// The class with the most weight among the four pixels around a place, so that outlines are smooth; 0 beyond the mask.
fn class_at(mask: &[u8], [rows, columns]: [usize; 2], [down, across]: [f64; 2]) -> u8 {
    let inside = |place: f64, count: usize| (-0.5..count as f64 - 0.5).contains(&place);
    if !inside(down, rows) || !inside(across, columns) {
        return 0;
    }
    let (top, left) = (down.max(0.0).floor(), across.max(0.0).floor());
    let near = |from: f64, count: usize| [from as usize, (from as usize + 1).min(count - 1)];
    let part = |place: f64, from: f64| [1.0 - (place.max(0.0) - from), place.max(0.0) - from];
    let (rows, columns_near) = (near(top, rows), near(left, columns));
    let mut votes: Vec<(u8, f64)> = Vec::with_capacity(4);
    for (row, weight) in rows.into_iter().zip(part(down, top)) {
        for (column, beside) in columns_near.into_iter().zip(part(across, left)) {
            let class = mask[row * columns + column];
            match votes.iter_mut().find(|(held, _)| *held == class) {
                Some((_, sum)) => *sum += weight * beside,
                None => votes.push((class, weight * beside)),
            }
        }
    }
    votes.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(class, _)| class)
}

/// The pixels whose right or lower neighbour is of another class.
fn edges(classes: &[u8]) -> Vec<bool> {
    let other = |i: usize, neighbour: usize| classes.get(neighbour).is_some_and(|class| *class != classes[i]);
    (0..classes.len()).map(|i| i % TILE + 1 < TILE && other(i, i + 1) || other(i, i + TILE)).collect()
}

/// A line made wider by so many pixels to each side.
fn widened(line: &[bool], reach: usize) -> Vec<bool> {
    let on = |row: usize, column: usize| line[row * TILE + column];
    let near = |at: usize| at.saturating_sub(reach)..=(at + reach).min(TILE - 1);
    (0..TILE * TILE).map(|i| near(i / TILE).any(|row| near(i % TILE).any(|column| on(row, column)))).collect()
}

/// The pixels for which `is` holds of the distances down and across from a place.
fn marked([row, column]: [f64; 2], is: impl Fn(f64, f64) -> bool) -> Vec<bool> {
    (0..TILE * TILE).map(|i| is((i / TILE) as f64 - row, (i % TILE) as f64 - column)).collect()
}

/// The pixels on the straight way from one place to another.
fn between(from: [f64; 2], to: [f64; 2]) -> Vec<bool> {
    let mut line = vec![false; TILE * TILE];
    let steps = (to[0] - from[0]).abs().max((to[1] - from[1]).abs()).ceil().max(1.0);
    for step in 0..=steps as usize {
        let [row, column] = [0, 1].map(|i| from[i] + (to[i] - from[i]) * step as f64 / steps);
        line[row.round() as usize * TILE + column.round() as usize] = true;
    }
    line
}

/// Colors pixels, with so much of the color.
fn paint(tile: &mut [u8], line: &[bool], color: [u8; 3], strength: f32) {
    for (pixel, _) in tile.chunks_exact_mut(3).zip(line).filter(|(_, on)| **on) {
        for (value, color) in pixel.iter_mut().zip(color) {
            *value = (f32::from(*value) * (1.0 - strength) + f32::from(color) * strength) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_the_median_and_the_worst_are_shown_each_once_and_the_worst_before_all() {
        let each = [Some(0.7), None, Some(0.9), Some(0.1), Some(0.8), Some(0.6)];
        let told = told_apart(&each, TaskKind::Segmentation);
        assert_eq!(told, [("Best", 2, 0.9), ("Median", 0, 0.7), ("Worst", 3, 0.1)]);
        let far = told_apart(&each, TaskKind::Localisation);
        assert_eq!(far, [("Best", 3, 0.1), ("Median", 0, 0.7), ("Worst", 2, 0.9)]);
        assert_eq!(told_apart(&each[..1], TaskKind::Segmentation), [("Worst", 0, 0.7)]);
        assert_eq!(told_apart(&[None], TaskKind::Segmentation), []);
        assert_eq!(told_apart(&each, TaskKind::Detection), [("Worst", 3, 0.1)]);
        assert_eq!(told_apart(&[Some(1.0)], TaskKind::Detection), [], "nothing was told wrong");
    }

    #[test]
    fn a_tile_shows_the_whole_of_what_is_drawn_and_says_of_each_pixel_where_it_lies() {
        let window = Window::of([[20.0, 30.0], [50.0, 60.0]].into_iter(), 96);
        for place in [[20.0, 30.0], [50.0, 60.0], [33.3, 41.7]] {
            let [row, column] = window.to_tile(place, 96);
            assert!(
                [row, column].iter().all(|at| (0.0..TILE as f64).contains(at)),
                "{place:?} lies at {row}, {column}"
            );
            let back = window.to_frame([row.round() as usize, column.round() as usize], 96);
            assert!((0..2).all(|i| (back[i] - place[i]).abs() < 0.5), "{place:?} comes back as {back:?}");
        }
        assert_eq!(Window::of([].into_iter(), 96), Window { full: TILE, top: 0, left: 0 });
        let whole = Window::of([[0.0, 0.0], [95.0, 95.0]].into_iter(), 96);
        assert_eq!(whole, Window { full: TILE, top: 0, left: 0 });
    }

    #[test]
    fn an_outline_runs_where_the_class_changes_and_nowhere_else() {
        let mask = [0, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(
            [[1.0, 1.0], [1.4, 1.0], [1.6, 1.0], [0.0, 0.0], [3.0, 1.0]].map(|at| class_at(&mask, [3, 3], at)),
            [1, 1, 0, 0, 0]
        );
        let mut classes = vec![0; TILE * TILE];
        classes[5 * TILE + 7] = 2;
        let on: Vec<usize> = edges(&classes).iter().enumerate().filter(|(_, on)| **on).map(|(i, _)| i).collect();
        assert_eq!(on, [4 * TILE + 7, 5 * TILE + 6, 5 * TILE + 7]);
        assert_eq!(widened(&edges(&classes), 1).iter().filter(|on| **on).count(), 15);
        assert_eq!(between([3.0, 2.0], [3.0, 6.0]).iter().filter(|on| **on).count(), 5);
        assert!(edges(&vec![3; TILE * TILE]).iter().all(|on| !on));
    }
}
