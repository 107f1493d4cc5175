//! What reconcilers need of an edge: a reverse proxy, or a DNS zone.

use std::sync::Arc;

use super::BoxFuture;
use crate::domain::edge::{Differences, EdgeError, Round, Wanted};

/// Something in front of the nodes that is made to be as it should. Each call is bounded in time by itself; a future
/// that is dropped leaves nothing behind but what was already changed. No two rounds run at the same time.
pub trait Edge: Send + Sync + 'static {
    /// What it is and where, for people, without secrets: `http://localhost:2019`, `zone Z123`.
    fn target(&self) -> String;
    /// Whether it answers, as cheaply as can be found out.
    fn probe(&self) -> BoxFuture<Result<(), EdgeError>>;
    /// What would have to be changed, seen afresh, without changing anything.
    fn plan(&self, wanted: Arc<Wanted>) -> BoxFuture<Result<Differences, EdgeError>>;
    /// Looks, changes what it may change now, and looks again. Something may be left for the next round.
    fn reconcile(&self, wanted: Arc<Wanted>) -> BoxFuture<Result<Round, EdgeError>>;
}
