//! A small world for the tests of the machine: nodes that do what agents do, carrying out commands at least once and in
//! any order, dropping what is older than what they have seen and reporting what they run; and a scheduler that counts.

use super::fixtures::NOW;
use super::*;
use crate::domain::node::Scheduling;
use crate::domain::report::{ReplicaReport, ReportedStatus, Seen};
use nebula_core::ids::DeploymentId;

/// What a replica is told in its arguments so that it never comes up.
pub(super) const BAD: &str = "--bad";

/// What a node runs of a replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs {
    pub(super) generation: Generation,
    pub(super) status: ReportedStatus,
    bad: bool,
}

/// A node and its agent.
pub(super) struct FakeNode {
    pub(super) id: NodeId,
    pub(super) online: bool,
    pub(super) scheduling: Scheduling,
    /// How many replicas there is room for.
    pub(super) room: usize,
    reports: u64,
    pub(super) outbox: Vec<(ReplicaId, Generation, Action)>,
    seen: BTreeMap<ReplicaId, Generation>,
    pub(super) runs: BTreeMap<ReplicaId, Runs>,
}

impl FakeNode {
    fn new(index: usize, room: usize) -> Self {
        Self {
            id: format!("node-{index}").parse().expect("an id"),
            online: true,
            scheduling: Scheduling::Schedulable,
            room,
            reports: 0,
            outbox: Vec::new(),
            seen: BTreeMap::new(),
            runs: BTreeMap::new(),
        }
    }

    /// Carries out a command; keeps it when `again`, as a node does whose acknowledgement was lost.
    pub(super) fn carry_out(&mut self, at: usize, again: bool) {
        if self.outbox.is_empty() || !self.online {
            return;
        }
        let at = at % self.outbox.len();
        let (replica, generation, action) = self.outbox[at].clone();
        if !again {
            self.outbox.remove(at);
        }
        if self.seen.get(&replica).is_some_and(|seen| *seen > generation) {
            return;
        }
        self.seen.insert(replica, generation);
        match action {
            Action::Start(spec) => {
                if self.runs.get(&replica).is_none_or(|old| old.generation < generation) {
                    let bad = spec.args.iter().any(|arg| arg == BAD);
                    let status = ReportedStatus::Starting;
                    self.runs.insert(replica, Runs { generation, status, bad });
                }
            }
            Action::Stop => {
                self.runs.entry(replica).and_modify(|runs| runs.status = ReportedStatus::Stopped);
            }
            Action::Delete => drop(self.runs.remove(&replica)),
            Action::Access { .. } => {}
        }
    }

    pub(super) fn progress(&mut self) {
        for runs in self.runs.values_mut().filter(|runs| runs.status == ReportedStatus::Starting) {
            runs.status = if runs.bad { ReportedStatus::Failed } else { ReportedStatus::Running };
        }
    }

    pub(super) fn facts(&mut self) -> NodeFacts {
        self.reports += 1;
        let replicas = self.runs.iter().map(|(id, runs)| ReplicaReport {
            deployment_id: DeploymentId::from_bytes([1; 16]),
            replica_id: *id,
            generation: runs.generation,
            status: runs.status,
            container_id: "1".to_owned(),
            port: 30_000,
            message: String::new(),
            exit_code: None,
            restarts: 0,
            seen: Seen::default(),
        });
        NodeFacts {
            scheduling: self.scheduling,
            node_id: self.id.clone(),
            node_name: self.id.to_string(),
            availability: if self.online { Availability::Online } else { Availability::Offline },
            proxy: "127.0.0.1:8888".parse().expect("an address"),
            report_seq: self.reports,
            replicas: replicas.collect(),
        }
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (ReplicaId, Generation)> {
        let running = self.runs.iter().filter(|(_, runs)| runs.status == ReportedStatus::Running);
        running.map(|(id, runs)| (*id, runs.generation))
    }
}

pub(super) struct World {
    pub(super) machine: Machine,
    /// What the store holds: the deployment as last persisted; nothing once it was deleted.
    pub(super) stored: Option<Deployment>,
    pub(super) nodes: Vec<FakeNode>,
    /// Who has a place where.
    pub(super) reserved: BTreeMap<ReplicaId, NodeId>,
    watched: BTreeSet<NodeId>,
    /// Places that are sought.
    pub(super) wanted: Vec<(ReplicaId, Generation)>,
    /// Moves that are asked for.
    pub(super) moves: Vec<NodeId>,
    pub(super) route: Option<RouteSpec>,
    /// The fewest replicas that the gateway could choose from since this was last set.
    pub(super) fewest: usize,
    pub(super) happened: Vec<Happening>,
    pub(super) now: Now,
}

impl World {
    pub(super) fn new(dep: Deployment, nodes: usize, room: usize) -> Self {
        let mut world = Self {
            machine: Machine::load(dep.clone()),
            stored: Some(dep),
            nodes: (0..nodes).map(|index| FakeNode::new(index, room)).collect(),
            reserved: BTreeMap::new(),
            watched: BTreeSet::new(),
            wanted: Vec::new(),
            moves: Vec::new(),
            route: None,
            fewest: usize::MAX,
            happened: Vec::new(),
            now: Now { wall: WallTime(1_000_000), ..NOW },
        };
        world.event(Event::Started);
        world
    }

