//! Which nodes fit a replica, and which of them is best. One look over the briefs of all nodes; nothing is written
//! here, so a reason is a word of few bytes.

use std::collections::{BTreeMap, btree_map};

use super::fleet::{Brief, Fleet, Gpu, Known, State, runtime_bit};
use super::index::Mask;
use super::request::{Need, Shape};
use crate::domain::deployment::Policy;

/// What is left free when a model was fetched, in bytes.
const DISK_RESERVE: u64 = 2 << 30;

/// How large weights are thought to be of which nothing is known, in bytes.
const WEIGHTS_UNKNOWN: u64 = 1 << 30;

/// Why a node does not fit, from what is farthest off to what is nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// The node is not known.
    Unknown,
    OtherNode,
    Offline,
    Suspect,
    Cordoned,
    Draining,
    Label,
    Runtime,
    Cores,
    NoGpu,
    Gpus,
    Disk,
}

/// How good a node is that fits; less is better. In two words, as they are compared for every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// From the highest bit: whether the GPUs are smaller than the hint says; how many copies are there, unless they
    /// need not be apart; whether the weights must be fetched; what the policy says first.
    first: u64,
    /// What it says then, and the place by id.
    then: u64,
}

/// What 31 bits hold.
const MOST: u32 = u32::MAX >> 1;

/// A need, prepared to be held against nodes.
pub(super) struct Wish<'a> {
    pub(super) need: &'a Need,
    /// How many replicas of the same deployment are where.
    copies: Option<&'a BTreeMap<u32, u32>>,
    called: Mask,
    labelled: Mask,
    typed: Mask,
    holding: Mask,
    kind: Option<String>,
    /// `typed` says which nodes have a GPU of the type, if one is asked for.
    types_are_known: bool,
    runtime: u8,
    /// What must be free on the disk of a node that fetches the weights, in bytes.
    pub(super) disk: u64,
    /// GPU memory that each GPU should have, in bytes.
    hint: u64,
    // The same two again, and the memory that is asked for, in the units of the briefs, rounded up.
    disk_gib: u32,
    hint_mib: u32,
    memory_mib: u32,
}

/// GPUs of a node that fit.
struct Pick {
    /// The type's place among the node's.
    place: usize,
    /// How many fit, of all types.
    fit: u32,
    /// Less memory than the hint says.
    small: bool,
}

/// How many copies are where, read along with the nodes.
struct Copies<'a> {
    rest: Option<btree_map::Iter<'a, u32, u32>>,
    next: Option<(&'a u32, &'a u32)>,
}

impl<'a> Copies<'a> {
    fn of(copies: Option<&'a BTreeMap<u32, u32>>) -> Self {
        let mut rest = copies.map(BTreeMap::iter);
        let next = rest.as_mut().and_then(Iterator::next);
        Self { rest, next }
    }

    /// Those in this slot; slots are asked for in order.
    #[inline]
    fn at(&mut self, slot: u32) -> u32 {
        match self.next {
            Some((at, count)) if *at == slot => {
                self.next = self.rest.as_mut().and_then(Iterator::next);
                *count
            }
            _ => 0,
        }
    }
}

impl<'a> Wish<'a> {
    fn with(need: &'a Need, copies: Option<&'a BTreeMap<u32, u32>>) -> Self {
        let gpu = &need.shape.gpu;
        let hint = need.hint_bytes.filter(|_| gpu.memory_bytes == 0 && gpu.count > 0);
        let hint = hint.map_or(0, |bytes| bytes.div_ceil(u64::from(gpu.count)));
        let disk = need.weights_bytes.unwrap_or(WEIGHTS_UNKNOWN).saturating_add(DISK_RESERVE);
        let whole = |bytes: u64, unit: u64| u32::try_from(bytes.div_ceil(unit)).unwrap_or(u32::MAX);
        Self {
            need,
            copies,
            called: Mask::All,
            labelled: Mask::All,
            typed: Mask::All,
            holding: Mask::All,
            kind: gpu.kind.as_ref().map(|kind| kind.to_ascii_lowercase()),
            runtime: need.shape.runtime.map_or(u8::MAX, runtime_bit),
            types_are_known: gpu.kind.is_none(),
            disk,
            hint,
            disk_gib: whole(disk, 1 << 30),
            hint_mib: whole(hint, 1 << 20),
            memory_mib: whole(gpu.memory_bytes, 1 << 20),
        }
    }

