//! A session: one node's side of the conversation.
//!
//! * Owns: the node's outbox of commands and its newest report.
//! * Persists: commands, until they are acknowledged; never reports.
//! * Talks to: the agent (hands commands over), the scheduler (what the node uses); deployments read its published
//!   status.
//! * Timers: none.
//! * On crash: loads the outbox from the store and asks the registry how its node stands.

use std::collections::HashMap;
use std::sync::Arc;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult,
    ResponseFuture, WrapFuture,
};
use nebula_core::clock::Clock;
use nebula_core::ids::{CommandId, DeploymentId, NodeId};
use serde::Serialize;

use self::machine::{Effect, Event, Machine};
use super::effects::{Effects, Performer, Replies, Split, perform_all};
use super::letter::{self, Member, opens_letters};
use super::registry::machine::NodeUpdate;
use super::scheduler::Capacity;
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use crate::domain::command::Command;
use crate::domain::error::Error;
use crate::domain::node::{Availability, NodeHealth, NodeStats, Usage};
use crate::domain::report::{NodeFacts, NodeReport, ReplicaReport};
use crate::ports::AgentError;

pub mod machine;

/// The supervisor of all sessions.
pub const PARENT: &str = "/registry/sessions";

/// A session's path.
#[must_use]
pub fn path(node: &NodeId) -> String {
    format!("{PARENT}/{node}")
}

/// What a session publishes.
#[derive(Debug, Serialize)]
pub struct SessionStatus {
    /// Whether the node is heard from.
    pub availability: Option<Availability>,
    /// How many reports have come in this run.
    pub reports: u64,
    /// Commands that wait for their acknowledgement.
    pub commands_waiting: usize,
    /// How many replicas the node reports.
    pub replicas: usize,
    /// What the node uses.
    pub stats: Option<NodeStats>,
    /// How it feels.
    pub health: Option<NodeHealth>,
    #[serde(skip)]
    update: Option<NodeUpdate>,
    #[serde(skip)]
    reported: Arc<Reported>,
}

/// The replicas in a report, by deployment.
type Reported = HashMap<DeploymentId, Vec<ReplicaReport>>;

impl SessionStatus {
    /// The node, and whether it is heard from; none before the registry has said.
    pub(crate) fn node(&self) -> Option<&NodeUpdate> {
        self.update.as_ref()
    }

    /// What the scheduler needs to know of this node; none before it has reported.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let replicas: Vec<ReplicaReport> = self.reported.values().flatten().cloned().collect();
        Some(Usage::of(self.stats.as_ref()?, &replicas))
    }

    /// What a deployment needs to know of this node.
    #[must_use]
    pub fn facts_for(&self, deployment: DeploymentId) -> Option<NodeFacts> {
        let NodeUpdate { node, availability } = self.update.as_ref()?;
        Some(NodeFacts {
            node_id: node.id.clone(),
            node_name: node.name.clone(),
            availability: *availability,
            scheduling: node.scheduling,
            proxy: node.proxy_address(),
            report_seq: self.reports,
            replicas: self.reported.get(&deployment).cloned().unwrap_or_default(),
        })
    }
}

/// A session's actor.
pub struct Session {
    node_id: NodeId,
    machine: Machine,
    update: Option<NodeUpdate>,
    /// What the scheduler was told.
    usage: Option<Usage>,
    /// The last call did not reach the agent.
    unreached: bool,
    /// The newest report, and which one it is.
    reported: (u64, Arc<Reported>),
    /// What those who follow this session know: how the node stands, and which report.
    followed: Option<(Option<NodeUpdate>, u64)>,
    system: System,
    clock: Clock,
    cell: Arc<Cell>,
    effects: Effects<Effect>,
    replies: Replies<Result<(), Error>>,
    watch: DeathWatch,
}

/// How a session is built.
pub(crate) fn spec(system: System, node_id: NodeId) -> ChildSpec {
    ChildSpec::new(node_id.to_string(), "session", Restart::Transient, move |birth| {
        let (system, node_id) = (system.clone(), node_id.clone());
        async move { Session::load(birth, system, node_id).await }
    })
}

