//! EMIDEC: `Case_P001/{Images, Contours}/Case_P001`, with a text of the patient's findings (`Case P001.txt`) beside each.
//!
//! The letter says what the enhancement came to: N for normal, P for pathological, M for an infarction. The cases of the
//! challenge's test have no contours: of a folder where no case has any, none is missed. All was scanned in Dijon, on two
//! Siemens scanners.

use super::case::{Case, CaseMask, CaseSeries, Found};
use super::listing::{Listing, cut, within};
use super::{DataSet, ImportError};
use crate::labels::{Plane, Sequence, Vendor};

/// The letter of a case, and the task's classes.
pub(super) const CLASSES: &[(&str, &str)] = &[("N", "no"), ("P", "yes"), ("M", "yes")];

const EMIDEC: DataSet = DataSet::Emidec;
const WANTED: &str = "Case_XNNN/Images/Case_XNNN.nii.gz";

pub(super) fn cases(listing: &Listing) -> Result<Found, ImportError> {
    let mut cases = Vec::new();
    for file in listing.files() {
        let (images, name) = cut(file);
        let (folder, below) = cut(images);
        let case = cut(folder).1;
        let volume = name.strip_suffix(".nii.gz").or_else(|| name.strip_suffix(".nii"));
        if let (Some(id), true, true) = (case.strip_prefix("Case_"), below == "Images", volume == Some(case)) {
            cases.push(read(listing, folder, id, file)?);
        }
    }
    if cases.is_empty() {
        return Err(listing.not_this(EMIDEC, WANTED));
    }
    Ok(Found { cases, absent: 0 })
}

fn read(listing: &Listing, folder: &str, id: &str, image: &str) -> Result<Case, ImportError> {
    let (beside, _) = cut(folder);
    // Of this folder's cases, and not of another archive's beside it.
    let is_contour = |file: &str| {
        let (contours, _) = cut(file);
        let (case, below) = cut(contours);
        below == "Contours" && cut(case).0 == beside
    };
    let masks = match listing.files().any(is_contour) {
        false => Vec::new(),
        true => {
            let file = listing.expect(EMIDEC, id, &within(folder, &format!("Contours/Case_{id}")))?;
            let text = within(beside, &format!("Case {id}.txt"));
            let named = if listing.stamp(&text).is_some() { &text } else { &file };
            vec![CaseMask { phase: 0, at: listing.at(named, 1), file }]
        }
    };
    let letter: String = id.chars().take_while(char::is_ascii_alphabetic).collect();
    let (name, sequence, plane) = ("lge", Sequence::Lge, Plane::Sax);
    let series = CaseSeries { name, sequence, plane, files: vec![image.to_owned()], phases: None, masks };
    Ok(Case {
        subject: id.to_owned(),
        folder: folder.to_owned(),
        vendor: Vendor::Siemens,
        diagnosis: Some(letter).filter(|letter| !letter.is_empty()),
        series: vec![series],
    })
}
