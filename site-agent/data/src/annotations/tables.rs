//! The tables, read whole and strictly. Identifiers become pseudonyms here, and are given back to nobody who does not ask for
//! them by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use csv::{ReaderBuilder, StringRecord, Terminator, Trim};

use super::codes::listed;
use super::{LabelError, TableRow};
use crate::keys::{SeriesKey, SiteSecret, SubjectKey};

/// Bytes that a table may have: some hundred thousand rows.
const LIMIT: u64 = 64 << 20;
/// Farther from the scanner's middle than this, in mm, nothing was scanned.
const FAR_MM: f64 = 1e5;

/// A table that says of each of its keys what its columns hold: `classes.csv` of subjects, `series.csv` of series.
pub(super) struct ClassTable<K> {
    file: PathBuf,
    /// Without those of the key.
    columns: Vec<String>,
    rows: Vec<(TableRow, K, Vec<String>)>,
}

/// A row of `masks.csv`.
#[derive(Clone, Debug)]
pub(super) struct MaskRow {
    pub(super) at: TableRow,
    pub(super) subject: SubjectKey,
    pub(super) series: SeriesKey,
    pub(super) phase: Option<u32>,
    /// Relative to the folder, and within it.
    pub(super) file: PathBuf,
}

/// A row of `landmarks.csv`.
#[derive(Clone, Debug)]
pub(super) struct LandmarkRow {
    pub(super) at: TableRow,
    pub(super) subject: SubjectKey,
    pub(super) series: SeriesKey,
    pub(super) phase: Option<u32>,
    pub(super) name: String,
    /// In DICOM's patient coordinates (LPS), in mm.
    pub(super) point: [f64; 3],
}

impl<K: Copy> ClassTable<K> {
    /// Whether a column has that name.
    pub(super) fn has_column(&self, column: &str) -> bool {
        self.columns.iter().any(|held| held == column)
    }

    /// The rows of which a column says something, with what it says.
    pub(super) fn column(&self, column: &str) -> Result<impl Iterator<Item = (&TableRow, K, &str)>, LabelError> {
        let place = self.columns.iter().position(|held| held == column).ok_or_else(|| LabelError::NoColumn {
            file: self.file.clone(),
            column: column.to_owned(),
            known: listed(self.columns.iter()),
        })?;
        let said = self.rows.iter().map(move |(at, key, cells)| (at, *key, cells[place].as_str()));
        Ok(said.filter(|(_, _, cell)| !cell.is_empty()))
    }

    /// Who is in the table.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&TableRow, K)> {
        self.rows.iter().map(|(at, key, _)| (at, *key))
    }
}

/// A cell that is none of the classes.
pub(super) fn no_class(at: &TableRow, column: &str, classes: &[String]) -> LabelError {
    LabelError::NoClass { at: at.clone(), column: column.to_owned(), known: listed(classes.iter()) }
}

/// Reads `classes.csv`; none if it is not there.
pub(super) fn classes(file: &Path, secret: &SiteSecret) -> Result<Option<ClassTable<SubjectKey>>, LabelError> {
    keyed(file, ["subject"], "the subject", |row, [subject]| row.subject(subject, secret))
}

/// Reads `series.csv`; none if it is not there.
pub(super) fn series(
    file: &Path,
    secret: &SiteSecret,
) -> Result<Option<ClassTable<(SubjectKey, SeriesKey)>>, LabelError> {
    keyed(file, ["subject", "series"], "the series", |row, [subject, series]| {
        Ok((row.subject(subject, secret)?, row.series(series, secret)?))
    })
}

/// Reads a table whose columns are those of its key and whatever it says of it.
fn keyed<const N: usize, K: Copy + Ord>(
    file: &Path,
    of_key: [&str; N],
    what: &'static str,
    key: impl Fn(&Row, [usize; N]) -> Result<K, LabelError>,
) -> Result<Option<ClassTable<K>>, LabelError> {
    let Some(table) = Table::read(file)? else { return Ok(None) };
    let mut places = [0; N];
    for (place, name) in places.iter_mut().zip(of_key) {
        *place = table.column(name)?;
    }
    let others = || (0..table.columns.len()).filter(|place| !places.contains(place));
    let mut first: BTreeMap<K, u64> = BTreeMap::new();
    let mut rows = Vec::with_capacity(table.rows.len());
    for row in &table.rows {
        let key = key(row, places)?;
        if let Some(first) = first.insert(key, row.at.line) {
            return Err(LabelError::Twice { at: row.at.clone(), first, what });
        }
        rows.push((row.at.clone(), key, others().map(|place| row.cells[place].to_owned()).collect()));
    }
    let columns = others().map(|place| table.columns[place].clone()).collect();
    Ok(Some(ClassTable { file: file.to_owned(), columns, rows }))
}

