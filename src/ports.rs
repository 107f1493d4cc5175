//! What the actors need of the world, as traits: durable storage and the agents' API. `app` joins them to the
//! code that does the I/O; tests join them to fakes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use nebula_core::address::HostPort;
use nebula_core::ids::{CommandId, DeploymentId, KeyId, NodeId, OperationId, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::source::ModelSource;

use crate::domain::alias::Alias;
use crate::domain::command::Command;
use crate::domain::deployment::{Deployment, MemoryHint, Replica};
use crate::domain::error::Error;
use crate::domain::event::{JournalEvent, Ring};
use crate::domain::idempotency::UsedKey;
use crate::domain::key::ApiKey;
use crate::domain::node::Node;
use crate::domain::operation::Operation;
use crate::domain::poison::Poison;
use crate::domain::usage::{Block, UsageId, UsageRow};

mod edge;
mod store_report;

pub use self::edge::Edge;
pub use self::store_report::{
    DiskReport, ExportReport, LatencyReport, RestoredReport, SetAsideReport, StoreReport,
};

/// A boxed future that may travel between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A boxed stream of bytes from another machine.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, AgentError>> + Send + 'static>>;

/// One change of the durable state. Several in one commit are applied together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A node's record.
    PutNode(Box<Node>),
    /// Forget a node.
    DeleteNode(NodeId),
    /// A deployment without its replicas.
    PutDeployment(Box<Deployment>),
    /// Forget a deployment (its replicas and events have writes of their own).
    DeleteDeployment(DeploymentId),
    /// One replica of a deployment.
    PutReplica(DeploymentId, Box<Replica>),
    /// Forget a replica.
    DeleteReplica(DeploymentId, ReplicaId),
    /// A command that waits for its acknowledgement.
    PutCommand(Box<Command>),
    /// A command was carried out, or overtaken.
    DeleteCommand(NodeId, CommandId),
    /// A line of the journal.
    PutEvent(Box<JournalEvent>),
    /// A line of the journal that is no longer kept.
    DeleteEvent(Ring, u64),
    /// A key under which a deployment was created.
    PutUsedKey(Box<UsedKey>),
    /// Forget a key.
    DeleteUsedKey(String),
    /// A message that was set aside.
    PutPoison(Box<Poison>),
    /// A message that is delivered again: its actor's path and its fingerprint.
    DeletePoison(String, u64),
    /// An API key, without its secrets.
    PutKey(Box<ApiKey>),
    /// An API key is revoked.
    DeleteKey(KeyId),
    /// What was used: the sums as they are now, so that repeating it is harmless.
    PutUsage(Box<UsageRow>),
    /// A row of usage that was folded into another one.
    DeleteUsage(Box<UsageId>),
    /// A name that stands for deployments.
    PutAlias(Box<Alias>),
    /// Such a name is free again.
    DeleteAlias(String),
    /// What an operator has begun, as it is now.
    PutOperation(Box<Operation>),
    /// An operation that ended long ago.
    DeleteOperation(OperationId),
}

/// Why the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Too much at once; nothing was changed.
    #[error("the store has too much to do")]
    Overloaded,
    /// Not now, as it is opened again or the disk is full; nothing was changed.
    #[error("the store cannot take it now: {0}")]
    Unavailable(String),
    /// A record is over the limit; nothing was changed.
    #[error("{0} is too large to be stored")]
    TooLarge(String),
    /// The store failed; whether the change was made is unknown.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Durable storage. Every commit is atomic and on the disk before it resolves.
