//! ACDC: `training/patient001/{Info.cfg, patient001_4d, patient001_frame01, patient001_frame01_gt}`, and `testing/` the same.
//!
//! `Info.cfg` counts frames from 1. The masks of `testing/` came later than its images: where neither is there, the case has
//! none. All was scanned at the university hospital of Dijon, on two Siemens scanners.

use super::case::{Case, CaseMask, CaseSeries, Found};
use super::listing::{Listing, count, cut, within};
use super::{DataSet, ImportError};
use crate::annotations::TableRow;
use crate::labels::{Plane, Sequence, Vendor};

/// `Group` of `Info.cfg`, and the task's classes.
pub(super) const CLASSES: &[(&str, &str)] =
    &[("NOR", "NOR"), ("MINF", "MINF"), ("DCM", "DCM"), ("HCM", "HCM"), ("RV", "ARV")];

const ACDC: DataSet = DataSet::Acdc;
const WANTED: &str = "patientNNN/Info.cfg";

pub(super) fn cases(listing: &Listing) -> Result<Found, ImportError> {
    let folders = listing.files().filter_map(|file| match cut(file) {
        (folder, "Info.cfg") if is_patient(cut(folder).1) => Some(folder),
        _ => None,
    });
    let cases: Vec<Case> = folders.map(|folder| case(listing, folder)).collect::<Result<_, _>>()?;
    if cases.is_empty() {
        return Err(listing.not_this(ACDC, WANTED));
    }
    Ok(Found { cases, absent: 0 })
}

fn is_patient(name: &str) -> bool {
    let number = name.strip_prefix("patient");
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn case(listing: &Listing, folder: &str) -> Result<Case, ImportError> {
    let patient = cut(folder).1;
    let info = Info::read(listing, &within(folder, "Info.cfg"))?;
    let cine = listing.expect(ACDC, patient, &within(folder, &format!("{patient}_4d")))?;
    let stems = [&info.diastole, &info.systole].map(|(frame, at)| {
        let stem = within(folder, &format!("{patient}_frame{frame:02}_gt"));
        (frame - 1, stem, at.clone())
    });
    let published_later = folder.split('/').any(|part| part == "testing");
    let undrawn = stems.iter().all(|(_, stem, _)| listing.volume(stem).is_none());
    let masks = match published_later && undrawn {
        true => Vec::new(),
        false => stems
            .into_iter()
            .map(|(phase, stem, at)| Ok(CaseMask { phase, file: listing.expect(ACDC, patient, &stem)?, at }))
            .collect::<Result<_, ImportError>>()?,
    };
    let (name, sequence, plane) = ("sax", Sequence::Cine, Plane::Sax);
    let series = CaseSeries { name, sequence, plane, files: vec![cine], phases: info.frames, masks };
    Ok(Case {
        subject: patient.to_owned(),
        folder: folder.to_owned(),
        vendor: Vendor::Siemens,
        diagnosis: info.group,
        series: vec![series],
    })
}

/// What `Info.cfg` says, and in which line. Frames are counted from 1.
struct Info {
    diastole: (u32, TableRow),
    systole: (u32, TableRow),
    frames: Option<(u32, TableRow)>,
    group: Option<String>,
}

impl Info {
    fn read(listing: &Listing, file: &str) -> Result<Self, ImportError> {
        let text = listing.text(file)?;
        let found = |key: &str| {
            let lines = (1_u64..).zip(text.lines());
            lines
                .filter_map(|(line, text)| Some((line, text.split_once(':')?)))
                .find_map(|(line, (held, value))| (held.trim() == key).then(|| (value.trim(), listing.at(file, line))))
        };
        let bad = |at, what: String| ImportError::Row {
            at,
            what: format!("{what}: unpack the archive again, or correct it"),
        };
        let number = |key: &str| match found(key) {
            None => Ok(None),
            Some((value, at)) => match count(value).filter(|value| *value > 0) {
                Some(value) => Ok(Some((value, at))),
                None => Err(bad(at, format!("{key} is {value:?}, no whole number from 1 on"))),
            },
        };
        let frames = number("NbFrame")?;
        let moment = |key: &str| {
            let (frame, at) = number(key)?.ok_or_else(|| bad(listing.at(file, 1), format!("no line says {key}")))?;
            match &frames {
                Some((most, _)) if frame > *most => {
                    Err(bad(at, format!("{key} is frame {frame}, but NbFrame says that there are {most}")))
                }
                _ => Ok((frame, at)),
            }
        };
        let (diastole, systole) = (moment("ED")?, moment("ES")?);
        if diastole.0 == systole.0 {
            return Err(bad(systole.1, format!("ED and ES are both frame {}", systole.0)));
        }
        let group = found("Group").map(|(value, _)| value.to_owned()).filter(|value| !value.is_empty());
        Ok(Self { diastole, systole, frames, group })
    }
}
