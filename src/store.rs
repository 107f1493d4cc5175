//! Durable state: the store port on top of the embedded engine.
//!
//! What do we store? Nodes (identity, address, what they have, the operator's will), deployments (spec, desired
//! state, generation, token hash, gateway token), their replicas (place, phase), commands that wait for their
//! acknowledgement, the newest 200 journal lines of each deployment, and the idempotency keys of the last day. All of it is durable before it is
//! acknowledged. Not stored: heartbeats, stats, reports, gates of the breaker, requests in flight; and routes,
//! which follow from deployments.

use std::collections::BTreeMap;
use std::path::Path;

use nebula_core::exit::Fatal;
use nebula_core::ids::{DeploymentId, NodeId};
use nebula_store::{Batch, CommitError, Options, ReadError, Record};

use crate::domain::command::Command;
use crate::domain::deployment::Deployment;
use crate::domain::event::JournalEvent;
use crate::domain::idempotency::UsedKey;
use crate::domain::node::Node;
use crate::ports::{BoxFuture, Store, StoreError, StoreReport, Write};

mod keys;
mod records;

/// The store port on the embedded engine. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedStore {
    engine: nebula_store::Store,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, made when missing. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be used, is in use, or holds what cannot be read.
    pub fn open(dir: &Path) -> Result<Self, Fatal> {
        let engine = nebula_store::Store::open(dir, Options::default())?;
        Ok(Self { engine })
    }

    /// Writes out what is queued and releases the directory. Blocks.
    pub fn close(&self) {
        self.engine.close();
    }

    fn scan<T: 'static>(
        &self,
        prefix: Vec<u8>,
        decode: fn(&[u8], &Record) -> Result<T, StoreError>,
    ) -> impl Future<Output = Result<Vec<T>, StoreError>> + Send + 'static + use<T> {
        let found = self.engine.scan(prefix);
        async move {
            let found = found.await.map_err(read_error)?;
            // One record that this version cannot read must not keep all the others from being read.
            let readable = found.iter().filter_map(|(key, record)| {
                let unreadable =
                    |error| tracing::error!(key = %key.escape_ascii(), %error, "record left out");
                decode(key, record).map_err(unreadable).ok()
            });
            Ok(readable.collect())
        }
    }
}

fn batch(writes: Vec<Write>) -> Result<Batch, StoreError> {
    let mut batch = Batch::new();
    for write in writes {
        batch = match write {
            Write::PutNode(node) => batch.put(keys::node(&node.id), records::node(&node)?),
            Write::DeleteNode(id) => batch.delete(keys::node(&id)),
            Write::PutDeployment(dep) => batch.put(keys::deployment(dep.id), records::deployment(&dep)?),
            Write::DeleteDeployment(id) => batch.delete(keys::deployment(id)),
            Write::PutReplica(dep, replica) => {
                batch.put(keys::replica(dep, replica.id), records::replica(&replica)?)
            }
            Write::DeleteReplica(dep, id) => batch.delete(keys::replica(dep, id)),
            Write::PutCommand(command) => {
                batch.put(keys::command(&command.node_id, command.id), records::command(&command)?)
            }
            Write::DeleteCommand(node, id) => batch.delete(keys::command(&node, id)),
            Write::PutEvent(event) => {
                batch.put(keys::event(event.deployment, event.seq), records::event(&event)?)
            }
            Write::DeleteEvent(dep, seq) => batch.delete(keys::event(dep, seq)),
            Write::PutUsedKey(used) => batch.put(keys::used_key(&used.key), records::used_key(&used)?),
            Write::DeleteUsedKey(key) => batch.delete(keys::used_key(&key)),
        };
    }
    Ok(batch)
}

impl Store for EmbeddedStore {
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<Result<(), StoreError>> {
        let commit = batch(writes).map(|batch| self.engine.commit(batch));
        Box::pin(async move { commit?.await.map_err(commit_error) })
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

    fn events(&self, deployment: DeploymentId) -> BoxFuture<Result<Vec<JournalEvent>, StoreError>> {
        Box::pin(self.scan(keys::events(deployment), |_, record| records::read_event(record)))
    }

    fn used_keys(&self) -> BoxFuture<Result<Vec<UsedKey>, StoreError>> {
        let found = self.scan(keys::USED_KEYS.to_vec(), |_, record| records::read_used_key(record));
        Box::pin(async move {
            let mut keys = found.await?;
            keys.sort_by_key(|used| used.at);
            Ok(keys)
        })
    }

    fn last_event_seq(&self) -> BoxFuture<Result<u64, StoreError>> {
        let all = self.scan(keys::EVENTS.to_vec(), |key, _| Ok(keys::event_seq(key)));
        Box::pin(async move { Ok(all.await?.into_iter().max().unwrap_or(0)) })
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

    fn report(&self) -> StoreReport {
        let status = self.engine.status();
        StoreReport {
            size_bytes: status.size_bytes,
            commits_total: status.commits,
            last_commit_ms: status.last_commit_ms,
            set_aside: status.set_aside,
            failed: status.failed,
        }
    }
}

fn commit_error(error: CommitError) -> StoreError {
    match error {
        CommitError::Overloaded => StoreError::Overloaded,
        CommitError::TooLarge { .. } => StoreError::TooLarge(error.to_string()),
        CommitError::Conflict { .. } | CommitError::Failed | CommitError::Closed => {
            StoreError::Failed(error.to_string())
        }
    }
}

fn read_error(error: ReadError) -> StoreError {
    match error {
        ReadError::Overloaded => StoreError::Overloaded,
        ReadError::Failed | ReadError::Closed => StoreError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
