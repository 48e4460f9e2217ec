//! A model's file, made of an earlier one of its run and of what has changed since: of a run with a frozen backbone, little is
//! fetched in each round after the first.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An earlier model of a run, and the bytes of its file that may be others in a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// Its file.
    pub path: PathBuf,
    /// In their order, without overlap.
    pub changing: Vec<Range<u64>>,
}

/// Bytes that each range must spare: it is a call to the aggregator and back.
const LEAST_SPARED: u64 = 16 << 10;

impl Before {
    /// Bytes that are to be fetched.
    pub fn bytes(&self) -> u64 {
        self.changing.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether that is less to fetch than the whole file, of so many bytes.
    pub fn is_worth(&self, whole: u64) -> bool {
        whole.saturating_sub(self.bytes()) >= self.changing.len().max(1) as u64 * LEAST_SPARED
    }

    /// What is left to fetch when so many bytes of it are here.
    pub fn left(&self, mut here: u64) -> Vec<Range<u64>> {
        let mut left = Vec::new();
        for range in &self.changing {
            let skipped = here.min(range.end - range.start);
            here -= skipped;
            if range.start + skipped < range.end {
                left.push(range.start + skipped..range.end);
            }
        }
        left
    }

    /// Writes the later model to `made`: this one with `changes`, a file of all that was fetched, in its place.
    pub fn make(&self, changes: &Path, made: &Path) -> io::Result<()> {
        fs::copy(&self.path, made)?;
        let (mut changes, mut file) = (File::open(changes)?, File::options().write(true).open(made)?);
        for range in &self.changing {
            file.seek(SeekFrom::Start(range.start))?;
            let length = range.end - range.start;
            if io::copy(&mut (&mut changes).take(length), &mut file)? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        file.flush()?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(folder: &Path, changing: &[(u64, u64)]) -> Before {
        let changing = changing.iter().map(|(start, end)| *start..*end).collect();
        Before { path: folder.join("before"), changing }
    }

    #[test]
    fn what_has_changed_takes_its_places_and_all_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("before"), b"0123456789").unwrap();
        fs::write(at("changes"), b"abcd").unwrap();
        before(folder.path(), &[(2, 3), (7, 10)]).make(&at("changes"), &at("made")).unwrap();
        assert_eq!(fs::read(at("made")).unwrap(), b"01a3456bcd");
        assert_eq!(fs::read(at("before")).unwrap(), b"0123456789");
        fs::write(at("changes"), b"abc").unwrap();
        let short = before(folder.path(), &[(2, 3), (7, 10)]).make(&at("changes"), &at("made")).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_transfer_goes_on_where_it_was_cut_in_whichever_range() {
        let before = before(Path::new("."), &[(2, 3), (7, 10)]);
        let left = |here| before.left(here).iter().map(|range| (range.start, range.end)).collect::<Vec<_>>();
        assert_eq!([left(0), left(1), left(2)], [vec![(2, 3), (7, 10)], vec![(7, 10)], vec![(8, 10)]]);
        assert!(left(4).is_empty() && before.bytes() == 4);
    }

    #[test]
    fn what_spares_little_a_call_is_fetched_with_the_rest() {
        let worth = |ranges: u64, spared: u64| {
            let each: Vec<_> = (0..ranges).map(|place| (2 * place, 2 * place + 1)).collect();
            before(Path::new("."), &each).is_worth(ranges + spared)
        };
        assert_eq!([worth(1, LEAST_SPARED), worth(1, LEAST_SPARED - 1)], [true, false]);
        assert_eq!([worth(9, 9 * LEAST_SPARED), worth(9, 9 * LEAST_SPARED - 1)], [true, false]);
    }
}
