//! Sends calls to upstreams over kept connections.

use std::rc::Rc;
use std::time::Duration;

use actix_web::body::BodySize;
use bytes::Bytes;
use nebula_core::address::HostPort;

use crate::answer::Head;
use crate::call::{Call, CallBody};
use crate::connection::{Connection, Failure, Outgoing};
use crate::error::UpstreamError;
use crate::filter::Incoming;
use crate::pool::{Lane, Pool};
use crate::upstream::{Body, Upstream};

/// Calls upstreams. Made once per actix worker thread, in the factory of the `App`; clones share the connections.
#[derive(Clone)]
pub struct Client {
    pool: Rc<Pool>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

/// One try on one connection.
struct Attempt {
    head: Bytes,
    is_head: bool,
    timeout: Duration,
}

impl Client {
    /// A client without connections.
    #[must_use]
    pub fn new() -> Self {
        Self { pool: Pool::new() }
    }

    /// Sends a call and waits for the head of the answer.
    ///
    /// A kept connection that breaks before any byte of the answer is replaced by a new one, once: the upstream had
    /// closed it. Nothing else is tried twice. Dropping the future ends the call at the upstream.
    ///
    /// # Errors
    /// When no connection can be made, nothing comes in time, or what comes is no answer.
    pub async fn send(&self, call: Call<'_>) -> Result<Upstream, UpstreamError> {
        let Call { address, head, body, first_byte_timeout } = call;
        let length = match &body {
            CallBody::Empty => Some(0),
            CallBody::Bytes(bytes) => Some(bytes.len() as u64),
            CallBody::Stream { length, .. } => *length,
        };
        let is_head = head.is_head();
        let attempt = Attempt { head: head.finish(address, length), is_head, timeout: first_byte_timeout };
        let lane = self.pool.lane(address);
        let (connection, head) = match body {
            CallBody::Empty => send_whole(&attempt, &lane, address, Bytes::new()).await?,
            CallBody::Bytes(bytes) => send_whole(&attempt, &lane, address, bytes).await?,
            CallBody::Stream { prefix, rest, length, idle_timeout } => {
                let outgoing = Outgoing::Stream { prefix, rest, chunked: length.is_none(), idle_timeout };
                let connection = Connection::dial(address).await?;
                attempt.run(connection, outgoing).await.map_err(|failure| failure.error)?
            }
        };
        Ok(upstream(lane, connection, head, is_head))
    }
}

async fn send_whole(
    attempt: &Attempt,
    lane: &Lane,
    address: &HostPort,
    body: Bytes,
) -> Result<(Connection, Head), UpstreamError> {
    if let Some(kept) = lane.take() {
        match attempt.run(kept, Outgoing::Whole(body.clone())).await {
            Err(failure) if failure.untouched => {}
            other => return other.map_err(|failure| failure.error),
        }
    }
    let connection = Connection::dial(address).await?;
    attempt.run(connection, Outgoing::Whole(body)).await.map_err(|failure| failure.error)
}

fn upstream(lane: Rc<Lane>, connection: Connection, head: Head, to_head: bool) -> Upstream {
    let Head { status, headers, proxy_error, framing, length, reusable } = head;
    let body = Body::new(connection, framing, reusable.then_some(lane));
    let size_of_head = to_head.then(|| length.map_or(BodySize::None, BodySize::Sized));
    Upstream { status, incoming: Incoming::of(&headers), headers, proxy_error, size_of_head, body }
}

impl Attempt {
    async fn run(&self, mut connection: Connection, body: Outgoing) -> Result<(Connection, Head), Failure> {
        let exchange = connection.exchange(self.head.clone(), body, self.is_head);
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(head) => head.map(|head| (connection, head)),
            Err(_) => Err(Failure { untouched: false, error: UpstreamError::Timeout }),
        }
    }
}
