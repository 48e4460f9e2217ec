//! From tissue to pixels, in the order of a scanner: signal, partial volume, coil shading, truncated k-space, complex
//! noise and magnitude (Rician), gain, rounding.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::heart::{Beat, Tissue};
use super::planes::{self, Plane};
use super::signal::{Sequence, signal};

/// How a scanner's images look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Look {
    /// Signal-to-noise ratio of blood in cine.
    pub(crate) snr: f64,
    /// How much brighter the front of the chest is, at most.
    pub(crate) shading: f64,
    /// Fraction of phase-encoding lines that are acquired: below 1, edges ring (Gibbs).
    pub(crate) lines: f64,
    /// T1 in multiples of that at 1.5 T.
    pub(crate) field: f64,
    /// Depth of off-resonance bands in cine, 0 to 1.
    pub(crate) banding: f64,
    /// Exponent of the final contrast.
    pub(crate) gamma: f64,
    /// Largest stored value.
    pub(crate) gain: f64,
}

/// Sampling of a slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Grid {
    /// Pixels a side, as acquired.
    pub(crate) side: usize,
    /// Field of view, mm.
    pub(crate) field_of_view: f64,
    /// Zero-filling: pixels stored for each acquired, a side.
    pub(crate) zero_fill: usize,
}

impl Grid {
    /// Pixels a side, as stored.
    pub(crate) fn stored(&self) -> usize {
        self.side * self.zero_fill
    }

    /// Spacing of stored pixels, mm.
    pub(crate) fn spacing(&self) -> f64 {
        self.field_of_view / self.stored() as f64
    }
}

/// Labels of a segmentation.
pub(crate) const LABELS: [&str; 7] = ["background", "LV", "myocardium", "RV", "LA", "RA", "scar"];

/// A stored image and its segmentation, `[stored, stored]` row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scan {
    pub(crate) pixels: Vec<u16>,
    pub(crate) labels: Vec<u8>,
}

/// Scans one slice at one moment.
pub(crate) fn scan(
    beat: &Beat<'_>,
    plane: &Plane,
    sequence: Sequence,
    grid: Grid,
    look: &Look,
    rng: &mut ChaCha8Rng,
) -> Scan {
    let axes = planes::axes();
    let tissue = |x: f64, y: f64| {
        let place = plane.place(x, y);
        beat.tissue(planes::in_heart(&axes, place), place)
    };
    let pixel = grid.field_of_view / grid.side as f64;
    let at = |index: usize, part: f64| (index as f64 + part) * pixel - grid.field_of_view / 2.0;
    let mut image = Vec::with_capacity(grid.side * grid.side);
    for (y, x) in (0..grid.side).flat_map(|y| (0..grid.side).map(move |x| (y, x))) {
        let parts = [0.25, 0.75];
        let sum: f64 = parts
            .iter()
            .flat_map(|&py| parts.iter().map(move |&px| (px, py)))
            .map(|(px, py)| signal(sequence, tissue(at(x, px), at(y, py)), look.field))
            .sum();
        image.push(sum / 4.0);
    }
    let is_map = sequence == Sequence::T1Map;
    if !is_map {
        shade(&mut image, plane, grid, look, sequence);
    }
    let image = truncate(&image, grid, look.lines);
    let bright = if is_map { 1.0 } else { look.gain };
    let noise = if is_map { 25.0 } else { 0.42 / look.snr };
    let keeps_sign = matches!(sequence, Sequence::Psir | Sequence::T1Map);
    let pixels = image.into_iter().map(|value| {
        let (real, imaginary) = normal_pair(rng);
        let noisy = if keeps_sign {
            let inside = if is_map && value < 150.0 { 0.0 } else { 1.0 };
            (value + noise * real * inside).max(0.0)
        } else {
            (value + noise * real).hypot(noise * imaginary)
        };
        let shown = if is_map { noisy } else { noisy.powf(look.gamma) * bright };
        shown.round().clamp(0.0, 4095.0) as u16
    });
    let pixels = pixels.collect();
    let stored = grid.stored();
    let middle = |index: usize| (index as f64 + 0.5) * grid.spacing() - grid.field_of_view / 2.0;
    let labels = (0..stored * stored).map(|i| label(tissue(middle(i % stored), middle(i / stored)))).collect();
    Scan { pixels, labels }
}

fn label(tissue: Tissue) -> u8 {
    match tissue {
        // Papillary muscles belong to the blood pool, as most contouring protocols have it.
        Tissue::LvBlood | Tissue::Papillary => 1,
        Tissue::Myocardium => 2,
        Tissue::RvBlood => 3,
        Tissue::LeftAtrium => 4,
        Tissue::RightAtrium => 5,
        Tissue::Scar => 6,
        _ => 0,
    }
}

