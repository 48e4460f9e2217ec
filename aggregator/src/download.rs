//! A model's file on its way to a site: read ahead in pieces, sent in chunks.
//!
//! All sites fetch the same model, most of them at about the same time: a piece that one of them has had read is there for the
//! others. Each piece that is read is a call to another thread and back.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use common::{Digest, Refusal};
use proto::{CHUNK_BYTES, wire};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_stream::Stream;
use tonic::Status;

use crate::federation::Blob;
use crate::server::answered;

/// Bytes of a file to a message: a message is in memory as it is read and as it is sent.
const MESSAGE: usize = CHUNK_BYTES / 16;
/// Bytes of a piece. A download that is alone at its place has two of them in memory.
const PIECE: usize = CHUNK_BYTES / 8;
/// Bytes of pieces that are kept for others while anybody downloads: so far apart sites may be and still share what is read.
const KEPT: usize = 32 << 20;

/// The downloads under way.
#[derive(Clone, Debug, Default)]
pub struct Downloads(Arc<Mutex<Weak<Pieces>>>);

impl Downloads {
    /// Begins one of a file, from an offset within it on.
    pub fn begin(&self, blob: Blob, offset: u64) -> Download {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nobody downloads there are none yet.
        let shared = pieces.upgrade().unwrap_or_default();
        *pieces = Arc::downgrade(&shared);
        Download { blob: Arc::new(blob), pieces: shared, sent: offset, piece: Bytes::new(), read: offset, next: None }
    }
}

/// Which piece: of what file, from where on.
type Place = (Digest, u64);

/// What was read of late, the oldest first. It is gone with the last download.
#[derive(Debug, Default)]
struct Pieces(Mutex<VecDeque<(Place, Bytes)>>);

impl Pieces {
    fn get(&self, place: Place) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest are asked for most.
        kept.iter().rev().find(|(kept, _)| *kept == place).map(|(_, piece)| piece.clone())
    }

    fn keep(&self, place: Place, piece: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Two that read it at the same time each have it; others need it once.
        if kept.iter().all(|(kept, _)| *kept != place) {
            kept.push_back((place, piece));
        }
        while kept.len() > KEPT / PIECE {
            kept.pop_front();
        }
    }
}

/// One download. A site that reads slowly holds two pieces, and no thread.
#[derive(Debug)]
pub struct Download {
    blob: Arc<Blob>,
    pieces: Arc<Pieces>,
    /// Where the next chunk belongs, and what of the file is at hand from there on.
    sent: u64,
    piece: Bytes,
    /// Where the next piece begins, and that piece, if it is asked for.
    read: u64,
    next: Option<Next>,
}

#[derive(Debug)]
enum Next {
    /// Somebody had it read.
    Here(Bytes),
    /// It is being read.
    Reading(JoinHandle<Result<Bytes, Refusal>>),
}

impl Download {
    /// Asks for the next piece, if there is one.
    fn read_ahead(&mut self) {
        let (from, bytes) = (self.read, self.blob.bytes);
        if from >= bytes {
            return;
        }
        // Whole pieces, so that they are the same to whoever reads them; a download that goes on may begin within one.
        let start = from / PIECE as u64 * PIECE as u64;
        let end = bytes.min(start + PIECE as u64);
        self.read = end;
        let (place, within) = ((self.blob.digest, start), (from - start) as usize);
        self.next = Some(match self.pieces.get(place) {
            Some(piece) => Next::Here(piece.slice(within..)),
            None => {
                let (blob, pieces, length) = (Arc::clone(&self.blob), Arc::clone(&self.pieces), (end - start) as usize);
                Next::Reading(spawn_blocking(move || {
                    let piece = read(&blob, start, length)?;
                    pieces.keep(place, piece.clone());
                    Ok(piece.slice(within..))
                }))
            }
        });
    }
}

impl Stream for Download {
    type Item = Result<wire::Chunk, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.piece.is_empty() {
            if this.next.is_none() {
                this.read_ahead();
            }
            let piece = match &mut this.next {
                None => return Poll::Ready(None),
                Some(Next::Here(piece)) => Ok(std::mem::take(piece)),
                Some(Next::Reading(reading)) => answered(ready!(Pin::new(reading).poll(context))),
            };
            this.next = None;
            match piece {
                Ok(piece) => this.piece = piece,
                Err(status) => {
                    // Nothing may follow.
                    this.read = this.blob.bytes;
                    return Poll::Ready(Some(Err(status)));
                }
            }
            this.read_ahead();
        }
        let data = this.piece.split_to(this.piece.len().min(MESSAGE));
        let offset = this.sent;
        this.sent += data.len() as u64;
        Poll::Ready(Some(Ok(wire::Chunk { offset, data })))
    }
}

