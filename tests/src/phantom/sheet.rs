//! A picture sheet: one row a site, one column a view.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use super::PhantomError;
use super::heart::END_SYSTOLE;
use super::planes::{Plane, View};
use super::signal::Sequence;
use super::sites::{self, Acquired, SiteSpec};

const TILE: usize = 150;

/// Draws the sheet: cine short axis at base, middle and apex, the middle at end-systole, 2CH, 3CH, 4CH, late enhancement
/// and T1 map, of one subject at each of the four scanners.
pub fn write_sheet(path: &Path, seed: u64) -> Result<(), PhantomError> {
    let specs = [SiteSpec::a(1), SiteSpec::b(1), SiteSpec::c(1), SiteSpec::d(1)];
    let columns = 9;
    let mut pixels = vec![12_u8; columns * TILE * specs.len() * TILE];
    for (row, (spec, letter)) in specs.iter().zip('A'..).enumerate() {
        let mut rng = sites::rng(seed, letter, 1, "sheet");
        let heart = spec.draw(usize::from(letter == 'B') * 2, &mut rng);
        let sax = |along: f64| (View::Sax, Plane::sax(&heart, along, 0.0));
        let lax = |view: View| (view, Plane::lax(&heart, view, 0.0));
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
            let acquired = Acquired { sequence, view, plane, phases: 1, slice: 0, slices: 1, along: None };
            let scan = spec.scan(&heart, phase, &acquired, &mut rng);
            place(&mut pixels, columns * TILE, column * TILE, row * TILE, &scan.pixels, spec.stored_side());
        }
    }
    let mut encoder =
        png::Encoder::new(BufWriter::new(File::create(path)?), (columns * TILE) as u32, (specs.len() * TILE) as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(())
}

/// Puts an image into its tile, scaled to its brightest hundredth.
fn place(pixels: &mut [u8], width: usize, left: usize, top: usize, image: &[u16], side: usize) {
    let mut sorted = image.to_vec();
    sorted.sort_unstable();
    let white = f64::from(sorted[sorted.len() * 99 / 100].max(1));
    for y in 0..TILE - 2 {
        for x in 0..TILE - 2 {
            let source = image[(y * side / (TILE - 2)) * side + x * side / (TILE - 2)];
            pixels[(top + y) * width + left + x] = (f64::from(source) / white * 255.0).min(255.0) as u8;
        }
    }
}
