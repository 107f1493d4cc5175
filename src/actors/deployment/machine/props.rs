//! Anything in any order, and what must be so afterwards and all the while.

use proptest::prelude::*;

use super::fixtures::deployment;
use super::world::{BAD, World};
use super::*;
use crate::domain::deployment::{Autoscale, LostAfter, Strategy as Rollout};
use crate::domain::node::Scheduling;

const NODES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Intend(Wish),
    Place,
    CarryOut(usize, usize, bool),
    Progress(usize),
    Report(usize),
    Presence(usize, bool),
    Drain(usize, bool),
    Reboot(usize),
    Move(bool),
    Wait(u64),
    Room(usize, usize),
    Asked(u32),
    Crash,
}

#[derive(Clone, Debug)]
enum Wish {
    Start,
    Stop,
    Restart,
    Scale(u32),
    Delete,
    Run(&'static str, Rollout),
    Public(bool),
    Rotate(u8, u64),
}

fn wishes() -> impl Strategy<Value = Wish> {
    let rollout = prop_oneof![3 => Just(Rollout::Rolling), 1 => Just(Rollout::Recreate)];
    prop_oneof![
        2 => Just(Wish::Start),
        2 => Just(Wish::Stop),
        2 => Just(Wish::Restart),
        3 => (0_u32..5).prop_map(Wish::Scale),
        1 => Just(Wish::Delete),
        5 => (prop_oneof![Just("--a"), Just("--b"), Just(BAD)], rollout).prop_map(|(arg, how)| Wish::Run(arg, how)),
        1 => any::<bool>().prop_map(Wish::Public),
        1 => (0_u8..4, prop_oneof![Just(0_u64), Just(30), Just(3_000)]).prop_map(|(n, secs)| Wish::Rotate(n, secs)),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => wishes().prop_map(Step::Intend),
        6 => Just(Step::Place),
        8 => (0..NODES, 0_usize..8, any::<bool>()).prop_map(|(n, at, again)| Step::CarryOut(n, at, again)),
        6 => (0..NODES).prop_map(Step::Progress),
        8 => (0..NODES).prop_map(Step::Report),
        4 => (0..NODES, any::<bool>()).prop_map(|(n, online)| Step::Presence(n, online)),
        2 => (0..NODES, any::<bool>()).prop_map(|(n, drained)| Step::Drain(n, drained)),
        1 => (0..NODES).prop_map(Step::Reboot),
        2 => any::<bool>().prop_map(Step::Move),
        3 => prop_oneof![Just(1_u64), Just(60), Just(301), Just(601)].prop_map(Step::Wait),
        2 => (0..NODES, 0_usize..4).prop_map(|(n, room)| Step::Room(n, room)),
        1 => (0_u32..40).prop_map(Step::Asked),
        2 => Just(Step::Crash),
    ]
}

impl World {
    fn wish(&mut self, wish: Wish) {
        let spec = self.machine.deployment().spec.clone();
        let change = |spec| Intent::Change(Box::new(spec));
        let intent = match wish {
            Wish::Start => Intent::Start,
            Wish::Stop => Intent::Stop,
            Wish::Restart => Intent::Restart,
            Wish::Scale(replicas) => Intent::Scale(replicas),
            Wish::Delete => Intent::Delete,
            Wish::Run(arg, strategy) => {
                change(DeploymentSpec { args: vec![arg.to_owned()], strategy, ..spec })
            }
            Wish::Public(public) => change(DeploymentSpec { public, ..spec }),
            Wish::Rotate(n, secs) => {
                let token = TokenHash::of(&format!("nbtok_{n}"));
                Intent::Rotate { token, overlap: Duration::from_secs(secs) }
            }
        };
        self.intend(intent);
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Intend(wish) => self.wish(wish),
            Step::Place => self.place_one(),
            Step::CarryOut(node, at, again) => self.nodes[node].carry_out(at, again),
            Step::Progress(node) => self.nodes[node].progress(),
            Step::Report(node) => self.report(node),
            Step::Presence(node, online) => self.presence(node, online),
            Step::Drain(node, true) => self.schedule(node, Scheduling::Draining),
            Step::Drain(node, false) => self.schedule(node, Scheduling::Schedulable),
            Step::Reboot(node) => self.nodes[node].runs.clear(),
            Step::Move(granted) => self.answer_move(granted),
            Step::Wait(secs) => self.wait(secs),
            Step::Room(node, room) => self.nodes[node].room = room,
            Step::Asked(waiting) => self.event(Event::Load(Load { waiting, ..Load::default() })),
            Step::Crash => self.crash(),
        }
    }

    /// What is so after every step.
    fn check(&self) {
        let dep = self.machine.deployment();
        let Some(stored) = &self.stored else { return };
        let is = Deployment { replicas: dep.replicas.iter().map(Replica::stored).collect(), ..dep.clone() };
        let sorted = |dep: &Deployment| {
            let mut replicas = dep.replicas.clone();
            replicas.sort_by_key(|replica| replica.id);
            Deployment { replicas, ..dep.clone() }
        };
        assert_eq!(sorted(stored), sorted(&is), "what is stored is what is");
        for endpoint in self.route.iter().flat_map(|route| &route.endpoints) {
            let replica = dep.replicas.iter().find(|replica| replica.id == endpoint.replica_id);
            let replica = replica.expect("an endpoint is a replica");
            let serves =
                !replica.leaving && replica.phase == Phase::Running && dep.desired == Desired::Running;
            assert!(serves, "{replica:?}");
        }
    }

