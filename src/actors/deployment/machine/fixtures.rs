//! Deployments, replicas and nodes for the tests of the machine.

use crate::domain::node::Scheduling;
use nebula_core::ids::DeploymentId;
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::Secret;

use super::*;
use crate::domain::report::{ReplicaReport, ReportedStatus, Seen};

/// When the deployment was last changed.
pub(super) const UPDATED: WallTime = WallTime(5_000_000);

/// Long after the last change.
pub(super) const NOW: Now = Now { tick: Tick(1_000_000), wall: WallTime(u64::MAX) };

/// When `intend` says what is wanted: right after the last change.
pub(super) const INTENDED: Now = Now { tick: NOW.tick, wall: WallTime(UPDATED.0 + 1) };

pub(super) fn deployment_id() -> DeploymentId {
    DeploymentId::from_bytes([1; 16])
}

pub(super) fn node_id(name: &str) -> NodeId {
    name.parse().expect("an id")
}

pub(super) fn replica_id(n: u8) -> ReplicaId {
    ReplicaId::from_bytes([n; 16])
}

pub(super) fn placement(node: &str) -> Placement {
    Placement {
        node_id: node_id(node),
        node_name: node.to_owned(),
        proxy: format!("{node}:8888").parse().expect("an address"),
        gpu_devices: Vec::new(),
    }
}

/// A replica of generation 1 that runs on a node.
pub(super) fn running(index: u8, node: &str) -> Replica {
    Replica {
        revision: Generation::FIRST,
        id: replica_id(index),
        index: u32::from(index),
        generation: Generation(1),
        placement: Some(placement(node)),
        phase: Phase::Running,
        leaving: false,
        container_id: "c1".to_owned(),
        port: 30_000,
        message: String::new(),
        restarts: 0,
        seen: Seen::default(),
    }
}

/// A replica that has no place yet.
pub(super) fn pending(index: u8) -> Replica {
    Replica {
        generation: Generation(0),
        placement: None,
        phase: Phase::Pending,
        container_id: String::new(),
        port: 0,
        ..running(index, "none")
    }
}

/// A deployment of generation 1 that wants just these replicas to run.
pub(super) fn deployment(replicas: Vec<Replica>) -> Deployment {
    let count = u32::try_from(replicas.len()).expect("few");
    Deployment {
        revision: Generation::FIRST,
        previous: None,
        old_token: None,
        hint: None,
        id: deployment_id(),
        name: "demo".to_owned(),
        spec: DeploymentSpec { replicas: count, ..DeploymentSpec::plain("demo", RuntimeKind::Sim) },
        desired: Desired::Running,
        generation: Generation(1),
        token: TokenHash::of("nbtok_x"),
        gateway_token: Secret::from_text("nbgw_x"),
        created_at: WallTime(1),
        updated_at: UPDATED,
        replicas,
    }
}

/// A node's report of a replica as it stands in `running`.
pub(super) fn reported(index: u8, generation: u64, status: ReportedStatus) -> ReplicaReport {
    ReplicaReport {
        deployment_id: deployment_id(),
        replica_id: replica_id(index),
        generation: Generation(generation),
        status,
        container_id: "c1".to_owned(),
        port: 30_000,
        message: String::new(),
        restarts: 0,
        exit_code: None,
        seen: Seen::default(),
    }
}

/// An online node after so many reports.
pub(super) fn facts(node: &str, report_seq: u64, replicas: Vec<ReplicaReport>) -> NodeFacts {
    NodeFacts {
        scheduling: Scheduling::Schedulable,
        node_id: node_id(node),
        node_name: node.to_owned(),
        availability: Availability::Online,
        proxy: format!("{node}:8888").parse().expect("an address"),
        report_seq,
        replicas,
    }
}

pub(super) fn offline(node: &str) -> NodeFacts {
    NodeFacts { availability: Availability::Offline, ..facts(node, 1, Vec::new()) }
}

/// A machine whose actor has started long after the last change.
pub(super) fn started(dep: Deployment) -> Machine {
    let mut machine = Machine::load(dep);
    machine.step(Event::Started, NOW);
    machine
}

pub(super) fn intend(machine: &mut Machine, intent: Intent) -> Vec<Effect> {
    machine.step(Event::Intent(ReplyTo(1), intent), INTENDED)
}

/// What the nodes are told: node, replica, generation and the command's name.
pub(super) fn sent(effects: &[Effect]) -> Vec<(String, ReplicaId, u64, &'static str)> {
    let send = |effect: &Effect| match effect {
        Effect::Send(node, id, generation, action) => {
            Some((node.to_string(), *id, generation.0, action.as_str()))
        }
        _ => None,
    };
    effects.iter().filter_map(send).collect()
}

/// The same with the names alone, for tests with one replica.
pub(super) fn told(effects: &[Effect]) -> Vec<&'static str> {
    sent(effects).into_iter().map(|(_, _, _, action)| action).collect()
}

/// For which replicas places are sought.
pub(super) fn sought(effects: &[Effect]) -> Vec<(ReplicaId, u64)> {
    let place = |effect: &Effect| match effect {
        Effect::Place(id, generation) => Some((*id, generation.0)),
        _ => None,
    };
    effects.iter().filter_map(place).collect()
}

/// Which replicas' places are given back.
pub(super) fn released(effects: &[Effect]) -> Vec<ReplicaId> {
    let release = |effect: &Effect| match effect {
        Effect::Release(id) => Some(*id),
        _ => None,
    };
    effects.iter().filter_map(release).collect()
}

/// The replica at this place in the list.
pub(super) fn replica(machine: &Machine, at: usize) -> &Replica {
    &machine.deployment().replicas[at]
}
