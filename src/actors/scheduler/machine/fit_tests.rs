//! Which nodes fit, which of them is best, what a refusal says, and what a place that is taken or given back does
//! to those who wait.

use nebula_core::clock::WallTime;
use nebula_core::runtime::RuntimeKind;

use super::*;
use crate::domain::deployment::{CpuNeed, GpuNeed};
use crate::domain::node::{Capabilities, Node, Presence};

const GIB: u64 = 1 << 30;

fn gpu(index: u32, name: &str, gib: u64) -> Gpu {
    Gpu { name: name.to_owned(), memory_bytes: gib * GIB, index, ..Gpu::default() }
}

fn node(name: &str, cores: u32, gpus: Vec<Gpu>) -> NodeUpdate {
    NodeUpdate {
        node: Node {
            id: format!("id-{name}").parse().expect("an id"),
            name: name.to_owned(),
            version: String::new(),
            address: "10.0.0.1:9091".parse().expect("an address"),
            proxy_port: 8888,
            subdomain: String::new(),
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            capabilities: Capabilities { gpus, cpu_cores: cores, ..Capabilities::default() },
            boot_id: String::new(),
            scheduling: Scheduling::Schedulable,
            presence: Presence::Expected,
            created_at: WallTime(0),
        },
        availability: Availability::Online,
    }
}

/// Two A100 and one H100.
fn mixed(name: &str) -> NodeUpdate {
    node(name, 8, vec![gpu(0, "NVIDIA A100", 40), gpu(1, "NVIDIA H100", 80), gpu(2, "NVIDIA A100", 40)])
}

fn machine(nodes: Vec<NodeUpdate>) -> Machine {
    let mut machine = Machine::default();
    for node in nodes {
        machine.node_changed(node);
    }
    machine
}

/// So many GPUs and cores, for a deployment of its own.
fn request(gpus: u32, cores: u32) -> Request {
    let spec = DeploymentSpec {
        gpu: GpuNeed { count: gpus, ..GpuNeed::default() },
        cpu: CpuNeed { cores },
        ..DeploymentSpec::plain("m", RuntimeKind::Sim)
    };
    Request { deployment: DeploymentId::random(), replica: ReplicaId::random(), spec }
}

fn place(machine: &mut Machine, request: &Request) -> Result<(String, Vec<u32>), String> {
    machine.place(request).map(|placement| (placement.node_name, placement.gpu_devices))
}

fn on(name: &str, gpus: &[u32]) -> Result<(String, Vec<u32>), String> {
    Ok((name.to_owned(), gpus.to_vec()))
}

/// What the only node says to a request.
fn reason(update: NodeUpdate, request: &Request) -> Option<String> {
    let prefix = format!("no node fits: {}: ", update.node.name);
    let refusal = place(&mut machine(vec![update]), request).err()?;
    Some(refusal.strip_prefix(&prefix).expect("about this node").to_owned())
}

#[test]
fn a_node_that_is_asked_for_by_name_or_id_is_the_only_one_that_fits() {
    for (wanted, placed) in [("a", true), ("id-a", true), ("b", false), ("id-b", false)] {
        let mut request = request(0, 0);
        request.spec.node = Some(wanted.to_owned());
        let reason = reason(node("a", 8, Vec::new()), &request);
        assert_eq!(reason, (!placed).then(|| "another node is asked for".to_owned()), "{wanted}");
    }
}

#[test]
fn a_node_takes_replicas_only_while_it_is_online_and_schedulable() {
    use Availability::{Offline, Online, Suspect};
    for (availability, scheduling, expected) in [
        (Online, Scheduling::Schedulable, None),
        (Online, Scheduling::Cordoned, Some("is cordoned")),
        (Online, Scheduling::Draining, Some("is being drained")),
        (Online, Scheduling::Drained, Some("is being drained")),
        (Suspect, Scheduling::Schedulable, Some("is suspect: not heard from lately")),
        (Suspect, Scheduling::Cordoned, Some("is suspect: not heard from lately")),
        (Offline, Scheduling::Schedulable, Some("is offline")),
        (Offline, Scheduling::Drained, Some("is offline")),
    ] {
        let mut update = node("a", 8, Vec::new());
        update.availability = availability;
        update.node.scheduling = scheduling;
        let reason = reason(update, &request(0, 0));
        assert_eq!(reason.as_deref(), expected, "{availability:?} {scheduling:?}");
    }
}

