//! A look at a few files of a source: can they be read and decoded, in which transfer syntaxes are they, and what is skipped.
//! Nothing is kept, and nothing of what a file says is told but words of closed lists.

use std::collections::BTreeMap;
use std::path::Path;

use super::workers::Crew;
use super::{IntakeError, IntakeOptions, walk};
use crate::dicom::ImageHeader;
use crate::skip::SkipReason;
use crate::worker::{Content, Parser, Span};

/// What a look at a few files found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpotCheck {
    /// Files of the source.
    pub files: usize,
    /// Images that were looked at: files, or entries of archives.
    pub looked_at: usize,
    /// Of these, decoded to pixels.
    pub decoded: usize,
    /// How many are in each transfer syntax, by its name, or its UID if that is one of the standard's.
    pub syntaxes: BTreeMap<String, usize>,
    /// How many are skipped for each reason, by its code.
    pub skipped: BTreeMap<&'static str, usize>,
    /// Skipped for what is wrong with them, and not for being something else.
    pub faulty: usize,
}

/// Images of one archive that are looked at: its entries are much alike.
const OF_ONE_ARCHIVE: usize = 2;

/// Looks at `most` files of a source, taken evenly from all of it.
pub fn spot_check(source: &Path, options: &IntakeOptions, most: usize) -> Result<SpotCheck, IntakeError> {
    let unreadable = |error| IntakeError::Unreadable { source_path: source.to_owned(), error };
    let files = walk(source).map_err(unreadable)?;
    let taken: Vec<&Path> = evenly(files.len(), most).map(|place| files[place].path.as_path()).collect();
    let mut found = SpotCheck { files: files.len(), ..SpotCheck::default() };
    let crew = Crew::new(options, source);
    crew.each(
        taken.len(),
        |parser, piece| looks(parser, taken[piece]),
        |_, looks| {
            looks.into_iter().for_each(|look| found.add(look));
            Ok(())
        },
    )?;
    Ok(found)
}

/// So many places of all, the first among them.
fn evenly(all: usize, most: usize) -> impl Iterator<Item = usize> {
    let taken = all.min(most);
    (0..taken).map(move |place| place * all / taken)
}

/// The transfer syntax of one image, and whether its pixels could be decoded.
struct Look {
    syntax: Option<String>,
    decoded: Result<(), SkipReason>,
}

fn looks(parser: &mut dyn Parser, path: &Path) -> Vec<Look> {
    match parser.open(path) {
        Ok(Content::Image(header)) => vec![look(parser, path, None, Ok(header))],
        Ok(Content::Archive(entries)) => {
            let places = evenly(entries.len(), OF_ONE_ARCHIVE).map(|place| entries[place].index);
            let each = |entry| {
                let header = parser.header(path, entry);
                look(parser, path, Some(entry), header)
            };
            places.map(each).collect()
        }
        Err(reason) => vec![look(parser, path, None, Err(reason))],
    }
}

fn look(
    parser: &mut dyn Parser,
    path: &Path,
    entry: Option<u32>,
    header: Result<Box<ImageHeader>, SkipReason>,
) -> Look {
    let syntax = parser.syntax(path, entry).ok();
    let decoded = header.and_then(|header| {
        let span = Span { entry, first: 0, count: 1, matrix: [header.rows, header.columns] };
        parser.frames(path, span).map(drop)
    });
    Look { syntax, decoded }
}

impl SpotCheck {
    fn add(&mut self, look: Look) {
        self.looked_at += 1;
        if let Some(syntax) = look.syntax {
            *self.syntaxes.entry(named(&syntax)).or_default() += 1;
        }
        match look.decoded {
            Ok(()) => self.decoded += 1,
            Err(reason) => {
                self.faulty += usize::from(reason.is_fault());
                *self.skipped.entry(reason.code()).or_default() += 1;
            }
        }
    }

