//! A model's bytes as they go over the wire: gRPC messages, each with its five bytes before it. Made once where they are read, for
//! every site that fetches them.

use std::io;
use std::os::unix::fs::FileExt;

use bytes::{BufMut, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint};
use proto::CHUNK_BYTES;

use crate::federation::Blob;

/// Bytes of a file to a message: a site has a message in memory whole.
pub(super) const MESSAGE: usize = CHUNK_BYTES / 16;
/// Bytes that stand before them at most: gRPC's five, two keys, an offset and a length.
const HEAD: usize = 5 + 1 + 10 + 1 + 5;

/// A part of a file, in messages.
pub(super) fn read(blob: &Blob, mut offset: u64, length: usize) -> io::Result<Bytes> {
    let mut framed = Vec::with_capacity(length + length.div_ceil(MESSAGE) * HEAD);
    let end = offset + length as u64;
    while offset < end {
        let data = usize::try_from(end - offset).map_or(MESSAGE, |left| left.min(MESSAGE));
        put_head(&mut framed, offset, data);
        let begin = framed.len();
        framed.resize(begin + data, 0);
        blob.file.read_exact_at(&mut framed[begin..], offset)?;
        offset += data as u64;
    }
    Ok(framed.into())
}

/// Puts what stands before so many bytes of data: a message that is not compressed, its length, and of `Chunk` all but the data.
fn put_head(framed: &mut Vec<u8>, offset: u64, data: usize) {
    let begin = framed.len();
    framed.put_slice(&[0; 5]);
    if offset > 0 {
        encode_key(1, WireType::Varint, framed);
        encode_varint(offset, framed);
    }
    encode_key(2, WireType::LengthDelimited, framed);
    encode_varint(data as u64, framed);
    let message = framed.len() - begin - 5 + data;
    framed[begin + 1..begin + 5].copy_from_slice(&(message as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use common::Digest;
    use prost::Message;
    use proto::wire::Chunk;

    use super::*;

    #[test]
    fn a_part_of_a_file_is_the_messages_that_prost_makes_of_it() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|place| (place % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let blob = Blob { digest: Digest::of(&bytes), file, bytes: bytes.len() as u64, version: 0 };
        for (from, length) in [(0, 1), (0, MESSAGE), (1, 2 * MESSAGE), (MESSAGE, MESSAGE + 1), (299_999, 1), (7, 0)] {
            let mut expected = Vec::new();
            for (place, data) in bytes[from..from + length].chunks(MESSAGE).enumerate() {
                let data = Bytes::copy_from_slice(data);
                let message = Chunk { offset: (from + place * MESSAGE) as u64, data }.encode_to_vec();
                expected.push(0);
                expected.extend((message.len() as u32).to_be_bytes());
                expected.extend(message);
            }
            assert!(read(&blob, from as u64, length).unwrap() == expected, "{length} from {from}");
        }
        let short = read(&blob, 299_999, 2).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    }
}
