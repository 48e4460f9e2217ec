//! A quick checksum (XXH3, 128 bits) of bytes whose digest this process took itself: it tells whether a disk gives back what was
//! given to it, at a tenth of the cost of a digest. It says nothing against somebody who chooses bytes, and it is written down
//! nowhere: whoever has not seen the bytes come takes their digest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::Xxh3;

/// A checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(u128);

/// Bytes of a file that are read at a time.
const PIECE: usize = 256 << 10;

impl Checksum {
    /// That of a file as it is now.
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        let (mut checksummer, mut bytes, mut offset) = (Checksummer::default(), vec![0; PIECE], 0);
        loop {
            match file.read_at(&mut bytes, offset)? {
                0 => return Ok(checksummer.finish()),
                count => {
                    checksummer.update(&bytes[..count]);
                    offset += count as u64;
                }
            }
        }
    }
}

/// A checksum of bytes that come piece by piece.
#[derive(Clone, Default)]
pub(crate) struct Checksummer(Box<Xxh3>);

impl Checksummer {
    /// Takes the next bytes in.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes taken in so far.
    pub(crate) fn finish(&self) -> Checksum {
        Checksum(self.0.digest128())
    }
}

impl std::fmt::Debug for Checksummer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Checksummer").field(&self.finish()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Checksum {
        let mut checksummer = Checksummer::default();
        pieces.into_iter().for_each(|piece| checksummer.update(piece));
        checksummer.finish()
    }

    #[test]
    fn it_is_that_of_the_bytes_however_they_are_cut_and_another_after_any_flipped_bit() {
        let bytes: Vec<u8> = (0..3000_u32).map(|place| (place * 37 % 251) as u8).collect();
        let whole = of([&bytes[..]]);
        for cut in [1, 7, 64, 1024] {
            assert_eq!(of(bytes.chunks(cut)), whole, "{cut}");
        }
        for bit in 0..8 * bytes.len() {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(of([&other[..]]), whole, "bit {bit}");
        }
        assert_ne!(of([&bytes[1..]]), whole);
    }
}
