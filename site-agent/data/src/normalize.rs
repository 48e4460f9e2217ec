//! A series' frames onto the plan's grid and into 0..1.
//!
//! MR values carry no unit, so each series is normalised by its own percentiles. They are taken over the pixels as
//! acquired, before resampling, so that padding does not count. Values are kept as 16-bit fractions of the window.

use common::plan::ImagePlan;

use crate::resample::{Axis, Kernel, resample};

/// Pixels of a series that percentiles are taken over; of larger series every n-th is.
const SAMPLE: u64 = 1 << 20;

/// Takes in a series' frames one by one, then gives them all back normalised.
pub(crate) struct Normalizer<'a> {
    images: &'a ImagePlan,
    stride: usize,
    sample: Vec<f32>,
    /// Modality values on the plan's grid; NaN outside the image.
    frames: Vec<Vec<f32>>,
    axes: Option<(Geometry, Axis, Axis)>,
}

/// The grid of an acquired frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Geometry {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Distance of rows and of columns, in mm.
    pub spacing: [f64; 2],
}

/// A series' frames, ready for the cache.
pub(crate) struct Normalized {
    /// `frame_size` squared fractions of the window each, in the order they came in.
    pub frames: Vec<Vec<u16>>,
    /// The modality values that became 0 and 1.
    pub window: [f64; 2],
}

impl<'a> Normalizer<'a> {
    /// For a series of `pixels` pixels in all.
    pub(crate) fn new(images: &'a ImagePlan, pixels: u64) -> Self {
        let stride = usize::try_from(pixels.div_ceil(SAMPLE)).unwrap_or(usize::MAX).max(1);
        Self { images, stride, sample: Vec::new(), frames: Vec::new(), axes: None }
    }

    /// Takes in a frame's modality values, row by row. `inverted_gray` is for MONOCHROME1, where low is bright.
    pub(crate) fn take(&mut self, mut values: Vec<f32>, geometry: Geometry, inverted_gray: bool) {
        if inverted_gray {
            values.iter_mut().for_each(|value| *value = -*value);
        }
        self.sample.extend(values.iter().step_by(self.stride).filter(|value| value.is_finite()));
        if self.axes.as_ref().is_none_or(|(held, ..)| *held != geometry) {
            let (vertical, horizontal) = grid(self.images, &geometry);
            self.axes = Some((geometry, vertical, horizontal));
        }
        if let Some((_, vertical, horizontal)) = &self.axes {
            let columns = geometry.columns;
            self.frames.push(resample(|row| &values[row * columns..][..columns], vertical, horizontal, f32::NAN));
        }
    }

    /// The frames, or none if all pixels are equal.
    pub(crate) fn finish(mut self) -> Option<Normalized> {
        let low = percentile(&mut self.sample, self.images.low_percentile)?;
        let high = percentile(&mut self.sample, self.images.high_percentile)?;
        // A sparse image (a bright spot on nothing) may have equal percentiles: its full range is used then.
        let (low, high) = if high > low {
            (low, high)
        } else {
            (percentile(&mut self.sample, 0.0)?, percentile(&mut self.sample, 100.0)?)
        };
        if high <= low {
            return None;
        }
        let scale = f32::from(u16::MAX) / (high - low);
        // Casting a NaN gives 0, which is what lies outside the image.
        let fraction = |value: f32| ((value - low) * scale + 0.5).clamp(0.0, f32::from(u16::MAX)) as u16;
        let frames = self.frames.into_iter().map(|frame| frame.into_iter().map(fraction).collect()).collect();
        Some(Normalized { frames, window: [f64::from(low), f64::from(high)] })
    }
}

/// The plan's grid on an acquired one, both around the same middle.
fn grid(images: &ImagePlan, geometry: &Geometry) -> (Axis, Axis) {
    let axis = |length: usize, spacing: f64| {
        let step = images.spacing_mm / spacing;
        let origin = (length as f64 - images.frame_size as f64 * step) / 2.0;
        Axis::new(Kernel::Linear, length, origin, step, images.frame_size)
    };
    (axis(geometry.rows, geometry.spacing[0]), axis(geometry.columns, geometry.spacing[1]))
}

