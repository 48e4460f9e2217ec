//! One image onto another grid, one axis at a time.
//!
//! Output sample `i` lies at input coordinate `origin + (i + 0.5) * step - 0.5`, with samples at pixel centers. The
//! kernel is widened by `step` when the output is coarser, so that every input pixel counts (area-aware), and its
//! weights are divided by their sum at the image's edge. Output samples whose center lies outside the image are marked
//! as outside. On one extent this is PIL's resize, and torchvision's with antialiasing.

use common::wide;

/// An interpolation kernel of half-width [`Kernel::reach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Triangle: linear interpolation.
    Linear,
    /// Keys' cubic with a = -0.5 (Keys 1981), as image libraries use for resizing.
    Cubic,
}

impl Kernel {
    fn reach(self) -> f64 {
        match self {
            Self::Linear => 1.0,
            Self::Cubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Linear => (1.0 - x).max(0.0),
            Self::Cubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Cubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Cubic => 0.0,
        }
    }
}

/// The weights of one axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// Input samples.
    length: usize,
    /// For each output sample its first input sample and where its weights lie; none if it is outside.
    taps: Vec<Option<(usize, usize, usize)>>,
    weights: Vec<f32>,
}

impl Axis {
    /// `count` output samples, `step` input samples apart, over an axis of `length` input samples; the first output
    /// sample's left edge lies at input edge `origin`.
    pub(crate) fn new(kernel: Kernel, length: usize, origin: f64, step: f64, count: usize) -> Self {
        let scale = step.max(1.0);
        let reach = kernel.reach() * scale;
        let mut weights = Vec::with_capacity(count * (2.0 * reach + 2.0) as usize);
        let mut taps = Vec::with_capacity(count);
        let mut row = Vec::new();
        for i in 0..count {
            let center = origin + (i as f64 + 0.5) * step;
            if center < 0.0 || center > length as f64 || length == 0 {
                taps.push(None);
                continue;
            }
            let first = (center - reach).floor().max(0.0) as usize;
            let last = ((center + reach).ceil() as usize).min(length);
            let start = weights.len();
            row.clear();
            row.extend((first..last).map(|j| kernel.at((j as f64 + 0.5 - center) / scale)));
            let total: f64 = row.iter().sum();
            weights.extend(row.iter().map(|weight| (weight / total) as f32));
            taps.push(Some((first, start, weights.len())));
        }
        Self { length, taps, weights }
    }

    /// As [`Axis::new`], for `count` samples that together cover exactly the whole axis.
    pub(crate) fn covering(kernel: Kernel, length: usize, count: usize) -> Self {
        Self::new(kernel, length, 0.0, length as f64 / count as f64, count)
    }

    /// Output samples.
    pub(crate) fn count(&self) -> usize {
        self.taps.len()
    }

    /// One output sample of several lines at once, in the order of the input samples. `samples` holds the lines' first
    /// sample, and the next ones `stride` further on each.
    #[inline(always)]
    fn sum(&self, tap: &Option<(usize, usize, usize)>, samples: &[Lanes], stride: usize) -> Lanes {
        let mut sums = [0.0; LANES];
        let Some((first, start, end)) = *tap else { return sums };
        for (weight, samples) in self.weights[start..end].iter().zip(samples[first * stride..].iter().step_by(stride)) {
            sums.iter_mut().zip(samples).for_each(|(sum, value)| *sum = weight.mul_add(*value, *sum));
        }
        sums
    }
}

/// A sample that can be interpolated.
pub(crate) trait Value: Copy {
    /// Its value; a stored fraction's is 0..1.
    fn value(self) -> f32;
}

impl Value for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

/// A cached frame's sample: a fraction of the window as little-endian u16.
impl Value for [u8; 2] {
    #[inline(always)]
    fn value(self) -> f32 {
        f32::from(u16::from_le_bytes(self)) * (1.0 / 65535.0)
    }
}

/// Samples that are interpolated side by side, in a few of a processor's registers.
const LANES: usize = 16;

type Lanes = [f32; LANES];