/// Reads `masks.csv`; none if it is not there.
pub(super) fn masks(file: &Path, secret: &SiteSecret) -> Result<Option<Vec<MaskRow>>, LabelError> {
    let Some(table) = Table::read(file)? else { return Ok(None) };
    let [subject, series, phase, mask] = table.exactly(["subject", "series", "phase", "file"])?;
    let mut first: BTreeMap<(SeriesKey, Option<u32>, PathBuf), u64> = BTreeMap::new();
    let mut rows = Vec::with_capacity(table.rows.len());
    for row in &table.rows {
        let read = MaskRow {
            at: row.at.clone(),
            subject: row.subject(subject, secret)?,
            series: row.series(series, secret)?,
            phase: row.phase(phase)?,
            file: row.file(mask)?,
        };
        // Slices of one phase may lie in files of their own; the same file twice is a slip.
        if let Some(first) = first.insert((read.series, read.phase, read.file.clone()), row.at.line) {
            return Err(LabelError::Twice { at: read.at, first, what: "the file for this series and phase" });
        }
        rows.push(read);
    }
    Ok(Some(rows))
}

/// Reads `landmarks.csv`; none if it is not there.
pub(super) fn landmarks(file: &Path, secret: &SiteSecret) -> Result<Option<Vec<LandmarkRow>>, LabelError> {
    let Some(table) = Table::read(file)? else { return Ok(None) };
    let columns = ["subject", "series", "phase", "landmark", "x_mm", "y_mm", "z_mm"];
    let [subject, series, phase, name, x, y, z] = table.exactly(columns)?;
    let rows = table.rows.iter().map(|row| {
        Ok(LandmarkRow {
            at: row.at.clone(),
            subject: row.subject(subject, secret)?,
            series: row.series(series, secret)?,
            phase: row.phase(phase)?,
            name: row.cell(name, "the landmark's name")?.to_owned(),
            point: [row.millimetres(x)?, row.millimetres(y)?, row.millimetres(z)?],
        })
    });
    rows.collect::<Result<_, _>>().map(Some)
}

/// Adds who the subjects of a table are, as the site writes it there: the way back from a pseudonym.
pub(super) fn identifiers(
    file: &Path,
    secret: &SiteSecret,
    all: &mut BTreeMap<SubjectKey, String>,
) -> Result<(), LabelError> {
    let Some(table) = Table::read(file)? else { return Ok(()) };
    let place = table.column("subject")?;
    for row in &table.rows {
        all.entry(row.subject(place, secret)?).or_insert_with(|| row.cells[place].to_owned());
    }
    Ok(())
}

/// A comma-separated table (RFC 4180), every row as long as the first line.
struct Table {
    file: PathBuf,
    columns: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    at: TableRow,
    cells: StringRecord,
}

impl Table {
    fn read(file: &Path) -> Result<Option<Self>, LabelError> {
        let Some(text) = read_text(file, LIMIT)? else { return Ok(None) };
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let bad = |line, what| LabelError::Row { at: TableRow { file: file.to_owned(), line }, what };
        // No cell of these tables goes over a line's end: a quote that is not closed would swallow the rows after it.
        let lines = || (1_u64..).zip(text.split('\n'));
        if let Some((line, _)) = lines().find(|(_, line)| line.matches('"').count() % 2 == 1) {
            return Err(bad(line, "a quote is not closed on its line: close it, or remove it".to_owned()));
        }
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .terminator(Terminator::Any(b'\n'))
            .trim(Trim::All)
            .from_reader(text.as_bytes());
        let mut columns: Option<Vec<String>> = None;
        let mut rows = Vec::new();
        // The reader passes over empty lines; each of the others is a row.
        let filled = lines().filter(|(_, line)| !line.is_empty()).map(|(line, _)| line);
        for (line, cells) in filled.zip(reader.records()) {
            let unreadable = |_| bad(line, "the row cannot be read as comma-separated text: correct it".to_owned());
            let cells = cells.map_err(unreadable)?;
            let Some(columns) = &columns else {
                columns = Some(header(&cells).map_err(|what| bad(line, what))?);
                continue;
            };
            if cells.len() != columns.len() {
                let what = "put a cell with a comma into quotes";
                let (has, wanted) = (cells.len(), columns.len());
                return Err(bad(line, format!("the row has {has} cells where the first line has {wanted}: {what}")));
            }
            if let Some(place) = cells.iter().position(|cell| cell.contains(|c: char| c == '"' || c.is_control())) {
                let what =
                    format!("the cell under {:?} holds a quote or a control character: remove it", columns[place]);
                return Err(bad(line, what));
            }
            rows.push(Row { at: TableRow { file: file.to_owned(), line }, cells });
        }
        let columns = columns.unwrap_or_default();
        Ok(Some(Self { file: file.to_owned(), columns, rows }))
    }

