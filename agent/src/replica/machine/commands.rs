//! What a replica is told, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use nebula_core::ids::Generation;

use super::{Desired, Effect, Machine, Phase, Refusal};
use crate::replica::spec::{Access, Spec};

impl Machine {
    pub(super) fn on_start(
        &mut self,
        generation: Generation,
        spec: Arc<Spec>,
        access: Access,
        port: u16,
        drain: Duration,
    ) -> Vec<Effect> {
        if self.state.phase != Phase::New {
            if let Err(refusal) = self.check(Some(generation)) {
                return vec![Effect::Reply(Err(refusal))];
            }
            if generation == self.state.generation && !(generation.0 == 0 && self.has_come_to_an_end()) {
                return vec![Effect::Reply(Ok(()))];
            }
        } else if self.halting {
            return vec![Effect::Reply(Err(Refusal::Halting))];
        }
        let state = &mut self.state;
        state.generation = generation;
        state.access = access;
        state.port = port;
        state.restarted = false;
        state.restarts = 0;
        (self.grace, self.drain) = (self.policy.grace, drain);
        self.spec = spec;
        self.begin_anew();
        self.note("accepted", format!("generation {generation} of {} accepted", self.spec.served_name));
        let follow = self.pursue();
        self.answer(follow)
    }

    pub(super) fn on_stop(
        &mut self,
        generation: Option<Generation>,
        grace: Option<Duration>,
        drain: Duration,
    ) -> Vec<Effect> {
        if let Err(refusal) = self.check(generation) {
            return vec![Effect::Reply(Err(refusal))];
        }
        self.raise(generation);
        self.state.desired = Desired::Stopped;
        (self.grace, self.drain) = (grace.unwrap_or(self.policy.grace), drain);
        let follow = self.pursue();
        self.answer(follow)
    }

    pub(super) fn on_restart(&mut self, generation: Option<Generation>) -> Vec<Effect> {
        if let Err(refusal) = self.check(generation) {
            return vec![Effect::Reply(Err(refusal))];
        }
        // The same restart twice is one restart. Without a generation every request counts.
        if generation == Some(self.state.generation) && self.state.restarted {
            return vec![Effect::Reply(Ok(()))];
        }
        self.raise(generation);
        self.state.restarted = generation.is_some();
        (self.grace, self.drain) = (self.policy.grace, Duration::ZERO);
        self.begin_anew();
        self.note("restarted", "restart wanted".to_owned());
        let follow = self.pursue();
        self.answer(follow)
    }

    pub(super) fn on_delete(&mut self, generation: Option<Generation>, drain: Duration) -> Vec<Effect> {
        match self.check(generation) {
            Err(Refusal::Deleting) => return self.delete_again(drain),
            Err(refusal) => return vec![Effect::Reply(Err(refusal))],
            Ok(()) => {}
        }
        self.raise(generation);
        self.state.desired = Desired::Deleted;
        (self.grace, self.drain) = (self.policy.grace, drain);
        self.note("deleted", "delete wanted".to_owned());
        let follow = self.pursue();
        self.answer(follow)
    }

    /// Nothing is new but the time that requests in flight have.
    fn delete_again(&mut self, drain: Duration) -> Vec<Effect> {
        if !matches!(self.state.phase, Phase::Draining { .. }) {
            return vec![Effect::Reply(Ok(()))];
        }
        self.drain = drain;
        let follow = self.pursue();
        self.answer(follow)
    }

    pub(super) fn on_access(&mut self, access: Access) -> Vec<Effect> {
        if let Err(refusal) = self.check(None) {
            return vec![Effect::Reply(Err(refusal))];
        }
        let gateway = access.gateway.or(self.state.access.gateway);
        self.state.access = Access { gateway, ..access };
        self.note("access", "credentials replaced".to_owned());
        self.answer(vec![Effect::Route { ready: self.is_ready() }])
    }

    pub(super) fn on_halt(&mut self, leave: bool) -> Vec<Effect> {
        self.halting = true;
        if leave || !self.state.phase.is_busy() {
            return vec![Effect::Done];
        }
        (self.grace, self.drain) = (self.policy.grace, Duration::ZERO);
        let mut follow = self.pursue();
        // A command may have granted more time than the agent's own stop has.
        if matches!(self.state.phase, Phase::Killing { .. }) && follow.is_empty() {
            follow.push(Effect::SetTimer { fence: self.fence, after: self.grace });
        }
        self.finish(follow)
    }
}
