//! Why an image was left out, with the remedy; and the ledger in which that is written down.
//!
//! A reason holds sizes, limits and standard identifiers, never a value that was read from a patient's file. The
//! ledger names files, so it stays in the cache's folder at the site.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::keys::PathKey;

/// Why a file, a member of an archive, or a series was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// The file cannot be opened or read.
    Unreadable,
    /// A symbolic link; links are not followed.
    SymbolicLink,
    /// Not a DICOM file at all.
    NotDicom,
    /// An element claims more bytes than the file holds.
    Truncated {
        /// The element, as `gggg,eeee`.
        element: String,
        /// Bytes that the element claims.
        claimed: u64,
        /// Bytes that are left in the file, or in the sequence that holds the element.
        present: u64,
    },
    /// Sequences nested deeper than 64.
    NestedTooDeep,
    /// Elements that contradict each other or cannot be read.
    Damaged,
    /// Larger than the limit.
    TooLarge {
        /// Bytes there are, or would be once decoded.
        bytes: u64,
        /// Bytes permitted.
        limit: u64,
    },
    /// Fewer rows or columns than an image of a heart has.
    TooSmall {
        /// Rows or columns, whichever are fewer.
        side: u32,
        /// Least permitted.
        least: u32,
    },
    /// More frames in one image, or in all images of an archive, than the limit.
    TooManyFrames {
        /// Frames as stated.
        frames: u32,
        /// Frames permitted.
        limit: u32,
    },
    /// Another modality or kind of object than an MR image.
    NotMr,
    /// A screenshot or other secondary capture.
    SecondaryCapture,
    /// Text is burned into the pixels.
    BurnedInText,
    /// A result with overlays, made by the scanner (InlineVF and the like), not an image of the heart.
    InlineResult,
    /// A derived map other than T1, for example fit parameters.
    DerivedMap,
    /// A phase image or the imaginary part, or frames of which nothing says what part they are.
    NotMagnitude,
    /// Samples of another width than 8 or 16 bits.
    BitsAllocated {
        /// Bits as stated.
        bits: u16,
    },
    /// More than one sample per pixel, or not monochrome.
    NotGray,
    /// A transfer syntax that cannot be decoded here.
    TransferSyntax {
        /// Its UID (PS3.6 table A-1), or "unknown".
        uid: String,
    },
    /// No PatientID, so it is not known whose it is.
    NoPatientId,
    /// No SeriesInstanceUID or StudyInstanceUID.
    NoSeries,
    /// No PixelSpacing, so that a pixel's size is unknown.
    NoSpacing,
    /// No pixels.
    NoPixels,
    /// Fewer bytes of pixels than rows x columns x frames need.
    FewerPixels {
        /// Bytes needed.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// RescaleSlope or RescaleIntercept is not a finite number.
    BadRescale,
    /// Every pixel of the series has the same value.
    Blank,
    /// The same instance is here twice.
    Duplicate,
    /// Another image bears the same SOPInstanceUID.
    ReusedUid,
    /// A newer repetition of the same series is used instead.
    Superseded,
    /// The parser ended abnormally on it.
    ParserCrashed,
    /// The parser took more time or memory than is permitted.
    ParserLimit,
    /// An archive's entry whose path leaves the archive.
    EscapingPath,
    /// An archive's entry that is a symbolic link.
    ArchivedLink,
    /// An archive's entry that expands more than a hundredfold.
    Expansion,
    /// An encrypted entry.
    Encrypted,
    /// An archive that cannot be read.
    DamagedArchive,
    /// Images of several patients bear the SeriesInstanceUID of one series.
    SeveralPatients,
    /// An archive's entry that is an archive itself.
    ArchivedArchive,
}

