//! What is left on the nodes that are being emptied, and why.

use nebula_core::text::cut;
use std::collections::BTreeMap;

use nebula_core::ids::{DeploymentId, NodeId};

use crate::domain::deployment::{Deployment, Desired, Phase, Placement, Replica};
use crate::domain::operation::{BLOCKED_MAX, Blocked};

/// The longest reason that is kept of one replica, in bytes.
const WHY_BYTES_MAX: usize = 200;

/// What is left on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// So many replicas.
    pub count: u32,
    /// The first of them.
    pub blocked: Vec<Blocked>,
}

/// What deployments have on certain nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    left: BTreeMap<NodeId, Left>,
    /// The first deployments that have not said what they have. Each may have something anywhere.
    unseen: Vec<Blocked>,
}

impl Survey {
    /// A survey of these nodes.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> Self {
        let left = nodes.into_iter().map(|node| (node.clone(), Left::default())).collect();
        Self { left, unseen: Vec::new() }
    }

    /// Adds what a deployment says of itself.
    pub fn add(&mut self, dep: &Deployment) {
        for replica in &dep.replicas {
            let Some(place) = &replica.placement else { continue };
            let Some(left) = self.left.get_mut(&place.node_id) else { continue };
            left.count = left.count.saturating_add(1);
            if left.blocked.len() < BLOCKED_MAX {
                left.blocked.push(Blocked {
                    deployment: dep.name.clone(),
                    deployment_id: dep.id,
                    replica: Some(replica.id),
                    why: cut(why(dep, replica, place), WHY_BYTES_MAX),
                });
            }
        }
    }

    /// Adds a deployment that says nothing yet, or that cannot start.
    pub fn add_unseen(&mut self, id: DeploymentId) {
        if self.unseen.len() < BLOCKED_MAX {
            self.unseen.push(Blocked {
                deployment: id.to_string(),
                deployment_id: id,
                replica: None,
                why: "its actor does not say what it has; GET /admin/actors says why".to_owned(),
            });
        }
    }

    /// What is left on one of the nodes, with those of whom that is not known.
    #[must_use]
    pub fn on(&self, node: &NodeId) -> Left {
        let Left { count, mut blocked } = self.left.get(node).cloned().unwrap_or_default();
        blocked.extend(self.unseen.iter().take(BLOCKED_MAX - blocked.len()).cloned());
        Left { count, blocked }
    }

    /// Whether surely nothing is left on one of the nodes.
    #[must_use]
    pub fn is_empty(&self, node: &NodeId) -> bool {
        self.unseen.is_empty() && self.left.get(node).is_some_and(|left| left.count == 0)
    }
}

/// Why a replica is still at its place.
fn why(dep: &Deployment, replica: &Replica, place: &Placement) -> String {
    if dep.desired == Desired::Deleted {
        return "its deployment is being deleted".to_owned();
    }
    if replica.leaving || replica.phase == Phase::Stopping {
        return said("it is being stopped", &replica.message);
    }
    if dep.spec.names(place) {
        return "its deployment is pinned to this node; change that, stop it or delete it".to_owned();
    }
    let successor = dep
        .replicas
        .iter()
        .find(|other| other.index == replica.index && other.id != replica.id && !other.leaving);
    let Some(next) = successor else { return "it has no successor yet".to_owned() };
    match next.phase {
        Phase::Pending => said("its successor waits for a place", &next.told()),
        Phase::Preparing | Phase::Starting | Phase::Unreachable => {
            said(&format!("its successor is {}", next.phase.as_str()), &next.told())
        }
        Phase::Failed => said("its successor failed", &next.told()),
        Phase::Running | Phase::Stopping | Phase::Stopped | Phase::Deleting => {
            "its requests are waited for".to_owned()
        }
    }
}

fn said(what: &str, more: &str) -> String {
    if more.is_empty() { what.to_owned() } else { format!("{what}: {more}") }
}

#[cfg(test)]
pub(super) mod fixtures {
    use nebula_core::clock::WallTime;
    use nebula_core::ids::{Generation, ReplicaId};
    use nebula_core::runtime::RuntimeKind;
    use nebula_core::token::{Secret, TokenHash};

    use super::*;
    use crate::domain::deployment::DeploymentSpec;
    use crate::domain::report::Seen;

    pub(super) fn node(id: &str) -> NodeId {
        id.parse().expect("an id")
    }

    pub(super) fn replica(number: u8, index: u32, at: Option<&str>, phase: Phase, message: &str) -> Replica {
        let place = |at: &str| Placement {
            node_id: node(at),
            node_name: format!("gpu-{at}"),
            proxy: "10.0.0.1:8888".parse().expect("an address"),
            gpu_devices: Vec::new(),
        };
        Replica {
            id: ReplicaId::from_bytes([number; 16]),
            index,
            generation: Generation::FIRST,
            revision: Generation::FIRST,
            placement: at.map(place),
            phase,
            leaving: false,
            container_id: String::new(),
            port: 0,
            message: message.to_owned(),
            restarts: 0,
            seen: Seen::default(),
        }
    }

