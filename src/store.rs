//! Durable state: the store port on top of the embedded engine.
//!
//! What do we store? Nodes (identity, address, what they have, the operator's will), deployments (spec, desired
//! state, generation, token hash, gateway token), their replicas (place, phase), commands that wait for their
//! acknowledgement, the newest 200 journal lines of each deployment and node, the newest 10,000 of the audit, the
//! idempotency keys of the last day, API keys (hashes of their secrets), aliases,
//! drains of nodes, what was used (per key, model and hour, older ones per day, month and year), and messages that were
//! set aside. All of it is durable before it is acknowledged;
//! journal lines that tell of no change are written, but nobody waits for them, and what was used follows within a
//! second. Not stored: heartbeats, stats, reports, gates of the breaker, requests in flight; and routes, which follow
//! from deployments.

use std::collections::BTreeMap;
use std::path::Path;

use nebula_core::clock::Clock;
use nebula_core::exit::Fatal;
use nebula_core::ids::{DeploymentId, NodeId};
pub use nebula_store::Options;
use nebula_store::{CommitError, ExportFailed, ReadError, Record, Unreadable};

use crate::domain::alias::Alias;
use crate::domain::command::Command;
use crate::domain::deployment::Deployment;
use crate::domain::event::{JournalEvent, Ring};
use crate::domain::idempotency::UsedKey;
use crate::domain::key::ApiKey;
use crate::domain::node::Node;
use crate::domain::operation::Operation;
use crate::domain::poison::Poison;
use crate::domain::usage::{Block, UsageId, UsageRow};
use crate::metrics;
use crate::ports::{BoxFuture, ExportReport, SetAsideReport, Store, StoreError, StoreReport, Write};

mod batch;
mod keys;
pub mod maintenance;
mod records;
mod report;

/// How many records are read at once, which is few beside what the engine's queue holds.
const GETS_AT_ONCE: usize = 64;

/// The store port on the embedded engine. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedStore {
    engine: nebula_store::Store,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, made when missing. A damaged one is rebuilt. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be used, is in use, or holds what cannot be read.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Fatal> {
        let engine = nebula_store::Store::open(dir, options)?;
        Ok(Self { engine })
    }

    /// Writes out what is queued and releases the directory. Blocks.
    pub fn close(&self) {
        self.engine.close();
    }

    fn scan<T: Send + 'static>(
        &self,
        prefix: Vec<u8>,
        decode: fn(&[u8], &Record) -> Result<T, StoreError>,
    ) -> impl Future<Output = Result<Vec<T>, StoreError>> + Send + 'static + use<T> {
        let engine = self.engine.clone();
        let found = engine.scan(prefix);
        async move { readable(&engine, found.await.map_err(read_error)?, decode).await }
    }
}

/// What the records say. One that this version cannot read must not keep all the others from being read: it is set
/// aside.
async fn readable<T>(
    engine: &nebula_store::Store,
    records: Vec<(Vec<u8>, Record)>,
    decode: fn(&[u8], &Record) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let (mut readable, mut unreadable) = (Vec::new(), Vec::new());
    for (key, record) in records {
        match decode(&key, &record) {
            Ok(value) => readable.push(value),
            Err(error) => unreadable.push(Unreadable { key, record, reason: error.to_string() }),
        }
    }
    if !unreadable.is_empty() {
        engine.set_aside(unreadable).await.map_err(commit_error)?;
    }
    Ok(readable)
}

impl Store for EmbeddedStore {
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<Result<(), StoreError>> {
        let clock = Clock::start();
        let commit = batch::of(writes).map(|batch| self.engine.commit(batch));
        Box::pin(async move {
            commit?.await.map_err(commit_error)?;
            metrics::committed(clock.elapsed());
            Ok(())
        })
    }

    fn nodes(&self) -> BoxFuture<Result<Vec<Node>, StoreError>> {
        Box::pin(self.scan(keys::NODES.to_vec(), |_, record| records::read_node(record)))
    }

    fn deployment_names(&self) -> BoxFuture<Result<Vec<(DeploymentId, String)>, StoreError>> {
        Box::pin(self.scan(keys::DEPLOYMENTS.to_vec(), |key, record| {
            let id = keys::deployment_id(key)?;
            // One whose record cannot be read keeps its place: it is shown as crashed and its replicas stay.
            let name = records::read_deployment(record).map(|dep| dep.name);
            Ok((id, name.unwrap_or_else(|_| id.to_string())))
        }))
    }

    fn deployment(&self, id: DeploymentId) -> BoxFuture<Result<Option<Deployment>, StoreError>> {
        let head = self.engine.get(keys::deployment(id));
        let replicas = self.scan(keys::replicas(id), |_, record| records::read_replica(record));
        Box::pin(async move {
            let Some(head) = head.await.map_err(read_error)? else { return Ok(None) };
            let mut dep = records::read_deployment(&head)?;
            dep.replicas = replicas.await?;
            dep.replicas.sort_by_key(|replica| (replica.index, replica.leaving));
            Ok(Some(dep))
        })
    }

    fn commands(&self, node: NodeId) -> BoxFuture<Result<Vec<Command>, StoreError>> {
        let found = self.scan(keys::commands(&node), |_, record| records::read_command(record));
        Box::pin(async move {
            let mut commands = found.await?;
            commands.sort_by_key(|command| (command.created_at, command.generation));
            Ok(commands)
        })
    }

