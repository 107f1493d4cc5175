//! The shells of registry, sessions, scheduler and router: what each does with mail and with its machine's effects.

use std::collections::BTreeMap;
use std::sync::Arc;

use nebula_core::clock::Tick;
use nebula_core::ids::{CommandId, NodeId, ReplicaId};
use nebulad::actors::registry::machine::{self as registry, NodeUpdate, Timing, Verdict};
use nebulad::actors::session::machine as session;
use nebulad::domain::command::Command;
use nebulad::domain::error::{Error, ErrorClass};
use nebulad::domain::node::{Availability, Capabilities, Gpu};
use nebulad::domain::report::{NodeReport, ReplicaReport};
use nebulad::ports::AgentError;

use super::agent::{Answer, node_id, node_index};
use super::control::registry_op::Op;
use super::control::{Cell, Do, Machine, Mail, SessionActor, Status, Who, deployment_id, deployment_number};
use super::sim::{Event, Sim};
use super::talk::{Beat, BeatAnswer};
use nebula_agent::replica::machine::Refusal;

/// As in the client of the agents: how long an agent may take to accept a command, with the connection.
const DELIVER_MS: u64 = 8_000;
/// After how many full reports in a row that led to nothing a node counts as quiet.
const QUIET_MIN: u8 = 3;
pub(crate) const GPUS: u32 = 4;

fn timing() -> Timing {
    Timing {
        heartbeat_interval: nebula_core::timing::HEARTBEAT_INTERVAL,
        heartbeat_timeout: nebula_core::timing::HEARTBEAT_TIMEOUT,
        restart_grace: nebula_core::timing::RESTART_GRACE,
    }
}

fn capabilities() -> Capabilities {
    let gpu = |index| Gpu { name: "A100".to_owned(), memory_bytes: 40, index, ..Gpu::default() };
    Capabilities { gpus: (0..GPUS).map(gpu).collect(), cpu_cores: 64, ..Capabilities::default() }
}

impl Sim {
    /// Something of this node may follow from its next reports.
    pub(crate) fn touch(&mut self, n: u16) {
        self.control.quiet.insert(n, 0);
    }

    /// What a deployment says of itself has changed: nodes that have replicas of it may have some that it does not.
    pub(crate) fn touch_nodes_of(&mut self, d: u32) {
        let id = deployment_id(d);
        let has = |(who, cell): (&Who, &Cell)| match (who, &cell.status) {
            (Who::Session(n), Some(Status::Session { reported, .. })) => {
                reported.iter().any(|report| report.deployment_id == id).then_some(*n)
            }
            _ => None,
        };
        let nodes: Vec<u16> = self.control.cells.iter().filter_map(has).collect();
        nodes.into_iter().for_each(|n| self.touch(n));
    }

    // The registry.

    pub(crate) fn build_registry(&mut self) {
        let nodes: Vec<_> = self.control.store.image.nodes.values().cloned().collect();
        self.oracle.nodes_loaded(&nodes).unwrap_or_else(|what| self.violated("I1", what));
        let now = Tick(self.now);
        let machine = registry::Machine::load(timing(), "example.com".to_owned(), nodes, now);
        let updates: Vec<NodeUpdate> = machine.nodes().collect();
        if let Some(cell) = self.cell(Who::Registry) {
            cell.machine = Some(Machine::Registry(Box::new(machine)));
        }
        for update in &updates {
            self.open(Who::Session(node_index(&update.node.id)));
        }
        self.mail(Who::Scheduler, Mail::Nodes(updates));
        self.arm_registry();
    }

    fn arm_registry(&mut self) {
        let life = self.control.life;
        let now = self.now;
        let Some(incarnation) = self.cell(Who::Registry).map(|cell| cell.incarnation) else { return };
        let Some(next) = self.registry().map(|machine| machine.next_timer().0) else { return };
        self.at(next.max(now) + 1, Event::RegistryTimer(life, incarnation));
    }

    pub(crate) fn registry_timer(&mut self, incarnation: u32) {
        if self.cell(Who::Registry).is_none_or(|cell| cell.incarnation != incarnation) {
            return;
        }
        self.drive_registry(registry::Event::Timer);
        self.arm_registry();
    }

    fn drive_registry(&mut self, event: registry::Event) {
        let now = Tick(self.now);
        let Some(machine) = self.registry() else { return };
        let timer = matches!(event, registry::Event::Timer);
        let effects = machine.step(event, now);
        if timer {
            self.check_declared(&effects);
        }
        if !effects.is_empty() {
            self.act_on(Who::Registry, effects.into_iter().map(Do::Registry).collect());
        }
    }