#[test]
fn every_label_that_is_asked_for_must_be_there_with_its_value() {
    for (labels, expected) in [
        (vec![], None),
        (vec![("zone", "a")], None),
        (vec![("zone", "b")], Some("lacks the label zone=b")),
        (vec![("zone", "a"), ("disk", "ssd")], Some("lacks the label disk=ssd")),
    ] {
        let mut request = request(0, 0);
        request.spec.labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(reason(node("a", 8, Vec::new()), &request).as_deref(), expected, "{labels:?}");
    }
}

#[test]
fn a_node_that_names_its_runtimes_runs_no_others_unless_a_program_is_brought_along() {
    for (runtimes, command, expected) in [
        (vec![], vec![], None),
        (vec!["vllm", "sim"], vec![], None),
        (vec!["vllm"], vec![], Some("does not run sim")),
        (vec!["vllm"], vec!["./serve"], None),
        (vec![], vec!["./serve"], None),
    ] {
        let mut update = node("a", 8, Vec::new());
        update.node.capabilities.supported_runtimes = runtimes.iter().map(|r| (*r).to_owned()).collect();
        let mut request = request(0, 0);
        request.spec.command = command.iter().map(|part| (*part).to_owned()).collect();
        assert_eq!(reason(update, &request).as_deref(), expected, "{runtimes:?} {command:?}");
    }
}

#[test]
fn cores_are_given_until_none_is_left_and_counted_for_each_node() {
    let mut machine = machine(vec![node("a", 4, Vec::new()), node("b", 2, Vec::new())]);
    assert_eq!(place(&mut machine, &request(0, 3)), on("a", &[]));
    assert_eq!(place(&mut machine, &request(0, 2)), on("b", &[]));
    assert_eq!(place(&mut machine, &request(0, 1)), on("a", &[]), "the last core");
    let refusal = "no node fits: a: 0 of 4 cores free, 1 wanted; b: 0 of 2 cores free, 1 wanted";
    assert_eq!(place(&mut machine, &request(0, 1)), Err(refusal.to_owned()));
    assert_eq!(place(&mut machine, &request(0, 0)), on("a", &[]), "who asks for none gets none");
}

#[test]
fn gpus_are_of_one_type_that_is_asked_for_and_large_enough() {
    let kind = |kind: &str| Some(kind.to_owned());
    for (count, kind, gib, expected) in [
        (0, None, 0, Ok(vec![])),
        (1, None, 0, Ok(vec![1])),
        (2, None, 0, Ok(vec![0, 2])),
        (1, kind("a100"), 0, Ok(vec![0])),
        (1, kind("A100"), 40, Ok(vec![0])),
        (1, None, 41, Ok(vec![1])),
        (1, None, 80, Ok(vec![1])),
        (3, None, 0, Err("2 of 3 GPUs are free and fit, 3 of one type wanted")),
        (1, None, 81, Err("0 of 3 GPUs are free and fit, 1 of one type wanted")),
        (1, kind("a100"), 41, Err("0 of 3 GPUs are free and fit, 1 of one type wanted")),
        (2, kind("h100"), 0, Err("1 of 3 GPUs are free and fit, 2 of one type wanted")),
    ] {
        let case = format!("{count} of {kind:?} with {gib} GiB");
        let mut request = request(count, 0);
        request.spec.gpu = GpuNeed { count, kind, memory_bytes: gib * GIB };
        let refused = |why: &str| format!("no node fits: a: {why}");
        let expected = expected.map(|gpus| ("a".to_owned(), gpus)).map_err(refused);
        assert_eq!(place(&mut machine(vec![mixed("a")]), &request), expected, "{case}");
    }
    let reason = reason(node("a", 8, Vec::new()), &request(1, 0));
    assert_eq!(reason.as_deref(), Some("has no GPU"));
}

