//! Files as hospitals write them, and as nobody should.

use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};
use proptest::prelude::*;

use super::scan::scan;
use super::support::{Image, element, item, sequence};
use super::*;
use crate::keys::SiteSecret;
use crate::labels::{Plane, Sequence};
use crate::limits::IntakeLimits;
use crate::skip::SkipReason;
use crate::worker::guarded;

fn read(bytes: Vec<u8>) -> Result<(ImageHeader, Vec<f32>), SkipReason> {
    let (limits, secret) = (IntakeLimits::default(), SiteSecret::new([1; 32]));
    let mut source = MemorySource(bytes);
    let header = read_header(&mut source, &limits, &secret, Substitutes::default())?;
    let pixels = read_pixels(&mut source, &header, &limits)?;
    let frames = (0..header.frames.len()).flat_map(|frame| pixels.frame(frame).unwrap()).collect();
    Ok((header, frames))
}

fn ramp() -> Vec<f32> {
    (0_u16..12 * 16).map(f32::from).collect()
}

/// Puts the meta group's transfer syntax in front of a data set: what a writer would, for syntaxes it cannot write.
fn with_syntax(bytes: &[u8], uid: &str) -> Vec<u8> {
    let data_set = scan(&mut MemorySource(bytes.to_vec())).unwrap().data_set as usize;
    let mut value = uid.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(0);
    }
    let mut file = vec![0; 128];
    file.extend_from_slice(b"DICM\x02\0\x10\0UI");
    file.extend_from_slice(&(value.len() as u16).to_le_bytes());
    file.extend_from_slice(&value);
    file.extend_from_slice(&bytes[data_set..]);
    file
}

fn without_meta(bytes: &[u8]) -> Vec<u8> {
    bytes[scan(&mut MemorySource(bytes.to_vec())).unwrap().data_set as usize..].to_vec()
}

#[test]
fn native_encodings_give_the_same_pixels() {
    for syntax in [
        uids::EXPLICIT_VR_LITTLE_ENDIAN,
        uids::IMPLICIT_VR_LITTLE_ENDIAN,
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.1.99",
    ] {
        let image = Image { syntax, ..Image::new() };
        let (header, pixels) = read(image.bytes()).unwrap_or_else(|reason| panic!("{syntax}: {reason}"));
        assert_eq!(pixels, ramp(), "{syntax}");
        assert_eq!((header.rows, header.columns), (12, 16));
        assert_eq!(header.names.sequence.unwrap().0, Sequence::Cine);
        assert_eq!(header.names.plane.unwrap().0, Plane::Sax);
    }
}

#[test]
fn files_without_preamble_or_meta_group_are_read() {
    for syntax in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.2"] {
        let bytes = Image { syntax, ..Image::new() }.bytes();
        assert_eq!(read(without_meta(&bytes)).unwrap().1, ramp(), "no meta group, {syntax}");
        assert_eq!(read(bytes[128..].to_vec()).unwrap().1, ramp(), "no preamble, {syntax}");
    }
}

#[test]
fn padding_behind_the_pixels_is_cut_off_and_missing_pixels_are_counted() {
    let mut padded = Image::new();
    padded.pixels.extend([7; 64]);
    assert_eq!(read(padded.bytes()).unwrap().1, ramp());
    let mut short = Image::new();
    short.pixels.truncate(100);
    assert_eq!(read(short.bytes()).unwrap_err(), SkipReason::FewerPixels { expected: 384, found: 200 });
}

#[test]
fn a_small_file_that_claims_4_gib_of_pixels_is_refused_before_anything_is_allocated() {
    let mut bytes = Image::new().bytes();
    bytes.resize(10_000, 0);
    let place = bytes.windows(6).position(|window| window == b"\xe0\x7f\x10\0OW").unwrap();
    bytes[place + 8..place + 12].copy_from_slice(&0xffff_fffe_u32.to_le_bytes());
    let present = 10_000 - place as u64 - 12;
    let expected = SkipReason::Truncated { element: "7fe0,0010".into(), claimed: 4_294_967_294, present };
    assert_eq!(read(bytes).unwrap_err(), expected);
}

#[test]
fn a_length_inside_a_sequence_may_not_leave_it() {
    let nested = item(vec![element(tags::IMAGE_COMMENTS, VR::LT, "abcd")]);
    let mut image = Image::new();
    image.extra.push(sequence(tags::REFERENCED_IMAGE_SEQUENCE, vec![nested]));
    let mut bytes = image.bytes();
    let place = bytes.windows(6).position(|window| window == b"\x20\0\0\x40LT").unwrap();
    bytes[place + 6..place + 8].copy_from_slice(&0xfff0_u16.to_le_bytes());
    assert!(matches!(read(bytes).unwrap_err(), SkipReason::Truncated { element, .. } if element == "0020,4000"));
}

