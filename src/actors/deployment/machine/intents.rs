//! What users want: each wish may come at any moment, and the last one counts.

use super::{Effect, Intent, Machine, Now, being_deleted};
use crate::domain::deployment::{Desired, Phase};
use crate::domain::error::Error;

impl Machine {
    pub(super) fn intend(
        &mut self,
        intent: Intent,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        if self.dep.desired == Desired::Deleted {
            return if intent == Intent::Delete { Ok(()) } else { Err(being_deleted()) };
        }
        match intent {
            Intent::Start if self.dep.desired == Desired::Running => self.start_again(now),
            Intent::Start | Intent::Restart if self.dep.desired == Desired::Stopped => self.begin_anew(now),
            Intent::Start | Intent::Restart => {
                self.dep.generation = self.dep.generation.next();
                self.note("changed", format!("restart: generation {}", self.dep.generation));
            }
            Intent::Stop => self.dep.desired = Desired::Stopped,
            Intent::Scale(replicas) => self.scale(replicas, None, now),
            Intent::Change(spec) if self.dep.spec == *spec => return Ok(()),
            Intent::Change(spec) => self.change(*spec, effects),
            Intent::Rotate { token, overlap } => self.rotate(token, overlap, now, effects),
            Intent::Delete => self.dep.desired = Desired::Deleted,
        }
        // What replicas need may have changed.
        self.ask_again();
        self.dep.updated_at = now.wall;
        Ok(())
    }

    /// What runs goes on; what has failed makes room for a new replica; what sleeps wakes up.
    fn start_again(&mut self, now: Now) {
        let failed = self.dep.replicas.iter_mut().filter(|replica| replica.phase == Phase::Failed);
        failed.for_each(|replica| replica.leaving = true);
        if self.dep.sleeps() {
            self.scale(1, None, now);
        }
    }

    /// What was stopped has given its place back: new replicas seek places, the old ones leave.
    fn begin_anew(&mut self, now: Now) {
        self.dep.desired = Desired::Running;
        self.dep.generation = self.dep.generation.next();
        self.dep.replicas.iter_mut().for_each(|replica| replica.leaving = true);
        if self.dep.sleeps() {
            self.scale(1, None, now);
        }
    }
}
