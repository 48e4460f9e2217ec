//! A walk over the elements of a DICOM file (PS3.10, PS3.5 section 7) that believes no length.
//!
//! Every defined length is held against what is left of the file and of the sequence around it, before anything is
//! allocated; sequences may nest 64 deep. Values are not read, but for the transfer syntax. What this walk lets pass,
//! a parser can read with no more memory than the file has bytes.

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use super::source::Source;
use crate::skip::SkipReason;

/// Deepest permitted nesting of sequences.
pub(super) const MAX_DEPTH: usize = 64;

const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag(0xfffe, 0xe000);
const ITEM_END: Tag = Tag(0xfffe, 0xe00d);
const SEQUENCE_END: Tag = Tag(0xfffe, 0xe0dd);

/// How the data set's elements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    /// Value representations are written out.
    pub explicit: bool,
    /// Numbers are big-endian.
    pub big_endian: bool,
}

impl Encoding {
    const IMPLICIT: Self = Self { explicit: false, big_endian: false };
    const EXPLICIT: Self = Self { explicit: true, big_endian: false };
    const EXPLICIT_BIG_ENDIAN: Self = Self { explicit: true, big_endian: true };

    /// Of the data set under a transfer syntax that is not deflated.
    pub(super) fn of(transfer_syntax: &str) -> Self {
        match transfer_syntax {
            "1.2.840.10008.1.2" => Self::IMPLICIT,
            "1.2.840.10008.1.2.2" => Self::EXPLICIT_BIG_ENDIAN,
            _ => Self::EXPLICIT,
        }
    }
}

/// Where the pixels of a file lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PixelSpan {
    /// Samples as they are.
    Native {
        /// Where the element begins.
        element: u64,
        /// Where its value begins.
        value: u64,
        /// Bytes of the value.
        length: u64,
        /// Value representation OW, which is byte-swapped as words in big-endian.
        words: bool,
    },
    /// Fragments of a compressed stream.
    Encapsulated {
        /// Where the element begins.
        element: u64,
        /// Where the sequence of fragments ends.
        end: u64,
    },
}

impl PixelSpan {
    /// Where the element begins.
    pub(super) fn element(&self) -> u64 {
        match *self {
            Self::Native { element, .. } | Self::Encapsulated { element, .. } => element,
        }
    }
}

/// What a walk over a file found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// The transfer syntax's UID, as stated or, without a meta group, as guessed.
    pub transfer_syntax: String,
    /// Where the data set begins.
    pub data_set: u64,
    /// How it is written.
    pub encoding: Encoding,
    /// Its pixels.
    pub pixels: Option<PixelSpan>,
    /// Where the walk ended: the file's end, or the pixels'.
    pub end: u64,
}

/// Walks over a file: preamble and meta group if there are any, then the data set up to the pixels.
///
/// A deflated data set cannot be walked before it is inflated: `pixels` is then none, and `end` is `data_set`.
pub(super) fn scan(source: &mut dyn Source) -> Result<Scanned, SkipReason> {
    let (transfer_syntax, data_set) = scan_meta(source)?;
    let transfer_syntax = match transfer_syntax {
        Some(stated) => stated,
        None => guess_transfer_syntax(source, data_set)?,
    };
    let encoding = Encoding::of(&transfer_syntax);
    if is_deflated(&transfer_syntax) {
        return Ok(Scanned { transfer_syntax, data_set, encoding, pixels: None, end: data_set });
    }
    let (pixels, end) = scan_data_set(source, data_set, encoding)?;
    Ok(Scanned { transfer_syntax, data_set, encoding, pixels, end })
}

/// Whether the data set itself is compressed (PS3.5 annex A.5).
pub(super) fn is_deflated(transfer_syntax: &str) -> bool {
    transfer_syntax == "1.2.840.10008.1.2.1.99"
}

/// The transfer syntax, if stated, and where the data set begins.
fn scan_meta(source: &mut dyn Source) -> Result<(Option<String>, u64), SkipReason> {
    let mut at = if magic_at(source, 128) {
        132
    } else if magic_at(source, 0) {
        4
    } else {
        0
    };
    let found_magic = at > 0;
    let size = source.size();
    let mut syntax = None;
    loop {
        let remaining = size.saturating_sub(at);
        let mut head = [0; 8];
        if remaining < 8 {
            return if found_magic { Err(cut("0002,0000", 8, remaining)) } else { Err(SkipReason::NotDicom) };
        }
        read(source, at, &mut head)?;
        // The meta group is always explicit little-endian (PS3.10 section 7.1).
        if u16::from_le_bytes([head[0], head[1]]) != 0x0002 {
            return Ok((syntax, at));
        }
        let element = header_at(source, at, Encoding::EXPLICIT, size)
            .map_err(|reason| if found_magic { reason } else { SkipReason::NotDicom })?;
        let length = element.defined(size)?;
        if element.tag == tags::TRANSFER_SYNTAX_UID {
            let mut value = vec![0; length.min(64) as usize];
            read(source, element.value, &mut value)?;
            let text = String::from_utf8_lossy(&value).trim_matches(['\0', ' ']).to_owned();
            syntax = Some(text).filter(|text| !text.is_empty());
        }
        at = element.value + length;
    }
}

