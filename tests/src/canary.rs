//! Strings that must be found nowhere: planted into a hospital's DICOM files, their names and their folders, and looked for in
//! whatever a program sends, logs, stores or shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use common::Digest;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::open_file;

/// What every planted string begins with; nothing else in the world does.
const MARK: &str = "KXQZJW";
/// The same for unique identifiers, which are digits and points.
const MARK_OF_UIDS: &str = "2.25.7131719232931";

/// Texts that a hospital's system writes into a file: of people, places and visits.
const PLANTED: [(Tag, VR); 27] = [
    (tags::PATIENT_NAME, VR::PN),
    (Tag(0x0010, 0x1000), VR::LO),
    (tags::OTHER_PATIENT_NAMES, VR::PN),
    (tags::PATIENT_ADDRESS, VR::LO),
    (tags::PATIENT_TELEPHONE_NUMBERS, VR::SH),
    (tags::PATIENT_MOTHER_BIRTH_NAME, VR::PN),
    (tags::PATIENT_COMMENTS, VR::LT),
    (tags::ADDITIONAL_PATIENT_HISTORY, VR::LT),
    (tags::MEDICAL_ALERTS, VR::LO),
    (tags::OCCUPATION, VR::SH),
    (Tag(0x0010, 0x2160), VR::SH),
    (tags::INSTITUTION_NAME, VR::LO),
    (tags::INSTITUTION_ADDRESS, VR::ST),
    (tags::INSTITUTIONAL_DEPARTMENT_NAME, VR::LO),
    (tags::REFERRING_PHYSICIAN_NAME, VR::PN),
    (tags::PERFORMING_PHYSICIAN_NAME, VR::PN),
    (tags::OPERATORS_NAME, VR::PN),
    (tags::PHYSICIANS_OF_RECORD, VR::PN),
    (tags::STUDY_DESCRIPTION, VR::LO),
    (tags::STUDY_ID, VR::SH),
    (tags::ACCESSION_NUMBER, VR::SH),
    (tags::DEVICE_SERIAL_NUMBER, VR::LO),
    (tags::STATION_NAME, VR::SH),
    (tags::IMAGE_COMMENTS, VR::LT),
    (tags::REQUESTED_PROCEDURE_DESCRIPTION, VR::LO),
    (tags::PERFORMED_PROCEDURE_STEP_DESCRIPTION, VR::LO),
    (Tag(0x0029, 0x1010), VR::LO),
];

/// What was planted.
#[derive(Clone, Debug, Default)]
pub struct Planted {
    strings: BTreeSet<String>,
    uids: BTreeMap<String, String>,
}

impl Planted {
    /// How many strings there are, unique identifiers beside.
    pub fn strings(&self) -> usize {
        self.strings.len()
    }

    /// A string of its own for each thing: 15 letters and digits.
    pub fn string(&mut self, of: &str) -> String {
        let digest = Digest::of(of.as_bytes()).to_string().to_uppercase();
        let string = format!("{MARK}{}", &digest[..9]);
        self.strings.insert(string.clone());
        string
    }

    fn uid(&mut self, of: &str) -> String {
        let digest = Digest::of(of.as_bytes()).0;
        let digits = u64::from_be_bytes(std::array::from_fn(|place| digest[place]));
        self.uids.entry(of.to_owned()).or_insert_with(|| format!("{MARK_OF_UIDS}{digits}")).clone()
    }

