//! Zip archives as UK Biobank hands them out: a flat folder of DICOM files and a manifest.
//!
//! Entries are read in memory, one at a time, under caps that hold for what is really expanded and not for what the
//! archive says; nothing is ever written to disk. An archive with a path that leaves it, or with a link, is refused as a
//! whole: whoever made it meant harm or made a mistake, and neither is worth guessing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use zip::ZipArchive;
use zip::result::ZipError;

use crate::limits::IntakeLimits;
use crate::manifest;
use crate::skip::SkipReason;

/// An open archive.
pub(crate) struct Archive {
    zip: ZipArchive<BufReader<File>>,
    entries: Vec<Entry>,
    descriptions: BTreeMap<String, String>,
    expanded: u64,
}

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its place in the archive's directory.
    pub index: u32,
    /// Its path in the archive.
    pub name: String,
}

/// Whether a file begins as a zip archive does.
pub(crate) fn is_archive(path: &Path) -> Result<bool, SkipReason> {
    let mut magic = Vec::with_capacity(4);
    let file = File::open(path).map_err(|_| SkipReason::Unreadable)?;
    file.take(4).read_to_end(&mut magic).map_err(|_| SkipReason::Unreadable)?;
    // A local file header, or the end of an archive without files (APPNOTE 4.3.7, 4.3.16).
    Ok(magic == b"PK\x03\x04" || magic == b"PK\x05\x06")
}

/// UK Biobank's participant, from `{participant}_{field}_{instance}_{array}.zip`.
pub(crate) fn participant(path: &Path) -> Option<&str> {
    let parts: Vec<&str> = path.file_stem()?.to_str()?.split('_').collect();
    let numbers = parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    (parts.len() == 4 && numbers && path.extension()? == "zip").then(|| parts[0])
}

impl Archive {
    /// Opens an archive and checks every entry's path, kind and stated size.
    pub(crate) fn open(path: &Path, limits: &IntakeLimits) -> Result<Self, SkipReason> {
        let file = File::open(path).map_err(|_| SkipReason::Unreadable)?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| reason(&error))?;
        if zip.len() > limits.archive_entries {
            return Err(SkipReason::TooLarge { bytes: zip.len() as u64, limit: limits.archive_entries as u64 });
        }
        let (mut entries, mut manifests, mut stated) = (Vec::new(), Vec::new(), 0_u64);
        for index in 0..zip.len() {
            let entry = zip.by_index_data(index).map_err(|error| reason(&error))?;
            let name = entry.name().map_err(|error| reason(&error))?.into_owned();
            if escapes(&name) || entry.enclosed_name().is_none() {
                return Err(SkipReason::EscapingPath);
            }
            if entry.is_symlink() {
                return Err(SkipReason::ArchivedLink);
            }
            if entry.is_dir() {
                continue;
            }
            stated = stated.saturating_add(entry.size());
            let index = index as u32; // at most `archive_entries`
            if manifest::is_manifest(&name) {
                manifests.push(index);
            } else {
                entries.push(Entry { index, name });
            }
        }
        if stated > limits.archive_bytes {
            return Err(SkipReason::TooLarge { bytes: stated, limit: limits.archive_bytes });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut archive = Self { zip, entries, descriptions: BTreeMap::new(), expanded: 0 };
        for index in manifests {
            // A manifest only adds descriptions where headers have none: an unreadable one is no reason to refuse.
            if let Ok(bytes) = archive.read(index, limits) {
                archive.descriptions.extend(manifest::descriptions(&bytes));
            }
        }
        Ok(archive)
    }

    /// The files, sorted by name, without the manifest.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The series description that the manifest gives to a file.
    pub(crate) fn description(&self, index: u32) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| entry.index == index)?;
        self.descriptions.get(&entry.name).map(String::as_str)
    }

    /// A file's bytes.
    pub(crate) fn read(&mut self, index: u32, limits: &IntakeLimits) -> Result<Vec<u8>, SkipReason> {
        let mut entry = self.zip.by_index(index as usize).map_err(|error| reason(&error))?;
        // An image may well be all zeros: the ratio counts beyond one of 512 x 512 pixels, and all together have a limit.
        let ratio = entry.compressed_size().saturating_mul(limits.expansion).max(1 << 20);
        let left = limits.archive_bytes.saturating_sub(self.expanded);
        let limit = ratio.min(limits.file_bytes).min(left);
        let mut bytes = Vec::new();
        (&mut entry).take(limit + 1).read_to_end(&mut bytes).map_err(|_| SkipReason::DamagedArchive)?;
        let found = bytes.len() as u64;
        self.expanded = self.expanded.saturating_add(found);
        if found <= limit {
            return Ok(bytes);
        }
        Err(if limit == ratio { SkipReason::Expansion } else { SkipReason::TooLarge { bytes: found, limit } })
    }
}

/// Absolute, with a drive, or with a step upwards. Backslashes count: some unpackers take them for separators.
fn escapes(name: &str) -> bool {
    let drive = name.as_bytes().get(1) == Some(&b':');
    name.starts_with(['/', '\\']) || drive || name.contains('\0') || name.split(['/', '\\']).any(|part| part == "..")
}

fn reason(error: &ZipError) -> SkipReason {
    match error {
        ZipError::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied => SkipReason::Unreadable,
        ZipError::InvalidPassword => SkipReason::Encrypted,
        ZipError::UnsupportedArchive(what) if what.to_lowercase().contains("password") => SkipReason::Encrypted,
        _ => SkipReason::DamagedArchive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_archive_are_known() {
        for bad in ["../a", "a/../../b", "/etc/a", "C:\\a", "\\a", "a\\..\\..\\b", "a\0b"] {
            assert!(escapes(bad), "{bad:?}");
        }
        for good in ["a.dcm", "a/b.dcm", "a..b/c.dcm", "1.2.840.dcm"] {
            assert!(!escapes(good), "{good:?}");
        }
    }

    #[test]
    fn the_participant_is_the_first_number_of_the_archives_name() {
        assert_eq!(participant(Path::new("/x/1234567_20209_2_0.zip")), Some("1234567"));
        for other in ["export.zip", "1234567_20209_2.zip", "a_20209_2_0.zip", "1_2_3_4.dcm"] {
            assert_eq!(participant(Path::new(other)), None, "{other}");
        }
    }
}