    pub(crate) fn perform_registry(&mut self, effect: registry::Effect) {
        match effect {
            registry::Effect::Persist(_) => {}
            registry::Effect::OpenSession(id) => self.open(Who::Session(node_index(&id))),
            registry::Effect::CloseSession(id) => {
                self.mail(Who::Session(node_index(&id)), Mail::Close);
                self.mail(Who::Scheduler, Mail::NodeForgotten(id.clone()));
                for who in self.deployment_cells() {
                    self.mail(who, Mail::NodeGone(id.clone()));
                }
            }
            registry::Effect::Announce(update) => {
                self.trace(|| format!("{} is {:?}", update.node.id, update.availability));
                self.node_announced(&update.node.id, update.availability);
                self.mail(Who::Session(node_index(&update.node.id)), Mail::Update(update.clone()));
                self.mail(Who::Scheduler, Mail::Nodes(vec![*update]));
            }
            registry::Effect::Notice(notice) => {
                self.trace(|| format!("registry says {notice:?}"));
                match notice {
                    registry::Notice::BrakeClosed(_) => self.count("brake closed", 1),
                    registry::Notice::StoodStill(_) => self.count("pauses noticed", 1),
                    registry::Notice::BrakeOpened(_) | registry::Notice::BrakeReleased(_) => {}
                }
            }
            registry::Effect::Reply(to, reply) => self.registry_replies(to.0, reply),
        }
    }

    fn registry_replies(&mut self, to: u64, reply: Result<registry::Reply, Error>) {
        if let Some((n, life, call)) = self.oracle.registering.remove(&to) {
            if reply.is_ok() {
                if !self.control.store.image.nodes.contains_key(&node_id(n)) {
                    self.violated("I1", format!("n{n:02} is registered and not stored"));
                }
                self.answer_beat(n, life, call, BeatAnswer::Registered);
            } else {
                self.answer_beat(n, life, call, BeatAnswer::Failed { spent: 0 });
            }
            return;
        }
        let image = &self.control.store.image;
        self.oracle.node_op_acked(to, reply.is_ok(), image).unwrap_or_else(|what| self.violated("I1", what));
    }

    // Heartbeats.

    /// Takes a sign of life for what it is when nothing can follow from its content.
    pub(crate) fn control_hears_lightly(&mut self, n: u16) -> bool {
        let quiet = self.control.quiet.get(&n).is_some_and(|times| *times >= QUIET_MIN);
        if !quiet || !self.control.up || self.control.paused_until > self.now || self.control.caution.holds()
        {
            return false;
        }
        if self.session(n).is_none_or(|actor| actor.machine.waiting() > 0) || self.registry().is_none() {
            return false;
        }
        let boot = self.agent(n).boot_id();
        self.hear(n, &boot) == Verdict::Known
    }

    fn hear(&mut self, n: u16, boot_id: &str) -> Verdict {
        let now = Tick(self.now);
        let id = self.agents[usize::from(n)].node.clone();
        let Some(machine) = self.registry() else { return Verdict::Unknown };
        let (verdict, effects) = machine.heartbeat(&id, boot_id, now);
        if verdict != Verdict::Unknown {
            self.oracle.heard(n, self.now);
        }
        if !effects.is_empty() {
            self.act_on(Who::Registry, effects.into_iter().map(Do::Registry).collect());
        }
        verdict
    }

    pub(crate) fn beat_arrives(&mut self, n: u16, life: u32, call: u64, beat: Beat) {
        if !self.control.up {
            return self.answer_beat(n, life, call, BeatAnswer::Failed { spent: 0 });
        }
        if self.control.paused_until > self.now {
            let beat = Box::new(beat);
            return self.control.held.push(Event::BeatArrives { node: n, life, call, beat });
        }
        let refused = BeatAnswer::Failed { spent: 0 };
        if self.registry().is_none() {
            return self.answer_beat(n, life, call, refused);
        }
        match beat {
            Beat::Register { boot_id } => self.register(n, life, call, boot_id),
            Beat::Deregister => {
                let (_, reply) = self.open_reply();
                self.drive_registry(registry::Event::Deregister(reply, node_id(n)));
            }
            Beat::Report { boot_id, replicas, acked } => {
                let verdict = self.hear(n, &boot_id);
                if verdict == Verdict::Unknown {
                    return self.answer_beat(n, life, call, BeatAnswer::Unknown);
                }
                let count = acked.len();
                let there = self.control.cells.contains_key(&Who::Session(n));
                let commands = self.report(n, replicas, acked);
                let reregister = verdict == Verdict::Reregister || !there;
                let answer = BeatAnswer::Heard { commands, reregister, acked: count };
                self.answer_beat(n, life, call, answer);
            }
        }
        self.end_if_tripped();
    }