impl Session {
    async fn load(birth: Birth, system: System, node_id: NodeId) -> Result<(), Error> {
        let commands = patiently(|| system.store.commands(node_id.clone())).await.map_err(store_error)?;
        let session = Self {
            machine: Machine::load(node_id.clone(), commands),
            node_id,
            update: None,
            usage: None,
            unreached: false,
            reported: (0, Arc::default()),
            followed: None,
            clock: system.tree.clock(),
            cell: birth.cell.clone(),
            effects: Effects::new(system.journal.clone()),
            replies: Replies::new(),
            watch: birth.watch,
            system,
        };
        birth.cell.running(session.start());
        Ok(())
    }

    /// Tells the scheduler what the node uses, when that has changed. It finds the same in the published status.
    fn tell_usage(&mut self) {
        let (_, report) = self.machine.newest_report();
        let usage = report.and_then(|report| Some(Usage::of(report.stats.as_ref()?, &report.replicas)));
        if let Some(usage) = usage.filter(|usage| self.usage.as_ref() != Some(usage)) {
            self.usage = Some(usage.clone());
            let told = Capacity::Usage(self.node_id.clone(), usage);
            self.system.scheduler.tell(super::scheduler::PATH, told);
        }
    }

    fn call(&self, command: Command, ctx: &mut Context<Self>) {
        let reachable = |update: &&NodeUpdate| update.availability != Availability::Offline;
        let Some(update) = self.update.as_ref().filter(reachable).filter(|_| !self.system.caution.holds())
        else {
            // Nobody to call: the next heartbeat's answer carries it.
            // A session that is set against this message keeps the command, as if nobody had tried.
            let _ = letter::tell(&ctx.address(), &self.cell, None, NotCalled(command.id));
            return;
        };
        let sent = command.clone();
        let call = self.system.agents.deliver(&update.node.address, command);
        ctx.spawn(call.into_actor(self).map(move |result, session, ctx| session.called(sent, result, ctx)));
    }

    fn called(&mut self, command: Command, result: Result<(), AgentError>, ctx: &mut Context<Self>) {
        let _turn = self.cell.future_turn("future: a call to the agent");
        match &result {
            Ok(()) => tracing::debug!(
                node_id = %self.node_id, command_id = %command.id, action = command.action.as_str(), "command accepted"
            ),
            // Once is enough: with thousands of commands the calls to one silent agent would fill the log.
            Err(error @ AgentError::Unreachable(_)) if self.unreached => tracing::debug!(
                node_id = %self.node_id, command_id = %command.id, action = command.action.as_str(), %error,
                "command not accepted"
            ),
            Err(error) => tracing::warn!(
                node_id = %self.node_id, command_id = %command.id, action = command.action.as_str(), %error,
                "command not accepted"
            ),
        }
        self.unreached = matches!(result, Err(AgentError::Unreachable(_)));
        let effects = self.machine.step(Event::Called(command.id, result));
        perform_all(self, effects, ctx);
    }
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        self.system.registry_tell(super::registry::Tell::Session(self.node_id.clone()));
        self.settled();
    }
}

impl Member for Session {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }

    fn busy(&self) -> bool {
        self.effects.busy()
    }
}

opens_letters!(Session);

impl Performer for Session {
    type Effect = Effect;

    fn effects(&mut self) -> &mut Effects<Effect> {
        &mut self.effects
    }

