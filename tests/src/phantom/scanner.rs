//! From tissue to pixels, in the order of a scanner: signal, partial volume (in the plane and through the slice), coil
//! shading, complex noise on the acquired lines, truncated k-space and zero-filling, magnitude (Rician), gain, rounding.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::heart::{Beat, Tissue};
use super::planes::{self, Plane, Vector};
use super::signal::{PSIR_OFFSET, Sequence, signal};

/// How a scanner's images look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Look {
    /// Signal-to-noise ratio of blood in cine, in an acquired pixel.
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
    pub(crate) const fn of(side: usize, field_of_view: f64, zero_fill: usize) -> Self {
        Self { side, field_of_view, zero_fill }
    }

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
    let cut = Cut::new(beat, plane);
    let layers = [-1.0, 0.0, 1.0].map(|layer| layer * plane.thickness / 3.0);
    let drawn = layers.map(|depth| cut.sampled(grid.side, grid.field_of_view, depth));
    let uniform = uniform(&drawn, grid.side);
    let signals = Tissue::ALL.map(|tissue| signal(sequence, tissue, look.field));
    let of = |tissue: Tissue| signals[tissue as usize];
    let pixel = grid.field_of_view / grid.side as f64;
    let at = |index: usize, part: f64| (index as f64 + part) * pixel - grid.field_of_view / 2.0;
    let mean = |index: usize| {
        if uniform[index] {
            return of(drawn[1][index]);
        }
        let (x, y) = (index % grid.side, index / grid.side);
        let parts = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)];
        let layer = |z: f64| parts.iter().map(|&(px, py)| of(cut.tissue(at(x, px), at(y, py), z))).sum::<f64>();
        layers.into_iter().map(layer).sum::<f64>() / (layers.len() * parts.len()) as f64
    };
    let is_map = sequence == Sequence::T1Map;
    // Truncation takes noise away with the lines; what is left is to have this deviation.
    let noise = if is_map { 25.0 } else { 0.4 / look.snr } / look.lines.sqrt();
    let mut image: Vec<[f64; 2]> = (0..grid.side * grid.side)
        .map(|index| {
            let (value, (real, imaginary)) = (mean(index), normal_pair(rng));
            if is_map {
                [if value < 150.0 { 0.0 } else { value + noise * real }, 0.0]
            } else {
                let sensitivity =
                    sensitivity(plane.place(at(index % grid.side, 0.5), at(index / grid.side, 0.5)), look, sequence);
                [value * sensitivity + noise * real, noise * imaginary]
            }
        })
        .collect();
    if look.lines < 1.0 || grid.zero_fill > 1 {
        image = truncate(&image, grid, look.lines);
    }
    let stored = |[real, imaginary]: [f64; 2]| {
        let shown = match sequence {
            Sequence::T1Map => real,
            Sequence::Psir => (real + PSIR_OFFSET).max(0.0).powf(look.gamma) * look.gain,
            Sequence::Cine | Sequence::Lge => real.hypot(imaginary).powf(look.gamma) * look.gain,
        };
        shown.round().clamp(0.0, 4095.0) as u16
    };
    let pixels = image.into_iter().map(stored).collect();
    let labels = if grid.zero_fill == 1 {
        drawn[1].iter().map(|tissue| label(*tissue)).collect()
    } else {
        cut.sampled(grid.stored(), grid.field_of_view, 0.0).into_iter().map(label).collect()
    };
    Scan { pixels, labels }
}

/// A heart cut by a plane: the plane's axes in the patient's and in the heart's coordinates.
struct Cut<'a> {
    beat: &'a Beat<'a>,
    in_patient: [Vector; 4],
    in_heart: [Vector; 4],
}

impl<'a> Cut<'a> {
    fn new(beat: &'a Beat<'a>, plane: &Plane) -> Self {
        let axes = planes::axes();
        let in_patient = [plane.center, plane.row, plane.column, plane.normal()];
        Self { beat, in_patient, in_heart: in_patient.map(|vector| planes::in_heart(&axes, vector)) }
    }

