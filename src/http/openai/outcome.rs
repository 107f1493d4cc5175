//! What the gateway tells the routes' actors about replicas, and when another replica is asked.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use nebula_core::ids::{DeploymentId, ReplicaId};
use nebula_relay::{Upstream, UpstreamError};

/// How one request to one replica went. A request counts once for each replica it was sent to, a good one when its
/// answer has ended: else a replica that breaks every answer would have as much good said of it as bad.
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
    /// The replica answered, and its answer ended well, be it a client's error.
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

    /// A request to a replica begins.
    pub(crate) fn attempt(&self, route: DeploymentId, replica: ReplicaId) -> Attempt {
        Attempt { outcomes: self.clone(), route, replica }
    }
}

/// A request to a replica, until it is known how it went. One that is dropped says nothing.
#[derive(Debug)]
pub(crate) struct Attempt {
    outcomes: Outcomes,
    route: DeploymentId,
    replica: ReplicaId,
}

impl Attempt {
    /// It went so; none: that says nothing about the replica.
    pub(crate) fn ended(self, kind: Option<OutcomeKind>) {
        if let Some(kind) = kind {
            (self.outcomes.0)(Outcome { route: self.route, replica: self.replica, kind });
        }
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
    /// What it says about the replica. None: nothing.
    pub(crate) kind: Option<OutcomeKind>,
    pub(crate) retry: Retry,
}

/// Whether another replica may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// The answer stands.
    No,
    /// Yes.
    Another,
    /// Yes, and for nothing: the node's proxy let nothing through to the replica, which is not ready or going.
    NotTaken,
    /// One more and no further: the request may be what broke the runtime.
    Once,
}

impl Verdict {
    /// Of an answer's head. A 500 stands and says nothing: engines answer so to bad prompts, and a generation costs a
    /// GPU.
    pub(crate) fn of_answer(upstream: &Upstream) -> Self {
        if let Some(code) = &upstream.proxy_error {
            return Self::of_proxy(code.as_bytes());
        }
        let says_when = upstream.headers.contains_key(RETRY_AFTER);
        let (kind, retry) = match upstream.status {
            StatusCode::TOO_MANY_REQUESTS => (Some(OutcomeKind::Saturated), Retry::Another),
            StatusCode::SERVICE_UNAVAILABLE if says_when => (Some(OutcomeKind::Saturated), Retry::Another),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                (Some(OutcomeKind::ServerError), Retry::Another)
            }
            status if status.is_server_error() => (None, Retry::No),
            _ => (Some(OutcomeKind::Ok), Retry::No),
        };
        Self { kind, retry }
    }

    /// Of an answer of the node's proxy itself, by its code.
    fn of_proxy(code: &[u8]) -> Self {
        let (kind, retry) = match code {
            // The second: our credential is wrong at this node only.
            b"upstream_connect" | b"invalid_api_key" => (OutcomeKind::ConnectFailed, Retry::Another),
            b"model_not_ready" | b"model_not_found" => (OutcomeKind::ConnectFailed, Retry::NotTaken),
            b"upstream_timeout" => (OutcomeKind::Timeout, Retry::No),
            // Of a code that we do not know, the worst is assumed.
            _ => (OutcomeKind::ServerError, Retry::Once),
        };
        Self { kind: Some(kind), retry }
    }

    /// Of a call without an answer.
    pub(crate) fn of_error(error: &UpstreamError) -> Self {
        let (kind, retry) = match error {
            UpstreamError::Connect(_) => (Some(OutcomeKind::ConnectFailed), Retry::Another),
            UpstreamError::Timeout => (Some(OutcomeKind::Timeout), Retry::No),
            UpstreamError::Broken(_) => (Some(OutcomeKind::ServerError), Retry::Once),
            UpstreamError::Request(_) => (None, Retry::No),
        };
        Self { kind, retry }
    }
}

/// The replicas that are asked for one request.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    asked: usize,
    turned_away: usize,
    /// How many runtimes may have been broken by it.
    broke: u32,
}

impl Tries {
    /// Most replicas that are asked for one request.
    const MAX: usize = 3;
    /// Most proxies beside these that may say that they did not take it: a change may replace many replicas at once.
    const TURNED_AWAY_MAX: usize = 8;
    /// Most runtimes that it may break, of one deployment or of two.
    const BROKEN_MAX: u32 = 2;

