//! Whatever comes and goes: nothing is given twice, what brute force says of a picture is what is chosen, and nobody
//! waits for what is there.

use std::sync::Arc;

use proptest::prelude::*;

use super::fixtures::*;
use super::*;
use crate::domain::deployment::{GpuNeed, Policy};
use crate::domain::node::{Gpu, Scheduling};

/// Nodes of the tests.
const NODES: [&str; 4] = ["a", "b", "c", "d"];

/// So many deployments that more may wait than are told at once.
const DEPLOYMENTS: usize = 20;

#[derive(Clone, Debug)]
enum Act {
    /// A replica of one of few deployments seeks a place: GPUs, of a type, memory, cores, policy.
    Place(usize, Wanted),
    /// One of those that were placed or wait goes.
    Release(usize),
    /// A node stands so: GPUs, cores, open.
    Node(usize, usize, u32, bool),
    /// What a node uses: of its first GPU, whether its second is ill, disk, and the model.
    Usage(usize, u64, bool, u64, bool),
    /// A node is forgotten.
    Gone(usize),
    /// A deployment begins anew: it knows what it holds, and not that it was told anything.
    Restart(usize),
    /// Those that were told ask again, until nobody is told any more.
    Answer,
}

#[derive(Clone, Debug)]
struct Wanted {
    gpus: u32,
    typed: bool,
    gib: u64,
    cores: u32,
    policy: Policy,
    fetches: bool,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let policy = prop_oneof![Just(Policy::Default), Just(Policy::Binpack), Just(Policy::Spread)];
    (0_u32..4, any::<bool>(), prop_oneof![Just(0_u64), Just(30), Just(70)], 0_u32..4, policy, any::<bool>())
        .prop_map(|(gpus, typed, gib, cores, policy, fetches)| Wanted {
            gpus,
            typed,
            gib,
            cores,
            policy,
            fetches,
        })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..DEPLOYMENTS, wanted()).prop_map(|(dep, wanted)| Act::Place(dep, wanted)),
        3 => (0_usize..64).prop_map(Act::Release),
        2 => (0_usize..4, 0_usize..5, 0_u32..9, any::<bool>()).prop_map(|(n, g, c, open)| Act::Node(n, g, c, open)),
        2 => (0_usize..4, 0_u64..40, any::<bool>(), 0_u64..6, any::<bool>())
            .prop_map(|(n, used, ill, disk, held)| Act::Usage(n, used, ill, disk, held)),
        1 => (0_usize..4).prop_map(Act::Gone),
        1 => (0..DEPLOYMENTS).prop_map(Act::Restart),
        3 => Just(Act::Answer),
    ]
}

/// The world as it is, told in full.
#[derive(Default)]
struct World {
    machine: Machine,
    nodes: BTreeMap<NodeId, (NodeUpdate, Usage)>,
    deployments: Vec<DeploymentId>,
    placed: Vec<(Request, Placement)>,
    waiting: Vec<Request>,
    /// Deployments that were told and have not asked since.
    told: BTreeSet<DeploymentId>,
}

/// GPUs that a node offers for a request, by type.
fn offered(world: &World, id: &NodeId, request: &Request) -> BTreeMap<String, Vec<u32>> {
    let (update, usage) = &world.nodes[id];
    let taken = |gpu: &Gpu| {
        let here = world.placed.iter().filter(|(_, place)| place.node_id == *id);
        here.into_iter().any(|(_, place)| place.gpu_devices.contains(&gpu.index))
    };
    let shape = &request.need.shape.gpu;
    let mut types: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for gpu in &update.node.capabilities.gpus {
        let used = usage.gpus.iter().find(|used| used.uuid == gpu.uuid);
        let others = used.map_or(0, |used| used.used_by_others_bytes);
        let room = match shape.memory_bytes {
            0 => others * 2 <= gpu.memory_bytes,
            wanted => gpu.memory_bytes - others >= wanted,
        };
        let kind = shape.kind.as_ref().is_none_or(|kind| gpu.name.contains(kind.as_str()));
        if !taken(gpu) && used.is_none_or(|used| used.problem.is_empty()) && room && kind {
            types.entry(gpu.name.clone()).or_default().push(gpu.index);
        }
    }
    types
}

fn free_cores(world: &World, id: &NodeId) -> u32 {
    let here = world.placed.iter().filter(|(_, place)| place.node_id == *id);
    let used: u32 = here.map(|(request, _)| request.need.shape.cores).sum();
    world.nodes[id].0.node.capabilities.cpu_cores.saturating_sub(used)
}

