//! M&Ms-2: `dataset_information.csv`, and `dataset/001/{001_SA_ED, 001_SA_ED_gt, 001_SA_ES, 001_LA_ED, 001_LA_ES, ...}`.
//!
//! End-diastole and end-systole are files of their own and become a series of two phases, one in the short axis and one in the
//! four-chamber view. The whole cines (`_CINE`) are not read: nothing says which of their moments the two are.

use super::case::{Case, CaseMask, CaseSeries, Found};
use super::listing::{Listing, SheetRow, count, cut, within};
use super::{DataSet, ImportError, mnms};
use crate::labels::{Plane, Sequence, Vendor};

/// `DISEASE` of the table, and the task's classes. A dilated right ventricle (RV) is one of the abnormal ones by ACDC's own
/// bounds on its volume; a dilated left one (LV) is no DCM without an ejection fraction, and the others have no class.
pub(super) const CLASSES: &[(&str, &str)] = &[("NOR", "NOR"), ("HCM", "HCM"), ("RV", "ARV")];

const MNMS2: DataSet = DataSet::Mnms2;
const WANTED: &str = "dataset_information.csv with the columns SUBJECT_CODE and DISEASE, beside NNN/NNN_SA_ED.nii.gz";
/// What files call a view, what the series is called, and its plane.
const VIEWS: [(&str, &str, Plane); 2] = [("SA", "sax", Plane::Sax), ("LA", "4ch", Plane::FourChamber)];

pub(super) fn cases(listing: &Listing) -> Result<Found, ImportError> {
    let table = mnms::table(listing, &["SUBJECT_CODE", "DISEASE"])?;
    let (table, sheet) = table.ok_or_else(|| listing.not_this(MNMS2, WANTED))?;
    // The table has numbers where folders have three digits.
    let rows = sheet.rows(|row| row.cell("SUBJECT_CODE").map(|_| row.count("SUBJECT_CODE")).transpose())?;
    let mut cases = Vec::new();
    for file in listing.files() {
        let (folder, name) = cut(file);
        let code = cut(folder).1;
        let ends = ["_SA_ED.nii.gz", "_SA_ED.nii", "_LA_ED.nii.gz", "_LA_ED.nii"];
        let of_case = ends.iter().any(|end| name.strip_suffix(end).is_some_and(|held| held == code));
        if !of_case || cases.last().is_some_and(|case: &Case| case.folder == folder) {
            continue;
        }
        let row = count(code).and_then(|number| rows.get(&number)).ok_or_else(|| ImportError::NoRow {
            dataset: MNMS2,
            subject: code.to_owned(),
            table: listing.path(&table),
        })?;
        cases.push(case(listing, folder, code, row)?);
    }
    if cases.is_empty() {
        return Err(listing.not_this(MNMS2, WANTED));
    }
    let absent = rows.keys().filter(|number| !cases.iter().any(|case| count(&case.subject) == Some(**number))).count();
    Ok(Found { cases, absent })
}

fn case(listing: &Listing, folder: &str, code: &str, row: &SheetRow<'_>) -> Result<Case, ImportError> {
    let volume = |end: String| listing.expect(MNMS2, code, &within(folder, &format!("{code}_{end}")));
    let mut series = Vec::new();
    for (view, name, plane) in VIEWS {
        let (mut files, mut masks) = (Vec::new(), Vec::new());
        for (phase, moment) in (0..).zip(["ED", "ES"]) {
            files.push(volume(format!("{view}_{moment}"))?);
            masks.push(CaseMask { phase, file: volume(format!("{view}_{moment}_gt"))?, at: row.at.clone() });
        }
        series.push(CaseSeries { name, sequence: Sequence::Cine, plane, files, phases: None, masks });
    }
    Ok(Case {
        subject: code.to_owned(),
        folder: folder.to_owned(),
        vendor: row.cell("VENDOR").map_or(Vendor::Other, Vendor::of),
        diagnosis: row.cell("DISEASE").map(str::to_owned),
        series,
    })
}