/// What resampling needs room for, kept from one image to the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// The image, each row filled up to whole lanes.
    image: Vec<Lanes>,
    /// Some rows of the output before their interpolation along the row, turned: a lane is a row.
    turned: Vec<Lanes>,
    /// The same rows after it.
    across: Vec<Lanes>,
}

/// Resamples an image of any sample type. `image` gives row `r` of the input; samples outside become `outside`.
/// Returns [vertical.count() x horizontal.count()].
pub(crate) fn resample<'a, T: Value + 'a>(
    image: impl Fn(usize) -> &'a [T],
    vertical: &Axis,
    horizontal: &Axis,
    outside: f32,
) -> Vec<f32> {
    let mut output = vec![0.0; vertical.count() * horizontal.count()];
    resample_into(&mut output, image, vertical, horizontal, &mut Scratch::default());
    mark(&mut output, vertical, horizontal, outside);
    output
}

/// As [`resample`], in place; samples outside become 0. `output` is [vertical.count() x horizontal.count()].
pub(crate) fn resample_into<'a, T: Value + 'a>(
    output: &mut [f32],
    image: impl Fn(usize) -> &'a [T],
    vertical: &Axis,
    horizontal: &Axis,
    scratch: &mut Scratch,
) {
    wide(
        #[inline(always)]
        || interpolate(output, &image, [vertical, horizontal], scratch),
    );
}

#[inline(always)]
fn interpolate<'a, T: Value + 'a>(
    output: &mut [f32],
    image: &impl Fn(usize) -> &'a [T],
    [vertical, horizontal]: [&Axis; 2],
    scratch: &mut Scratch,
) {
    let Scratch { image: held, turned, across } = scratch;
    let stride = horizontal.length.div_ceil(LANES);
    held.clear();
    for y in 0..vertical.length {
        let (whole, rest) = image(y).as_chunks::<LANES>();
        held.extend(whole.iter().map(|samples| samples.map(T::value)));
        if !rest.is_empty() {
            held.push(std::array::from_fn(|lane| rest.get(lane).map_or(0.0, |sample| sample.value())));
        }
    }
    turned.resize(stride * LANES, [0.0; LANES]);
    across.resize(horizontal.count(), [0.0; LANES]);
    let rows = output.chunks_mut((LANES * horizontal.count()).max(1)).zip(vertical.taps.chunks(LANES));
    for (rows, taps) in rows {
        for (place, turned) in turned.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut tile = [[0.0; LANES]; LANES];
            for (sums, tap) in tile.iter_mut().zip(taps) {
                *sums = vertical.sum(tap, &held[place..], stride);
            }
            turn(&tile, turned);
        }
        for (sums, tap) in across.iter_mut().zip(&horizontal.taps) {
            *sums = horizontal.sum(tap, turned, 1);
        }
        turn_back(across, rows, horizontal.count());
    }
}

/// Columns as rows.
#[inline(always)]
fn turn(tile: &[Lanes; LANES], turned: &mut [Lanes; LANES]) {
    for (place, to) in turned.iter_mut().enumerate() {
        *to = std::array::from_fn(|lane| tile[lane][place]);
    }
}

/// Lanes as rows of `count` values, as many as there are.
#[inline(always)]
fn turn_back(across: &[Lanes], rows: &mut [f32], count: usize) {
    for (lane, row) in rows.chunks_exact_mut(count.max(1)).enumerate() {
        let ((whole, rest), (across, others)) = (row.as_chunks_mut::<LANES>(), across.as_chunks::<LANES>());
        for (to, across) in whole.iter_mut().zip(across) {
            *to = std::array::from_fn(|place| across[place][lane]);
        }
        rest.iter_mut().zip(others).for_each(|(to, lanes)| *to = lanes[lane]);
    }
}

