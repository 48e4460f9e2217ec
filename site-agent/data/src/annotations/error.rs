//! Why labels are refused, by file and line.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::nifti::NiftiError;

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableRow {
    /// The table.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: u64,
}

impl fmt::Display for TableRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file.display(), self.line)
    }
}

/// Why labels cannot be used. A patient is named by file and line alone; a mask's file may be called what a patient is
/// called, so that this is for the site's own eyes.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// The disk refused.
    #[error("{file} cannot be read: {source}; check that it is there and that this user may read it")]
    Disk {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No table at all.
    #[error(
        "{folder} holds none of classes.csv, series.csv, masks.csv and landmarks.csv: point to the folder that holds your labels"
    )]
    NoTables {
        /// The folder.
        folder: PathBuf,
    },
    /// What was asked for has no table.
    #[error("{file} is not there, and what was asked for stands in it: add it, or leave out the task that needs it")]
    NoTable {
        /// The table.
        file: PathBuf,
    },
    /// Larger than a table is.
    #[error("{file} has more than {limit} bytes: a table of labels is smaller; point to the right file")]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// `labels.toml` cannot be used.
    #[error("{file} cannot be used: {what}")]
    Codes {
        /// The file.
        file: PathBuf,
        /// What is wrong, and what to write.
        what: String,
    },
    /// A class that no code stands for.
    #[error(
        "{file} has no code for the class {class:?} (it has {known}): write `{class} = <its value in the masks>` under [codes]"
    )]
    NoCode {
        /// The file.
        file: PathBuf,
        /// The class that was asked for.
        class: String,
        /// The classes there are.
        known: String,
    },
    /// A row that cannot be read.
    #[error("{at}: {what}")]
    Row {
        /// The row.
        at: TableRow,
        /// What is wrong, and what to write.
        what: String,
    },
    /// A table without a column.
    #[error(
        "{file} has no column {column:?} (it has {known}): name the columns in its first line, separated by commas"
    )]
    NoColumn {
        /// The table.
        file: PathBuf,
        /// The column.
        column: String,
        /// The columns there are.
        known: String,
    },
    /// A value that is no class.
    #[error("{at}: what stands under {column:?} is none of {known}: correct it, or leave the cell empty")]
    NoClass {
        /// The row.
        at: TableRow,
        /// The column.
        column: String,
        /// The classes.
        known: String,
    },
    /// The same thing labelled twice.
    #[error("{at}: {what} has a label already, in line {first}: keep one of the two")]
    Twice {
        /// The second row.
        at: TableRow,
        /// The line of the first.
        first: u64,
        /// What is labelled.
        what: &'static str,
    },
    /// A patient without images.
    #[error("{at}: the subject is not in the frame cache: index the folder with its images, or remove the row")]
    UnknownSubject {
        /// The row.
        at: TableRow,
    },
    /// A series without images.
    #[error(
        "{at}: the series is not in the frame cache: index the folder with its images, see the ledger for why it was left out, or remove the row"
    )]
    UnknownSeries {
        /// The row.
        at: TableRow,
    },
    /// A series of another patient.
    #[error("{at}: the series belongs to another subject than the row says: correct the one or the other")]
    OtherSubject {
        /// The row.
        at: TableRow,
    },
    /// No phase for a series that has several.
    #[error("{at}: the series has {phases} phases: say which one is labelled, 0 to {}", phases.saturating_sub(1))]
    NoPhase {
        /// The row.
        at: TableRow,
        /// Phases there are.
        phases: u32,
    },
    /// A phase that the series has not.
    #[error("{at}: phase {phase} is none of the {phases} of the series: phases are counted from 0")]
    Phase {
        /// The row.
        at: TableRow,
        /// The phase.
        phase: u32,
        /// Phases there are.
        phases: u32,
    },
    /// A series whose headers do not say where it lies.
    #[error(
        "{at}: the headers of the series do not say where it lies (ImagePositionPatient, ImageOrientationPatient), so that no label can be matched to it: export it again from the scanner, or remove the row"
    )]
    NotPlaced {
        /// The row.
        at: TableRow,
    },
    /// A mask's file cannot be read.
    #[error("{at}: {source}")]
    Mask {
        /// The row.
        at: TableRow,
        /// Why.
        source: NiftiError,
    },
    /// A mask of several moments that are not the phases of its series, or of which the row names none.
    #[error(
        "{at}: {file} holds {moments} volumes, and the series has {phases} phases: give each phase a volume and the row its phase, or save the mask of each phase as a file of its own"
    )]
    Moments {
        /// The row.
        at: TableRow,
        /// The mask.
        file: PathBuf,
        /// Volumes in it.
        moments: usize,
        /// Phases of the series.
        phases: u32,
    },
    /// A moment on which nobody drew.
    #[error(
        "{at}: {file} has no label on its volume {moment}, counted from 0 (there are some on {drawn}): name a phase that is labelled"
    )]
    EmptyMoment {
        /// The row.
        at: TableRow,
        /// The mask.
        file: PathBuf,
        /// The volume of the row's phase, from 0.
        moment: usize,
        /// The volumes with labels.
        drawn: String,
    },
    /// A mask on another grid than its images.
    #[error(
        "{at}: {file} is not on the grid of its series\n  mask:   {mask}\n  images: {images}\nsave the mask on the grid of the images (take the series as reference, do not resample or crop), or correct the series"
    )]
    Grid {
        /// The row.
        at: TableRow,
        /// The mask.
        file: PathBuf,
        /// Its matrix, spacing, origin and directions (LPS, mm).
        mask: String,
        /// Those of the images.
        images: String,
    },
    /// Labels between or beyond the slices.
    #[error(
        "{at}: {file} has labels on its plane {plane}, which lies {off_mm:.1} mm off the nearest slice of the series, more than {bound_mm:.1} mm: save the mask on the slices of the images, or correct the series"
    )]
    OffSlices {
        /// The row.
        at: TableRow,
        /// The mask.
        file: PathBuf,
        /// The plane, from 0.
        plane: usize,
        /// How far off, in mm.
        off_mm: f64,
        /// The most permitted, in mm.
        bound_mm: f64,
    },
    /// A value of a mask that means nothing.
    #[error(
        "{at}: {file} holds the value {value}, which [codes] in labels.toml does not name (0 is background; it names {known}): add it, or correct the mask"
    )]
    UnknownCode {
        /// The row.
        at: TableRow,
        /// The mask.
        file: PathBuf,
        /// The value.
        value: f32,
        /// The codes there are.
        known: String,
    },
    /// The map of codes is another than the masks'.
    #[error(
        "{at}: by labels.toml, {found}. Its middle slice as labels.toml names it (L = LV, m = myocardium, R = RV, l = LA, r = RA):\n\n{picture}\nThe codes are those of another data set: write {remedy} under [codes] in labels.toml"
    )]
    Order {
        /// The row.
        at: TableRow,
        /// Which file has which class where, by the map.
        found: String,
        /// The slice, drawn.
        picture: String,
        /// The codes to write.
        remedy: String,
    },
    /// A landmark that is spelt in two ways.
    #[error(
        "{at}: the landmark {found:?} is called {meant:?} elsewhere and by the task: write it so, or the row would be lost"
    )]
    Spelling {
        /// The row.
        at: TableRow,
        /// Its name there.
        found: String,
        /// The task's.
        meant: String,
    },
    /// A stack of slices on which nothing is drawn.
    #[error(
        "{at}: nothing is drawn on any of the {slices} slices of {file}: it would teach that there is no heart. Draw it, or remove the \
         row", file = file.display()
    )]
    EmptyMask {
        /// The row.
        at: TableRow,
        /// The mask.
        file: PathBuf,
        /// Its slices.
        slices: usize,
    },
    /// A landmark that no row has.
    #[error("{file} has no landmark {name:?} (it has {known}): correct the name in the table or in the task")]
    NoLandmark {
        /// The table.
        file: PathBuf,
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A landmark that is not on its images.
    #[error(
        "{at}: the landmark lies {off_mm:.1} mm off the nearest slice of its series, more than {bound_mm:.1} mm: coordinates are DICOM's (LPS: x to the left, y to the back, z to the head, in mm); RAS has x and y with the other sign"
    )]
    Far {
        /// The row.
        at: TableRow,
        /// How far off, in mm.
        off_mm: f64,
        /// The most permitted, in mm.
        bound_mm: f64,
    },
    /// A landmark beside its image.
    #[error(
        "{at}: the landmark lies beside the image, at row {row:.0} and column {column:.0} of {rows} x {columns}: coordinates are DICOM's (LPS: x to the left, y to the back, z to the head, in mm); RAS has x and y with the other sign"
    )]
    Outside {
        /// The row.
        at: TableRow,
        /// Where, in pixels.
        row: f64,
        /// Where, in pixels.
        column: f64,
        /// Rows of the image.
        rows: u32,
        /// Its columns.
        columns: u32,
    },
}