    /// Writes the DICOM files below `from` again below `to`, with strings in tags, file names and folders; and with files that
    /// are none, and one that is cut short, under such names.
    pub fn plant(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let mut files = Vec::new();
        list(from, &mut files)?;
        anyhow::ensure!(!files.is_empty(), "no files in {}", from.display());
        for (number, path) in files.iter().enumerate() {
            let mut object = open_file(path).with_context(|| path.display().to_string())?;
            let patient = object.element(tags::PATIENT_ID)?.to_str()?.trim().to_owned();
            for (tag, vr) in PLANTED {
                let string = self.string(&format!("{patient} {tag}"));
                object.put(DataElement::new(tag, vr, PrimitiveValue::from(string)));
            }
            let subject = self.string(&patient);
            object.put(DataElement::new(tags::PATIENT_ID, VR::LO, PrimitiveValue::from(subject.clone())));
            for tag in [tags::STUDY_INSTANCE_UID, tags::SERIES_INSTANCE_UID, tags::SOP_INSTANCE_UID] {
                let before = object.element(tag)?.to_str()?.trim_end_matches(['\0', ' ']).to_owned();
                let uid = self.uid(&before);
                object.put(DataElement::new(tag, VR::UI, PrimitiveValue::from(uid)));
            }
            // What sequence and view it is stands here too: before the string.
            for tag in [tags::SERIES_DESCRIPTION, tags::PROTOCOL_NAME] {
                let Ok(before) = object.element(tag).map(|element| element.to_str().map(|text| text.trim().to_owned()))
                else {
                    continue;
                };
                let told = format!("{} {}", before?, self.string(&format!("{patient} {tag}")));
                object.put(DataElement::new(tag, VR::LO, PrimitiveValue::from(told)));
            }
            let sop = object.element(tags::SOP_INSTANCE_UID)?.to_str()?.into_owned();
            object.update_meta(|meta| meta.media_storage_sop_instance_uid = sop);
            let folder = to.join(subject);
            fs::create_dir_all(&folder)?;
            let name = self.string(&format!("file {number}"));
            object.write_to_file(folder.join(format!("{name}.dcm")))?;
        }
        for odd in ["notes", "torn", "empty"] {
            let path = to.join(format!("{}.dcm", self.string(odd)));
            match odd {
                "notes" => fs::write(&path, format!("seen by {}", self.string("a physician")))?,
                "torn" => {
                    let whole = fs::read(&files[0])?;
                    fs::write(&path, &whole[..whole.len() / 2])?;
                }
                _ => fs::write(&path, b"")?,
            }
        }
        Ok(())
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { list(&entry.path(), files)? } else { files.push(entry.path()) }
    }
    files.sort();
    Ok(())
}

/// Every planted string, and every unique identifier, that stands in some bytes, with what is around it; in whatever case.
pub fn found(bytes: &[u8]) -> Vec<String> {
    let lower: Vec<u8> = bytes.to_ascii_lowercase();
    let marks = [MARK.to_ascii_lowercase(), MARK_OF_UIDS.to_owned()];
    let mut found = Vec::new();
    for mark in marks {
        let places = lower.windows(mark.len()).enumerate().filter(|(_, window)| *window == mark.as_bytes());
        for (place, _) in places.take(5) {
            let around = &bytes[place.saturating_sub(60)..bytes.len().min(place + 40)];
            found.push(String::from_utf8_lossy(around).into_owned());
        }
    }
    found
}

/// What was looked through, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Searched {
    bytes: BTreeMap<&'static str, u64>,
    leaks: Vec<String>,
}

impl Searched {
    /// Looks through some bytes of a kind: what passed, what was shown.
    pub fn through(&mut self, kind: &'static str, bytes: &[u8]) {
        self.named(kind, "", bytes);
    }

    /// Looks through every file below a folder, and through its names; but for what lies below `but`.
    pub fn below(&mut self, folder: &Path, but: &[&Path]) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if but.contains(&path.as_path()) {
                continue;
            }
            let named = path.display().to_string();
            self.named("names of files", &named, path.file_name().unwrap_or_default().as_encoded_bytes());
            if path.is_dir() {
                self.below(&path, but)?;
            } else {
                let kind = if path.extension().is_some_and(|extension| extension == "log") { "logs" } else { "stored" };
                self.named(kind, &named, &fs::read(&path)?);
            }
        }
        Ok(())
    }

    fn named(&mut self, kind: &'static str, name: &str, bytes: &[u8]) {
        *self.bytes.entry(kind).or_default() += bytes.len() as u64;
        self.leaks.extend(found(bytes).into_iter().map(|around| format!("{kind} {name}: …{around}…")));
    }

    /// Bytes of a kind that were looked through.
    pub fn bytes_of(&self, kind: &str) -> u64 {
        self.bytes.get(kind).copied().unwrap_or(0)
    }

    /// What was found, with what is around it.
    pub fn leaks(&self) -> &[String] {
        &self.leaks
    }
}

/// So many bytes of each kind, and how many finds.
impl fmt::Display for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self.bytes.iter().map(|(kind, bytes)| format!("{bytes} bytes {kind}")).collect();
        write!(f, "{}: {} found", kinds.join(", "), self.leaks.len())
    }
}
