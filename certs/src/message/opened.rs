//! A body whose messages were signed at the other end: each is handed on when its signature holds, and the end is held to its own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use common::message::Part;
use http::HeaderMap;
use http_body::{Body, Frame};

use super::framing::{Messages, framed, parted};
use super::{Hand, MessageError, SEALED_BYTES, Talk, headers};

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
}

/// A body of signed messages, which comes out without their signatures. Memory: one message.
#[derive(Debug)]
pub struct Opened<B> {
    inner: B,
    direction: Direction,
    talk: Arc<Talk>,
    hand: Hand,
    messages: Messages,
    taken: u64,
    has_ended: bool,
    has_failed: bool,
}

impl<B> Opened<B> {
    /// The messages of a request; each at most `longest` bytes without its signature.
    pub fn request(inner: B, talk: Arc<Talk>, hand: Hand, longest: usize) -> Self {
        Self::of(inner, Direction::Request, talk, hand, longest)
    }

    /// The messages of an answer, and its status.
    pub fn reply(inner: B, talk: Arc<Talk>, hand: Hand, longest: usize) -> Self {
        Self::of(inner, Direction::Reply, talk, hand, longest)
    }

    /// The body of an answer whose status came with its head: nothing may follow.
    pub fn ended(inner: B, talk: Arc<Talk>, hand: Hand) -> Self {
        Self { has_ended: true, ..Self::of(inner, Direction::Reply, talk, hand, 0) }
    }

    fn of(inner: B, direction: Direction, talk: Arc<Talk>, hand: Hand, longest: usize) -> Self {
        let messages = Messages::new(longest.saturating_add(SEALED_BYTES));
        Self { inner, direction, talk, hand, messages, taken: 0, has_ended: false, has_failed: false }
    }

    /// The content of the next message, if its signature holds.
    fn taken(&mut self, sealed: &Bytes) -> Result<Bytes, MessageError> {
        let (content, last, signature) = parted(sealed)?;
        let sequence = self.taken + 1;
        let part = match self.direction {
            Direction::Request => Part::Request { sequence, last },
            Direction::Reply if last => return Err(MessageError::Framing("a message is marked as the end")),
            Direction::Reply => Part::Reply { sequence },
        };
        if !self.hand.signed(&self.talk.statement(part, &content), &signature) {
            return Err(MessageError::Signature("a message"));
        }
        (self.taken, self.has_ended) = (sequence, last);
        Ok(framed(&[&content]))
    }

    /// The status that is signed as the end.
    fn end(&mut self, trailers: &HeaderMap) -> Result<HeaderMap, MessageError> {
        if !self.messages.is_empty() {
            return Err(MessageError::Truncated);
        }
        verify_end(&self.talk, &self.hand, self.taken, trailers)?;
        self.has_ended = true;
        Ok(headers::believed(trailers, &[]))
    }

    fn next(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, MessageError> {
        match frame.into_data() {
            Ok(data) if self.has_ended && !data.is_empty() => {
                Err(MessageError::Framing("there is more after the signed end"))
            }
            Ok(data) => {
                self.messages.add(&data);
                Ok(None)
            }
            Err(frame) => match (self.direction, frame.into_trailers()) {
                (Direction::Reply, Ok(trailers)) => Ok(Some(Frame::trailers(self.end(&trailers)?))),
                // A request of gRPC has none: whatever was put there is not passed on.
                _ => Ok(None),
            },
        }
    }
}

/// Holds a status to its signature as the end of an answer of so many messages.
pub(super) fn verify_end(talk: &Talk, hand: &Hand, messages: u64, headers: &HeaderMap) -> Result<(), MessageError> {
    if !headers.contains_key(headers::SIGNATURE) {
        return Err(MessageError::Header { name: "cmrfed-signature", why: "is missing from the answer's status" });
    }
    let statement = talk.statement(Part::End { messages }, &headers::status_content(headers));
    if hand.signed(&statement, &headers::signature(headers)?) {
        Ok(())
    } else {
        Err(MessageError::Signature("the answer's status"))
    }
}

impl<B> Body for Opened<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = MessageError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MessageError>>> {
        let this = self.get_mut();
        if this.has_failed {
            return Poll::Ready(None);
        }
        let polled = loop {
            let whole = match this.messages.next_whole() {
                Ok(Some(_)) if this.has_ended => Err(MessageError::Framing("there is more after the signed end")),
                Ok(Some(sealed)) => this.taken(&sealed).map(Some),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            match whole {
                Ok(Some(content)) => break Some(Ok(Frame::data(content))),
                Ok(None) => {}
                Err(error) => break Some(Err(error)),
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match this.next(frame) {
                    Ok(Some(frame)) => break Some(Ok(frame)),
                    Ok(None) => {}
                    Err(error) => break Some(Err(error)),
                },
                Some(Err(error)) => break Some(Err(MessageError::Below(error.into()))),
                None if this.has_ended && this.messages.is_empty() => break None,
                None => break Some(Err(MessageError::Truncated)),
            }
        };
        this.has_failed = matches!(polled, Some(Err(_)));
        Poll::Ready(polled)
    }
}
