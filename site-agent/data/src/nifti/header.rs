//! The 348 bytes before a volume, to and from what is needed of them. Offsets are nifti1.h's.

use super::Affine;

/// Bytes of a header, without the four that tell of extensions.
pub(super) const LENGTH: usize = 348;
/// Where a volume without extensions begins.
const DATA: usize = 352;

/// NIfTI's code for millimetres; those for metres and micrometres are the other two.
const MILLIMETRES: u8 = 2;
/// Code of a qform or sform: "scanner-based anatomical coordinates".
const SCANNER: i16 = 1;

/// A type of stored number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 64 bits.
    F64,
}

impl Kind {
    const ALL: [(i16, Self); 10] = [
        (2, Self::U8),
        (4, Self::I16),
        (8, Self::I32),
        (16, Self::F32),
        (64, Self::F64),
        (256, Self::I8),
        (512, Self::U16),
        (768, Self::U32),
        (1024, Self::I64),
        (1280, Self::U64),
    ];

    fn code(self) -> i16 {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or(0, |(code, _)| *code)
    }

    /// Bytes of a number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// What a header says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) dims: [usize; 4],
    pub(super) affine: Affine,
    pub(super) kind: Kind,
    /// Where the volume begins.
    pub(super) offset: usize,
    big_endian: bool,
    /// Slope and intercept, if values are scaled.
    scale: Option<[f64; 2]>,
}

/// Numbers at places of a header.
struct Fields<'a> {
    bytes: &'a [u8; LENGTH],
    big_endian: bool,
}

impl Fields<'_> {
    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes: [u8; N] = std::array::from_fn(|i| self.bytes[offset + i]);
        if self.big_endian {
            bytes.reverse();
        }
        bytes
    }

    fn short(&self, offset: usize) -> i16 {
        i16::from_le_bytes(self.at(offset))
    }

    fn float(&self, offset: usize) -> f64 {
        f64::from(f32::from_le_bytes(self.at(offset)))
    }
}

impl Header {
    /// Reads a header, or says which field is wrong.
    pub(super) fn decode(bytes: &[u8; LENGTH]) -> Result<Self, String> {
        let size: [u8; 4] = std::array::from_fn(|i| bytes[i]);
        let big_endian = match (i32::from_le_bytes(size), i32::from_be_bytes(size)) {
            (348, _) => false,
            (_, 348) => true,
            (540, _) | (_, 540) => return Err("it is NIfTI-2".to_owned()),
            (size, _) => return Err(format!("sizeof_hdr is {size}, not 348")),
        };
        let fields = Fields { bytes, big_endian };
        match &bytes[344..348] {
            b"n+1\0" => {}
            b"ni1\0" => return Err("its header and its data are two files (magic ni1)".to_owned()),
            _ => return Err("its magic is not n+1".to_owned()),
        }
        let kind = kind(fields.short(70), fields.short(72))?;
        let offset = fields.float(108);
        if !(offset >= DATA as f64 && offset.fract() == 0.0 && offset < u32::MAX.into()) {
            return Err(format!("vox_offset is {offset}, not a whole number of at least {DATA}"));
        }
        let (slope, intercept) = (fields.float(112), fields.float(116));
        // By the standard a slope of 0 means none; some write NaN.
        let scaled = slope.is_finite() && slope != 0.0 && [slope, intercept] != [1.0, 0.0];
        if scaled && !intercept.is_finite() {
            return Err(format!("scl_inter is {intercept}, no number"));
        }
        let scale = scaled.then_some([slope, intercept]);
        Ok(Self { dims: dims(&fields)?, affine: affine(&fields)?, kind, offset: offset as usize, big_endian, scale })
    }

    /// Adds the numbers of some whole bytes.
    pub(super) fn values(&self, bytes: &[u8], values: &mut Vec<f32>) {
        macro_rules! numbers {
            ($type:ty, $bytes:literal) => {{
                let numbers = bytes.as_chunks::<$bytes>().0.iter().map(|bytes| match self.big_endian {
                    true => <$type>::from_be_bytes(*bytes),
                    false => <$type>::from_le_bytes(*bytes),
                });
                match self.scale {
                    None => values.extend(numbers.map(|number| number as f32)),
                    Some([slope, intercept]) => {
                        values.extend(numbers.map(|number| (number as f64 * slope + intercept) as f32))
                    }
                }
            }};
        }
        match self.kind {
            Kind::U8 => numbers!(u8, 1),
            Kind::I8 => numbers!(i8, 1),
            Kind::U16 => numbers!(u16, 2),
            Kind::I16 => numbers!(i16, 2),
            Kind::U32 => numbers!(u32, 4),
            Kind::I32 => numbers!(i32, 4),
            Kind::U64 => numbers!(u64, 8),
            Kind::I64 => numbers!(i64, 8),
            Kind::F32 => numbers!(f32, 4),
            Kind::F64 => numbers!(f64, 8),
        }
    }
}