    /// The last wish is fulfilled, exactly: no replica too many, none too few, none of another version.
    fn check_settled(&self) {
        let running = self.running();
        let Some(dep) = &self.stored else {
            assert_eq!(running, []);
            assert_eq!(self.reserved.len(), 0);
            return;
        };
        let live: Vec<u32> = self
            .nodes
            .iter()
            .flat_map(|node| node.runs.keys())
            .filter_map(|id| {
                dep.replicas.iter().find(|replica| replica.id == *id && replica.phase != Phase::Stopped)
            })
            .map(|replica| replica.index)
            .collect();
        let once: BTreeSet<u32> = live.iter().copied().collect();
        assert_eq!(once.len(), live.len(), "one index, one replica: {dep:?}");
        let held = dep.replicas.iter().filter(|replica| dep.holds_place(replica)).map(|replica| replica.id);
        assert_eq!(self.reserved.keys().copied().collect::<BTreeSet<_>>(), held.collect(), "{dep:?}");
        let drained = self.nodes.iter().filter(|node| node.scheduling == Scheduling::Draining);
        for node in drained {
            assert!(node.runs.is_empty(), "{} is drained: {:?}", node.id, node.runs);
        }
        assert!(dep.previous.is_none() || dep.desired != Desired::Running, "{dep:?}");
        let never_ran = dep.spec.args == [BAD];
        let wanted = match dep.desired {
            Desired::Running if !never_ran => dep.spec.replicas as usize,
            Desired::Running | Desired::Stopped => 0,
            Desired::Deleted => panic!("it is gone when all is well: {dep:?}"),
        };
        assert_eq!((running.len(), self.endpoints()), (wanted, wanted), "{dep:?}");
        assert!(running.iter().all(|(id, _)| {
            dep.replicas.iter().any(|r| r.id == *id && r.revision == dep.revision && !r.leaving)
        }));
    }
}

fn a_deployment(replicas: u32, scales: bool) -> Deployment {
    let mut dep = deployment(Vec::new());
    dep.spec.replicas = replicas;
    dep.spec.lost_after = LostAfter::After(Duration::from_secs(300));
    let (cooldown, idle_after) = (Duration::from_secs(60), Duration::from_secs(300));
    dep.spec.autoscale = scales.then_some(Autoscale { min: 0, max: 4, target: 8, cooldown, idle_after });
    dep
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens in whatever order, with lost, late and repeated commands, nodes that go and come, drains, places
    /// that are refused and crashes at any point, the last wish comes true once everything works again.
    #[test]
    fn the_last_intent_comes_true(
        scales in any::<bool>(),
        script in proptest::collection::vec(steps(), 1..80),
    ) {
        let mut world = World::new(a_deployment(2, scales), NODES, 3);
        let mut restarted = None;
        for step in script {
            let began = match &step {
                Step::Intend(Wish::Restart) => Some(true),
                Step::Intend(Wish::Run(..)) => Some(false),
                _ => None,
            };
            world.take_step(step);
            world.check();
            match began {
                Some(true) => restarted = Some(world.machine.deployment().generation),
                Some(false) => restarted = None,
                None => {}
            }
        }
        world.nodes.iter_mut().for_each(|node| node.room = 10);
        if world.nodes.iter().all(|node| node.scheduling != Scheduling::Schedulable) {
            world.schedule(0, Scheduling::Schedulable);
        }
        world.heal();
        world.check();
        world.check_settled();
        let rolled_back = world.kinds().contains(&"rolled_back");
        if let Some(generation) = restarted.filter(|_| !rolled_back) {
            prop_assert!(world.running().iter().all(|(_, runs)| *runs >= generation));
        }
    }

    /// While all nodes work, a rolling change, a drain and a change of mind in the middle of either never leave fewer
    /// replicas to the gateway than there were; one fewer where there is no room for another one.
    #[test]
    fn a_change_and_a_drain_keep_up_what_they_found(
        replicas in 1_u32..7,
        spare in 0_usize..4,
        script in proptest::collection::vec(prop_oneof![
            2 => prop_oneof![Just("--a"), Just("--b"), Just(BAD)].prop_map(|arg| Step::Intend(Wish::Run(arg, Rollout::Rolling))),
            6 => Just(Step::Place),
            8 => (0..NODES, 0_usize..8, any::<bool>()).prop_map(|(n, at, again)| Step::CarryOut(n, at, again)),
            6 => (0..NODES).prop_map(Step::Progress),
            8 => (0..NODES).prop_map(Step::Report),
            1 => (0..NODES, any::<bool>()).prop_map(|(n, drained)| Step::Drain(n, drained)),
            2 => (1_u64..700).prop_map(Step::Wait),
        ], 1..120),
    ) {
        let mut world = World::new(a_deployment(replicas, false), NODES, 0);
        let wanted = replicas as usize;
        world.nodes.iter_mut().for_each(|node| node.room = wanted);
        world.heal();
        prop_assert_eq!(world.endpoints(), wanted);
        for node in &mut world.nodes {
            node.room = world.reserved.values().filter(|at| **at == node.id).count();
        }
        world.nodes[0].room += spare;
        world.fewest = wanted;
        for step in script {
            world.take_step(step);
            world.check();
        }
        world.settle();
        let least = if world.kinds().contains(&"made_room") { wanted.saturating_sub(1).max(1) } else { wanted };
        prop_assert!(world.fewest >= least, "{} of {}: {:?}", world.fewest, wanted, world.happened);
    }
}
