//! Whether a map of codes is that of its masks: myocardium is a ring around the left ventricle in a short axis, and in a long
//! axis a horseshoe, open where the valves are.
//!
//! The right ventricle, where it is drawn, is a crescent beside it, and the atria lie behind the valves: their borders on the
//! myocardium are shorter than their free ones. A class whose border lies on another for the most part is enclosed by it, and
//! that pair must be LV and myocardium.
//!
//! Where all four chambers are drawn, each atrium lies nearer to its own ventricle than to the other's, and the right ventricle nearer to
//! the left one than the right atrium does.

use std::path::Path;

use super::codes::Codes;
use super::{LabelError, TableRow};

/// The classes that are told apart.
const NAMES: [&str; 5] = ["LV", "myocardium", "RV", "LA", "RA"];
/// How they are drawn, after background.
const LETTERS: [char; 6] = ['.', 'L', 'm', 'R', 'l', 'r'];
/// Share of a border on another class from which on it is enclosed.
const ENCLOSED: f64 = 0.5;
/// Sides of pixels that a border needs to tell anything; pixels that a chamber needs to have a place.
const BORDER: u32 = 24;
/// A distance is shorter than another if it is at most this share of it.
const SHORTER: f64 = 0.9;
/// Columns, and rows, of a drawing; letters are twice as tall as wide.
const DRAWN: [usize; 2] = [40, 20];

/// A mask whose classes lie in another order.
#[derive(Debug, PartialEq)]
pub(super) struct WrongOrder {
    sign: Sign,
    picture: String,
}

/// By what it shows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sign {
    /// Places in [`NAMES`] of what lies inside, and of what lies around it.
    Enclosed { inner: usize, ring: usize },
    /// Each atrium lies behind the other's ventricle.
    Crossed,
    /// The right atrium lies beside the left ventricle, and the right ventricle behind it.
    Behind,
}

impl Sign {
    /// What is seen in a mask.
    fn told(self) -> String {
        match self {
            Self::Enclosed { inner, ring } => {
                format!("has {} enclosed by {}, and not LV by myocardium", NAMES[inner], NAMES[ring])
            }
            Self::Crossed => "has LA behind RV and RA behind LV".to_owned(),
            Self::Behind => "has RA beside LV and RV farther from it".to_owned(),
        }
    }

    /// The place in [`NAMES`] of what each name holds.
    fn held(self) -> [usize; NAMES.len()] {
        let [lv, myocardium, rv, la, ra] = [0, 1, 2, 3, 4];
        match self {
            Self::Crossed => [lv, myocardium, rv, ra, la],
            Self::Behind => [lv, myocardium, ra, la, rv],
            Self::Enclosed { inner, ring } => {
                // Whatever else changes places with them takes the codes that LV and myocardium had; the others keep their own.
                let taken = [inner, ring];
                let mut left = [lv, myocardium].into_iter().filter(|place| !taken.contains(place));
                let other = [rv, la, ra].map(|own| if taken.contains(&own) { left.next().unwrap_or(own) } else { own });
                [inner, ring, other[0], other[1], other[2]]
            }
        }
    }
}

impl WrongOrder {
    /// As an error, with the codes to write.
    pub(super) fn refused(self, at: TableRow, file: &Path, codes: &Codes) -> LabelError {
        let found = format!("{} {}", file.display(), self.sign.told());
        let known = NAMES
            .iter()
            .zip(self.sign.held().map(|place| NAMES[place]))
            .filter(|(class, held)| codes.has(class) && codes.has(held));
        let lines: Vec<String> = known.map(|(class, held)| codes.line(class, held)).collect();
        LabelError::Order { at, found, picture: self.picture, remedy: lines.join(", ") }
    }
}

