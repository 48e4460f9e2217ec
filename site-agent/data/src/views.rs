//! What a task's network sees of a frame: the whole frame at the network's size, varied in training, with the way back from
//! its pixels to the frame's.

use common::task::Augmentation;
use rand::{Rng, RngExt};

use crate::cache::{CacheError, FrameCache, FrameRef};
use crate::evaluation::resized;
use crate::photometry::{between, jitter, noise};

/// Makes views of frames.
#[derive(Clone, Debug)]
pub struct ViewMaker {
    augmentation: Augmentation,
    side: usize,
    channels: usize,
    frame_size: usize,
    mean: f32,
    std: f32,
}

/// From a view's pixels to the frame's, as (row, column) with the centers of pixels at whole numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warp {
    matrix: [[f64; 2]; 2],
    offset: [f64; 2],
}

impl Warp {
    /// The frame pixel that a view's pixel shows.
    pub fn to_frame(&self, view: [f64; 2]) -> [f64; 2] {
        std::array::from_fn(|i| self.matrix[i][0] * view[0] + self.matrix[i][1] * view[1] + self.offset[i])
    }

    /// The view's pixel that shows a frame pixel.
    pub fn to_view(&self, frame: [f64; 2]) -> [f64; 2] {
        let [[a, b], [c, d]] = self.matrix;
        let [y, x] = [frame[0] - self.offset[0], frame[1] - self.offset[1]];
        let size = a * d - b * c;
        [(d * y - b * x) / size, (a * x - c * y) / size]
    }
}

impl ViewMaker {
    /// Views of `side` pixels with `channels` equal channels of this cache's frames.
    pub fn new(augmentation: &Augmentation, cache: &FrameCache, side: usize, channels: usize) -> Self {
        let images = cache.images();
        let (mean, std) = (images.mean as f32, images.std as f32);
        Self { augmentation: augmentation.clone(), side, channels, frame_size: images.frame_size, mean, std }
    }

    /// The whole frame, normalised. `values` is [channels x side x side]
    pub fn whole(&self, cache: &FrameCache, frame: FrameRef, values: &mut [f32]) -> Result<Warp, CacheError> {
        let seen = resized(&cache.pixels(frame)?, self.side);
        self.fill(&seen, values);
        Ok(self.placed([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]))
    }

    /// The frame turned, magnified, moved and maybe flipped around its middle, brighter or darker, with noise; black where
    /// the frame ends. `values` is [channels x side x side]
    pub fn varied(
        &self,
        cache: &FrameCache,
        frame: FrameRef,
        rng: &mut impl Rng,
        values: &mut [f32],
    ) -> Result<Warp, CacheError> {
        let plan = &self.augmentation;
        let (turn, scale) = (upto(plan.turn_degrees, rng).to_radians(), 1.0 / (1.0 + upto(plan.scale, rng)));
        let shift = [upto(plan.shift, rng), upto(plan.shift, rng)];
        let mirror = if rng.random_bool(plan.flip) { -1.0 } else { 1.0 };
        let (sin, cos) = turn.sin_cos();
        let matrix = [[scale * cos, -scale * sin * mirror], [scale * sin, scale * cos * mirror]];
        let whole = resized(&cache.pixels(frame)?, self.side);
        let mut seen = self.moved(&whole, matrix, shift);
        jitter(&mut seen, [plan.brightness, plan.contrast, plan.gamma], rng);
        noise(&mut seen, between(0.0, plan.noise, rng) as f32, rng);
        self.fill(&seen, values);
        Ok(self.placed(matrix, shift))
    }

    /// A mask on the frame's grid as the view shows it; 0 outside of the frame. [side x side]
    pub fn mask(&self, warp: &Warp, mask: &[u8]) -> Vec<u8> {
        let at = |view: usize| {
            let [row, column] = warp.to_frame([(view / self.side) as f64, (view % self.side) as f64]);
            let inside = |place: f64| (place.round() >= 0.0).then_some(place.round() as usize);
            let (row, column) = (inside(row)?, inside(column)?);
            (row < self.frame_size && column < self.frame_size).then(|| mask[row * self.frame_size + column])
        };
        (0..self.side * self.side).map(|view| at(view).unwrap_or(0)).collect()
    }

    /// The whole frame under a matrix around its middle, and a shift in fractions of its side.
    fn placed(&self, matrix: [[f64; 2]; 2], shift: [f64; 2]) -> Warp {
        let step = self.frame_size as f64 / self.side as f64;
        let middle = (self.side as f64 - 1.0) / 2.0;
        let of_frame = (self.frame_size as f64 - 1.0) / 2.0;
        let matrix = matrix.map(|row| row.map(|value| value * step));
        let offset = std::array::from_fn(|i| {
            of_frame + shift[i] * self.frame_size as f64 - middle * (matrix[i][0] + matrix[i][1])
        });
        Warp { matrix, offset }
    }

