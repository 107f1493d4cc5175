//! A response body that keeps its request's pass until it is over, or the client has left.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

use super::gate::Pass;

/// The body of a response whose request is in flight until it ends.
pub(super) fn until_over(body: BoxBody, pass: Pass) -> BoxBody {
    BoxBody::new(Held { body, pass: Some(pass) })
}

/// A body with a pass.
struct Held {
    body: BoxBody,
    pass: Option<Pass>,
}

impl MessageBody for Held {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let next = Pin::new(&mut self.body).poll_next(context);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.pass = None;
        }
        next
    }
}
