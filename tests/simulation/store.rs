//! nebulad's store as far as it matters: one queue of commits, each durable as a whole at its moment, in order. What
//! is not durable when the process dies is lost; an actor that dies loses nothing of what it has handed in.

use std::collections::{BTreeMap, VecDeque};

use nebula_core::ids::{DeploymentId, NodeId};
use nebulad::domain::command::Command;
use nebulad::domain::deployment::Deployment;
use nebulad::domain::event::Happening;
use nebulad::domain::node::Node;
use nebulad::ports::Write;

use super::journal::Journal;

/// Which invariant is broken, and how.
pub(crate) type Broken = (&'static str, String);

/// Everything that is durable. Records keep the order in which they were first written, so that a run does not depend
/// on the order of random ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) deployments: BTreeMap<DeploymentId, Deployment>,
    pub(crate) commands: BTreeMap<NodeId, Vec<Command>>,
    /// What the journal has told of each deployment.
    pub(crate) journals: BTreeMap<u32, Journal>,
}

impl Image {
    fn apply(&mut self, write: Write) -> Result<(), Broken> {
        let broken = |what: String| Err(("I1", what));
        match write {
            Write::PutNode(node) => drop(self.nodes.insert(node.id.clone(), *node)),
            Write::DeleteNode(id) => drop(self.nodes.remove(&id)),
            Write::PutDeployment(head) => {
                let replicas = self.deployments.remove(&head.id).map(|dep| dep.replicas).unwrap_or_default();
                self.deployments.insert(head.id, Deployment { replicas, ..*head });
            }
            Write::DeleteDeployment(id) => {
                let left = self.deployments.remove(&id).map_or(0, |dep| dep.replicas.len());
                if left > 0 {
                    return broken(format!(
                        "{left} replicas of deployment {id} stay in the store without it"
                    ));
                }
            }
            Write::PutReplica(id, replica) => {
                let Some(dep) = self.deployments.get_mut(&id) else {
                    return broken(format!("a replica is stored for deployment {id}, which is not"));
                };
                match dep.replicas.iter_mut().find(|old| old.id == replica.id) {
                    Some(old) => *old = *replica,
                    None => dep.replicas.push(*replica),
                }
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
                if let Some(all) = self.commands.get_mut(&node) {
                    all.retain(|command| command.id != id);
                    if all.is_empty() {
                        self.commands.remove(&node);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// When a commit is durable, what it writes, and the journal's lines in it by deployment.
type Commit = (u64, Vec<Write>, Vec<(u32, Happening)>);

/// The store: what is durable, and what is on its way.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) image: Image,
    pending: VecDeque<Commit>,
    last: u64,
}

impl Store {
    /// Queues a commit that takes this long by itself. Answers when it will be durable.
    pub(crate) fn submit(
        &mut self,
        writes: Vec<Write>,
        lines: Vec<(u32, Happening)>,
        now: u64,
        takes: u64,
    ) -> u64 {
        self.last = self.last.max(now) + takes;
        self.pending.push_back((self.last, writes, lines));
        self.last
    }

    /// When everything that was handed in is durable: a read waits for that.
    pub(crate) fn quiet_at(&self) -> u64 {
        self.last
    }

    /// Makes durable what is due.
    pub(crate) fn advance(&mut self, now: u64) -> Result<(), Broken> {
        while self.pending.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, writes, lines)) = self.pending.pop_front() else { break };
            let ends = |write: &Write| match write {
                Write::DeleteDeployment(id) => Some(super::control::deployment_number(*id)),
                _ => None,
            };
            let ended: Vec<u32> = writes.iter().filter_map(ends).collect();
            writes.into_iter().try_for_each(|write| self.image.apply(write))?;
            for (d, line) in lines {
                self.image.journals.entry(d).or_default().take(&line)?;
            }
            self.image.journals.retain(|d, _| !ended.contains(d));
        }
        Ok(())
    }

    /// The process dies. Answers how many commits are lost.
    pub(crate) fn crash(&mut self) -> usize {
        let lost = self.pending.len();
        self.pending.clear();
        self.last = 0;
        lost
    }
}
