//! What may be read where. A page that can be sent holds no image, no value of a single subject and no small count; it is what
//! a site gets unless it asks for more.

use common::privacy::SUBJECTS_ROUNDED_TO;
use common::task::Metric;

use super::Run;

/// Who reads a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The people of this site: everything, images too. The page stays here.
    Site,
    /// Anyone: means, intervals, and counts as the agent rounds them wherever they leave.
    Elsewhere,
}

/// Fewest subjects behind a number that leaves.
const LEAST: u64 = SUBJECTS_ROUNDED_TO as u64;

impl Audience {
    /// Whether single subjects may be shown.
    pub fn sees_subjects(self) -> bool {
        self == Self::Site
    }

    /// Whether a number over so many subjects may be shown.
    pub fn sees(self, subjects: usize) -> bool {
        self == Self::Site || subjects as u64 >= LEAST
    }

    /// A count of subjects: elsewhere rounded down to a multiple of five, so that no difference of two tells of one.
    pub fn count(self, subjects: usize) -> String {
        match (self, subjects as u64) {
            (Self::Site, exact) => exact.to_string(),
            (Self::Elsewhere, few) if few < LEAST => format!("fewer than {LEAST}"),
            (Self::Elsewhere, many) => format!("≥ {}", many / LEAST * LEAST),
        }
    }

    /// A count of subjects beside a number over them.
    pub fn n(self, subjects: usize) -> String {
        match (self, self.sees(subjects)) {
            (Self::Site, _) => format!("n = {subjects}"),
            (Self::Elsewhere, true) => format!("n {}", self.count(subjects)),
            (Self::Elsewhere, false) => format!("n < {LEAST}"),
        }
    }

    /// A count in a table of classes; none where it is too small to leave. Nought is small too: it says that nobody is.
    pub fn cell(self, count: u64) -> Option<u64> {
        (self == Self::Site || count >= LEAST).then_some(count)
    }

    /// Whether a class may be told apart from the others: both are at least five.
    pub fn sees_class(self, run: &Run, class: usize) -> bool {
        self == Self::Site || run.measured.class_and_rest(class).iter().all(|count| *count >= LEAST)
    }

    /// Whether a metric of the whole task may be shown: what tells of one class alone needs enough of it, where classes are
    /// what subjects have.
    pub fn sees_metric(self, run: &Run, metric: Metric, subjects: usize) -> bool {
        self == Self::Site || run.measured.may_leave(&run.told.task, metric, subjects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_is_rounded_down_and_what_is_below_five_is_not_told_even_if_it_is_nought() {
        let told = |count| Audience::Elsewhere.count(count);
        assert_eq!([4, 5, 9, 27].map(told), ["fewer than 5", "≥ 5", "≥ 5", "≥ 25"]);
        assert_eq!([0, 4, 5, 9].map(|count| Audience::Elsewhere.cell(count)), [None, None, Some(5), Some(9)]);
        assert!(!Audience::Elsewhere.sees(4) && Audience::Elsewhere.sees(5) && Audience::Site.sees(1));
        assert_eq!([(Audience::Site, 7), (Audience::Elsewhere, 7)].map(|(who, n)| who.n(n)), ["n = 7", "n ≥ 5"]);
        assert_eq!((Audience::Site.count(3), Audience::Site.cell(0)), ("3".to_owned(), Some(0)));
    }
}