/// Checks the slices of a mask of either axis, if LV and myocardium are among its classes. [rows x columns] each
pub(super) fn check<'a>(
    slices: impl Iterator<Item = &'a [u8]>,
    [rows, columns]: [u32; 2],
    classes: &[String],
) -> Result<(), WrongOrder> {
    let places = NAMES.map(|name| classes.iter().position(|class| class == name));
    let [Some(_), Some(_), ..] = places else { return Ok(()) };
    let (rows, columns) = (rows as usize, columns as usize);
    // 1 to 5 as in `NAMES`; other classes count as what lies around.
    let heart = |value: u8| {
        let place = usize::from(value).checked_sub(1);
        place.and_then(|_| places.iter().position(|held| *held == place)).map_or(0, |place| place + 1)
    };
    let slices: Vec<Vec<usize>> = slices.map(|slice| slice.iter().map(|value| heart(*value)).collect()).collect();
    let mut borders = [[0_u32; NAMES.len() + 1]; NAMES.len() + 1];
    for slice in &slices {
        for (place, &own) in slice.iter().enumerate().filter(|(_, own)| **own > 0) {
            let (row, column) = (place / columns, place % columns);
            let neighbours = [
                (row > 0).then(|| slice[place - columns]),
                (row + 1 < rows).then(|| slice[place + columns]),
                (column > 0).then(|| slice[place - 1]),
                (column + 1 < columns).then(|| slice[place + 1]),
            ];
            neighbours.into_iter().map(|other| other.unwrap_or(0)).filter(|other| *other != own).for_each(|other| {
                borders[own][other] += 1;
            });
        }
    }
    let enclosed = |inner: usize, ring: usize| {
        let border: u32 = borders[inner].iter().sum();
        if border < BORDER { 0.0 } else { f64::from(borders[inner][ring]) / f64::from(border) }
    };
    if enclosed(1, 2) >= ENCLOSED {
        return match misplaced(&slices, columns) {
            Some(sign) => Err(WrongOrder { sign, picture: drawing(&slices, columns) }),
            None => Ok(()),
        };
    }
    let all = || 1..=NAMES.len();
    let pairs = all().flat_map(|inner| all().map(move |ring| (inner, ring))).filter(|(inner, ring)| inner != ring);
    let wrong = pairs.max_by(|a, b| enclosed(a.0, a.1).total_cmp(&enclosed(b.0, b.1)));
    match wrong.filter(|(inner, ring)| enclosed(*inner, *ring) >= ENCLOSED) {
        Some((inner, ring)) => {
            let sign = Sign::Enclosed { inner: inner - 1, ring: ring - 1 };
            Err(WrongOrder { sign, picture: drawing(&slices, columns) })
        }
        None => Ok(()),
    }
}

/// Whether chambers lie where others do, if all four are drawn.
fn misplaced(slices: &[Vec<usize>], columns: usize) -> Option<Sign> {
    let mut sums = [[0.0; 3]; NAMES.len() + 1];
    for (place, &own) in slices.iter().flat_map(|slice| slice.iter().enumerate()) {
        let [count, row, column] = &mut sums[own];
        *count += 1.0;
        *row += (place / columns) as f64;
        *column += (place % columns) as f64;
    }
    let center = |name: usize| {
        let [count, row, column] = sums[name + 1];
        (count >= f64::from(BORDER)).then(|| [row / count, column / count])
    };
    let [lv, rv, la, ra] = [center(0)?, center(2)?, center(3)?, center(4)?];
    let apart = |[y, x]: [f64; 2], [other_y, other_x]: [f64; 2]| (y - other_y).hypot(x - other_x);
    // The right side first: if it is turned, so are the distances to the left atrium.
    if apart(ra, lv) <= SHORTER * apart(rv, lv) {
        Some(Sign::Behind)
    } else if apart(la, rv) + apart(ra, lv) <= SHORTER * (apart(la, lv) + apart(ra, rv)) {
        Some(Sign::Crossed)
    } else {
        None
    }
}