    /// The tissue at a place of the plane, `z` mm off it.
    fn tissue(&self, x: f64, y: f64, z: f64) -> Tissue {
        let place = |[center, row, column, normal]: &[Vector; 4]| {
            [0, 1, 2].map(|i| center[i] + row[i] * x + column[i] * y + normal[i] * z)
        };
        self.beat.tissue(place(&self.in_heart), place(&self.in_patient))
    }

    /// The tissue at the middle of every pixel.
    fn sampled(&self, side: usize, field_of_view: f64, z: f64) -> Vec<Tissue> {
        let middle = |index: usize| (index as f64 + 0.5) * field_of_view / side as f64 - field_of_view / 2.0;
        (0..side * side).map(|index| self.tissue(middle(index % side), middle(index / side), z)).collect()
    }
}

/// The pixels that one tissue fills: what is drawn is the same in all layers and at all neighbours.
fn uniform(drawn: &[Vec<Tissue>; 3], side: usize) -> Vec<bool> {
    let flat = |index: usize| {
        let (x, y, tissue) = (index % side, index / side, drawn[1][index]);
        let (columns, rows) = (x.saturating_sub(1)..(x + 2).min(side), y.saturating_sub(1)..(y + 2).min(side));
        drawn[0][index] == tissue
            && drawn[2][index] == tissue
            && rows
                .into_iter()
                .all(|y| drawn[1][y * side + columns.start..y * side + columns.end].iter().all(|t| *t == tissue))
    };
    (0..side * side).map(flat).collect()
}

fn label(tissue: Tissue) -> u8 {
    match tissue {
        // Papillary muscles belong to the blood pool, as most contouring protocols have it.
        Tissue::LvBlood | Tissue::Papillary => 1,
        Tissue::Myocardium => 2,
        Tissue::RvBlood => 3,
        Tissue::LeftAtrium => 4,
        Tissue::RightAtrium => 5,
        Tissue::Scar | Tissue::NoReflow => 6,
        _ => 0,
    }
}

/// Coils lie on the chest: signal falls off with the distance from the front. Bands where the field is off resonance.
fn sensitivity(place: Vector, look: &Look, sequence: Sequence) -> f64 {
    let from_front = (place[1] + 110.0).max(0.0) / 220.0;
    let coil = 1.0 + (look.shading - 1.0) * (1.0 - from_front).clamp(0.0, 1.0);
    let band = if sequence == Sequence::Cine && look.banding > 0.0 {
        let off_resonance = ((place[0] * 0.8 + place[2] * 0.6) / 38.0).sin().abs();
        1.0 - look.banding * (1.0 - off_resonance).powi(6)
    } else {
        1.0
    };
    coil * band / (0.5 + 0.5 * look.shading)
}

