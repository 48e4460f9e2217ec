//! A model's file on its way to a site: read ahead in pieces, each of them messages as they go over the wire.
//!
//! All sites fetch the same model, most of them at about the same time: a piece that one of them has had read and made into
//! messages is there for the others, and is copied for none. Each piece that is read is a call to another thread and back.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use common::{Digest, Refusal};
use http_body::{Body, Frame};
use proto::CHUNK_BYTES;
use tokio::task::{JoinHandle, spawn_blocking};
use tonic::{Code, Status};

use crate::federation::Blob;
use crate::server::{answered, trailers};

pub use handed::{DownloadLayer, Nothing, handed};

mod framed;
mod handed;

/// Bytes of a file to a piece. A download that is alone at its place has two of them in memory.
const PIECE: usize = CHUNK_BYTES / 8;
/// Bytes of pieces that are kept for others while anybody downloads: so far apart sites may be and still share what is read.
const KEPT: usize = 32 << 20;

/// The downloads under way.
#[derive(Clone, Debug, Default)]
pub struct Downloads(Arc<Mutex<Weak<Pieces>>>);

impl Downloads {
    /// Begins one of a file, or of a part of it. If the file cannot be read, `unread` is told.
    pub fn begin(&self, blob: Blob, part: Range<u64>, unread: impl Fn() + Send + Sync + 'static) -> Download {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // They went with the last download, and nothing of them is to be missed: whoever is the first begins with none.
        let shared = pieces.upgrade().unwrap_or_default();
        *pieces = Arc::downgrade(&shared);
        let (blob, unread) = (Arc::new(blob), Unread(Arc::new(unread)));
        Download { blob, pieces: shared, unread, read: part.start, end: part.end, next: None, is_over: false }
    }
}

/// Which piece: of what file and which version of it, from where on.
type Place = (Digest, u64, u64);

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

/// Who is told that a file cannot be read.
#[derive(Clone)]
struct Unread(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unread")
    }
}