fn magic_at(source: &mut dyn Source, offset: u64) -> bool {
    let mut magic = [0; 4];
    source.read_at(offset, &mut magic).is_ok() && &magic == b"DICM"
}

/// Of a file without a meta group: native, in the encoding its first element seems to have.
fn guess_transfer_syntax(source: &mut dyn Source, at: u64) -> Result<String, SkipReason> {
    let mut head = [0; 8];
    source.read_at(at, &mut head).map_err(|_| SkipReason::NotDicom)?;
    let explicit = VR::from_binary([head[4], head[5]]).is_some();
    // An image's data set begins with group 0008 (PS3.3).
    match (u16::from_le_bytes([head[0], head[1]]), u16::from_be_bytes([head[0], head[1]]), explicit) {
        (0x0008, _, true) => Ok("1.2.840.10008.1.2.1".to_owned()),
        (0x0008, _, false) => Ok("1.2.840.10008.1.2".to_owned()),
        (_, 0x0008, true) => Ok("1.2.840.10008.1.2.2".to_owned()),
        _ => Err(SkipReason::NotDicom),
    }
}

/// What is open around the place where the walk is.
struct Open {
    holds: Holds,
    /// Where it ends, if its length is defined.
    ends: Option<u64>,
    /// The nearest defined end at or around it: no length inside may go beyond.
    bound: u64,
    encoding: Encoding,
}

#[derive(PartialEq)]
enum Holds {
    Items,
    Elements,
}

/// Walks over a data set; where its pixels are, and where the walk ended.
pub(super) fn scan_data_set(
    source: &mut dyn Source,
    start: u64,
    encoding: Encoding,
) -> Result<(Option<PixelSpan>, u64), SkipReason> {
    let size = source.size();
    let mut open: Vec<Open> = Vec::new();
    let mut at = start;
    loop {
        while open.last().is_some_and(|inner| inner.ends == Some(at)) {
            open.pop();
        }
        if open.len() >= 2 * MAX_DEPTH {
            return Err(SkipReason::NestedTooDeep);
        }
        let Some(inner) = open.last() else {
            if at == size || only_padding(source, at)? {
                return Ok((None, at));
            }
            let element = header_at(source, at, encoding, size)?;
            if element.tag == tags::PIXEL_DATA {
                let span = pixel_span(source, at, &element, encoding, size)?;
                let end = match span {
                    PixelSpan::Native { value, length, .. } => value + length,
                    PixelSpan::Encapsulated { end, .. } => end,
                };
                return Ok((Some(span), end));
            }
            at = enter(source, &element, size, encoding, &mut open)?;
            continue;
        };
        let (bound, encoding) = (inner.bound, inner.encoding);
        let element = header_at(source, at, encoding, bound)?;
        match (&inner.holds, element.tag) {
            (Holds::Items, ITEM) => {
                let ends = match element.length {
                    UNDEFINED => None,
                    _ => Some(element.value + element.defined(bound)?),
                };
                open.push(Open { holds: Holds::Elements, ends, bound: ends.unwrap_or(bound), encoding });
                at = element.value;
            }
            (Holds::Items, SEQUENCE_END) | (Holds::Elements, ITEM_END) if inner.ends.is_none() => {
                open.pop();
                at = element.value;
            }
            (Holds::Items, _) | (Holds::Elements, ITEM | ITEM_END | SEQUENCE_END) => return Err(SkipReason::Damaged),
            (Holds::Elements, _) => at = enter(source, &element, bound, encoding, &mut open)?,
        }
    }
}

/// Steps over an element's value, or into its sequence; where the walk goes on.
fn enter(
    source: &mut dyn Source,
    element: &Element,
    bound: u64,
    encoding: Encoding,
    open: &mut Vec<Open>,
) -> Result<u64, SkipReason> {
    if element.length == UNDEFINED {
        return match element.vr {
            // A sequence of unknown representation is written in implicit little-endian (PS3.5 section 6.2.2, note 4).
            Some(VR::UN) => {
                open.push(Open { holds: Holds::Items, ends: None, bound, encoding: Encoding::IMPLICIT });
                Ok(element.value)
            }
            Some(VR::SQ) | None => {
                open.push(Open { holds: Holds::Items, ends: None, bound, encoding });
                Ok(element.value)
            }
            // Pixels of an icon (0088,0200), encapsulated.
            Some(VR::OB | VR::OW) => fragments_end(source, element.value, encoding, bound),
            Some(_) => Err(SkipReason::Damaged),
        };
    }
    let length = element.defined(bound)?;
    let ends = element.value + length;
    if length > 0 && element.is_sequence() {
        open.push(Open { holds: Holds::Items, ends: Some(ends), bound: ends, encoding });
        return Ok(element.value);
    }
    Ok(ends)
}