#[test]
fn a_type_is_broken_into_that_has_the_fewest_free_and_the_lowest_devices_come_first() {
    let gpus = vec![gpu(3, "A", 40), gpu(2, "A", 40), gpu(1, "A", 40), gpu(5, "B", 40), gpu(4, "B", 40)];
    let mut machine = machine(vec![node("a", 8, gpus)]);
    assert_eq!(place(&mut machine, &request(1, 0)), on("a", &[4]));
    assert_eq!(place(&mut machine, &request(2, 0)), on("a", &[1, 2]));
    assert_eq!(place(&mut machine, &request(1, 0)), on("a", &[3]));
    assert_eq!(place(&mut machine, &request(1, 0)), on("a", &[5]));
    assert!(place(&mut machine, &request(1, 0)).is_err());
}

#[test]
fn the_roomiest_node_is_best_and_the_first_by_id_among_equals() {
    let one = || vec![gpu(0, "A", 40)];
    let two = || vec![gpu(0, "A", 40), gpu(1, "A", 40)];
    for (what, nodes, request, best) in [
        ("more cores", vec![node("a", 2, one()), node("b", 4, one())], request(0, 1), "b"),
        ("more cores first", vec![node("a", 4, one()), node("b", 2, one())], request(0, 1), "a"),
        ("more GPUs", vec![node("a", 9, one()), node("b", 2, two())], request(1, 1), "b"),
        ("as many", vec![node("b", 4, two()), node("a", 4, two())], request(1, 1), "a"),
        ("as many cores", vec![node("b", 4, two()), node("a", 4, one())], request(0, 1), "a"),
    ] {
        let placed = place(&mut machine(nodes), &request).map(|(name, _)| name);
        assert_eq!(placed, Ok(best.to_owned()), "{what}");
    }
}

#[test]
fn copies_of_a_deployment_avoid_each_other_and_not_those_of_others() {
    let mut machine = machine(vec![node("a", 64, Vec::new()), node("b", 8, Vec::new())]);
    assert_eq!(place(&mut machine, &request(0, 1)), on("a", &[]));
    let first = request(0, 1);
    assert_eq!(place(&mut machine, &first), on("a", &[]), "that one is not its own");
    let second = Request { replica: ReplicaId::random(), ..first.clone() };
    assert_eq!(place(&mut machine, &second), on("b", &[]));
    let third = Request { replica: ReplicaId::random(), ..first };
    assert_eq!(place(&mut machine, &third), on("a", &[]), "as many on each: the roomier one");
}

#[test]
fn a_place_names_the_node_and_its_proxy() {
    let placement = machine(vec![mixed("a")]).place(&request(2, 0)).expect("placed");
    let expected = Placement {
        node_id: "id-a".parse().expect("an id"),
        node_name: "a".to_owned(),
        proxy: "10.0.0.1:8888".parse().expect("an address"),
        gpu_devices: vec![0, 2],
    };
    assert_eq!(placement, expected);
}

#[test]
fn whoever_asks_again_has_given_the_former_place_back() {
    let mut machine = machine(vec![node("a", 4, vec![gpu(0, "A", 40)])]);
    let request = request(1, 4);
    assert_eq!(place(&mut machine, &request), on("a", &[0]));
    assert_eq!(place(&mut machine, &request), on("a", &[0]));
    assert_eq!(machine.reserved(), 1);
}

#[test]
fn places_from_before_a_restart_are_taken() {
    let mut machine = machine(vec![node("a", 4, vec![gpu(0, "A", 40), gpu(1, "A", 40)])]);
    let held = request(1, 3);
    let placement = Placement {
        node_id: "id-a".parse().expect("an id"),
        node_name: "a".to_owned(),
        proxy: "10.0.0.1:8888".parse().expect("an address"),
        gpu_devices: vec![0],
    };
    machine.restore(held.replica, held.deployment, &placement, 3);
    assert_eq!(machine.reserved(), 1);
    assert_eq!(place(&mut machine, &request(1, 1)), on("a", &[1]));
    assert!(place(&mut machine, &request(0, 1)).is_err(), "no core is left");
    assert_eq!(machine.reserved(), 2);
}

