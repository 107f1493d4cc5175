use nebula_core::clock::WallTime;
use nebula_core::runtime::RuntimeKind;
use proptest::prelude::*;

use super::*;
use crate::domain::deployment::GpuNeed;
use crate::domain::node::{Capabilities, Node, Presence};

fn node(name: &str, gpus: &[(&str, u64)], cores: u32) -> NodeUpdate {
    let gpus = gpus.iter().enumerate().map(|(index, (name, gib))| Gpu {
        uuid: format!("GPU-{index}"),
        name: (*name).to_owned(),
        memory_bytes: gib << 30,
        index: index as u32,
        ..Gpu::default()
    });
    NodeUpdate {
        node: Node {
            id: name.parse().expect("an id"),
            name: name.to_owned(),
            version: String::new(),
            address: "127.0.0.1:9091".parse().expect("an address"),
            proxy_port: 8888,
            subdomain: String::new(),
            labels: BTreeMap::new(),
            capabilities: Capabilities { gpus: gpus.collect(), cpu_cores: cores, ..Capabilities::default() },
            boot_id: String::new(),
            scheduling: Scheduling::Schedulable,
            presence: Presence::Expected,
            created_at: WallTime(0),
        },
        availability: Availability::Online,
    }
}

fn request(gpus: u32) -> Request {
    Request {
        deployment: DeploymentId::random(),
        replica: ReplicaId::random(),
        spec: DeploymentSpec {
            gpu: GpuNeed { count: gpus, ..GpuNeed::default() },
            ..DeploymentSpec::plain("m", RuntimeKind::Sim)
        },
    }
}

fn machine(nodes: Vec<NodeUpdate>) -> Machine {
    let mut machine = Machine::default();
    for node in nodes {
        machine.node_changed(node);
    }
    machine
}

fn place(machine: &mut Machine, request: &Request) -> Result<(String, Vec<u32>), String> {
    machine.place(request).map(|placement| (placement.node_name, placement.gpu_devices))
}

#[test]
fn gpus_go_where_most_are_free_and_cpu_work_where_most_cores_are() {
    let a100: &[(&str, u64)] = &[("A100", 40), ("A100", 40)];
    let mut machine = machine(vec![node("few", &a100[..1], 64), node("many", a100, 8)]);
    assert_eq!(place(&mut machine, &request(1)), Ok(("many".to_owned(), vec![0])));
    assert_eq!(place(&mut machine, &request(0)), Ok(("few".to_owned(), vec![])));
}

#[test]
fn several_gpus_are_of_one_type_and_fit_type_and_memory() {
    let mixed: &[(&str, u64)] = &[("NVIDIA A100", 40), ("NVIDIA H100", 80), ("NVIDIA A100", 40)];
    let mut machine = machine(vec![node("n", mixed, 8)]);
    assert_eq!(place(&mut machine, &request(2)), Ok(("n".to_owned(), vec![0, 2])));
    let mut typed = request(1);
    typed.spec.gpu.kind = Some("h100".to_owned());
    assert_eq!(place(&mut machine, &typed), Ok(("n".to_owned(), vec![1])));
    let mut large = request(1);
    large.spec.gpu.memory_bytes = 80 << 30;
    let why = place(&mut machine, &large).expect_err("taken");
    assert_eq!(why, "no node fits: n: 0 of 3 GPUs are free and fit, 1 of one type wanted");
}

#[test]
fn refusals_say_why_for_each_node() {
    let mut cordoned = node("cordoned", &[], 8);
    cordoned.node.scheduling = Scheduling::Cordoned;
    let mut offline = node("gone", &[], 8);
    offline.availability = Availability::Offline;
    let mut picky = node("picky", &[], 8);
    picky.node.capabilities.supported_runtimes = vec!["vllm".to_owned()];
    let mut machine = machine(vec![cordoned, offline, picky]);
    assert_eq!(
        place(&mut machine, &request(0)),
        Err("no node fits: cordoned: is cordoned; gone: is offline; picky: does not run sim".to_owned())
    );
    assert_eq!(
        place(&mut Machine::default(), &request(0)),
        Err("no node has joined yet; start nebula-agent on one".to_owned())
    );
}

