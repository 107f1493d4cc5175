//! Which GPUs can be used: what their driver says goes in, an inventory comes out.
//!
//! A GPU is usable from its first good sample on. It stops being so
//! * when the driver calls it lost, answers for it with an error of its own or does not answer in time, or wants it
//!   recovered: until [`GOOD_SAMPLES`] good samples in a row;
//! * when it reports a fatal XID: until the driver was loaded anew, or until it has answered well and reported no
//!   further one for [`XID_QUIET`];
//! * when the driver does not list it any more, or is gone.
//!
//! A GPU keeps its index while the agent runs, also when the driver renumbers the ones that are left, so that an index
//! that nebulad has heard never comes to mean another GPU.

mod slot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nebula_core::clock::Tick;

use self::slot::{Slot, Trouble};
use super::inventory::{Inventory, Stats};
use super::xid::{self, Meaning};

/// Most GPUs of one node; nebulad takes no more.
pub(crate) const GPUS_MAX: u32 = 32;
/// Good samples in a row after which a GPU that was in trouble is trusted again.
const GOOD_SAMPLES: u32 = 3;
/// After this long without a further fatal XID a GPU that answers well is trusted again.
const XID_QUIET: Duration = Duration::from_secs(3_600);

/// What happened. A position is the driver's number for a GPU since the library was opened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The library is open.
    Opened { driver_version: String, cuda_version: String },
    /// The driver was asked what a GPU is.
    Found { position: u32, facts: Result<Facts, Fault> },
    /// All positions have been asked for.
    Listed,
    /// The driver was asked how a GPU does.
    Sampled { position: u32, sample: Result<Sample, Fault> },
    /// The driver reported an error of a GPU.
    Xid { position: u32, xid: u64 },
    /// A call has not returned in time: about the GPU at that position, or about none.
    Overdue { position: Option<u32> },
    /// Of the processes that use GPUs, those that belong to replicas of this node.
    Ours(BTreeSet<u32>),
    /// The library could not be opened, or was closed.
    Closed { why: Closed, error: String },
}

/// Why the library is not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// There is no library, no driver or no GPU.
    Absent,
    /// There is something, and it does not work.
    Failed,
    /// It is opened again to see whether that helps.
    Renew,
}

/// What a GPU is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) memory_bytes: u64,
    pub(crate) compute_capability: String,
    pub(crate) pci_bus_id: String,
}

/// Why the driver says nothing of a GPU: one line that follows its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) String);

/// How a GPU does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Without what others use: that is found out here.
    pub(crate) stats: Stats,
    pub(crate) processes: Vec<Process>,
    pub(crate) action: RecoveryAction,
}

/// A process that uses a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The GPU's memory that it holds; none: the driver cannot say.
    pub(crate) bytes: Option<u64>,
}

/// What the driver wants done with a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RecoveryAction {
    #[default]
    None,
    Reset,
    Reboot,
    DrainPeers,
    DrainAndReset,
    /// One that is newer than this agent.
    Other(u64),
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// What can be used, or what is wrong, is another than before.
    Changed,
    /// A GPU takes no replicas from now on.
    Unusable { gpu: String, problem: String },
    /// A GPU that did not takes replicas again.
    Usable { gpu: String },
    /// Something to write down.
    Noted { gpu: String, xid: u64, meaning: Meaning },
    /// The GPUs are to be looked at now rather than later.
    SampleNow,
}

/// All GPUs of this machine.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    slots: Vec<Slot>,
    /// Which slot is at which of the driver's positions.
    positions: BTreeMap<u32, usize>,
    driver_version: String,
    cuda_version: String,
    problem: Option<String>,
    /// The driver was away since the library was last open.
    was_away: bool,
    /// None: not known yet.
    ours: Option<BTreeSet<u32>>,
    published: Inventory,
}

impl Machine {
    /// What is known.
    pub(crate) fn inventory(&self) -> &Inventory {
        &self.published
    }

    /// The processes that use GPUs.
    pub(crate) fn pids(&self) -> BTreeSet<u32> {
        self.slots.iter().flat_map(Slot::pids).collect()
    }

    /// What follows from an event.
    pub(crate) fn step(&mut self, event: Event, now: Tick) -> Vec<Effect> {
        let mut effects = self.take(event, now);
        let next = self.describe();
        effects.extend(differences(&self.published, &next));
        self.published = next;
        effects
    }

    fn take(&mut self, event: Event, now: Tick) -> Vec<Effect> {
        match event {
            Event::Opened { driver_version, cuda_version } => self.opened(driver_version, cuda_version),
            Event::Found { position, facts } => self.found(position, facts),
            Event::Listed => self.listed(),
            Event::Sampled { position, sample } => {
                self.problem = None;
                if let Some(slot) = self.slot(position) {
                    slot.sampled(sample, now);
                }
            }
            Event::Xid { position, xid } => return self.reported(position, xid, now),
            Event::Overdue { position } => match position.and_then(|position| self.slot(position)) {
                Some(slot) => slot.trouble(Trouble::Hung),
                None => self.problem = Some("the NVIDIA driver does not answer".to_owned()),
            },
            Event::Ours(pids) => self.ours = Some(pids),
            Event::Closed { why, error } => self.closed(why, &error),
        }
        Vec::new()
    }

