//! How fast what lost nodes had is placed elsewhere: node by node, so that a failure of many is no storm on the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use nebula_core::clock::Tick;
use nebula_core::ids::NodeId;

/// From one node whose replicas may move to the next.
pub const MOVE_EVERY: Duration = Duration::from_secs(10);

/// Which offline nodes' replicas may move.
#[derive(Debug, Default)]
pub(super) struct Moves {
    granted: BTreeSet<NodeId>,
    last: Option<Tick>,
}

impl Moves {
    /// Whether what an offline node has may move now. Once it may, it may until the node returns.
    pub(super) fn may(&mut self, node: &NodeId, now: Tick) -> bool {
        if self.granted.contains(node) {
            return true;
        }
        if self.last.is_some_and(|last| now.since(last) < MOVE_EVERY) {
            return false;
        }
        self.last = Some(now);
        self.granted.insert(node.clone());
        true
    }

    /// The node is heard again, or was forgotten.
    pub(super) fn over(&mut self, node: &NodeId) {
        self.granted.remove(node);
    }
}