#[test]
fn whoever_waits_is_woken_when_something_changes() {
    let mut machine = machine(vec![node("n", &[("A100", 40)], 8)]);
    let (first, second) = (request(1), request(1));
    assert!(place(&mut machine, &first).is_ok());
    assert!(place(&mut machine, &second).is_err());
    assert_eq!(machine.node_changed(node("n", &[("A100", 40)], 8)), BTreeSet::new(), "nothing changed");
    assert_eq!(machine.release(first.replica), BTreeSet::from([second.deployment]));
    assert!(place(&mut machine, &second).is_ok());
}

#[test]
fn a_gpu_that_is_not_offered_any_more_is_not_given_out_until_it_is_again() {
    let whole = node("n", &[("A100", 40), ("A100", 40)], 8);
    let mut less = whole.clone();
    less.node.capabilities.gpus.remove(0);
    let mut machine = machine(vec![whole.clone()]);
    machine.node_changed(less);
    assert_eq!(place(&mut machine, &request(1)), Ok(("n".to_owned(), vec![1])));
    let second = request(1);
    place(&mut machine, &second).expect_err("the other GPU is taken");
    assert_eq!(machine.node_changed(whole), BTreeSet::from([second.deployment]));
    assert_eq!(place(&mut machine, &second), Ok(("n".to_owned(), vec![0])));
}

#[test]
fn only_what_a_deployment_says_it_holds_stays_reserved() {
    let mut machine = machine(vec![node("n", &[("A100", 40), ("A100", 40)], 8)]);
    let kept = request(1);
    let lost = Request { replica: ReplicaId::random(), ..kept.clone() };
    let other = request(1);
    let placement = machine.place(&kept).expect("placed");
    assert!(place(&mut machine, &lost).is_ok());
    assert!(place(&mut machine, &other).is_err());
    let holds = [(kept.replica, Some(placement.clone()))];
    assert_eq!(
        machine.holds(kept.deployment, &holds, 0),
        BTreeSet::from([other.deployment]),
        "a place is free"
    );
    assert_eq!(machine.reserved(), 1);
    assert!(place(&mut machine, &other).is_ok(), "others' places are others'");
    assert_eq!(machine.holds(kept.deployment, &holds, 0), BTreeSet::new());
    // A scheduler that has just started learns what no record says yet; a place that is sought keeps its turn.
    let mut restarted = super::Machine::default();
    restarted.holds(kept.deployment, &[(kept.replica, Some(placement)), (lost.replica, None)], 3);
    assert_eq!(restarted.reserved(), 1);
    assert_eq!(restarted.holds(kept.deployment, &[], 0), BTreeSet::new(), "nobody waits");
    assert_eq!(restarted.reserved(), 0);
}

#[test]
fn copies_of_one_deployment_spread() {
    let mut machine = machine(vec![node("a", &[], 8), node("b", &[], 64)]);
    let one = request(0);
    let other = Request { replica: ReplicaId::random(), ..one.clone() };
    assert_eq!(place(&mut machine, &one).expect("placed").0, "b");
    assert_eq!(place(&mut machine, &other).expect("placed").0, "a");
}

proptest! {
    /// No GPU is given away twice and no node's cores are overdrawn, whatever comes and goes.
    #[test]
    fn nothing_is_ever_given_twice(steps in proptest::collection::vec((0_u32..4, 0_u32..5, any::<bool>()), 1..80)) {
        let gpus: &[(&str, u64)] = &[("A100", 40), ("A100", 40), ("H100", 80), ("H100", 80)];
        let mut machine = machine(vec![node("a", gpus, 8), node("b", &gpus[..2], 4)]);
        let mut held: Vec<(Request, Placement)> = Vec::new();
        for (gpu_count, cores, release) in steps {
            if release && !held.is_empty() {
                let (gone, _) = held.remove(0);
                machine.release(gone.replica);
            }
            let mut request = request(gpu_count);
            request.spec.cpu.cores = cores;
            if let Ok(placement) = machine.place(&request) {
                prop_assert_eq!(placement.gpu_devices.len(), gpu_count as usize);
                held.push((request, placement));
            }
            for name in ["a", "b"] {
                let here: Vec<_> = held.iter().filter(|(_, place)| place.node_name == name).collect();
                let mut devices: Vec<u32> = here.iter().flat_map(|(_, place)| place.gpu_devices.clone()).collect();
                let count = devices.len();
                devices.sort_unstable();
                devices.dedup();
                prop_assert_eq!(devices.len(), count);
                let cores: u32 = here.iter().map(|(request, _)| request.spec.cpu.cores).sum();
                let limit = if name == "a" { 8 } else { 4 };
                prop_assert!(cores <= limit);
            }
        }
    }
}
