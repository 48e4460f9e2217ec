//! A model's file on its way to a site: read ahead in pieces, sent in chunks.
//!
//! Each piece is a call to another thread and back, so pieces are as large as memory permits: the more downloads, the smaller.

use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use common::Refusal;
use proto::{CHUNK_BYTES, wire};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_stream::Stream;
use tonic::Status;

use crate::federation::Blob;
use crate::server::answered;

/// Bytes of a file to a message: a message is in memory as it is read and as it is sent.
const MESSAGE: usize = CHUNK_BYTES / 16;
/// Bytes of pieces that all downloads together should have in memory; each has the one that is sent and the next.
const TOGETHER: usize = 4 << 20;

/// The downloads under way.
#[derive(Clone, Debug, Default)]
pub struct Downloads(Arc<()>);

impl Downloads {
    /// Begins one of a file, from an offset within it on.
    pub fn begin(&self, blob: Blob, offset: u64) -> Download {
        let (blob, piece) = (Arc::new(blob), Bytes::new());
        Download { blob, sent: offset, piece, read: offset, reading: None, under_way: Arc::clone(&self.0) }
    }
}

/// One download. A site that reads slowly holds two pieces, and no thread.
#[derive(Debug)]
pub struct Download {
    blob: Arc<Blob>,
    /// Where the next chunk belongs, and what of the file is at hand from there on.
    sent: u64,
    piece: Bytes,
    /// Where the next piece begins, and that piece on its way.
    read: u64,
    reading: Option<JoinHandle<Result<Bytes, Refusal>>>,
    under_way: Arc<()>,
}

impl Download {
    /// Has the next piece read, if there is one.
    fn read_ahead(&mut self) {
        let left = usize::try_from(self.blob.bytes - self.read).unwrap_or(usize::MAX);
        let (blob, offset) = (Arc::clone(&self.blob), self.read);
        let length = left.min(piece_bytes(Arc::strong_count(&self.under_way) - 1));
        self.read += length as u64;
        self.reading = (length > 0).then(|| spawn_blocking(move || read(&blob, offset, length)));
    }
}

impl Stream for Download {
    type Item = Result<wire::Chunk, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.piece.is_empty() {
            if this.reading.is_none() {
                this.read_ahead();
            }
            let Some(reading) = &mut this.reading else { return Poll::Ready(None) };
            match answered(ready!(Pin::new(reading).poll(context))) {
                Ok(piece) => this.piece = piece,
                Err(status) => {
                    // Nothing may follow.
                    (this.read, this.reading) = (this.blob.bytes, None);
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

/// Bytes of a piece with so many downloads under way: whole messages.
fn piece_bytes(downloads: usize) -> usize {
    (TOGETHER / downloads.max(1) / 2 / MESSAGE * MESSAGE).clamp(MESSAGE, CHUNK_BYTES)
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
        (bytes, Blob { file, bytes: length as u64 + more })
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

    #[test]
    fn pieces_of_all_downloads_together_stay_within_their_memory_until_there_are_very_many() {
        assert_eq!([0, 1, 2, 8, 32, 1000].map(piece_bytes), [1 << 20, 1 << 20, 1 << 20, 256 << 10, 64 << 10, 64 << 10]);
        let downloads = Downloads::default();
        let _all: Vec<_> = (0..4).map(|_| downloads.begin(blob(1, 0).1, 0)).collect();
        assert_eq!(piece_bytes(Arc::strong_count(&downloads.0) - 1), 512 << 10);
    }
}
