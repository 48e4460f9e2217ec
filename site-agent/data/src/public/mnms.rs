//! M&Ms: a table (`211230_M&Ms_Dataset_information_diagnosis_opendataset.csv`) and `A0S9V9/{A0S9V9_sa, A0S9V9_sa_gt}` below
//! `Training/Labeled`, `Training/Unlabeled`, `Validation` and `Testing`.
//!
//! Image and mask have all moments of the cine; the table says which two are drawn, counted from 0. Below `Unlabeled` the masks
//! are empty files of the right shape, and are not used.

use super::case::{Case, CaseMask, CaseSeries, Found};
use super::listing::{Listing, Sheet, SheetRow, cut, within};
use super::{DataSet, ImportError};
use crate::labels::{Plane, Sequence, Vendor};

/// `Pathology` of the table, and the task's classes. Ischaemic heart disease need not be an infarction; the others (HHD, AHS,
/// LVNC) have no class.
pub(super) const CLASSES: &[(&str, &str)] = &[("NOR", "NOR"), ("DCM", "DCM"), ("HCM", "HCM"), ("ARV", "ARV")];

const MNMS: DataSet = DataSet::Mnms;
const WANTED: &str = "a table (.csv) with the columns External code, ED and ES, beside CODE/CODE_sa.nii.gz";
/// The columns without which nothing can be told.
const COLUMNS: [&str; 3] = ["External code", "ED", "ES"];

pub(super) fn cases(listing: &Listing) -> Result<Found, ImportError> {
    let (table, sheet) = table(listing, &COLUMNS)?.ok_or_else(|| listing.not_this(MNMS, WANTED))?;
    let rows = sheet.rows(|row| Ok(row.cell(COLUMNS[0])))?;
    let mut cases = Vec::new();
    for file in listing.files() {
        let (folder, name) = cut(file);
        let Some(code) = name.strip_suffix("_sa.nii.gz").or_else(|| name.strip_suffix("_sa.nii")) else { continue };
        let row = rows.get(code).ok_or_else(|| ImportError::NoRow {
            dataset: MNMS,
            subject: code.to_owned(),
            table: listing.path(&table),
        })?;
        cases.push(case(listing, folder, code, file, row)?);
    }
    if cases.is_empty() {
        return Err(listing.not_this(MNMS, WANTED));
    }
    let absent = rows.keys().filter(|code| !cases.iter().any(|case| case.subject == **code)).count();
    Ok(Found { cases, absent })
}

/// The first table that has these columns.
pub(super) fn table(listing: &Listing, columns: &[&str]) -> Result<Option<(String, Sheet)>, ImportError> {
    for file in listing.files().filter(|file| file.to_lowercase().ends_with(".csv")) {
        let sheet = listing.sheet(file)?;
        if sheet.has(columns) {
            return Ok(Some((file.to_owned(), sheet)));
        }
    }
    Ok(None)
}

fn case(listing: &Listing, folder: &str, code: &str, cine: &str, row: &SheetRow<'_>) -> Result<Case, ImportError> {
    let drawn = !folder.split('/').any(|part| part == "Unlabeled");
    let masks = match drawn {
        false => Vec::new(),
        true => {
            let file = listing.expect(MNMS, code, &within(folder, &format!("{code}_sa_gt")))?;
            let moments = [row.count("ED")?, row.count("ES")?];
            if moments[0] == moments[1] {
                let what = format!("ED and ES are both moment {}: unpack the archive again, or correct it", moments[0]);
                return Err(ImportError::Row { at: row.at.clone(), what });
            }
            moments.map(|phase| CaseMask { phase, file: file.clone(), at: row.at.clone() }).into()
        }
    };
    let (name, sequence, plane) = ("sax", Sequence::Cine, Plane::Sax);
    let series = CaseSeries { name, sequence, plane, files: vec![cine.to_owned()], phases: None, masks };
    Ok(Case {
        subject: code.to_owned(),
        folder: folder.to_owned(),
        vendor: vendor(row),
        diagnosis: row.cell("Pathology").map(str::to_owned),
        series: vec![series],
    })
}

/// By its name, or by its letter in the challenge.
fn vendor(row: &SheetRow<'_>) -> Vendor {
    match (row.cell("VendorName"), row.cell("Vendor")) {
        (Some(name), _) => Vendor::of(name),
        (None, Some("A")) => Vendor::Siemens,
        (None, Some("B")) => Vendor::Philips,
        (None, Some("C")) => Vendor::Ge,
        (None, Some("D")) => Vendor::Canon,
        _ => Vendor::Other,
    }
}
