//! What one node is told and what it says: the outbox of commands and the newest report.
//!
//! A command is durable before anything else happens to it. It is handed over by a call when the agent can be
//! reached, and with every heartbeat otherwise, until the agent accepts it or acknowledges its id.
//!
//! What concerns one replica is said in order: while a call about it is under way, nothing later about it is. New
//! credentials that came before the start that they follow would be lost, and the start's old ones would stay valid.

use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};

use crate::actors::reply::ReplyTo;
use crate::domain::command::{Action, Command};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::report::{NodeReport, ReplicaReport};
use crate::ports::{AgentError, Write};

#[cfg(test)]
mod props;

/// How many commands may wait for one node.
const OUTBOX_MAX: usize = 2_000;
/// How many calls to one agent may be under way. What comes meanwhile is called when one of them is over.
const CALLS_MAX: usize = 100;
/// How many commands one heartbeat's answer carries, so that it stays far below the message limit.
const COMMANDS_PER_ANSWER_MAX: usize = 100;

/// What happens to a session.
#[derive(Debug)]
pub enum Event {
    /// A deployment wants something of the node.
    Enqueue(ReplyTo, Box<Command>),
    /// A call to the agent is over.
    Called(CommandId, Result<(), AgentError>),
    /// The agent reports replicas that no deployment has, or has there.
    Orphans(Vec<ReplicaReport>, WallTime),
    /// The node was forgotten.
    Close,
}

/// What a session decides.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Make durable.
    Persist(Write),
    /// Hand a command over by a call.
    Call(Box<Command>),
    /// The agent refuses to start a replica.
    Rejected(DeploymentId, ReplicaId, Generation, String),
    /// Answer.
    Reply(ReplyTo, Result<(), Error>),
    /// The session is over.
    Finished,
}

#[derive(Debug)]
struct Pending {
    command: Command,
    calling: bool,
    /// It is to be called when fewer calls are under way.
    put_off: bool,
    /// It went with a heartbeat's answer, which may still be on its way.
    said: bool,
}

impl Pending {
    fn new(command: Command) -> Self {
        Self { command, calling: false, put_off: false, said: false }
    }

    /// Whether it must not be said by a call as well, or forgotten for newer credentials: a copy of it that comes after
    /// those would count. Other commands have their generations against that.
    fn may_be_on_its_way(&self) -> bool {
        self.said && matches!(self.command.action, Action::Access { .. })
    }

    /// Whether nothing is lost when the node hears this and never hears `old`, which came before it. New credentials
    /// are needed beside a start of the same generation: the node may have had that start before, with old ones.
    fn overtakes(&self, old: &Self) -> bool {
        let on_its_way = old.may_be_on_its_way();
        let (new, old) = (&self.command, &old.command);
        let is_access = |command: &Command| matches!(command.action, Action::Access { .. });
        let says_more = match &new.action {
            Action::Access { .. } => is_access(old) && !on_its_way,
            Action::Start(_) => !is_access(old) || old.generation < new.generation,
            Action::Stop | Action::Delete => true,
        };
        new.replica_id == old.replica_id && old.generation <= new.generation && says_more
    }
}

/// A session's state.
#[derive(Debug)]
pub struct Machine {
    node_id: NodeId,
    outbox: Vec<Pending>,
    report: Option<NodeReport>,
    report_seq: u64,
}

impl Machine {
    /// The session as it starts, with the commands that the store remembers, oldest first.
    #[must_use]
    pub fn load(node_id: NodeId, commands: Vec<Command>) -> Self {
        // The session before may have said any of them just before it ended.
        let outbox =
            commands.into_iter().map(|command| Pending { said: true, ..Pending::new(command) }).collect();
        Self { node_id, outbox, report: None, report_seq: 0 }
    }

