//! A store that does what it is asked and, when it is told to, does not say so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nebula_core::ids::{DeploymentId, NodeId};

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
use crate::ports::{BoxFuture, ExportReport, SetAsideReport, Store, StoreError, StoreReport, Write};
use crate::store::EmbeddedStore;

pub(super) struct Doubtful {
    pub(super) store: EmbeddedStore,
    /// Changes of API keys and aliases are made, and their answer is that it is not known.
    pub(super) keys_in_doubt: Arc<AtomicBool>,
}

type Answer<T> = BoxFuture<Result<T, StoreError>>;

impl Store for Doubtful {
    fn commit(&self, writes: Vec<Write>) -> Answer<()> {
        let of_key = |write: &Write| {
            matches!(
                write,
                Write::PutKey(_) | Write::DeleteKey(_) | Write::PutAlias(_) | Write::DeleteAlias(_)
            )
        };
        let in_doubt = self.keys_in_doubt.load(Relaxed) && writes.iter().any(of_key);
        let commit = self.store.commit(writes);
        Box::pin(async move {
            commit.await?;
            if in_doubt { Err(StoreError::Failed("no answer".to_owned())) } else { Ok(()) }
        })
    }

    fn nodes(&self) -> Answer<Vec<Node>> {
        self.store.nodes()
    }

    fn deployment_names(&self) -> Answer<Vec<(DeploymentId, String)>> {
        self.store.deployment_names()
    }

    fn deployment(&self, id: DeploymentId) -> Answer<Option<Deployment>> {
        self.store.deployment(id)
    }

    fn commands(&self, node: NodeId) -> Answer<Vec<Command>> {
        self.store.commands(node)
    }

    fn journal(&self) -> Answer<Vec<JournalEvent>> {
        self.store.journal()
    }

    fn lines(&self, wanted: Vec<(Ring, u64)>) -> Answer<Vec<JournalEvent>> {
        self.store.lines(wanted)
    }

    fn poison(&self) -> Answer<Vec<Poison>> {
        self.store.poison()
    }

    fn used_keys(&self) -> Answer<Vec<UsedKey>> {
        self.store.used_keys()
    }

    fn keys(&self) -> Answer<Vec<ApiKey>> {
        self.store.keys()
    }

    fn aliases(&self) -> Answer<Vec<Alias>> {
        self.store.aliases()
    }

    fn operations(&self) -> Answer<Vec<Operation>> {
        self.store.operations()
    }

    fn usage(&self, block: Option<Block>) -> Answer<Vec<UsageRow>> {
        self.store.usage(block)
    }

    fn usage_rows(&self, wanted: Vec<UsageId>) -> Answer<Vec<UsageRow>> {
        self.store.usage_rows(wanted)
    }

    fn census(&self) -> Answer<BTreeMap<&'static str, usize>> {
        self.store.census()
    }

    fn set_aside(&self) -> Answer<Vec<SetAsideReport>> {
        self.store.set_aside()
    }

    fn export(&self) -> Answer<ExportReport> {
        self.store.export()
    }

    fn accept_restored(&self) -> Answer<()> {
        self.store.accept_restored()
    }

    fn report(&self) -> StoreReport {
        self.store.report()
    }
}