/// How good a node is for a request, if it fits; less is better.
fn judged(world: &World, id: &NodeId, request: &Request) -> Option<(usize, bool, i64, i64, NodeId)> {
    let (update, usage) = world.nodes.get(id)?;
    let (node, need) = (&update.node, &request.need);
    let open = update.availability == Availability::Online && node.scheduling == Scheduling::Schedulable;
    let cores = free_cores(world, id);
    let types = offered(world, id, request);
    let count = need.shape.gpu.count as usize;
    let enough = count == 0 || types.values().any(|devices| devices.len() >= count);
    let fetches = need.fetches.as_ref().is_some_and(|model| !usage.models.contains(model));
    let disk = usage.disk_free_bytes.unwrap_or(u64::MAX);
    if !open || need.shape.cores > cores || !enough || (fetches && disk < 3 * GIB) {
        return None;
    }
    let here = || world.placed.iter().filter(|(_, place)| place.node_id == *id);
    let copies = here().filter(|(other, _)| other.deployment == request.deployment).count();
    let fit = types.values().map(Vec::len).sum::<usize>() as i64;
    let room = if count > 0 { fit } else { i64::from(cores) };
    let free_gpus = || {
        let ill =
            |gpu: &&Gpu| usage.gpus.iter().any(|used| used.uuid == gpu.uuid && !used.problem.is_empty());
        let taken = |gpu: &&Gpu| here().any(|(_, place)| place.gpu_devices.contains(&gpu.index));
        node.capabilities.gpus.iter().filter(|gpu| !ill(gpu) && !taken(gpu)).count() as i64
    };
    Some(match need.policy {
        Policy::Default => (copies, fetches, -room, 0, id.clone()),
        Policy::Spread => (copies, fetches, here().count() as i64, -room, id.clone()),
        Policy::Binpack if count > 0 => (0, fetches, room, i64::from(cores), id.clone()),
        Policy::Binpack => (0, fetches, room, free_gpus(), id.clone()),
    })
}

fn best(world: &World, request: &Request) -> Option<NodeId> {
    let judged = world.nodes.keys().filter_map(|id| judged(world, id, request));
    judged.min_by_key(|score| score.clone()).map(|(.., id)| id)
}

/// The devices that are to be given: of the type with the fewest that suffice, the lowest.
fn devices(world: &World, id: &NodeId, request: &Request) -> Vec<u32> {
    let count = request.need.shape.gpu.count as usize;
    let types = offered(world, id, request);
    let enough = types.into_iter().filter(|(_, devices)| devices.len() >= count);
    let chosen = enough.min_by_key(|(kind, devices)| (devices.len(), kind.clone()));
    let mut devices = chosen.filter(|_| count > 0).map(|(_, devices)| devices).unwrap_or_default();
    devices.sort_unstable();
    devices.truncate(count);
    devices
}

