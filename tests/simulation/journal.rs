//! I9 and I11 on the journal of one deployment: only legal steps are told, and no secret is.

use std::collections::BTreeSet;

use nebula_core::ids::ReplicaId;
use nebulad::domain::event::Happening;

use super::store::Broken;

/// Every secret of a run begins with one of these.
pub(crate) const SECRETS: [&str; 2] = ["nbgw_", "nbtok_"];

/// What the lines so far say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    placed: BTreeSet<ReplicaId>,
    wanted: Wanted,
    generation: u64,
    /// A change has begun and is not over.
    changing: bool,
    /// A node said that it was started again.
    resumed: bool,
    /// A node said that the store had forgotten something.
    caught_up: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Running,
    Stopped,
    Deleted,
}

impl Journal {
    /// The next line.
    pub(crate) fn take(&mut self, line: &Happening) -> Result<(), Broken> {
        if SECRETS.iter().any(|secret| line.message.contains(secret)) {
            return Err(("I11", format!("a secret in the journal: {}", line.message)));
        }
        let illegal = |why: &str| Err(("I9", format!("{why}: {} {}", line.kind, line.message)));
        let Some(replica) = line.replica else { return self.of_the_whole(line) };
        let is_placed = self.placed.contains(&replica);
        match line.kind {
            "placed" if is_placed => illegal("a replica is placed twice"),
            "placed" if self.wanted != Wanted::Running => illegal("placed although it is not to run"),
            "placed" => {
                self.placed.insert(replica);
                Ok(())
            }
            "stopped" => Ok(()),
            "stopping" if is_placed => Ok(()),
            "starting" | "running" | "unreachable" | "failed" if !is_placed => {
                illegal("before it had a place")
            }
            "starting" | "running" | "unreachable" | "failed"
                if self.wanted != Wanted::Running && !self.resumed =>
            {
                illegal("although it is not to run")
            }
            "starting" | "running" | "unreachable" | "failed" => Ok(()),
            "moved" | "lost" | "made_room" if !is_placed || self.wanted != Wanted::Running => {
                illegal("it was nowhere")
            }
            "moved" | "lost" | "made_room" => Ok(()),
            _ => illegal("an unknown step"),
        }
    }

    fn of_the_whole(&mut self, line: &Happening) -> Result<(), Broken> {
        let illegal = |why: &str| Err(("I9", format!("{why}: {} {}", line.kind, line.message)));
        let caught_up = line.kind == "caught_up" || (line.kind == "changed" && self.caught_up);
        if self.wanted == Wanted::Deleted && !caught_up {
            return illegal("after its deletion");
        }
        let told = line.message.strip_prefix("generation ").and_then(|number| number.parse::<u64>().ok());
        if let Some(generation) = told {
            if generation < self.generation {
                return illegal("the generation fell");
            }
            self.generation = generation;
        }
        match (line.kind, self.wanted) {
            ("start_requested", Wanted::Stopped) => self.wanted = Wanted::Running,
            ("stop_requested", Wanted::Running) => {
                self.wanted = Wanted::Stopped;
                self.resumed = false;
            }
            ("delete_requested", _) => self.wanted = Wanted::Deleted,
            // A node knows of a later start.
            ("caught_up", _) => {
                self.caught_up = true;
                self.resumed = self.wanted == Wanted::Stopped;
            }
            ("change_failed" | "change_done", Wanted::Stopped) => return illegal("nothing is to run"),
            ("change_started", _) => self.changing = true,
            ("change_failed" | "change_done", _) if !self.changing => return illegal("nothing was changed"),
            ("change_done" | "rolled_back", _) => self.changing = false,
            ("changed" | "scaled" | "token_rotated" | "change_failed", _) => {}
            _ => return illegal("not from where it stood"),
        }
        Ok(())
    }
}
