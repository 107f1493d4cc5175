//! What time does to nodes: heard, suspect, offline; the brake; and standing still ourselves.
//!
//! One ordered set of deadlines serves all nodes. A heartbeat moves one of them. A step declares at most
//! [`OFFLINE_PER_STEP`] nodes offline, so that heartbeats come in between and each commit stays small.

use std::time::Duration;

use nebula_core::clock::Tick;
use nebula_core::ids::NodeId;
use nebula_core::timing::{self, LOOK_EVERY, PAUSE_MIN};

use super::brake::Moved;
use super::standing::Standing;
use super::{Effect, Machine, Notice};
use crate::domain::node::{Availability, Presence};

/// How many nodes one step declares offline. Their records fit one commit.
pub const OFFLINE_PER_STEP: usize = 50;

impl Machine {
    /// When `Event::Timer` is due: at the earliest deadline, at once while nodes wait to be declared offline, and
    /// otherwise to look whether time has passed without us.
    #[must_use]
    pub fn next_timer(&self) -> Tick {
        if !self.overdue.is_empty() && !self.brake.is_closed() {
            return self.seen;
        }
        let look = self.seen.plus(LOOK_EVERY);
        self.deadlines.first().map_or(look, |(at, _)| look.min(*at))
    }

    /// Looks at the time. When far more has passed since the last look than should have, this process was stopped or
    /// starved: nobody could be heard meanwhile, so every deadline moves by as much.
    pub(super) fn notice(&mut self, now: Tick) -> Option<Effect> {
        let gap = now.since(self.seen);
        self.seen = self.seen.max(now);
        if gap <= PAUSE_MIN {
            return None;
        }
        self.pauses += 1;
        for (at, id) in std::mem::take(&mut self.deadlines) {
            let later = at.plus(gap);
            if let Some(entry) = self.nodes.get_mut(&id) {
                entry.deadline = Some(later);
            }
            self.deadlines.insert((later, id));
        }
        Some(Effect::Notice(Notice::StoodStill(gap)))
    }

    /// A node is heard.
    pub(super) fn heard(&mut self, id: &NodeId, now: Tick) -> Vec<Effect> {
        let Some(entry) = self.nodes.get_mut(id) else { return Vec::new() };
        entry.heard = Some(now);
        let was = entry.standing.availability();
        let mut effects = Vec::new();
        if was == Availability::Offline {
            entry.node.presence = Presence::Expected;
            effects.push(entry.persist());
        }
        self.stand(
            id,
            Standing::Online,
            Some(now.plus(timing::suspect_after(self.timing.heartbeat_timeout))),
        );
        if was != Availability::Online {
            effects.extend(self.announce(id));
            effects.extend(self.weigh(now));
        }
        effects
    }

    /// Everything that is due by now. All deadlines that have come are counted before any node is declared offline:
    /// the brake sees all that vanished together.
    pub(super) fn expire(&mut self, now: Tick) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() {
            effects.extend(self.due(&id, at));
        }
        effects.extend(self.weigh(now));
        if !self.brake.is_closed() {
            let first: Vec<NodeId> = self.overdue.iter().take(OFFLINE_PER_STEP).cloned().collect();
            effects.extend(first.iter().flat_map(|id| self.declare_offline(id, now)));
        }
        effects
    }

    fn due(&mut self, id: &NodeId, at: Tick) -> Option<Effect> {
        let timeout = self.timing.heartbeat_timeout;
        let standing = self.nodes.get(id).map(|entry| entry.standing)?;
        match standing {
            Standing::Online => {
                let rest = timeout.saturating_sub(timing::suspect_after(timeout));
                self.stand(id, Standing::Late, Some(at.plus(rest)));
                self.announce(id)
            }
            Standing::Awaited | Standing::Late | Standing::Overdue => {
                self.stand(id, Standing::Overdue, None);
                None
            }
            Standing::Lost | Standing::Gone => {
                self.stand(id, Standing::Gone, None);
                None
            }
        }
    }

    fn declare_offline(&mut self, id: &NodeId, now: Tick) -> Vec<Effect> {
        // For one more timeout it counts as missing: nodes that vanish one after the other vanish together.
        self.stand(id, Standing::Lost, Some(now.plus(self.timing.heartbeat_timeout)));
        let Some(entry) = self.nodes.get_mut(id) else { return Vec::new() };
        entry.node.presence = Presence::Offline;
        [entry.persist()].into_iter().chain(self.announce(id)).collect()
    }

    /// Lets the brake look at the nodes.
    pub(super) fn weigh(&mut self, now: Tick) -> Option<Effect> {
        let share = self.tally.share();
        match self.brake.weigh(share, now)? {
            Moved::Closed => Some(Effect::Notice(Notice::BrakeClosed(share))),
            Moved::Opened => {
                // Enough nodes are back, and the others are likely on their way: agents call again within a wait
                // that this covers.
                let until = now.plus(timing::suspect_after(self.timing.heartbeat_timeout));
                for id in std::mem::take(&mut self.overdue) {
                    self.stand(&id, Standing::Late, Some(until));
                }
                Some(Effect::Notice(Notice::BrakeOpened(share)))
            }
        }
    }

    /// Changes how a node stands and when it is looked at again. The only place that does.
    pub(super) fn stand(&mut self, id: &NodeId, standing: Standing, deadline: Option<Tick>) {
        let Some(entry) = self.nodes.get_mut(id) else { return };
        let was = std::mem::replace(&mut entry.standing, standing);
        if let Some(old) = std::mem::replace(&mut entry.deadline, deadline) {
            self.deadlines.remove(&(old, id.clone()));
        }
        if let Some(at) = deadline {
            self.deadlines.insert((at, id.clone()));
        }
        if was == standing {
            return;
        }
        self.tally.remove(was);
        self.tally.add(standing);
        match (was, standing) {
            (_, Standing::Overdue) => drop(self.overdue.insert(id.clone())),
            (Standing::Overdue, _) => drop(self.overdue.remove(id)),
            (_, _) => {}
        }
    }

    /// How long ago the brake closed.
    #[must_use]
    pub fn brake_closed_for(&self, now: Tick) -> Option<Duration> {
        match self.brake {
            super::brake::Brake::Closed(since) => Some(now.since(since)),
            super::brake::Brake::Open | super::brake::Brake::Overruled => None,
        }
    }
}