    /// Linear interpolation of the whole frame at the view's size. [side x side]
    fn moved(&self, whole: &[f32], matrix: [[f64; 2]; 2], shift: [f64; 2]) -> Vec<f32> {
        let side = self.side;
        let middle = (side as f64 - 1.0) / 2.0;
        let pixel = |row: isize, column: isize| {
            let inside = |place: isize| usize::try_from(place).ok().filter(|place| *place < side);
            inside(row).zip(inside(column)).map_or(0.0, |(row, column)| whole[row * side + column])
        };
        let at = |view: usize| {
            let [y, x] = [(view / side) as f64 - middle, (view % side) as f64 - middle];
            let place = |i: usize| middle + shift[i] * side as f64 + matrix[i][0] * y + matrix[i][1] * x;
            let (row, column) = (place(0), place(1));
            let (down, across) = ((row - row.floor()) as f32, (column - column.floor()) as f32);
            let (row, column) = (row.floor() as isize, column.floor() as isize);
            let line = |row: isize| pixel(row, column) * (1.0 - across) + pixel(row, column + 1) * across;
            line(row) * (1.0 - down) + line(row + 1) * down
        };
        (0..side * side).map(at).collect()
    }

    fn fill(&self, seen: &[f32], values: &mut [f32]) {
        for channel in values.chunks_exact_mut((self.side * self.side).max(1)).take(self.channels) {
            channel.iter_mut().zip(seen).for_each(|(to, value)| *to = (value - self.mean) / self.std);
        }
    }
}

/// Uniform in ± `most`.
fn upto(most: f64, rng: &mut impl Rng) -> f64 {
    between(-most, most, rng)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn maker(side: usize) -> ViewMaker {
        let augmentation = Augmentation { flip: 0.5, ..Augmentation::default() };
        ViewMaker { augmentation, side, channels: 1, frame_size: 32, mean: 0.0, std: 1.0 }
    }

    #[test]
    fn a_place_goes_to_the_frame_and_comes_back() {
        for side in [16, 32, 48] {
            for (mirror, turn) in [(1.0, 0.3_f64), (-1.0, -0.2)] {
                let (sin, cos) = turn.sin_cos();
                let warp = maker(side)
                    .placed([[1.1 * cos, -1.1 * sin * mirror], [1.1 * sin, 1.1 * cos * mirror]], [0.05, -0.1]);
                for place in [[0.0, 0.0], [3.5, 12.0], [14.0, 2.0]] {
                    let back = warp.to_view(warp.to_frame(place));
                    assert!((0..2).all(|i| (back[i] - place[i]).abs() < 1e-9), "{back:?}");
                }
            }
        }
        // The middles of both grids lie on each other, and their edges.
        let warp = maker(16).placed([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]);
        assert_eq!(warp.to_frame([7.5, 7.5]), [15.5, 15.5]);
        assert_eq!(warp.to_frame([-0.5, 15.5]), [-0.5, 31.5]);
    }

    #[test]
    fn a_mask_is_moved_as_its_image_is() {
        // A bright disc, and the mask of it.
        let (side, frame) = (32, 32);
        let disc = |row: f64, column: f64| (row - 12.0).hypot(column - 20.0) < 6.0;
        let whole: Vec<f32> =
            (0..side * side).map(|i| f32::from(u8::from(disc((i / side) as f64, (i % side) as f64)))).collect();
        let mask: Vec<u8> = whole.iter().map(|value| u8::from(*value > 0.5)).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for _ in 0..20 {
            let (turn, mirror) = (rng.random::<f64>() - 0.5, if rng.random_bool(0.5) { -1.0 } else { 1.0 });
            let (sin, cos) = turn.sin_cos();
            let (matrix, shift) = ([[cos, -sin * mirror], [sin, cos * mirror]], [0.1 * rng.random::<f64>(), -0.05]);
            let maker = maker(side);
            assert_eq!(maker.frame_size, frame);
            let seen = maker.moved(&whole, matrix, shift);
            let moved = maker.mask(&maker.placed(matrix, shift), &mask);
            let wrong = seen.iter().zip(&moved).filter(|(seen, mask)| (**seen > 0.5) != (**mask == 1)).count();
            assert!(wrong < 12, "{wrong}");
        }
    }
}