impl SkipReason {
    /// The reason in one word, as written in the ledger and in `--json`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::SymbolicLink => "symbolic-link",
            Self::NotDicom => "not-dicom",
            Self::Truncated { .. } => "truncated",
            Self::NestedTooDeep => "nested-too-deep",
            Self::Damaged => "damaged",
            Self::TooLarge { .. } => "too-large",
            Self::TooSmall { .. } => "too-small",
            Self::TooManyFrames { .. } => "too-many-frames",
            Self::NotMr => "not-mr",
            Self::SecondaryCapture => "secondary-capture",
            Self::BurnedInText => "burned-in-text",
            Self::InlineResult => "inline-result",
            Self::DerivedMap => "derived-map",
            Self::NotMagnitude => "not-magnitude",
            Self::BitsAllocated { .. } => "bits-allocated",
            Self::NotGray => "not-gray",
            Self::TransferSyntax { .. } => "transfer-syntax",
            Self::NoPatientId => "no-patient-id",
            Self::NoSeries => "no-series",
            Self::NoSpacing => "no-spacing",
            Self::NoPixels => "no-pixels",
            Self::FewerPixels { .. } => "fewer-pixels",
            Self::BadRescale => "bad-rescale",
            Self::Blank => "blank",
            Self::Duplicate => "duplicate",
            Self::ReusedUid => "reused-uid",
            Self::Superseded => "superseded",
            Self::ParserCrashed => "parser-crashed",
            Self::ParserLimit => "parser-limit",
            Self::EscapingPath => "escaping-path",
            Self::ArchivedLink => "archived-link",
            Self::Expansion => "expansion",
            Self::Encrypted => "encrypted",
            Self::DamagedArchive => "damaged-archive",
            Self::SeveralPatients => "several-patients",
            Self::ArchivedArchive => "archived-archive",
        }
    }

    /// What a person at the site can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable => "check the file's permissions and the disk",
            Self::SymbolicLink => "put the file itself into the folder",
            Self::NotDicom => "nothing, if it is not an image; otherwise export it again as DICOM Part 10",
            Self::Truncated { .. } | Self::FewerPixels { .. } => "the file was cut short: export it again",
            Self::Damaged | Self::NestedTooDeep | Self::ParserCrashed | Self::ParserLimit | Self::DamagedArchive => {
                "export it again; if it stays so, the exporting system writes invalid DICOM"
            }
            Self::TooLarge { .. } | Self::TooManyFrames { .. } => {
                "export it in smaller parts: the limit keeps one file from taking this machine's memory"
            }
            Self::NotMr => "nothing: only MR images are used",
            Self::SecondaryCapture | Self::BurnedInText | Self::InlineResult | Self::DerivedMap => {
                "nothing: only acquired images without burned-in text are used"
            }
            Self::TooSmall { .. } => "nothing: an image this small shows no heart",
            Self::NotMagnitude => "nothing: only magnitude and phase-sensitive images and maps are used",
            Self::BitsAllocated { .. } | Self::NotGray => "nothing: only gray images of 8 or 16 bits are used",
            Self::TransferSyntax { .. } => "export it uncompressed (Explicit VR Little Endian, 1.2.840.10008.1.2.1)",
            Self::NoPatientId => "export it with a pseudonymous PatientID, one for each patient",
            Self::NoSeries | Self::NoSpacing | Self::NoPixels | Self::BadRescale => {
                "the exporting system left out or damaged a mandatory attribute: export it again from the scanner"
            }
            Self::Blank => "nothing: the series shows nothing",
            Self::Duplicate | Self::Superseded => "nothing: another copy is used",
            Self::ReusedUid => "let the exporting or anonymising system give every image a SOPInstanceUID of its own",
            Self::SeveralPatients => {
                "whose the series is cannot be told: export it again after the PatientID was corrected, or with series UIDs of their own"
            }
            Self::EscapingPath | Self::ArchivedLink | Self::Expansion => {
                "do not use this archive: ask whoever made it for another"
            }
            Self::Encrypted => "make the archive without a password",
            Self::ArchivedArchive => "unpack the outer archive: what is in an archive within another is not read",
        }
    }

    /// Whether the image should have been usable: faults count against the site's tolerance, expected exclusions
    /// (other modalities, screenshots, repetitions) do not.
    pub fn is_fault(&self) -> bool {
        !matches!(
            self,
            Self::SymbolicLink
                | Self::NotDicom
                | Self::TooSmall { .. }
                | Self::NotMr
                | Self::SecondaryCapture
                | Self::BurnedInText
                | Self::InlineResult
                | Self::DerivedMap
                | Self::NotMagnitude
                | Self::Blank
                | Self::Duplicate
                | Self::Superseded
        )
    }
}

