//! Who belongs: registration, leave, the operator's will and forgetting, each with all that follows from it.

use nebula_core::timing::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, RESTART_GRACE};

use super::*;

const TIMING: Timing = Timing {
    heartbeat_interval: HEARTBEAT_INTERVAL,
    heartbeat_timeout: HEARTBEAT_TIMEOUT,
    restart_grace: RESTART_GRACE,
};

fn id(name: &str) -> NodeId {
    name.parse().expect("an id")
}

fn registration(name: &str) -> Box<Registration> {
    Box::new(Registration {
        node_id: id(name),
        name: format!("gpu-{name}"),
        version: "0.1.0".to_owned(),
        address: "10.0.0.1:9091".parse().expect("an address"),
        proxy_port: 8888,
        capabilities: Capabilities { cpu_cores: 8, ..Capabilities::default() },
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        boot_id: "boot-1".to_owned(),
    })
}

fn at(secs: u64) -> Tick {
    Tick(secs * 1_000)
}

fn load(nodes: Vec<Node>) -> Machine {
    Machine::load(TIMING, "example.com".to_owned(), nodes, at(0))
}

fn register(machine: &mut Machine, registration: Box<Registration>, wall: u64) -> Vec<Effect> {
    machine.step(Event::Register(ReplyTo(1), registration, WallTime(wall)), at(1))
}

/// A machine with one online node.
fn with_one(name: &str) -> Machine {
    let mut machine = load(Vec::new());
    register(&mut machine, registration(name), 5);
    machine
}

fn node(machine: &Machine, name: &str) -> Node {
    machine.node(&id(name)).expect("known").node
}

fn stored(node: &Node) -> Effect {
    Effect::Persist(Write::PutNode(Box::new(node.clone())))
}

fn announced(node: &Node, availability: Availability) -> Effect {
    Effect::Announce(Box::new(NodeUpdate { node: node.clone(), availability }))
}

fn done(to: u64, update: Option<NodeUpdate>) -> Effect {
    Effect::Reply(ReplyTo(to), Ok(Reply::Done(update.map(Box::new))))
}

fn refused(effects: &[Effect]) -> Option<(ErrorClass, &str)> {
    match effects {
        [Effect::Reply(_, Err(error))] => Some((error.class, error.message.as_str())),
        _ => None,
    }
}

#[test]
fn a_new_node_is_stored_gets_a_session_and_is_announced_before_it_is_answered() {
    let mut machine = load(Vec::new());
    let effects = register(&mut machine, registration("550e8400-e29b-41d4-a716-446655440000"), 5);
    let node = Node {
        id: id("550e8400-e29b-41d4-a716-446655440000"),
        name: "gpu-550e8400-e29b-41d4-a716-446655440000".to_owned(),
        version: "0.1.0".to_owned(),
        address: "10.0.0.1:9091".parse().expect("an address"),
        proxy_port: 8888,
        subdomain: "550e8400.example.com".to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        capabilities: Capabilities { cpu_cores: 8, ..Capabilities::default() },
        boot_id: "boot-1".to_owned(),
        scheduling: Scheduling::Schedulable,
        presence: Presence::Expected,
        created_at: WallTime(5),
    };
    let registered = Registered { node_id: node.id.clone(), subdomain: node.subdomain.clone() };
    assert_eq!(
        effects,
        [
            stored(&node),
            Effect::OpenSession(node.id.clone()),
            announced(&node, Availability::Online),
            Effect::Reply(ReplyTo(1), Ok(Reply::Registered(registered))),
        ]
    );
    assert_eq!(
        machine.nodes().collect::<Vec<_>>(),
        [NodeUpdate { node, availability: Availability::Online }]
    );
}

#[test]
fn a_node_without_a_name_is_called_by_its_subdomain() {
    let mut machine = load(Vec::new());
    let nameless =
        Registration { name: String::new(), ..*registration("550e8400-e29b-41d4-a716-446655440000") };
    register(&mut machine, Box::new(nameless), 5);
    assert_eq!(node(&machine, "550e8400-e29b-41d4-a716-446655440000").name, "550e8400");
}

#[test]
fn two_nodes_never_share_a_subdomain_and_a_forgotten_one_is_free_again() {
    let (first, second) = ("550e8400-e29b-41d4-a716-446655440000", "550e8400-0000-41d4-a716-446655440000");
    let mut machine = with_one(first);
    register(&mut machine, registration(second), 5);
    assert_eq!(node(&machine, first).subdomain, "550e8400.example.com");
    assert_eq!(node(&machine, second).subdomain, "550e84000000.example.com");
    for name in [first, second] {
        machine.step(Event::Deregister(ReplyTo(2), id(name)), at(2));
        machine.step(Event::Forget(ReplyTo(3), id(name)), at(3));
    }
    register(&mut machine, registration(second), 5);
    assert_eq!(node(&machine, second).subdomain, "550e8400.example.com");
}