    /// Adds what was found in another source.
    pub fn and(mut self, other: Self) -> Self {
        self.files += other.files;
        self.looked_at += other.looked_at;
        self.decoded += other.decoded;
        self.faulty += other.faulty;
        other.syntaxes.into_iter().for_each(|(name, count)| *self.syntaxes.entry(name).or_default() += count);
        other.skipped.into_iter().for_each(|(code, count)| *self.skipped.entry(code).or_default() += count);
        self
    }
}

/// DICOM PS3.6, table A-1.
fn named(uid: &str) -> String {
    let name = match uid {
        "1.2.840.10008.1.2" => "Implicit VR Little Endian",
        "1.2.840.10008.1.2.1" => "Explicit VR Little Endian",
        "1.2.840.10008.1.2.1.99" => "Deflated Explicit VR Little Endian",
        "1.2.840.10008.1.2.2" => "Explicit VR Big Endian",
        "1.2.840.10008.1.2.5" => "RLE Lossless",
        "1.2.840.10008.1.2.4.50" => "JPEG Baseline",
        "1.2.840.10008.1.2.4.51" => "JPEG Extended",
        "1.2.840.10008.1.2.4.57" | "1.2.840.10008.1.2.4.70" => "JPEG Lossless",
        "1.2.840.10008.1.2.4.80" | "1.2.840.10008.1.2.4.81" => "JPEG-LS",
        "1.2.840.10008.1.2.4.90" | "1.2.840.10008.1.2.4.91" => "JPEG 2000",
        "1.2.840.10008.1.2.4.201" | "1.2.840.10008.1.2.4.202" | "1.2.840.10008.1.2.4.203" => {
            "High-Throughput JPEG 2000"
        }
        other => other,
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::dicom::support::{Image, archive};
    use crate::{SiteSecret, Workers};

    fn options() -> IntakeOptions {
        let images = common::plan::ImagePlan::default();
        IntakeOptions::new("nowhere".into(), images, SiteSecret::new([7; 32]), Workers::InProcess)
    }

    #[test]
    fn a_look_counts_syntaxes_and_reasons_and_repeats_nothing_that_a_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("CANARY-FOLDER");
        let explicit = Image { patient: "CANARY-ID", description: "CANARY cine".to_owned(), ..Image::new() };
        let implicit = Image { syntax: dicom_dictionary_std::uids::IMPLICIT_VR_LITTLE_ENDIAN, ..explicit.clone() };
        explicit.write(&root.join("CANARY-1.dcm"));
        implicit.write(&root.join("CANARY-2.dcm"));
        let mut jpeg_ls = explicit.bytes();
        let place = jpeg_ls.windows(20).position(|part| part == b"1.2.840.10008.1.2.1\0").unwrap();
        jpeg_ls[place..place + 20].copy_from_slice(b"1.2.840.CANARY.1.2.1");
        fs::write(root.join("CANARY-3.dcm"), jpeg_ls).unwrap();
        fs::write(root.join("CANARY-letter.txt"), "Dear CANARY").unwrap();
        archive(&root.join("CANARY.zip"), &[("CANARY/1.dcm", explicit.bytes()), ("CANARY/2.dcm", explicit.bytes())]);

        let found = spot_check(&root, &options(), 100).unwrap();
        assert_eq!((found.files, found.looked_at, found.decoded), (5, 6, 4), "{found:?}");
        let count = |name: &str| found.syntaxes.get(name).copied().unwrap_or_default();
        assert_eq!(
            (count("Explicit VR Little Endian"), count("Implicit VR Little Endian"), count("unknown")),
            (3, 1, 1)
        );
        assert_eq!(found.skipped, BTreeMap::from([("not-dicom", 1), ("transfer-syntax", 1)]));
        assert!(!format!("{found:?}").contains("CANARY"), "{found:?}");
    }

    #[test]
    fn a_few_files_are_taken_evenly_from_all_of_a_source() {
        assert_eq!(evenly(10, 3).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(evenly(2, 5).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(evenly(0, 5).count(), 0);
    }
}
