//! What compressed streams say of themselves, held to the header around them before they are decoded.
//!
//! A decoder lays what a stream holds into room that was measured by the header: a stream of other sides or another width is scrambled there,
//! and a frame that is not there is black, without an error.

use dicom_encoding::adapters::PixelDataObject;

use super::header::ImageHeader;
use crate::skip::SkipReason;

/// What a stream's own header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stated {
    rows: u32,
    columns: u32,
    components: u16,
    /// Bits of a sample.
    precision: u8,
}

/// Holds the streams of an image to its header: as many as it has frames, each of its sides and of samples that its own hold.
pub(super) fn check_streams(
    object: &impl PixelDataObject,
    transfer_syntax: &str,
    header: &ImageHeader,
) -> Result<(), SkipReason> {
    let frames = header.frames.len();
    let fits = |stated: &Stated, held: bool| {
        (stated.rows, stated.columns, stated.components) == (header.rows, header.columns, 1) && held
    };
    let found = match transfer_syntax {
        "1.2.840.10008.1.2.4.50" | "1.2.840.10008.1.2.4.51" | "1.2.840.10008.1.2.4.57" | "1.2.840.10008.1.2.4.70" => {
            let fragments = (0..object.number_of_fragments().unwrap_or(0) as usize).map_while(|at| object.fragment(at));
            let bytes: Vec<u8> = fragments.flat_map(|fragment| fragment.into_owned()).collect();
            let streams = jpeg_streams(&bytes);
            // The decoder gives a byte for each sample of 8 bits, and two for any other.
            let width = |stated: &Stated| if stated.precision == 8 { 8 } else { 16 };
            if !streams.iter().take(frames).all(|stated| fits(stated, width(stated) == header.bits_allocated)) {
                return Err(SkipReason::Damaged);
            }
            streams.len().min(frames)
        }
        "1.2.840.10008.1.2.4.90"
        | "1.2.840.10008.1.2.4.91"
        | "1.2.840.10008.1.2.4.201"
        | "1.2.840.10008.1.2.4.202"
        | "1.2.840.10008.1.2.4.203" => {
            let streams = (0..frames as u32).map_while(|frame| object.frame_pixel_data(frame));
            let mut found = 0;
            for stream in streams {
                let stated = jpeg_2000_stream(&stream).ok_or(SkipReason::Damaged)?;
                if !fits(&stated, u16::from(stated.precision) <= header.bits_allocated) {
                    return Err(SkipReason::Damaged);
                }
                found += 1;
            }
            found
        }
        // Of run-length encoded frames each is a fragment, and has no sides of its own.
        _ => return Ok(()),
    };
    if found == 0 {
        return Err(SkipReason::Damaged);
    }
    if found < frames {
        let frame = u64::from(header.rows) * u64::from(header.columns) * u64::from(header.bits_allocated / 8);
        return Err(SkipReason::FewerPixels { expected: frame * frames as u64, found: frame * found as u64 });
    }
    Ok(())
}

const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;

/// The frame headers of JPEG streams that follow each other (ITU-T T.81, annex B), with whatever lies between them.
fn jpeg_streams(bytes: &[u8]) -> Vec<Stated> {
    let mut streams = Vec::new();
    let mut at = 0;
    while let Some((marker, after)) = jpeg_marker(bytes, at) {
        at = match marker {
            END_OF_IMAGE => {
                let next = bytes[after..].windows(2).position(|pair| pair == [0xff, START_OF_IMAGE]);
                next.map_or(bytes.len(), |next| after + next)
            }
            // Without a segment of their own.
            START_OF_IMAGE | 0x01 | 0xd0..=0xd7 => after,
            _ => {
                let Some(length) = be(bytes, after, 2) else { break };
                // All but the tables for Huffman and arithmetic coding.
                if matches!(marker, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf) {
                    streams.extend(jpeg_frame(bytes, after + 2));
                }
                after + length as usize
            }
        };
    }
    streams
}

/// The next marker, and where it ends; bytes of an entropy-coded segment are none.
fn jpeg_marker(bytes: &[u8], from: usize) -> Option<(u8, usize)> {
    let mut pairs = bytes.get(from..)?.windows(2);
    let place = pairs.position(|pair| pair[0] == 0xff && pair[1] != 0 && pair[1] != 0xff)?;
    Some((bytes[from + place + 1], from + place + 2))
}

fn jpeg_frame(bytes: &[u8], at: usize) -> Option<Stated> {
    let (precision, rows, columns) = (be(bytes, at, 1)?, be(bytes, at + 1, 2)?, be(bytes, at + 3, 2)?);
    Some(Stated { rows, columns, components: be(bytes, at + 5, 1)? as u16, precision: precision as u8 })
}

/// The image and tile sizes of a JPEG 2000 codestream (ITU-T T.800, A.5.1), behind the boxes of a file if there are any.
fn jpeg_2000_stream(bytes: &[u8]) -> Option<Stated> {
    let sizes = 4 + bytes.windows(4).position(|markers| markers == [0xff, 0x4f, 0xff, 0x51])?;
    let number = |at: usize| be(bytes, sizes + at, 4);
    let (columns, rows) = (number(4)?.checked_sub(number(12)?)?, number(8)?.checked_sub(number(16)?)?);
    let components = be(bytes, sizes + 36, 2)? as u16;
    let depth = be(bytes, sizes + 38, 1)? as u8;
    let whole = [39, 40].iter().all(|at| be(bytes, sizes + at, 1) == Some(1));
    // Where every other sample is left out, the sides are not those of the component.
    whole.then_some(Stated { rows, columns, components, precision: (depth & 0x7f) + 1 })
}

/// A big-endian number of so many bytes, four at most.
fn be(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    let number = bytes.get(at..at.checked_add(length)?)?;
    Some(number.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}
