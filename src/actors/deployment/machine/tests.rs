//! The machine against a small world of nodes that do what agents do: they carry out commands at least once and
//! in any order, drop what is older than what they have seen, and report what they run.

use crate::domain::node::Scheduling;
use nebula_core::ids::{DeploymentId, Generation};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::Secret;
use proptest::prelude::*;

use super::*;
use crate::domain::report::{ReplicaReport, ReportedStatus, Seen};

const NODES: usize = 2;

fn deployment(replicas: u32) -> Deployment {
    Deployment {
        revision: Generation::FIRST,
        previous: None,
        old_token: None,
        hint: None,
        id: DeploymentId::from_bytes([1; 16]),
        name: "demo".to_owned(),
        spec: DeploymentSpec { replicas, public: true, ..DeploymentSpec::plain("demo", RuntimeKind::Sim) },
        desired: Desired::Running,
        generation: Generation::FIRST,
        token: TokenHash::of("nbtok_x"),
        gateway_token: Secret::from_text("nbgw_x"),
        created_at: WallTime(1),
        updated_at: WallTime(1),
        replicas: Vec::new(),
    }
}

/// A node and its agent.
struct FakeNode {
    id: NodeId,
    online: bool,
    reports: u64,
    outbox: Vec<(ReplicaId, Generation, Action)>,
    seen: BTreeMap<ReplicaId, Generation>,
    runs: BTreeMap<ReplicaId, (Generation, ReportedStatus)>,
}

impl FakeNode {
    fn new(index: usize) -> Self {
        Self {
            id: format!("node-{index}").parse().expect("an id"),
            online: true,
            reports: 0,
            outbox: Vec::new(),
            seen: BTreeMap::new(),
            runs: BTreeMap::new(),
        }
    }

    /// Carries out a command; keeps it when `again`, as a node does whose acknowledgement was lost.
    fn carry_out(&mut self, at: usize, again: bool) {
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
            Action::Start(_) => {
                if self.runs.get(&replica).is_none_or(|(old, _)| *old < generation) {
                    self.runs.insert(replica, (generation, ReportedStatus::Starting));
                }
            }
            Action::Stop => {
                self.runs.entry(replica).and_modify(|(_, status)| *status = ReportedStatus::Stopped);
            }
            Action::Delete => drop(self.runs.remove(&replica)),
            Action::Access { .. } => {}
        }
    }

    fn progress(&mut self) {
        for (_, status) in self.runs.values_mut().filter(|(_, status)| *status == ReportedStatus::Starting) {
            *status = ReportedStatus::Running;
        }
    }

    fn facts(&mut self) -> NodeFacts {
        self.reports += 1;
        let replicas = self.runs.iter().map(|(id, (generation, status))| ReplicaReport {
            deployment_id: DeploymentId::from_bytes([1; 16]),
            replica_id: *id,
            generation: *generation,
            status: *status,
            container_id: "1".to_owned(),
            port: 30_000,
            message: String::new(),
            restarts: 0,
            seen: Seen::default(),
        });
        NodeFacts {
            scheduling: Scheduling::Schedulable,
            node_id: self.id.clone(),
            node_name: self.id.to_string(),
            availability: if self.online { Availability::Online } else { Availability::Offline },
            proxy: "127.0.0.1:8888".parse().expect("an address"),
            report_seq: self.reports,
            replicas: replicas.collect(),
        }
    }

    fn running(&self) -> impl Iterator<Item = (&ReplicaId, &Generation)> {
        self.runs.iter().filter(|(_, (_, s))| *s == ReportedStatus::Running).map(|(id, (g, _))| (id, g))
    }
}

struct World {
    machine: Machine,
    /// What the store holds: the deployment as last persisted; nothing once it was deleted.
    stored: Option<Deployment>,
    nodes: Vec<FakeNode>,
    places: usize,
    watched: BTreeSet<NodeId>,
    wanted: Vec<(ReplicaId, Generation)>,
    route: Option<RouteSpec>,
    replies: usize,
}

impl World {
    fn new(replicas: u32) -> Self {
        let dep = deployment(replicas);
        let mut world = Self {
            machine: Machine::load(dep.clone()),
            stored: Some(dep),
            nodes: (0..NODES).map(FakeNode::new).collect(),
            places: 0,
            watched: BTreeSet::new(),
            wanted: Vec::new(),
            route: None,
            replies: 0,
        };
        world.event(Event::Started(WallTime(1)));
        world
    }