    fn writes(&mut self, effect: Effect) -> Split<Effect> {
        match effect {
            Effect::Persist(write) => Split::Writes(vec![write]),
            other => Split::Other(other),
        }
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Persist(_) => debug_assert!(false, "writes are committed"),
            Effect::Call(command) => self.call(*command, ctx),
            Effect::Rejected(deployment, replica, generation, why) => {
                self.system
                    .tell_deployment(deployment, super::deployment::Rejected { replica, generation, why });
            }
            Effect::Reply(to, reply) => self.replies.answer(to, reply),
            Effect::Finished => {
                self.watch.finishes();
                ctx.stop();
            }
        }
    }

    fn settled(&mut self) {
        let (reports, report) = self.machine.newest_report();
        if self.reported.0 != reports {
            let mut by_deployment = Reported::new();
            for replica in report.iter().flat_map(|report| &report.replicas) {
                by_deployment.entry(replica.deployment_id).or_default().push(replica.clone());
            }
            self.reported = (reports, Arc::new(by_deployment));
        }
        let status = Arc::new(SessionStatus {
            availability: self.update.as_ref().map(|update| update.availability),
            reports,
            commands_waiting: self.machine.waiting(),
            replicas: report.map_or(0, |report| report.replicas.len()),
            stats: report.and_then(|report| report.stats.clone()),
            health: report.and_then(|report| report.health.clone()),
            update: self.update.clone(),
            reported: Arc::clone(&self.reported.1),
        });
        // Thousands of deployments may follow this: a command that comes or goes is nothing to them.
        let known = Some((self.update.clone(), reports));
        if self.followed == known {
            self.cell.publish_quietly(status);
        } else {
            self.followed = known;
            self.cell.publish(status);
        }
        self.tell_usage();
    }
}

/// A command that nobody was there to take.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct NotCalled(CommandId);

impl Handler<NotCalled> for Session {
    type Result = ();

    fn handle(&mut self, NotCalled(id): NotCalled, ctx: &mut Context<Self>) {
        let nobody = Err(AgentError::Unreachable("its node is offline".to_owned()));
        let effects = self.machine.step(Event::Called(id, nobody));
        perform_all(self, effects, ctx);
    }
}

/// From the gRPC service: a heartbeat's content. Answers with the commands that wait; waits for no disk.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Command>")]
pub struct Report(pub NodeReport);

impl Handler<Report> for Session {
    type Result = MessageResult<Report>;

    fn handle(&mut self, Report(report): Report, ctx: &mut Context<Self>) -> Self::Result {
        let expected = |report: &&ReplicaReport| {
            self.system.expects_replica(report.deployment_id, report.replica_id, &self.node_id)
        };
        let orphans: Vec<ReplicaReport> = report.replicas.iter().filter(|r| !expected(r)).cloned().collect();
        let (mut commands, mut effects) = self.machine.report(report);
        if self.system.caution.holds() {
            commands.clear();
            self.system.heard_in_caution(&self.node_id, !orphans.is_empty());
        } else if !orphans.is_empty() {
            effects.extend(self.machine.step(Event::Orphans(orphans, self.clock.wall())));
        }
        perform_all(self, effects, ctx);
        MessageResult(commands)
    }
}

/// From a deployment: a command for this node. Durable when answered. Repeating it is harmless.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Enqueue(pub Command);

impl Handler<Enqueue> for Session {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Enqueue(command): Enqueue, ctx: &mut Context<Self>) -> Self::Result {
        let (reply, answer) = match self.replies.open() {
            Ok(open) => open,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let effects = self.machine.step(Event::Enqueue(reply, Box::new(command)));
        perform_all(self, effects, ctx);
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(Error::restarting())) })
    }
}

/// From the registry: how the node stands.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Update(pub NodeUpdate);

impl Handler<Update> for Session {
    type Result = ();

    fn handle(&mut self, Update(update): Update, ctx: &mut Context<Self>) {
        let back = update.availability == Availability::Online
            && self.update.as_ref().is_none_or(|old| {
                old.availability != Availability::Online || old.node.boot_id != update.node.boot_id
            });
        self.update = Some(update);
        let effects = if back { self.machine.call_all() } else { Vec::new() };
        perform_all(self, effects, ctx);
    }
}

/// From the registry: the node was forgotten.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Close;

impl Handler<Close> for Session {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Context<Self>) {
        let effects = self.machine.step(Event::Close);
        perform_all(self, effects, ctx);
    }
}