#[test]
fn remembered_names_follow_the_domain_and_keep_their_label() {
    let ids = ["550e8400-e29b-41d4-a716-446655440000", "550e8400-0000-41d4-a716-446655440000", "n1", "n2"];
    let mut machine = load(Vec::new());
    ids.into_iter().for_each(|name| {
        register(&mut machine, registration(name), 5);
    });
    let stored: Vec<Node> = machine.nodes().map(|update| update.node).collect();
    let loaded = |domain: &str, nodes: &[Node]| -> BTreeMap<String, String> {
        let machine = Machine::load(TIMING, domain.to_owned(), nodes.to_vec(), at(0));
        machine.nodes().map(|NodeUpdate { node, .. }| (node.id.to_string(), node.subdomain)).collect()
    };
    let before = loaded("example.com", &stored);
    assert_eq!(before, stored.iter().map(|node| (node.id.to_string(), node.subdomain.clone())).collect());
    for domain in ["gw.example.org", "sub.example.com", "com"] {
        let after = loaded(domain, &stored);
        for (name, was) in &before {
            let label = was.split('.').next().expect("a label");
            assert_eq!(after[name], format!("{label}.{domain}"));
        }
    }
    // Names that came from two domains, or from none, do not meet.
    let mut mixed = stored;
    for (node, name) in mixed.iter_mut().zip(["n.example.com", "n.other.org", "n.gw.org", ""]) {
        node.subdomain = name.to_owned();
    }
    let after = loaded("gw.org", &mixed);
    assert_eq!(after[mixed[2].id.as_str()], "n.gw.org", "who is there already stays");
    let names: BTreeSet<&String> = after.values().collect();
    assert_eq!(names.len(), ids.len(), "{after:?}");
    assert!(names.iter().all(|name| name.ends_with(".gw.org") && !name.starts_with('.')), "{after:?}");
}

#[test]
fn a_new_registration_replaces_what_the_agent_says_and_keeps_what_nebula_and_the_operator_said() {
    let mut machine = with_one("n1");
    let before = node(&machine, "n1");
    machine.step(Event::Schedule(ReplyTo(2), id("n1"), Scheduling::Draining), at(2));
    let again = Registration {
        name: "renamed".to_owned(),
        version: "0.2.0".to_owned(),
        address: "10.0.0.2:9091".parse().expect("an address"),
        proxy_port: 9999,
        capabilities: Capabilities { cpu_cores: 16, ..Capabilities::default() },
        labels: BTreeMap::new(),
        boot_id: "boot-2".to_owned(),
        node_id: id("n1"),
    };
    register(&mut machine, Box::new(again), 77);
    let expected = Node {
        name: "renamed".to_owned(),
        version: "0.2.0".to_owned(),
        address: "10.0.0.2:9091".parse().expect("an address"),
        proxy_port: 9999,
        capabilities: Capabilities { cpu_cores: 16, ..Capabilities::default() },
        labels: BTreeMap::new(),
        boot_id: "boot-2".to_owned(),
        scheduling: Scheduling::Draining,
        ..before
    };
    assert_eq!(node(&machine, "n1"), expected);
}

#[test]
fn a_node_that_leaves_is_offline_at_once_and_online_when_it_registers_again() {
    let mut machine = with_one("n1");
    let effects = machine.step(Event::Deregister(ReplyTo(2), id("n1")), at(2));
    let gone = node(&machine, "n1");
    assert_eq!(gone.presence, Presence::Deregistered);
    let update = NodeUpdate { node: gone.clone(), availability: Availability::Offline };
    assert_eq!(effects, [stored(&gone), announced(&gone, Availability::Offline), done(2, Some(update))]);
    register(&mut machine, registration("n1"), 9);
    let back = machine.node(&id("n1")).expect("known");
    assert_eq!((back.availability, back.node.presence), (Availability::Online, Presence::Expected));
}

#[test]
fn a_stranger_may_leave_as_often_as_it_likes() {
    assert_eq!(load(Vec::new()).step(Event::Deregister(ReplyTo(2), id("n1")), at(2)), [done(2, None)]);
}

#[test]
fn the_operators_will_is_stored_announced_and_answered_with_the_node() {
    for scheduling in Scheduling::ALL {
        let mut machine = with_one("n1");
        let effects = machine.step(Event::Schedule(ReplyTo(2), id("n1"), scheduling), at(2));
        let now = node(&machine, "n1");
        assert_eq!(now.scheduling, scheduling);
        let update = NodeUpdate { node: now.clone(), availability: Availability::Online };
        assert_eq!(effects, [stored(&now), announced(&now, Availability::Online), done(2, Some(update))]);
    }
}