    fn slot(&mut self, position: u32) -> Option<&mut Slot> {
        self.slots.get_mut(*self.positions.get(&position)?)
    }

    fn opened(&mut self, driver_version: String, cuda_version: String) {
        if std::mem::take(&mut self.was_away) {
            self.slots.iter_mut().for_each(Slot::forget_xid);
        }
        self.positions.clear();
        self.problem = None;
        (self.driver_version, self.cuda_version) = (driver_version, cuda_version);
    }

    fn found(&mut self, position: u32, facts: Result<Facts, Fault>) {
        self.problem = None;
        if position >= GPUS_MAX {
            return;
        }
        self.positions.remove(&position);
        let uuid = facts.as_ref().map_or("", |facts| facts.uuid.as_str());
        let Some(at) = self.known(position, uuid).or_else(|| self.add(position)) else { return };
        let Some(slot) = self.slots.get_mut(at) else { return };
        match facts {
            Ok(facts) => slot.describe(facts),
            Err(fault) => slot.trouble(Trouble::Lost(fault)),
        }
        self.positions.retain(|_, taken| *taken != at);
        self.positions.insert(position, at);
    }

    /// The slot of a GPU that was seen before: by its UUID, or, when either was never read, by its place.
    fn known(&self, position: u32, uuid: &str) -> Option<usize> {
        let named = self.slots.iter().position(|slot| !uuid.is_empty() && slot.uuid() == uuid);
        let in_place = |(at, slot): &(usize, &Slot)| {
            slot.index() == position
                && (uuid.is_empty() || slot.uuid().is_empty())
                && !self.positions.values().any(|taken| taken == at)
        };
        named.or_else(|| self.slots.iter().enumerate().find(in_place).map(|(at, _)| at))
    }

    /// A new slot, with the position for its index unless that is taken.
    fn add(&mut self, position: u32) -> Option<usize> {
        let taken = |index: &u32| self.slots.iter().any(|slot| slot.index() == *index);
        let index =
            Some(position).filter(|index| !taken(index)).or_else(|| (0..GPUS_MAX).find(|i| !taken(i)))?;
        self.slots.push(Slot::new(index));
        Some(self.slots.len() - 1)
    }

    fn listed(&mut self) {
        self.problem = None;
        let listed: BTreeSet<usize> = self.positions.values().copied().collect();
        let absent = self.slots.iter_mut().enumerate().filter(|(at, _)| !listed.contains(at));
        absent.for_each(|(_, slot)| slot.trouble(Trouble::Unlisted));
    }

    fn reported(&mut self, position: u32, xid: u64, now: Tick) -> Vec<Effect> {
        let meaning = xid::meaning(xid);
        let Some(slot) = self.slot(position) else { return Vec::new() };
        let gpu = slot.label();
        match meaning {
            Meaning::Fatal(what) => slot.fatal(xid, what, now),
            Meaning::RecoveryAction => slot.trouble(Trouble::Recovery),
            Meaning::Application | Meaning::Other => {}
        }
        let noted = Effect::Noted { gpu, xid, meaning };
        if matches!(meaning, Meaning::Fatal(_) | Meaning::RecoveryAction) {
            return vec![noted, Effect::SampleNow];
        }
        vec![noted]
    }

    fn closed(&mut self, why: Closed, error: &str) {
        self.problem = (why == Closed::Failed).then(|| format!("the GPUs cannot be used: {error}"));
        if why == Closed::Renew {
            return;
        }
        self.was_away |= why == Closed::Absent;
        self.positions.clear();
        (self.driver_version, self.cuda_version) = (String::new(), String::new());
        self.slots.iter_mut().for_each(|slot| slot.trouble(Trouble::Away(error.to_owned())));
    }

    fn describe(&self) -> Inventory {
        let mut gpus: Vec<_> = self.slots.iter().map(|slot| slot.gpu(self.ours.as_ref())).collect();
        gpus.sort_by_key(|gpu| gpu.index);
        Inventory {
            driver_version: self.driver_version.clone(),
            cuda_version: self.cuda_version.clone(),
            gpus,
            problem: self.problem.clone(),
        }
    }
}

/// What others should hear of. How busy a GPU is, is not among it.
fn differences(before: &Inventory, after: &Inventory) -> Vec<Effect> {
    let mut effects = Vec::new();
    for gpu in &after.gpus {
        let known = before.gpus.iter().find(|known| known.index == gpu.index);
        let said = known.and_then(|known| known.problem.as_deref()).filter(|said| *said != slot::UNREAD);
        match gpu.problem.as_deref().filter(|problem| *problem != slot::UNREAD) {
            None if said.is_some() => effects.push(Effect::Usable { gpu: gpu.label() }),
            Some(problem) if said != Some(problem) => {
                effects.push(Effect::Unusable { gpu: gpu.label(), problem: problem.to_owned() });
            }
            None | Some(_) => {}
        }
    }
    if before.without_stats() != after.without_stats() {
        effects.push(Effect::Changed);
    }
    effects
}
