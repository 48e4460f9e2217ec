//! What is in each file: from the log if the file is unchanged, from a worker otherwise.

use std::collections::BTreeMap;

use common::codec::Kind;
use serde::{Deserialize, Serialize};

use super::walk::{Stamp, WalkedFile};
use super::workers::Crew;
use super::{IntakeError, IntakeProgress, Stage};
use crate::cache::{CacheFolder, Log};
use crate::catalogue::FoundImage;
use crate::dicom::ImageHeader;
use crate::keys::PathKey;
use crate::limits::IntakeLimits;
use crate::skip::{Skip, SkipReason};
use crate::worker::{Content, Parser};

const FILE: Kind = Kind { name: *b"headers\0", version: 4 };
/// Files between two flushes of the log.
const BATCH: usize = 256;

/// A line of `headers.log`; the last one about a file counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct FileRecord {
    source: PathKey,
    path: PathKey,
    stamp: Stamp,
    found: Found,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Found {
    Image(Box<ImageHeader>),
    Archive(Vec<FoundEntry>),
    Nothing(SkipReason),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FoundEntry {
    index: u32,
    name: String,
    header: Result<Box<ImageHeader>, SkipReason>,
}

/// All images of a source, and what was left out.
pub(super) struct FoundImages {
    pub(super) images: Vec<FoundImage>,
    pub(super) skips: Vec<Skip>,
    /// Entries' names, by the file's and the entry's place.
    names: BTreeMap<(usize, u32), String>,
}

impl FoundImages {
    /// The name of an image's entry, if its file is an archive.
    pub(super) fn entry_name(&self, file: usize, entry: Option<u32>) -> Option<&str> {
        self.names.get(&(file, entry?)).map(String::as_str)
    }
}

/// Reads every file's headers. What was read is in the log, so that the next run need not.
pub(super) fn read_all(
    files: &[WalkedFile],
    source: PathKey,
    folder: &CacheFolder,
    crew: &Crew<'_>,
    progress: &mut dyn FnMut(&IntakeProgress),
) -> Result<FoundImages, IntakeError> {
    let mut known: BTreeMap<PathKey, (Stamp, Found)> = BTreeMap::new();
    let mut log = Log::open(&folder.path().join("headers.log"), FILE, |record: FileRecord| {
        if record.source == source {
            known.insert(record.path, (record.stamp, record.found));
        }
    })?;
    let mut found: Vec<Option<Found>> = Vec::with_capacity(files.len());
    // Files to be read, with what was found last time if they are the same.
    let mut unread: Vec<(usize, Option<Found>)> = Vec::new();
    for (place, file) in files.iter().enumerate() {
        let held = match &file.stamp {
            Err(reason) => Some(Found::Nothing(reason.clone())),
            Ok(stamp) => known.remove(&crew.path_key(&file.below)).filter(|held| held.0 == *stamp).map(|held| held.1),
        };
        let try_again = file.stamp.is_ok() && held.as_ref().is_none_or(Found::is_worth_another_try);
        found.push(if try_again { None } else { held.clone() });
        if try_again {
            unread.push((place, held));
        }
    }
    drop(known);
    let (total, mut done) = (files.len(), files.len() - unread.len());
    let mut tell = |done| progress(&IntakeProgress { stage: Stage::Headers, done, total, frames: 0 });
    tell(done);
    let read = crew.each(
        unread.len(),
        |parser, piece| examine(parser, &files[unread[piece].0], crew.limits()),
        |piece, value| {
            let (place, held) = &unread[piece];
            let file = &files[*place];
            if let (Ok(stamp), true) = (&file.stamp, held.as_ref() != Some(&value)) {
                let path = crew.path_key(&file.below);
                log.append(&FileRecord { source, path, stamp: *stamp, found: value.clone() })?;
            }
            found[*place] = Some(value);
            done += 1;
            tell(done);
            if done % BATCH == 0 { log.sync() } else { Ok(()) }
        },
    );
    // Whatever ended it: what was read until then need not be read again.
    let kept = log.sync();
    read?;
    kept?;
    Ok(gather(files, found))
}

impl Found {
    /// Reasons that may be gone although the file is the same.
    fn is_worth_another_try(&self) -> bool {
        match self {
            Self::Image(_) => false,
            Self::Nothing(reason) => reason.may_pass(),
            Self::Archive(entries) => {
                entries.iter().any(|entry| entry.header.as_ref().is_err_and(SkipReason::may_pass))
            }
        }
    }
}

fn examine(parser: &mut dyn Parser, file: &WalkedFile, limits: &IntakeLimits) -> Found {
    match parser.open(&file.path) {
        Err(SkipReason::NotDicom) if file.relative.to_lowercase().ends_with(".zip") && !is_beside(&file.relative) => {
            Found::Nothing(SkipReason::DamagedArchive)
        }
        Err(reason) => Found::Nothing(not_dicom_or_damaged(reason, &file.relative)),
        Ok(Content::Image(header)) => Found::Image(header),
        Ok(Content::Archive(entries)) => {
            let (mut read, mut frames, limit) = (Vec::with_capacity(entries.len()), 0_u32, limits.archive_frames);
            for entry in entries {
                let header = parser.header(&file.path, entry.index);
                let header = header.map_err(|reason| not_dicom_or_archived(reason, &entry.name));
                let own = header.as_ref().map_or(0, |header| header.frames.len());
                frames = frames.saturating_add(u32::try_from(own).unwrap_or(u32::MAX));
                if frames > limit {
                    return Found::Nothing(SkipReason::TooManyFrames { frames, limit });
                }
                read.push(FoundEntry { index: entry.index, name: entry.name, header });
            }
            Found::Archive(read)
        }
    }
}

/// An archive's entry that calls itself an archive holds images that nobody sees.
fn not_dicom_or_archived(reason: SkipReason, name: &str) -> SkipReason {
    match reason {
        SkipReason::NotDicom if name.to_lowercase().ends_with(".zip") && !is_beside(name) => {
            SkipReason::ArchivedArchive
        }
        reason => not_dicom_or_damaged(reason, name),
    }
}

/// A file that calls itself DICOM and is not one is damaged; any other is none of ours.
fn not_dicom_or_damaged(reason: SkipReason, name: &str) -> SkipReason {
    let lower = name.to_lowercase();
    let called_dicom = [".dcm", ".dicom", ".ima"].iter().any(|end| lower.ends_with(end));
    if reason == SkipReason::NotDicom && called_dicom && !is_beside(name) { SkipReason::Damaged } else { reason }
}

/// Whether a file is what macOS keeps beside another one that it copies to a disk of others: it has that one's name after these two
/// characters, and none of its content.
fn is_beside(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|name| name.starts_with("._"))
}