/// One download, as the body of an answer. A site that reads slowly holds two pieces, and no thread.
#[derive(Debug)]
pub struct Download {
    blob: Arc<Blob>,
    pieces: Arc<Pieces>,
    unread: Unread,
    /// Where in the file the piece after the next begins.
    read: u64,
    /// Where the last one ends.
    end: u64,
    /// The next piece, if it is asked for.
    next: Option<Next>,
    /// The status is told.
    is_over: bool,
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
        let from = self.read;
        if from >= self.end {
            return;
        }
        // Pieces are the same to whoever reads them; a download that goes on from within one, or ends there, has its part for itself.
        let whole = self.blob.bytes.min((from / PIECE as u64 + 1) * PIECE as u64);
        let end = whole.min(self.end);
        let is_whole = from.is_multiple_of(PIECE as u64) && end == whole;
        let place = (self.blob.digest, self.blob.version, from);
        self.read = end;
        self.next = Some(match self.pieces.get(place).filter(|_| is_whole) {
            Some(piece) => Next::Here(piece),
            None => {
                let (blob, pieces, length) = (Arc::clone(&self.blob), Arc::clone(&self.pieces), (end - from) as usize);
                let unread = self.unread.clone();
                Next::Reading(spawn_blocking(move || {
                    let piece = framed::read(&blob, from, length).map_err(|error| {
                        tracing::error!(%error, "a model cannot be read");
                        unread.0();
                        Refusal::Unavailable
                    })?;
                    if is_whole {
                        pieces.keep(place, piece.clone());
                    }
                    Ok(piece)
                }))
            }
        });
    }

    fn end(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.is_over = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(status)))))
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        if this.next.is_none() {
            this.read_ahead();
        }
        let piece = match &mut this.next {
            None => return this.end(Status::new(Code::Ok, "")),
            Some(Next::Here(piece)) => Ok(std::mem::take(piece)),
            Some(Next::Reading(reading)) => answered(ready!(Pin::new(reading).poll(cx))),
        };
        this.next = None;
        match piece {
            Ok(piece) => {
                this.read_ahead();
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            // Nothing may follow.
            Err(status) => this.end(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use http_body_util::BodyExt;
    use prost::Message;
    use proto::wire::Chunk;

    use super::framed::MESSAGE;
    use super::*;

    /// A file of so many bytes, which is said to have some more.
    fn blob(length: usize, more: u64) -> (Vec<u8>, Blob) {
        let bytes: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let digest = Digest::of(&bytes);
        (bytes, Blob { digest, file, bytes: length as u64 + more, version: 0 })
    }

    /// All that a download sends: the bytes, from an offset on, and the status after them.
    async fn all_of(download: &mut Download, from: usize) -> (Vec<u8>, Status) {
        let (mut sent, mut found, mut status) = (Vec::new(), Vec::new(), None);
        while let Some(frame) = download.frame().await {
            match frame.unwrap().into_data() {
                Ok(data) => sent.extend_from_slice(&data),
                Err(frame) => status = Status::from_header_map(&frame.into_trailers().unwrap()),
            }
        }
        let mut rest = &sent[..];
        while let Some((head, after)) = rest.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let chunk = Chunk::decode(&after[..length]).unwrap();
            assert_eq!((head[0], chunk.offset), (0, (from + found.len()) as u64));
            assert!((1..=MESSAGE).contains(&chunk.data.len()));
            found.extend_from_slice(&chunk.data);
            rest = &after[length..];
        }
        (found, status.unwrap())
    }

    #[tokio::test]
    async fn a_file_arrives_whole_from_any_offset_on_in_chunks_that_say_where_they_belong() {
        let length = 2 * CHUNK_BYTES + 77;
        for from in [0, 1, MESSAGE, CHUNK_BYTES + 5, length - 1, length] {
            let (bytes, blob) = blob(length, 0);
            let mut download = Downloads::default().begin(blob, from as u64..length as u64, || ());
            let (found, status) = all_of(&mut download, from).await;
            assert!(found == bytes[from..] && status.code() == Code::Ok, "from {from}: {status}");
        }
    }

    #[tokio::test]
    async fn a_part_of_a_file_ends_where_it_is_to_and_is_no_whole_piece_to_others() {
        let length = 2 * PIECE + 77;
        let (bytes, first) = blob(length, 0);
        let (downloads, again) = (Downloads::default(), || blob(length, 0).1);
        let _kept = downloads.begin(first, 0..0, || ());
        for (from, end) in [(0, 1), (0, PIECE - 1), (5, PIECE + 5), (PIECE, PIECE + 9), (PIECE, length), (9, 9)] {
            let mut part = downloads.begin(again(), from as u64..end as u64, || ());
            let (found, status) = all_of(&mut part, from).await;
            assert!(found == bytes[from..end] && status.code() == Code::Ok, "{from} to {end}: {status}");
        }
        let (found, _) = all_of(&mut downloads.begin(again(), 0..length as u64, || ()), 0).await;
        assert!(found == bytes);
        // What is whole is there, and a part of it is read all the same.
        let (found, _) = all_of(&mut downloads.begin(again(), PIECE as u64..PIECE as u64 + 3, || ()), PIECE).await;
        assert!(found == bytes[PIECE..PIECE + 3]);
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_than_it_was_ends_in_a_refusal_and_is_told_and_nothing_follows() {
        let (bytes, blob) = blob(PIECE + 100, 1);
        let told = Arc::new(Mutex::new(0));
        let unread = {
            let told = Arc::clone(&told);
            move || *told.lock().unwrap() += 1
        };
        let (found, status) = all_of(&mut Downloads::default().begin(blob, 0..PIECE as u64 + 101, unread), 0).await;
        assert_eq!(proto::refusal::code(&status), Some(Refusal::Unavailable.code()));
        assert!(found == bytes[..PIECE]);
        assert_eq!(*told.lock().unwrap(), 1, "whoever can mend it is told");
    }

    #[tokio::test]
    async fn what_one_download_had_read_the_others_are_given_and_no_other_file() {
        let length = 3 * PIECE + 5;
        let ((bytes, first), downloads) = (blob(length, 0), Downloads::default());
        let mut first = downloads.begin(first, PIECE as u64..length as u64, || ());
        assert!(all_of(&mut first, PIECE).await.0 == bytes[PIECE..]);
        // The file is gone for the others.
        let gone = || Blob { digest: Digest::of(&bytes), ..blob(0, length as u64).1 };
        let mut second = downloads.begin(gone(), PIECE as u64..length as u64, || ());
        assert!(all_of(&mut second, PIECE).await.0 == bytes[PIECE..]);
        let refused = async |blob, from: usize| {
            let (found, status) = all_of(&mut downloads.begin(blob, from as u64..length as u64, || ()), from).await;
            found.is_empty() && status.code() == Code::Unavailable
        };
        assert!(refused(blob(0, length as u64).1, PIECE).await, "of another file nothing is here");
        assert!(refused(Blob { version: 1, ..gone() }, PIECE).await, "of a file that was damaged nothing is given");
        assert!(refused(gone(), 0).await, "nobody had it read");
        assert!(refused(gone(), PIECE + 7).await, "the rest of a piece is nobody else's");
        drop((first, second));
        assert!(refused(gone(), PIECE).await, "nothing is kept when nobody downloads");
    }

    #[test]
    fn what_is_kept_for_others_stays_within_its_memory_and_is_what_was_read_last() {
        let pieces = Pieces::default();
        let place = |piece: usize| (Digest::of(b"model"), 0, (piece * PIECE) as u64);
        (0..1000).for_each(|piece| pieces.keep(place(piece), Bytes::from_static(b"piece")));
        (0..1000).for_each(|_| pieces.keep(place(999), Bytes::from_static(b"piece")));
        let kept: Vec<_> = (0..1000).filter(|piece| pieces.get(place(*piece)).is_some()).collect();
        assert_eq!(kept, (1000 - KEPT / PIECE..1000).collect::<Vec<_>>());
    }
}