    /// For all nodes.
    pub(super) fn anywhere(need: &'a Need, copies: Option<&'a BTreeMap<u32, u32>>, fleet: &Fleet) -> Self {
        let mut wish = Self::with(need, copies);
        let Shape { node, labels, .. } = &need.shape;
        if let Some(node) = node {
            wish.called = fleet.called(node);
        }
        for (key, value) in labels {
            wish.labelled = wish.labelled.and(fleet.labelled(key, value));
        }
        if let Some(kind) = &wish.kind {
            wish.typed = fleet.with_gpus_like(kind);
            wish.types_are_known = true;
        }
        if let Some(source) = &need.fetches {
            wish.holding = fleet.with_model(source);
        }
        wish
    }

    /// For one node.
    pub(super) fn at(need: &'a Need, known: &Known) -> Self {
        let mut wish = Self::with(need, None);
        let (node, shape) = (&known.update.node, &need.shape);
        let called = |wanted: &String| node.id.as_str() == wanted || node.name == *wanted;
        let labelled = shape.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value));
        wish.called = Mask::either(shape.node.as_ref().is_none_or(called));
        wish.labelled = Mask::either(labelled);
        wish.holding = Mask::either(need.fetches.as_ref().is_none_or(|source| known.holds(source)));
        wish
    }

    /// The best node, if any fits. One that could not be better than what was found is not looked at closely.
    pub(super) fn best(&self, fleet: &Fleet) -> Option<u32> {
        let mut best: Option<(Score, u32)> = None;
        let mut copies = Copies::of(self.copies);
        for (slot, brief) in fleet.briefs() {
            let here = copies.at(slot);
            if best.is_some_and(|(best, _)| self.at_best(slot, brief, here) > best) {
                continue;
            }
            if let Ok(score) = self.fits(fleet, slot, brief, here)
                && best.is_none_or(|(best, _)| score < best)
            {
                best = Some((score, slot));
            }
        }
        best.map(|(_, slot)| slot)
    }

    /// What each node says, by slot.
    pub(super) fn each(&self, fleet: &Fleet) -> impl Iterator<Item = (u32, Result<Score, Reason>)> {
        let mut copies = Copies::of(self.copies);
        fleet.briefs().map(move |(slot, brief)| (slot, self.fits(fleet, slot, brief, copies.at(slot))))
    }

    /// Whether a node fits, and how well.
    #[inline]
    pub(super) fn fits(&self, fleet: &Fleet, slot: u32, brief: &Brief, copies: u32) -> Result<Score, Reason> {
        if !self.called.has(slot) {
            return Err(if brief.state == State::Unknown { Reason::Unknown } else { Reason::OtherNode });
        }
        match brief.state {
            State::Open => {}
            State::Unknown => return Err(Reason::Unknown),
            State::Offline => return Err(Reason::Offline),
            State::Suspect => return Err(Reason::Suspect),
            State::Cordoned => return Err(Reason::Cordoned),
            State::Draining => return Err(Reason::Draining),
        }
        let shape = &self.need.shape;
        if !self.labelled.has(slot) {
            return Err(Reason::Label);
        }
        if brief.runtimes & self.runtime == 0 {
            return Err(Reason::Runtime);
        }
        if shape.cores > brief.free_cores {
            return Err(Reason::Cores);
        }
        let (room, small) = match shape.gpu.count {
            0 => (brief.free_cores, false),
            _ => self.gpus(fleet, slot, brief)?,
        };
        let fetches = self.must_fetch(slot);
        if fetches && brief.disk_gib < self.disk_gib {
            return Err(Reason::Disk);
        }
        Ok(self.score(brief, copies, room, small, fetches))
    }

    /// No worse than the node's score would be if it fitted.
    #[inline]
    fn at_best(&self, slot: u32, brief: &Brief, copies: u32) -> Score {
        let wanted = self.need.shape.gpu.count;
        let room = match self.need.policy {
            _ if wanted == 0 => brief.free_cores,
            Policy::Default | Policy::Spread => u32::from(brief.free_gpu_count),
            Policy::Binpack => wanted,
        };
        self.score(brief, copies, room, false, self.must_fetch(slot))
    }

    #[inline]
    fn must_fetch(&self, slot: u32) -> bool {
        self.need.fetches.is_some() && !self.holding.has(slot)
    }

    #[inline]
    fn score(&self, brief: &Brief, copies: u32, room: u32, small: bool, fetches: bool) -> Score {
        let (copies, policy, then) = match self.need.policy {
            Policy::Default => (copies, MOST - room.min(MOST), 0),
            Policy::Spread => (copies, brief.replicas, u32::MAX - room),
            Policy::Binpack if self.need.shape.gpu.count > 0 => (0, room, brief.free_cores),
            // Nodes with GPUs are left for those that need one.
            Policy::Binpack => (0, room, u32::from(brief.free_gpu_count)),
        };
        let high = u32::from(small) << 31 | copies.min(MOST);
        let low = u32::from(fetches) << 31 | policy.min(MOST);
        let words = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        Score { first: words(high, low), then: words(then, brief.order) }
    }

    /// How many GPUs fit, if they are enough, and whether they are smaller than the hint says.
    #[inline]
    fn gpus(&self, fleet: &Fleet, slot: u32, brief: &Brief) -> Result<(u32, bool), Reason> {
        let gpu = &self.need.shape.gpu;
        if brief.gpu_types == 0 {
            return Err(Reason::NoGpu);
        }
        if u32::from(brief.free_gpu_count) < gpu.count
            || brief.most_mib < self.memory_mib
            || !self.typed.has(slot)
        {
            return Err(Reason::Gpus);
        }
        let small = brief.most_mib < self.hint_mib;
        let alike = brief.least_mib >= self.memory_mib && (small || brief.least_mib >= self.hint_mib);
        if brief.gpu_types == 1 && alike && self.types_are_known {
            let out = if gpu.memory_bytes == 0 { brief.crowded & brief.free_gpus } else { 0 };
            let fit = u32::from(brief.free_gpu_count) - if out == 0 { 0 } else { out.count_ones() };
            return if fit >= gpu.count { Ok((fit, small)) } else { Err(Reason::Gpus) };
        }
        let known = fleet.known(slot).ok_or(Reason::Unknown)?;
        self.pick(known, brief).map(|pick| (pick.fit, pick.small)).ok_or(Reason::Gpus)
    }

    /// The type of GPU to break into: the one with the fewest that fit and suffice, large enough ones first.
    fn pick(&self, known: &Known, brief: &Brief) -> Option<Pick> {
        let wanted = self.need.shape.gpu.count;
        let (mut fit, mut best) = (0, None);
        for (place, gpus) in known.types().enumerate() {
            let (mut here, mut large) = (0, 0);
            for (gpu, _) in gpus.filter(|(gpu, bit)| self.takes(brief, gpu, *bit)) {
                here += 1;
                large += u32::from(gpu.usable >= self.hint);
            }
            fit += here;
            let found = (large < wanted, here, place);
            if here >= wanted && best.is_none_or(|best| found < best) {
                best = Some(found);
            }
        }
        best.map(|(small, _, place)| Pick { place, fit, small })
    }

    fn takes(&self, brief: &Brief, gpu: &Gpu, bit: u32) -> bool {
        let wanted = self.need.shape.gpu.memory_bytes;
        let room = if wanted == 0 { !gpu.crowded } else { gpu.usable >= wanted };
        brief.free_gpus & bit != 0 && room && self.kind.as_ref().is_none_or(|kind| gpu.kind.contains(kind))
    }

    /// Which GPUs of a node that fits: all of one type, the lowest devices first.
    pub(super) fn devices(&self, known: &Known, brief: &Brief) -> Vec<u32> {
        let wanted = self.need.shape.gpu.count;
        let Some(pick) = self.pick(known, brief).filter(|_| wanted > 0) else { return Vec::new() };
        let takes = |(gpu, bit): &(&Gpu, u32)| {
            self.takes(brief, gpu, *bit) && (pick.small || gpu.usable >= self.hint)
        };
        let gpus = known.types().nth(pick.place).into_iter().flatten().filter(takes);
        gpus.take(wanted as usize).map(|(gpu, _)| gpu.device).collect()
    }

    /// The most GPUs of one type that fit.
    pub(super) fn most_alike(&self, known: &Known, brief: &Brief) -> usize {
        let fit = |(gpu, bit): &(&Gpu, u32)| self.takes(brief, gpu, *bit);
        known.types().map(|gpus| gpus.filter(fit).count()).max().unwrap_or(0)
    }
}
