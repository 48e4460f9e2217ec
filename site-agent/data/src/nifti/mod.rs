//! NIfTI-1 files, as annotation tools read and write them: a strict reader, a writer that states DICOM's geometry twice.
//!
//! The format is 348 bytes of header before plain numbers (nifti1.h, Cox et al. 2004), little enough to be strict with: this
//! reader makes room for what is there, up to a limit, refuses what is more or less than the header says, and names each
//! fault with its remedy; the writer replaces a file whole or not at all.
//!
//! NIfTI's world is RAS (+x to the right, +y to the front, +z to the head), DICOM's LPS: x and y change their sign, here
//! and nowhere else. Voxel `[i, j, k]` is column, row and slice of the images that a volume was made from.

mod header;
mod stack;

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use self::header::Header;
pub use self::stack::{StackError, slice_affine, stack_affine};
use crate::durable::replace;

/// A map from voxel `[i, j, k, 1]` to the world, in mm (RAS); the last row is `[0, 0, 0, 1]`.
pub type Affine = [[f64; 4]; 4];

/// Numbers on a grid in the world.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume<T> {
    /// Voxels along `i` (columns), `j` (rows), `k` (slices), and moments; 1 where there is but one.
    pub dims: [usize; 4],
    /// Where voxels lie.
    pub affine: Affine,
    /// `i` runs fastest: a slice is an image's rows one after the other. [moments x slices x rows x columns]
    pub values: Vec<T>,
}

/// What a voxel of a written volume can be.
pub trait Voxel: Copy + sealed::Written {}

impl Voxel for u8 {}
impl Voxel for i16 {}
impl Voxel for f32 {}

mod sealed {
    use super::header::Kind;

    /// How a number is stored.
    pub trait Written {
        /// Its data type.
        const KIND: Kind;

        /// Adds its little-endian bytes.
        fn put(self, bytes: &mut Vec<u8>);
    }

    impl Written for u8 {
        const KIND: Kind = Kind::U8;

        fn put(self, bytes: &mut Vec<u8>) {
            bytes.push(self);
        }
    }

    impl Written for i16 {
        const KIND: Kind = Kind::I16;

        fn put(self, bytes: &mut Vec<u8>) {
            bytes.extend_from_slice(&self.to_le_bytes());
        }
    }

    impl Written for f32 {
        const KIND: Kind = Kind::F32;

        fn put(self, bytes: &mut Vec<u8>) {
            bytes.extend_from_slice(&self.to_le_bytes());
        }
    }
}

/// Largest volume that is read, in voxels: each takes four bytes of memory.
pub const MAX_VOXELS: u64 = 64 << 20;
/// Largest header with its extensions, in bytes.
const MAX_HEADER_BYTES: usize = 16 << 20;
/// Bytes that are decoded at once; holds whole numbers of every kind.
const CHUNK: usize = 64 << 10;

/// Why a NIfTI file was not read or written. The file's name may be what a site calls a patient: for the site alone.
#[derive(Debug, thiserror::Error)]
pub enum NiftiError {
    /// The disk refused.
    #[error("{file} cannot be used: {source}; check that it is there, its permissions and the free space")]
    Disk {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file, or its compressed form, ends early.
    #[error("{file} ends after {found} of {expected} bytes: it was cut short; copy or export it again")]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Bytes that its header calls for, with the header.
        expected: u64,
        /// Bytes there are, once expanded.
        found: u64,
    },
    /// Bytes behind the volume.
    #[error(
        "{file} holds more than the {expected} bytes that its header calls for: export it again as one NIfTI-1 file"
    )]
    Longer {
        /// The file.
        file: PathBuf,
        /// Bytes that its header calls for, with the header.
        expected: u64,
    },
    /// The compressed form is not what was written.
    #[error("{file} cannot be expanded ({what}): it is damaged; copy or export it again")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What the decoder said.
        what: String,
    },
    /// Not a header that can be used.
    #[error("{file} is no NIfTI-1 file that can be used: {what}; save it as a single NIfTI-1 file (.nii or .nii.gz)")]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong: the field, its value and the bound.
        what: String,
    },
    /// More than [`MAX_VOXELS`].
    #[error(
        "{file} would hold {voxels} voxels, more than the limit of {MAX_VOXELS}: save the volume of each moment as a file of its own"
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Voxels that its header calls for.
        voxels: u128,
    },
    /// A volume to be written is none.
    #[error(
        "a volume of {dims:?} voxels cannot be written with {values} values: every side is 1 to 32767, and each voxel has a value"
    )]
    Shape {
        /// Its sides.
        dims: [usize; 4],
        /// Its values.
        values: usize,
    },
}