#[test]
fn what_a_deployment_no_longer_holds_is_free_and_nobody_else_loses_anything() {
    let mut machine = machine(vec![node("a", 3, Vec::new())]);
    let (kept, other, waits) = (request(0, 1), request(0, 1), request(0, 2));
    let dropped = Request { replica: ReplicaId::random(), ..kept.clone() };
    let placement = machine.place(&kept).expect("placed");
    for request in [&dropped, &other] {
        assert_eq!(place(&mut machine, request), on("a", &[]));
    }
    assert!(place(&mut machine, &waits).is_err());
    let both = [(kept.replica, Some(placement.clone())), (dropped.replica, None)];
    assert_eq!(machine.holds(kept.deployment, &both, 1), BTreeSet::new(), "nothing is free");
    assert_eq!(machine.reserved(), 3);
    let woken = machine.holds(kept.deployment, &[(kept.replica, Some(placement))], 1);
    assert_eq!(woken, BTreeSet::from([waits.deployment]));
    assert_eq!(machine.reserved(), 2, "its own that it kept, and the other's");
    assert!(place(&mut machine, &waits).is_err(), "two cores are taken of three");
    assert_eq!(machine.release(other.replica), BTreeSet::from([waits.deployment]));
    assert_eq!(place(&mut machine, &waits), on("a", &[]));
}

#[test]
fn a_forgotten_node_takes_nobody() {
    let mut machine = machine(vec![node("a", 4, Vec::new())]);
    machine.node_gone(&"id-a".parse().expect("an id"));
    let refusal = "no node has joined yet; start nebula-agent on one";
    assert_eq!(place(&mut machine, &request(0, 0)), Err(refusal.to_owned()));
}

#[test]
fn each_deployment_that_waits_is_woken_once_when_a_node_changes_or_a_place_is_given_back() {
    let mut machine = machine(vec![node("a", 1, Vec::new())]);
    let (holds, first, second) = (request(0, 1), request(0, 1), request(0, 2));
    assert_eq!(place(&mut machine, &holds), on("a", &[]));
    assert_eq!(machine.waiting(), 0);
    for waits in [&first, &first, &second] {
        assert!(place(&mut machine, waits).is_err());
    }
    assert_eq!(machine.waiting(), 2);
    let both = BTreeSet::from([first.deployment, second.deployment]);
    assert_eq!(machine.node_changed(node("a", 1, Vec::new())), BTreeSet::new(), "nothing changed");
    assert_eq!(machine.node_changed(node("a", 2, Vec::new())), both);
    assert_eq!(machine.node_changed(node("a", 1, Vec::new())), BTreeSet::new(), "nobody waits any more");
    assert!(place(&mut machine, &first).is_err());
    assert_eq!(machine.release(first.replica), BTreeSet::new(), "it had no place");
    assert_eq!(machine.release(holds.replica), BTreeSet::from([first.deployment]));
    assert_eq!((machine.reserved(), machine.waiting()), (0, 0));
}

#[test]
fn a_refusal_names_five_nodes_and_counts_the_others() {
    for (nodes, more) in [(5, ""), (6, "; and 1 more"), (8, "; and 3 more")] {
        let names: Vec<String> = (0..nodes).map(|n| format!("n{n}")).collect();
        let mut machine = machine(names.iter().map(|name| node(name, 0, Vec::new())).collect());
        let named: Vec<String> =
            names.iter().take(5).map(|name| format!("{name}: 0 of 0 cores free, 1 wanted")).collect();
        let expected = format!("no node fits: {}{more}", named.join("; "));
        assert_eq!(place(&mut machine, &request(0, 1)), Err(expected));
    }
}
