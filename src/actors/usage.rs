//! Usage: what was used of each model under each key, hour by hour, written down every second.
//!
//! * Owns: the rows of usage in the store.
//! * Persists: sums as they are after adding, so that repeating a commit is harmless.
//! * Talks to: nobody; takes what the gateway adds to the [`Tallies`](crate::domain::usage::Tallies).
//! * Timers: every second what was used is written down, and a block of old rows is folded when one is due.
//! * On crash: goes on with what was not written yet, which outlives it.
//!
//! A request is counted when it has ended. When the process is killed, what ended in the last second is missing; when it
//! stops in order, nothing is. While the store takes nothing, sums wait in memory: up to
//! [`TALLIES_MAX`](crate::domain::usage::TALLIES_MAX) rows that are being written and as many that are being added to.
//! Otherwise no row is in memory: it is read, added to and written again.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture};
use serde::Serialize;

use self::desk::{Desk, Progress};
use super::letter::{Member, opens_letters};
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::usage::{UsageQuery, UsageRow};
use crate::ports::StoreError;

mod desk;
mod machine;
#[cfg(test)]
mod tests;

/// Where the usage actor is in the tree.
pub const PATH: &str = "/usage";

/// How often what was used is written down: so much is missing after the process was killed.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last sums.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many may wait for sums to be written.
const WAITING_MAX: usize = 64;
/// How many rows an answer may have.
pub const ANSWER_ROWS_MAX: usize = 100_000;

/// What the actor publishes of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct UsageStatus {
    /// Rows in the store.
    rows: usize,
    /// Rows that wait to be written, those aside that are being added to.
    undelivered: usize,
    /// Since the actor was built.
    rows_written_total: usize,
    /// Since the actor was built.
    rows_folded_total: usize,
    /// Why something waits.
    failure: Option<String>,
}

/// The usage actor.
pub struct Usage {
    desk: Arc<Desk>,
    system: System,
    cell: Arc<Cell>,
    status: UsageStatus,
    writing: bool,
    waiting: usize,
    watch: DeathWatch,
}

/// How the usage actor is built.
pub(crate) fn spec(system: System) -> ChildSpec {
    let desk = Arc::new(Desk::new(system.usage.clone(), system.store.clone()));
    ChildSpec::new("usage", "usage", Restart::Permanent, move |birth| {
        let (desk, system) = (desk.clone(), system.clone());
        async move { Usage::load(birth, desk, system).await }
    })
}

impl Usage {
    async fn load(birth: Birth, desk: Arc<Desk>, system: System) -> Result<(), Error> {
        let opened = || -> crate::ports::BoxFuture<Result<(), StoreError>> {
            let desk = desk.clone();
            Box::pin(async move { desk.open().await })
        };
        patiently(opened).await.map_err(store_error)?;
        let usage = Self {
            desk,
            system,
            cell: birth.cell.clone(),
            status: UsageStatus::default(),
            writing: false,
            waiting: 0,
            watch: birth.watch,
        };
        usage.cell.publish(Arc::new(usage.status.clone()));
        birth.cell.running(usage.start());
        Ok(())
    }

    /// Writes what there is, unless that is being done, and comes again.
    fn tick(&mut self, ctx: &mut Context<Self>) {
        let _turn = self.cell.timer_turn("timer: usage is written down");
        ctx.run_later(WRITE_EVERY, Self::tick);
        if self.writing {
            return;
        }
        self.writing = true;
        let (desk, now) = (self.desk.clone(), self.system.tree.clock().wall());
        let deliver = async move { desk.deliver(Some(now)).await };
        ctx.spawn(deliver.into_actor(self).map(|progress, usage: &mut Self, _| {
            let _turn = usage.cell.future_turn("future: usage was written down");
            usage.writing = false;
            usage.note(&progress);
        }));
    }

    fn note(&mut self, progress: &Progress) {
        let failure = progress.failure.as_ref().map(ToString::to_string);
        match (&self.status.failure, &failure) {
            (None, Some(error)) => tracing::warn!(%error, "usage waits to be written down"),
            (Some(_), None) => tracing::info!("usage is written down again"),
            _ => {}
        }
        let status = UsageStatus {
            rows: progress.rows,
            undelivered: progress.undelivered,
            rows_written_total: self.status.rows_written_total + progress.written,
            rows_folded_total: self.status.rows_folded_total + progress.folded,
            failure,
        };
        if status != self.status {
            self.status = status;
            self.cell.publish(Arc::new(self.status.clone()));
        }
    }
}

impl Actor for Usage {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(WRITE_EVERY, Self::tick);
    }
}

impl Member for Usage {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }

    fn busy(&self) -> bool {
        self.writing || self.waiting > 0
    }
}

opens_letters!(Usage);

/// What was used until now is to be written down. Answers why something could not be.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WriteNow;

impl Handler<WriteNow> for Usage {
    type Result = ResponseActFuture<Self, Result<(), Error>>;

    fn handle(&mut self, _: WriteNow, _: &mut Context<Self>) -> Self::Result {
        let desk = self.desk.clone();
        let deliver = async move { Ok(desk.deliver(None).await) };
        self.later(deliver, |usage, progress| {
            usage.note(&progress);
            progress.failure.map_or(Ok(()), |error| Err(store_error(error)))
        })
    }
}

/// From the API: what was used, until now.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<UsageRow>, Error>")]
pub struct Read(pub UsageQuery);

impl Handler<Read> for Usage {
    type Result = ResponseActFuture<Self, Result<Vec<UsageRow>, Error>>;

    fn handle(&mut self, Read(query): Read, _: &mut Context<Self>) -> Self::Result {
        let desk = self.desk.clone();
        self.later(async move { desk.read(query).await }, |_, rows| Ok(rows))
    }
}

impl Usage {
    /// Answers when `work` is done; so many may wait for it at a time.
    fn later<T: 'static, R: 'static>(
        &mut self,
        work: impl Future<Output = Result<T, Error>> + 'static,
        answer: impl FnOnce(&mut Self, T) -> Result<R, Error> + 'static,
    ) -> ResponseActFuture<Self, Result<R, Error>> {
        if self.waiting >= WAITING_MAX {
            return Box::pin(async { Err(Error::overloaded()) }.into_actor(self));
        }
        self.waiting += 1;
        Box::pin(work.into_actor(self).map(|result, usage: &mut Self, _| {
            let _turn = usage.cell.future_turn("future: somebody waited for the sums");
            usage.waiting -= 1;
            result.and_then(|done| answer(usage, done))
        }))
    }
}

impl System {
    /// What was used, until now, by time, key and model.
    ///
    /// # Errors
    /// `Unprocessable` when the answer would have more than [`ANSWER_ROWS_MAX`] rows; what the store says.
    pub async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageRow>, Error> {
        self.usage_actor.read(PATH, || Read(query)).await?
    }

    /// Writes down what was used until now: to be called when no request is answered any more and before the store is
    /// closed. Waits for a moment only.
    pub async fn flush_usage(&self) {
        let late = Error::new(ErrorClass::Timeout, "the store does not answer");
        let asked = tokio::time::timeout(LAST_WRITE_TIMEOUT, self.usage_actor.ask(PATH, WriteNow)).await;
        if let Err(error) = asked.unwrap_or(Err(late)).and_then(|written| written) {
            tracing::warn!(%error, "the last usage could not be written down");
        }
    }
}
