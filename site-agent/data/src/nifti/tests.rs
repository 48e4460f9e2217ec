//! NIfTI files of nibabel, and files written here, field by field. Numbers are printed by `scripts/nifti_check.py`.

use std::fs;

use super::*;
use crate::geometry::Placement;

/// 3 x 2 x 2 bytes 0 to 11, little-endian, with both forms.
const U8: &str = "1f8b08000000000002038b6164200a30032113103242212a6062e000d30dfb19180ed833303800318323906f8f8a373803e5\
    eb2118a8698001c81fda45a2fb3ee595ee4f0eceb563605000ba79c14106862f8e4ba76cdd3f61a7b59db9fd6d7b90789bf4\
    27bb5b86caf669b2110e203540be6dbee9e67d379b1e3a80d4a39b9da76d08b584899985958d9d83938b1b00ba40185c6c01\
    0000";
/// The same as big-endian shorts, with a qform alone.
const I16_BIG_QFORM: &str = "1f8b08000000000002036360608c61200630032113103242212a6061106060d8dfc0c0607f00881d18181c8182f60da8d879\
    030343fd0108060226868106405fec132dd2de5f9af7c92e3738d9518181e1e002a0dbbf00fdb275ca523beb9d13ec6fdb9b\
    83c4ed3e49b7d92b1bde7288904d03a9b105f2f76d36cd7778d87413a41e1de4691b226c6102861d0b032b031b033b030703\
    270317033700966dab4978010000";
/// The same as floats, with a sform alone, times 2 minus 3.
const F32_SCALED: &str = "1f8b08000000000002038b6164200a30032113103242212a10605000d30dfb19180ed833303800318323906f8f8a373803c5\
    1d80e8009066621870c0c8a05d24baef535ee9fee4e05c3b060605a09b171c6460f8e2b874cad6fd13765adb99dbdfb60789\
    b7497fb2bb65a86c9f261be1005203e4dbe69b6ede77b3e9a103483dbac979da86483c90dfc1fe06e206907e203e00c40f1c\
    20e124e008b1dbc01100291c062690010000";

/// Where all three lie.
const NIBABEL: [[f64; 4]; 3] = [
    [-1.418599, 0.183325, 1.712867, 10.0],
    [0.472866, 0.637479, 3.376794, -20.0],
    [0.118217, -0.350017, 7.047223, 30.5],
];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().collect();
    digits.chunks(2).map(|two| u8::from_str_radix(&two.iter().collect::<String>(), 16).unwrap()).collect()
}

fn read_bytes(bytes: &[u8]) -> Result<Volume<f32>, NiftiError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    fs::write(&path, bytes).unwrap();
    read_nifti(&path)
}

fn expanded(bytes: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut raw).unwrap();
    raw
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn far(a: &Affine, b: &Affine) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// An oblique stack, its slices counted against their normal.
fn oblique() -> Affine {
    let placement = Placement::new([-101.5, 42.25, 310.0], [0.6, 0.8, 0.0, -0.48, 0.36, 0.8]).unwrap();
    slice_affine(&placement, [1.4, 0.9], -9.5)
}

#[test]
fn nibabels_files_of_several_types_byte_orders_and_forms_are_read_as_nibabel_reads_them() {
    let counted: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let scaled: Vec<f32> = (0..12).map(|i| 2.0 * i as f32 - 3.0).collect();
    for (file, expected) in [(U8, &counted), (I16_BIG_QFORM, &counted), (F32_SCALED, &scaled)] {
        let file = bytes(file);
        for form in [file.clone(), expanded(&file)] {
            let volume = read_bytes(&form).unwrap();
            assert_eq!((volume.dims, &volume.values), ([3, 2, 2, 1], expected));
            let [x, y, z] = NIBABEL;
            assert!(far(&volume.affine, &[x, y, z, [0.0, 0.0, 0.0, 1.0]]) < 2e-6, "{:?}", volume.affine);
        }
    }
}

