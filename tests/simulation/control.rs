//! nebulad: the real machines, with a stand-in for their shells that keeps the contract of effects. What a step wrote
//! goes into one commit; the rest of its effects waits until that is durable; a crash may come before, after, and
//! between any two of them. Actors hear of each other by mail, which is lost when nobody is there.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, Generation, NodeId, ReplicaId};
use nebulad::actors::caution::Caution;
use nebulad::actors::deployment::machine as deployment;
use nebulad::actors::deployment::route::RouteSpec;
use nebulad::actors::registry::machine as registry;
use nebulad::actors::registry::machine::NodeUpdate;
use nebulad::actors::reply::ReplyTo;
use nebulad::actors::router::machine as router;
use nebulad::actors::scheduler::machine as scheduler;
use nebulad::actors::session::machine as session;
use nebulad::domain::command::Command;
use nebulad::domain::deployment::{Deployment, Placement};
use nebulad::domain::event::Happening;
use nebulad::domain::report::ReplicaReport;
use nebulad::domain::route::RouteTable;
use nebulad::ports::Write;

use super::sim::{EPOCH_MS, Event, Sim};
use super::store::Store;

/// An actor, by number of its node or deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Registry,
    Scheduler,
    Router,
    Session(u16),
    Deployment(u32),
}

/// What actors tell each other.
#[derive(Debug)]
pub(crate) enum Mail {
    // To a session.
    Update(Box<NodeUpdate>),
    Enqueue(Box<Command>, u32),
    NotCalled(nebula_core::ids::CommandId),
    Close,
    // To the registry.
    TellSession(u16),
    TellScheduler,
    /// From the operator, with the number of what he does.
    Operator(u64, registry_op::Op),
    // To the scheduler.
    Nodes(Vec<NodeUpdate>),
    NodeForgotten(NodeId),
    Place(u32, u32, ReplicaId, Generation, Box<scheduler::Request>),
    Release(ReplicaId),
    Holds(u32, Vec<scheduler::Hold>),
    AskMove(u32, u32, NodeId),
    // To a deployment.
    Want(u64, Box<deployment::Intent>),
    Placed(u32, ReplicaId, Generation, Result<Placement, String>),
    Look(u16),
    Follow(u32, u16),
    NodeGone(NodeId),
    MayMove(u32, NodeId, bool),
    Capacity,
    PublishAgain,
    PlacesAgain,
    Rejected(ReplicaId, Generation, String),
    // To the router.
    Publish(Box<RouteSpec>),
    Withdraw(DeploymentId),
}

/// What an operator does to nodes.
pub(crate) mod registry_op {
    use nebula_core::ids::NodeId;
    use nebulad::domain::node::Scheduling;

    #[derive(Clone, Debug)]
    pub(crate) enum Op {
        Schedule(NodeId, Scheduling),
        Forget(NodeId),
    }
}

/// What any machine decides.
#[derive(Debug)]
pub(crate) enum Do {
    Registry(registry::Effect),
    Session(session::Effect),
    Deployment(deployment::Effect),
}

pub(crate) enum Machine {
    Registry(Box<registry::Machine>),
    Scheduler(Box<scheduler::Machine>),
    Router(Box<router::Machine>),
    Session(Box<SessionActor>),
    Deployment(Box<DeploymentActor>),
}

pub(crate) struct SessionActor {
    pub(crate) machine: session::Machine,
    pub(crate) update: Option<NodeUpdate>,
    /// Commands whose durability somebody waits for, by the number of the reply.
    pub(crate) enqueueing: BTreeMap<u64, (Command, u32)>,
}

pub(crate) struct DeploymentActor {
    pub(crate) machine: deployment::Machine,
    pub(crate) followed: BTreeSet<u16>,
    pub(crate) looking: BTreeSet<u16>,
    /// When its timer is due, on the simulation's clock.
    pub(crate) timer: Option<u64>,
}

/// What an actor last said of itself; it outlives its incarnations.
#[derive(Clone, Debug)]
pub(crate) enum Status {
    Session { update: Option<Box<NodeUpdate>>, reports: u64, reported: Vec<ReplicaReport> },
    Deployment(Box<Deployment>),
}

/// An actor's place in the tree.
#[derive(Default)]
pub(crate) struct Cell {
    pub(crate) incarnation: u32,
    pub(crate) machine: Option<Machine>,
    pub(crate) status: Option<Status>,
    /// Down until an operator restarts it.
    pub(crate) crashed: bool,
    pub(crate) rebuilding: bool,
    pub(crate) up_since: u64,
    queue: VecDeque<Do>,
    rest: Option<Vec<Do>>,
    restarts: VecDeque<u64>,
}