    fn column(&self, name: &str) -> Result<usize, LabelError> {
        // What stands there instead is not shown: without a line of names it is a patient's.
        self.columns.iter().position(|column| column == name).ok_or_else(|| LabelError::Row {
            at: TableRow { file: self.file.clone(), line: 1 },
            what: format!("no column is named {name:?}: name the columns in the first line, separated by commas"),
        })
    }

    /// The places of these columns; there is no other.
    fn exactly<const N: usize>(&self, names: [&str; N]) -> Result<[usize; N], LabelError> {
        let mut places = [0; N];
        for (place, name) in places.iter_mut().zip(names) {
            *place = self.column(name)?;
        }
        match self.columns.iter().find(|column| !names.contains(&column.as_str())) {
            None => Ok(places),
            Some(extra) => Err(LabelError::Row {
                at: TableRow { file: self.file.clone(), line: 1 },
                what: format!("the column {extra:?} is none of {}: remove it", names.join(", ")),
            }),
        }
    }
}

/// The columns' names.
fn header(cells: &StringRecord) -> Result<Vec<String>, String> {
    let columns: Vec<String> = cells.iter().map(str::to_owned).collect();
    for (place, column) in columns.iter().enumerate() {
        if column.is_empty() || columns[..place].contains(column) {
            return Err(format!("column {} has no name, or one that another has: name each once", place + 1));
        }
    }
    Ok(columns)
}

impl Row {
    fn bad(&self, what: String) -> LabelError {
        LabelError::Row { at: self.at.clone(), what }
    }

    /// A cell that is not empty.
    fn cell(&self, place: usize, what: &str) -> Result<&str, LabelError> {
        match &self.cells[place] {
            "" => Err(self.bad(format!("cell {} is empty: it holds {what}", place + 1))),
            cell => Ok(cell),
        }
    }

    fn subject(&self, place: usize, secret: &SiteSecret) -> Result<SubjectKey, LabelError> {
        Ok(SubjectKey::of(secret, self.cell(place, "the subject's identifier (PatientID)")?))
    }

    fn series(&self, place: usize, secret: &SiteSecret) -> Result<SeriesKey, LabelError> {
        Ok(SeriesKey::of(secret, self.cell(place, "the series' SeriesInstanceUID")?))
    }

    fn phase(&self, place: usize) -> Result<Option<u32>, LabelError> {
        match &self.cells[place] {
            "" => Ok(None),
            cell => cell.parse().map(Some).map_err(|_| {
                self.bad(
                    "the phase is no whole number: phases are counted from 0; leave it empty if there is but one"
                        .to_owned(),
                )
            }),
        }
    }

    fn millimetres(&self, place: usize) -> Result<f64, LabelError> {
        let number = self.cells[place].parse::<f64>().ok().filter(|mm| mm.abs() < FAR_MM);
        number.ok_or_else(|| self.bad(format!("cell {} is no number of millimetres: write it with a point", place + 1)))
    }

    /// A file below the folder.
    fn file(&self, place: usize) -> Result<PathBuf, LabelError> {
        let path = Path::new(self.cell(place, "the mask's file")?);
        let within = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !within {
            return Err(
                self.bad("the file leads out of the folder of labels: give its path below that folder".to_owned())
            );
        }
        Ok(path.components().collect())
    }
}

/// A text of at most so many bytes; none if the file is not there.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<Option<String>, LabelError> {
    let disk = |source| LabelError::Disk { file: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(disk)?,
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(disk)?;
    if bytes.len() as u64 > limit {
        return Err(LabelError::TooLarge { file: path.to_owned(), limit });
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
        let at = TableRow { file: path.to_owned(), line };
        LabelError::Row { at, what: "the line is not UTF-8: save the file as UTF-8".to_owned() }
    })
}

#[cfg(test)]
mod tests;