    pub(super) fn event(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now);
        let persists: Vec<usize> = effects
            .iter()
            .enumerate()
            .filter(|(_, e)| matches!(e, Effect::Persist(..)))
            .map(|(at, _)| at)
            .collect();
        assert!(persists.iter().all(|at| *at == 0), "what is persisted comes first: {effects:?}");
        effects.into_iter().for_each(|effect| self.perform(effect));
        if let Some(route) = &self.route {
            self.fewest = self.fewest.min(route.endpoints.len());
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(writes, happenings) => {
                writes.into_iter().for_each(|write| self.write(write));
                self.happened.extend(happenings);
            }
            Effect::Place(replica, generation) => self.wanted.push((replica, generation)),
            Effect::Release(replica) => {
                self.wanted.retain(|(id, _)| *id != replica);
                self.reserved.remove(&replica);
            }
            Effect::Send(node, replica, generation, action) => {
                let node = self.nodes.iter_mut().find(|other| other.id == node).expect("a known node");
                let same = |(r, g, a): &(ReplicaId, Generation, Action)| {
                    *r == replica && *g == generation && a.as_str() == action.as_str()
                };
                if !node.outbox.iter().any(same) {
                    node.outbox.push((replica, generation, action));
                }
            }
            Effect::Watch(node) => drop(self.watched.insert(node)),
            Effect::Unwatch(node) => drop(self.watched.remove(&node)),
            Effect::Publish(spec) => self.route = Some(*spec),
            Effect::Withdraw => self.route = None,
            Effect::AskMove(node) => self.moves.push(node),
            Effect::Hold => self.hold(),
            Effect::Reply(..) | Effect::Finished => {}
        }
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::PutDeployment(head) => {
                let replicas = self.stored.take().map(|dep| dep.replicas).unwrap_or_default();
                self.stored = Some(Deployment { replicas, ..*head });
            }
            Write::PutReplica(_, replica) => {
                let dep = self.stored.as_mut().expect("a deployment");
                dep.replicas.retain(|old| old.id != replica.id);
                dep.replicas.push(*replica);
                dep.replicas.sort_by_key(|replica| (replica.index, replica.leaving));
            }
            Write::DeleteReplica(_, id) => {
                if let Some(dep) = self.stored.as_mut() {
                    dep.replicas.retain(|old| old.id != id);
                }
            }
            Write::DeleteDeployment(_) => self.stored = None,
            other => panic!("not a deployment's write: {other:?}"),
        }
    }

    /// What the shell says to the scheduler when it starts.
    fn hold(&mut self) {
        let dep = self.machine.deployment();
        let held = dep.replicas.iter().filter(|replica| dep.holds_place(replica));
        let place = |replica: &Replica| replica.placement.as_ref().map(|place| place.node_id.clone());
        self.reserved = held.filter_map(|replica| Some((replica.id, place(replica)?))).collect();
    }

    /// The scheduler answers the last request: a place on the emptiest node, or none.
    pub(super) fn place_one(&mut self) {
        let Some((replica, generation)) = self.wanted.pop() else { return };
        let taken = |node: &FakeNode| self.reserved.values().filter(|at| **at == node.id).count();
        let fits = |node: &&FakeNode| {
            node.online && node.scheduling == Scheduling::Schedulable && taken(node) < node.room
        };
        let Some(node) = self.nodes.iter().filter(fits).min_by_key(|node| taken(node)) else {
            return self.event(Event::Unplaceable(replica, generation, "no room".to_owned()));
        };
        let placement = Placement {
            node_id: node.id.clone(),
            node_name: node.id.to_string(),
            proxy: "127.0.0.1:8888".parse().expect("an address"),
            gpu_devices: Vec::new(),
        };
        self.reserved.insert(replica, node.id.clone());
        self.event(Event::Placed(replica, generation, placement));
    }

    /// The scheduler answers the last question about a move.
    pub(super) fn answer_move(&mut self, granted: bool) {
        if let Some(node) = self.moves.pop() {
            self.event(Event::MayMove(node, granted));
        }
    }

    pub(super) fn report(&mut self, at: usize) {
        let at = at % self.nodes.len();
        let facts = self.nodes[at].facts();
        // What a session does with replicas that the deployment does not have.
        let ours = |id: ReplicaId| self.stored.iter().any(|dep| dep.replicas.iter().any(|r| r.id == id));
        let orphans: Vec<_> =
            facts.replicas.iter().filter(|report| !ours(report.replica_id)).cloned().collect();
        let outbox = &mut self.nodes[at].outbox;
        outbox
            .extend(orphans.into_iter().map(|report| (report.replica_id, report.generation, Action::Delete)));
        if self.watched.contains(&facts.node_id) {
            self.event(Event::Node(facts));
        }
    }

    pub(super) fn presence(&mut self, at: usize, online: bool) {
        self.nodes[at].online = online;
        self.report(at);
    }

    pub(super) fn schedule(&mut self, at: usize, scheduling: Scheduling) {
        self.nodes[at].scheduling = scheduling;
        self.report(at);
    }

    /// The actor falls and is built again from the store; replicas of what is no longer stored are orphans, which
    /// their sessions delete.
    pub(super) fn crash(&mut self) {
        self.watched.clear();
        self.wanted.clear();
        self.moves.clear();
        match self.stored.clone() {
            Some(dep) => {
                self.machine = Machine::load(dep);
                self.hold();
                self.event(Event::Started);
            }
            None => self.nodes.iter_mut().for_each(|node| node.runs.clear()),
        }
    }

    pub(super) fn wait(&mut self, secs: u64) {
        let (tick, wall) = (self.now.tick.plus(Duration::from_secs(secs)), self.now.wall.0 + secs * 1_000);
        self.now = Now { tick, wall: WallTime(wall) };
        if self.machine.next_timer().is_some_and(|at| at <= tick) {
            self.event(Event::Timer);
        }
    }

    /// Everybody does what there is to do, in order.
    pub(super) fn round(&mut self) {
        self.event(Event::Capacity);
        while !self.wanted.is_empty() {
            self.place_one();
        }
        while !self.moves.is_empty() {
            self.answer_move(true);
        }
        for at in 0..self.nodes.len() {
            while self.nodes[at].online && !self.nodes[at].outbox.is_empty() {
                self.nodes[at].carry_out(0, false);
            }
            self.nodes[at].progress();
            self.report(at);
        }
        if self.stored.is_none() {
            self.nodes.iter_mut().for_each(|node| node.runs.clear());
        }
    }

    /// Lets everything settle as it is.
    pub(super) fn settle(&mut self) {
        for _ in 0..40 {
            self.round();
        }
    }

    /// Everything works again: whatever was wanted last must come true.
    pub(super) fn heal(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.online = true);
        self.settle();
    }

    pub(super) fn running(&self) -> Vec<(ReplicaId, Generation)> {
        self.nodes.iter().flat_map(FakeNode::running).collect()
    }

    pub(super) fn endpoints(&self) -> usize {
        self.route.as_ref().map_or(0, |route| route.endpoints.len())
    }

    pub(super) fn kinds(&self) -> Vec<&'static str> {
        self.happened.iter().map(|line| line.kind).collect()
    }

    pub(super) fn intend(&mut self, intent: Intent) {
        self.event(Event::Intent(ReplyTo(1), intent));
    }

    /// The spec with other arguments.
    pub(super) fn other(&self, arg: &str) -> Intent {
        let spec = self.machine.deployment().spec.clone();
        Intent::Change(Box::new(DeploymentSpec { args: vec![arg.to_owned()], ..spec }))
    }
}
