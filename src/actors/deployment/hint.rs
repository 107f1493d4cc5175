//! Asks an agent how much GPU memory a deployment's model is thought to need. A hint: whoever gets none goes on without.
//!
//! The nodes are those whose sessions publish that they are heard, so that no mailbox is waited for.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::ids::DeploymentId;

use crate::actors::session::{self, SessionStatus};
use crate::actors::system::System;
use crate::domain::deployment::{Deployment, MemoryHint};
use crate::domain::node::Availability;
use crate::ports::EstimateQuery;

/// How long it may take in all.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);
/// Nodes that are looked at; one of them will do.
const LOOKED_AT_MAX: usize = 256;
/// Nodes that are asked, one after the other: the second in case that the first cannot be reached or cannot say.
const ASKED_MAX: usize = 2;

/// A node that could say it. The smallest is the best.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// A replica has its place there.
    has_no_place: bool,
    /// It holds the model.
    holds_nothing: bool,
    /// So that many deployments do not ask the same one.
    turn: u64,
    address: HostPort,
}

/// What the model of a deployment is thought to need, by the metadata that an online node finds; none when it has no
/// source, no node is online, or nobody knows.
pub(super) async fn ask(system: &System, dep: &Deployment) -> Option<MemoryHint> {
    let spec = &dep.spec;
    let source = spec.source.clone()?;
    let query = EstimateQuery { source, runtime: spec.runtime, args: spec.args.clone() };
    let asking = async {
        for candidate in candidates(system, dep) {
            match system.agents.estimate(&candidate.address, query.clone()).await {
                Ok(hint) => return Some(hint),
                Err(error) => {
                    tracing::debug!(deployment_id = %dep.id, agent = %candidate.address, %error, "no estimate");
                }
            }
        }
        None
    };
    tokio::time::timeout(ASK_TIMEOUT, asking).await.ok().flatten()
}

fn candidates(system: &System, dep: &Deployment) -> Vec<Candidate> {
    let sessions = system.tree.children(session::PARENT, None, LOOKED_AT_MAX);
    // A place may be on a node that is not among the first.
    let placed = dep.replicas.iter().filter_map(|replica| replica.placement.as_ref());
    let placed = placed.filter_map(|place| system.tree.cell(&session::path(&place.node_id)));
    let statuses = placed.chain(sessions).filter_map(|cell| cell.status::<SessionStatus>());
    let mut found: Vec<Candidate> = statuses.filter_map(|status| candidate(&status, dep)).collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(ASKED_MAX);
    found
}

fn candidate(status: &SessionStatus, dep: &Deployment) -> Option<Candidate> {
    let update = status.node().filter(|update| update.availability == Availability::Online)?;
    let node = &update.node;
    let named = dep.spec.node.as_deref();
    if named.is_some_and(|name| name != node.id.as_str() && name != node.name) {
        return None;
    }
    let source = dep.spec.source.as_ref().map(ToString::to_string);
    let held =
        status.stats.iter().flat_map(|stats| &stats.models).any(|model| Some(model) == source.as_ref());
    let placed = dep.replicas.iter().filter_map(|replica| replica.placement.as_ref());
    Some(Candidate {
        has_no_place: !placed.into_iter().any(|place| place.node_id == node.id),
        holds_nothing: !held,
        turn: turn(dep.id, node.id.as_str()),
        address: node.address.clone(),
    })
}

/// A number that differs from deployment to deployment and from node to node, and is the same each time.
fn turn(deployment: DeploymentId, node: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (deployment.as_bytes(), node).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_a_replica_is_asked_before_one_with_the_model_and_that_before_any_other() {
        let of = |has_no_place, holds_nothing, turn| Candidate {
            has_no_place,
            holds_nothing,
            turn,
            address: "10.0.0.1:9091".parse().expect("an address"),
        };
        let mut all = vec![of(true, true, 1), of(true, false, 9), of(false, true, 9), of(true, true, 0)];
        all.sort_unstable();
        assert_eq!(all, [of(false, true, 9), of(true, false, 9), of(true, true, 0), of(true, true, 1)]);
    }

    #[test]
    fn deployments_ask_different_nodes() {
        let first = |deployment: u8| {
            let id = DeploymentId::from_bytes([deployment; 16]);
            (0..10).min_by_key(|node| turn(id, &format!("node-{node}")))
        };
        let firsts: std::collections::BTreeSet<_> = (0..50).map(first).collect();
        assert!(firsts.len() > 4, "{firsts:?}");
    }
}
