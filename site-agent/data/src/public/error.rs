//! Why a data set is not taken in.

use std::io;
use std::path::PathBuf;

use super::DataSet;
use crate::annotations::{LabelError, TableRow};
use crate::cache::CacheError;
use crate::nifti::NiftiError;

/// Why a data set is not taken in. Nothing of it is, then. Names of its files are in these words, which are for the site alone.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It was asked to stop.
    #[error("reading the data set was stopped; the next time begins it again")]
    Stopped,
    /// The folder cannot be read.
    #[error("{file} cannot be read: {source}; check that it is there and that this user may read it")]
    Unreadable {
        /// The folder, or a file in it.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is another data set's, or none's.
    #[error(
        "{folder} is no folder of {dataset}: {wanted} is looked for at any depth, and there is {found}; name the folder that the archive of {dataset} was unpacked to, or the data set that it holds"
    )]
    NotThis {
        /// The folder.
        folder: PathBuf,
        /// The data set that was named.
        dataset: DataSet,
        /// What such a folder has.
        wanted: &'static str,
        /// What there is instead.
        found: String,
    },
    /// A file of a case is not there.
    #[error(
        "{dataset}, {subject}: {file} is not there (links are not followed): unpack the archive again, or take the case's folder out of the data set's"
    )]
    Missing {
        /// The data set.
        dataset: DataSet,
        /// The case.
        subject: String,
        /// The file.
        file: PathBuf,
    },
    /// A case of which the data set's table says nothing.
    #[error(
        "{dataset}, {subject}: {table} has no row for this case; use the table of the same download, or take the case's folder out of the data set's"
    )]
    NoRow {
        /// The data set.
        dataset: DataSet,
        /// The case.
        subject: String,
        /// The table.
        table: PathBuf,
    },
    /// The same case twice.
    #[error("{dataset}, {subject}: the case is in {first} and in {second}: take one of the two out of the folder")]
    Twice {
        /// The data set.
        dataset: DataSet,
        /// The case.
        subject: String,
        /// A folder with it, below the data set's.
        first: String,
        /// Another.
        second: String,
    },
    /// A line that cannot be used.
    #[error("{at}: {what}")]
    Row {
        /// The line.
        at: TableRow,
        /// What is wrong, and what to do.
        what: String,
    },
    /// An image that cannot be read.
    #[error("{dataset}, {subject}: {source}")]
    Image {
        /// The data set.
        dataset: DataSet,
        /// The case.
        subject: String,
        /// Why.
        source: NiftiError,
    },
    /// An image that can be read and not used.
    #[error("{dataset}, {subject}: {file} {what}")]
    Shape {
        /// The data set.
        dataset: DataSet,
        /// The case.
        subject: String,
        /// The file.
        file: PathBuf,
        /// What is wrong with it: the value and the bound, and what to do.
        what: String,
    },
    /// A mask that is not one of its images.
    #[error("{dataset}, {subject}: {source}")]
    Mask {
        /// The data set.
        dataset: DataSet,
        /// The case.
        subject: String,
        /// Why.
        source: Box<LabelError>,
    },
    /// Masks with other codes than the data set's.
    #[error(
        "{dataset}, {subject}: by its codes ({told}), {found}. The middle slice of the mask as they name it (L = LV, m = myocardium, R = RV):\n\n{picture}\nThe codes are those of another data set: name the one that the folder was downloaded from, or write {remedy} under [codes] into a file and give it with --codes"
    )]
    OtherCodes {
        /// The data set.
        dataset: DataSet,
        /// The case.
        subject: String,
        /// The map that was used.
        told: Box<str>,
        /// Which file has which class where, by the map.
        found: Box<str>,
        /// The slice, drawn.
        picture: Box<str>,
        /// The map that fits.
        remedy: Box<str>,
    },
    /// A map of codes that was given cannot be used.
    #[error(transparent)]
    Codes(Box<LabelError>),
    /// Somebody else's labels where these would go.
    #[error(
        "{folder} is there and was not written by an import of {dataset} from {root}: name another folder with --labels, or remove it"
    )]
    LabelsThere {
        /// Where the labels would go.
        folder: PathBuf,
        /// The data set.
        dataset: DataSet,
        /// Its folder.
        root: PathBuf,
    },
    /// Labels cannot be written.
    #[error("the labels {file} cannot be written: {source}; check the folder's permissions and the free space")]
    Labels {
        /// The file or folder.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
}
