//! Which nodes fit, which of them is best, and what a refusal says.

use super::fixtures::*;
use super::*;
use crate::domain::deployment::{GpuNeed, Policy};
use crate::domain::node::{GpuUse, Scheduling};

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
        need(&mut request).shape.node = Some(wanted.to_owned());
        let placed_there = place(&mut machine(vec![node("a", 8, Vec::new())]), &request);
        let unknown =
            || format!("no node is called \"{wanted}\"; `nebulactl nodes list` shows those there are");
        assert_eq!(placed_there.err(), (!placed).then(unknown), "{wanted}");
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
        need(&mut request).shape.labels =
            labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(reason(node("a", 8, Vec::new()), &request).as_deref(), expected, "{labels:?}");
    }
}

#[test]
fn a_node_that_names_its_runtimes_runs_no_others_unless_a_program_is_brought_along() {
    for (runtimes, command, expected) in [
        (vec![], "", None),
        (vec!["vllm", "sim"], "", None),
        (vec!["vllm"], "", Some("does not run sim")),
        (vec!["vllm"], "./serve", None),
        (vec![], "./serve", None),
    ] {
        let mut update = node("a", 8, Vec::new());
        update.node.capabilities.supported_runtimes = runtimes.iter().map(|r| (*r).to_owned()).collect();
        let mut request = request(0, 0);
        if !command.is_empty() {
            need(&mut request).shape.runtime = None;
        }
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
        need(&mut request).shape.gpu = GpuNeed { count, kind, memory_bytes: gib * GIB };
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
    let second = another(&first);
    assert_eq!(place(&mut machine, &second), on("b", &[]));
    let third = another(&first);
    assert_eq!(place(&mut machine, &third), on("a", &[]), "as many on each: the roomier one");
}

#[test]
fn copies_that_are_to_go_keep_no_other_away() {
    let nodes = ["a", "b", "c"].map(|name| node(name, 8, Vec::new()));
    let mut machine = machine(nodes.to_vec());
    let old: Vec<Request> =
        std::iter::successors(Some(request(0, 1)), |last| Some(another(last))).take(3).collect();
    let names = |machine: &mut Machine, requests: &[Request]| -> Vec<String> {
        requests.iter().map(|request| place(machine, request).expect("placed").0).collect()
    };
    assert_eq!(names(&mut machine, &old), ["a", "b", "c"]);
    // Each leaves when its successor answers.
    let going: Vec<ReplicaId> = old.iter().map(|one| one.replica).collect();
    let mut found = Vec::new();
    for old in &old {
        let new = Request { going: going.clone(), ..another(old) };
        found.extend(names(&mut machine, &[new]));
        machine.release(old.replica);
    }
    found.sort_unstable();
    assert_eq!(found, ["a", "b", "c"]);
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
    machine.holds(held.deployment, &[Hold { replica: held.replica, place: Some(placement), cores: 3 }]);
    assert_eq!(machine.reserved(), 1);
    assert_eq!(place(&mut machine, &request(1, 1)), on("a", &[1]));
    assert!(place(&mut machine, &request(0, 1)).is_err(), "no core is left");
    assert_eq!(machine.reserved(), 2);
}

#[test]
fn a_forgotten_node_takes_nobody() {
    let mut machine = machine(vec![node("a", 4, Vec::new())]);
    machine.node_gone(&"id-a".parse().expect("an id"));
    let refusal = "no node has joined yet; start nebula-agent on one";
    assert_eq!(place(&mut machine, &request(0, 0)), Err(refusal.to_owned()));
}

#[test]
fn a_refusal_names_five_nodes_and_counts_the_others() {
    for (nodes, more) in [
        (5, ""),
        (6, "; and 1 more: 1 without enough free cores"),
        (8, "; and 3 more: 3 without enough free cores"),
    ] {
        let names: Vec<String> = (0..nodes).map(|n| format!("n{n}")).collect();
        let mut machine = machine(names.iter().map(|name| node(name, 0, Vec::new())).collect());
        let named: Vec<String> =
            names.iter().take(5).map(|name| format!("{name}: 0 of 0 cores free, 1 wanted")).collect();
        let expected = format!("no node fits: {}{more}", named.join("; "));
        assert_eq!(place(&mut machine, &request(0, 1)), Err(expected));
    }
}

#[test]
fn the_others_are_counted_by_reason_and_those_that_are_not_asked_for_are_not_named() {
    let mut nodes: Vec<NodeUpdate> = (0..6).map(|n| node(&format!("n{n}"), 0, Vec::new())).collect();
    nodes.extend((6..9).map(|n| offline(node(&format!("n{n}"), 8, Vec::new()))));
    let mut machine = machine(nodes);
    let refusal = place(&mut machine, &request(0, 1)).expect_err("nothing fits");
    let tail = "; and 4 more: 1 without enough free cores, 3 offline";
    assert!(refusal.ends_with(tail), "{refusal}");
    let mut pinned = request(0, 1);
    need(&mut pinned).shape.node = Some("n8".to_owned());
    let refusal = place(&mut machine, &pinned).expect_err("it is offline");
    assert_eq!(refusal, "no node fits: n8: is offline");
}

#[test]
fn gpus_that_others_use_or_that_are_ill_are_out() {
    let fits = |usage: Vec<GpuUse>, gib: u64| {
        let mut machine = machine(vec![node("a", 8, gpus(2))]);
        machine.usage_changed(&node_id("a"), uses(usage));
        let mut request = request(1, 0);
        need(&mut request).shape.gpu.memory_bytes = gib * GIB;
        place(&mut machine, &request)
    };
    let refused = |why: &str| Err(format!("no node fits: a: {why}"));
    for (usage, gib, expected) in [
        (vec![used(0, 20)], 0, on("a", &[0])),
        (vec![used(0, 21)], 0, on("a", &[1])),
        (vec![used(0, 21)], 19, on("a", &[0])),
        (vec![used(0, 21)], 20, on("a", &[1])),
        (vec![ill(0, "fell off the bus")], 0, on("a", &[1])),
        (
            vec![used(0, 1), ill(1, "fell off the bus")],
            40,
            refused("0 of 2 GPUs are free and fit, 1 of one type wanted (GPU 1: fell off the bus)"),
        ),
        (
            vec![used(0, 21), used(1, 39)],
            0,
            refused(
                "0 of 2 GPUs are free and fit, 1 of one type wanted (others use most of the memory of 2)",
            ),
        ),
    ] {
        assert_eq!(fits(usage.clone(), gib), expected, "{usage:?} {gib} GiB");
    }
}

#[test]
fn who_must_fetch_needs_disk_for_the_weights_and_some_more() {
    for (usage, weights, refusal) in [
        (Usage::default(), Some(100), None),
        (disk(2, &[]), None, Some("2 GiB of disk are free, 3 GiB wanted to fetch the model")),
        (disk(3, &[]), None, None),
        (disk(11, &[]), Some(10), Some("11 GiB of disk are free, 12 GiB wanted to fetch the model")),
        (disk(12, &[]), Some(10), None),
        (disk(0, &["hf://a/b"]), Some(10), None),
    ] {
        let mut machine = machine(vec![node("a", 8, Vec::new())]);
        machine.usage_changed(&node_id("a"), usage.clone());
        let mut request = request(0, 0);
        need(&mut request).fetches = Some("hf://a/b".to_owned());
        need(&mut request).weights_bytes = weights.map(|gib| gib * GIB);
        let said = place(&mut machine, &request).err();
        assert_eq!(said, refusal.map(|why| format!("no node fits: a: {why}")), "{usage:?} {weights:?}");
        need(&mut request).fetches = None;
        assert!(place(&mut machine, &request).is_ok(), "{usage:?}");
    }
}

#[test]
fn each_policy_takes_the_node_that_it_says() {
    let nodes = || {
        vec![node("a", 16, gpus(4)), node("b", 4, gpus(8)), node("c", 8, gpus(2)), node("d", 8, Vec::new())]
    };
    for (policy, gpus, cores, best) in [
        (Policy::Default, 1, 1, "b"),
        (Policy::Default, 0, 1, "a"),
        (Policy::Binpack, 1, 1, "c"),
        (Policy::Binpack, 3, 1, "a"),
        (Policy::Binpack, 0, 1, "b"),
        (Policy::Binpack, 0, 5, "d"),
        (Policy::Spread, 1, 1, "b"),
    ] {
        let mut request = request(gpus, cores);
        need(&mut request).policy = policy;
        let placed = place(&mut machine(nodes()), &request).map(|(name, _)| name);
        assert_eq!(placed, Ok(best.to_owned()), "{policy:?} {gpus} {cores}");
    }
    // Spread: where others have fewest, then the roomiest; copies apart before all.
    let mut machine = machine(nodes());
    let mut spread = request(1, 0);
    need(&mut spread).policy = Policy::Spread;
    let mut packed = spread.clone();
    packed.deployment = DeploymentId::random();
    need(&mut packed).policy = Policy::Binpack;
    let names = |machine: &mut Machine, request: &Request| {
        let placed = |_| place(machine, &another(request)).map(|(name, _)| name).unwrap_or_default();
        (0..3).map(placed).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut machine, &packed), ["c", "c", "a"]);
    assert_eq!(names(&mut machine, &spread), ["b", "a", "b"]);
}

