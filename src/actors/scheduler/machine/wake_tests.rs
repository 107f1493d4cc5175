//! What a place that is taken or given back does to those who wait, and how fast lost nodes' replicas may move.

use super::fixtures::*;
use super::*;
use crate::domain::deployment::GpuNeed;

/// What `holds` is told of a replica that has a place.
fn held(request: &Request, place: &Placement) -> Hold {
    Hold { replica: request.replica, place: Some(place.clone()), cores: request.need.shape.cores }
}

#[test]
fn of_a_hundred_that_ask_for_the_last_gpu_one_gets_it_and_the_next_when_it_is_free() {
    let mut machine = machine(vec![node("a", 8, gpus(1))]);
    let all: Vec<Request> = (0..100).map(|_| request(1, 0)).collect();
    let placed: Vec<bool> = all.iter().map(|request| machine.place(request).is_ok()).collect();
    assert_eq!(placed.iter().filter(|placed| **placed).count(), 1);
    assert_eq!((machine.reserved(), machine.waiting()), (1, 99));
    // The oldest are told, few at a time, and whoever of them asks first has it.
    let woken = machine.release(all[0].replica);
    assert_eq!(woken, only(&all[1..9].iter().collect::<Vec<_>>()));
    let placed: Vec<bool> = all[1..9].iter().map(|request| machine.place(request).is_ok()).collect();
    assert_eq!(placed.iter().filter(|placed| **placed).count(), 1);
    assert!(placed[0] && machine.woken().is_empty(), "nothing is left for the others");
    assert_eq!((machine.reserved(), machine.waiting()), (1, 98));
    // Those that were in vain keep their turn.
    assert_eq!(machine.release(all[1].replica), only(&all[2..10].iter().collect::<Vec<_>>()));
}

/// A node was lost, its replica was replaced, and it comes back with it: others wait until it is gone.
#[test]
fn what_lives_on_after_it_was_given_up_keeps_its_gpu() {
    let mut machine = machine(vec![node("a", 8, gpus(1))]);
    let id = node_id("a");
    let (old, new) = (request(1, 0), request(1, 0));
    assert_eq!(place(&mut machine, &old), on("a", &[0]));
    machine.usage_changed(&id, living(&[&old]));
    machine.node_changed(offline(node("a", 8, gpus(1))));
    assert_eq!(machine.release(old.replica), only(&[]));
    assert_eq!(machine.reserved(), 0);
    assert!(machine.place(&new).is_err());
    assert_eq!(machine.node_changed(node("a", 8, gpus(1))), only(&[]), "nothing is free yet");
    assert!(machine.place(&new).is_err());
    assert_eq!(machine.usage_changed(&id, living(&[])), only(&[&new]));
    assert_eq!(place(&mut machine, &new), on("a", &[0]));
}

#[test]
fn what_lives_on_is_held_again_once_and_forgotten_with_its_node() {
    let mut machine = machine(vec![node("a", 8, gpus(2))]);
    let id = node_id("a");
    let (one, two) = (request(1, 3), request(1, 3));
    let place_of = machine.place(&one).expect("room");
    machine.usage_changed(&id, living(&[&one]));
    machine.release(one.replica);
    machine.holds(one.deployment, &[held(&one, &place_of)]);
    machine.usage_changed(&id, living(&[]));
    assert_eq!(place(&mut machine, &two), on("a", &[1]), "the first one has its GPU still");
    machine.usage_changed(&id, living(&[&one, &two]));
    machine.release(one.replica);
    machine.release(two.replica);
    machine.node_gone(&id);
    machine.node_changed(node("a", 6, gpus(2)));
    assert_eq!(place(&mut machine, &request(2, 6)), on("a", &[0, 1]), "another node, with nothing on it");
}

