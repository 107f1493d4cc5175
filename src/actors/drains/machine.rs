//! The decisions about drains: when one begins, when its node is empty, when it has taken too long, and what its node is
//! afterwards. Pure.
//!
//! Who moves the replicas are the deployments; here they are only counted. What a node is to be follows from its newest
//! operation, and is said again at every look for as long as the node is something else: nothing is lost when a message
//! is, or when one of the actors falls in between.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::duration;
use nebula_core::ids::{NodeId, OperationId};
use nebula_core::text::cut;

pub use self::survey::{Left, Survey};
use self::tell::{happened, progress, remains};
use crate::actors::reply::ReplyTo;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::{Line, Origin};
use crate::domain::node::Scheduling;
use crate::domain::operation::{OPERATIONS_ENDED_MAX, Operation, OperationState};
use crate::ports::Write;

mod survey;
mod tell;

/// The longest name of a node that is kept, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// So many nodes may be drained at once.
pub const RUNNING_MAX: usize = 1_000;

/// After a start of nebulad no drain fails before so long, however late it is: the nodes have to be heard first.
const GRACE: Duration = Duration::from_secs(60);

/// What the operator wants of a node, as the registry knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The operator's will.
    pub scheduling: Scheduling,
    /// When it was first registered. One that was forgotten and came back is another one.
    pub created_at: WallTime,
}

/// A node that is to be drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The node.
    pub node: NodeId,
    /// For people.
    pub name: String,
    /// What it is now.
    pub scheduling: Scheduling,
    /// The drain fails after this long.
    pub timeout: Duration,
}

/// What happens to the drains.
#[derive(Debug)]
pub enum Event {
    /// A node is to be emptied.
    Drain(ReplyTo, Wanted, Survey, Origin),
    /// The operator wants something else of a node, if it is being drained: replicas again, or that those that are
    /// there stay.
    Schedule(ReplyTo, NodeId, Scheduling),
    /// The operator ends an operation.
    Cancel(ReplyTo, OperationId, Origin),
    /// How things stand now. The survey is of the nodes in `Machine::draining`.
    Look(BTreeMap<NodeId, Wish>, Survey),
}

/// What the drains decide.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Make durable, with these lines.
    Persist(Vec<Write>, Vec<Line>),
    /// The registry is to make this of a node.
    Set(NodeId, Scheduling),
    /// Answer.
    Reply(ReplyTo, Answer),
}

/// The operation as it is now; none when nothing of the node was to be changed here.
pub type Answer = Result<Option<Arc<Operation>>, Error>;

/// The drains.
#[derive(Debug, Default)]
pub struct Machine {
    running: BTreeMap<NodeId, Running>,
    /// Oldest first.
    ended: VecDeque<Arc<Operation>>,
    /// Some node may not be yet what it is to be.
    unsettled: bool,
}

#[derive(Debug)]
struct Running {
    operation: Arc<Operation>,
    /// The last look found nothing on the node. A place that was given just before it was drained is seen by the next.
    empty: bool,
}

impl Machine {
    /// The drains as they were stored.
    #[must_use]
    pub fn load(mut stored: Vec<Operation>, now: WallTime) -> Self {
        stored.sort_by_key(|operation| (operation.ended_at, operation.started_at, operation.id));
        let mut machine = Self { unsettled: true, ..Self::default() };
        for mut operation in stored {
            if operation.state == OperationState::Running {
                operation.until = operation.until.max(after(now, GRACE));
                let running = Running { operation: Arc::new(operation), empty: false };
                machine.running.insert(running.operation.node.clone(), running);
            } else {
                machine.ended.push_back(Arc::new(operation));
            }
        }
        machine
    }

    /// All operations that are kept, in no order that matters.
    pub fn operations(&self) -> impl Iterator<Item = &Arc<Operation>> {
        self.running.values().map(|running| &running.operation).chain(&self.ended)
    }

    /// The nodes that are being drained.
    pub fn draining(&self) -> impl Iterator<Item = &NodeId> {
        self.running.keys()
    }

    /// Whether it must be seen how things stand.
    #[must_use]
    pub fn needs_look(&self) -> bool {
        self.unsettled || !self.running.is_empty()
    }

    /// Decides.
    pub fn step(&mut self, event: Event, now: WallTime) -> Vec<Effect> {
        match event {
            Event::Drain(reply, wanted, survey, origin) => self.drain(reply, wanted, &survey, origin, now),
            Event::Schedule(reply, node, makes) => self.schedule(reply, &node, makes, now),
            Event::Cancel(reply, id, origin) => self.cancel(reply, id, origin, now),
            Event::Look(nodes, survey) => self.look(&nodes, &survey, now),
        }
    }