/// Coils lie on the chest: signal falls off with the distance from the front. Bands where the field is off resonance.
fn shade(image: &mut [f64], plane: &Plane, grid: Grid, look: &Look, sequence: Sequence) {
    let pixel = grid.field_of_view / grid.side as f64;
    for (index, value) in image.iter_mut().enumerate() {
        let coordinate = |i: usize| (i as f64 + 0.5) * pixel - grid.field_of_view / 2.0;
        let place = plane.place(coordinate(index % grid.side), coordinate(index / grid.side));
        let from_front = (place[1] + 110.0).max(0.0) / 220.0;
        let sensitivity = 1.0 + (look.shading - 1.0) * (1.0 - from_front).clamp(0.0, 1.0);
        let off_resonance = ((place[0] * 0.8 + place[2] * 0.6) / 38.0).sin().abs();
        let band = if sequence == Sequence::Cine { 1.0 - look.banding * (1.0 - off_resonance).powi(6) } else { 1.0 };
        *value *= sensitivity * band / (0.5 + 0.5 * look.shading);
    }
}

/// What is left when only a fraction of the phase-encoding lines is acquired, and zeros fill the rest: convolution with a
/// sinc along columns, and sinc interpolation onto the stored grid.
fn truncate(image: &[f64], grid: Grid, lines: f64) -> Vec<f64> {
    let (side, stored) = (grid.side, grid.stored());
    let along_columns = kernel(side, stored, lines);
    let along_rows = kernel(side, stored, 1.0);
    let mut tall = vec![0.0; stored * side];
    for (y, taps) in along_columns.iter().enumerate() {
        for &(from, weight) in taps {
            let (to, source) = (&mut tall[y * side..(y + 1) * side], &image[from * side..(from + 1) * side]);
            to.iter_mut().zip(source).for_each(|(to, source)| *to += weight * source);
        }
    }
    let mut whole = vec![0.0; stored * stored];
    for (row, source) in whole.chunks_mut(stored).zip(tall.chunks(side)) {
        for (value, taps) in row.iter_mut().zip(&along_rows) {
            *value = taps.iter().map(|&(from, weight)| weight * source[from]).sum();
        }
    }
    whole
}

/// For each stored place, the acquired places it takes from and their weights; they add up to 1.
fn kernel(side: usize, stored: usize, lines: f64) -> Vec<Vec<(usize, f64)>> {
    const REACH: f64 = 9.0;
    let sinc =
        |x: f64| if x.abs() < 1e-9 { 1.0 } else { (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x) };
    let place = |index: usize| (index as f64 + 0.5) * side as f64 / stored as f64 - 0.5;
    (0..stored)
        .map(|index| {
            let at = place(index);
            let near = (at - REACH).ceil().max(0.0) as usize..=((at + REACH) as usize).min(side - 1);
            let taps: Vec<_> = near.map(|from| (from, lines * sinc(lines * (from as f64 - at)))).collect();
            let total: f64 = taps.iter().map(|(_, weight)| weight).sum();
            taps.into_iter().map(|(from, weight)| (from, weight / total)).collect()
        })
        .collect()
}

/// Two independent standard normal draws (Box and Muller 1958).
fn normal_pair(rng: &mut ChaCha8Rng) -> (f64, f64) {
    let (radius, angle) =
        ((-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt(), std::f64::consts::TAU * rng.random::<f64>());
    (radius * angle.cos(), radius * angle.sin())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::heart::{Disease, Heart};
    use super::*;

    #[test]
    fn the_background_of_a_magnitude_image_is_rayleigh() {
        let heart = Heart::draw(Disease::Nor, &mut ChaCha8Rng::seed_from_u64(1));
        let plane = Plane { center: [600.0, 0.0, 0.0], row: [1.0, 0.0, 0.0], column: [0.0, 1.0, 0.0] };
        let grid = Grid { side: 64, field_of_view: 100.0, zero_fill: 1 };
        let look = Look { snr: 10.0, shading: 1.0, lines: 1.0, field: 1.0, banding: 0.0, gamma: 1.0, gain: 20_000.0 };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let scan = scan(&heart.at(0.0), &plane, Sequence::Cine, grid, &look, &mut rng);
        let mean = scan.pixels.iter().map(|&value| f64::from(value)).sum::<f64>() / 4096.0;
        let sigma = 0.042 * 20_000.0;
        assert!((mean / (sigma * (std::f64::consts::PI / 2.0).sqrt()) - 1.0).abs() < 0.03, "{mean}");
        assert!(scan.labels.iter().all(|&label| label == 0));
    }

    #[test]
    fn truncated_lines_ring_at_an_edge_and_keep_the_mean() {
        let grid = Grid { side: 32, field_of_view: 32.0, zero_fill: 1 };
        let edge: Vec<f64> = (0..32 * 32).map(|i| f64::from(u8::from(i / 32 >= 16))).collect();
        let rung = truncate(&edge, grid, 0.6);
        let column: Vec<f64> = (0..32).map(|y| rung[y * 32 + 5]).collect();
        assert!(column.iter().copied().fold(0.0, f64::max) > 1.04);
        assert!((column[24..30].iter().sum::<f64>() / 6.0 - 1.0).abs() < 0.05);
    }
}