fn kind(code: i16, bits: i16) -> Result<Kind, String> {
    let known = Kind::ALL.iter().find(|(held, _)| *held == code).map(|(_, kind)| *kind);
    let kind = known.ok_or_else(|| format!("datatype {code} is neither an integer nor a float of up to 64 bits"))?;
    if usize::try_from(bits) != Ok(8 * kind.bytes()) {
        return Err(format!("bitpix is {bits}, but datatype {code} has {} bits", 8 * kind.bytes()));
    }
    Ok(kind)
}

fn dims(fields: &Fields<'_>) -> Result<[usize; 4], String> {
    let rank = fields.short(40);
    if !(1..=7).contains(&rank) {
        return Err(format!("dim[0] is {rank}, not 1 to 7"));
    }
    let mut dims = [1; 4];
    for axis in 1..=rank as usize {
        let side = fields.short(40 + 2 * axis);
        match (usize::try_from(side), dims.get_mut(axis - 1)) {
            (Ok(0) | Err(_), _) => return Err(format!("dim[{axis}] is {side}, not at least 1")),
            (Ok(side), Some(held)) => *held = side,
            (Ok(1), None) => {}
            (Ok(side), None) => return Err(format!("dim[{axis}] is {side}: there are more than four dimensions")),
        }
    }
    Ok(dims)
}

/// What the length of an axis may differ from a size of voxels, as a fraction: both are written with few digits.
const SAME_SIZE: f64 = 0.01;

/// The sform if there is one, else the qform. A sform that forgets the sizes of voxels (the ACDC data set's has 1 mm everywhere)
/// gives way to a qform, which cannot.
fn affine(fields: &Fields<'_>) -> Result<Affine, String> {
    let (qform, sform) = (fields.short(252), fields.short(254));
    let rows = if sform > 0 && !(qform > 0 && is_unscaled(fields)) {
        sheared(fields)
    } else if qform > 0 {
        rotated(fields)
    } else {
        return Err("qform_code and sform_code are 0: nothing says where the volume lies".to_owned());
    };
    // The units' space bits: metres, millimetres, micrometres; 0, where nothing is said, is millimetres by custom.
    let mm = match fields.bytes[123] & 7 {
        1 => 1e3,
        0 | MILLIMETRES => 1.0,
        3 => 1e-3,
        unit => return Err(format!("xyzt_units names a unit of length {unit} that there is not")),
    };
    let rows = rows.map(|row| row.map(|value| value * mm));
    let columns: [[f64; 3]; 3] = std::array::from_fn(|axis| rows.map(|row| row[axis]));
    let [a, b, c] = columns;
    let volume = crate::geometry::dot(a, crate::geometry::cross(b, c)).abs();
    let sides = columns.iter().map(|column| crate::geometry::length(*column)).product::<f64>();
    let finite = rows.iter().flatten().all(|value| value.abs() < 1e6);
    if !(finite && volume > 1e-9 && volume > 1e-3 * sides) {
        return Err("its qform or sform is no grid in space".to_owned());
    }
    Ok([rows[0], rows[1], rows[2], [0.0, 0.0, 0.0, 1.0]])
}

/// nifti1.h, METHOD 3: any grid.
fn sheared(fields: &Fields<'_>) -> [[f64; 4]; 3] {
    [280, 296, 312].map(|row| [0, 4, 8, 12].map(|at| fields.float(row + at)))
}

/// Whether the sform is directions alone, each 1 mm long, where voxels have other sizes.
fn is_unscaled(fields: &Fields<'_>) -> bool {
    let rows = sheared(fields);
    let near = |length: f64, size: f64| (length - size).abs() <= SAME_SIZE * size;
    let lengths: [f64; 3] = std::array::from_fn(|axis| crate::geometry::length(rows.map(|row| row[axis])));
    let sizes = [80, 84, 88].map(|at| fields.float(at));
    lengths.iter().all(|length| near(*length, 1.0))
        && sizes.iter().all(|size| *size > 0.0 && size.is_finite())
        && !sizes.iter().all(|size| near(*size, 1.0))
}

/// nifti1.h, METHOD 2: a rotation by a quaternion, sizes of voxels, an offset.
fn rotated(fields: &Fields<'_>) -> [[f64; 4]; 3] {
    let [b, c, d] = [256, 260, 264].map(|at| fields.float(at));
    let square = 1.0 - (b * b + c * c + d * d);
    // Rounding may leave a little less than nothing; the rotation is by half a turn then.
    let (a, b, c, d) = if square < 1e-7 {
        let length = (b * b + c * c + d * d).sqrt();
        (0.0, b / length, c / length, d / length)
    } else {
        (square.sqrt(), b, c, d)
    };
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ];
    let sign = if fields.float(76) < 0.0 { -1.0 } else { 1.0 };
    let sizes = [fields.float(80), fields.float(84), sign * fields.float(88)];
    let offset = [268, 272, 276].map(|at| fields.float(at));
    std::array::from_fn(|row| {
        std::array::from_fn(|column| if column < 3 { rotation[row][column] * sizes[column] } else { offset[row] })
    })
}