#[test]
fn a_node_is_forgotten_unless_it_is_online() {
    let online = "node \"gpu-n1\" is online; stop its agent first, or it would register again";
    for (what, silent, leaves, refusal) in [
        ("online", 0, false, Some((ErrorClass::Conflict, online))),
        ("suspect", 45, false, None),
        ("offline", 90, false, None),
        ("left", 0, true, None),
    ] {
        let mut machine = with_one("n1");
        for second in 1..=silent {
            machine.step(Event::Timer, at(1 + second));
        }
        if leaves {
            machine.step(Event::Deregister(ReplyTo(2), id("n1")), at(1));
        }
        let effects = machine.step(Event::Forget(ReplyTo(3), id("n1")), at(1 + silent));
        assert_eq!(refused(&effects), refusal, "{what}");
        if refusal.is_none() {
            let gone = Effect::Persist(Write::DeleteNode(id("n1")));
            assert_eq!(effects, [gone, Effect::CloseSession(id("n1")), done(3, None)], "{what}");
            assert_eq!(machine.node(&id("n1")), None, "{what}");
            let counts = [Availability::Online, Availability::Suspect, Availability::Offline];
            assert_eq!(counts.map(|availability| machine.count(availability)), [0, 0, 0], "{what}");
        }
    }
}

#[test]
fn there_is_nothing_to_be_done_to_a_node_that_is_not_there() {
    let expected = Some((ErrorClass::NotFound, "there is no node \"n9\""));
    let mut machine = with_one("n1");
    let scheduled = machine.step(Event::Schedule(ReplyTo(2), id("n9"), Scheduling::Cordoned), at(2));
    assert_eq!(refused(&scheduled), expected);
    assert_eq!(refused(&machine.step(Event::Forget(ReplyTo(3), id("n9")), at(2))), expected);
    assert_eq!((machine.node(&id("n9")), machine.heard_at(&id("n9"))), (None, None));
}

#[test]
fn only_nodes_that_should_be_heard_are_waited_for_after_a_restart() {
    for (presence, availability) in [
        (Presence::Expected, Availability::Suspect),
        (Presence::Offline, Availability::Offline),
        (Presence::Deregistered, Availability::Offline),
    ] {
        let machine = load(vec![Node { presence, ..node(&with_one("n1"), "n1") }]);
        let update = machine.node(&id("n1")).expect("known");
        assert_eq!((update.availability, machine.count(availability)), (availability, 1), "{presence:?}");
        assert_eq!(machine.heard_at(&id("n1")), None, "not in this run");
    }
}

#[test]
fn an_offline_node_that_is_heard_again_is_stored_as_expected() {
    let mut machine = load(vec![Node { presence: Presence::Offline, ..node(&with_one("n1"), "n1") }]);
    let (verdict, effects) = machine.heartbeat(&id("n1"), "boot-1", at(3));
    let back = node(&machine, "n1");
    assert_eq!((verdict, back.presence), (Verdict::Known, Presence::Expected));
    assert_eq!(effects, [stored(&back), announced(&back, Availability::Online)]);
    assert_eq!(machine.heard_at(&id("n1")), Some(at(3)));
}

#[test]
fn a_drain_takes_nothing_back_that_the_operator_wanted_since() {
    use Scheduling::{Cordoned, Drained, Draining, Schedulable};
    for (is, drain_makes, then) in [
        (Schedulable, Draining, Draining),
        (Cordoned, Draining, Draining),
        (Drained, Draining, Draining),
        (Draining, Draining, Draining),
        (Draining, Drained, Drained),
        (Draining, Cordoned, Cordoned),
        (Draining, Schedulable, Schedulable),
        (Schedulable, Drained, Schedulable),
        (Schedulable, Cordoned, Schedulable),
        (Cordoned, Schedulable, Cordoned),
        (Drained, Cordoned, Drained),
    ] {
        let mut machine = with_one("n1");
        machine.step(Event::Schedule(ReplyTo(2), id("n1"), is), at(2));
        let effects = machine.step(Event::Drain(ReplyTo(3), id("n1"), drain_makes), at(3));
        let after = node(&machine, "n1");
        assert_eq!(after.scheduling, then, "{is:?} {drain_makes:?}");
        let update = NodeUpdate { node: after.clone(), availability: Availability::Online };
        let answer = done(3, Some(update));
        let changed = vec![stored(&after), announced(&after, Availability::Online)];
        let expected: Vec<Effect> =
            if is == then { vec![answer] } else { changed.into_iter().chain([answer]).collect() };
        assert_eq!(effects, expected, "{is:?} {drain_makes:?}");
    }
    let unknown = with_one("n1").step(Event::Drain(ReplyTo(3), id("n9"), Draining), at(2));
    assert_eq!(refused(&unknown).map(|(class, _)| class), Some(ErrorClass::NotFound));
}