pub trait Store: Send + Sync + 'static {
    /// Applies all writes or none.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<Result<(), StoreError>>;
    /// All nodes.
    fn nodes(&self) -> BoxFuture<Result<Vec<Node>, StoreError>>;
    /// The ids and names of all deployments.
    fn deployment_names(&self) -> BoxFuture<Result<Vec<(DeploymentId, String)>, StoreError>>;
    /// One deployment with its replicas.
    fn deployment(&self, id: DeploymentId) -> BoxFuture<Result<Option<Deployment>, StoreError>>;
    /// The commands that wait for one node, oldest first.
    fn commands(&self, node: NodeId) -> BoxFuture<Result<Vec<Command>, StoreError>>;
    /// The whole journal.
    fn journal(&self) -> BoxFuture<Result<Vec<JournalEvent>, StoreError>>;
    /// Those of these lines of the journal that are there.
    fn lines(&self, wanted: Vec<(Ring, u64)>) -> BoxFuture<Result<Vec<JournalEvent>, StoreError>>;
    /// The messages that were set aside.
    fn poison(&self) -> BoxFuture<Result<Vec<Poison>, StoreError>>;
    /// The keys under which deployments were created, oldest first.
    fn used_keys(&self) -> BoxFuture<Result<Vec<UsedKey>, StoreError>>;
    /// All API keys.
    fn keys(&self) -> BoxFuture<Result<Vec<ApiKey>, StoreError>>;
    /// All names that stand for deployments, by name.
    fn aliases(&self) -> BoxFuture<Result<Vec<Alias>, StoreError>>;
    /// All operations that are kept, in no order.
    fn operations(&self) -> BoxFuture<Result<Vec<Operation>, StoreError>>;
    /// The rows of usage in one block, or in all of them.
    fn usage(&self, block: Option<Block>) -> BoxFuture<Result<Vec<UsageRow>, StoreError>>;
    /// Those of these rows of usage that are there.
    fn usage_rows(&self, wanted: Vec<UsageId>) -> BoxFuture<Result<Vec<UsageRow>, StoreError>>;
    /// How many records of each kind there are.
    fn census(&self) -> BoxFuture<Result<BTreeMap<&'static str, usize>, StoreError>>;
    /// The newest records that were set aside, newest first; at most 100.
    fn set_aside(&self) -> BoxFuture<Result<Vec<SetAsideReport>, StoreError>>;
    /// Makes an export now.
    fn export(&self) -> BoxFuture<Result<ExportReport, StoreError>>;
    /// Accepts that a rebuilt store may lack what was acknowledged.
    fn accept_restored(&self) -> BoxFuture<Result<(), StoreError>>;
    /// How the store does; never waits.
    fn report(&self) -> StoreReport;
}

/// Why an agent did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// It did not answer; it may have done it.
    #[error("the agent cannot be reached: {0}")]
    Unreachable(String),
    /// It refused for good; asking again is of no use.
    #[error("{0}")]
    Rejected(String),
}

/// Which log lines of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// The deployment.
    pub deployment: DeploymentId,
    /// One of its replicas.
    pub replica: ReplicaId,
    /// Only so many of the last lines; 0: all that are kept.
    pub tail: u32,
    /// Go on with new ones.
    pub follow: bool,
    /// Those of the attempt before the newest.
    pub previous: bool,
}

/// A command that is to run beside a replica's runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecQuery {
    /// The deployment.
    pub deployment: DeploymentId,
    /// One of its replicas.
    pub replica: ReplicaId,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// After this long it is killed.
    pub timeout: Duration,
}

/// How such a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutcome {
    /// As shells count it.
    pub exit_code: i32,
    /// What it wrote, cut where it was too much.
    pub stdout: String,
    /// The same for its other output.
    pub stderr: String,
}

/// A model whose need of memory is to be estimated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EstimateQuery {
    /// Where its weights come from.
    pub source: ModelSource,
    /// What is to serve it.
    pub runtime: RuntimeKind,
    /// The deployment's arguments to it.
    pub args: Vec<String>,
}

/// The agents' API.
pub trait AgentApi: Send + Sync + 'static {
    /// Hands a command over; Ok when the agent has accepted it.
    fn deliver(&self, agent: &HostPort, command: Command) -> BoxFuture<Result<(), AgentError>>;
    /// A replica's log.
    fn logs(&self, agent: &HostPort, query: LogQuery) -> BoxFuture<Result<ByteStream, AgentError>>;
    /// Runs a command beside a replica's runtime and waits for its end. Dropping the future ends the command.
    fn exec(&self, agent: &HostPort, query: ExecQuery) -> BoxFuture<Result<ExecOutcome, Error>>;
    /// How much GPU memory a model is thought to need, by its metadata. Bounded in time.
    fn estimate(&self, agent: &HostPort, query: EstimateQuery) -> BoxFuture<Result<MemoryHint, AgentError>>;
}