/// Where a crash is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// A commit was handed in and is not durable.
    BeforeCommit,
    /// It is durable, and nothing that waited for it was done.
    AfterCommit,
    /// Between two effects.
    Between,
}

/// A crash that comes when that point was passed so many times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) point: Point,
    pub(crate) after: u32,
    /// The whole process, or the actor that is at that point.
    pub(crate) whole: bool,
}

pub(crate) struct Control {
    pub(crate) up: bool,
    pub(crate) life: u32,
    pub(crate) since: u64,
    pub(crate) cells: BTreeMap<Who, Cell>,
    pub(crate) names: BTreeSet<u32>,
    /// Deployments whose first record is being committed, with the number of what was done.
    pub(crate) creating: Vec<(u64, u32, u64)>,
    pub(crate) table: RouteTable,
    pub(crate) store: Store,
    pub(crate) caution: Caution,
    pub(crate) plan: Option<Plan>,
    /// Nothing happens in it before this moment: it was stopped.
    pub(crate) paused_until: u64,
    /// What came meanwhile, in order.
    pub(crate) held: Vec<Event>,
    /// Since the last full report of each node, how often nothing followed from one.
    pub(crate) quiet: BTreeMap<u16, u8>,
    /// Commands on their way from deployments to sessions: about one replica, one after the other.
    pub(crate) sending: HashMap<ReplicaId, VecDeque<Box<Command>>>,
    tripped: bool,
    mail_at: BTreeMap<Who, u64>,
    next_reply: u64,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            up: false,
            life: 0,
            since: 0,
            cells: BTreeMap::new(),
            names: BTreeSet::new(),
            creating: Vec::new(),
            table: RouteTable::default(),
            store: Store::default(),
            caution: Caution::new(false, None),
            plan: None,
            paused_until: 0,
            held: Vec::new(),
            quiet: BTreeMap::new(),
            sending: HashMap::new(),
            tripped: false,
            mail_at: BTreeMap::new(),
            next_reply: 0,
        }
    }
}

/// The id of the deployment with this number.
pub(crate) fn deployment_id(d: u32) -> DeploymentId {
    let mut bytes = [0x40; 16];
    bytes[..4].copy_from_slice(&d.to_be_bytes());
    DeploymentId::from_bytes(bytes)
}

