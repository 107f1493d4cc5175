//! Nodes that are offline: how long they are waited for, and when what is on them may be replaced.
//!
//! The wait is counted by this incarnation: after a restart it begins anew, so a node is lost later than promised and
//! never earlier. The scheduler rations moves, so each is asked for until it is granted.

use std::time::Duration;

use nebula_core::clock::Tick;
use nebula_core::ids::NodeId;

use super::{Effect, Machine, Now};
use crate::domain::deployment::{Desired, LostAfter, Phase, Replica};
use crate::domain::node::Availability;
use crate::domain::report::NodeFacts;

/// How long after one question the next one comes.
pub(super) const MOVE_ASK: Duration = Duration::from_secs(5);

/// A node that is offline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// Since when, as far as this incarnation knows.
    pub(super) since: Tick,
    /// When it was last asked whether its replicas may be replaced.
    asked: Option<Tick>,
    /// They may.
    pub(super) granted: bool,
}

impl Lost {
    /// When it is to be asked, or asked again, whether its replicas may be replaced.
    pub(super) fn ask_at(&self, after: LostAfter) -> Option<Tick> {
        let LostAfter::After(after) = after else { return None };
        if self.granted {
            return None;
        }
        Some(self.since.plus(after).max(self.asked.map_or(Tick(0), |asked| asked.plus(MOVE_ASK))))
    }
}

impl Machine {
    pub(super) fn presence(&mut self, facts: &NodeFacts, now: Now) {
        if facts.availability == Availability::Offline {
            let lost = Lost { since: now.tick, asked: None, granted: false };
            self.lost.entry(facts.node_id.clone()).or_insert(lost);
        } else {
            self.lost.remove(&facts.node_id);
        }
    }

    /// The scheduler's answer. One about a node that is back means nothing any more.
    pub(super) fn may_move(&mut self, node: &NodeId, granted: bool, now: Now) {
        let Some(lost) = self.lost.get_mut(node).filter(|lost| granted && !lost.granted) else { return };
        lost.granted = true;
        let gone_for = now.tick.since(lost.since).as_secs();
        let there: Vec<Replica> = self.dep.replicas.iter().filter(|r| waits_for(r, node)).cloned().collect();
        for replica in there {
            let message =
                format!("replica {} is replaced: its node has been offline for {gone_for} s", replica.index);
            self.note_replica("lost", message, &replica);
        }
    }

    /// Asks for the moves that are due.
    pub(super) fn ask_moves(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let due: Vec<NodeId> =
            self.moves_due().filter(|(_, at)| *at <= now.tick).map(|(node, _)| node.clone()).collect();
        for node in due {
            if let Some(lost) = self.lost.get_mut(&node) {
                lost.asked = Some(now.tick);
            }
            effects.push(Effect::AskMove(node));
        }
    }

    /// Which nodes are asked about, and when.
    pub(super) fn moves_due(&self) -> impl Iterator<Item = (&NodeId, Tick)> {
        let after = self.dep.spec.lost_after;
        let wanted = self.dep.desired == Desired::Running;
        let waited = move |node: &NodeId| wanted && self.dep.replicas.iter().any(|r| waits_for(r, node));
        let due = self.lost.iter().filter_map(move |(node, lost)| Some((node, lost.ask_at(after)?)));
        due.filter(move |(node, _)| waited(node))
    }

    /// Whether a replica's node is lost and has been given up.
    pub(super) fn is_given_up(&self, replica: &Replica) -> bool {
        let Some(place) = &replica.placement else { return false };
        waits_for(replica, &place.node_id) && self.lost.get(&place.node_id).is_some_and(|lost| lost.granted)
    }
}

/// Whether a replica waits for this node to come back.
fn waits_for(replica: &Replica, node: &NodeId) -> bool {
    !replica.leaving && replica.phase == Phase::Unreachable && replica.is_on(node)
}

/// Its node is offline.
pub(super) fn unreachable(replica: &mut Replica) {
    let node = replica.placement.as_ref().map_or("", |place| place.node_name.as_str());
    replica.message = format!("node {node} is offline");
    replica.phase = Phase::Unreachable;
}
