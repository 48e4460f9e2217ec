//! Masks on the frames that a network is shown.

use super::*;

/// A record of some grid, for projections.
fn grid(matrix: [u32; 2], spacing_mm: [f64; 2]) -> SeriesRecord {
    let site = Site::new();
    SeriesRecord { matrix, spacing_mm, ..site.record(1).1.clone() }
}

#[test]
fn a_mask_on_the_frame_is_the_nearest_pixel() {
    let record = grid([40, 50], [1.3, 1.1]);
    let images = ImagePlan { frame_size: 64, spacing_mm: 1.0, ..ImagePlan::default() };
    let inside = |i: usize| ((i / 50) as f64 - 19.0).hypot((i % 50) as f64 * 0.9 - 20.0) < 11.0;
    let native: Vec<u8> = (0..2000).map(|i| u8::from(inside(i))).collect();
    let frame = mask_on_frame(&record, &images, &native);
    let mm = |count: f64, spacing: f64, i: usize| (i as f64 - (count - 1.0) / 2.0) * spacing;
    for (place, value) in frame.iter().enumerate() {
        let row = (mm(64.0, 1.0, place / 64) / 1.3 + 19.5).round();
        let column = (mm(64.0, 1.0, place % 64) / 1.1 + 24.5).round();
        let within = (0.0..40.0).contains(&row) && (0.0..50.0).contains(&column);
        let expected = if within { native[row as usize * 50 + column as usize] } else { 0 };
        assert_eq!(*value, expected, "{place}");
    }
}

#[test]
fn a_mask_on_its_own_grid_is_itself() {
    let record = grid([12, 12], [1.0, 1.0]);
    let images = ImagePlan { frame_size: 12, spacing_mm: 1.0, ..ImagePlan::default() };
    let native: Vec<u8> = (0..144).map(|i| (i * 7 % 5) as u8).collect();
    assert_eq!(mask_on_frame(&record, &images, &native), native);
}
