//! One fetch per model at a time: who asks for what is already being fetched waits for it too. What nobody waits for
//! any more is dropped; what is on disk by then is where the next one goes on.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::board::{Board, Chalk};
use super::error::{Kind, ModelError};

/// Models that may be fetched at a time.
const FLIGHTS_MAX: usize = 64;

/// What comes of a fetch: where the model is.
pub(crate) type Outcome = Result<PathBuf, ModelError>;

/// A fetch. It goes on while somebody holds it.
#[derive(Debug)]
pub(crate) struct Flight {
    board: watch::Receiver<Board>,
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortHandle,
}

impl Flight {
    /// How far it is; follows on.
    pub(crate) fn board(&self) -> watch::Receiver<Board> {
        self.board.clone()
    }

    /// What came of it, once it has ended.
    pub(crate) async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        let ended = outcome.wait_for(Option::is_some).await.map(|ended| ended.clone());
        ended.ok().flatten().unwrap_or_else(|| Err(ModelError::lost("fetched it")))
    }

    fn is_under_way(&self) -> bool {
        self.outcome.has_changed().is_ok() && self.outcome.borrow().is_none()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All fetches of this node.
#[derive(Debug, Default)]
pub(super) struct Flights {
    under_way: Mutex<HashMap<String, Weak<Flight>>>,
}

impl Flights {
    /// The fetch named `key`: the one under way, or else a new one that does `work`.
    pub(super) fn join<W>(&self, key: &str, work: impl FnOnce(Chalk) -> W) -> Result<Arc<Flight>, ModelError>
    where
        W: Future<Output = Outcome> + Send + 'static,
    {
        let mut under_way = self.lock();
        under_way.retain(|_, flight| flight.strong_count() > 0);
        let found = under_way.get(key).and_then(Weak::upgrade);
        if let Some(flight) = found.filter(|flight| flight.is_under_way()) {
            return Ok(flight);
        }
        if under_way.len() >= FLIGHTS_MAX {
            return Err(ModelError::new(
                Kind::Busy,
                format!("{FLIGHTS_MAX} models are being fetched on this node already; try again later"),
            ));
        }
        let (chalk, board) = Chalk::new();
        let (ended, outcome) = watch::channel(None);
        let work = work(chalk);
        let task = tokio::spawn(async move {
            let outcome = work.await;
            // Those who waited may have gone.
            let _ = ended.send(Some(outcome));
        });
        let flight = Arc::new(Flight { board, outcome, task: task.abort_handle() });
        under_way.insert(key.to_owned(), Arc::downgrade(&flight));
        Ok(flight)
    }

    /// Bytes that all fetches together still have to write.
    pub(super) fn remaining(&self) -> u64 {
        let flights: Vec<Arc<Flight>> = self.lock().values().filter_map(Weak::upgrade).collect();
        let under_way = flights.iter().filter(|flight| flight.is_under_way());
        under_way.map(|flight| flight.board.borrow().remaining()).fold(0, u64::saturating_add)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Flight>>> {
        // Nothing that holds it can fail half way.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(5), what).await.expect("in time")
    }

    #[tokio::test]
    async fn two_who_want_the_same_share_one_fetch() {
        let flights = Flights::default();
        let (go, gone) = oneshot::channel::<()>();
        let first = flights
            .join("a", |_| async move {
                let _ = gone.await;
                Ok(PathBuf::from("/model"))
            })
            .expect("joins");
        let second = flights.join("a", |_| async { panic!("a second fetch") }).expect("joins");
        let other = flights.join("b", |_| async { Ok(PathBuf::from("/other")) }).expect("joins");
        assert_eq!(soon(other.outcome()).await, Ok(PathBuf::from("/other")));
        go.send(()).expect("the fetch waits");
        let (one, two) = soon(async { tokio::join!(first.outcome(), second.outcome()) }).await;
        assert_eq!((one, two), (Ok(PathBuf::from("/model")), Ok(PathBuf::from("/model"))));
        // What has ended is not joined, although somebody still holds it.
        let again = flights.join("a", |_| async { Ok(PathBuf::from("/new")) }).expect("joins");
        assert_eq!(soon(again.outcome()).await, Ok(PathBuf::from("/new")));
    }

    #[tokio::test]
    async fn a_fetch_is_dropped_with_its_last_waiter() {
        let flights = Flights::default();
        let (held, dropped) = oneshot::channel::<()>();
        let work = |_| async move {
            let _held = held;
            std::future::pending().await
        };
        let first = flights.join("a", work).expect("joins");
        let second = flights.join("a", |_| async { panic!("a second fetch") }).expect("joins");
        drop(first);
        tokio::task::yield_now().await;
        assert!(second.is_under_way());
        drop(second);
        assert!(soon(dropped).await.is_err(), "the fetch's future is dropped");
        assert_eq!(flights.remaining(), 0);
    }

    #[tokio::test]
    async fn a_fetch_that_falls_over_is_an_error() {
        let flights = Flights::default();
        let flight = flights.join("a", |_| async { panic!("on purpose") }).expect("joins");
        assert_eq!(soon(flight.outcome()).await.map_err(|error| error.kind), Err(Kind::Local));
    }

    #[tokio::test]
    async fn there_are_so_many_and_no_more() {
        let flights = Flights::default();
        let wait = |_| std::future::pending::<Outcome>();
        let all: Vec<_> =
            (0..FLIGHTS_MAX).map(|at| flights.join(&at.to_string(), wait).expect("joins")).collect();
        let error = flights.join("more", wait).expect_err("refused");
        assert!(error.is_retryable(), "{error}");
        drop(all);
        flights.join("more", wait).expect("joins");
    }
}