    fn drain(
        &mut self,
        reply: ReplyTo,
        wanted: Wanted,
        survey: &Survey,
        origin: Origin,
        now: WallTime,
    ) -> Vec<Effect> {
        if let Some(running) = self.running.get(&wanted.node) {
            return vec![Effect::Reply(reply, Ok(Some(running.operation.clone())))];
        }
        let Left { count, blocked } = survey.on(&wanted.node);
        let drained = wanted.scheduling == Scheduling::Drained && survey.is_empty(&wanted.node);
        if let Some(before) = self.newest(&wanted.node).filter(|_| drained)
            && before.state == OperationState::Done
        {
            return vec![Effect::Reply(reply, Ok(Some(before.clone())))];
        }
        if self.running.len() >= RUNNING_MAX {
            let why = format!("{RUNNING_MAX} nodes are being drained; wait until some are empty");
            return vec![Effect::Reply(reply, Err(Error::new(ErrorClass::Conflict, why)))];
        }
        let name = wanted.name;
        let mut operation = Operation {
            id: OperationId::random(),
            node: wanted.node,
            node_name: cut(name.clone(), NAME_BYTES_MAX),
            state: OperationState::Running,
            makes: Scheduling::Draining,
            started_at: now,
            until: after(now, wanted.timeout),
            ended_at: None,
            total: count,
            left: count,
            blocked,
            message: String::new(),
        };
        let audit = Line::of_audit(origin, "node.drain", format!("node \"{name}\": drain"), now);
        let audit = audit.to_node(operation.node.clone());
        if drained {
            operation.message = "nothing was left on it".to_owned();
            let (mut effects, operation) =
                self.end(operation, OperationState::Done, Scheduling::Drained, vec![audit], now);
            effects.push(Effect::Reply(reply, Ok(Some(operation))));
            return effects;
        }
        operation.message = progress(&operation);
        let began = format!("{}; it fails after {}", remains(&operation), duration::human(wanted.timeout));
        let lines = vec![audit, happened(&operation, "drain_started", began, now)];
        let operation = Arc::new(operation);
        let running = Running { operation: operation.clone(), empty: false };
        self.running.insert(operation.node.clone(), running);
        vec![
            Effect::Persist(vec![put(&operation)], lines),
            Effect::Set(operation.node.clone(), Scheduling::Draining),
            Effect::Reply(reply, Ok(Some(operation))),
        ]
    }

    fn schedule(&mut self, reply: ReplyTo, node: &NodeId, makes: Scheduling, now: WallTime) -> Vec<Effect> {
        match self.running.remove(node) {
            // Who wants it is in the registry's line.
            Some(running) => self.call_off(reply, &running.operation, makes, Vec::new(), now),
            None => vec![Effect::Reply(reply, Ok(None))],
        }
    }

    fn cancel(&mut self, reply: ReplyTo, id: OperationId, origin: Origin, now: WallTime) -> Vec<Effect> {
        let node = self.running.values().find(|running| running.operation.id == id);
        let node = node.map(|running| running.operation.node.clone());
        let Some(running) = node.and_then(|node| self.running.remove(&node)) else {
            let error = match self.ended.iter().find(|operation| operation.id == id) {
                Some(_) => {
                    let why = format!("operation {id} has ended; nothing is left to cancel");
                    Error::new(ErrorClass::Conflict, why)
                }
                None => no_such_operation(&id.to_string()),
            };
            return vec![Effect::Reply(reply, Err(error))];
        };
        let operation = &running.operation;
        let message = format!("node \"{}\": the drain is cancelled", operation.node_name);
        let audit = Line::of_audit(origin, "operation.cancel", message, now).to_node(operation.node.clone());
        self.call_off(reply, operation, Scheduling::Cordoned, vec![audit], now)
    }

    /// An operator ends a drain.
    fn call_off(
        &mut self,
        reply: ReplyTo,
        operation: &Operation,
        makes: Scheduling,
        lines: Vec<Line>,
        now: WallTime,
    ) -> Vec<Effect> {
        let message = format!("cancelled by an operator; {}", remains(operation));
        let operation = Operation { message, ..operation.clone() };
        let (mut effects, operation) = self.end(operation, OperationState::Cancelled, makes, lines, now);
        effects.push(Effect::Reply(reply, Ok(Some(operation))));
        effects
    }