/// What is left when only a fraction of the phase-encoding lines is acquired, and zeros fill the rest: convolution with a
/// sinc along columns, and sinc interpolation onto the stored grid.
fn truncate(image: &[[f64; 2]], grid: Grid, lines: f64) -> Vec<[f64; 2]> {
    let (side, stored) = (grid.side, grid.stored());
    let add =
        |sum: [f64; 2], weight: f64, [real, imaginary]: [f64; 2]| [sum[0] + weight * real, sum[1] + weight * imaginary];
    let along_columns = kernel(side, stored, lines);
    let along_rows = kernel(side, stored, 1.0);
    let mut tall = vec![[0.0; 2]; stored * side];
    for (y, taps) in along_columns.iter().enumerate() {
        for &(from, weight) in taps {
            let (to, source) = (&mut tall[y * side..(y + 1) * side], &image[from * side..(from + 1) * side]);
            to.iter_mut().zip(source).for_each(|(to, source)| *to = add(*to, weight, *source));
        }
    }
    if stored == side {
        return tall;
    }
    let mut whole = vec![[0.0; 2]; stored * stored];
    for (row, source) in whole.chunks_mut(stored).zip(tall.chunks(side)) {
        for (value, taps) in row.iter_mut().zip(&along_rows) {
            *value = taps.iter().fold([0.0; 2], |sum, &(from, weight)| add(sum, weight, source[from]));
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
        let plane = Plane { center: [600.0, 0.0, 0.0], row: [1.0, 0.0, 0.0], column: [0.0, 1.0, 0.0], thickness: 8.0 };
        let grid = Grid { side: 64, field_of_view: 100.0, zero_fill: 1 };
        let look = Look { snr: 10.0, shading: 1.0, lines: 1.0, field: 1.0, banding: 0.0, gamma: 1.0, gain: 20_000.0 };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let scan = scan(&heart.at(0.0), &plane, Sequence::Cine, grid, &look, &mut rng);
        let mean = scan.pixels.iter().map(|&value| f64::from(value)).sum::<f64>() / 4096.0;
        let sigma = 0.04 * 20_000.0;
        assert!((mean / (sigma * (std::f64::consts::PI / 2.0).sqrt()) - 1.0).abs() < 0.03, "{mean}");
        assert!(scan.labels.iter().all(|&label| label == 0));
    }

    #[test]
    fn truncated_lines_ring_at_an_edge_and_keep_the_mean() {
        let grid = Grid { side: 32, field_of_view: 32.0, zero_fill: 1 };
        let edge: Vec<_> = (0..32 * 32).map(|i| [f64::from(u8::from(i / 32 >= 16)), 0.0]).collect();
        let rung = truncate(&edge, grid, 0.6);
        let column: Vec<f64> = (0..32).map(|y| rung[y * 32 + 5][0]).collect();
        assert!(column.iter().copied().fold(0.0, f64::max) > 1.04);
        assert!((column[24..30].iter().sum::<f64>() / 6.0 - 1.0).abs() < 0.05);
    }

    #[test]
    fn noise_is_acquired_and_interpolated_with_the_image() {
        let heart = Heart::draw(Disease::Nor, &mut ChaCha8Rng::seed_from_u64(1));
        let plane = Plane { center: [600.0, 0.0, 0.0], row: [1.0, 0.0, 0.0], column: [0.0, 1.0, 0.0], thickness: 8.0 };
        let look = Look { snr: 10.0, shading: 1.0, lines: 1.0, field: 1.0, banding: 0.0, gamma: 1.0, gain: 20_000.0 };
        let apart = |zero_fill: usize| {
            let grid = Grid::of(64, 100.0, zero_fill);
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let pixels = scan(&heart.at(0.0), &plane, Sequence::Cine, grid, &look, &mut rng).pixels;
            let steps = pixels.windows(2).map(|pair| f64::from(pair[0].abs_diff(pair[1])));
            steps.sum::<f64>() / pixels.len() as f64
        };
        // Half a pixel apart, noise correlates by sinc(1/2), and its magnitude by about the square of that. Noise added
        // after zero-filling would not correlate at all, and the ratio would be 1.
        let expected = (1.0 - (2.0 / std::f64::consts::PI).powi(2)).sqrt();
        assert!((apart(2) / apart(1) - expected).abs() < 0.04, "{} {expected}", apart(2) / apart(1));
    }

    #[test]
    fn a_thick_slice_blurs_the_apex() {
        let heart = Heart::draw(Disease::Nor, &mut ChaCha8Rng::seed_from_u64(1));
        let look = Look { snr: 1e9, shading: 1.0, lines: 1.0, field: 1.0, banding: 0.0, gamma: 1.0, gain: 4000.0 };
        let levels = |thickness: f64| {
            let plane = Plane { thickness, ..Plane::sax(0.9 * heart.length, 0.0) };
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let scan = scan(&heart.at(0.0), &plane, Sequence::Cine, Grid::of(100, 100.0, 1), &look, &mut rng);
            let blood = signal(Sequence::Cine, Tissue::LvBlood, 1.0) * look.gain;
            let muscle = signal(Sequence::Cine, Tissue::Myocardium, 1.0) * look.gain;
            let between = muscle + 5.0..blood - 5.0;
            scan.pixels.iter().zip(scan.labels).filter(|(p, l)| *l == 1 && between.contains(&f64::from(**p))).count()
        };
        assert!(levels(8.0) > 2 * levels(0.1), "{} {}", levels(8.0), levels(0.1));
    }
}
