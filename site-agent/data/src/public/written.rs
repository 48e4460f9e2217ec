//! A folder of labels: written beside, then put in place whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::case::Found;
use super::frames::{series_id, subject_id};
use super::listing::Listing;
use super::{DataSet, ImportError, ImportedLabels, LabelsOut};
use crate::annotations::{Codes, LabelError};
use crate::durable::{replace, sync_folder};

/// The text of `labels.toml`, and what it says.
pub(super) struct Map {
    text: String,
    pub(super) codes: Codes,
}

/// The map of codes to be used, once it is sure that labels may be written where they are asked for.
pub(super) fn codes(dataset: DataSet, out: &LabelsOut, listing: &Listing) -> Result<Map, ImportError> {
    let root = listing.root();
    let (file, declared) = match &out.codes {
        None => (PathBuf::from(format!("{}.toml", dataset.name())), dataset.codes().to_owned()),
        Some(file) => {
            let unreadable = |source| ImportError::Unreadable { file: file.clone(), source };
            (file.clone(), fs::read_to_string(file).map_err(unreadable)?)
        }
    };
    let bad = |what| ImportError::Codes(Box::new(LabelError::Codes { file: file.clone(), what }));
    let told =
        root.to_str().ok_or_else(|| bad(format!("the path {} is not UTF-8: rename the folder", root.display())))?;
    Codes::parse(&file, &declared).map_err(bad)?;
    let text = format!(
        "# Written by `site-agent import --dataset {}`. The masks stay in the folder of the data set.\nmasks = {}\n\n{declared}",
        dataset.name(),
        toml::Value::String(told.to_owned()),
    );
    let codes = Codes::parse(&file, &text).map_err(bad)?;
    match Codes::read(&out.folder.join("labels.toml")) {
        Ok(held) if held.masks() == Some(root) => {}
        _ if is_empty(&out.folder) => {}
        _ => {
            let (folder, root) = (out.folder.clone(), root.to_owned());
            return Err(ImportError::LabelsThere { folder, dataset, root });
        }
    }
    Ok(Map { text, codes })
}

fn is_empty(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut held) => held.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Writes the tables of what was found; nothing if nobody is labelled.
pub(super) fn write(
    dataset: DataSet,
    out: &LabelsOut,
    map: &Map,
    found: &Found,
) -> Result<Option<ImportedLabels>, ImportError> {
    let mut masks = Table::of(&["subject", "series", "phase", "file"]);
    let mut classes = Table::of(&["subject", dataset.column()]);
    let mut told = ImportedLabels {
        folder: out.folder.clone(),
        masks: 0,
        masked: 0,
        column: dataset.column(),
        classed: 0,
        other: BTreeMap::new(),
    };
    let mut masked = BTreeSet::new();
    for case in &found.cases {
        let subject = subject_id(dataset, case);
        for series in &case.series {
            for mask in &series.masks {
                masks.row(&[&subject, &series_id(dataset, case, series), &mask.phase.to_string(), &mask.file]);
                told.masks += 1;
                masked.insert(&case.subject);
            }
        }
        let class = case.diagnosis.as_deref().and_then(|diagnosis| dataset.class_of(diagnosis));
        classes.row(&[&subject, class.unwrap_or_default()]);
        match (&case.diagnosis, class) {
            (_, Some(_)) => told.classed += 1,
            (Some(other), None) => *told.other.entry(other.clone()).or_default() += 1,
            (None, None) => {}
        }
    }
    told.masked = masked.len();
    if told.masks == 0 && told.classed == 0 {
        return Ok(None);
    }
    let mut files = vec![("labels.toml", map.text.clone().into_bytes()), ("classes.csv", classes.bytes())];
    if told.masks > 0 {
        files.push(("masks.csv", masks.bytes()));
    }
    put(&out.folder, &files)?;
    Ok(Some(told))
}

/// Puts a folder in place: the old one whole, or the new one.
fn put(folder: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), ImportError> {
    let (beside, old) = (folder.with_added_extension("part"), folder.with_added_extension("old"));
    let disk = |file: &Path| {
        let file = file.to_owned();
        move |source| ImportError::Labels { file, source }
    };
    remove(&beside).map_err(disk(&beside))?;
    fs::create_dir_all(&beside).map_err(disk(&beside))?;
    let written = files.iter().try_for_each(|(name, bytes)| replace(&beside.join(name), bytes));
    let put = written.and_then(|()| {
        remove(&old)?;
        match fs::rename(folder, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&beside, folder)
    });
    if let Err(source) = put {
        // The first error is the one to be told.
        let _ = fs::rename(&old, folder);
        let _ = remove(&beside);
        return Err(disk(folder)(source));
    }
    remove(&old).map_err(disk(&old))?;
    sync_folder(folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
        .map_err(disk(folder))
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A comma-separated table in memory.
struct Table(String);

impl Table {
    fn of(columns: &[&str]) -> Self {
        let mut table = Self(String::new());
        table.row(columns);
        table
    }

    fn row(&mut self, cells: &[&str]) {
        let cell = |cell: &&str| match cell.contains([',', '"']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => (*cell).to_owned(),
        };
        let cells: Vec<String> = cells.iter().map(cell).collect();
        self.0 += &cells.join(",");
        self.0.push('\n');
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}