    /// A heartbeat's content: takes the acknowledgements and answers with what waits. The answer waits for no
    /// disk: a command whose removal is lost is delivered again, which the agent ignores.
    pub fn report(&mut self, report: NodeReport) -> (Vec<Command>, Vec<Effect>) {
        let mut effects = Vec::new();
        for id in &report.acked {
            // One that is on its way once more stays until that call has ended: nothing may come before it.
            let calling = |pending: &Pending| pending.command.id == *id && pending.calling;
            if !self.outbox.iter().any(calling) {
                effects.extend(self.remove(*id));
            }
        }
        self.report = Some(report);
        self.report_seq += 1;
        let next = (0..self.outbox.len()).filter(|at| !self.is_held(*at));
        let next: Vec<usize> = next.take(COMMANDS_PER_ANSWER_MAX).collect();
        let say = |at: usize| {
            let pending = self.outbox.get_mut(at)?;
            pending.said = true;
            Some(pending.command.clone())
        };
        (next.into_iter().filter_map(say).collect(), effects)
    }

    /// Everything else.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Enqueue(reply, command) => self.enqueue(Some(reply), *command),
            Event::Called(id, Ok(())) => self.settled(id, Vec::new()),
            Event::Called(id, Err(AgentError::Unreachable(_))) => self.not_reached(id).into_iter().collect(),
            Event::Called(id, Err(AgentError::Rejected(why))) => self.rejected(id, why),
            Event::Orphans(reports, wall) => {
                let commands: Vec<Command> =
                    reports.iter().map(|report| self.deletion_of(report, wall)).collect();
                commands.into_iter().flat_map(|command| self.enqueue(None, command)).collect()
            }
            Event::Close => {
                let ids: Vec<CommandId> = self.outbox.iter().map(|pending| pending.command.id).collect();
                ids.into_iter().filter_map(|id| self.remove(id)).chain([Effect::Finished]).collect()
            }
        }
    }

    /// The newest report of this run, and its number.
    #[must_use]
    pub fn newest_report(&self) -> (u64, Option<&NodeReport>) {
        (self.report_seq, self.report.as_ref())
    }

    /// How many commands wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outbox.len()
    }

    /// Commands to hand over by a call now: the first about each replica of those that a restart or an absence left
    /// behind. Those that are too many follow when others are over.
    pub fn call_all(&mut self) -> Vec<Effect> {
        let first = (0..self.outbox.len()).filter(|at| !self.is_held(*at) && self.is_first(*at));
        let first: Vec<usize> = first.collect();
        first.into_iter().filter_map(|at| self.call(at)).collect()
    }

    /// Whether a command waits for the outcome of a call about the same replica, its own or one before it.
    fn is_held(&self, at: usize) -> bool {
        let up_to = self.outbox.get(..=at).unwrap_or_default();
        let replica = up_to.last().map(|pending| pending.command.replica_id);
        up_to.iter().any(|pending| pending.calling && Some(pending.command.replica_id) == replica)
    }

    /// Whether nothing else about the same replica waits before it.
    fn is_first(&self, at: usize) -> bool {
        let replica = self.outbox.get(at).map(|pending| pending.command.replica_id);
        self.outbox.iter().position(|pending| Some(pending.command.replica_id) == replica) == Some(at)
    }

    fn call(&mut self, at: usize) -> Option<Effect> {
        let calls = self.outbox.iter().filter(|pending| pending.calling).count();
        let pending = self.outbox.get_mut(at).filter(|pending| !pending.may_be_on_its_way())?;
        pending.put_off = calls >= CALLS_MAX;
        pending.calling = !pending.put_off;
        if pending.put_off {
            return None;
        }
        Some(Effect::Call(Box::new(pending.command.clone())))
    }

    /// A call has settled a command: `more` follows from that, and then the next about the same replica is called.
    fn settled(&mut self, id: CommandId, more: Vec<Effect>) -> Vec<Effect> {
        let known = self.outbox.iter().find(|pending| pending.command.id == id);
        let replica = known.map(|pending| pending.command.replica_id);
        let removed = self.remove(id);
        let next = self.outbox.iter().position(|pending| Some(pending.command.replica_id) == replica);
        let call = next.filter(|at| !self.is_held(*at)).and_then(|at| self.call(at));
        let call = call.or_else(|| self.call_put_off());
        removed.into_iter().chain(more).chain(call).collect()
    }

    /// Calls the first that was put off because too many calls were under way.
    fn call_put_off(&mut self) -> Option<Effect> {
        let due = |at: &usize| {
            let put_off = self.outbox.get(*at).is_some_and(|pending| pending.put_off);
            put_off && !self.is_held(*at) && self.is_first(*at)
        };
        let at = (0..self.outbox.len()).find(due)?;
        self.call(at)
    }

    /// Nobody took it: it stays for the next heartbeat, unless something later overtakes it.
    fn not_reached(&mut self, id: CommandId) -> Option<Effect> {
        let at = self.outbox.iter().position(|pending| pending.command.id == id)?;
        let later = self.outbox.get(at..).unwrap_or_default();
        let overtaken =
            later.split_first().is_some_and(|(old, later)| later.iter().any(|new| new.overtakes(old)));
        if overtaken {
            return self.remove(id);
        }
        self.outbox.get_mut(at)?.calling = false;
        None
    }

    fn enqueue(&mut self, reply: Option<ReplyTo>, command: Command) -> Vec<Effect> {
        let answer = |result| reply.map(|to| Effect::Reply(to, result));
        let newest = self.outbox.iter().rev().find(|p| p.command.replica_id == command.replica_id);
        let repeated = newest.is_some_and(|pending| {
            pending.command.generation == command.generation && pending.command.action == command.action
        });
        if repeated {
            return answer(Ok(())).into_iter().collect();
        }
        if self.outbox.len() >= OUTBOX_MAX {
            let error = Error::new(ErrorClass::Overloaded, "too many commands wait for this node");
            return answer(Err(error)).into_iter().collect();
        }
        // What the node has not been told yet and is overtaken by this command is never said. One that is on its
        // way keeps its place: its answer is still to come.
        let new = Pending::new(command);
        let overtaken = self.outbox.iter().filter(|old| !old.calling && new.overtakes(old));
        let gone: Vec<CommandId> = overtaken.map(|old| old.command.id).collect();
        let mut effects: Vec<Effect> = gone.into_iter().filter_map(|id| self.remove(id)).collect();
        effects.push(Effect::Persist(Write::PutCommand(Box::new(new.command.clone()))));
        effects.extend(answer(Ok(())));
        self.outbox.push(new);
        let at = self.outbox.len() - 1;
        if self.is_first(at) {
            effects.extend(self.call(at));
        }
        effects
    }

    fn rejected(&mut self, id: CommandId, why: String) -> Vec<Effect> {
        let known = self.outbox.iter().find(|pending| pending.command.id == id);
        let start =
            known.filter(|pending| matches!(pending.command.action, Action::Start(_))).map(|pending| {
                let command = &pending.command;
                Effect::Rejected(command.deployment_id, command.replica_id, command.generation, why)
            });
        self.settled(id, start.into_iter().collect())
    }

    fn remove(&mut self, id: CommandId) -> Option<Effect> {
        let at = self.outbox.iter().position(|pending| pending.command.id == id)?;
        self.outbox.remove(at);
        Some(Effect::Persist(Write::DeleteCommand(self.node_id.clone(), id)))
    }

    fn deletion_of(&self, report: &ReplicaReport, wall: WallTime) -> Command {
        Command {
            id: CommandId::random(),
            node_id: self.node_id.clone(),
            deployment_id: report.deployment_id,
            replica_id: report.replica_id,
            generation: report.generation,
            action: Action::Delete,
            drain: Duration::ZERO,
            created_at: wall,
        }
    }
}