/// Reads a file (.nii or .nii.gz, told by its bytes), whatever its data type and byte order. Values are scaled as the
/// header says (scl_slope, scl_inter).
pub fn read_nifti(path: &Path) -> Result<Volume<f32>, NiftiError> {
    let mut moments = Moments::open(path)?;
    moments.is_held(moments.voxels)?;
    let Volume { dims, affine, mut values } = moments.room();
    while moments.left > 0 {
        moments.read(&mut values)?;
    }
    moments.end()?;
    Ok(Volume { dims, affine, values })
}

/// A file that is read a moment at a time: a cine need not fit into memory.
pub(crate) struct Moments {
    source: Source<Box<dyn Read>>,
    header: Header,
    /// Voxels of all moments.
    voxels: u128,
    /// Moments that are not read yet.
    left: usize,
    /// Bytes of the file, once expanded.
    expected: u64,
}

impl Moments {
    /// Opens a file as far as its header. A moment holds at most [`MAX_VOXELS`].
    pub(crate) fn open(path: &Path) -> Result<Self, NiftiError> {
        let disk = |source| NiftiError::Disk { file: path.to_owned(), source };
        let mut file = BufReader::with_capacity(CHUNK, File::open(path).map_err(disk)?);
        let zipped = io::BufRead::fill_buf(&mut file).map_err(disk)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        let mut source = Source { file: path.to_owned(), reader, zipped, torn: false, read: 0 };
        let mut fixed = [0; header::LENGTH];
        source.exactly(&mut fixed, header::LENGTH as u64)?;
        let bad = |what| NiftiError::Header { file: path.to_owned(), what };
        let header = Header::decode(&fixed).map_err(bad)?;
        if header.offset > MAX_HEADER_BYTES {
            return Err(bad(format!(
                "its data begin at byte {}, behind the limit of {MAX_HEADER_BYTES}",
                header.offset
            )));
        }
        let voxels: u128 = header.dims.iter().map(|side| *side as u128).product();
        let left = header.dims[3];
        let bytes = voxels.saturating_mul(header.kind.bytes() as u128).saturating_add(header.offset as u128);
        let expected = u64::try_from(bytes).unwrap_or(u64::MAX);
        let mut moments = Self { source, header, voxels, left, expected };
        moments.is_held(voxels / left as u128)?;
        moments.source.exactly(&mut vec![0; moments.header.offset - header::LENGTH], expected)?;
        Ok(moments)
    }

    fn is_held(&self, voxels: u128) -> Result<(), NiftiError> {
        if voxels > u128::from(MAX_VOXELS) {
            return Err(NiftiError::TooLarge { file: self.source.file.clone(), voxels });
        }
        Ok(())
    }

    /// Voxels along columns, rows, slices and moments.
    pub(crate) fn dims(&self) -> [usize; 4] {
        self.header.dims
    }

    /// Where voxels lie.
    pub(crate) fn affine(&self) -> &Affine {
        &self.header.affine
    }

    fn room(&self) -> Volume<f32> {
        Volume { dims: self.header.dims, affine: self.header.affine, values: Vec::new() }
    }

