//! A request's way to an answer: it waits for a deployment that starts or sleeps, is forwarded to replicas, waits again
//! when all of them were just going, and goes to the fallback of its alias when all that fails. Nothing has gone to the
//! client before, except that a stream that waits has begun.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::HttpResponse;

use crate::domain::route::Route;
use crate::http::error::OpenAiError;

use super::Worker;
use super::forward::{Admitted, Forwarded, Way, forward};
use super::hold::{Hold, held};

/// How often one request waits for replicas that go before they have taken it.
const WAITS_MAX: u32 = 3;

/// A request on its way.
pub(crate) struct Journey {
    admitted: Admitted,
    way: Way,
    /// Who is asked when that fails, once.
    fallback: Option<Arc<Route>>,
    waits: u32,
}

/// How far it came.
enum Stage {
    Answered(Result<HttpResponse, OpenAiError>),
    Waits(Hold),
}

impl Journey {
    pub(crate) fn new(admitted: Admitted, route: Arc<Route>, fallback: Option<Arc<Route>>) -> Self {
        Self { admitted, way: Way::by(route), fallback, waits: 0 }
    }

    /// The answer.
    pub(crate) async fn end(mut self, worker: &Rc<Worker>) -> Result<HttpResponse, OpenAiError> {
        worker.budget.earn();
        self.way.route.demand.ask();
        let hold = match worker.holding.enter(&self.way.route) {
            Some(hold) => hold,
            None => match self.forwarded(worker).await {
                Stage::Answered(result) => return result,
                Stage::Waits(hold) => hold,
            },
        };
        if !self.admitted.scan.streams {
            return self.after(worker, hold).await;
        }
        // Whoever wants a stream hears at once that it is waited, and all that follows within the stream.
        let (waiting, keepalive) = (Rc::clone(worker), worker.gateway.limits.keepalive);
        let waits = self.admitted.facts.waits();
        Ok(held(keepalive, hold.comments(), async move {
            let answer = self.after(&waiting, hold).await;
            waits.over();
            answer.unwrap_or_else(|error| error.response())
        }))
    }

    /// Waits until something of the deployment can serve, then has the request answered.
    async fn after(mut self, worker: &Worker, mut hold: Hold) -> Result<HttpResponse, OpenAiError> {
        loop {
            self.waits += 1;
            let stage = match hold.ready().await {
                Some(route) => {
                    self.way.turn_to(route);
                    self.forwarded(worker).await
                }
                None => match self.falls_back(worker) {
                    Some(Some(hold)) => Stage::Waits(hold),
                    Some(None) => self.forwarded(worker).await,
                    None => return Err(OpenAiError::NotReady(self.admitted.scan.model)),
                },
            };
            match stage {
                Stage::Answered(result) => return result,
                Stage::Waits(next) => hold = next,
            }
        }
    }

    /// Asks replicas, those of the fallback after those of the route.
    async fn forwarded(&mut self, worker: &Worker) -> Stage {
        loop {
            let untaken = match forward(worker, &self.admitted, &mut self.way).await {
                Forwarded::Answered(result) => return Stage::Answered(result),
                Forwarded::Untaken(untaken) => untaken,
            };
            let may_wait = untaken.untouched && self.waits < WAITS_MAX;
            if let Some(hold) = may_wait.then(|| worker.holding.enter(&self.way.route)).flatten() {
                return Stage::Waits(hold);
            }
            match untaken.elsewhere.then(|| self.falls_back(worker)).flatten() {
                Some(Some(hold)) => return Stage::Waits(hold),
                Some(None) => {}
                None => return Stage::Answered(untaken.told(&self.admitted, &self.way.route).await),
            }
        }
    }

    /// Turns to the fallback, if there is one that was not asked yet; it may have to be waited for.
    fn falls_back(&mut self, worker: &Worker) -> Option<Option<Hold>> {
        let route = self.fallback.take()?;
        tracing::debug!(
            deployment_id = %self.way.route.deployment_id,
            fallback = %route.deployment_id,
            "request goes to the fallback"
        );
        route.demand.ask();
        self.admitted.facts.goes_by(&route);
        self.way.turn_away_to(route);
        Some(worker.holding.enter(&self.way.route))
    }
}