fn gather(files: &[WalkedFile], found: Vec<Option<Found>>) -> FoundImages {
    let mut all = FoundImages { images: Vec::new(), skips: Vec::new(), names: BTreeMap::new() };
    for (place, (file, found)) in files.iter().zip(found).enumerate() {
        let stamp = file.stamp.as_ref().map(Stamp::digest);
        match (found, stamp) {
            (Some(Found::Image(header)), Ok(stamp)) => {
                all.images.push(FoundImage { file: place, entry: None, stamp, header: *header });
            }
            (Some(Found::Archive(entries)), Ok(stamp)) => {
                for FoundEntry { index, name, header } in entries {
                    match header {
                        Ok(header) => {
                            let header = *header;
                            all.images.push(FoundImage { file: place, entry: Some(index), stamp, header });
                            all.names.insert((place, index), name);
                        }
                        Err(reason) => {
                            all.skips.push(Skip { file: file.relative.clone(), entry: Some(name), reason });
                        }
                    }
                }
            }
            (Some(Found::Nothing(reason)), _) => {
                all.skips.push(Skip { file: file.relative.clone(), entry: None, reason });
            }
            // Every file was looked at, and only files with a stamp hold anything.
            (None, _) | (_, Err(_)) => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use common::codec::{self, MAX_BODY};

    use super::*;
    use crate::dicom::support::Image;
    use crate::dicom::{MemorySource, Substitutes, read_header};
    use crate::keys::SiteSecret;

    #[test]
    fn an_archive_of_as_many_frames_and_entries_as_are_permitted_is_a_record_of_the_log() {
        let (limits, secret) = (IntakeLimits::default(), SiteSecret::new([1; 32]));
        let bytes = Image { trigger: Some(20.5), ..Image::new() }.bytes();
        let mut header = read_header(&mut MemorySource(bytes), &limits, &secret, Substitutes::default()).unwrap();
        let frame = &mut header.frames[0];
        (frame.thickness_mm, frame.between_mm) = (Some(8.5), Some(10.5));
        (frame.phase_index, frame.inversion_ms) = (Some(u32::MAX), Some(300.5));
        let of = |frames: usize, entries: usize| {
            let header = ImageHeader { frames: vec![header.frames[0]; frames], ..header.clone() };
            let name = "1.2.840.113619.2.5.1762583153.215519.978957063.78.dcm".to_owned();
            let entry = FoundEntry { index: u32::MAX, name, header: Ok(Box::new(header)) };
            codec::encode(FILE, &Found::Archive(vec![entry; entries])).unwrap().len()
        };
        // Of one more entry and of one more frame, so that nothing of that size is made.
        let (entry, frame) = (of(1, 2) - of(1, 1), of(2, 1) - of(1, 1));
        let most = limits.archive_entries * entry + limits.archive_frames as usize * frame;
        assert!(most < MAX_BODY / 2, "{most} bytes");
    }
}
