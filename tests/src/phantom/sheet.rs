//! A picture sheet: one row a site, one column a view.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use super::PhantomError;
use super::heart::END_SYSTOLE;
use super::planes::{Plane, View};
use super::scanner::Grid;
use super::signal::Sequence;
use super::sites::{self, Acquired, SiteSpec};

const TILE: usize = 170;
/// What of an image is shown: its middle, mm.
const SHOWN: f64 = 190.0;

/// Draws the sheet: cine short axis at base, middle and apex, the middle at end-systole, 2CH, 3CH, 4CH, late enhancement
/// and T1 map, of one subject at each of the four scanners.
pub fn write_sheet(path: &Path, seed: u64) -> Result<(), PhantomError> {
    let specs = [SiteSpec::a(1), SiteSpec::b(1), SiteSpec::c(1), SiteSpec::d(1)];
    let columns = 9;
    let mut pixels = vec![12_u8; columns * TILE * specs.len() * TILE];
    for (row, (spec, letter)) in specs.iter().zip('A'..).enumerate() {
        let mut rng = sites::rng(seed, letter, 1, "sheet");
        // A heart with a scar, where there is contrast agent to show it.
        let index = match letter {
            'B' => 2,
            'D' => 1,
            _ => 0,
        };
        let heart = spec.draw(index, &mut rng);
        let sax = |along: f64| (View::Sax, Plane::sax(along * heart.length, spec.turn()));
        let lax = |view: View| (view, Plane::lax(&heart, view, spec.turn()));
        let shown = [
            (Sequence::Cine, sax(0.15), 0.0),
            (Sequence::Cine, sax(0.45), 0.0),
            (Sequence::Cine, sax(0.78), 0.0),
            (Sequence::Cine, sax(0.45), END_SYSTOLE),
            (Sequence::Cine, lax(View::TwoChamber), 0.0),
            (Sequence::Cine, lax(View::ThreeChamber), 0.0),
            (Sequence::Cine, lax(View::FourChamber), 0.0),
            (if letter == 'B' { Sequence::Psir } else { Sequence::Lge }, sax(0.45), 0.0),
            (Sequence::T1Map, sax(0.45), 0.0),
        ];
        for (column, (sequence, (view, plane), phase)) in shown.into_iter().enumerate() {
            if letter == 'A' && sequence == Sequence::Lge || letter == 'C' && sequence == Sequence::T1Map {
                continue;
            }
            let breath = [0.0; 3];
            let acquired = Acquired { sequence, view, plane, breath, phases: 1, slice: 0, spacing: None, along: None };
            let scan = spec.scan(&heart, phase, &acquired, &mut rng);
            place(&mut pixels, columns * TILE, column * TILE, row * TILE, &scan.pixels, spec.grid());
        }
    }
    let mut encoder =
        png::Encoder::new(BufWriter::new(File::create(path)?), (columns * TILE) as u32, (specs.len() * TILE) as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(())
}

/// Puts the middle of an image into its tile, scaled from its darkest hundredth to its brightest.
fn place(pixels: &mut [u8], width: usize, left: usize, top: usize, image: &[u16], grid: Grid) {
    let side = grid.stored();
    let source = |index: usize| {
        let mm = (index as f64 / (TILE - 2) as f64 - 0.5) * SHOWN;
        ((mm / grid.spacing() + side as f64 / 2.0) as usize).min(side - 1)
    };
    let shown = || (0..TILE - 2).flat_map(|y| (0..TILE - 2).map(move |x| (x, y)));
    let value = |(x, y): (usize, usize)| image[source(y) * side + source(x)];
    let mut sorted: Vec<u16> = shown().map(value).collect();
    sorted.sort_unstable();
    let [black, white] = [1, 99].map(|percent| f64::from(sorted[sorted.len() * percent / 100]));
    for (x, y) in shown() {
        pixels[(top + y) * width + left + x] =
            ((f64::from(value((x, y))) - black) / (white - black).max(1.0) * 255.0) as u8;
    }
}