#[test]
fn sequences_may_nest_64_deep_and_no_deeper() {
    let nested = |depth: usize| {
        let mut inner = item(vec![element(tags::IMAGE_COMMENTS, VR::LT, "x")]);
        for _ in 1..depth {
            inner = item(vec![sequence(tags::REFERENCED_IMAGE_SEQUENCE, vec![inner])]);
        }
        let mut image = Image::new();
        image.extra.push(sequence(tags::REFERENCED_IMAGE_SEQUENCE, vec![inner]));
        image.bytes()
    };
    assert_eq!(read(nested(63)).unwrap().1, ramp());
    assert_eq!(read(nested(65)).unwrap_err(), SkipReason::NestedTooDeep);
    // Far deeper, by hand: openings without an end.
    let mut bytes = without_meta(&Image::new().bytes())[..0].to_vec();
    bytes.extend_from_slice(b"\x08\0\x05\0CS\x02\0AB");
    for _ in 0..1_000_000 {
        bytes.extend_from_slice(b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff");
    }
    assert_eq!(read(bytes).unwrap_err(), SkipReason::NestedTooDeep);
}

#[test]
fn what_is_not_an_acquired_mr_image_is_named() {
    let cases = [
        (Image { modality: "CT", class: uids::CT_IMAGE_STORAGE, ..Image::new() }, SkipReason::NotMr),
        (Image { class: uids::ENCAPSULATED_PDF_STORAGE, modality: "DOC", ..Image::new() }, SkipReason::NotMr),
        (Image { class: uids::SECONDARY_CAPTURE_IMAGE_STORAGE, ..Image::new() }, SkipReason::SecondaryCapture),
        (Image { image_type: "DERIVED\\SECONDARY\\SCREEN SAVE", ..Image::new() }, SkipReason::SecondaryCapture),
        (Image { image_type: "ORIGINAL\\SECONDARY", ..Image::new() }, SkipReason::SecondaryCapture),
        (Image::new().with(tags::BURNED_IN_ANNOTATION, VR::CS, "YES"), SkipReason::BurnedInText),
        (Image { description: "InlineVF_Results".into(), ..Image::new() }, SkipReason::InlineResult),
        (Image { photometric: "RGB", ..Image::new() }, SkipReason::NotGray),
        (Image { patient: "", ..Image::new() }, SkipReason::NoPatientId),
        (Image { spacing: None, ..Image::new() }, SkipReason::NoSpacing),
        (Image { slope: Some("abc"), ..Image::new() }, SkipReason::BadRescale),
        (Image::new().with(tags::BITS_ALLOCATED, VR::US, 32_u16), SkipReason::BitsAllocated { bits: 32 }),
        (Image { frames: 1_000_000, ..Image::new() }, SkipReason::TooLarge { bytes: 384_000_000, limit: 256 << 20 }),
        (Image { frames: 10_000, ..Image::new() }, SkipReason::TooManyFrames { frames: 10_000, limit: 8192 }),
        (Image { rows: 1, columns: 1, frames: 192, ..Image::new() }, SkipReason::TooSmall { side: 1, least: 8 }),
        (
            Image { rows: 60_000, columns: 1000, ..Image::new() },
            SkipReason::TooLarge { bytes: 120_000_000, limit: 32 << 20 },
        ),
    ];
    for (image, reason) in cases {
        assert_eq!(read(image.bytes()).unwrap_err(), reason);
    }
    assert_eq!(read(b"no image, just text that is long enough".to_vec()).unwrap_err(), SkipReason::NotDicom);
    assert_eq!(read(Vec::new()).unwrap_err(), SkipReason::NotDicom);
}

#[test]
fn a_transfer_syntax_that_cannot_be_decoded_is_named_and_an_invented_one_is_not_repeated() {
    let bytes = Image::new().bytes();
    let named = |uid: &str| read(with_syntax(&bytes, uid)).unwrap_err();
    let jpeg_ls = "1.2.840.10008.1.2.4.80";
    assert_eq!(named(jpeg_ls), SkipReason::TransferSyntax { uid: jpeg_ls.into() });
    assert_eq!(named("PATIENT NAME"), SkipReason::TransferSyntax { uid: "unknown".into() });
}

#[test]
fn signed_samples_and_overlays_in_unused_bits_are_understood() {
    let mut image = Image { slope: Some("0.5"), intercept: Some("-3"), ..Image::new() };
    // 12 bits stored, two's complement, an overlay in bit 15.
    image.pixels = vec![0; 12 * 16];
    image.pixels[..4].copy_from_slice(&[0x0fff, 0x8001, 0x0800, 0x87ff]);
    let image = image.with(tags::BITS_STORED, VR::US, 12_u16).with(tags::HIGH_BIT, VR::US, 11_u16).with(
        tags::PIXEL_REPRESENTATION,
        VR::US,
        1_u16,
    );
    let (_, pixels) = read(image.bytes()).unwrap();
    assert_eq!(&pixels[..5], [-3.5, -2.5, -1027.0, 1020.5, -3.0]);
}

#[test]
fn run_length_encoded_pixels_are_decoded() {
    let image = Image::new();
    // Two segments (high bytes, low bytes), each as literal runs of 128 bytes at most (PS3.5 annex G).
    let segment = |byte: fn(&u16) -> u8| -> Vec<u8> {
        let bytes: Vec<u8> = image.pixels.iter().map(byte).collect();
        bytes.chunks(128).flat_map(|run| std::iter::once(run.len() as u8 - 1).chain(run.iter().copied())).collect()
    };
    let (high, low) = (segment(|v| (v >> 8) as u8), segment(|v| *v as u8));
    let mut fragment = Vec::new();
    for word in [2, 64, 64 + high.len() as u32].into_iter().chain([0; 13]) {
        fragment.extend_from_slice(&word.to_le_bytes());
    }
    fragment.extend(high);
    fragment.extend(low);
    assert_eq!(read(run_length_file(&image, &fragment)).unwrap().1, ramp());
    // A fragment that ends in its header, and one whose first segment lies behind its end.
    for bad in [vec![0; 2], vec![2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]] {
        let file = run_length_file(&image, &bad);
        let reason = guarded(|| read(file)).unwrap_err();
        assert!(matches!(reason, SkipReason::Damaged | SkipReason::ParserCrashed), "{reason}");
    }
}

#[test]
fn a_damaged_stream_is_told_from_one_that_cannot_be_decoded() {
    let jpeg = "1.2.840.10008.1.2.4.51";
    // A frame header of 12 bits a sample, which the decoder does not know (ITU-T T.81, B.2.2), and no JPEG at all.
    let extended = b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x0c\0\x10\x01\x01\x11\0\xff\xd9";
    let outcome = |fragment: &[u8]| guarded(|| read(encapsulated_file(&Image::new(), jpeg, fragment))).unwrap_err();
    assert_eq!(outcome(extended), SkipReason::TransferSyntax { uid: jpeg.into() });
    assert_eq!(outcome(b"no JPEG at all"), SkipReason::Damaged);
}

/// 12 rows of 16 gray pixels in JPEG baseline: tables of ones, one code for no difference and one for the end of a block, 4 blocks.
fn gray_jpeg() -> Vec<u8> {
    let mut jpeg = b"\xff\xd8\xff\xdb\0\x43\0".to_vec();
    jpeg.extend([1; 64]);
    jpeg.extend(b"\xff\xc0\0\x0b\x08\0\x0c\0\x10\x01\x01\x11\0");
    for table in [0x00, 0x10] {
        jpeg.extend([0xff, 0xc4, 0, 20, table, 1]);
        jpeg.extend([0; 16]);
    }
    jpeg.extend(b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\0\xff\xd9");
    jpeg
}

#[test]
fn streams_that_contradict_their_header_are_refused_and_not_laid_into_its_room() {
    let jpeg = "1.2.840.10008.1.2.4.50";
    let of = |image: &Image, streams: usize| {
        // Between two frames lies what makes the first one even.
        let padded = [gray_jpeg(), vec![0; gray_jpeg().len() % 2]].concat();
        guarded(|| read(encapsulated_file(image, jpeg, &padded.repeat(streams)))).map(|read| read.1)
    };
    let bytes = Image { bits: 8, ..Image::new() };
    assert_eq!(of(&bytes, 1).unwrap(), vec![128.0; 12 * 16]);
    assert_eq!(of(&Image { frames: 2, ..bytes.clone() }, 2).unwrap().len(), 2 * 12 * 16);
    let fewer = SkipReason::FewerPixels { expected: 3 * 12 * 16, found: 2 * 12 * 16 };
    assert_eq!(of(&Image { frames: 3, ..bytes.clone() }, 2).unwrap_err(), fewer);
    let contradicted = [
        Image::new(),
        Image { rows: 16, columns: 12, ..bytes.clone() },
        Image { rows: 24, ..bytes.clone() },
        Image { rows: 8, columns: 8, ..bytes },
    ];
    for image in contradicted {
        assert_eq!(
            of(&image, 1).unwrap_err(),
            SkipReason::Damaged,
            "{} x {} x {}",
            image.rows,
            image.columns,
            image.bits
        );
    }
}

/// 8 rows of 8 pixels of 8 bits, three times their place, without loss: as OpenJPEG 2.5.4 writes them.
const RAMP_IN_JPEG_2000: &[u8] =
    b"\xff\x4f\xff\x51\x00\x29\x00\x00\x00\x00\x00\x08\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\
\x00\x00\x00\x08\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x07\x01\x01\xff\x52\x00\
\x0c\x00\x00\x00\x01\x00\x00\x04\x04\x00\x01\xff\x5c\x00\x04\x40\x40\xff\x90\x00\x0a\x00\x00\x00\
\x00\x00\x48\x00\x01\xff\x93\xdf\x81\xb8\x12\x2b\x05\x14\xb9\x73\x3e\xb2\x0a\xb2\x79\xc2\x6e\xf1\
\x70\x3f\xd1\x7f\xe1\xc6\xd2\x8b\xc0\x89\x12\x52\xa5\x04\xea\x5b\x0b\x1e\xac\x6e\x47\x6e\x76\x49\
\x2f\x73\xae\x13\xad\xf1\xa5\x26\x92\x01\x7e\x5e\x5e\x5e\x5b\x10\x0c\xff\xd9";

#[test]
fn a_jpeg_2000_stream_of_other_sides_than_its_header_says_is_refused() {
    let of = |image: &Image| {
        guarded(|| read(encapsulated_file(image, "1.2.840.10008.1.2.4.90", RAMP_IN_JPEG_2000))).map(|read| read.1)
    };
    let square = Image { rows: 8, columns: 8, ..Image::new() };
    let ramp: Vec<f32> = (0..64_u16).map(|place| f32::from(3 * place)).collect();
    for bits in [8, 16] {
        assert_eq!(of(&Image { bits, ..square.clone() }).unwrap(), ramp, "{bits} bits");
    }
    for [rows, columns] in [[12, 16], [16, 8], [8, 16]] {
        let image = Image { rows, columns, ..square.clone() };
        assert_eq!(of(&image).unwrap_err(), SkipReason::Damaged, "{rows} x {columns}");
    }
}

fn run_length_file(image: &Image, fragment: &[u8]) -> Vec<u8> {
    encapsulated_file(image, "1.2.840.10008.1.2.5", fragment)
}

/// An image whose pixels are one fragment.
fn encapsulated_file(image: &Image, syntax: &str, fragment: &[u8]) -> Vec<u8> {
    let bytes = image.bytes();
    let place = bytes.windows(6).position(|window| window == b"\xe0\x7f\x10\0OW").unwrap();
    let mut file = bytes[..place].to_vec();
    file.extend_from_slice(b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\0\0\0\0\xfe\xff\0\xe0");
    let padded = fragment.len() + fragment.len() % 2;
    file.extend_from_slice(&(padded as u32).to_le_bytes());
    file.extend_from_slice(fragment);
    file.resize(file.len() + padded - fragment.len(), 0);
    file.extend_from_slice(b"\xfe\xff\xdd\xe0\0\0\0\0");
    with_syntax(&file, syntax)
}

#[test]
fn a_file_cut_at_any_byte_is_refused_or_read_but_never_a_panic() {
    for syntax in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN] {
        let whole = Image { syntax, ..Image::new() }.bytes();
        for cut in 0..whole.len() {
            assert!(read(whole[..cut].to_vec()).is_err(), "cut at {cut}");
        }
    }
}

/// The walk is ours and never panics; the parsers behind it are not, and are read as a worker reads them.
fn outcome_of(bytes: Vec<u8>) {
    let _ = scan(&mut MemorySource(bytes.clone()));
    let _ = guarded(|| read(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Bytes changed at random in a real file.
    #[test]
    fn changed_bytes_never_end_the_parser(
        changes in prop::collection::vec((0_usize..1600, any::<u8>()), 1..8),
        implicit in any::<bool>(),
    ) {
        let syntax = if implicit { uids::IMPLICIT_VR_LITTLE_ENDIAN } else { uids::EXPLICIT_VR_LITTLE_ENDIAN };
        let nested = item(vec![element(tags::IMAGE_COMMENTS, VR::LT, "abcd")]);
        let mut image = Image { syntax, ..Image::new() };
        image.extra.push(sequence(tags::REFERENCED_IMAGE_SEQUENCE, vec![nested]));
        let mut bytes = image.bytes();
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        outcome_of(bytes);
    }

    /// Bytes that were never a file.
    #[test]
    fn random_bytes_never_end_the_parser(tail in prop::collection::vec(any::<u8>(), 0..400), start in 0_usize..4) {
        let starts: [&[u8]; 4] = [b"", b"\x08\0\x05\0", b"\x08\0\x05\0CS\x02\0AB", b"\0\x08\0\x05CS\0\x02AB"];
        outcome_of([starts[start], &tail].concat());
    }
}
