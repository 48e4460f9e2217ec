//! Messages on their way out, each with its signature: a request's, which is one message, and an answer's, of any number.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use common::message::Part;
use http::HeaderMap;
use http_body::{Body, Frame};

use super::framing::{Messages, framed};
use super::{MessageError, Talk, headers};
use crate::CertsError;
use crate::keys::CallKey;
use crate::signing::SigningKey;

/// A request of one message, as it is sent.
pub fn request(talk: &Talk, key: &CallKey, content: &[u8]) -> Result<Bytes, CertsError> {
    let signature = key.sign(&talk.statement(Part::Request { sequence: 1, last: true }, content))?;
    Ok(framed(&[content, &[1], &signature]))
}

/// Signs the status of an answer of so many messages, beside it.
pub fn sign_end(talk: &Talk, key: &SigningKey, messages: u64, status: &mut HeaderMap) {
    let statement = talk.statement(Part::End { messages }, &headers::status_content(status));
    status.insert(headers::SIGNATURE, headers::signature_value(&key.sign(&statement).0));
}

/// The body of an answer, whose messages and status are signed as they pass. Memory: one message.
#[derive(Debug)]
pub struct Sealed<B> {
    inner: B,
    talk: Arc<Talk>,
    key: Arc<SigningKey>,
    messages: Messages,
    sent: u64,
}

impl<B> Sealed<B> {
    /// The answer to a call; each message is at most `longest` bytes.
    pub fn reply(inner: B, talk: Arc<Talk>, key: Arc<SigningKey>, longest: usize) -> Self {
        Self { inner, talk, key, messages: Messages::new(longest), sent: 0 }
    }
}

impl<B> Body for Sealed<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = MessageError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MessageError>>> {
        let this = self.get_mut();
        loop {
            match this.messages.next_whole() {
                Ok(Some(content)) => {
                    this.sent += 1;
                    let signature = this.key.sign(&this.talk.statement(Part::Reply { sequence: this.sent }, &content));
                    return Poll::Ready(Some(Ok(Frame::data(framed(&[&content, &[0], &signature.0])))));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.messages.add(&data),
                    Err(frame) => {
                        let mut status = frame.into_trailers().unwrap_or_default();
                        sign_end(&this.talk, &this.key, this.sent, &mut status);
                        return Poll::Ready(Some(Ok(Frame::trailers(status))));
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(MessageError::Below(error.into())))),
                // Without trailers there is no status: who reads it takes it for cut, as it should.
                None => return Poll::Ready(None),
            }
        }
    }
}
