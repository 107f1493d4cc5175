//! Sends calls to upstreams over kept connections.

use std::rc::Rc;
use std::time::Duration;

use actix_web::body::BodySize;
use actix_web::http::Method;
use bytes::Bytes;
use nebula_core::address::HostPort;

use crate::call::{Call, CallBody};
use crate::connection::{Connection, Failure, Head, Outgoing, request_head};
use crate::error::UpstreamError;
use crate::pool::Pool;
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
struct Attempt<'a> {
    head: Bytes,
    method: &'a Method,
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
    pub async fn send(&self, call: Call) -> Result<Upstream, UpstreamError> {
        let Call { method, address, path_and_query, headers, body, first_byte_timeout } = call;
        let length = match &body {
            CallBody::Empty => Some(0),
            CallBody::Bytes(bytes) => Some(bytes.len() as u64),
            CallBody::Stream { length, .. } => *length,
        };
        let head = request_head(&method, &address, &path_and_query, &headers, length);
        let attempt = Attempt { head, method: &method, timeout: first_byte_timeout };
        let (connection, head) = match body {
            CallBody::Empty => self.send_whole(&attempt, &address, Bytes::new()).await?,
            CallBody::Bytes(bytes) => self.send_whole(&attempt, &address, bytes).await?,
            CallBody::Stream { prefix, rest, length, idle_timeout } => {
                let outgoing = Outgoing::Stream { prefix, rest, chunked: length.is_none(), idle_timeout };
                let connection = Connection::dial(&address).await?;
                attempt.run(connection, outgoing).await.map_err(|failure| failure.error)?
            }
        };
        Ok(self.upstream(address, connection, head, &method))
    }

    async fn send_whole(
        &self,
        attempt: &Attempt<'_>,
        address: &HostPort,
        body: Bytes,
    ) -> Result<(Connection, Head), UpstreamError> {
        if let Some(kept) = self.pool.take(address) {
            match attempt.run(kept, Outgoing::Whole(body.clone())).await {
                Err(failure) if failure.untouched => {}
                other => return other.map_err(|failure| failure.error),
            }
        }
        let connection = Connection::dial(address).await?;
        attempt.run(connection, Outgoing::Whole(body)).await.map_err(|failure| failure.error)
    }

    fn upstream(&self, address: HostPort, connection: Connection, head: Head, method: &Method) -> Upstream {
        let Head { status, headers, framing, length, reusable } = head;
        let pool = reusable.then(|| Rc::clone(&self.pool));
        let body = Body::new(connection, framing, address, pool);
        let size_of_head = (*method == Method::HEAD).then(|| length.map_or(BodySize::None, BodySize::Sized));
        Upstream { status, headers, size_of_head, body }
    }
}

impl Attempt<'_> {
    async fn run(&self, mut connection: Connection, body: Outgoing) -> Result<(Connection, Head), Failure> {
        let exchange = connection.exchange(self.head.clone(), body, self.method);
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(head) => head.map(|head| (connection, head)),
            Err(_) => Err(Failure { untouched: false, error: UpstreamError::Timeout }),
        }
    }
}
