//! A store in memory: every commit is there at once, so that paused time waits for nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;

use nebula_core::ids::{DeploymentId, NodeId};
use nebulad::domain::alias::Alias;
use nebulad::domain::command::Command;
use nebulad::domain::deployment::{Deployment, Replica};
use nebulad::domain::event::{JournalEvent, Ring};
use nebulad::domain::idempotency::UsedKey;
use nebulad::domain::key::ApiKey;
use nebulad::domain::node::Node;
use nebulad::domain::operation::Operation;
use nebulad::domain::poison::Poison;
use nebulad::domain::usage::{Block, UsageId, UsageRow};
use nebulad::ports::{
    BoxFuture, ExportReport, RestoredReport, SetAsideReport, Store, StoreError, StoreReport, Write,
};

type Answer<T> = BoxFuture<Result<T, StoreError>>;

/// What these tests need of a store; the rest is empty.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Records>);

#[derive(Default)]
struct Records {
    nodes: BTreeMap<NodeId, Node>,
    deployments: BTreeMap<DeploymentId, Deployment>,
    commands: BTreeMap<NodeId, Vec<Command>>,
    journal: Vec<JournalEvent>,
    operations: Vec<Operation>,
    aliases: BTreeMap<String, Alias>,
    rebuilt: bool,
}

fn ready<T: Send + 'static>(answer: T) -> Answer<T> {
    Box::pin(async { Ok(answer) })
}

impl Memory {
    fn with<T>(&self, what: impl FnOnce(&mut Records) -> T) -> T {
        what(&mut self.0.lock().expect("a lock"))
    }

    /// It was rebuilt and may lack what was acknowledged, as the next control plane is told.
    pub(crate) fn was_rebuilt(&self) {
        self.with(|records| records.rebuilt = true);
    }

    /// The kinds of the journal's lines about a deployment, in order.
    pub(crate) fn kinds(&self, of: DeploymentId) -> Vec<String> {
        self.lines_of(of).into_iter().map(|event| event.line.kind).collect()
    }

    /// The journal's lines about a deployment, in order.
    pub(crate) fn lines_of(&self, of: DeploymentId) -> Vec<JournalEvent> {
        let about = |event: &&JournalEvent| event.ring() == Ring::Deployment(of);
        self.with(|records| records.journal.iter().filter(about).cloned().collect())
    }
}

impl Records {
    fn replicas(&mut self, id: DeploymentId) -> &mut Vec<Replica> {
        &mut self.deployments.get_mut(&id).expect("its deployment is stored first").replicas
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::PutNode(node) => drop(self.nodes.insert(node.id.clone(), *node)),
            Write::DeleteNode(id) => drop(self.nodes.remove(&id)),
            Write::PutDeployment(head) => {
                let replicas = self.deployments.remove(&head.id).map(|dep| dep.replicas).unwrap_or_default();
                self.deployments.insert(head.id, Deployment { replicas, ..*head });
            }
            Write::DeleteDeployment(id) => drop(self.deployments.remove(&id)),
            Write::PutReplica(id, replica) => {
                let all = self.replicas(id);
                all.retain(|old| old.id != replica.id);
                all.push(*replica);
            }
            Write::DeleteReplica(id, replica) => {
                if let Some(dep) = self.deployments.get_mut(&id) {
                    dep.replicas.retain(|old| old.id != replica);
                }
            }
            Write::PutCommand(command) => {
                self.commands.entry(command.node_id.clone()).or_default().push(*command);
            }
            Write::DeleteCommand(node, id) => {
                self.commands.entry(node).or_default().retain(|command| command.id != id);
            }
            Write::PutEvent(event) => self.journal.push(*event),
            Write::PutOperation(operation) => {
                self.operations.retain(|old| old.id != operation.id);
                self.operations.push(*operation);
            }
            Write::DeleteOperation(id) => self.operations.retain(|old| old.id != id),
            Write::PutAlias(alias) => drop(self.aliases.insert(alias.name.clone(), *alias)),
            Write::DeleteAlias(name) => drop(self.aliases.remove(&name)),
            // Nobody here reads the rest again.
            _ => {}
        }
    }
}

impl Store for Memory {
    fn commit(&self, writes: Vec<Write>) -> Answer<()> {
        self.with(|records| writes.into_iter().for_each(|write| records.apply(write)));
        ready(())
    }

    fn nodes(&self) -> Answer<Vec<Node>> {
        ready(self.with(|records| records.nodes.values().cloned().collect()))
    }

    fn deployment_names(&self) -> Answer<Vec<(DeploymentId, String)>> {
        let name = |dep: &Deployment| (dep.id, dep.name.clone());
        ready(self.with(|records| records.deployments.values().map(name).collect()))
    }

    fn deployment(&self, id: DeploymentId) -> Answer<Option<Deployment>> {
        ready(self.with(|records| records.deployments.get(&id).cloned()))
    }

    fn commands(&self, node: NodeId) -> Answer<Vec<Command>> {
        ready(self.with(|records| records.commands.get(&node).cloned().unwrap_or_default()))
    }

    fn journal(&self) -> Answer<Vec<JournalEvent>> {
        ready(self.with(|records| records.journal.clone()))
    }

    fn operations(&self) -> Answer<Vec<Operation>> {
        ready(self.with(|records| records.operations.clone()))
    }

    fn aliases(&self) -> Answer<Vec<Alias>> {
        ready(self.with(|records| records.aliases.values().cloned().collect()))
    }

    fn lines(&self, wanted: Vec<(Ring, u64)>) -> Answer<Vec<JournalEvent>> {
        let is = |event: &&JournalEvent| wanted.contains(&(event.ring(), event.seq));
        ready(self.with(|records| records.journal.iter().filter(is).cloned().collect()))
    }

    fn poison(&self) -> Answer<Vec<Poison>> {
        ready(Vec::new())
    }

    fn used_keys(&self) -> Answer<Vec<UsedKey>> {
        ready(Vec::new())
    }

    fn keys(&self) -> Answer<Vec<ApiKey>> {
        ready(Vec::new())
    }

    fn usage(&self, _: Option<Block>) -> Answer<Vec<UsageRow>> {
        ready(Vec::new())
    }

    fn usage_rows(&self, _: Vec<UsageId>) -> Answer<Vec<UsageRow>> {
        ready(Vec::new())
    }

    fn census(&self) -> Answer<BTreeMap<&'static str, usize>> {
        ready(BTreeMap::new())
    }

    fn set_aside(&self) -> Answer<Vec<SetAsideReport>> {
        ready(Vec::new())
    }

    fn export(&self) -> Answer<ExportReport> {
        Box::pin(async { Err(StoreError::Unavailable("nothing to export to".to_owned())) })
    }

    fn accept_restored(&self) -> Answer<()> {
        ready(())
    }

    fn report(&self) -> StoreReport {
        let rebuilt = self.with(|records| records.rebuilt).then(|| RestoredReport {
            at: String::new(),
            export: None,
            export_at: None,
            why: "its newest part is lost".to_owned(),
        });
        StoreReport { restored: rebuilt, ..StoreReport::default() }
    }
}
