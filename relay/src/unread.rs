//! Responses that are sent although the request's body has not been read to its end.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web;
use bytes::Bytes;

/// A response's body that keeps what is left of the request's. The server takes a dropped rest for one that it is to
/// read and throw away for as long as it comes, in chunks perhaps for ever; with one that is kept it ends the
/// connection, once the client has had some time to read the response. A rest of nothing changes nothing.
pub struct Unread {
    body: BoxBody,
    _rest: web::Payload,
}

impl Unread {
    /// The body of a response before whose end `rest` is not dropped.
    #[must_use]
    pub fn keep(rest: web::Payload, body: BoxBody) -> BoxBody {
        BoxBody::new(Self { body, _rest: rest })
    }
}

impl MessageBody for Unread {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