/// The percentile with linear interpolation between ranks (Hyndman and Fan's type 7); reorders the sample.
pub(crate) fn percentile(sample: &mut [f32], percent: f64) -> Option<f32> {
    let last = sample.len().checked_sub(1)?;
    let rank = percent / 100.0 * last as f64;
    let below = (rank.floor() as usize).min(last);
    let (_, low, above) = sample.select_nth_unstable_by(below, f32::total_cmp);
    let low = *low;
    let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
    Some(low + (rank - below as f64) as f32 * (high - low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(frame_size: usize, spacing_mm: f64, low: f64, high: f64) -> ImagePlan {
        ImagePlan { frame_size, spacing_mm, low_percentile: low, high_percentile: high, ..ImagePlan::default() }
    }

    #[test]
    fn percentiles_are_those_of_numpy() {
        // numpy.percentile([3, 1, 4, 1, 5, 9, 2, 6], [0, 0.95, 25, 50, 99.5, 100])
        let expected = [1.0, 1.0, 1.75, 3.5, 8.895, 9.0];
        for (percent, expected) in [0.0, 0.95, 25.0, 50.0, 99.5, 100.0].into_iter().zip(expected) {
            let mut sample = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
            assert!((percentile(&mut sample, percent).unwrap() - expected).abs() < 1e-5, "{percent}");
        }
        assert_eq!(percentile(&mut [], 50.0), None);
    }

    #[test]
    fn the_window_becomes_zero_to_one_and_values_beyond_are_clipped() {
        let plan = plan(2, 1.0, 25.0, 75.0);
        let mut normalizer = Normalizer::new(&plan, 4);
        normalizer.take(vec![0.0, 10.0, 20.0, 30.0], Geometry { rows: 2, columns: 2, spacing: [1.0, 1.0] }, false);
        let normalized = normalizer.finish().unwrap();
        assert_eq!(normalized.window, [7.5, 22.5]);
        assert_eq!(normalized.frames[0], [0, 10923, 54613, 65535]);
    }

    #[test]
    fn low_is_bright_in_monochrome1() {
        let plan = plan(2, 1.0, 0.0, 100.0);
        let mut normalizer = Normalizer::new(&plan, 4);
        normalizer.take(vec![0.0, 1.0, 2.0, 3.0], Geometry { rows: 2, columns: 2, spacing: [1.0, 1.0] }, true);
        assert_eq!(normalizer.finish().unwrap().frames[0], [65535, 43690, 21845, 0]);
    }

    #[test]
    fn a_frame_is_resampled_in_millimetres_around_its_middle() {
        // 4 x 4 pixels of 2 mm are 8 mm; the plan's 4 x 4 of 1 mm show the middle half.
        let plan = plan(4, 1.0, 0.0, 100.0);
        let ramp: Vec<f32> = (0..16).map(|i| (i % 4) as f32).collect();
        let mut normalizer = Normalizer::new(&plan, 16);
        normalizer.take(ramp, Geometry { rows: 4, columns: 4, spacing: [2.0, 2.0] }, false);
        let frame = &normalizer.finish().unwrap().frames[0];
        let values: Vec<f32> = frame[..4].iter().map(|v| f32::from(*v) / 65535.0 * 3.0).collect();
        for (value, expected) in values.iter().zip([0.75, 1.25, 1.75, 2.25]) {
            assert!((value - expected).abs() < 1e-3, "{values:?}");
        }
    }

    #[test]
    fn what_lies_outside_the_image_is_black_and_does_not_count() {
        let plan = plan(4, 1.0, 0.0, 100.0);
        let mut normalizer = Normalizer::new(&plan, 4);
        normalizer.take(vec![5.0, 6.0, 7.0, 8.0], Geometry { rows: 2, columns: 2, spacing: [1.0, 1.0] }, false);
        let normalized = normalizer.finish().unwrap();
        assert_eq!(normalized.window, [5.0, 8.0]);
        assert_eq!(&normalized.frames[0][..4], [0; 4]);
        assert_eq!(normalized.frames[0][10], 65535);
    }

    #[test]
    fn a_blank_series_has_no_window() {
        let plan = plan(2, 1.0, 1.0, 99.0);
        let mut normalizer = Normalizer::new(&plan, 4);
        normalizer.take(vec![3.0; 4], Geometry { rows: 2, columns: 2, spacing: [1.0, 1.0] }, false);
        assert!(normalizer.finish().is_none());
    }

    #[test]
    fn percentiles_interpolate_between_the_ranks_of_a_sorted_series() {
        let values: Vec<f32> = (0..997_u64).map(|i| ((i * 7919) % 1009) as f32 * 0.37 - 40.0).collect();
        let mut sorted = values.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        for tenths in 0..=1000 {
            let percent = f64::from(tenths) / 10.0;
            let rank = percent / 100.0 * 996.0;
            let (below, above) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
            let expected = f64::from(below) + rank.fract() * f64::from(above - below);
            let found = percentile(&mut values.clone(), percent).unwrap();
            assert!((f64::from(found) - expected).abs() < 1e-4, "{percent}: {found} for {expected}");
        }
    }

    #[test]
    fn all_frames_of_a_series_share_the_window_of_their_finite_pixels() {
        let plan = plan(2, 1.0, 10.0, 90.0);
        let mut normalizer = Normalizer::new(&plan, 12);
        let geometry = Geometry { rows: 2, columns: 2, spacing: [1.0, 1.0] };
        normalizer.take(vec![0.0, 10.0, 20.0, 30.0], geometry, false);
        normalizer.take(vec![40.0, 50.0, 60.0, 70.0], geometry, false);
        normalizer.take(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN], geometry, false);
        let normalized = normalizer.finish().unwrap();
        // numpy.percentile([0, 10, 20, 30, 40, 50, 60, 70], [10, 90]), and fractions of 65535.
        assert_eq!(normalized.window, [7.0, 63.0]);
        assert_eq!(normalized.frames, [[0, 3511, 15213, 26916], [38619, 50322, 62024, 65535], [0; 4]]);
    }

    #[test]
    fn of_a_large_series_every_nth_pixel_counts() {
        let plan = plan(1, 1.0, 0.0, 100.0);
        let mut normalizer = Normalizer::new(&plan, 3 * SAMPLE);
        let values: Vec<f32> = (0..12).map(|i| if i % 3 == 0 { i as f32 } else { 1000.0 }).collect();
        normalizer.take(values, Geometry { rows: 3, columns: 4, spacing: [1.0, 1.0] }, false);
        assert_eq!(normalizer.finish().unwrap().window, [0.0, 9.0]);
    }

    #[test]
    fn a_frame_is_its_fractions_of_the_window_on_the_plans_grid() {
        // Coarser down the rows (2.5 mm of 0.8 mm pixels), finer along them (2.5 mm of 3.1 mm pixels).
        let plan = plan(16, 2.5, 30.0, 70.0);
        let geometry = Geometry { rows: 31, columns: 14, spacing: [0.8, 3.1] };
        let values: Vec<f32> = (0..31 * 14).map(|i| ((i * 31 + i * i) % 97) as f32 - 20.0).collect();
        let mut normalizer = Normalizer::new(&plan, values.len() as u64);
        normalizer.take(values.clone(), geometry, false);
        let normalized = normalizer.finish().unwrap();
        let [low, high] = normalized.window;
        // The distance from the middle in mm, in both grids.
        let mm = |count: usize, spacing: f64, i: usize| (i as f64 - (count as f64 - 1.0) / 2.0) * spacing;
        for (place, found) in normalized.frames[0].iter().enumerate() {
            let (y, x) = (mm(16, 2.5, place / 16), mm(16, 2.5, place % 16));
            let weight = |i: usize| {
                let (dy, dx) = (mm(31, 0.8, i / 14) - y, mm(14, 3.1, i % 14) - x);
                (1.0 - dy.abs() / 2.5).max(0.0) * (1.0 - dx.abs() / 3.1).max(0.0)
            };
            let total: f64 = (0..values.len()).map(weight).sum();
            let sum: f64 = (0..values.len()).map(|i| weight(i) * f64::from(values[i])).sum();
            let inside = y.abs() <= 31.0 * 0.8 / 2.0 && x.abs() <= 14.0 * 3.1 / 2.0;
            let expected = if inside { ((sum / total - low) / (high - low)).clamp(0.0, 1.0) * 65535.0 } else { 0.0 };
            assert!((f64::from(*found) - expected).abs() < 1.5, "{place}: {found} for {expected}");
        }
        assert!(normalized.frames[0].contains(&0) && normalized.frames[0].contains(&65535));
    }
}
