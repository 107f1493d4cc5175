//! How children are described.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::watch::DeathWatch;
use crate::actors::tree::Cell;
use crate::domain::error::Error;

/// How long a child may take to finish what it has when it must end.
pub const SHUTDOWN: Duration = Duration::from_secs(5);

/// When a child is built again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// Unless it ended in order.
    Transient,
    /// Never: whatever its end, it is forgotten.
    Temporary,
}

/// Who is built again with a child that falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// Those that were started after it: they derive from it. They end first, then all are built in order.
    RestForOne,
}

/// What a factory is given: the child's cell and its death watch.
pub struct Birth {
    /// The child's place in the tree.
    pub cell: Arc<Cell>,
    /// To be kept by the actor until it ends.
    pub watch: DeathWatch,
}

type Started = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

/// Builds a child from the store and starts it.
pub type Factory = Arc<dyn Fn(Birth) -> Started + Send + Sync>;

/// How a child is built and when it is built again.
#[derive(Clone)]
pub struct ChildSpec {
    /// Its name below the supervisor's path.
    pub id: String,
    /// For operators.
    pub kind: &'static str,
    /// When it is built again.
    pub restart: Restart,
    /// How long it may take to end.
    pub shutdown: Duration,
    /// Builds it.
    pub factory: Factory,
}

impl ChildSpec {
    /// A spec from an async function.
    pub fn new<F, Fut>(id: impl Into<String>, kind: &'static str, restart: Restart, factory: F) -> Self
    where
        F: Fn(Birth) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + 'static,
    {
        let factory: Factory = Arc::new(move |birth| Box::pin(factory(birth)));
        Self { id: id.into(), kind, restart, shutdown: SHUTDOWN, factory }
    }
}