fn pixel_span(
    source: &mut dyn Source,
    at: u64,
    element: &Element,
    encoding: Encoding,
    size: u64,
) -> Result<PixelSpan, SkipReason> {
    if element.length == UNDEFINED {
        let end = fragments_end(source, element.value, encoding, size)?;
        return Ok(PixelSpan::Encapsulated { element: at, end });
    }
    let length = element.defined(size)?;
    Ok(PixelSpan::Native { element: at, value: element.value, length, words: element.vr != Some(VR::OB) })
}

/// The end of a sequence of fragments (PS3.5 annex A.4).
fn fragments_end(source: &mut dyn Source, start: u64, encoding: Encoding, bound: u64) -> Result<u64, SkipReason> {
    let mut at = start;
    loop {
        let fragment = header_at(source, at, encoding, bound)?;
        match fragment.tag {
            ITEM => at = fragment.value + fragment.defined(bound)?,
            SEQUENCE_END => return Ok(fragment.value),
            _ => return Err(SkipReason::Damaged),
        }
    }
}

/// An element's header.
struct Element {
    tag: Tag,
    /// None in implicit encodings, and for items and delimiters.
    vr: Option<VR>,
    length: u32,
    /// Where its value begins.
    value: u64,
}

impl Element {
    /// The length, if it is defined and does not go beyond the bound.
    fn defined(&self, bound: u64) -> Result<u64, SkipReason> {
        let present = bound.saturating_sub(self.value);
        let claimed = u64::from(self.length);
        if self.length != UNDEFINED && claimed <= present {
            return Ok(claimed);
        }
        Err(cut(&format!("{:04x},{:04x}", self.tag.0, self.tag.1), claimed, present))
    }

    fn is_sequence(&self) -> bool {
        match self.vr {
            Some(vr) => vr == VR::SQ,
            None => StandardDataDictionary
                .by_tag(self.tag)
                .is_some_and(|entry| matches!(entry.vr(), VirtualVr::Exact(VR::SQ))),
        }
    }
}

fn header_at(source: &mut dyn Source, at: u64, encoding: Encoding, bound: u64) -> Result<Element, SkipReason> {
    let mut head = [0; 12];
    let present = bound.saturating_sub(at);
    if present < 8 {
        return Err(cut("header", 8, present));
    }
    read(source, at, &mut head[..8])?;
    let u16_at = |b: &[u8], i: usize| match encoding.big_endian {
        true => u16::from_be_bytes([b[i], b[i + 1]]),
        false => u16::from_le_bytes([b[i], b[i + 1]]),
    };
    let u32_at = |b: &[u8], i: usize| match encoding.big_endian {
        true => u32::from_be_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]),
        false => u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]),
    };
    let tag = Tag(u16_at(&head, 0), u16_at(&head, 2));
    if !encoding.explicit || tag.0 == 0xfffe {
        return Ok(Element { tag, vr: None, length: u32_at(&head, 4), value: at + 8 });
    }
    let vr = VR::from_binary([head[4], head[5]]).ok_or(SkipReason::Damaged)?;
    if !has_long_header(vr) {
        return Ok(Element { tag, vr: Some(vr), length: u32::from(u16_at(&head, 6)), value: at + 8 });
    }
    if present < 12 {
        return Err(cut("header", 12, present));
    }
    read(source, at, &mut head)?;
    Ok(Element { tag, vr: Some(vr), length: u32_at(&head, 8), value: at + 12 })
}

/// Representations with a 32-bit length (PS3.5 section 7.1.2).
fn has_long_header(vr: VR) -> bool {
    use VR::{OB, OD, OF, OL, OV, OW, SQ, SV, UC, UN, UR, UT, UV};
    matches!(vr, OB | OD | OF | OL | OV | OW | SQ | SV | UC | UN | UR | UT | UV)
}

/// Zeros behind the last element, which some archives add to fill a block.
fn only_padding(source: &mut dyn Source, at: u64) -> Result<bool, SkipReason> {
    let mut tail = [0; 8];
    let length = source.size().saturating_sub(at).min(8) as usize;
    read(source, at, &mut tail[..length])?;
    Ok(tail[..length].iter().all(|byte| *byte == 0))
}

fn read(source: &mut dyn Source, at: u64, into: &mut [u8]) -> Result<(), SkipReason> {
    source.read_at(at, into).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => cut("header", into.len() as u64, source.size().saturating_sub(at)),
        _ => SkipReason::Unreadable,
    })
}

fn cut(element: &str, claimed: u64, present: u64) -> SkipReason {
    SkipReason::Truncated { element: element.to_owned(), claimed, present }
}