/// The middle one of the slices that show anything, in letters: what the heart takes of it, and a margin.
fn drawing(slices: &[Vec<usize>], columns: usize) -> String {
    let shown: Vec<&Vec<usize>> = slices.iter().filter(|slice| slice.iter().any(|class| *class > 0)).collect();
    let Some(slice) = shown.get(shown.len() / 2) else { return String::new() };
    let heart = || slice.iter().enumerate().filter(|(_, class)| **class > 0).map(|(place, _)| place);
    let rows = slice.len() / columns;
    let span = |along: fn(usize, usize) -> usize, count: usize| {
        let (low, high) = heart().map(|place| along(place, columns)).fold((count, 0), |(a, b), x| (a.min(x), b.max(x)));
        (low.saturating_sub(1), (high + 2).min(count))
    };
    let (top, bottom) = span(|place, columns| place / columns, rows);
    let (left, right) = span(|place, columns| place % columns, columns);
    // Letters are twice as tall as wide: a row for each two columns.
    let wide = (right - left).div_ceil(DRAWN[0]).max((bottom - top).div_ceil(2 * DRAWN[1])).max(1);
    let tall = 2 * wide;
    let mut picture = String::new();
    for row in (top..bottom).step_by(tall) {
        picture.push_str("    ");
        for column in (left..right).step_by(wide) {
            let (row, column) = ((row + wide).min(bottom - 1), (column + wide / 2).min(right - 1));
            picture.push(LETTERS[slice[row * columns + column]]);
        }
        picture.push('\n');
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 96;

    /// A short axis: a disc in a ring, a crescent to its left, as the codes that are given for them.
    fn short_axis([lv, myocardium, rv]: [u8; 3]) -> Vec<u8> {
        let at = |place: usize| {
            let (y, x) = ((place / SIDE) as f64 - 48.0, (place % SIDE) as f64 - 54.0);
            match (y.hypot(x), y.hypot(x + 16.0)) {
                (r, _) if r < 15.0 => lv,
                (r, _) if r < 22.0 => myocardium,
                (_, r) if r < 26.0 && x < 0.0 => rv,
                _ => 0,
            }
        };
        (0..SIDE * SIDE).map(at).collect()
    }

    /// Four chambers, the apex up: a horseshoe around the left ventricle, the right one beside it, the atria below them.
    fn long_axis([lv, myocardium, rv, la, ra]: [u8; 5]) -> Vec<u8> {
        let at = |place: usize| {
            let (y, x) = ((place / SIDE) as f64 - 56.0, (place % SIDE) as f64 - 54.0);
            let round = |half_width: f64, height: f64, x: f64| (x / half_width).hypot(y / height);
            match y < 0.0 {
                true if round(12.0, 36.0, x) < 1.0 => lv,
                true if round(18.0, 42.0, x) < 1.0 => myocardium,
                true if round(22.0, 32.0, x + 18.0) < 1.0 && x < 0.0 => rv,
                false if round(13.0, 20.0, x) < 1.0 => la,
                false if round(13.0, 20.0, x + 28.0) < 1.0 => ra,
                _ => 0,
            }
        };
        (0..SIDE * SIDE).map(at).collect()
    }

    fn enclosed(codes: &[u8]) -> Sign {
        Sign::Enclosed { inner: usize::from(codes[0]) - 1, ring: usize::from(codes[1]) - 1 }
    }

    fn checked(slice: &[u8]) -> Result<(), WrongOrder> {
        let classes = NAMES.map(str::to_owned);
        check([slice].into_iter(), [SIDE as u32; 2], &classes)
    }

    #[test]
    fn the_right_map_is_accepted_and_each_of_the_five_wrong_ones_is_refused_with_what_it_is() {
        assert_eq!(checked(&short_axis([1, 2, 3])), Ok(()));
        for codes in [[1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
            let wrong = checked(&short_axis(codes)).unwrap_err();
            assert_eq!(wrong.sign, enclosed(&codes));
        }
    }

    #[test]
    fn in_a_long_axis_the_right_map_is_accepted_and_one_that_moves_the_left_ventricle_is_refused() {
        let drawn = [1, 2, 3, 4, 5];
        assert_eq!(checked(&long_axis(drawn)), Ok(()));
        // Two-chamber: without the right side.
        assert_eq!(checked(&long_axis([1, 2, 0, 4, 0])), Ok(()));
        for other in [1, 2, 3, 4] {
            let mut swapped = drawn;
            swapped.swap(0, other);
            let wrong = checked(&long_axis(swapped)).unwrap_err();
            assert_eq!(wrong.sign, enclosed(&swapped));
        }
        let wrong = checked(&long_axis([3, 2, 1, 4, 5])).unwrap_err();
        let text = "[codes]\nLV = 10\nmyocardium = 20\nRV = 30\nLA = 40\nRA = 50\n";
        let codes = Codes::parse(Path::new("labels.toml"), text).unwrap();
        let at = TableRow { file: "masks.csv".into(), line: 2 };
        let told = wrong.refused(at, Path::new("4ch.nii.gz"), &codes).to_string();
        for part in ["4ch.nii.gz has RV enclosed by myocardium", "LV = 30, myocardium = 20, RV = 10, LA = 40, RA = 50"]
        {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn atria_behind_the_others_ventricle_and_a_right_atrium_in_the_place_of_its_ventricle_are_refused() {
        let told = |sign: Sign| {
            let text = "[codes]\nLV = 10\nmyocardium = 20\nRV = 30\nLA = 40\nRA = 50\n";
            let codes = Codes::parse(Path::new("labels.toml"), text).unwrap();
            let at = TableRow { file: "masks.csv".into(), line: 2 };
            WrongOrder { sign, picture: String::new() }.refused(at, Path::new("4ch.nii.gz"), &codes).to_string()
        };
        for (codes, sign, part) in [
            ([1, 2, 3, 5, 4], Sign::Crossed, "LV = 10, myocardium = 20, RV = 30, LA = 50, RA = 40"),
            ([1, 2, 5, 4, 3], Sign::Behind, "LV = 10, myocardium = 20, RV = 50, LA = 40, RA = 30"),
        ] {
            // However the heart lies in the picture.
            let upright = long_axis(codes);
            let turned = (0..SIDE * SIDE).map(|place| upright[place % SIDE * SIDE + place / SIDE]).collect::<Vec<u8>>();
            let mirrored = upright.iter().rev().copied().collect::<Vec<u8>>();
            for slice in [upright, turned, mirrored] {
                assert_eq!(checked(&slice).unwrap_err().sign, sign);
            }
            assert!(told(sign).contains(part), "{}", told(sign));
        }
    }

    #[test]
    fn what_shows_no_ring_tells_nothing() {
        assert_eq!(checked(&[0; SIDE * SIDE]), Ok(()));
        // A base without myocardium, and an apex of four pixels.
        let without: Vec<u8> = short_axis([1, 0, 3]);
        assert_eq!(checked(&without), Ok(()));
        let mut small = vec![0; SIDE * SIDE];
        [100, 101, 100 + SIDE, 101 + SIDE].iter().for_each(|place| small[*place] = 3);
        assert_eq!(checked(&small), Ok(()));
        // Nor do masks without the ring.
        let classes = ["LV", "RV"].map(str::to_owned);
        assert_eq!(check([short_axis([2, 0, 1]).as_slice()].into_iter(), [SIDE as u32; 2], &classes), Ok(()));
    }

    #[test]
    fn the_ring_is_told_from_what_it_encloses_where_nobody_drew_the_right_ventricle() {
        let classes = ["LV", "myocardium"].map(str::to_owned);
        let checked = |codes| check([short_axis(codes).as_slice()].into_iter(), [SIDE as u32; 2], &classes);
        assert_eq!(checked([1, 2, 0]), Ok(()));
        let wrong = checked([2, 1, 0]).unwrap_err();
        assert_eq!(wrong.sign, Sign::Enclosed { inner: 1, ring: 0 });
    }

    #[test]
    fn the_drawing_is_at_most_forty_letters_wide_and_shows_what_the_map_calls_what() {
        let picture = checked(&short_axis([3, 2, 1])).unwrap_err().picture;
        let lines: Vec<&str> = picture.lines().map(str::trim_start).collect();
        assert!(lines.iter().all(|line| line.len() <= 40) && lines.len() <= 20, "{picture}");
        let middle = lines[lines.len() / 2];
        // From left to right: crescent, ring, disc, ring.
        let runs: String =
            middle.chars().fold(String::new(), |runs, c| if runs.ends_with(c) { runs } else { runs + &c.to_string() });
        assert_eq!(runs.trim_matches('.'), "LmRm", "{picture}");
    }
}