fn read(blob: &Blob, offset: u64, length: usize) -> Result<Bytes, Refusal> {
    let mut piece = Vec::with_capacity(length);
    // Into memory that nobody has cleared before: each download has a place in the file of its own.
    let mut file = &blob.file;
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(length as u64).read_to_end(&mut piece));
    let unreadable = |error: &io::Error| {
        tracing::error!(%error, "a model cannot be read");
        Refusal::Unavailable
    };
    match read {
        Ok(count) if count == length => Ok(piece.into()),
        Ok(_) => Err(unreadable(&io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(unreadable(&error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use tokio_stream::StreamExt;

    use super::*;

    /// A file of so many bytes, which is said to have some more.
    fn blob(length: usize, more: u64) -> (Vec<u8>, Blob) {
        let bytes: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let digest = Digest::of(&bytes);
        (bytes, Blob { digest, file, bytes: length as u64 + more })
    }

    #[tokio::test]
    async fn a_file_arrives_whole_from_any_offset_on_in_chunks_that_say_where_they_belong() {
        let length = 2 * CHUNK_BYTES + 77;
        for from in [0, 1, MESSAGE, CHUNK_BYTES + 5, length - 1, length] {
            let (bytes, blob) = blob(length, 0);
            let (mut download, mut found) = (Downloads::default().begin(blob, from as u64), Vec::new());
            while let Some(chunk) = download.next().await {
                let chunk = chunk.unwrap();
                assert_eq!(chunk.offset, (from + found.len()) as u64);
                assert!((1..=MESSAGE).contains(&chunk.data.len()));
                found.extend_from_slice(&chunk.data);
            }
            assert!(found == bytes[from..], "from {from}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_than_it_was_ends_in_a_refusal_and_nothing_follows() {
        let (_, blob) = blob(100, 1);
        let mut download = Downloads::default().begin(blob, 0);
        let refused = download.next().await.unwrap().unwrap_err();
        assert_eq!(proto::refusal::code(&refused), Some(Refusal::Unavailable.code()));
        assert!(download.next().await.is_none());
    }

    #[tokio::test]
    async fn what_one_download_had_read_the_others_are_given_and_no_other_file() {
        let length = 3 * PIECE + 5;
        let ((bytes, first), downloads) = (blob(length, 0), Downloads::default());
        let (mut first, mut found) = (downloads.begin(first, 0), Vec::new());
        while let Some(chunk) = first.next().await {
            found.extend_from_slice(&chunk.unwrap().data);
        }
        assert!(found == bytes);
        // The file is gone for the second one, which begins within a piece.
        let (_, mut gone) = blob(0, length as u64);
        gone.digest = Digest::of(&bytes);
        let (mut second, mut found) = (downloads.begin(gone, 7), Vec::new());
        while let Some(chunk) = second.next().await {
            found.extend_from_slice(&chunk.unwrap().data);
        }
        assert!(found == bytes[7..]);
        let (_, other) = blob(0, length as u64);
        assert!(downloads.begin(other, 0).next().await.unwrap().is_err(), "of another file nothing is here");
        drop((first, second));
        let (_, mut later) = blob(0, length as u64);
        later.digest = Digest::of(&bytes);
        assert!(downloads.begin(later, 0).next().await.unwrap().is_err(), "nothing is kept when nobody downloads");
    }

    #[test]
    fn what_is_kept_for_others_stays_within_its_memory_and_is_what_was_read_last() {
        let pieces = Pieces::default();
        let place = |piece: usize| (Digest::of(b"model"), (piece * PIECE) as u64);
        (0..1000).for_each(|piece| pieces.keep(place(piece), Bytes::from_static(b"piece")));
        (0..1000).for_each(|_| pieces.keep(place(999), Bytes::from_static(b"piece")));
        let kept: Vec<_> = (0..1000).filter(|piece| pieces.get(place(*piece)).is_some()).collect();
        assert_eq!(kept, (1000 - KEPT / PIECE..1000).collect::<Vec<_>>());
    }
}
