//! What one node is told and what it says: the outbox of commands and the newest report.
//!
//! A command is durable before anything else happens to it. It is handed over by a call when the agent can be
//! reached, and with every heartbeat otherwise, until the agent accepts it or acknowledges its id.

use nebula_core::clock::WallTime;
use nebula_core::ids::{CommandId, DeploymentId, Generation, NodeId, ReplicaId};

use crate::actors::effects::ReplyTo;
use crate::domain::command::{Action, Command};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::report::{NodeReport, ReplicaReport};
use crate::ports::{AgentError, Write};

/// How many commands may wait for one node.
const OUTBOX_MAX: usize = 2_000;
/// How many commands one heartbeat's answer carries, so that it stays far below the message limit.
const COMMANDS_PER_ANSWER_MAX: usize = 100;

/// What happens to a session.
#[derive(Debug)]
pub enum Event {
    /// A deployment wants something of the node.
    Enqueue(ReplyTo, Box<Command>),
    /// A call to the agent is over.
    Called(CommandId, Result<(), AgentError>),
    /// The agent reports replicas of deployments that do not exist.
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
        let outbox = commands.into_iter().map(|command| Pending { command, calling: false }).collect();
        Self { node_id, outbox, report: None, report_seq: 0 }
    }

    /// A heartbeat's content: takes the acknowledgements and answers with what waits. The answer waits for no
    /// disk: a command whose removal is lost is delivered again, which the agent ignores.
    pub fn report(&mut self, report: NodeReport) -> (Vec<Command>, Vec<Effect>) {
        let mut effects = Vec::new();
        for id in &report.acked {
            effects.extend(self.remove(*id));
        }
        self.report = Some(report);
        self.report_seq += 1;
        let waiting = self.outbox.iter().filter(|pending| !pending.calling);
        (waiting.take(COMMANDS_PER_ANSWER_MAX).map(|pending| pending.command.clone()).collect(), effects)
    }

    /// Everything else.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Enqueue(reply, command) => self.enqueue(Some(reply), *command),
            Event::Called(id, Ok(())) => self.remove(id).into_iter().collect(),
            Event::Called(id, Err(AgentError::Unreachable(_))) => {
                if let Some(pending) = self.outbox.iter_mut().find(|pending| pending.command.id == id) {
                    pending.calling = false;
                }
                Vec::new()
            }
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

    /// Commands to hand over by a call now: those that a restart or an absence left behind.
    pub fn call_all(&mut self) -> Vec<Effect> {
        let waiting = self.outbox.iter_mut().filter(|pending| !pending.calling);
        waiting
            .take(COMMANDS_PER_ANSWER_MAX)
            .map(|pending| {
                pending.calling = true;
                Effect::Call(Box::new(pending.command.clone()))
            })
            .collect()
    }

    fn enqueue(&mut self, reply: Option<ReplyTo>, command: Command) -> Vec<Effect> {
        let answer = |result| reply.map(|to| Effect::Reply(to, result));
        let same = |other: &Command| {
            other.replica_id == command.replica_id
                && other.generation == command.generation
                && other.action.as_str() == command.action.as_str()
        };
        let repeated =
            self.outbox.iter().rev().find(|pending| pending.command.replica_id == command.replica_id);
        if repeated.is_some_and(|pending| same(&pending.command) && pending.command.action == command.action)
        {
            return answer(Ok(())).into_iter().collect();
        }
        if self.outbox.len() >= OUTBOX_MAX {
            let error = Error::new(ErrorClass::Overloaded, "too many commands wait for this node");
            return answer(Err(error)).into_iter().collect();
        }
        // What the node has not been told yet and is overtaken by this command is never said. One that is on its
        // way keeps its place: its answer is still to come.
        let overtaken = |pending: &Pending| {
            pending.command.replica_id == command.replica_id
                && pending.command.generation <= command.generation
                && !pending.calling
                && !matches!(command.action, Action::Access { .. })
        };
        let gone: Vec<CommandId> =
            self.outbox.iter().filter(|p| overtaken(p)).map(|p| p.command.id).collect();
        let mut effects: Vec<Effect> = gone.into_iter().filter_map(|id| self.remove(id)).collect();
        effects.push(Effect::Persist(Write::PutCommand(Box::new(command.clone()))));
        effects.extend(answer(Ok(())));
        effects.push(Effect::Call(Box::new(command.clone())));
        self.outbox.push(Pending { command, calling: true });
        effects
    }

    fn rejected(&mut self, id: CommandId, why: String) -> Vec<Effect> {
        let start = self
            .outbox
            .iter()
            .find(|pending| pending.command.id == id && matches!(pending.command.action, Action::Start(_)))
            .map(|pending| {
                let command = &pending.command;
                Effect::Rejected(command.deployment_id, command.replica_id, command.generation, why)
            });
        self.remove(id).into_iter().chain(start).collect()
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
            created_at: wall,
        }
    }
}

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
        };
        let effects = machine.step(Event::Orphans(vec![report.clone()], WallTime(0)));
        assert!(matches!(effects.last(), Some(Effect::Call(command)) if command.action == Action::Delete));
        assert_eq!(machine.step(Event::Orphans(vec![report], WallTime(0))), Vec::new(), "said once");
    }
}
