//! Pictures for a person at the site: tiles of frames, and attention laid over them. They show images, so they are
//! written to the folder the person names, and nowhere else.

use std::io;
use std::path::Path;

use crate::lettering;

/// Tiles in columns and rows, in color.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    columns: usize,
    side: usize,
    pixels: Vec<u8>, // [rows * (side + GAP) and those of the legend, columns * (side + GAP), 3]
}

/// Pixels between tiles.
const GAP: usize = 4;
/// Each channel where there is no tile.
const DARK: u8 = 18;
/// Pixels of the picture across a letter's pixel.
const LETTERS: usize = 2;

impl Picture {
    /// A dark picture of `columns` by `rows` tiles of `side` pixels.
    pub fn gray(columns: usize, rows: usize, side: usize) -> Self {
        let pixels = vec![DARK; columns * (side + GAP) * rows * (side + GAP) * 3];
        Self { columns, side, pixels }
    }

    /// Puts a gray tile of `side * side` values in its place.
    pub fn place_gray(&mut self, column: usize, row: usize, tile: &[u8]) {
        let color: Vec<u8> = tile.iter().flat_map(|&value| [value; 3]).collect();
        self.place_color(column, row, &color);
    }

    /// Puts a color tile of `side * side * 3` values in its place.
    pub fn place_color(&mut self, column: usize, row: usize, tile: &[u8]) {
        let (width, line) = (self.columns * (self.side + GAP) * 3, self.side * 3);
        for (y, values) in tile.chunks_exact(line).enumerate().take(self.side) {
            let start = (row * (self.side + GAP) + y) * width + column * (self.side + GAP) * 3;
            self.pixels[start..start + line].copy_from_slice(values);
        }
    }

    /// Adds a line for each color below all else, with what it stands for; a name ends where the picture does.
    pub fn add_legend(&mut self, lines: &[([u8; 3], &str)]) {
        let width = self.columns * (self.side + GAP);
        let [_, height] = lettering::extent(1, LETTERS);
        for (color, name) in lines {
            let start = self.pixels.len();
            self.pixels.resize(start + width * (height + 2 * GAP) * 3, DARK);
            let mut set = |column: usize, row: usize, color: [u8; 3]| {
                if column < width {
                    let at = start + ((row + GAP) * width + column) * 3;
                    self.pixels[at..at + 3].copy_from_slice(&color);
                }
            };
            (0..height * height).for_each(|pixel| set(GAP + pixel % height, pixel / height, *color));
            lettering::set(name, LETTERS).for_each(|[column, row]| set(height + 3 * GAP + column, row, [220; 3]));
        }
    }

    /// Writes the picture as a PNG.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, self.png()?)
    }

    /// The picture as the bytes of a PNG.
    pub fn png(&self) -> io::Result<Vec<u8>> {
        let width = self.columns * (self.side + GAP);
        let height = self.pixels.len() / 3 / width.max(1);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// A frame with values of a `grid * grid` map laid over it: dark to red to yellow, scaled from the map's least to its
/// most, interpolated between the middles of the patches.
pub fn heat_over(frame: &[u8], side: usize, map: &[f32], grid: usize) -> Vec<u8> {
    let (low, high) = map.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let span = (high - low).max(f32::MIN_POSITIVE);
    let at = |x: usize, y: usize| (map[y.min(grid - 1) * grid + x.min(grid - 1)] - low) / span;
    let mut over = Vec::with_capacity(side * side * 3);
    for (index, &value) in frame.iter().enumerate() {
        let place = |pixel: usize| ((pixel as f32 + 0.5) * grid as f32 / side as f32 - 0.5).max(0.0);
        let (x, y) = (place(index % side), place(index / side));
        let (column, row, fx, fy) = (x as usize, y as usize, x.fract(), y.fract());
        let upper = at(column, row) * (1.0 - fx) + at(column + 1, row) * fx;
        let lower = at(column, row + 1) * (1.0 - fx) + at(column + 1, row + 1) * fx;
        let heat = upper * (1.0 - fy) + lower * fy;
        let gray = f32::from(value) * 0.45;
        let channel = |strength: f32| (gray + 200.0 * strength).min(255.0) as u8;
        over.extend([channel(heat.min(0.7) / 0.7 * heat), channel((heat - 0.5).max(0.0) * 1.6), channel(0.0)]);
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brightest_patch_is_where_the_attention_is() {
        let over = heat_over(&[0; 16], 4, &[0.0, 0.0, 0.0, 1.0], 2);
        let red: Vec<u8> = over.chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!(red.iter().enumerate().max_by_key(|(_, value)| **value).map(|(at, _)| at), Some(15));
        assert_eq!(red[0], 0);
    }

    #[test]
    fn a_legend_is_below_the_tiles_and_a_long_name_ends_with_the_picture() {
        let mut picture = Picture::gray(1, 1, 60);
        picture.place_gray(0, 0, &[200; 3600]);
        let tiles = picture.clone();
        let red = [230, 70, 60];
        picture.add_legend(&[(red, "LV"), ([70, 200, 90], "a name that is longer than the picture is wide")]);
        assert_eq!(picture.pixels[..tiles.pixels.len()], tiles.pixels);
        let below: Vec<&[u8]> = picture.pixels[tiles.pixels.len()..].chunks(3).collect();
        assert_eq!(below.len(), 64 * 2 * 18);
        assert_eq!(below.iter().filter(|pixel| **pixel == red).count(), 100);
        // Seven pixels of an L and nine of a V, each two by two.
        let first = &below[..64 * 18];
        assert_eq!(first.iter().filter(|pixel| ***pixel == [220; 3]).count(), 4 * (7 + 9));
        assert_eq!(&picture.png().unwrap()[1..4], b"PNG");
    }

    #[test]
    fn a_picture_of_tiles_is_written_as_png() {
        let folder = tempfile::tempdir().unwrap();
        let mut picture = Picture::gray(2, 1, 3);
        picture.place_gray(1, 0, &[200; 9]);
        picture.write(&folder.path().join("p.png")).unwrap();
        let bytes = std::fs::read(folder.path().join("p.png")).unwrap();
        assert_eq!(&bytes[1..4], b"PNG");
    }
}