    pub(super) fn deployment(replicas: Vec<Replica>) -> Deployment {
        let spec = DeploymentSpec::plain("m", RuntimeKind::Sim);
        let (token, gateway) = (TokenHash::of("nbtok_x"), Secret::from_text("nbgw_x"));
        Deployment { replicas, ..Deployment::new("demo".to_owned(), spec, token, gateway, WallTime(1)) }
    }

    /// A deployment with one replica that runs there.
    pub(in super::super) fn running_on(at: &str, number: u8) -> Deployment {
        let dep = deployment(vec![replica(number, 0, Some(at), Phase::Running, "")]);
        Deployment { name: format!("demo-{number}"), ..dep }
    }

    /// A deployment with the longest name there is, whose replica there waits for a successor that says this.
    pub(in super::super) fn waiting_on(at: &str, message: &str) -> Deployment {
        let replicas =
            vec![replica(1, 0, Some(at), Phase::Running, ""), replica(2, 0, None, Phase::Pending, message)];
        Deployment { name: "d".repeat(128), ..deployment(replicas) }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{deployment, node, replica};
    use super::*;

    fn reason(dep: &Deployment) -> String {
        let mut survey = Survey::of([&node("n1")]);
        survey.add(dep);
        let left = survey.on(&node("n1"));
        assert_eq!((left.count, left.blocked.len(), survey.is_empty(&node("n1"))), (1, 1, false));
        left.blocked[0].why.clone()
    }

    #[test]
    fn each_replica_that_is_left_has_its_reason() {
        let old = || replica(1, 0, Some("n1"), Phase::Running, "");
        for (others, expected) in [
            (vec![], "it has no successor yet"),
            (vec![replica(2, 1, Some("n2"), Phase::Running, "")], "it has no successor yet"),
            (
                vec![replica(2, 0, None, Phase::Pending, "no node fits: n2: is offline")],
                "its successor waits for a place: no node fits: n2: is offline",
            ),
            (vec![replica(2, 0, Some("n2"), Phase::Starting, "")], "its successor is starting"),
            (
                vec![replica(2, 0, Some("n2"), Phase::Failed, "exit code 1")],
                "its successor failed: exit code 1",
            ),
            (vec![replica(2, 0, Some("n2"), Phase::Running, "")], "its requests are waited for"),
        ] {
            let replicas = std::iter::once(old()).chain(others).collect();
            assert_eq!(reason(&deployment(replicas)), expected);
        }
        let leaving =
            Replica { leaving: true, ..replica(1, 0, Some("n1"), Phase::Stopping, "waits for 3 requests") };
        let next = replica(2, 0, Some("n2"), Phase::Running, "");
        assert_eq!(reason(&deployment(vec![leaving, next])), "it is being stopped: waits for 3 requests");
        for name in ["n1", "gpu-n1"] {
            let mut pinned = deployment(vec![old(), replica(2, 0, None, Phase::Pending, "no node fits")]);
            pinned.spec.node = Some(name.to_owned());
            assert!(reason(&pinned).starts_with("its deployment is pinned to this node"), "{name}");
        }
        let deleted = Deployment { desired: Desired::Deleted, ..deployment(vec![old()]) };
        assert_eq!(reason(&deleted), "its deployment is being deleted");
    }

    #[test]
    fn a_node_is_empty_only_when_every_deployment_has_said_so() {
        let mut survey = Survey::of([&node("n1"), &node("n2")]);
        survey.add(&deployment(vec![
            replica(1, 0, Some("n1"), Phase::Running, ""),
            replica(2, 1, Some("n3"), Phase::Running, ""),
            replica(3, 2, None, Phase::Pending, ""),
        ]));
        assert_eq!(["n1", "n2"].map(|id| survey.is_empty(&node(id))), [false, true]);
        assert!(!survey.is_empty(&node("n3")), "nobody asked for it");
        survey.add_unseen(DeploymentId::from_bytes([7; 16]));
        assert_eq!(["n1", "n2"].map(|id| survey.is_empty(&node(id))), [false, false]);
        assert_eq!(["n1", "n2"].map(|id| survey.on(&node(id)).count), [1, 0]);
        assert_eq!(["n1", "n2"].map(|id| survey.on(&node(id)).blocked.len()), [2, 1]);
    }

    #[test]
    fn many_that_are_left_are_counted_and_some_are_named() {
        let mut survey = Survey::of([&node("n1")]);
        let long = "é".repeat(WHY_BYTES_MAX);
        for number in 0..30 {
            let next = replica(100 + number, 0, None, Phase::Pending, &long);
            survey.add(&deployment(vec![replica(number, 0, Some("n1"), Phase::Running, ""), next]));
        }
        let left = survey.on(&node("n1"));
        assert_eq!((left.count, left.blocked.len()), (30, BLOCKED_MAX));
        assert!(left.blocked.iter().all(|blocked| blocked.why.len() <= WHY_BYTES_MAX));
    }
}
