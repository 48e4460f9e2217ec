//! From an image as acquired to its cached frame.

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
