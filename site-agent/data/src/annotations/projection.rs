//! Between an image as acquired and its cached frame.

use common::plan::ImagePlan;

use crate::cache::SeriesRecord;
use crate::geometry::{FrameGrid, is_on};

/// A mask as acquired on the grid of the cached frames: the nearest native pixel, and 0 outside the image.
/// [frame_size x frame_size]
///
/// # Panics
/// If `native` is not [rows x columns] of the record.
pub fn mask_on_frame(record: &SeriesRecord, images: &ImagePlan, native: &[u8]) -> Vec<u8> {
    let [rows, columns] = record.matrix.map(|side| side as usize);
    assert_eq!(native.len(), rows * columns, "a mask of other than {rows} x {columns} pixels");
    let grid = FrameGrid::new(record.matrix, record.spacing_mm, images);
    let side = images.frame_size;
    let nearest = |axis: usize, count: usize| -> Vec<Option<usize>> {
        let on = |i: usize| Some(grid.to_native([i as f64; 2])[axis]).filter(|place| is_on(*place, count));
        (0..side).map(|i| on(i).map(|place| (place.round().max(0.0) as usize).min(count - 1))).collect()
    };
    let (down, along) = (nearest(0, rows), nearest(1, columns));
    let row = |row: &Option<usize>| -> Vec<u8> {
        let at = |column: &Option<usize>| match (row, column) {
            (Some(row), Some(column)) => native[row * columns + column],
            _ => 0,
        };
        along.iter().map(at).collect()
    };
    down.iter().flat_map(row).collect()
}

/// Values on the grid of the cached frames on the image as acquired: linear interpolation, and 0 where the frame does not
/// reach. [rows x columns]
///
/// # Panics
/// If `values` is not [frame_size x frame_size].
pub fn frame_to_native(record: &SeriesRecord, images: &ImagePlan, values: &[f32]) -> Vec<f32> {
    let side = images.frame_size;
    assert_eq!(values.len(), side * side, "a frame of other than {side} x {side} pixels");
    let grid = FrameGrid::new(record.matrix, record.spacing_mm, images);
    // The two pixels around each place and the weight of the second; at the edge they are one.
    let taps = |axis: usize, count: usize| -> Vec<Option<(usize, usize, f32)>> {
        let on = |i: usize| Some(grid.to_frame([i as f64; 2])[axis]).filter(|place| is_on(*place, side));
        let tap = |place: f64| {
            let place = place.clamp(0.0, side as f64 - 1.0);
            let first = place.floor() as usize;
            (first, (first + 1).min(side - 1), (place - first as f64) as f32)
        };
        (0..count).map(|i| on(i).map(tap)).collect()
    };
    let [rows, columns] = record.matrix.map(|side| side as usize);
    let (down, along) = (taps(0, rows), taps(1, columns));
    let between = |a: f32, b: f32, weight: f32| a + weight * (b - a);
    let pixel = |down: &Option<(usize, usize, f32)>, along: &Option<(usize, usize, f32)>| match (down, along) {
        (Some((top, bottom, below)), Some((left, right, beside))) => {
            let row = |row: usize| between(values[row * side + left], values[row * side + right], *beside);
            between(row(*top), row(*bottom), *below)
        }
        _ => 0.0,
    };
    down.iter().flat_map(|down| along.iter().map(move |along| (down, along))).map(|(d, a)| pixel(d, a)).collect()
}