    /// A replica was asked and it went so. Answers whether another one may be asked, if that can be paid for.
    pub(crate) fn may_go_on(&mut self, retry: Retry) -> bool {
        let may = match retry {
            Retry::No => false,
            Retry::NotTaken => {
                self.turned_away += 1;
                return self.turned_away < Self::TURNED_AWAY_MAX;
            }
            Retry::Another => true,
            Retry::Once => {
                self.broke += 1;
                self.may_break()
            }
        };
        self.asked += 1;
        may && self.asked < Self::MAX
    }

    /// Whether it may go to a runtime once more, although it may be what broke others.
    pub(crate) fn may_break(&self) -> bool {
        self.broke < Self::BROKEN_MAX
    }

    /// The tries at another deployment.
    pub(crate) fn elsewhere(&self) -> Self {
        Self { broke: self.broke, ..Self::default() }
    }
}

/// Allows second tries up to a fifth of the requests, of which some may be saved up, so that an outage is not multiplied
/// and the end of one replica with many requests is no error of any of them.
pub(crate) struct RetryBudget {
    /// In fifths of a retry.
    fifths: Cell<u32>,
}

impl RetryBudget {
    const PER_RETRY: u32 = 5;
    /// At first, before any request has earned something.
    const FIRST: u32 = 10 * Self::PER_RETRY;
    /// A fifth of the last five hundred requests.
    const MAX: u32 = 100 * Self::PER_RETRY;

    pub(crate) fn new() -> Self {
        Self { fifths: Cell::new(Self::FIRST) }
    }

    /// A request came.
    pub(crate) fn earn(&self) {
        self.fifths.set((self.fifths.get() + 1).min(Self::MAX));
    }

    /// Whether there is enough for another try after one that went so; if so, it is paid for.
    pub(crate) fn pay(&self, retry: Retry) -> bool {
        if retry == Retry::NotTaken {
            return true;
        }
        let left = self.fifths.get().checked_sub(Self::PER_RETRY);
        left.inspect(|left| self.fifths.set(*left)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go_on(tries: &mut Tries, retry: Retry, budget: &RetryBudget) -> bool {
        tries.may_go_on(retry) && budget.pay(retry)
    }

    fn granted(budget: &RetryBudget, times: usize) -> usize {
        (0..times).filter(|_| go_on(&mut Tries::default(), Retry::Another, budget)).count()
    }

    #[test]
    fn second_tries_are_a_fifth_of_the_requests() {
        let budget = RetryBudget::new();
        assert_eq!(granted(&budget, 20), 10, "to begin with");
        let of_hundred = (0..100).filter(|_| {
            budget.earn();
            go_on(&mut Tries::default(), Retry::Another, &budget)
        });
        assert_eq!(of_hundred.count(), 20);
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!(granted(&budget, 200), 100, "what was saved up");
    }

    #[test]
    fn a_request_is_tried_three_times_at_most_and_breaks_two_runtimes_at_most() {
        use Retry::{Another, No, Once};
        for (went, tries) in [
            ([No, Another, Another], 1),
            ([Another, Another, Another], 3),
            ([Another, No, Another], 2),
            ([Once, Once, Once], 2),
            ([Another, Once, Once], 3),
            ([Once, Another, Another], 3),
        ] {
            let (budget, mut request) = (RetryBudget::new(), Tries::default());
            let more = went.iter().take_while(|retry| go_on(&mut request, **retry, &budget)).count();
            assert_eq!(1 + more, tries, "{went:?}");
        }
    }

    #[test]
    fn the_answer_that_stands_costs_nothing() {
        let budget = RetryBudget::new();
        (0..100).for_each(|_| assert!(!go_on(&mut Tries::default(), Retry::No, &budget)));
        assert_eq!(granted(&budget, 20), 10);
    }

    #[test]
    fn what_was_not_taken_costs_nothing_and_is_bounded_too() {
        let budget = RetryBudget::new();
        for _ in 0..100 {
            let mut request = Tries::default();
            let more = (0..100).take_while(|_| go_on(&mut request, Retry::NotTaken, &budget)).count();
            assert_eq!(1 + more, 8);
        }
        assert_eq!(granted(&budget, 20), 10, "nothing was paid");
        let mut request = Tries::default();
        assert!(go_on(&mut request, Retry::NotTaken, &budget));
        let tries = (0..100).take_while(|_| request.may_go_on(Retry::Another)).count();
        assert_eq!(1 + tries, 3, "and is none of the three");
    }
}