    fn look(&mut self, nodes: &BTreeMap<NodeId, Wish>, survey: &Survey, now: WallTime) -> Vec<Effect> {
        self.unsettled = false;
        let mut effects = self.settle(nodes);
        for (id, running) in std::mem::take(&mut self.running) {
            let found = nodes.get(&id).filter(|node| node.created_at <= running.operation.started_at);
            match found {
                Some(node) => effects.extend(self.weigh(running, *node, survey, now)),
                None => {
                    let message = "the node was deleted".to_owned();
                    let operation = Operation { message, ..(*running.operation).clone() };
                    let state = OperationState::Cancelled;
                    effects.extend(self.end(operation, state, Scheduling::Cordoned, Vec::new(), now).0);
                }
            }
        }
        effects
    }

    /// Nodes that are still draining although nothing drains them become what the end of their drain makes of them.
    fn settle(&mut self, nodes: &BTreeMap<NodeId, Wish>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (id, node) in nodes {
            if node.scheduling == Scheduling::Draining && !self.running.contains_key(id) {
                let newest = self.newest(id).filter(|operation| node.created_at <= operation.started_at);
                let makes = newest.map_or(Scheduling::Cordoned, |operation| operation.makes);
                effects.push(Effect::Set(id.clone(), makes));
                self.unsettled = true;
            }
        }
        effects
    }

    /// Whether one drain goes on.
    fn weigh(&mut self, mut running: Running, node: Wish, survey: &Survey, now: WallTime) -> Vec<Effect> {
        let operation = Arc::make_mut(&mut running.operation);
        let Left { count, blocked } = survey.on(&operation.node);
        (operation.left, operation.blocked) = (count, blocked);
        operation.total = operation.total.max(count);
        operation.message = progress(operation);
        let is_draining = node.scheduling == Scheduling::Draining;
        let empty = is_draining && survey.is_empty(&operation.node);
        if empty && running.empty {
            let operation = Operation { message: "nothing is left on it".to_owned(), ..operation.clone() };
            return self.end(operation, OperationState::Done, Scheduling::Drained, Vec::new(), now).0;
        }
        if !empty && now >= operation.until {
            let took = Duration::from_millis(now.0.saturating_sub(operation.started_at.0));
            let message = format!("not empty after {}: {}", duration::human(took), remains(operation));
            let operation = Operation { message, ..operation.clone() };
            return self.end(operation, OperationState::Failed, Scheduling::Cordoned, Vec::new(), now).0;
        }
        running.empty = empty;
        let set = (!is_draining).then(|| Effect::Set(running.operation.node.clone(), Scheduling::Draining));
        self.running.insert(running.operation.node.clone(), running);
        set.into_iter().collect()
    }

    /// Ends an operation that is not among the running ones any more, with these lines and the one that says so.
    fn end(
        &mut self,
        operation: Operation,
        state: OperationState,
        makes: Scheduling,
        mut lines: Vec<Line>,
        now: WallTime,
    ) -> (Vec<Effect>, Arc<Operation>) {
        let kind = match state {
            OperationState::Done => "drained",
            OperationState::Failed => "drain_failed",
            OperationState::Cancelled | OperationState::Running => "drain_cancelled",
        };
        lines.push(happened(&operation, kind, operation.message.clone(), now));
        let operation = Arc::new(Operation { state, makes, ended_at: Some(now), ..operation });
        let mut writes = vec![put(&operation)];
        self.ended.push_back(operation.clone());
        while self.ended.len() > OPERATIONS_ENDED_MAX {
            writes.extend(self.ended.pop_front().map(|oldest| Write::DeleteOperation(oldest.id)));
        }
        self.unsettled = true;
        let set = Effect::Set(operation.node.clone(), makes);
        (vec![Effect::Persist(writes, lines), set], operation)
    }

    /// The drain of a node that ended last.
    fn newest(&self, node: &NodeId) -> Option<&Arc<Operation>> {
        self.ended.iter().rev().find(|operation| operation.node == *node)
    }
}

fn put(operation: &Operation) -> Write {
    Write::PutOperation(Box::new(operation.clone()))
}

fn after(now: WallTime, time: Duration) -> WallTime {
    WallTime(now.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

/// There is none with this id, or it ended long ago.
#[must_use]
pub fn no_such_operation(id: &str) -> Error {
    Error::new(ErrorClass::NotFound, format!("there is no operation \"{id}\""))
}

#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