    fn register(&mut self, n: u16, life: u32, call: u64, boot_id: String) {
        let (number, reply) = self.open_reply();
        self.oracle.registering.insert(number, (n, life, call));
        self.touch(n);
        let registration = registry::Registration {
            node_id: node_id(n),
            name: format!("node-{n}"),
            version: "1".to_owned(),
            address: format!("10.0.0.{}:9000", n + 1).parse().expect("an address"),
            proxy_port: 8_888,
            capabilities: capabilities(),
            labels: BTreeMap::new(),
            boot_id,
        };
        let wall = self.wall();
        self.drive_registry(registry::Event::Register(reply, Box::new(registration), wall));
    }

    /// The content of a heartbeat reaches its session.
    fn report(&mut self, n: u16, replicas: Vec<ReplicaReport>, acked: Vec<CommandId>) -> Vec<Command> {
        let wall = self.wall();
        if self.session(n).is_none() {
            return Vec::new();
        }
        let orphans: Vec<ReplicaReport> =
            replicas.iter().filter(|report| !self.expects(report, n)).cloned().collect();
        let report = NodeReport { replicas, acked, ..NodeReport::default() };
        let Some(actor) = self.session(n) else { return Vec::new() };
        let (mut commands, mut effects) = actor.machine.report(report);
        if self.control.caution.holds() {
            commands.clear();
            let known: Vec<NodeId> = self.session_nodes();
            let now = Tick(self.now);
            if self.control.caution.heard(&node_id(n), !orphans.is_empty(), known, now) {
                self.count("gaps accepted by themselves", 1);
                self.control.caution.end();
            }
        } else if !orphans.is_empty() {
            self.count("orphans reported", orphans.len() as u64);
            if let Some(actor) = self.session(n) {
                effects.extend(actor.machine.step(session::Event::Orphans(orphans, wall)));
            }
        }
        let quiet = effects.is_empty() && commands.is_empty() && !self.control.caution.holds();
        let times = self.control.quiet.entry(n).or_default();
        *times = if quiet { times.saturating_add(1) } else { 0 };
        self.act_on(Who::Session(n), effects.into_iter().map(Do::Session).collect());
        commands
    }

    fn session_nodes(&self) -> Vec<NodeId> {
        let number = |who: &Who| match who {
            Who::Session(n) => Some(node_id(*n)),
            _ => None,
        };
        self.control.cells.keys().filter_map(number).collect()
    }

    fn expects(&self, report: &ReplicaReport, n: u16) -> bool {
        let who = Who::Deployment(deployment_number(report.deployment_id));
        let Some(cell) = self.control.cells.get(&who) else { return false };
        match &cell.status {
            Some(Status::Deployment(dep)) => dep.expects(report.replica_id, &node_id(n)),
            _ => true,
        }
    }

    // Sessions.

    pub(crate) fn build_session(&mut self, n: u16) {
        let mut commands = self.control.store.image.commands.get(&node_id(n)).cloned().unwrap_or_default();
        commands.sort_by_key(|command| (command.created_at, command.generation));
        let machine = session::Machine::load(node_id(n), commands);
        if let Some(cell) = self.cell(Who::Session(n)) {
            let actor = SessionActor { machine, update: None, enqueueing: BTreeMap::new() };
            cell.machine = Some(Machine::Session(Box::new(actor)));
        }
        self.mail(Who::Registry, Mail::TellSession(n));
        self.settled(Who::Session(n));
    }

    fn drive_session(&mut self, n: u16, event: session::Event) {
        self.touch(n);
        let Some(actor) = self.session(n) else { return };
        let effects = actor.machine.step(event);
        self.act_on(Who::Session(n), effects.into_iter().map(Do::Session).collect());
    }

    pub(crate) fn mail_to_session(&mut self, n: u16, mail: Mail) {
        match mail {
            Mail::Update(update) => {
                self.touch(n);
                let Some(actor) = self.session(n) else { return };
                let back = update.availability == Availability::Online
                    && actor.update.as_ref().is_none_or(|old| {
                        old.availability != Availability::Online || old.node.boot_id != update.node.boot_id
                    });
                actor.update = Some(*update);
                let effects = if back { actor.machine.call_all() } else { Vec::new() };
                self.act_on(Who::Session(n), effects.into_iter().map(Do::Session).collect());
            }
            Mail::Enqueue(command, tries) => {
                let (number, reply) = self.open_reply();
                let Some(actor) = self.session(n) else { return };
                actor.enqueueing.insert(number, (*command.clone(), tries));
                self.drive_session(n, session::Event::Enqueue(reply, command));
            }
            Mail::NotCalled(id) => {
                let nobody = Err(AgentError::Unreachable("its node is offline".to_owned()));
                self.drive_session(n, session::Event::Called(id, nobody));
            }
            Mail::Close => self.drive_session(n, session::Event::Close),
            other => panic!("no mail for a session: {other:?}"),
        }
    }

