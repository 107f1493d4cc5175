//! Where replicas go: a pure choice among nodes, and the reservations that keep two replicas off one GPU.
//!
//! The same picture gives the same answer: among equal nodes the first by id is taken.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use nebula_core::clock::Tick;
use nebula_core::ids::{DeploymentId, NodeId, ReplicaId};

use self::choice::Wish;
use self::fleet::{Fleet, Share};
pub use self::moves::MOVE_EVERY;
use self::moves::Moves;
use self::queue::Queue;
pub use self::refusal::{Explanation, Refusal};
pub use self::request::{Hold, Need, Request, Shape};
use crate::actors::registry::machine::NodeUpdate;
use crate::domain::deployment::{Deployment, Placement};
use crate::domain::node::{Availability, Usage};

mod choice;
mod fleet;
mod index;
mod moves;
mod queue;
mod refusal;
mod request;

/// A share of a node that is a replica's.
struct Reservation {
    deployment: DeploymentId,
    slot: u32,
    share: Share,
}

/// What one deployment has reserved.
#[derive(Default)]
struct Own {
    replicas: BTreeSet<ReplicaId>,
    /// How many of them are on which node, by its slot.
    copies: BTreeMap<u32, u32>,
}

/// The scheduler's state.
#[derive(Default)]
pub struct Machine {
    fleet: Fleet,
    reservations: BTreeMap<ReplicaId, Reservation>,
    own: BTreeMap<DeploymentId, Own>,
    /// Shares that were given back of replicas that live on there as far as is known, by the node's slot: a lost node
    /// may come back with what was replaced meanwhile, and nobody else gets its GPUs before that is gone.
    lingering: BTreeMap<(u32, ReplicaId), Share>,
    queue: Queue,
    moves: Moves,
    woken: BTreeSet<DeploymentId>,
}

impl Machine {
    /// A node registered or changed. Answers who may find a place now.
    pub fn node_changed(&mut self, update: NodeUpdate) -> BTreeSet<DeploymentId> {
        if update.availability != Availability::Offline {
            self.moves.over(&update.node.id);
        }
        let better = self.fleet.set_node(update);
        self.look_at(better);
        self.woken()
    }

    /// What a node uses has changed. Answers who may find a place now.
    pub fn usage_changed(&mut self, node: &NodeId, usage: Usage) -> BTreeSet<DeploymentId> {
        let better = self.fleet.set_usage(node, usage);
        let ended = self.end_lingering(node, |fleet, slot, replica| !fleet.has_living(slot, replica));
        self.look_at(better.or(ended));
        self.woken()
    }

    /// Whether a node is known, and not what it uses.
    #[must_use]
    pub fn lacks_usage(&self, node: &NodeId) -> bool {
        self.fleet.lacks_usage(node)
    }

    /// A node was forgotten.
    pub fn node_gone(&mut self, node: &NodeId) {
        self.moves.over(node);
        self.end_lingering(node, |_, _, _| true);
        self.fleet.forget(node);
    }

    /// A replica needs its place no longer, and seeks none. Answers who may find a place now.
    pub fn release(&mut self, replica: ReplicaId) -> BTreeSet<DeploymentId> {
        let freed = self.free(replica);
        let told = self.queue.leave(replica);
        self.look_at(freed.into_iter().chain(told));
        self.woken()
    }

    /// A deployment says which of its replicas keep what is reserved for them, and where those are that have a place:
    /// it or the scheduler has just started, and what one told the other before may be lost. Nothing else of it stays
    /// reserved, and none of its other replicas waits. Answers who may find a place now.
    pub fn holds(&mut self, deployment: DeploymentId, holds: &[Hold]) -> BTreeSet<DeploymentId> {
        let stay: BTreeSet<ReplicaId> = holds.iter().map(|hold| hold.replica).collect();
        let reserved = self.own.get(&deployment).map(|own| own.replicas.clone()).unwrap_or_default();
        let mut changed: BTreeSet<u32> = BTreeSet::new();
        for replica in reserved.difference(&stay) {
            changed.extend(self.free(*replica));
        }
        for replica in self.queue.of(deployment).into_iter().filter(|replica| !stay.contains(replica)) {
            changed.extend(self.queue.leave(replica));
        }
        for hold in holds {
            changed.extend(self.hold(deployment, hold));
        }
        self.look_at(changed);
        self.woken()
    }

    /// A deployment's replicas have their places already, from before the scheduler started.
    pub fn restore(&mut self, dep: &Deployment) {
        for replica in dep.replicas.iter().filter(|replica| dep.holds_place(replica)) {
            self.hold(dep.id, &Hold::of(dep, replica));
        }
    }

    /// Finds a place and reserves it, or says why there is none. Asking again for the same replica gives its
    /// former place back first. Others may have found a place by that: `woken` answers who.
    ///
    /// # Errors
    /// One line for people that says what does not fit.
    pub fn place(&mut self, request: &Request) -> Result<Placement, String> {
        let former = self.free(request.replica);
        self.fleet.put_in_order();
        let answer = {
            let copies = self.copies(request);
            let wish = Wish::anywhere(&request.need, copies.as_deref(), &self.fleet);
            let found = wish.best(&self.fleet).and_then(|slot| self.placement(slot, &wish));
            found.ok_or_else(|| refusal::refusal(&wish, &self.fleet))
        };
        let told = match &answer {
            Ok(placement) => {
                self.reserve(request.replica, request.deployment, placement, request.need.shape.cores);
                self.queue.leave(request.replica)
            }
            Err(_) => self.queue.wait(request),
        };
        self.look_at(former.into_iter().chain(told));
        answer
    }

