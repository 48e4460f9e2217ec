//! The files of a data set's folder, and the small texts among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use common::Digest;
use csv::ReaderBuilder;

use super::{DataSet, ImportError};
use crate::annotations::TableRow;
use crate::intake::walk;

/// Bytes that a text of a data set may have.
const TEXT_LIMIT: u64 = 4 << 20;
/// Names that an error lists.
const LISTED: usize = 6;

/// The files below a folder, by their paths below it, with what tells whether they changed.
pub(super) struct Listing {
    root: PathBuf,
    files: BTreeMap<String, Digest>,
}

impl Listing {
    pub(super) fn read(folder: &Path) -> Result<Self, ImportError> {
        let unreadable = |source| ImportError::Unreadable { file: folder.to_owned(), source };
        // One folder, however it is spelled.
        let root = folder.canonicalize().map_err(unreadable)?;
        if !root.is_dir() {
            return Err(unreadable(std::io::ErrorKind::NotADirectory.into()));
        }
        let walked = walk(&root).map_err(unreadable)?;
        let files = walked.into_iter().filter_map(|file| Some((file.relative, file.stamp.ok()?.digest()))).collect();
        Ok(Self { root, files })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Changes when the file does.
    pub(super) fn stamp(&self, file: &str) -> Option<Digest> {
        self.files.get(file).copied()
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// A line of a file, from 1.
    pub(super) fn at(&self, file: &str, line: u64) -> TableRow {
        TableRow { file: self.path(file), line }
    }

    /// The volume of this name, as it is packed or unpacked.
    pub(super) fn volume(&self, stem: &str) -> Option<String> {
        [".nii.gz", ".nii"].into_iter().map(|end| format!("{stem}{end}")).find(|file| self.files.contains_key(file))
    }

    /// The volume of this name, which must be there.
    pub(super) fn expect(&self, dataset: DataSet, subject: &str, stem: &str) -> Result<String, ImportError> {
        self.volume(stem).ok_or_else(|| ImportError::Missing {
            dataset,
            subject: subject.to_owned(),
            file: self.path(&format!("{stem}.nii.gz")),
        })
    }

    /// That the folder is another one than was named.
    pub(super) fn not_this(&self, dataset: DataSet, wanted: &'static str) -> ImportError {
        ImportError::NotThis { folder: self.root.clone(), dataset, wanted, found: self.described() }
    }

    /// What lies in the folder itself, as far as a line holds it.
    fn described(&self) -> String {
        let top = |file: &str| match file.split_once('/') {
            Some((folder, _)) => format!("{folder}/"),
            None => file.to_owned(),
        };
        let names: BTreeSet<String> = self.files().map(top).collect();
        let more = names.len().saturating_sub(LISTED);
        let listed: Vec<String> = names.into_iter().take(LISTED).collect();
        match (listed.is_empty(), more) {
            (true, _) => "nothing".to_owned(),
            (_, 0) => listed.join(", "),
            (_, more) => format!("{} and {more} more", listed.join(", ")),
        }
    }

    /// A text. What is not UTF-8 in it is replaced: no word that is looked for has other letters than ASCII.
    pub(super) fn text(&self, file: &str) -> Result<String, ImportError> {
        let path = self.path(file);
        let unreadable = |source| ImportError::Unreadable { file: path.clone(), source };
        let mut bytes = Vec::new();
        let opened = File::open(&path).map_err(unreadable)?;
        opened.take(TEXT_LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > TEXT_LIMIT {
            let what = format!("the file has more than {TEXT_LIMIT} bytes: unpack the archive again");
            return Err(ImportError::Row { at: self.at(file, 1), what });
        }
        Ok(String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').to_owned())
    }

    /// A comma-separated table, rows without a word left out.
    pub(super) fn sheet(&self, file: &str) -> Result<Sheet, ImportError> {
        let text = self.text(file)?;
        let mut reader = ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
        let bad = |line| ImportError::Row {
            at: self.at(file, line),
            what: "the line cannot be read as comma-separated text: unpack the archive again".to_owned(),
        };
        let columns = reader.headers().map_err(|_| bad(1))?.iter().map(str::to_owned).collect();
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| bad(error.position().map_or(1, csv::Position::line)))?;
            if record.iter().any(|cell| !cell.is_empty()) {
                let line = record.position().map_or(1, csv::Position::line);
                rows.push((self.at(file, line), record.iter().map(str::to_owned).collect()));
            }
        }
        Ok(Sheet { columns, rows })
    }
}

/// A data set's table.
pub(super) struct Sheet {
    columns: Vec<String>,
    rows: Vec<(TableRow, Vec<String>)>,
}

/// A row of it.
pub(super) struct SheetRow<'a> {
    sheet: &'a Sheet,
    /// Its line.
    pub(super) at: &'a TableRow,
    cells: &'a [String],
}

impl Sheet {
    /// Whether it has all of these columns.
    pub(super) fn has(&self, columns: &[&str]) -> bool {
        columns.iter().all(|column| self.columns.iter().any(|held| held == column))
    }

    /// Its rows by what names them; a row without a name is none.
    pub(super) fn rows<'a, K: Ord>(
        &'a self,
        name: impl Fn(&SheetRow<'a>) -> Result<Option<K>, ImportError>,
    ) -> Result<BTreeMap<K, SheetRow<'a>>, ImportError> {
        let mut rows: BTreeMap<K, SheetRow<'a>> = BTreeMap::new();
        for (at, cells) in &self.rows {
            let row = SheetRow { sheet: self, at, cells };
            let Some(name) = name(&row)? else { continue };
            if let Some(first) = rows.insert(name, row) {
                let what = format!("the case has a row already, in line {}: keep one of the two", first.at.line);
                return Err(ImportError::Row { at: at.clone(), what });
            }
        }
        Ok(rows)
    }
}

impl<'a> SheetRow<'a> {
    /// A cell; none if it is empty, or the table has no such column.
    pub(super) fn cell(&self, column: &str) -> Option<&'a str> {
        let place = self.sheet.columns.iter().position(|held| held == column)?;
        self.cells.get(place).map(String::as_str).filter(|cell| !cell.is_empty())
    }

    /// A count; spreadsheets write some as `9.0`.
    pub(super) fn count(&self, column: &str) -> Result<u32, ImportError> {
        let cell = self.cell(column).unwrap_or_default();
        count(cell).ok_or_else(|| ImportError::Row {
            at: self.at.clone(),
            what: format!(
                "{column} is {cell:?}, no whole number of at least 0: unpack the archive again, or correct it"
            ),
        })
    }
}

/// A whole number, also with a fraction of nothing.
pub(super) fn count(text: &str) -> Option<u32> {
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}

/// The folder of a file, and its name in it.
pub(super) fn cut(file: &str) -> (&str, &str) {
    file.rsplit_once('/').unwrap_or(("", file))
}

/// A name in a folder.
pub(super) fn within(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
