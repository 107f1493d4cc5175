//! A change of what runs: begun, made room for, finished, or taken back when the new version does not come up.
//!
//! The replicas themselves are replaced by succession; what is decided here is only which version is wanted.

use std::time::Duration;

use nebula_core::clock::Tick;
use nebula_core::ids::Generation;

use super::observe::phase_line;
use super::succession::{Reason, Standing};
use super::{Effect, Machine, Now};
use crate::domain::deployment::{DeploymentSpec, Desired, Phase, Previous, Replica, Strategy};
use crate::domain::node::{Availability, may_schedule};

/// How long a new replica may wait for a place before the change is taken back.
pub(super) const CHANGE_PLACE_MAX: Duration = Duration::from_secs(10 * 60);

impl Machine {
    /// Wants another spec. Replicas are replaced only if another thing is to run.
    pub(super) fn change(&mut self, spec: DeploymentSpec, effects: &mut Vec<Effect>) {
        let public = self.dep.spec.public;
        let goes_back = self.dep.previous.as_ref().filter(|previous| spec.runs_as(&previous.spec));
        if spec.runs_as(&self.dep.spec) {
            if let Some(previous) = &mut self.dep.previous {
                previous.spec = previous.spec.on_terms_of(&spec);
            }
            if self.dep.spec.on_terms_of(&spec) != self.dep.spec {
                self.note("changed", "nothing is restarted for it".to_owned());
            }
            self.adopt(spec);
        } else if let Some(previous) = goes_back {
            let revision = previous.revision;
            self.note("rolled_back", "the version before is wanted again".to_owned());
            self.go_back(spec, revision);
        } else {
            self.begin_change(spec);
        }
        if public != self.dep.spec.public {
            effects.extend(self.tell_access());
        }
    }

    fn begin_change(&mut self, spec: DeploymentSpec) {
        let generation = self.dep.generation.next();
        let served = |replica: &Replica| {
            !replica.leaving && matches!(replica.phase, Phase::Running | Phase::Unreachable)
        };
        // There is nothing to go back to where nothing has ever answered.
        let serves = self.dep.desired == Desired::Running && self.dep.replicas.iter().any(served);
        if self.dep.previous.is_none() && serves {
            let previous = Previous { spec: self.dep.spec.clone(), revision: self.dep.revision };
            self.dep.previous = Some(Box::new(previous));
        }
        let message = match (&self.dep.previous, spec.strategy) {
            (None, _) => "nothing of the version before answers".to_owned(),
            (_, Strategy::Rolling) => "new replicas first, the old ones leave as they answer".to_owned(),
            (_, Strategy::Recreate) => "the old replicas leave first".to_owned(),
        };
        self.note("change_started", format!("generation {generation}: {message}"));
        self.dep.generation = generation;
        self.dep.revision = generation;
        self.placeless_since = None;
        self.adopt(spec);
    }

    fn adopt(&mut self, spec: DeploymentSpec) {
        if (&spec.model, &spec.source, spec.runtime)
            != (&self.dep.spec.model, &self.dep.spec.source, self.dep.spec.runtime)
        {
            self.dep.hint = None;
        }
        self.dep.spec = spec;
    }

    /// Wants again what ran at `revision`: what still runs of it stays and counts as this version from now on.
    fn go_back(&mut self, spec: DeploymentSpec, revision: Generation) {
        let generation = self.dep.generation.next();
        for replica in self.dep.replicas.iter_mut().filter(|replica| replica.revision == revision) {
            replica.revision = generation;
        }
        self.dep.generation = generation;
        self.dep.revision = generation;
        self.dep.previous = None;
        self.ask_again();
        self.adopt(spec);
    }

    /// Takes the change back if a new replica has failed, or has waited for a place too long.
    pub(super) fn judge_change(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(previous) = self.dep.previous.clone() else {
            self.placeless_since = None;
            return;
        };
        let Some(why) = self.change_fails(now) else { return };
        let failed = self.dep.generation;
        self.note("change_failed", why);
        let public = self.dep.spec.public;
        let spec = DeploymentSpec { replicas: self.dep.spec.replicas, ..previous.spec };
        self.go_back(spec, previous.revision);
        self.dep.updated_at = now.wall;
        let (was, is) = (previous.revision, self.dep.generation);
        let message =
            format!("generation {is} is what generation {was} was; generation {failed} is given up");
        self.note("rolled_back", message);
        if public != self.dep.spec.public {
            effects.extend(self.tell_access());
        }
    }