    /// What every node says to a request. Reserves nothing.
    pub fn explain(&mut self, request: &Request) -> Explanation {
        self.fleet.put_in_order();
        let copies = self.copies(request);
        refusal::explanation(&Wish::anywhere(&request.need, copies.as_deref(), &self.fleet), &self.fleet)
    }

    /// Whether what an offline node has may be placed elsewhere now. One node's worth every [`MOVE_EVERY`]; while
    /// everything `stands_still`, nothing. What was granted stays so as long as the node is offline.
    pub fn may_move(&mut self, node: &NodeId, stands_still: bool, now: Tick) -> bool {
        let known = self.fleet.find(node).and_then(|slot| self.fleet.known(slot));
        let offline = known.is_some_and(|known| known.update.availability == Availability::Offline);
        offline && !stands_still && self.moves.may(node, now)
    }

    /// Who may find a place since somebody was last asked.
    pub fn woken(&mut self) -> BTreeSet<DeploymentId> {
        std::mem::take(&mut self.woken)
    }

    /// How many replicas have a place.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.reservations.len()
    }

    /// How many deployments wait for one.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.deployments()
    }

    /// How many replicas of the same deployment are where, without those that are to go.
    fn copies(&self, request: &Request) -> Option<Cow<'_, BTreeMap<u32, u32>>> {
        let mut copies = Cow::Borrowed(&self.own.get(&request.deployment)?.copies);
        let going = request.going.iter().filter_map(|replica| self.reservations.get(replica));
        for place in going.filter(|place| place.deployment == request.deployment) {
            if let Some(count) = copies.to_mut().get_mut(&place.slot) {
                *count = count.saturating_sub(1);
            }
        }
        Some(copies)
    }

    fn placement(&self, slot: u32, wish: &Wish<'_>) -> Option<Placement> {
        let known = self.fleet.known(slot)?;
        Some(Placement {
            node_id: known.update.node.id.clone(),
            node_name: known.update.node.name.clone(),
            proxy: known.update.node.proxy_address(),
            gpu_devices: wish.devices(known, self.fleet.brief(slot)),
        })
    }

    /// A replica has this place. Answers the slot of the node that it had before.
    fn hold(&mut self, deployment: DeploymentId, hold: &Hold) -> Option<u32> {
        let placement = hold.place.as_ref()?;
        let former = self.free(hold.replica);
        self.reserve(hold.replica, deployment, placement, hold.cores);
        former
    }

    fn reserve(&mut self, replica: ReplicaId, deployment: DeploymentId, placement: &Placement, cores: u32) {
        let share = Share { devices: placement.gpu_devices.clone(), cores };
        let slot = self.fleet.take(&placement.node_id, &share);
        if let Some(former) = self.lingering.remove(&(slot, replica)) {
            self.fleet.give_back(slot, &former);
        }
        let own = self.own.entry(deployment).or_default();
        own.replicas.insert(replica);
        *own.copies.entry(slot).or_default() += 1;
        self.reservations.insert(replica, Reservation { deployment, slot, share });
    }

    /// Gives back what is reserved for a replica, at once or when it is gone. Answers the node's slot.
    fn free(&mut self, replica: ReplicaId) -> Option<u32> {
        let Reservation { deployment, slot, share } = self.reservations.remove(&replica)?;
        if self.fleet.has_living(slot, replica) {
            self.lingering.insert((slot, replica), share);
        } else {
            self.fleet.give_back(slot, &share);
        }
        if let Some(own) = self.own.get_mut(&deployment) {
            own.replicas.remove(&replica);
            if let Some(copies) = own.copies.get_mut(&slot) {
                *copies -= 1;
                if *copies == 0 {
                    own.copies.remove(&slot);
                }
            }
            if own.replicas.is_empty() {
                self.own.remove(&deployment);
            }
        }
        Some(slot)
    }

    /// Gives back the shares of those that lived on at a node and are `over`. Answers its slot, if there were any.
    fn end_lingering(&mut self, node: &NodeId, over: impl Fn(&Fleet, u32, ReplicaId) -> bool) -> Option<u32> {
        let slot = self.fleet.find(node)?;
        let first = (slot, ReplicaId::from_bytes([0; 16]));
        let here = self.lingering.range(first..).take_while(|((at, _), _)| *at == slot);
        let gone: Vec<ReplicaId> = here
            .map(|((_, replica), _)| *replica)
            .filter(|replica| over(&self.fleet, slot, *replica))
            .collect();
        for replica in &gone {
            if let Some(share) = self.lingering.remove(&(slot, *replica)) {
                self.fleet.give_back(slot, &share);
            }
        }
        (!gone.is_empty()).then_some(slot)
    }

    /// More may fit on these nodes than before: whoever's turn it is shall ask again.
    fn look_at(&mut self, slots: impl IntoIterator<Item = u32>) {
        for slot in slots {
            let Some(known) = self.fleet.known(slot) else { continue };
            let brief = self.fleet.brief(slot);
            let fits = |need: &Need| Wish::at(need, known).fits(&self.fleet, slot, brief, 0).map(|_| ());
            self.woken.extend(self.queue.tell(slot, fits));
        }
    }
}

#[cfg(test)]
mod fit_tests;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod props;
#[cfg(test)]
mod wake_tests;
