//! What is left alone after the store was rebuilt with a gap.
//!
//! What was acknowledged within the gap is missing here and may run out there. Until the gap is accepted nothing is
//! placed, no command is handed to an agent, and replicas that nobody here knows are not deleted. An operator accepts
//! it, or it is accepted when every known node has reported and none runs a replica that is unknown here; not before
//! those nodes that fell into the gap had the time to register again, and not if no node was known at the start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nebula_core::clock::Tick;
use nebula_core::ids::NodeId;

/// Whether there is such a gap, and what nodes have said since.
#[derive(Debug)]
pub struct Caution {
    holds: AtomicBool,
    /// Nothing ends it by itself before; none: nothing ends it by itself.
    not_before: Option<Tick>,
    /// Whether it is being ended already.
    ending: AtomicBool,
    /// Whether each node that has reported runs something that is unknown here.
    heard: Mutex<BTreeMap<NodeId, bool>>,
}

impl Caution {
    /// Caution, if there is a gap.
    #[must_use]
    pub fn new(gap: bool, not_before: Option<Tick>) -> Self {
        let (holds, ending) = (AtomicBool::new(gap), AtomicBool::new(false));
        Self { holds, not_before, ending, heard: Mutex::default() }
    }

    /// Whether the gap is there and not accepted.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::Acquire)
    }

    /// The gap was accepted.
    pub fn end(&self) {
        self.holds.store(false, Ordering::Release);
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A node has reported. Answers, once, whether all `known` nodes have by now, none of them with strangers.
    pub fn heard(
        &self,
        node: &NodeId,
        strangers: bool,
        known: impl IntoIterator<Item = NodeId>,
        now: Tick,
    ) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.insert(node.clone(), strangers);
        self.not_before.is_some_and(|at| now >= at)
            && known.into_iter().all(|node| heard.get(&node) == Some(&false))
            && !self.ending.swap(true, Ordering::AcqRel)
    }

    /// It could not be ended after all.
    pub fn goes_on(&self) {
        self.ending.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("an id")
    }

    #[test]
    fn it_ends_by_itself_when_every_node_has_reported_and_nothing_is_unknown() {
        let caution = Caution::new(true, Some(Tick(10)));
        let known = || [node("a"), node("b")];
        assert!(!caution.heard(&node("a"), false, known(), Tick(10)));
        assert!(!caution.heard(&node("b"), true, known(), Tick(10)), "b runs a stranger");
        assert!(!caution.heard(&node("b"), false, known(), Tick(9)), "a node of the gap may still come");
        assert!(caution.heard(&node("b"), false, known(), Tick(10)));
        assert!(!caution.heard(&node("b"), false, known(), Tick(11)), "said once");
        caution.goes_on();
        assert!(caution.heard(&node("b"), false, known(), Tick(11)));
    }

    #[test]
    fn where_no_node_was_known_only_an_operator_ends_it() {
        let caution = Caution::new(true, None);
        assert!(!caution.heard(&node("a"), false, [node("a")], Tick(u64::MAX)));
    }

    #[test]
    fn it_holds_until_it_is_ended() {
        assert!(!Caution::new(false, None).holds());
        let caution = Caution::new(true, None);
        assert!(caution.holds());
        caution.end();
        assert!(!caution.holds());
    }
}