#[test]
fn only_who_fits_now_is_told_and_once() {
    let mut machine = machine(vec![node("a", 1, Vec::new()), node("b", 1, gpus(1))]);
    let (core, gpu, two, typed) = (request(0, 1), request(1, 0), request(0, 2), {
        let mut request = request(1, 0);
        need(&mut request).shape.gpu = GpuNeed { count: 1, kind: Some("H100".to_owned()), memory_bytes: 0 };
        request
    });
    for holds in [&core, &another(&core), &gpu] {
        assert!(machine.place(holds).is_ok());
    }
    let (waits_core, waits_gpu) = (request(0, 1), request(1, 0));
    for waits in [&waits_core, &waits_gpu, &two, &typed] {
        assert!(machine.place(waits).is_err());
    }
    assert_eq!(machine.waiting(), 4);
    assert_eq!(machine.node_changed(node("a", 1, Vec::new())), only(&[]), "nothing changed");
    assert_eq!(machine.node_changed(offline(node("a", 1, Vec::new()))), only(&[]), "less than before");
    assert_eq!(machine.release(gpu.replica), only(&[&waits_gpu]));
    assert_eq!(machine.release(gpu.replica), only(&[]), "it has no place any more");
    assert_eq!(machine.node_changed(node("a", 2, Vec::new())), only(&[&waits_core]));
    assert_eq!(machine.node_changed(node("a", 3, Vec::new())), only(&[&two]), "the other was told");
    assert_eq!(machine.node_changed(node("c", 0, vec![gpu_of("NVIDIA H100")])), only(&[&typed]));
    assert_eq!(place(&mut machine, &typed), on("c", &[0]));
    assert_eq!(machine.waiting(), 3);
}

fn gpu_of(name: &str) -> crate::domain::node::Gpu {
    super::fixtures::gpu(0, name, 80)
}

#[test]
fn when_one_that_was_told_goes_elsewhere_or_away_the_next_is() {
    let mut machine = machine(vec![node("a", 8, gpus(1))]);
    let holds = request(1, 0);
    assert!(machine.place(&holds).is_ok());
    let waits: Vec<Request> = (0..10).map(|_| request(1, 0)).collect();
    waits.iter().for_each(|request| assert!(machine.place(request).is_err()));
    assert_eq!(machine.release(holds.replica), only(&waits[..8].iter().collect::<Vec<_>>()));
    // One is deleted, another's deployment begins anew and seeks a place no longer.
    assert_eq!(machine.release(waits[0].replica), only(&[&waits[8]]));
    assert_eq!(machine.holds(waits[1].deployment, &[]), only(&[&waits[9]]));
    assert_eq!(machine.waiting(), 8);
    assert!(machine.place(&waits[9]).is_ok());
    assert_eq!(machine.woken(), only(&[]), "it is taken");
}

#[test]
fn whoever_takes_a_place_or_leaves_one_calls_the_next() {
    let mut machine = machine(vec![node("a", 20, Vec::new())]);
    let all = request(0, 20);
    assert!(machine.place(&all).is_ok());
    let waits: Vec<Request> = (0..20).map(|_| request(0, 1)).collect();
    waits.iter().for_each(|request| assert!(machine.place(request).is_err()));
    assert_eq!(machine.release(all.replica).len(), 8);
    for (request, next) in waits.iter().zip(waits.iter().skip(8).map(Some).chain([None; 8])) {
        assert!(machine.place(request).is_ok());
        assert_eq!(machine.woken(), only(&next.into_iter().collect::<Vec<_>>()));
    }
    // One that asks again gets a better place, and who wants only the former one hears of it.
    let mut pinned = request(0, 1);
    need(&mut pinned).shape.node = Some("a".to_owned());
    assert!(machine.place(&pinned).is_err());
    assert_eq!(machine.node_changed(node("b", 64, Vec::new())), only(&[]));
    assert_eq!(place(&mut machine, &waits[0]), on("b", &[]));
    assert_eq!(machine.woken(), only(&[&pinned]));
}

#[test]
fn what_a_node_uses_wakes_those_for_whom_it_makes_room() {
    let mut machine = machine(vec![node("a", 8, gpus(1))]);
    let id = node_id("a");
    assert!(machine.lacks_usage(&id) && !machine.lacks_usage(&node_id("b")));
    machine.usage_changed(&id, uses(vec![ill(0, "lost")]));
    assert!(!machine.lacks_usage(&id));
    let waits = request(1, 0);
    assert!(machine.place(&waits).is_err());
    assert_eq!(machine.usage_changed(&id, uses(vec![used(0, 30)])), only(&[]), "well, but crowded");
    assert_eq!(machine.usage_changed(&id, uses(vec![used(0, 10)])), only(&[&waits]));
    assert_eq!(place(&mut machine, &waits), on("a", &[0]));
    // The same for the disk, and for models that are there now.
    let mut fetches = request(0, 0);
    need(&mut fetches).fetches = Some("hf://a/b".to_owned());
    for usage in [disk(3, &[]), disk(0, &["hf://a/b"])] {
        machine.usage_changed(&id, disk(2, &[]));
        assert!(machine.place(&fetches).is_err());
        assert_eq!(machine.usage_changed(&id, usage), only(&[&fetches]));
    }
    assert_eq!(machine.usage_changed(&node_id("b"), disk(9, &[])), only(&[]), "nobody knows that node");
}