    fn change_fails(&mut self, now: Now) -> Option<String> {
        let new = |replica: &&Replica| !replica.leaving && replica.revision == self.dep.revision;
        if let Some(failed) = self.dep.replicas.iter().filter(new).find(|r| r.phase == Phase::Failed) {
            return Some(phase_line(failed));
        }
        let placeless = self.dep.replicas.iter().filter(new).find(|replica| replica.placement.is_none());
        // Who leaves may make room for it.
        let Some(placeless) = placeless.filter(|_| !self.somebody_leaves()) else {
            self.placeless_since = None;
            return None;
        };
        if self.gives_up_at().is_none_or(|at| at > now.tick) {
            return None;
        }
        let minutes = CHANGE_PLACE_MAX.as_secs() / 60;
        Some(format!(
            "replica {} found no place for {minutes} minutes: {}",
            placeless.index, placeless.message
        ))
    }

    /// When the change is taken back unless a place is found.
    pub(super) fn gives_up_at(&self) -> Option<Tick> {
        self.dep.previous.as_ref().filter(|_| self.dep.desired == Desired::Running)?;
        self.placeless_since.map(|since| since.plus(CHANGE_PLACE_MAX))
    }

    fn somebody_leaves(&self) -> bool {
        self.dep.replicas.iter().any(|replica| replica.leaving && self.dep.holds_place(replica))
    }

    /// The change is done when the new version answers and nothing of the old one stays.
    pub(super) fn finish_change(&mut self) {
        if self.dep.previous.is_none() {
            return;
        }
        let staying = || self.dep.replicas.iter().filter(|replica| !replica.leaving);
        let outdated = staying().any(|replica| replica.revision != self.dep.revision);
        let answers = staying().any(|replica| replica.phase == Phase::Running);
        let comes = staying().any(|r| r.placement.is_some() && r.phase != Phase::Running);
        if !outdated && (self.dep.spec.replicas == 0 || answers && !comes) {
            self.dep.previous = None;
            let message =
                format!("generation {} runs, nothing of the version before is left", self.dep.revision);
            self.note("change_done", message);
        }
    }

    /// Lets one old replica go before its successor answers, if there is room for none: never more than one is missing.
    pub(super) fn make_room(&mut self) {
        let wanted = self.dep.spec.replicas;
        let changing = self.dep.previous.is_some() && self.dep.spec.strategy == Strategy::Rolling;
        if !changing || wanted < 2 || self.somebody_leaves() {
            return;
        }
        let by_index = self.by_index();
        let serving = by_index.values().filter(|here| here.iter().any(|one| one.serves)).count();
        let waits = |one: &Standing| one.is_current() && !one.serves;
        let mut waiting = by_index.values().flatten().filter(|one| waits(one)).peekable();
        if serving < wanted as usize
            || waiting.peek().is_none()
            || !waiting.all(|one| self.refused.contains(&one.id))
        {
            return;
        }
        let succeeded = by_index.values().filter(|here| here.iter().any(waits)).flatten();
        let mut old = succeeded.filter(|one| one.reason == Some(Reason::Outdated) && one.serves);
        let Some(goes) = old.find(|one| self.leaves_room(one)).map(|one| one.id) else { return };
        let Some(replica) = self.dep.replicas.iter_mut().find(|replica| replica.id == goes) else { return };
        replica.leaving = true;
        let replica = replica.clone();
        let message =
            format!("replica {} leaves first: there is no room for a new one beside it", replica.index);
        self.note_replica("made_room", message, &replica);
    }

    /// Whether the place of this replica can be used by another one.
    fn leaves_room(&self, one: &Standing) -> bool {
        let replica = self.dep.replicas.iter().find(|replica| replica.id == one.id);
        let place = replica.and_then(|replica| replica.placement.as_ref());
        let facts = place.and_then(|place| self.nodes.get(&place.node_id));
        facts.is_some_and(|facts| {
            facts.availability == Availability::Online && may_schedule(facts.availability, facts.scheduling)
        })
    }
}