#[test]
fn a_written_header_says_dicoms_geometry_twice_as_nibabel_would() {
    let values: Vec<u8> = (0..60).collect();
    let bytes = nifti_bytes(&Volume { dims: [5, 4, 3, 1], affine: oblique(), values: values.clone() }).unwrap();
    let float = |at: usize| f64::from(f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    let short = |at: usize| i16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let floats = |from: usize, expected: &[f64]| {
        for (place, expected) in expected.iter().enumerate() {
            let found = float(from + 4 * place);
            assert!(
                (found - expected).abs() < 1e-6 * expected.abs().max(0.1),
                "{}: {found} {expected}",
                from + 4 * place
            );
        }
    };
    let shorts = |from: usize, expected: &[i16]| {
        let found: Vec<i16> = (0..expected.len()).map(|place| short(from + 2 * place)).collect();
        assert_eq!(found, expected, "{from}");
    };
    assert_eq!(bytes[..4], 348_i32.to_le_bytes());
    shorts(40, &[3, 5, 4, 3, 1, 1, 1, 1]);
    shorts(70, &[2, 8]);
    floats(76, &[-1.0, 0.9, 1.4, 9.5, 1.0, 1.0, 1.0, 1.0]);
    floats(108, &[352.0, 1.0, 0.0]);
    assert_eq!(bytes[123], 2, "millimetres");
    shorts(252, &[1, 1]);
    floats(256, &[0.2, -0.4, -0.8, 101.5, -42.25, 310.0]);
    floats(280, &[-0.54, 0.672, 6.08, 101.5, -0.72, -0.504, -4.56, -42.25, 0.0, 1.12, -5.7, 310.0]);
    assert_eq!(&bytes[344..352], b"n+1\0\0\0\0\0");
    assert_eq!(bytes[352..], values);
    let zipped = zipped(&bytes);
    assert_eq!(zipped[4..8], [0; 4], "no time of writing");
}

#[test]
fn what_is_written_is_read_back_whatever_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume.nii.gz");
    let (dims, affine) = ([4, 3, 2, 1], oblique());
    let codes = [0_i16, 500, 2221, -7, i16::MAX, i16::MIN].repeat(4);
    write_nifti(&path, &Volume { dims, affine, values: codes.clone() }).unwrap();
    let volume = read_nifti(&path).unwrap();
    assert_eq!((volume.dims, volume.values), (dims, codes.iter().map(|code| f32::from(*code)).collect()));
    assert!(far(&volume.affine, &affine) < 1e-4);
    let fractions: Vec<f32> = (0..24).map(|i| i as f32 * 0.37 - 2.0).collect();
    write_nifti(&path, &Volume { dims, affine, values: fractions.clone() }).unwrap();
    assert_eq!(read_nifti(&path).unwrap().values, fractions);
    let first = fs::read(&path).unwrap();
    write_nifti(&path, &Volume { dims, affine, values: fractions }).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first, "the same volume is the same bytes");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
    let moments = Volume { dims: [2, 1, 1, 3], affine, values: vec![1_u8, 2, 3, 4, 5, 6] };
    write_nifti(&path, &moments).unwrap();
    assert_eq!(read_nifti(&path).unwrap().dims, moments.dims);
}