impl World {
    fn place(&mut self, request: &Request) -> Result<(), TestCaseError> {
        self.placed.retain(|(other, _)| other.replica != request.replica);
        self.waiting.retain(|other| other.replica != request.replica);
        let expected = best(self, request);
        match self.machine.place(request) {
            Ok(place) => {
                prop_assert_eq!(Some(&place.node_id), expected.as_ref());
                prop_assert_eq!(&place.gpu_devices, &devices(self, &place.node_id, request));
                self.placed.push((request.clone(), place));
            }
            Err(why) => {
                prop_assert_eq!(None, expected, "{}", why);
                self.waiting.push(request.clone());
            }
        }
        let woken = self.machine.woken();
        self.told.extend(woken);
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Place(dep, wanted) => {
                let need = Need {
                    shape: Shape {
                        node: None,
                        labels: BTreeMap::new(),
                        runtime: None,
                        gpu: GpuNeed {
                            count: wanted.gpus,
                            kind: wanted.typed.then(|| "A100".to_owned()),
                            memory_bytes: wanted.gib * GIB,
                        },
                        cores: wanted.cores,
                    },
                    fetches: wanted.fetches.then(|| "hf://a/b".to_owned()),
                    weights_bytes: None,
                    hint_bytes: None,
                    policy: wanted.policy,
                };
                let deployment = self.deployments[dep];
                let (replica, need) = (ReplicaId::random(), Arc::new(need));
                self.place(&Request { deployment, replica, need, going: Vec::new() })?;
            }
            Act::Release(which) => {
                let all = self.placed.iter().map(|(request, _)| request).chain(&self.waiting);
                let Some(gone) = all.map(|request| request.replica).nth(which) else { return Ok(()) };
                self.placed.retain(|(request, _)| request.replica != gone);
                self.waiting.retain(|request| request.replica != gone);
                let woken = self.machine.release(gone);
                self.told.extend(woken);
            }
            Act::Node(n, count, cores, open) => {
                let all = [gpu(0, "A100", 40), gpu(1, "A100", 40), gpu(2, "H100", 80), gpu(3, "H100", 80)];
                let mut update = node(NODES[n], cores, all[..count].to_vec());
                if !open {
                    update.node.scheduling = Scheduling::Cordoned;
                }
                let id = update.node.id.clone();
                let usage = self.nodes.remove(&id).map(|(_, usage)| usage).unwrap_or_default();
                self.nodes.insert(id, (update.clone(), usage));
                let woken = self.machine.node_changed(update);
                self.told.extend(woken);
            }
            Act::Usage(n, gib, is_ill, free, held) => {
                let mut gpus = vec![used(0, gib)];
                gpus.extend(is_ill.then(|| ill(1, "lost")));
                let usage = Usage { gpus, ..disk(free, if held { &["hf://a/b"] } else { &[] }) };
                if let Some((_, known)) = self.nodes.get_mut(&node_id(NODES[n])) {
                    *known = usage.clone();
                }
                let woken = self.machine.usage_changed(&node_id(NODES[n]), usage);
                self.told.extend(woken);
            }
            Act::Gone(n) => {
                self.nodes.remove(&node_id(NODES[n]));
                self.machine.node_gone(&node_id(NODES[n]));
            }
            Act::Restart(dep) => {
                let deployment = self.deployments[dep];
                self.told.remove(&deployment);
                self.waiting.retain(|request| request.deployment != deployment);
                let woken = self.machine.holds(deployment, &self.held(deployment));
                self.told.extend(woken);
            }
            Act::Answer => self.answer()?,
        }
        Ok(())
    }

    fn held(&self, deployment: DeploymentId) -> Vec<Hold> {
        let own = self.placed.iter().filter(|(request, _)| request.deployment == deployment);
        own.map(|(request, place)| Hold {
            replica: request.replica,
            place: Some(place.clone()),
            cores: request.need.shape.cores,
        })
        .collect()
    }

    /// Whoever is told asks again, in vain or not; then nobody waits who fits somewhere.
    fn answer(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..1_000 {
            let Some(told) = self.told.pop_first() else { break };
            let asks: Vec<Request> =
                self.waiting.iter().filter(|request| request.deployment == told).cloned().collect();
            for request in asks {
                self.place(&request)?;
            }
        }
        prop_assert!(self.told.is_empty(), "they are told for ever");
        for request in &self.waiting {
            let fits: Vec<&NodeId> =
                self.nodes.keys().filter(|id| judged(self, id, request).is_some()).collect();
            prop_assert!(fits.is_empty(), "{:?} fits on {:?} and is not told", request, fits);
        }
        Ok(())
    }

    /// Nothing is given twice, and the picture is the one that is made of the same facts at once, in another order.
    fn check(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.machine.reserved(), self.placed.len());
        let mut devices: Vec<(&NodeId, u32)> = Vec::new();
        for (request, place) in &self.placed {
            prop_assert_eq!(place.gpu_devices.len(), request.need.shape.gpu.count as usize);
            devices.extend(place.gpu_devices.iter().map(|device| (&place.node_id, *device)));
        }
        let given = devices.len();
        devices.sort_unstable();
        devices.dedup();
        prop_assert_eq!(devices.len(), given, "a GPU is given twice");
        let mut anew = Machine::default();
        self.deployments.iter().for_each(|id| drop(anew.holds(*id, &self.held(*id))));
        for (update, usage) in self.nodes.values().rev() {
            anew.node_changed(update.clone());
            anew.usage_changed(&update.node.id, usage.clone());
        }
        for probe in self.probes() {
            prop_assert_eq!(anew.explain(&probe), self.machine.explain(&probe));
        }
        Ok(())
    }

    fn probes(&self) -> Vec<Request> {
        let probes = [(0, 0), (0, 3), (1, 0), (2, 1), (3, 0)].map(|(gpus, cores)| request(gpus, cores));
        let own = self.deployments.first().map(|id| Request { deployment: *id, ..request(1, 1) });
        probes.into_iter().chain(own).collect()
    }

    /// Which of some requests fit somewhere.
    fn fitting(&mut self) -> Vec<bool> {
        self.probes().iter().map(|probe| !self.machine.explain(probe).fits.is_empty()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_chosen_is_what_brute_force_says_and_nobody_waits_in_vain(
        acts in proptest::collection::vec(act(), 1..80),
    ) {
        let mut world = World { deployments: (0..DEPLOYMENTS).map(|_| DeploymentId::random()).collect(), ..World::default() };
        for n in NODES.iter().take(2) {
            let update = node(n, 8, vec![gpu(0, "A100", 40), gpu(1, "A100", 40), gpu(2, "H100", 80)]);
            world.nodes.insert(update.node.id.clone(), (update.clone(), Usage::default()));
            world.machine.node_changed(update);
        }
        for act in acts {
            let before = world.fitting();
            let frees = matches!(act, Act::Release(_));
            world.act(act)?;
            if frees {
                let after = world.fitting();
                prop_assert!(before.iter().zip(&after).all(|(before, after)| !before || *after), "less fits");
            }
            world.check()?;
        }
        world.answer()?;
        // One more node, and nothing is refused that was not.
        let before = world.fitting();
        world.machine.node_changed(node("z", 4, vec![gpu(0, "H100", 80)]));
        let after = world.fitting();
        prop_assert!(before.iter().zip(&after).all(|(before, after)| !before || *after), "less fits");
    }
}
