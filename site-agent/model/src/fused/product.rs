//! Matrix products on parts of slices, by the `gemm` crate: the one place that hands it pointers.

use gemm::Parallelism;

/// A matrix in a slice: the first value's place, and how far apart rows and columns are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_step: usize,
    pub(super) column_step: usize,
}

impl Place {
    /// `rows` rows of `columns` values side by side, `row_step` apart.
    pub(super) fn new(start: usize, rows: usize, columns: usize, row_step: usize) -> Self {
        Self { start, rows, columns, row_step, column_step: 1 }
    }

    /// The same values, mirrored.
    pub(super) fn transposed(self) -> Self {
        let Self { start, rows, columns, row_step, column_step } = self;
        Self { start, rows: columns, columns: rows, row_step: column_step, column_step: row_step }
    }

    /// One past the last value's place.
    fn end(&self) -> usize {
        self.start + (self.rows - 1) * self.row_step + (self.columns - 1) * self.column_step + 1
    }
}

/// `into = kept * into + factor * left * right`, on this thread. What is not `kept` may hold anything.
///
/// # Panics
/// If the shapes do not fit, a matrix is empty, or one reaches beyond its slice.
pub(super) fn product(
    (into, to): (&mut [f32], Place),
    kept: bool,
    factor: f32,
    (left, of_left): (&[f32], Place),
    (right, of_right): (&[f32], Place),
) {
    let (m, n, k) = (to.rows, to.columns, of_left.columns);
    assert!(m > 0 && n > 0 && k > 0, "an empty matrix");
    assert!(of_left.rows == m && of_right.rows == k && of_right.columns == n, "shapes that do not fit");
    assert!(to.end() <= into.len() && of_left.end() <= left.len() && of_right.end() <= right.len(), "beyond the slice");
    let step = |step: usize| isize::try_from(step).unwrap_or(isize::MAX);
    #[expect(unsafe_code, reason = "gemm takes pointers; all that it reaches lies in the slices, as asserted above")]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            into.as_mut_ptr().add(to.start),
            step(to.column_step),
            step(to.row_step),
            kept,
            left.as_ptr().add(of_left.start),
            step(of_left.column_step),
            step(of_left.row_step),
            right.as_ptr().add(of_right.start),
            step(of_right.column_step),
            step(of_right.row_step),
            1.0_f32,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Writes a matrix with its rows and columns exchanged, `[columns, rows]` side by side: a product takes a right factor in whose
/// rows lie side by side much faster, and this reads and writes whole lines of the cache.
pub(super) fn transpose(into: &mut [f32], (values, of): (&[f32], Place)) {
    const TILE: usize = 16;
    for row in (0..of.rows).step_by(TILE) {
        let rows = TILE.min(of.rows - row);
        for column in (0..of.columns).step_by(TILE) {
            let columns = TILE.min(of.columns - column);
            let line = |place: usize| &values[of.start + (row + place) * of.row_step + column * of.column_step..];
            if columns < TILE {
                for place in 0..columns {
                    let into = &mut into[(column + place) * of.rows + row..][..rows];
                    into.iter_mut().enumerate().for_each(|(row, into)| *into = line(row)[place]);
                }
                continue;
            }
            // Of a size that the compiler knows, and from where they lie: a copy of the tile made this five times as slow.
            let mut lines = [&[0.0_f32; TILE]; TILE];
            for (place, found) in lines[..rows].iter_mut().enumerate() {
                *found = line(place).first_chunk().expect("a whole line of the tile");
            }
            for place in 0..TILE {
                let turned: [f32; TILE] = std::array::from_fn(|row| lines[row][place]);
                let into = &mut into[(column + place) * of.rows + row..][..rows];
                match into.first_chunk_mut::<TILE>() {
                    Some(into) => *into = turned,
                    None => into.copy_from_slice(&turned[..rows]),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_matrix_has_every_value_in_its_mirrored_place() {
        for (rows, columns) in [(1, 1), (16, 16), (5, 40), (33, 17)] {
            let values: Vec<f32> = (0..3 + rows * (columns + 2)).map(|place| place as f32).collect();
            let mut into = vec![-1.0; rows * columns];
            transpose(&mut into, (&values, Place::new(3, rows, columns, columns + 2)));
            for (place, value) in into.iter().enumerate() {
                let (column, row) = (place / rows, place % rows);
                assert_eq!(*value, values[3 + row * (columns + 2) + column], "{rows} x {columns}");
            }
        }
    }

    #[test]
    fn a_product_of_parts_is_added_to_what_is_there() {
        let left = [9.0, 1.0, 2.0, 9.0, 3.0, 4.0]; // [[1, 2], [3, 4]] with a stranger before each row
        let right = [5.0, 6.0, 7.0, 8.0]; // [[5, 6], [7, 8]]
        let mut into = [1.0; 4];
        let place = Place::new(0, 2, 2, 2);
        product((&mut into, place), true, 2.0, (&left, Place::new(1, 2, 2, 3)), (&right, place));
        assert_eq!(into, [39.0, 45.0, 87.0, 101.0]);
        product((&mut into, place), false, 1.0, (&left, Place::new(1, 2, 2, 3)), (&right, place.transposed()));
        assert_eq!(into, [17.0, 23.0, 39.0, 53.0]);
    }

    #[test]
    #[should_panic(expected = "beyond the slice")]
    fn a_place_beyond_its_slice_is_refused() {
        let place = Place::new(1, 2, 2, 2);
        product((&mut [0.0; 4], place), false, 1.0, (&[0.0; 4], place), (&[0.0; 4], place));
    }
}
