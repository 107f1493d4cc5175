//! Requests in flight before a runtime is ended: it gets no new ones and has a while to answer the others.
//!
//! The time only ever gets shorter: a command that is repeated does not put off the end, one that grants less hastens it.

use nebula_core::duration::human;

use super::{Effect, Follow, Machine, Phase};
use crate::replica::spec::Instance;

impl Machine {
    /// One that answers, or did, is to end: at once, or after its last requests.
    pub(super) fn leave(&mut self, instance: Instance) -> Follow {
        if self.drain.is_zero() {
            return self.enter(Phase::Killing { instance, failure: None });
        }
        self.drained_by = self.now.plus(self.drain);
        self.enter(Phase::Draining { instance })
    }

    /// It drains already: what the newest command grants may be less than what is left.
    pub(super) fn hasten(&mut self, instance: Instance) -> Follow {
        let by = self.now.plus(self.drain);
        if self.drain.is_zero() || by <= self.now {
            return self.enter(Phase::Killing { instance, failure: None });
        }
        if by >= self.drained_by {
            return Follow::new();
        }
        self.drained_by = by;
        self.fence += 1;
        vec![Effect::SetTimer { fence: self.fence, after: self.drain }]
    }

    /// What follows when it begins.
    pub(super) fn begin_to_drain(&mut self, follow: &mut Follow) {
        self.note("draining", format!("its requests in flight get {}", human(self.drain)));
        let (fence, after) = (self.fence, self.drain);
        let attempt = self.state.attempt;
        follow.extend([
            Effect::Route { ready: false },
            Effect::Drain { attempt },
            Effect::SetTimer { fence, after },
            Effect::Report,
        ]);
    }

    pub(super) fn on_drained(&mut self, attempt: u32) -> Vec<Effect> {
        let Phase::Draining { instance } = self.state.phase else { return Vec::new() };
        if attempt != self.state.attempt {
            return Vec::new();
        }
        let follow = self.enter(Phase::Killing { instance, failure: None });
        self.finish(follow)
    }

    /// Some requests are still in flight, and it ends all the same.
    pub(super) fn time_is_over(&mut self, instance: Instance) -> Vec<Effect> {
        self.note("draining", "requests are still in flight and have no more time".to_owned());
        let follow = self.enter(Phase::Killing { instance, failure: None });
        self.finish(follow)
    }
}