    pub(crate) fn perform_session(&mut self, n: u16, effect: session::Effect) {
        match effect {
            session::Effect::Persist(_) => {}
            session::Effect::Call(command) => self.call(n, *command),
            session::Effect::Rejected(deployment, replica, generation, why) => {
                let who = Who::Deployment(deployment_number(deployment));
                self.mail(who, Mail::Rejected(replica, generation, why));
            }
            session::Effect::Reply(to, reply) => {
                let known = self.session(n).and_then(|actor| actor.enqueueing.remove(&to.0));
                let Some((command, tries)) = known else { return };
                match reply {
                    Ok(()) => {
                        self.count("commands durable", 1);
                        self.sent(command.replica_id);
                    }
                    Err(_) => {
                        let life = self.control.life;
                        self.after(1_000, Event::SendCommand(life, tries + 1, Box::new(command)));
                    }
                }
            }
            session::Effect::Finished => {
                let waiting = self.session(n).map(|actor| std::mem::take(&mut actor.enqueueing));
                for (command, _) in waiting.unwrap_or_default().into_values() {
                    self.sent(command.replica_id);
                }
                self.control.cells.remove(&Who::Session(n));
                self.control.quiet.remove(&n);
            }
        }
    }

    fn call(&mut self, n: u16, command: Command) {
        let life = self.control.life;
        let holds = self.control.caution.holds();
        let Some(cell) = self.cell(Who::Session(n)) else { return };
        let incarnation = cell.incarnation;
        let Some(actor) = self.session(n) else { return };
        let reachable = |update: &&NodeUpdate| update.availability != Availability::Offline;
        if holds || actor.update.as_ref().filter(reachable).is_none() {
            return self.mail(Who::Session(n), Mail::NotCalled(command.id));
        }
        let (id, command) = (command.id, Arc::new(command));
        let from = (life, incarnation);
        if command.action.as_str() == "access" {
            return self.call_access(n, from, &command);
        }
        let arrives =
            self.transmit(n, || Event::CommandArrives { node: n, from, command: Arc::clone(&command) });
        if arrives.is_none_or(|wait| wait >= DELIVER_MS) {
            let result = Err(AgentError::Unreachable("no answer in time".to_owned()));
            self.after(DELIVER_MS, Event::CommandAnswered { from, node: n, id, result });
        }
    }

    /// Credentials carry no number, so that a copy which comes after newer ones would count. There are no copies in one
    /// connection, and a call that was given up is cancelled: it arrives in time or not at all.
    fn call_access(&mut self, n: u16, from: (u32, u32), command: &Arc<Command>) {
        let id = command.id;
        match self.fate(n).first.filter(|wait| *wait < DELIVER_MS) {
            Some(wait) => {
                self.after(wait, Event::CommandArrives { node: n, from, command: Arc::clone(command) });
            }
            None => {
                let result = Err(AgentError::Unreachable("no answer in time".to_owned()));
                self.after(DELIVER_MS, Event::CommandAnswered { from, node: n, id, result });
            }
        }
    }

    /// A call of nebulad's reaches the agent, if one is there.
    pub(crate) fn command_arrives(&mut self, n: u16, from: (u32, u32), command: &Command) {
        let unreachable = |why: &str| Err(AgentError::Unreachable(why.to_owned()));
        let result = if self.agent(n).up {
            let delete = command.action.as_str() == "delete";
            let answer = self.take_command(n, command);
            match answer {
                _ if !self.agent(n).up => unreachable("connection closed"),
                Answer::Done => Ok(()),
                Answer::Refused(Refusal::Unknown) if delete => Ok(()),
                Answer::Refused(refusal @ (Refusal::Stale { .. } | Refusal::Unknown)) => {
                    Err(AgentError::Rejected(refusal.to_string()))
                }
                Answer::Declined => Err(AgentError::Rejected("declined".to_owned())),
                Answer::Refused(Refusal::Deleting | Refusal::Halting) | Answer::Later => unreachable("later"),
            }
        } else {
            unreachable("refused")
        };
        let id = command.id;
        let make = || Event::CommandAnswered { from, node: n, id, result: result.clone() };
        if self.transmit(n, make).is_none() {
            let result = unreachable("no answer in time");
            self.after(DELIVER_MS, Event::CommandAnswered { from, node: n, id, result });
        }
    }