#[test]
fn a_qform_alone_says_the_same_as_the_sform_for_every_turn_and_its_mirror() {
    let turns: &[f64] = &[0.0, 0.4, 1.7, std::f64::consts::PI, 4.0, -0.01];
    let all = turns.iter().flat_map(|a| turns.iter().flat_map(move |b| turns.iter().map(move |c| [*a, *b, *c])));
    for ([a, b, c], step) in all.flat_map(|turn| [(turn, 8.0), (turn, -8.0)]) {
        let around = |[x, y, z]: [f64; 3]| {
            let (x, y) = (x * a.cos() - y * a.sin(), x * a.sin() + y * a.cos());
            let (y, z) = (y * b.cos() - z * b.sin(), y * b.sin() + z * b.cos());
            let (z, x) = (z * c.cos() - x * c.sin(), z * c.sin() + x * c.cos());
            [x, y, z]
        };
        let ([d, e, f], [g, h, i]) = (around([1.0, 0.0, 0.0]), around([0.0, 1.0, 0.0]));
        let placement = Placement::new([30.0, -20.0, 10.0], [d, e, f, g, h, i]).unwrap();
        let affine = slice_affine(&placement, [1.5, 0.8], step);
        let mut bytes = nifti_bytes(&Volume { dims: [1; 4], affine, values: vec![0_u8] }).unwrap();
        let both = read_bytes(&bytes).unwrap().affine;
        bytes[254] = 0;
        let qform = read_bytes(&bytes).unwrap().affine;
        assert!(far(&both, &affine) < 1e-5, "{both:?}");
        // A quaternion's first part is not written: near half a turn, rounding of the others takes most of it, whoever reads.
        let part = |at: usize| f64::from(f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
        let first = (1.0 - [256, 260, 264].map(|at| part(at).powi(2)).iter().sum::<f64>()).max(0.0).sqrt();
        let bound = if first < 0.02 { 5e-4 } else { 1e-4 };
        assert!(far(&qform, &affine) < bound, "{a} {b} {c} {step}: {qform:?} {affine:?}");
    }
}

#[test]
fn a_sheared_grid_has_no_qform() {
    let sheared = [[1.0, 0.2, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 8.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let bytes = nifti_bytes(&Volume { dims: [1; 4], affine: sheared, values: vec![0_u8] }).unwrap();
    assert_eq!((bytes[252], bytes[254]), (0, 1));
    assert!(far(&read_bytes(&bytes).unwrap().affine, &sheared) < 1e-6);
}

/// A sound file of 2 x 2 x 2 shorts, with some bytes of its header replaced.
fn with(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let volume = Volume { dims: [2, 2, 2, 1], affine: oblique(), values: vec![1_i16; 8] };
    let mut bytes = nifti_bytes(&volume).unwrap();
    for (at, change) in changes {
        bytes[*at..at + change.len()].copy_from_slice(change);
    }
    bytes
}

#[test]
fn each_field_that_cannot_be_is_named_with_its_value() {
    let short = |value: i16| value.to_le_bytes();
    let float = |value: f32| value.to_le_bytes();
    let cases: [(Vec<u8>, &str); 17] = [
        (with(&[(0, &[0])]), "sizeof_hdr"),
        (with(&[(0, &540_i32.to_le_bytes())]), "NIfTI-2"),
        (with(&[(344, b"ni1\0")]), "two files"),
        (with(&[(344, b"xxxx")]), "magic"),
        (with(&[(70, &short(128))]), "datatype 128"),
        (with(&[(72, &short(8))]), "bitpix is 8"),
        (with(&[(40, &short(0))]), "dim[0] is 0"),
        (with(&[(40, &short(8))]), "dim[0] is 8"),
        (with(&[(42, &short(-2))]), "dim[1] is -2"),
        (with(&[(40, &short(5)), (50, &short(2))]), "dim[5] is 2"),
        (with(&[(108, &float(-1.0))]), "vox_offset is -1"),
        (with(&[(108, &float(f32::NAN))]), "vox_offset is NaN"),
        (with(&[(108, &float(1e9))]), "begin at byte 1000000000"),
        (with(&[(112, &float(2.0)), (116, &float(f32::NAN))]), "scl_inter"),
        (with(&[(252, &[0; 4])]), "nothing says where"),
        (with(&[(280, &[0; 48])]), "no grid"),
        (with(&[(123, &[5])]), "xyzt_units"),
    ];
    for (file, says) in cases {
        let error = read_bytes(&file).unwrap_err();
        assert!(matches!(error, NiftiError::Header { .. }), "{error}");
        assert!(error.to_string().contains(says) && error.to_string().contains("save it"), "{says}: {error}");
    }
    // A slope of 0 or NaN is none, as the standard and nibabel have it.
    for slope in [0.0, f32::NAN] {
        assert_eq!(read_bytes(&with(&[(112, &float(slope))])).unwrap().values, [1.0; 8]);
    }
}

#[test]
fn units_of_length_become_millimetres() {
    let metres = read_bytes(&with(&[(123, &[1])])).unwrap().affine;
    assert!((metres[0][3] - 101_500.0).abs() < 1e-3, "{metres:?}");
}

#[test]
fn a_file_cut_at_any_byte_is_refused_and_so_is_one_with_more() {
    let whole = with(&[]);
    for form in [whole.clone(), zipped(&whole)] {
        assert_eq!(read_bytes(&form).unwrap().values.len(), 8);
        for cut in 0..form.len() {
            let error = read_bytes(&form[..cut]).unwrap_err();
            // Of a compressed file the checksum may be all that is missing.
            let told = matches!(error, NiftiError::Truncated { .. } | NiftiError::Damaged { .. });
            assert!(told && error.to_string().contains("export it again"), "cut at {cut}: {error}");
        }
    }
    let more = [whole.as_slice(), &[0]].concat();
    for form in [more.clone(), zipped(&more)] {
        let error = read_bytes(&form).unwrap_err();
        assert!(matches!(error, NiftiError::Longer { expected: 368, .. }), "{error}");
    }
}

#[test]
fn a_compressed_file_with_another_checksum_is_refused() {
    let mut file = zipped(&with(&[]));
    let sum = file.len() - 8;
    file[sum] ^= 1;
    assert!(matches!(read_bytes(&file), Err(NiftiError::Damaged { .. })));
}

#[test]
fn claims_and_bombs_cost_no_more_than_the_file_holds() {
    let side = |sides: [i16; 3]| sides.map(i16::to_le_bytes).concat();
    let error = read_bytes(&with(&[(42, &side([i16::MAX; 3]))])).unwrap_err();
    assert!(matches!(error, NiftiError::TooLarge { .. }), "{error}");
    // Within the limit, but not there.
    let error = read_bytes(&with(&[(42, &side([4096, 4096, 2]))])).unwrap_err();
    assert!(matches!(error, NiftiError::Truncated { found: 368, .. }), "{error}");
    // 64 MiB of zeros behind eight voxels: not one of them is kept.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    bomb.write_all(&with(&[])).unwrap();
    (0..64).for_each(|_| bomb.write_all(&vec![0; 1 << 20]).unwrap());
    assert!(matches!(read_bytes(&bomb.finish().unwrap()), Err(NiftiError::Longer { .. })));
}

#[test]
fn a_volume_whose_values_are_not_its_voxels_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume.nii.gz");
    for (dims, count) in [([2, 2, 2, 1], 7), ([0, 2, 2, 1], 0), ([40_000, 1, 1, 1], 40_000), ([usize::MAX, 2, 2, 1], 4)]
    {
        let written = write_nifti(&path, &Volume { dims, affine: oblique(), values: vec![0_u8; count] });
        assert!(matches!(written, Err(NiftiError::Shape { .. })));
    }
    assert!(!path.exists());
}

proptest::proptest! {
    #[test]
    fn changed_bytes_are_read_or_refused_but_nothing_else(
        changes in proptest::collection::vec((0_usize..368, proptest::prelude::any::<u8>()), 1..6)
    ) {
        let mut file = with(&[]);
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Ok(volume) = read_bytes(&file) {
            proptest::prop_assert_eq!(volume.values.len(), volume.dims.iter().product::<usize>());
        }
    }
}

#[test]
fn a_sform_that_forgets_the_sizes_of_voxels_gives_way_to_the_qform() {
    // As the headers of ACDC are: sizes in pixdim and the qform, 1 mm everywhere in the sform.
    let affine = [[-1.5625, 0.0, 0.0, 0.0], [0.0, -1.5625, 0.0, 0.0], [0.0, 0.0, 10.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let mut bytes = nifti_bytes(&Volume { dims: [2, 2, 2, 1], affine, values: vec![0_u8; 8] }).unwrap();
    for (offset, value) in [(280, -1.0_f32), (300, -1.0), (320, 1.0)] {
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    assert!(far(&read_bytes(&bytes).unwrap().affine, &affine) < 1e-6);
    // Without a qform nothing else is told.
    bytes[252..254].copy_from_slice(&0_i16.to_le_bytes());
    assert_eq!(read_bytes(&bytes).unwrap().affine[2][2], 1.0);
}

#[test]
fn a_cine_is_read_a_moment_at_a_time_and_held_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cine.nii.gz");
    let values: Vec<i16> = (0..24).collect();
    write_nifti(&path, &Volume { dims: [2, 3, 2, 2], affine: oblique(), values }).unwrap();
    let mut moments = Moments::open(&path).unwrap();
    assert_eq!(moments.dims(), [2, 3, 2, 2]);
    let read: Vec<Vec<f32>> = std::iter::from_fn(|| moments.next().unwrap()).collect();
    assert_eq!(read.concat(), (0..24).map(|value| value as f32).collect::<Vec<_>>());
    assert_eq!(read[0].len(), 12);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    let mut moments = Moments::open(&path).unwrap();
    let torn = std::iter::from_fn(|| moments.next().transpose()).find_map(Result::err).unwrap();
    assert!(matches!(torn, NiftiError::Damaged { .. }), "{torn}");
}