    /// The next moment [slices x rows x columns]; none after the last one, when all of the file was held to its checksum.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<f32>>, NiftiError> {
        if self.left == 0 {
            return self.end().map(|()| None);
        }
        let mut values = Vec::new();
        self.read(&mut values)?;
        Ok(Some(values))
    }

    /// Adds a moment's values.
    fn read(&mut self, values: &mut Vec<f32>) -> Result<(), NiftiError> {
        let [columns, rows, slices, _] = self.header.dims;
        // Room is made as data come: a header's claim costs nothing.
        let (mut left, mut chunk) = (columns * rows * slices * self.header.kind.bytes(), vec![0; CHUNK]);
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK)];
            self.source.exactly(part, self.expected)?;
            self.header.values(part, values);
            left -= part.len();
        }
        self.left -= 1;
        Ok(())
    }

    /// Nothing follows the last moment. This also makes a decoder compare its checksum.
    fn end(&mut self) -> Result<(), NiftiError> {
        let beyond = self.source.fill(&mut [0])? > 0;
        let file = self.source.file.clone();
        if beyond {
            return Err(NiftiError::Longer { file, expected: self.expected });
        }
        if self.source.torn {
            return Err(NiftiError::Damaged { file, what: "its last bytes are missing".to_owned() });
        }
        Ok(())
    }
}

/// Writes a volume as .nii.gz with qform and sform, in mm: beside, then renamed, so that there is the old file or the new.
/// A sheared affine, which a qform cannot say, is written as sform alone; near half a turn a qform is less exact than the
/// sform, by the format. The same volume gives the same bytes.
pub fn write_nifti<T: Voxel>(path: &Path, volume: &Volume<T>) -> Result<(), NiftiError> {
    let bytes = nifti_bytes(volume)?;
    let mut zipped = GzEncoder::new(Vec::new(), Compression::new(6));
    let written = zipped.write_all(&bytes).and_then(|()| zipped.finish()).and_then(|bytes| replace(path, &bytes));
    written.map_err(|source| NiftiError::Disk { file: path.to_owned(), source })
}

/// A volume as an uncompressed file.
fn nifti_bytes<T: Voxel>(volume: &Volume<T>) -> Result<Vec<u8>, NiftiError> {
    let Volume { dims, affine, values } = volume;
    let sides = dims.iter().all(|side| (1..=i16::MAX as usize).contains(side));
    let count = dims.iter().try_fold(1_usize, |count, side| count.checked_mul(*side));
    if !sides || count != Some(values.len()) {
        return Err(NiftiError::Shape { dims: *dims, values: values.len() });
    }
    let mut bytes = header::encode(*dims, affine, T::KIND);
    values.iter().for_each(|value| value.put(&mut bytes));
    Ok(bytes)
}

/// A file being read, expanded if it is compressed.
struct Source<R> {
    file: PathBuf,
    reader: R,
    zipped: bool,
    /// The compressed form ended before its own end.
    torn: bool,
    read: u64,
}

impl<R: Read> Source<R> {
    /// Reads until the buffer is full or the file ends; how many bytes there were.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, NiftiError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What a decoder reports of a stream that ends within a block.
                Err(error) if self.zipped && error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.torn = true;
                    break;
                }
                Err(error) if self.zipped => {
                    return Err(NiftiError::Damaged { file: self.file.clone(), what: error.to_string() });
                }
                Err(source) => return Err(NiftiError::Disk { file: self.file.clone(), source }),
            }
        }
        self.read += filled as u64;
        Ok(filled)
    }

    fn exactly(&mut self, buffer: &mut [u8], expected: u64) -> Result<(), NiftiError> {
        if self.fill(buffer)? == buffer.len() {
            return Ok(());
        }
        Err(NiftiError::Truncated { file: self.file.clone(), expected, found: self.read })
    }
}

#[cfg(test)]
mod tests;