    pub(crate) fn command_answered(
        &mut self,
        incarnation: u32,
        n: u16,
        id: CommandId,
        result: Result<(), AgentError>,
    ) {
        if self.cell(Who::Session(n)).is_some_and(|cell| cell.incarnation == incarnation) {
            self.drive_session(n, session::Event::Called(id, result));
        }
    }

    /// Gives a command to its node's session, again and again for a while.
    pub(crate) fn try_send(&mut self, tries: u32, command: Box<Command>) {
        if tries >= 60 {
            self.count("commands given up", 1);
            return self.sent(command.replica_id);
        }
        let who = Who::Session(node_index(&command.node_id));
        if self.is_up(who) {
            self.mail(who, Mail::Enqueue(command, tries));
        } else if self.control.cells.contains_key(&who) {
            let life = self.control.life;
            self.after(1_000, Event::SendCommand(life, tries + 1, command));
        } else {
            self.sent(command.replica_id);
        }
    }

    /// A command has come to the end of its way; the next about the same replica follows.
    fn sent(&mut self, replica: ReplicaId) {
        let Some(way) = self.control.sending.get_mut(&replica) else { return };
        way.pop_front();
        match way.front().cloned() {
            Some(next) => self.try_send(0, next),
            None => drop(self.control.sending.remove(&replica)),
        }
    }

    // Mail.

    pub(crate) fn deliver(&mut self, who: Who, mail: Mail) {
        if !self.is_up(who) {
            return self.undeliverable(who, mail);
        }
        match who {
            Who::Registry => match mail {
                Mail::TellSession(n) => {
                    let update = self.registry().and_then(|machine| machine.node(&node_id(n)));
                    if let Some(update) = update {
                        self.mail(Who::Session(n), Mail::Update(Box::new(update)));
                    }
                }
                Mail::TellScheduler => {
                    let nodes = self.registry().map(|machine| machine.nodes().collect()).unwrap_or_default();
                    self.mail(Who::Scheduler, Mail::Nodes(nodes));
                }
                Mail::Operator(number, op) => {
                    let (to, reply) = self.open_reply();
                    self.oracle.node_op_begins(to, number, &op);
                    self.drive_registry(match op {
                        Op::Schedule(id, scheduling) => registry::Event::Schedule(reply, id, scheduling),
                        Op::Forget(id) => registry::Event::Forget(reply, id),
                    });
                }
                other => panic!("no mail for the registry: {other:?}"),
            },
            Who::Scheduler => self.mail_to_scheduler(mail),
            Who::Router => self.mail_to_router(mail),
            Who::Session(n) => self.mail_to_session(n, mail),
            Who::Deployment(d) => self.mail_to_deployment(d, mail),
        }
    }

    /// Nobody is there: who waits for an answer hears so, the rest is lost.
    fn undeliverable(&mut self, who: Who, mail: Mail) {
        self.count("mail lost", 1);
        match mail {
            Mail::Place(d, incarnation, replica, generation, _) => {
                let down = Err(Error::new(ErrorClass::Restarting, "restarting").message);
                self.mail(Who::Deployment(d), Mail::Placed(incarnation, replica, generation, down));
            }
            Mail::Enqueue(command, tries) if self.control.cells.contains_key(&who) => {
                let life = self.control.life;
                self.after(1_000, Event::SendCommand(life, tries + 1, command));
            }
            Mail::Enqueue(command, _) => self.sent(command.replica_id),
            _ => {}
        }
    }

    /// Everything that an actor decided is done: it says how it stands.
    pub(crate) fn settled(&mut self, who: Who) {
        match who {
            Who::Session(n) => self.session_settled(n),
            Who::Deployment(d) => self.deployment_settled(d),
            Who::Registry | Who::Scheduler | Who::Router => {}
        }
    }

    fn session_settled(&mut self, n: u16) {
        let Some(actor) = self.session(n) else { return };
        let (reports, report) = actor.machine.newest_report();
        let reported = report.map(|report| report.replicas.clone()).unwrap_or_default();
        let update = actor.update.clone().map(Box::new);
        let status = Status::Session { update, reports, reported };
        if let Some(Cell { status: known, .. }) = self.cell(Who::Session(n)) {
            *known = Some(status);
        }
        self.wake_followers(n);
    }
}