#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        "node-1".parse().expect("an id")
    }

    fn command(replica: ReplicaId, generation: u64, action: Action) -> Box<Command> {
        Box::new(Command {
            id: CommandId::random(),
            node_id: node(),
            deployment_id: DeploymentId::from_bytes([1; 16]),
            replica_id: replica,
            generation: Generation(generation),
            action,
            drain: Duration::ZERO,
            created_at: WallTime(0),
        })
    }

    fn acked(ids: &[CommandId]) -> NodeReport {
        NodeReport { acked: ids.to_vec(), ..NodeReport::default() }
    }

    fn unreachable() -> Result<(), AgentError> {
        Err(AgentError::Unreachable("refused".to_owned()))
    }

    #[test]
    fn a_command_is_durable_before_it_is_acknowledged_and_before_it_is_sent() {
        let mut machine = Machine::load(node(), Vec::new());
        let effects = machine.step(Event::Enqueue(ReplyTo(1), command(ReplicaId::random(), 1, Action::Stop)));
        assert!(matches!(
            effects.as_slice(),
            [Effect::Persist(_), Effect::Reply(_, Ok(())), Effect::Call(_)]
        ));
    }

    #[test]
    fn a_command_is_delivered_with_every_heartbeat_until_it_is_acknowledged() {
        let mut machine = Machine::load(node(), Vec::new());
        let stop = command(ReplicaId::random(), 1, Action::Stop);
        let id = stop.id;
        machine.step(Event::Enqueue(ReplyTo(1), stop));
        assert_eq!(machine.report(NodeReport::default()).0, Vec::new(), "a call is under way");
        machine.step(Event::Called(id, unreachable()));
        for _ in 0..3 {
            assert_eq!(machine.report(NodeReport::default()).0.len(), 1);
        }
        let (commands, effects) = machine.report(acked(&[id]));
        assert_eq!(commands, Vec::new());
        assert_eq!(effects, [Effect::Persist(Write::DeleteCommand(node(), id))]);
    }

    #[test]
    fn commands_survive_a_restart() {
        let stop = command(ReplicaId::random(), 1, Action::Stop);
        let mut machine = Machine::load(node(), vec![*stop.clone()]);
        assert_eq!(machine.report(NodeReport::default()).0, [*stop]);
    }

    #[test]
    fn the_last_intent_for_a_replica_wins() {
        let replica = ReplicaId::random();
        let mut machine = Machine::load(node(), Vec::new());
        let stop = command(replica, 1, Action::Stop);
        let stop_id = stop.id;
        machine.step(Event::Enqueue(ReplyTo(1), stop));
        machine.step(Event::Called(stop_id, unreachable()));
        let effects = machine.step(Event::Enqueue(ReplyTo(2), command(replica, 2, Action::Delete)));
        assert!(effects.contains(&Effect::Persist(Write::DeleteCommand(node(), stop_id))));
        assert_eq!(machine.waiting(), 1);
    }

    #[test]
    fn the_same_intent_twice_is_one_command() {
        let replica = ReplicaId::random();
        let mut machine = Machine::load(node(), Vec::new());
        machine.step(Event::Enqueue(ReplyTo(1), command(replica, 1, Action::Stop)));
        let effects = machine.step(Event::Enqueue(ReplyTo(2), command(replica, 1, Action::Stop)));
        assert_eq!(effects, [Effect::Reply(ReplyTo(2), Ok(()))]);
        assert_eq!(machine.waiting(), 1);
    }

    #[test]
    fn the_outbox_is_bounded() {
        let mut machine = Machine::load(node(), Vec::new());
        for _ in 0..OUTBOX_MAX {
            machine.step(Event::Enqueue(ReplyTo(0), command(ReplicaId::random(), 1, Action::Stop)));
        }
        let effects = machine.step(Event::Enqueue(ReplyTo(1), command(ReplicaId::random(), 1, Action::Stop)));
        assert!(
            matches!(effects.as_slice(), [Effect::Reply(_, Err(error))] if error.class == ErrorClass::Overloaded)
        );
    }

    #[test]
    fn replicas_of_unknown_deployments_are_deleted() {
        let mut machine = Machine::load(node(), Vec::new());
        let report = ReplicaReport {
            deployment_id: DeploymentId::random(),
            replica_id: ReplicaId::random(),
            generation: Generation(3),
            status: crate::domain::report::ReportedStatus::Running,
            container_id: String::new(),
            port: 30_000,
            message: String::new(),
            restarts: 0,
            exit_code: None,
            seen: crate::domain::report::Seen::default(),
        };
        let effects = machine.step(Event::Orphans(vec![report.clone()], WallTime(0)));
        assert!(matches!(effects.last(), Some(Effect::Call(command)) if command.action == Action::Delete));
        assert_eq!(machine.step(Event::Orphans(vec![report], WallTime(0))), Vec::new(), "said once");
    }
}