/// Marks the samples that lie outside along either axis.
fn mark(output: &mut [f32], vertical: &Axis, horizontal: &Axis, outside: f32) {
    for (line, tap) in output.chunks_exact_mut(horizontal.count().max(1)).zip(&vertical.taps) {
        for (value, across) in line.iter_mut().zip(&horizontal.taps) {
            if tap.is_none() || across.is_none() {
                *value = outside;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: usize, height: usize, f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
        (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| f(x as f32, y as f32)).collect()
    }

    #[test]
    fn the_same_grid_gives_the_same_image() {
        let pixels = image(5, 4, |x, y| x * 10.0 + y);
        for kernel in [Kernel::Linear, Kernel::Cubic] {
            let (v, h) = (Axis::covering(kernel, 4, 4), Axis::covering(kernel, 5, 5));
            let same = resample(|r| &pixels[r * 5..][..5], &v, &h, 0.0);
            assert!(same.iter().zip(&pixels).all(|(a, b)| (a - b).abs() < 1e-4), "{kernel:?}");
        }
    }

    #[test]
    fn a_ramp_stays_a_ramp_on_a_finer_grid() {
        let pixels = image(20, 20, |x, _| x);
        let axis = Axis::new(Kernel::Linear, 20, 0.0, 0.5, 40);
        let fine = resample(|r| &pixels[r * 20..][..20], &axis, &axis, 0.0);
        for i in 2..38 {
            let expected = (i as f32 + 0.5) * 0.5 - 0.5;
            assert!((fine[5 * 40 + i] - expected).abs() < 1e-5, "{i}");
        }
    }

    #[test]
    fn a_coarser_grid_averages_instead_of_picking() {
        // A checkerboard of 0 and 1 at a quarter of the resolution is gray everywhere inside.
        let pixels = image(64, 64, |x, y| (x + y) % 2.0);
        let axis = Axis::covering(Kernel::Linear, 64, 16);
        let coarse = resample(|r| &pixels[r * 64..][..64], &axis, &axis, 0.0);
        assert!(coarse.iter().all(|v| (v - 0.5).abs() < 0.01));
    }

    #[test]
    fn the_mean_of_the_image_is_kept_when_it_shrinks() {
        let pixels = image(60, 60, |x, y| ((x * 7.0 + y * 13.0) % 11.0) / 11.0);
        let axis = Axis::covering(Kernel::Linear, 60, 20);
        let small = resample(|r| &pixels[r * 60..][..60], &axis, &axis, 0.0);
        let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
        assert!((mean(&small) - mean(&pixels)).abs() < 0.01);
    }

    #[test]
    fn what_lies_outside_is_marked() {
        let pixels = [1.0_f32; 4];
        let axis = Axis::new(Kernel::Linear, 2, -1.0, 1.0, 4);
        let padded = resample(|r| &pixels[r * 2..][..2], &axis, &axis, -7.0);
        assert_eq!(&padded[..4], [-7.0; 4]);
        assert_eq!(&padded[4..8], [-7.0, 1.0, 1.0, -7.0]);
    }

    #[test]
    fn the_cubic_kernel_is_keys_with_a_half() {
        // Keys 1981, equation 15, at a = -1/2.
        for (x, expected) in [(0.0, 1.0), (0.5, 0.5625), (1.0, 0.0), (1.5, -0.0625), (2.0, 0.0)] {
            assert!((Kernel::Cubic.at(x) - expected).abs() < 1e-12, "{x}");
        }
    }

    #[rustfmt::skip]
    #[test]
    fn images_get_the_values_that_pil_and_torchvision_give_them() {
        // scripts/reference_numbers.py
        let tables: [(Kernel, usize, usize, &[f32]); 4] = [
            (Kernel::Cubic, 3, 4, &[
                0.236366, 0.464579, 0.547138, 0.361160,
                0.439939, 0.511946, 0.349324, 0.650922,
                0.287944, 0.589319, 0.749619, 0.712247,
            ]),
            (Kernel::Cubic, 6, 7, &[
                -0.034355, 0.541844, 0.310271, 0.507502, 0.765951, 0.321266, -0.028161,
                0.265836, 0.147455, 0.528304, 0.702572, 0.469215, 0.341155, 0.757466,
                0.666346, 0.420566, 0.493651, 0.419800, 0.126697, 0.181171, 0.967826,
                0.498108, 0.367935, 0.530068, 0.562038, 0.398299, 0.414362, 0.827799,
                0.139165, 0.053612, 0.653587, 0.951999, 0.868706, 0.819450, 0.730435,
                0.482240, 0.519305, 0.530853, 0.554197, 0.594293, 0.633453, 0.668096,
            ]),
            (Kernel::Linear, 3, 4, &[
                0.242679, 0.461111, 0.544603, 0.384286,
                0.448056, 0.494815, 0.384444, 0.622917,
                0.308750, 0.587302, 0.721270, 0.711250,
            ]),
            (Kernel::Linear, 6, 7, &[
                0.000000, 0.479286, 0.352857, 0.515000, 0.677143, 0.334286, 0.020000,
                0.277500, 0.226429, 0.495357, 0.620000, 0.474107, 0.364286, 0.710000,
                0.585833, 0.408393, 0.485357, 0.442083, 0.248512, 0.271369, 0.887500,
                0.473333, 0.367917, 0.523452, 0.558750, 0.443750, 0.455000, 0.812500,
                0.192500, 0.159107, 0.609643, 0.843750, 0.807321, 0.770893, 0.737500,
                0.470000, 0.501429, 0.535714, 0.570000, 0.604286, 0.638571, 0.670000,
            ]),
        ];
        let pixels = image(6, 5, |x, y| ((37.0 * y + 61.0 * x + 11.0 * x * y) % 101.0) / 100.0);
        for (kernel, rows, columns, expected) in tables {
            let (v, h) = (Axis::covering(kernel, 5, rows), Axis::covering(kernel, 6, columns));
            let found = resample(|r| &pixels[r * 6..][..6], &v, &h, 0.0);
            assert_eq!(found.len(), expected.len());
            let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-6);
            assert!(close, "{kernel:?}, {rows} x {columns}: {found:?}");
        }
    }

    #[test]
    fn every_sample_is_the_weighted_mean_of_all_pixels() {
        let pixels = image(37, 23, |x, y| ((x * 7.0 + y * 13.0 + x * y) % 19.0) / 19.0);
        type Weight = fn(f64) -> f64;
        let kernels: [(Kernel, Weight); 2] = [
            (Kernel::Linear, |x| if x.abs() < 1.0 { 1.0 - x.abs() } else { 0.0 }),
            (Kernel::Cubic, |x| match x.abs() {
                x if x < 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
                x if x < 2.0 => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
                _ => 0.0,
            }),
        ];
        // Origin, step and count: finer, coarser, beyond both edges; counts that are whole lanes and that are not.
        let grids = [(0.0, 0.61, 16), (3.2, 1.7, 9), (-2.4, 0.9, 33), (1.0, 5.5, 4)];
        for ((kernel, weight), (down, across)) in
            kernels.iter().flat_map(|kernel| grids.iter().zip(grids.iter().rev()).map(move |grids| (kernel, grids)))
        {
            let axis = |length, grid: &(f64, f64, usize)| Axis::new(*kernel, length, grid.0, grid.1, grid.2);
            let found = resample(|r| &pixels[r * 37..][..37], &axis(23, down), &axis(37, across), -7.0);
            let at = |grid: &(f64, f64, usize), i: usize| grid.0 + (i as f64 + 0.5) * grid.1 - 0.5;
            for (place, found) in found.iter().enumerate() {
                let (y, x) = (at(down, place / across.2), at(across, place % across.2));
                let weight = |row: usize, column: usize| {
                    weight((row as f64 - y) / down.1.max(1.0)) * weight((column as f64 - x) / across.1.max(1.0))
                };
                let all = || (0..23).flat_map(|row| (0..37).map(move |column| (row, column)));
                let total: f64 = all().map(|(row, column)| weight(row, column)).sum();
                let sum: f64 =
                    all().map(|(row, column)| weight(row, column) * f64::from(pixels[row * 37 + column])).sum();
                let inside = (-0.5..=22.5).contains(&y) && (-0.5..=36.5).contains(&x);
                let expected = if inside { sum / total } else { -7.0 };
                assert!((f64::from(*found) - expected).abs() < 2e-6, "{kernel:?} {down:?} {across:?}: {place}");
            }
        }
    }
}