    fn event(&mut self, event: Event) {
        let effects = self.machine.step(event);
        let persists: Vec<usize> = effects
            .iter()
            .enumerate()
            .filter(|(_, e)| matches!(e, Effect::Persist(..)))
            .map(|(at, _)| at)
            .collect();
        assert!(persists.iter().all(|at| *at == 0), "what is persisted comes first: {effects:?}");
        for effect in effects {
            match effect {
                Effect::Persist(writes, _) => writes.into_iter().for_each(|write| self.write(write)),
                Effect::Reply(..) => self.replies += 1,
                Effect::Place(replica, generation) => self.wanted.push((replica, generation)),
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
                Effect::Release(_) | Effect::RetryAfter(_) | Effect::Finished => {}
            }
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

    fn place_one(&mut self) {
        let Some((replica, generation)) = self.wanted.pop() else { return };
        self.places += 1;
        let node = &self.nodes[self.places % NODES];
        let placement = Placement {
            node_id: node.id.clone(),
            node_name: node.id.to_string(),
            proxy: "127.0.0.1:8888".parse().expect("an address"),
            gpu_devices: Vec::new(),
        };
        self.event(Event::Placed(replica, generation, placement));
    }

    fn report(&mut self, at: usize) {
        let facts = self.nodes[at % NODES].facts();
        // What a session does with replicas that the deployment does not have.
        let ours = |id: ReplicaId| self.stored.iter().any(|dep| dep.replicas.iter().any(|r| r.id == id));
        let orphans: Vec<_> =
            facts.replicas.iter().filter(|report| !ours(report.replica_id)).cloned().collect();
        let outbox = &mut self.nodes[at % NODES].outbox;
        outbox
            .extend(orphans.into_iter().map(|report| (report.replica_id, report.generation, Action::Delete)));
        if self.watched.contains(&facts.node_id) {
            self.event(Event::Node(facts));
        }
    }

    /// The actor falls and is built again from the store; replicas of what is no longer stored are orphans, which
    /// their sessions delete.
    fn crash(&mut self) {
        self.watched.clear();
        self.wanted.clear();
        match self.stored.clone() {
            Some(dep) => {
                self.machine = Machine::load(dep);
                self.event(Event::Started(WallTime(1)));
            }
            None => self.nodes.iter_mut().for_each(|node| node.runs.clear()),
        }
    }

    /// Everything works again: whatever was wanted last must come true.
    fn heal(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.online = true);
        for _ in 0..60 {
            self.event(Event::RetryPlacement);
            while !self.wanted.is_empty() {
                self.place_one();
            }
            for at in 0..NODES {
                while !self.nodes[at].outbox.is_empty() {
                    self.nodes[at].carry_out(0, false);
                }
                self.nodes[at].progress();
                self.report(at);
            }
            if self.stored.is_none() {
                self.nodes.iter_mut().for_each(|node| node.runs.clear());
            }
        }
    }

    fn running(&self) -> Vec<(ReplicaId, Generation)> {
        self.nodes
            .iter()
            .flat_map(|node| node.running().map(|(id, g)| (*id, *g)).collect::<Vec<_>>())
            .collect()
    }
}

fn intend(world: &mut World, intent: Intent) {
    world.event(Event::Intent(ReplyTo(1), intent, WallTime(2)));
}

#[test]
fn a_new_deployment_is_placed_started_and_routed() {
    let mut world = World::new(2);
    assert_eq!(world.machine.deployment().state(), Phase::Pending);
    world.heal();
    assert_eq!(world.machine.deployment().state(), Phase::Running);
    assert_eq!(world.running().len(), 2);
    assert_eq!(world.route.as_ref().expect("a route").endpoints.len(), 2);
}

#[test]
fn nothing_is_sent_before_it_is_stored() {
    let mut machine = Machine::load(deployment(1));
    let effects = machine.step(Event::Started(WallTime(1)));
    assert!(
        matches!(effects.as_slice(), [Effect::Persist(..), Effect::Publish(_), Effect::Place(..)]),
        "{effects:?}"
    );
}

#[test]
fn stop_withdraws_the_route_before_it_stops_anything_and_start_brings_it_back() {
    let mut world = World::new(1);
    world.heal();
    let effects = world.machine.step(Event::Intent(ReplyTo(1), Intent::Stop, WallTime(2)));
    let publish = effects.iter().position(|e| matches!(e, Effect::Publish(s) if s.endpoints.is_empty()));
    let stop = effects.iter().position(|e| matches!(e, Effect::Send(_, _, _, Action::Stop)));
    assert!(publish.expect("withdrawn") < stop.expect("stopped"));
    let mut world = World::new(1);
    world.heal();
    intend(&mut world, Intent::Stop);
    world.heal();
    assert_eq!((world.machine.deployment().state(), world.running().len()), (Phase::Stopped, 0));
    intend(&mut world, Intent::Start);
    world.heal();
    assert_eq!((world.machine.deployment().state(), world.running().len()), (Phase::Running, 1));
}

#[test]
fn a_replica_on_an_offline_node_is_unreachable_without_a_route_and_comes_back_as_it_was() {
    let mut world = World::new(1);
    world.heal();
    let before = world.running();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    world.nodes[at].online = false;
    world.report(at);
    assert_eq!(world.machine.deployment().state(), Phase::Unreachable);
    assert_eq!(world.route.as_ref().expect("a route").endpoints, []);
    world.heal();
    assert_eq!(world.machine.deployment().state(), Phase::Running);
    assert_eq!(world.running(), before, "it was never restarted");
}

#[test]
fn a_failure_is_shown_with_its_reason_and_starting_again_tries_again() {
    let mut world = World::new(1);
    world.heal();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    let mut facts = world.nodes[at].facts();
    facts.replicas[0].status = ReportedStatus::Failed;
    facts.replicas[0].message = "exit code 1: no such file".to_owned();
    world.event(Event::Node(facts));
    let dep = world.machine.deployment();
    assert_eq!((dep.state(), dep.message().as_str()), (Phase::Failed, "exit code 1: no such file"));
    world.nodes[at].runs.values_mut().for_each(|(_, status)| *status = ReportedStatus::Failed);
    intend(&mut world, Intent::Start);
    world.heal();
    assert_eq!(world.machine.deployment().state(), Phase::Running);
    assert_eq!(world.running().len(), 1);
}

#[test]
fn starting_again_leaves_alone_what_runs() {
    let mut world = World::new(2);
    world.heal();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    let (failed, healthy) = (world.nodes[at].running().next().map(|(id, _)| *id), world.running());
    world.nodes[at].runs.values_mut().for_each(|(_, status)| *status = ReportedStatus::Failed);
    world.report(at);
    intend(&mut world, Intent::Start);
    world.heal();
    let kept: Vec<_> = healthy.into_iter().filter(|(id, _)| Some(*id) != failed).collect();
    assert_eq!(world.running().len(), 2);
    assert!(
        kept.iter().all(|replica| world.running().contains(replica)),
        "the healthy one was never touched"
    );
}

#[test]
fn a_restart_whose_command_was_lost_in_a_crash_is_told_again() {
    let mut world = World::new(1);
    world.heal();
    intend(&mut world, Intent::Restart);
    world.nodes.iter_mut().for_each(|node| node.outbox.clear());
    world.crash();
    world.heal();
    assert_eq!(world.running().iter().map(|(_, g)| *g).collect::<Vec<_>>(), [Generation(2)]);
}

#[test]
fn a_replica_of_a_forgotten_node_is_replaced_under_a_new_id() {
    let mut world = World::new(1);
    world.heal();
    let (old, at) =
        (world.running()[0].0, world.nodes.iter().position(|n| n.running().count() == 1).expect("one"));
    let node = world.nodes[at].id.clone();
    world.nodes[at].online = false;
    world.event(Event::NodeGone(node));
    assert!(world.machine.deployment().replicas.iter().all(|replica| replica.id != old));
    assert_eq!(world.machine.deployment().state(), Phase::Pending);
}

#[test]
fn a_replica_that_its_agent_took_down_is_unreachable_once_the_node_is_offline() {
    let mut world = World::new(1);
    world.heal();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    world.nodes[at].runs.values_mut().for_each(|(_, status)| *status = ReportedStatus::Stopping);
    world.report(at);
    assert_eq!(world.machine.deployment().state(), Phase::Stopping);
    world.nodes[at].online = false;
    world.report(at);
    assert_eq!(world.machine.deployment().state(), Phase::Unreachable);
}

#[test]
fn a_refused_start_is_a_failure_and_an_older_refusal_is_not() {
    let mut world = World::new(1);
    world.place_one();
    let replica = world.machine.deployment().replicas[0].id;
    world.event(Event::Rejected(replica, Generation(0), "old".to_owned()));
    assert_eq!(world.machine.deployment().state(), Phase::Preparing);
    world.event(Event::Rejected(replica, Generation(1), "no such runtime".to_owned()));
    assert_eq!(world.machine.deployment().message(), "the agent refused: no such runtime");
}

#[test]
fn reports_of_an_older_generation_bring_no_route() {
    let mut world = World::new(1);
    world.heal();
    intend(&mut world, Intent::Restart);
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    world.report(at);
    assert_eq!(world.route.as_ref().expect("a route").endpoints, []);
    world.heal();
    let route = world.route.as_ref().expect("a route");
    assert_eq!(route.endpoints.iter().map(|e| e.generation).collect::<Vec<_>>(), [Generation(2)]);
}

#[test]
fn scaling_down_removes_the_last_ones_and_deleting_removes_all() {
    let mut world = World::new(3);
    world.heal();
    let kept = world.machine.deployment().replicas[0].id;
    intend(&mut world, Intent::Scale(1));
    world.heal();
    assert_eq!(world.running(), [(kept, Generation(1))]);
    intend(&mut world, Intent::Delete);
    world.heal();
    assert_eq!((world.running().len(), world.stored, world.route), (0, None, None));
}

#[test]
fn deleting_does_not_wait_for_a_node_that_is_offline() {
    let mut world = World::new(1);
    world.heal();
    let at = world.nodes.iter().position(|node| node.running().count() == 1).expect("a node");
    world.nodes[at].online = false;
    world.report(at);
    intend(&mut world, Intent::Delete);
    assert_eq!(world.stored, None);
    assert!(
        world.nodes[at].outbox.iter().any(|(_, _, action)| *action == Action::Delete),
        "told when it is back"
    );
}

#[test]
fn after_the_end_deleting_is_done_and_the_rest_is_refused() {
    let mut world = World::new(0);
    intend(&mut world, Intent::Delete);
    let again = world.machine.step(Event::Intent(ReplyTo(1), Intent::Delete, WallTime(3)));
    assert_eq!(again, [Effect::Reply(ReplyTo(1), Ok(()))]);
    let start = world.machine.step(Event::Intent(ReplyTo(2), Intent::Start, WallTime(3)));
    assert!(
        matches!(start.as_slice(), [Effect::Reply(_, Err(error))] if error.class == ErrorClass::Conflict)
    );
}

#[derive(Clone, Debug)]
enum Step {
    Intend(Intent),
    Place,
    CarryOut(usize, usize, bool),
    Progress(usize),
    Report(usize),
    Presence(usize, bool),
    Crash,
}

fn steps() -> impl Strategy<Value = Step> {
    let intent = prop_oneof![
        Just(Intent::Start),
        Just(Intent::Stop),
        Just(Intent::Restart),
        (0_u32..4).prop_map(Intent::Scale),
        Just(Intent::Delete),
    ];
    prop_oneof![
        2 => intent.prop_map(Step::Intend),
        3 => Just(Step::Place),
        4 => (0..NODES, 0_usize..8, any::<bool>()).prop_map(|(n, at, again)| Step::CarryOut(n, at, again)),
        3 => (0..NODES).prop_map(Step::Progress),
        4 => (0..NODES).prop_map(Step::Report),
        2 => (0..NODES, any::<bool>()).prop_map(|(n, online)| Step::Presence(n, online)),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens in whatever order, with lost, late and repeated commands and crashes at any point, the
    /// last intent comes true once everything works again, exactly: no replica too many, none too few, none of
    /// an older generation.
    #[test]
    fn the_last_intent_comes_true(script in proptest::collection::vec(steps(), 1..60)) {
        let mut world = World::new(2);
        for step in script {
            match step {
                Step::Intend(intent) => intend(&mut world, intent),
                Step::Place => world.place_one(),
                Step::CarryOut(node, at, again) => world.nodes[node].carry_out(at, again),
                Step::Progress(node) => world.nodes[node].progress(),
                Step::Report(node) => world.report(node),
                Step::Presence(node, online) => {
                    world.nodes[node].online = online;
                    world.report(node);
                }
                Step::Crash => world.crash(),
            }
            if let (Some(route), Some(dep)) = (&world.route, &world.stored) {
                prop_assert!(route.endpoints.iter().all(|endpoint| endpoint.generation == dep.generation));
            }
        }
        world.heal();
        let running = world.running();
        match &world.stored {
            None => prop_assert_eq!(running, []),
            Some(dep) => {
                prop_assert_eq!(dep, world.machine.deployment(), "what is stored is what is");
                let wanted = match dep.desired {
                    Desired::Running => dep.spec.replicas as usize,
                    Desired::Stopped => 0,
                    Desired::Deleted => unreachable!("healed"),
                };
                prop_assert_eq!(running.len(), wanted);
                prop_assert!(running.iter().all(|(_, generation)| *generation == dep.generation));
                let endpoints = world.route.as_ref().map_or(0, |route| route.endpoints.len());
                prop_assert_eq!(endpoints, wanted);
            }
        }
    }
}