#[test]
fn nodes_that_hold_the_weights_are_better_and_copies_stay_apart_nevertheless() {
    let mut machine =
        machine(vec![node("a", 64, Vec::new()), node("b", 8, Vec::new()), node("c", 8, Vec::new())]);
    for holder in ["b", "c"] {
        machine.usage_changed(&node_id(holder), disk(100, &["hf://x/y", "hf://a/b"]));
    }
    let mut first = request(0, 1);
    need(&mut first).fetches = Some("hf://a/b".to_owned());
    let placed = |machine: &mut Machine, request: &Request| place(machine, request).map(|(name, _)| name);
    for expected in ["b", "c", "a", "b"] {
        assert_eq!(placed(&mut machine, &another(&first)), Ok(expected.to_owned()));
    }
    first.deployment = DeploymentId::random();
    need(&mut first).policy = Policy::Binpack;
    for _ in 0..3 {
        assert_eq!(placed(&mut machine, &another(&first)), Ok("b".to_owned()), "packed beside its weights");
    }
}

#[test]
fn the_hint_prefers_and_never_refuses() {
    let small = || node("a", 8, vec![gpu(0, "T4", 16), gpu(1, "T4", 16), gpu(2, "T4", 16)]);
    let large = || node("b", 8, vec![gpu(0, "A100", 80), gpu(1, "T4", 16), gpu(2, "T4", 16)]);
    let hinted = |count: u32, gib: u64| {
        let mut request = request(count, 0);
        need(&mut request).hint_bytes = Some(gib * GIB);
        request
    };
    let both = || machine(vec![small(), large()]);
    assert_eq!(place(&mut both(), &hinted(1, 16)), on("a", &[0]));
    assert_eq!(place(&mut both(), &hinted(1, 17)), on("b", &[0]));
    assert_eq!(place(&mut both(), &hinted(2, 32)), on("a", &[0, 1]));
    assert_eq!(place(&mut both(), &hinted(1, 500)), on("a", &[0]), "as if there were none");
    let mut said = hinted(1, 17);
    need(&mut said).shape.gpu.memory_bytes = 8 * GIB;
    assert_eq!(place(&mut both(), &said), on("a", &[0]), "what the user says counts");
}

#[test]
fn an_explanation_says_it_of_every_node_and_reserves_nothing() {
    let mut nodes: Vec<NodeUpdate> = (0..300).map(|n| node(&format!("n{n:03}"), 0, Vec::new())).collect();
    nodes.extend((0..12).map(|n| node(&format!("z{n:02}"), 10 + n, Vec::new())));
    let mut machine = machine(nodes);
    let told = machine.explain(&request(0, 1));
    let best: Vec<String> = (2..12).rev().map(|n| format!("z{n:02}")).collect();
    assert_eq!(told.fits, best);
    assert_eq!((told.refused.len(), told.more), (200, 100));
    let first = told.refused.first().expect("one of them");
    assert_eq!((first.node_name.as_str(), first.reason.as_str()), ("n000", "0 of 0 cores free, 1 wanted"));
    assert_eq!(first.node_id, node_id("n000"));
    assert_eq!((machine.reserved(), machine.waiting()), (0, 0));
}
