//! Messages of gRPC out of a body's pieces, which begin and end wherever whatever carries them pleases.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{MessageError, SEALED_BYTES, SIGNATURE_BYTES};

/// A byte that says whether it is compressed, and four of length.
const PREFIX: usize = 5;

/// Puts messages together. It holds no more than one, and the piece that came last.
#[derive(Debug)]
pub struct Messages {
    buffer: BytesMut,
    longest: usize,
}

impl Messages {
    /// Messages of at most so many bytes.
    pub fn new(longest: usize) -> Self {
        Self { buffer: BytesMut::new(), longest }
    }

    /// The next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next message that is whole.
    pub fn next_whole(&mut self) -> Result<Option<Bytes>, MessageError> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(MessageError::Framing("a message is compressed, and none is here"));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.longest {
            return Err(MessageError::Framing("a message is longer than any is here"));
        }
        if self.buffer.len() - PREFIX < length {
            self.buffer.reserve(PREFIX + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Whether nothing of a message is left.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// A message as gRPC writes it.
pub fn framed(parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    // No message is that long: whoever made it was held to MESSAGE_BYTES.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    parts.iter().for_each(|part| bytes.put_slice(part));
    bytes.freeze()
}

/// The content of a signed message, whether it is the last, and its signature.
pub fn parted(sealed: &Bytes) -> Result<(Bytes, bool, [u8; SIGNATURE_BYTES]), MessageError> {
    let none = MessageError::Framing("a message is not signed");
    let Some(length) = sealed.len().checked_sub(SEALED_BYTES) else { return Err(none) };
    let Some((signature, [last])) = sealed[length..].split_last_chunk::<SIGNATURE_BYTES>().map(|(last, s)| (s, last))
    else {
        return Err(none);
    };
    match *last {
        last @ 0..=1 => Ok((sealed.slice(..length), last == 1, *signature)),
        _ => Err(none),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_wherever_their_pieces_end() {
        let all = [&framed(&[b"one"])[..], &framed(&[]), &framed(&[b"th", b"ree"])].concat();
        for size in 1..=all.len() {
            let (mut messages, mut found) = (Messages::new(5), Vec::new());
            for piece in all.chunks(size) {
                messages.add(piece);
                while let Some(message) = messages.next_whole().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(
                (&found[..], messages.is_empty()),
                (&[&b"one"[..], b"", b"three"].map(Bytes::from_static)[..], true)
            );
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_a_byte_of_it_is_kept() {
        let mut messages = Messages::new(4);
        messages.add(&framed(&[b"12345"])[..PREFIX]);
        assert!(matches!(messages.next_whole(), Err(MessageError::Framing(_))));
        let mut messages = Messages::new(4);
        messages.add(&[1, 0, 0, 0, 0]);
        assert!(matches!(messages.next_whole(), Err(MessageError::Framing(_))));
    }

    #[test]
    fn a_signed_message_comes_apart_and_one_that_is_too_short_or_marked_oddly_does_not() {
        let sealed = |mark: u8| Bytes::from([b"content".as_slice(), &[mark], &[7; SIGNATURE_BYTES]].concat());
        let (content, last, signature) = parted(&sealed(1)).unwrap();
        assert_eq!((&content[..], last, signature), (&b"content"[..], true, [7; SIGNATURE_BYTES]));
        assert!(!parted(&sealed(0)).unwrap().1);
        assert!(parted(&sealed(2)).is_err());
        assert!(parted(&Bytes::from_static(&[0; SEALED_BYTES - 1])).is_err());
        assert_eq!(parted(&Bytes::from_static(&[0; SEALED_BYTES])).unwrap().0.len(), 0);
    }
}
