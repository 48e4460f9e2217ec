//! Why an image was left out, with the remedy; and the ledger in which that is written down.
//!
//! A reason holds sizes, limits and standard identifiers, never a value that was read from a patient's file. The
//! ledger names files, so it stays in the cache's folder at the site.

use std::fmt;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

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
            Self::NotMr => "not-mr",
            Self::SecondaryCapture => "secondary-capture",
            Self::BurnedInText => "burned-in-text",
            Self::InlineResult => "inline-result",
            Self::DerivedMap => "derived-map",
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
            Self::Superseded => "superseded",
            Self::ParserCrashed => "parser-crashed",
            Self::ParserLimit => "parser-limit",
            Self::EscapingPath => "escaping-path",
            Self::ArchivedLink => "archived-link",
            Self::Expansion => "expansion",
            Self::Encrypted => "encrypted",
            Self::DamagedArchive => "damaged-archive",
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
            Self::TooLarge { .. } => "raise the limit in the configuration, or export the series in smaller parts",
            Self::NotMr => "nothing: only MR images are used",
            Self::SecondaryCapture | Self::BurnedInText | Self::InlineResult | Self::DerivedMap => {
                "nothing: only acquired images without burned-in text are used"
            }
            Self::BitsAllocated { .. } | Self::NotGray => "nothing: only gray images of 8 or 16 bits are used",
            Self::TransferSyntax { .. } => "export it uncompressed (Explicit VR Little Endian, 1.2.840.10008.1.2.1)",
            Self::NoPatientId => "export it with a pseudonymous PatientID, one for each patient",
            Self::NoSeries | Self::NoSpacing | Self::NoPixels | Self::BadRescale => {
                "the exporting system left out or damaged a mandatory attribute: export it again from the scanner"
            }
            Self::Blank => "nothing: the series shows nothing",
            Self::Duplicate | Self::Superseded => "nothing: another copy is used",
            Self::EscapingPath | Self::ArchivedLink | Self::Expansion => {
                "do not use this archive: ask whoever made it for another"
            }
            Self::Encrypted => "make the archive without a password",
        }
    }

    /// Whether the image should have been usable: faults count against the site's tolerance, expected exclusions
    /// (other modalities, screenshots, repetitions) do not.
    pub fn is_fault(&self) -> bool {
        !matches!(
            self,
            Self::SymbolicLink
                | Self::NotDicom
                | Self::NotMr
                | Self::SecondaryCapture
                | Self::BurnedInText
                | Self::InlineResult
                | Self::DerivedMap
                | Self::Blank
                | Self::Duplicate
                | Self::Superseded
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

/// Writes the ledger: one JSON object a line, with the remedy spelled out.
pub(crate) fn write_ledger(skips: &[Skip], into: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        file: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        entry: Option<&'a str>,
        reason: &'a str,
        message: String,
        remedy: &'a str,
    }
    for Skip { file, entry, reason } in skips {
        let (entry, message) = (entry.as_deref(), reason.to_string());
        let line = Line { file, entry, reason: reason.code(), message, remedy: reason.remedy() };
        serde_json::to_writer(&mut *into, &line)?;
        into.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_ledger_says_what_why_and_what_to_do() {
        let reason = SkipReason::Truncated { element: "7fe0,0010".into(), claimed: 4_294_967_294, present: 9000 };
        let skip = Skip { file: "a/b.dcm".into(), entry: None, reason };
        let mut ledger = Vec::new();
        write_ledger(std::slice::from_ref(&skip), &mut ledger).unwrap();
        let text = String::from_utf8(ledger).unwrap();
        assert!(text.contains("element (7fe0,0010) claims 4294967294 bytes but 9000 are left"), "{text}");
        assert!(text.contains("export it again"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["reason"], "truncated");
    }

    #[test]
    fn the_code_is_the_name_that_is_serialized() {
        for reason in [SkipReason::NotMr, SkipReason::BurnedInText, SkipReason::DamagedArchive] {
            assert_eq!(serde_json::to_value(&reason).unwrap(), reason.code());
        }
    }
}