#[test]
fn a_gpu_that_is_not_offered_any_more_is_not_given_out_until_it_is_again() {
    let whole = node("n", 8, gpus(2));
    let mut less = whole.clone();
    less.node.capabilities.gpus.remove(0);
    let mut machine = machine(vec![whole.clone()]);
    machine.node_changed(less);
    assert_eq!(place(&mut machine, &request(1, 0)), on("n", &[1]));
    let second = request(1, 0);
    place(&mut machine, &second).expect_err("the other GPU is taken");
    assert_eq!(machine.node_changed(whole), only(&[&second]));
    assert_eq!(place(&mut machine, &second), on("n", &[0]));
}

#[test]
fn only_what_a_deployment_says_it_holds_stays_reserved() {
    let mut machine = machine(vec![node("n", 8, gpus(2))]);
    let kept = request(1, 0);
    let lost = another(&kept);
    let other = request(1, 0);
    let placement = machine.place(&kept).expect("placed");
    assert!(machine.place(&lost).is_ok());
    assert!(machine.place(&other).is_err());
    let seeks = Hold { replica: lost.replica, place: None, cores: 0 };
    assert_eq!(machine.holds(kept.deployment, &[held(&kept, &placement), seeks.clone()]), only(&[]));
    assert_eq!(machine.reserved(), 2, "who seeks keeps what it has been given");
    assert_eq!(machine.holds(kept.deployment, &[held(&kept, &placement)]), only(&[&other]));
    assert_eq!(machine.reserved(), 1);
    assert!(machine.place(&other).is_ok(), "others' places are others'");
    // A scheduler that has just started learns what no record says yet.
    let mut restarted = Machine::default();
    restarted.holds(kept.deployment, &[held(&kept, &placement), seeks]);
    assert_eq!(restarted.reserved(), 1);
    assert_eq!(restarted.holds(kept.deployment, &[]), only(&[]), "nobody waits");
    assert_eq!(restarted.reserved(), 0);
}

#[test]
fn what_is_reserved_outlives_what_is_known_of_the_node() {
    let mut machine = machine(vec![node("a", 8, gpus(2))]);
    let (first, second) = (request(1, 3), request(1, 3));
    let places = [&first, &second].map(|request| machine.place(request).expect("placed"));
    machine.node_gone(&node_id("a"));
    assert!(place(&mut machine, &request(0, 0)).is_err(), "nobody is there");
    assert_eq!(machine.release(first.replica), only(&[]));
    machine.node_changed(node("a", 8, gpus(2)));
    assert!(place(&mut machine, &request(2, 0)).is_err());
    assert_eq!(place(&mut machine, &request(1, 5)), on("a", &[0]));
    // Records may claim one GPU twice: it is free when both have given it back.
    let twice = request(1, 0);
    machine.holds(twice.deployment, &[held(&twice, &places[1])]);
    machine.release(second.replica);
    assert!(place(&mut machine, &request(1, 0)).is_err());
    machine.release(twice.replica);
    assert_eq!(place(&mut machine, &request(1, 0)), on("a", &[1]));
}

#[test]
fn lost_nodes_are_emptied_one_every_ten_seconds_and_none_while_everything_stands_still() {
    let names = ["a", "b", "c"];
    let mut machine = machine(names.map(|name| offline(node(name, 8, Vec::new()))).to_vec());
    let may = |machine: &mut Machine, name: &str, still: bool, seconds: u64| {
        machine.may_move(&node_id(name), still, Tick(seconds * 1_000))
    };
    assert!(!may(&mut machine, "a", true, 100), "the brake");
    assert!(may(&mut machine, "a", false, 101));
    assert!(!may(&mut machine, "b", false, 110));
    assert!(may(&mut machine, "a", false, 110), "granted is granted");
    assert!(!may(&mut machine, "a", true, 110), "but for the brake");
    assert!(may(&mut machine, "b", false, 111));
    assert!(!may(&mut machine, "nobody", false, 200), "not known to be offline");
    machine.node_changed(node("a", 8, Vec::new()));
    assert!(!may(&mut machine, "a", false, 200), "it is back");
    machine.node_changed(offline(node("a", 8, Vec::new())));
    assert!(may(&mut machine, "c", false, 200));
    assert!(!may(&mut machine, "a", false, 209), "its turn is a new one");
    assert!(may(&mut machine, "a", false, 210));
}