impl SkipReason {
    /// Whether the reason may be gone although the file is the same: another limit, another hour, another parser.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreadable
                | Self::TooLarge { .. }
                | Self::TooManyFrames { .. }
                | Self::TooSmall { .. }
                | Self::ParserCrashed
                | Self::ParserLimit
        )
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { element, claimed, present } => {
                write!(f, "element ({element}) claims {claimed} bytes but {present} are left")
            }
            Self::TooLarge { bytes, limit } => write!(f, "{bytes} bytes are more than the limit of {limit}"),
            Self::TooSmall { side, least } => write!(f, "{side} rows or columns are fewer than {least}"),
            Self::TooManyFrames { frames, limit } => write!(f, "{frames} frames are more than the limit of {limit}"),
            Self::FewerPixels { expected, found } => write!(f, "{found} bytes of pixels where {expected} are needed"),
            Self::BitsAllocated { bits } => write!(f, "{bits} bits a sample"),
            Self::TransferSyntax { uid } => write!(f, "transfer syntax {uid} cannot be decoded"),
            other => f.write_str(&other.code().replace('-', " ")),
        }
    }
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skip {
    /// The file, relative to its source.
    pub file: String,
    /// The archive's entry, or nothing.
    pub entry: Option<String>,
    /// Why.
    pub reason: SkipReason,
}

/// The ledger after an intake: the lines of all other sources as they are, then those of this one, each a JSON object
/// with the remedy spelled out. A source stands in it under its key.
pub(crate) fn ledger(held: &[u8], source: PathKey, skips: &[Skip]) -> serde_json::Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Of {
        source: PathKey,
    }
    #[derive(Serialize)]
    struct Line<'a> {
        source: PathKey,
        file: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        entry: Option<&'a str>,
        reason: &'a str,
        message: String,
        remedy: &'a str,
    }
    let others = held.split_inclusive(|byte| *byte == b'\n').filter(|line| {
        let of = serde_json::from_slice::<Of>(line);
        of.is_ok_and(|of| of.source != source)
    });
    let mut ledger: Vec<u8> = others.flatten().copied().collect();
    for Skip { file, entry, reason } in skips {
        let (entry, message) = (entry.as_deref(), reason.to_string());
        let line = Line { source, file, entry, reason: reason.code(), message, remedy: reason.remedy() };
        serde_json::to_writer(&mut ledger, &line)?;
        ledger.push(b'\n');
    }
    Ok(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_ledger_says_what_why_and_what_to_do() {
        let reason = SkipReason::Truncated { element: "7fe0,0010".into(), claimed: 4_294_967_294, present: 9000 };
        let skip = Skip { file: "a/b.dcm".into(), entry: None, reason };
        let text = String::from_utf8(ledger(b"", PathKey([1; 16]), &[skip]).unwrap()).unwrap();
        assert!(text.contains("element (7fe0,0010) claims 4294967294 bytes but 9000 are left"), "{text}");
        assert!(text.contains("export it again"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["reason"], "truncated");
    }

    #[test]
    fn a_sources_lines_are_replaced_and_the_others_stay() {
        let skip = |file: &str| Skip { file: file.to_owned(), entry: None, reason: SkipReason::Blank };
        let (one, two) = (PathKey([1; 16]), PathKey([2; 16]));
        let first = ledger(b"", one, &[skip("a"), skip("b")]).unwrap();
        let second = ledger(&first, two, &[skip("c")]).unwrap();
        assert!(second.starts_with(&first));
        let third = String::from_utf8(ledger(&second, one, &[skip("d")]).unwrap()).unwrap();
        let files: Vec<serde_json::Value> = third
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["file"].clone())
            .collect();
        assert_eq!(files, ["c", "d"]);
        assert_eq!(ledger(b"torn {\n", one, &[]).unwrap(), b"");
    }

    #[test]
    fn the_code_is_the_name_that_is_serialized() {
        for reason in [SkipReason::NotMr, SkipReason::BurnedInText, SkipReason::DamagedArchive] {
            assert_eq!(serde_json::to_value(&reason).unwrap(), reason.code());
        }
    }
}