    fn journal(&self) -> BoxFuture<Result<Vec<JournalEvent>, StoreError>> {
        let found =
            keys::EVENTS.map(|rings| self.scan(rings.to_vec(), |_, record| records::read_event(record)));
        Box::pin(async move {
            let mut events = Vec::new();
            for found in found {
                events.extend(found.await?);
            }
            Ok(events)
        })
    }

    fn lines(&self, wanted: Vec<(Ring, u64)>) -> BoxFuture<Result<Vec<JournalEvent>, StoreError>> {
        let engine = self.engine.clone();
        Box::pin(async move {
            let mut events = Vec::with_capacity(wanted.len());
            for few in wanted.chunks(GETS_AT_ONCE) {
                let gets = few.iter().map(|(ring, seq)| engine.get(keys::event(ring, *seq)));
                for record in futures_util::future::join_all(gets).await {
                    let Some(record) = record.map_err(read_error)? else { continue };
                    // One that cannot be read is left out, as in a scan.
                    events.extend(records::read_event(&record));
                }
            }
            Ok(events)
        })
    }

    fn poison(&self) -> BoxFuture<Result<Vec<Poison>, StoreError>> {
        Box::pin(self.scan(keys::POISON.to_vec(), |_, record| records::read_poison(record)))
    }

    fn used_keys(&self) -> BoxFuture<Result<Vec<UsedKey>, StoreError>> {
        let found = self.scan(keys::USED_KEYS.to_vec(), |_, record| records::read_used_key(record));
        Box::pin(async move {
            let mut keys = found.await?;
            keys.sort_by_key(|used| used.at);
            Ok(keys)
        })
    }

    fn keys(&self) -> BoxFuture<Result<Vec<ApiKey>, StoreError>> {
        Box::pin(self.scan(keys::API_KEYS.to_vec(), |_, record| records::read_api_key(record)))
    }

    fn aliases(&self) -> BoxFuture<Result<Vec<Alias>, StoreError>> {
        Box::pin(self.scan(keys::ALIASES.to_vec(), |_, record| records::read_alias(record)))
    }

    fn operations(&self) -> BoxFuture<Result<Vec<Operation>, StoreError>> {
        Box::pin(self.scan(keys::OPERATIONS.to_vec(), |_, record| records::read_operation(record)))
    }

    fn usage(&self, block: Option<Block>) -> BoxFuture<Result<Vec<UsageRow>, StoreError>> {
        let prefix = block.map_or_else(|| keys::USAGE.to_vec(), |block| keys::usage_block(&block));
        Box::pin(self.scan(prefix, |_, record| records::read_usage(record)))
    }

    fn usage_rows(&self, wanted: Vec<UsageId>) -> BoxFuture<Result<Vec<UsageRow>, StoreError>> {
        let engine = self.engine.clone();
        Box::pin(async move {
            let mut found = Vec::with_capacity(wanted.len());
            for few in wanted.chunks(GETS_AT_ONCE) {
                let gets = few.iter().map(|id| engine.get(keys::usage(id)));
                for (id, record) in few.iter().zip(futures_util::future::join_all(gets).await) {
                    found.extend(record.map_err(read_error)?.map(|record| (keys::usage(id), record)));
                }
            }
            readable(&engine, found, |_, record| records::read_usage(record)).await
        })
    }

    fn census(&self) -> BoxFuture<Result<BTreeMap<&'static str, usize>, StoreError>> {
        let counts = keys::KINDS.map(|(kind, prefix)| (kind, self.scan(prefix.to_vec(), |_, _| Ok(()))));
        Box::pin(async move {
            let mut census = BTreeMap::new();
            for (kind, found) in counts {
                census.insert(kind, found.await?.len());
            }
            Ok(census)
        })
    }

    fn set_aside(&self) -> BoxFuture<Result<Vec<SetAsideReport>, StoreError>> {
        let found = self.engine.set_aside_list();
        Box::pin(
            async move { Ok(found.await.map_err(read_error)?.into_iter().map(report::set_aside).collect()) },
        )
    }

    fn export(&self) -> BoxFuture<Result<ExportReport, StoreError>> {
        let made = self.engine.export_now(None);
        Box::pin(async move { made.await.map(|info| report::export(&info)).map_err(export_error) })
    }

    fn accept_restored(&self) -> BoxFuture<Result<(), StoreError>> {
        let accepted = self.engine.accept_restored();
        Box::pin(async move { accepted.await.map_err(commit_error) })
    }

    fn report(&self) -> StoreReport {
        report::report(self.engine.status())
    }
}

fn export_error(error: ExportFailed) -> StoreError {
    match error {
        ExportFailed::Overloaded => StoreError::Overloaded,
        ExportFailed::Unavailable => StoreError::Unavailable(error.to_string()),
        ExportFailed::Failed(_) | ExportFailed::Closed => StoreError::Failed(error.to_string()),
    }
}

fn commit_error(error: CommitError) -> StoreError {
    match error {
        CommitError::Overloaded => StoreError::Overloaded,
        CommitError::TooLarge { .. } => StoreError::TooLarge(error.to_string()),
        CommitError::DiskFull | CommitError::Unavailable => StoreError::Unavailable(error.to_string()),
        CommitError::Conflict { .. } | CommitError::Failed | CommitError::Closed => {
            StoreError::Failed(error.to_string())
        }
    }
}

fn read_error(error: ReadError) -> StoreError {
    match error {
        ReadError::Overloaded => StoreError::Overloaded,
        ReadError::Unavailable => StoreError::Unavailable(error.to_string()),
        ReadError::Failed | ReadError::Closed => StoreError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
