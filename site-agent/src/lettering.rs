//! Letters in pictures: capitals of three by five pixels, which a legend needs and no more.

/// Columns and rows of a letter.
const LETTER: [usize; 2] = [3, 5];
/// Each row of a letter as three bits, the topmost first; octal, so that a digit is a row.
const CAPITALS: [u16; 26] = [
    0o25755, 0o65656, 0o34443, 0o65556, 0o74647, 0o74644, 0o34553, 0o55755, 0o72227, 0o11152, 0o55655, 0o44447,
    0o57755, 0o65555, 0o25552, 0o65644, 0o25563, 0o65655, 0o34216, 0o72222, 0o55557, 0o55552, 0o55775, 0o55255,
    0o55222, 0o71247,
];
const DIGITS: [u16; 10] = [0o25552, 0o26227, 0o61247, 0o61216, 0o55711, 0o74616, 0o34657, 0o71222, 0o25252, 0o75316];
/// What has no letter here.
const BOX: u16 = 0o75557;

fn letter(of: char) -> u16 {
    match of.to_ascii_uppercase() {
        capital @ 'A'..='Z' => CAPITALS[capital as usize - 'A' as usize],
        digit @ '0'..='9' => DIGITS[digit as usize - '0' as usize],
        '-' => 0o00700,
        '_' => 0o00007,
        '.' => 0o00002,
        ' ' => 0,
        _ => BOX,
    }
}

/// The (column, row) of every pixel of a line of words that is set, with pixels of `size` by `size`.
pub(crate) fn set(words: &str, size: usize) -> impl Iterator<Item = [usize; 2]> {
    words.chars().enumerate().flat_map(move |(place, of)| {
        let bits = letter(of);
        let [columns, rows] = LETTER;
        let is_set = move |pixel: &usize| bits >> (columns * rows - 1 - pixel) & 1 == 1;
        (0..columns * rows).filter(is_set).flat_map(move |pixel| {
            let [column, row] = [place * (columns + 1) + pixel % columns, pixel / columns];
            (0..size * size).map(move |part| [column * size + part % size, row * size + part / size])
        })
    })
}

/// Columns that a line of so many letters takes, and its rows.
pub(crate) fn extent(letters: usize, size: usize) -> [usize; 2] {
    [letters * (LETTER[0] + 1) * size, LETTER[1] * size]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(words: &str) -> Vec<String> {
        let [columns, rows] = extent(words.len(), 1);
        let mut all = vec![vec![' '; columns]; rows];
        set(words, 1).for_each(|[column, row]| all[row][column] = '#');
        all.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn letters_look_like_themselves_and_what_has_none_is_a_box() {
        assert_eq!(
            drawn("lv 7"),
            ["#   # #     ###", "#   # #       #", "#   # #      #", "#   # #      #", "###  #       #"]
        );
        assert_eq!(drawn("?"), ["###", "# #", "# #", "# #", "###"]);
    }

    #[test]
    fn no_two_letters_look_alike() {
        let mut all: Vec<u16> = ('A'..='Z').chain('0'..='9').map(letter).collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        // O and 0 are one.
        assert_eq!(all.len(), count - 1);
    }

    #[test]
    fn larger_letters_are_as_many_times_as_large() {
        assert_eq!(set("A", 2).count(), 4 * set("A", 1).count());
        assert!(set("Z9", 3).all(|[column, row]| column < extent(2, 3)[0] && row < extent(2, 3)[1]));
    }
}