/// The header of a volume and the four bytes that say that nothing else comes before it.
pub(super) fn encode(dims: [usize; 4], affine: &Affine, kind: Kind) -> Vec<u8> {
    let mut bytes = vec![0; DATA];
    let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    let columns: [[f64; 3]; 4] = std::array::from_fn(|column| [0, 1, 2].map(|row| affine[row][column]));
    let [i, j, k, origin] = columns;
    let sizes = [i, j, k].map(crate::geometry::length);
    put(0, &348_i32.to_le_bytes());
    let rank: i16 = if dims[3] > 1 { 4 } else { 3 };
    // Sides are at most 32767.
    let sides = [rank, dims[0] as i16, dims[1] as i16, dims[2] as i16, dims[3] as i16, 1, 1, 1];
    sides.iter().enumerate().for_each(|(place, side)| put(40 + 2 * place, &side.to_le_bytes()));
    put(70, &kind.code().to_le_bytes());
    put(72, &(8 * kind.bytes() as i16).to_le_bytes());
    let floats = |values: &[f64]| values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect::<Vec<u8>>();
    let quaternion = quaternion([i, j, k], sizes);
    let sign = quaternion.map_or(1.0, |(_, sign)| sign);
    put(76, &floats(&[sign, sizes[0], sizes[1], sizes[2], 1.0, 1.0, 1.0, 1.0]));
    put(108, &floats(&[DATA as f64, 1.0, 0.0]));
    put(123, &[MILLIMETRES]);
    if let Some((rotation, _)) = quaternion {
        put(252, &SCANNER.to_le_bytes());
        put(256, &floats(&rotation));
        put(268, &floats(&origin));
    }
    put(254, &SCANNER.to_le_bytes());
    for (row, offset) in affine.iter().zip([280, 296, 312]) {
        put(offset, &floats(row));
    }
    put(344, b"n+1\0");
    bytes
}

/// The last three parts of the quaternion of a grid's axes, and whether the third axis is turned round; none for axes
/// that are not perpendicular.
fn quaternion(axes: [[f64; 3]; 3], sizes: [f64; 3]) -> Option<([f64; 3], f64)> {
    use crate::geometry::{cross, dot};
    let [x, y, z]: [[f64; 3]; 3] = std::array::from_fn(|axis| axes[axis].map(|part| part / sizes[axis]));
    // Directions come from few decimals.
    if ![dot(x, y), dot(y, z), dot(z, x)].iter().all(|cosine| cosine.abs() < 1e-4) {
        return None;
    }
    let sign = if dot(cross(x, y), z) < 0.0 { -1.0 } else { 1.0 };
    let r = |row: usize, column: usize| [x[row], y[row], sign * z[row]][column];
    // Shepperd 1978: from the largest part, so that nothing small is divided by.
    let squares = [
        1.0 + r(0, 0) + r(1, 1) + r(2, 2),
        1.0 + r(0, 0) - r(1, 1) - r(2, 2),
        1.0 + r(1, 1) - r(0, 0) - r(2, 2),
        1.0 + r(2, 2) - r(0, 0) - r(1, 1),
    ];
    let largest = (0..4).max_by(|a, b| squares[*a].total_cmp(&squares[*b]))?;
    let twice = squares[largest].sqrt();
    let part = |value: f64| value / twice / 2.0;
    let [a, b, c, d] = match largest {
        0 => [twice / 2.0, part(r(2, 1) - r(1, 2)), part(r(0, 2) - r(2, 0)), part(r(1, 0) - r(0, 1))],
        1 => [part(r(2, 1) - r(1, 2)), twice / 2.0, part(r(0, 1) + r(1, 0)), part(r(0, 2) + r(2, 0))],
        2 => [part(r(0, 2) - r(2, 0)), part(r(0, 1) + r(1, 0)), twice / 2.0, part(r(1, 2) + r(2, 1))],
        _ => [part(r(1, 0) - r(0, 1)), part(r(0, 2) + r(2, 0)), part(r(1, 2) + r(2, 1)), twice / 2.0],
    };
    let length = (a * a + b * b + c * c + d * d).sqrt();
    // A quaternion and its negative are one rotation; the first part, which is not written, is not below 0.
    let turned = if a < 0.0 { -length } else { length };
    Some(([b, c, d].map(|part| part / turned), sign))
}
