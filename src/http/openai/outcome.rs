//! What the gateway tells the routes' actors about replicas, and the budget for second tries.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use nebula_core::ids::{DeploymentId, ReplicaId};
use nebula_dialect::Surface;
use nebula_relay::{PROXY_ERROR, Upstream, UpstreamError};

/// How one request to one replica went. A request counts once for each replica it was sent to; a stream that began
/// well counts again if it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The deployment.
    pub route: DeploymentId,
    /// The replica.
    pub replica: ReplicaId,
    /// What happened.
    pub kind: OutcomeKind,
}

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeKind {
    /// The replica answered, be it with a client's error or a 500, which is a bad prompt's as often as not.
    Ok,
    /// No connection to the node's proxy, or the proxy has none to the replica.
    ConnectFailed,
    /// Nothing came in time.
    Timeout,
    /// It answered 502, 503 or 504, or broke the connection.
    ServerError,
    /// It has too much to do: 429, or 503 with `retry-after`.
    Saturated,
}

/// Where outcomes go. Must neither block nor queue without bound: what does not fit is dropped.
#[derive(Clone)]
pub struct Outcomes(Arc<dyn Fn(Outcome) + Send + Sync>);

impl Outcomes {
    /// Outcomes go to `sink`.
    #[must_use]
    pub fn to(sink: impl Fn(Outcome) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    pub(crate) fn report(&self, outcome: Outcome) {
        (self.0)(outcome);
    }
}

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outcomes(…)")
    }
}

/// What to do about the way a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) kind: OutcomeKind,
    pub(crate) retry: Retry,
}

/// Whether another replica may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// The answer stands.
    No,
    /// Yes, within the budget: the replica may have worked on it.
    Budgeted,
    /// Yes: the request has reached no runtime.
    Free,
}

impl Verdict {
    /// Of an answer's head. A 500 stands: engines answer so to bad prompts, and a generation costs a GPU.
    pub(crate) fn of_answer(upstream: &Upstream, surface: Surface) -> Self {
        if let Some(code) = upstream.headers.get(PROXY_ERROR) {
            return Self::of_proxy(code.as_bytes(), surface);
        }
        let status = upstream.status;
        let retry = match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Retry::Budgeted,
            _ => Retry::No,
        };
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => OutcomeKind::Saturated,
            StatusCode::SERVICE_UNAVAILABLE if upstream.headers.contains_key(RETRY_AFTER) => {
                OutcomeKind::Saturated
            }
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                OutcomeKind::ServerError
            }
            _ => OutcomeKind::Ok,
        };
        Self { kind, retry }
    }

    /// Of an answer of the node's proxy itself, by its code.
    fn of_proxy(code: &[u8], surface: Surface) -> Self {
        match code {
            b"upstream_connect" | b"model_not_ready" | b"model_not_found" => {
                Self { kind: OutcomeKind::ConnectFailed, retry: Retry::Free }
            }
            // Our credential is wrong at this node only.
            b"invalid_api_key" => Self { kind: OutcomeKind::ConnectFailed, retry: Retry::Budgeted },
            b"upstream_timeout" => Self { kind: OutcomeKind::Timeout, retry: Retry::No },
            // Of a code that we do not know, the worst is assumed.
            _ => Self::broken(surface),
        }
    }

    /// Of a call without an answer.
    pub(crate) fn of_error(error: &UpstreamError, surface: Surface) -> Self {
        match error {
            UpstreamError::Connect(_) => Self { kind: OutcomeKind::ConnectFailed, retry: Retry::Free },
            UpstreamError::Timeout => Self { kind: OutcomeKind::Timeout, retry: Retry::No },
            UpstreamError::Broken(_) => Self::broken(surface),
            UpstreamError::Request(_) => Self { kind: OutcomeKind::Ok, retry: Retry::No },
        }
    }

    /// The request may have reached the runtime, and be what broke it: a generation is not passed around.
    fn broken(surface: Surface) -> Self {
        let retry = if surface.generates() { Retry::No } else { Retry::Budgeted };
        Self { kind: OutcomeKind::ServerError, retry }
    }
}

/// Allows second tries up to a fifth of the requests, and ten at once, so that an outage is not multiplied.
pub(crate) struct RetryBudget {
    /// In fifths of a retry.
    fifths: Cell<u32>,
}

impl RetryBudget {
    const PER_RETRY: u32 = 5;
    const MAX: u32 = 10 * Self::PER_RETRY;

    pub(crate) fn full() -> Self {
        Self { fifths: Cell::new(Self::MAX) }
    }

    /// A request came.
    pub(crate) fn earn(&self) {
        self.fifths.set((self.fifths.get() + 1).min(Self::MAX));
    }

    /// Whether another replica may be asked now; if so, it is paid for.
    pub(crate) fn allows(&self, retry: Retry) -> bool {
        match (retry, self.fifths.get().checked_sub(Self::PER_RETRY)) {
            (Retry::Free, _) => true,
            (Retry::Budgeted, Some(left)) => {
                self.fifths.set(left);
                true
            }
            (Retry::Budgeted, None) | (Retry::No, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_tries_are_a_fifth_of_the_requests_once_the_reserve_is_spent() {
        let budget = RetryBudget::full();
        assert_eq!((0..20).filter(|_| budget.allows(Retry::Budgeted)).count(), 10);
        let granted = (0..100).filter(|_| {
            budget.earn();
            budget.allows(Retry::Budgeted)
        });
        assert_eq!(granted.count(), 20);
        assert!(budget.allows(Retry::Free) && !budget.allows(Retry::No));
    }
}
