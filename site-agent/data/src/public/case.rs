//! What the readers of data sets find: cases, their series, and which mask belongs to which phase.

use crate::annotations::TableRow;
use crate::labels::{Plane, Sequence, Vendor};

/// All of a folder.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// In the order of their subjects.
    pub(super) cases: Vec<Case>,
    /// Subjects that a table names and of whom there are no images.
    pub(super) absent: usize,
}

/// A subject of a data set.
#[derive(Debug, PartialEq)]
pub(super) struct Case {
    /// The data set's own name for it.
    pub(super) subject: String,
    /// Its folder, below the data set's.
    pub(super) folder: String,
    /// The scanner's vendor.
    pub(super) vendor: Vendor,
    /// In the data set's own words; none where it says nothing.
    pub(super) diagnosis: Option<String>,
    pub(super) series: Vec<CaseSeries>,
}

/// Images that are one series.
#[derive(Debug, PartialEq)]
pub(super) struct CaseSeries {
    /// What tells it from the subject's others.
    pub(super) name: &'static str,
    pub(super) sequence: Sequence,
    pub(super) plane: Plane,
    /// Below the data set's folder. One file of all phases, or one file a phase, in their order.
    pub(super) files: Vec<String>,
    /// How many phases there must be, and where that is said.
    pub(super) phases: Option<(u32, TableRow)>,
    pub(super) masks: Vec<CaseMask>,
}

/// The mask of a phase.
#[derive(Debug, PartialEq)]
pub(super) struct CaseMask {
    /// From 0.
    pub(super) phase: u32,
    /// Below the data set's folder.
    pub(super) file: String,
    /// What says that there is one.
    pub(super) at: TableRow,
}