/// The number of a deployment.
pub(crate) fn deployment_number(id: DeploymentId) -> u32 {
    id.as_bytes().first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

impl Sim {
    pub(crate) fn wall(&self) -> WallTime {
        WallTime(EPOCH_MS + self.now)
    }

    pub(crate) fn cell(&mut self, who: Who) -> Option<&mut Cell> {
        self.control.cells.get_mut(&who)
    }

    /// Whether an actor takes messages.
    pub(crate) fn is_up(&self, who: Who) -> bool {
        self.control.up && self.control.cells.get(&who).is_some_and(|cell| cell.machine.is_some())
    }

    pub(crate) fn session(&mut self, n: u16) -> Option<&mut SessionActor> {
        match self.cell(Who::Session(n))?.machine.as_mut()? {
            Machine::Session(actor) => Some(actor),
            _ => None,
        }
    }

    pub(crate) fn deployment(&mut self, d: u32) -> Option<&mut DeploymentActor> {
        match self.cell(Who::Deployment(d))?.machine.as_mut()? {
            Machine::Deployment(actor) => Some(actor),
            _ => None,
        }
    }

    pub(crate) fn registry(&mut self) -> Option<&mut registry::Machine> {
        match self.cell(Who::Registry)?.machine.as_mut()? {
            Machine::Registry(machine) => Some(machine),
            _ => None,
        }
    }

    pub(crate) fn scheduler(&mut self) -> Option<&mut scheduler::Machine> {
        match self.cell(Who::Scheduler)?.machine.as_mut()? {
            Machine::Scheduler(machine) => Some(machine),
            _ => None,
        }
    }

    pub(crate) fn router(&mut self) -> Option<&mut router::Machine> {
        match self.cell(Who::Router)?.machine.as_mut()? {
            Machine::Router(machine) => Some(machine),
            _ => None,
        }
    }

    pub(crate) fn open_reply(&mut self) -> (u64, ReplyTo) {
        self.control.next_reply += 1;
        (self.control.next_reply, ReplyTo(self.control.next_reply))
    }

    /// Puts a message into an actor's mailbox: in order, a moment later.
    pub(crate) fn mail(&mut self, who: Who, mail: Mail) {
        let soonest = self.now + self.rng.below(3);
        let last = self.control.mail_at.entry(who).or_default();
        *last = (*last).max(soonest);
        let (at, life) = (*last, self.control.life);
        self.at(at, Event::Mail(life, who, mail));
    }

    /// Queues what a machine decided and does what can be done.
    pub(crate) fn act_on(&mut self, who: Who, effects: Vec<Do>) {
        if let Some(cell) = self.cell(who) {
            cell.queue.extend(effects);
        }
        self.pump(who);
    }

    fn pump(&mut self, who: Who) {
        loop {
            let Some(cell) = self.cell(who).filter(|cell| cell.machine.is_some() && cell.rest.is_none())
            else {
                return;
            };
            let incarnation = cell.incarnation;
            let queue = std::mem::take(&mut cell.queue);
            if queue.is_empty() {
                return self.settled(who);
            }
            let (mut writes, mut lines, mut rest) = (Vec::new(), Vec::new(), Vec::new());
            for effect in queue {
                match split(effect) {
                    Ok((more, happenings)) => {
                        writes.extend(more);
                        lines.extend(self.journal(who, happenings));
                    }
                    Err(effect) => rest.push(effect),
                }
            }
            if writes.is_empty() && lines.is_empty() {
                if !self.perform_all(who, incarnation, rest) {
                    return;
                }
                continue;
            }
            if let Some(cell) = self.cell(who) {
                cell.rest = Some(rest);
            }
            return self.commit(who, incarnation, writes, lines);
        }
    }

    fn commit(&mut self, who: Who, incarnation: u32, writes: Vec<Write>, lines: Vec<(u32, Happening)>) {
        let takes = if self.rng.chance(self.mix.slow_commits) { self.rng.between(50, 3_000) } else { 1 };
        let now = self.now;
        let at = self.control.store.submit(writes, lines, now, takes);
        self.count("commits", 1);
        self.at(at, Event::Committed(self.control.life, who, incarnation));
        self.trips(Point::BeforeCommit, who);
    }

    /// A commit is durable: what waited for it follows.
    pub(crate) fn committed(&mut self, who: Who, incarnation: u32) {
        self.store_advances();
        let Some(cell) = self.cell(who).filter(|cell| cell.incarnation == incarnation) else { return };
        let Some(rest) = cell.rest.take() else { return };
        if self.trips(Point::AfterCommit, who) {
            return;
        }
        if self.perform_all(who, incarnation, rest) {
            self.pump(who);
        }
    }

    pub(crate) fn store_advances(&mut self) {
        let now = self.now;
        if let Err((which, what)) = self.control.store.advance(now) {
            self.violated(which, what);
        }
    }

    fn perform_all(&mut self, who: Who, incarnation: u32, rest: Vec<Do>) -> bool {
        for effect in rest {
            if self.trips(Point::Between, who) {
                return false;
            }
            match (who, effect) {
                (_, Do::Registry(effect)) => self.perform_registry(effect),
                (Who::Session(n), Do::Session(effect)) => self.perform_session(n, effect),
                (Who::Deployment(d), Do::Deployment(effect)) => self.perform_deployment(d, effect),
                (who, effect) => panic!("{who:?} cannot do {effect:?}"),
            }
            let there = |cell: &&mut Cell| cell.machine.is_some() && cell.incarnation == incarnation;
            if self.cell(who).as_ref().filter(|cell| there(cell)).is_none() {
                return false;
            }
        }
        true
    }

    /// Whether a crash that was planned comes now.
    fn trips(&mut self, point: Point, who: Who) -> bool {
        let Some(plan) = self.control.plan.as_mut().filter(|plan| plan.point == point) else { return false };
        if plan.after > 0 {
            plan.after -= 1;
            return false;
        }
        let whole = plan.whole;
        self.control.plan = None;
        let what = match point {
            Point::BeforeCommit => "crashes before a commit",
            Point::AfterCommit => "crashes after a commit",
            Point::Between => "crashes between effects",
        };
        self.count(what, 1);
        if whole {
            // Nothing further of this event happens.
            self.control.tripped = true;
            if let Some(cell) = self.cell(who) {
                cell.machine = None;
            }
        } else {
            self.actor_falls(who);
        }
        true
    }

    /// Ends the process if that was planned for what has just happened.
    pub(crate) fn end_if_tripped(&mut self) {
        if std::mem::take(&mut self.control.tripped) {
            let down = self.rng.between(100, 30_000);
            self.control_dies(down);
        }
    }

    /// An actor falls; its supervisor builds it again, or gives up when it falls too often.
    pub(crate) fn actor_falls(&mut self, who: Who) {
        let (now, life) = (self.now, self.control.life);
        let quiet_at = self.control.store.quiet_at();
        let Some(cell) = self.cell(who).filter(|cell| cell.machine.is_some()) else { return };
        let waiting = match cell.machine.take() {
            Some(Machine::Session(actor)) => actor.enqueueing,
            _ => BTreeMap::new(),
        };
        cell.queue.clear();
        cell.rest = None;
        cell.incarnation += 1;
        while cell.restarts.front().is_some_and(|at| now - at > 60_000) {
            cell.restarts.pop_front();
        }
        let pause = 100 << cell.restarts.len().min(8);
        cell.crashed = cell.restarts.len() >= 5;
        cell.rebuilding = !cell.crashed;
        cell.restarts.push_back(now);
        if !cell.crashed {
            self.at((now + pause).max(quiet_at), Event::Rebuild(life, who));
        }
        self.count("actors fell", 1);
        self.trace(|| format!("{who:?} falls"));
        for (_, (command, tries)) in waiting {
            self.after(1_000, Event::SendCommand(life, tries + 1, Box::new(command)));
        }
    }

    /// The process dies.
    pub(crate) fn control_dies(&mut self, down_for: u64) {
        if !self.control.up {
            return;
        }
        self.store_advances();
        let lost = self.control.store.crash();
        self.trace(|| format!("nebulad dies, {lost} commits are lost"));
        self.count("nebulad died", 1);
        self.count("commits lost", lost as u64);
        let control = &mut self.control;
        control.up = false;
        control.life += 1;
        control.cells.clear();
        control.creating.clear();
        control.mail_at.clear();
        control.quiet.clear();
        control.sending.clear();
        control.plan = None;
        control.paused_until = 0;
        control.held.clear();
        control.table = RouteTable::default();
        self.after(down_for, Event::ControlStarts);
    }

    /// The process goes on after it was stopped, and takes what came meanwhile.
    pub(crate) fn control_continues(&mut self) {
        if self.control.paused_until <= self.now {
            let held = std::mem::take(&mut self.control.held);
            held.into_iter().for_each(|event| self.after(0, event));
        }
    }

    /// The process starts: router, scheduler, registry, and then every deployment.
    pub(crate) fn control_starts(&mut self) {
        if self.control.up {
            return;
        }
        (self.control.up, self.control.since) = (true, self.now);
        self.trace(|| "nebulad starts".to_owned());
        self.check_stored();
        for who in [Who::Router, Who::Scheduler, Who::Registry] {
            self.open(who);
        }
        let numbers: Vec<u32> =
            self.control.store.image.deployments.keys().map(|id| deployment_number(*id)).collect();
        self.control.names = numbers.iter().copied().collect();
        for d in numbers {
            self.open(Who::Deployment(d));
        }
    }

    /// Makes an actor's place, unless there is one, and builds it.
    pub(crate) fn open(&mut self, who: Who) {
        if self.control.cells.contains_key(&who) {
            return;
        }
        self.control.cells.insert(who, Cell { rebuilding: true, ..Cell::default() });
        let at = self.control.store.quiet_at().max(self.now);
        self.at(at, Event::Rebuild(self.control.life, who));
    }

    /// Builds an actor from the store.
    pub(crate) fn rebuild(&mut self, who: Who) {
        self.store_advances();
        let now = self.now;
        let Some(cell) = self.cell(who).filter(|cell| cell.machine.is_none()) else { return };
        cell.incarnation += 1;
        (cell.crashed, cell.rebuilding, cell.up_since) = (false, false, now);
        match who {
            Who::Registry => self.build_registry(),
            Who::Scheduler => self.build_scheduler(),
            Who::Router => self.build_router(),
            Who::Session(n) => self.build_session(n),
            Who::Deployment(d) => self.build_deployment(d),
        }
    }

    /// An operator restarts what has crashed for good.
    pub(crate) fn restart_crashed(&mut self) {
        let life = self.control.life;
        let down: Vec<Who> =
            self.control.cells.iter().filter(|(_, cell)| cell.crashed).map(|(who, _)| *who).collect();
        for who in down {
            if let Some(cell) = self.cell(who) {
                cell.restarts.clear();
                cell.rebuilding = true;
            }
            self.count("actors brought back", 1);
            self.at(self.now, Event::Rebuild(life, who));
        }
    }
}

type Written = (Vec<Write>, Vec<Happening>);

/// What an effect writes; the effect itself when it writes nothing.
fn split(effect: Do) -> Result<Written, Do> {
    match effect {
        Do::Registry(registry::Effect::Persist(write)) => Ok((vec![write], Vec::new())),
        Do::Session(session::Effect::Persist(write)) => Ok((vec![write], Vec::new())),
        Do::Deployment(deployment::Effect::Persist(writes, happenings)) => Ok((writes, happenings)),
        other => Err(other),
    }
}
