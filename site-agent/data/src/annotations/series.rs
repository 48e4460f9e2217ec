//! Classes of series: what a column of `series.csv` says, on each slice of the series that it names.

use std::collections::BTreeMap;

use super::tables::{ClassTable, no_class};
use super::{LabelError, SeriesIndex};
use crate::cache::{FrameCache, SeriesRecord};
use crate::keys::{SeriesKey, SubjectKey};
use crate::labels::Level;

/// For each slice of a record its class's place. None where the class depends on how deep the slice lies, and that is not
/// known.
pub type SliceClasses = Vec<Option<usize>>;

/// The classes of the slices of all series that are wanted and that the column says something of, by the series' place in
/// [`FrameCache::series`].
pub(super) fn place_all(
    table: &ClassTable<(SubjectKey, SeriesKey)>,
    column: &str,
    cache: &FrameCache,
    wanted: &dyn Fn(&SeriesRecord) -> bool,
    classes: &[String],
) -> Result<BTreeMap<u32, SliceClasses>, LabelError> {
    let index = SeriesIndex::of(cache);
    let mut all = BTreeMap::new();
    for (at, (subject, series), word) in table.column(column)? {
        let records = index.records(at, subject, series)?;
        if LEVELS.iter().all(|level| class_of(word, *level, classes).is_none()) {
            return Err(no_class(at, column, classes));
        }
        for (place, record) in records.into_iter().filter(|(_, record)| wanted(record)) {
            let of_slices = record.slices.iter().map(|slice| class_of(word, slice.level, classes));
            all.insert(place, of_slices.collect());
        }
    }
    Ok(all)
}

/// What a slice's level may be.
const LEVELS: [Option<Level>; 4] = [None, Some(Level::Base), Some(Level::Mid), Some(Level::Apex)];

/// The class that a word means on a slice: its own, or with the slice's level behind it. A reader writes `SAX` of a stack, and
/// its slices are `SAX base`, `SAX mid` and `SAX apex`.
fn class_of(word: &str, level: Option<Level>, classes: &[String]) -> Option<usize> {
    let named = |name: &str| classes.iter().position(|class| class == name);
    named(word).or_else(|| named(&format!("{word} {}", level?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_its_class_or_the_one_of_the_slices_level() {
        let classes = ["SAX base", "SAX apex", "2CH"].map(str::to_owned);
        let place = |word, level| class_of(word, level, &classes);
        assert_eq!((place("SAX", Some(Level::Base)), place("SAX", Some(Level::Apex))), (Some(0), Some(1)));
        assert_eq!((place("2CH", None), place("2CH", Some(Level::Base))), (Some(2), Some(2)));
        assert_eq!((place("SAX", None), place("SAX", Some(Level::Mid)), place("3CH", None)), (None, None, None));
        assert_eq!(place("SAX base", None), Some(0));
    }
}
