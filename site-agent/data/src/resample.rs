//! One image onto another grid, one axis at a time.
//!
//! Output sample `i` lies at input coordinate `origin + (i + 0.5) * step - 0.5`, with samples at pixel centers. The kernel is widened by
//! `step` when the output is coarser, so that every input pixel counts (area-aware), and its weights are divided by
//! their sum at the image's edge. Output samples whose center lies outside the image are marked as outside.

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
        let mut weights = Vec::new();
        let mut taps = Vec::with_capacity(count);
        for i in 0..count {
            let center = origin + (i as f64 + 0.5) * step;
            if center < 0.0 || center > length as f64 || length == 0 {
                taps.push(None);
                continue;
            }
            let first = (center - reach).floor().max(0.0) as usize;
            let last = ((center + reach).ceil() as usize).min(length);
            let start = weights.len();
            let row: Vec<f64> = (first..last).map(|j| kernel.at((j as f64 + 0.5 - center) / scale)).collect();
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
}

/// A sample that can be interpolated.
pub(crate) trait Value: Copy {
    /// Its value; a stored fraction's is 0..1.
    fn value(self) -> f32;
}

impl Value for f32 {
    fn value(self) -> f32 {
        self
    }
}

/// A cached frame's sample: a fraction of the window as little-endian u16.
impl Value for [u8; 2] {
    fn value(self) -> f32 {
        f32::from(u16::from_le_bytes(self)) * (1.0 / 65535.0)
    }
}

/// Resamples an image of any sample type. `image` gives row `r` of the input; samples outside become `outside`.
/// Returns [vertical.count() x horizontal.count()].
pub(crate) fn resample<'a, T: Value + 'a>(
    image: impl Fn(usize) -> &'a [T],
    vertical: &Axis,
    horizontal: &Axis,
    outside: f32,
) -> Vec<f32> {
    // Down the rows, turned, down the rows again: both passes add whole rows, which a processor does many at a time.
    let mut rows = vec![0.0; vertical.length * horizontal.length];
    for (y, row) in rows.chunks_exact_mut(horizontal.length.max(1)).enumerate() {
        row.iter_mut().zip(image(y)).for_each(|(value, sample)| *value = sample.value());
    }
    let short = turned(&down(&rows, horizontal.length, vertical), horizontal.length);
    let mut output = turned(&down(&short, vertical.count(), horizontal), vertical.count());
    mark(&mut output, vertical, horizontal, outside);
    output
}

/// Resamples the rows of an image of this width. [axis.count() x width]
fn down(image: &[f32], width: usize, axis: &Axis) -> Vec<f32> {
    let mut output = vec![0.0; axis.count() * width];
    for (line, tap) in output.chunks_exact_mut(width.max(1)).zip(&axis.taps) {
        let Some((first, start, end)) = *tap else { continue };
        for (row, weight) in image[first * width..].chunks_exact(width).zip(&axis.weights[start..end]) {
            line.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
        }
    }
    output
}

/// Rows as columns, in blocks that a processor's cache holds.
fn turned(image: &[f32], width: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let height = image.len() / width.max(1);
    let mut output = vec![0.0; image.len()];
    for top in (0..height).step_by(BLOCK) {
        for left in (0..width).step_by(BLOCK) {
            let bottom = height.min(top + BLOCK);
            for x in left..width.min(left + BLOCK) {
                let column = image[x..].iter().step_by(width).skip(top);
                output[x * height + top..x * height + bottom]
                    .iter_mut()
                    .zip(column)
                    .for_each(|(to, value)| *to = *value);
            }
        }
    }
    output
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
}
