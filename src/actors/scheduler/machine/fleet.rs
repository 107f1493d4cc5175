//! The picture of the nodes: of each what it has, what is taken of it, and in brief what is left.
//!
//! A node has a slot: its number here. The briefs of all are one flat list, so that a choice reads little memory, and
//! each is worked out anew when its node or what is taken there changes.

use std::collections::BTreeMap;

use nebula_core::ids::{NodeId, ReplicaId};
use nebula_core::runtime::RuntimeKind;

use super::index::{Index, Mask};
use crate::actors::registry::machine::NodeUpdate;
use crate::domain::node::{Availability, Scheduling, Usage, may_schedule};

/// GPUs of one node that count: they are bits of a word. Agents may have as many.
const GPUS_MAX: usize = 32;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// All nodes that are known, and those of which something is reserved.
#[derive(Default)]
pub(super) struct Fleet {
    by_id: BTreeMap<NodeId, u32>,
    slots: Vec<Option<Slot>>,
    briefs: Vec<Brief>,
    vacant: Vec<u32>,
    /// The briefs' `order` is right.
    ordered: bool,
    filed: Filed,
}

/// The nodes by every text under which one is looked for.
#[derive(Default)]
struct Filed {
    names: Index,
    labels: Index,
    gpu_types: Index,
    models: Index,
}

impl Filed {
    fn each(&mut self, known: &Known, mut with: impl FnMut(&mut Index, &str)) {
        let node = &known.update.node;
        with(&mut self.names, &node.name);
        node.labels.iter().for_each(|(key, value)| with(&mut self.labels, &label(key, value)));
        known.gpus.iter().for_each(|gpu| with(&mut self.gpu_types, &gpu.kind));
        known.models().iter().for_each(|model| with(&mut self.models, model));
    }
}

/// A label as one text.
fn label(key: &str, value: &str) -> String {
    format!("{key}\n{value}")
}

/// One node.
pub(super) struct Slot {
    id: NodeId,
    /// None: something is reserved here, and the registry has not spoken of the node yet, or has forgotten it.
    pub(super) known: Option<Known>,
    taken: Taken,
}

/// What the registry and the node's session say.
pub(super) struct Known {
    pub(super) update: NodeUpdate,
    usage: Option<Usage>,
    /// Its GPUs, by type and then by device.
    pub(super) gpus: Vec<Gpu>,
}

/// One GPU as it is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gpu {
    /// In lower case.
    pub(super) kind: String,
    /// Its type's number on this node.
    pub(super) type_number: usize,
    pub(super) device: u32,
    /// Without what others use.
    pub(super) usable: u64,
    /// Others use more than half of it.
    pub(super) crowded: bool,
    /// Why it is out; empty: it is not.
    pub(super) problem: String,
}

/// What is reserved on a node.
#[derive(Default)]
struct Taken {
    /// How often each device is. Records that contradict each other may reserve one twice.
    devices: BTreeMap<u32, u32>,
    cores: u64,
    replicas: u32,
}

/// A share of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) devices: Vec<u32>,
    pub(super) cores: u32,
}

/// Whether a node takes replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unknown,
    Open,
    Offline,
    Suspect,
    Cordoned,
    Draining,
}

impl State {
    fn of(update: &NodeUpdate) -> Self {
        match (update.availability, update.node.scheduling) {
            (availability, scheduling) if may_schedule(availability, scheduling) => Self::Open,
            (Availability::Offline, _) => Self::Offline,
            (Availability::Suspect, _) => Self::Suspect,
            (Availability::Online, Scheduling::Draining | Scheduling::Drained) => Self::Draining,
            (Availability::Online, Scheduling::Cordoned | Scheduling::Schedulable) => Self::Cordoned,
        }
    }
}

/// What is left of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Brief {
    /// Its place among all nodes by id.
    pub(super) order: u32,
    pub(super) state: State,
    /// The engines that it runs.
    pub(super) runtimes: u8,
    /// How many types of GPU it has: none, one or several.
    pub(super) gpu_types: u8,
    pub(super) free_cores: u32,
    /// Replicas that have their place here.
    pub(super) replicas: u32,
    /// A bit for each GPU that is well and not reserved.
    pub(super) free_gpus: u32,
    /// How many these are: counting bits is not cheap everywhere.
    pub(super) free_gpu_count: u8,
    /// A bit for each GPU of which others use more than half.
    pub(super) crowded: u32,
    /// What every free GPU has at least, in MiB.
    pub(super) least_mib: u32,
    /// What no free GPU has more than, in MiB.
    pub(super) most_mib: u32,
    /// Free disk space in GiB; `u32::MAX`: not known.
    pub(super) disk_gib: u32,
}

impl Brief {
    const UNKNOWN: Self = Self {
        order: 0,
        state: State::Unknown,
        runtimes: 0,
        gpu_types: 0,
        free_cores: 0,
        replicas: 0,
        free_gpus: 0,
        free_gpu_count: 0,
        crowded: 0,
        least_mib: 0,
        most_mib: 0,
        disk_gib: 0,
    };

    /// Whether something may fit that did not while it was `before`; GPUs aside, whose change is one of the node.
    fn has_more_than(&self, before: &Self) -> bool {
        self.state == State::Open
            && (before.state != State::Open
                || self.free_cores > before.free_cores
                || self.disk_gib > before.disk_gib)
    }
}

fn whole(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The bit of an engine.
pub(super) fn runtime_bit(runtime: RuntimeKind) -> u8 {
    let place = RuntimeKind::ALL.iter().position(|known| *known == runtime);
    place.and_then(|place| 1_u8.checked_shl(u32::try_from(place).ok()?)).unwrap_or(0)
}

fn runtimes(update: &NodeUpdate) -> u8 {
    let named = &update.node.capabilities.supported_runtimes;
    let runs = |runtime: &RuntimeKind| named.iter().any(|name| name == runtime.as_str());
    match named.is_empty() {
        true => u8::MAX,
        false => {
            RuntimeKind::ALL.into_iter().filter(runs).fold(0, |bits, runtime| bits | runtime_bit(runtime))
        }
    }
}

impl Known {
    fn new(update: NodeUpdate, usage: Option<Usage>) -> Self {
        let used = |uuid: &str| usage.iter().flat_map(|usage| &usage.gpus).find(|gpu| gpu.uuid == uuid);
        let offered = |gpu: &crate::domain::node::Gpu| {
            let used = used(&gpu.uuid).filter(|_| !gpu.uuid.is_empty());
            let others = used.map_or(0, |used| used.used_by_others_bytes);
            Gpu {
                kind: gpu.name.to_ascii_lowercase(),
                type_number: 0,
                device: gpu.index,
                usable: gpu.memory_bytes.saturating_sub(others),
                crowded: others > gpu.memory_bytes / 2,
                problem: used.map(|used| used.problem.clone()).unwrap_or_default(),
            }
        };
        let mut gpus: Vec<Gpu> = update.node.capabilities.gpus.iter().map(offered).collect();
        gpus.sort_by_key(|gpu| gpu.device);
        gpus.dedup_by_key(|gpu| gpu.device);
        gpus.truncate(GPUS_MAX);
        gpus.sort_by(|a, b| (&a.kind, a.device).cmp(&(&b.kind, b.device)));
        for (number, alike) in gpus.chunk_by_mut(|a, b| a.kind == b.kind).enumerate() {
            alike.iter_mut().for_each(|gpu| gpu.type_number = number);
        }
        Self { update, usage, gpus }
    }

    /// Its GPUs of each type, with their bits.
    pub(super) fn types(&self) -> impl Iterator<Item = impl Iterator<Item = (&Gpu, u32)>> {
        let mut first = 0_u32;
        self.gpus.chunk_by(|a, b| a.type_number == b.type_number).map(move |gpus| {
            let bits = first..;
            first += u32::try_from(gpus.len()).unwrap_or(0);
            gpus.iter().zip(bits.map(|bit| 1_u32.checked_shl(bit).unwrap_or(0)))
        })
    }

    pub(super) fn disk_free(&self) -> Option<u64> {
        self.usage.as_ref()?.disk_free_bytes
    }

    fn models(&self) -> &[String] {
        self.usage.as_ref().map_or(&[], |usage| &usage.models)
    }

    pub(super) fn holds(&self, model: &str) -> bool {
        self.models().iter().any(|held| held == model)
    }

    fn brief(&self, taken: &Taken, order: u32) -> Brief {
        let mut brief = Brief {
            order,
            state: State::of(&self.update),
            runtimes: runtimes(&self.update),
            gpu_types: self.gpus.last().map_or(0, |gpu| if gpu.type_number == 0 { 1 } else { 2 }),
            free_cores: self.update.node.capabilities.cpu_cores.saturating_sub(taken.cores()),
            replicas: taken.replicas,
            least_mib: u32::MAX,
            disk_gib: self.disk_free().map_or(u32::MAX, |bytes| whole(bytes / GIB)),
            ..Brief::UNKNOWN
        };
        for (gpu, bit) in self.types().flatten() {
            if gpu.problem.is_empty() && !taken.devices.contains_key(&gpu.device) {
                brief.free_gpus |= bit;
                brief.free_gpu_count += 1;
                brief.least_mib = brief.least_mib.min(whole(gpu.usable / MIB));
                brief.most_mib = brief.most_mib.max(whole(gpu.usable.div_ceil(MIB)));
            }
            if gpu.crowded {
                brief.crowded |= bit;
            }
        }
        brief
    }

    /// What others compare requests with, besides what the brief says.
    fn is_like(&self, other: &Self) -> bool {
        let (a, b) = (&self.update.node, &other.update.node);
        a.name == b.name
            && a.labels == b.labels
            && a.capabilities.supported_runtimes == b.capabilities.supported_runtimes
            && self.gpus == other.gpus
            && self.models() == other.models()
    }
}

impl Taken {
    fn cores(&self) -> u32 {
        u32::try_from(self.cores).unwrap_or(u32::MAX)
    }

    fn add(&mut self, share: &Share) {
        for device in &share.devices {
            *self.devices.entry(*device).or_default() += 1;
        }
        self.cores += u64::from(share.cores);
        self.replicas += 1;
    }

    fn remove(&mut self, share: &Share) {
        for device in &share.devices {
            if let Some(count) = self.devices.get_mut(device) {
                *count -= 1;
                if *count == 0 {
                    self.devices.remove(device);
                }
            }
        }
        self.cores -= u64::from(share.cores);
        self.replicas -= 1;
    }
}

impl Fleet {
    /// How many slots there are, those of no node among them.
    pub(super) fn size(&self) -> usize {
        self.briefs.len()
    }

    pub(super) fn briefs(&self) -> impl Iterator<Item = (u32, &Brief)> {
        (0..).zip(&self.briefs)
    }

    pub(super) fn brief(&self, slot: u32) -> &Brief {
        self.briefs.get(slot as usize).unwrap_or(&Brief::UNKNOWN)
    }

    pub(super) fn known(&self, slot: u32) -> Option<&Known> {
        self.slots.get(slot as usize)?.as_ref()?.known.as_ref()
    }

    pub(super) fn find(&self, node: &NodeId) -> Option<u32> {
        self.by_id.get(node).copied()
    }

    /// The node with this id, if any, and those with this name.
    pub(super) fn called(&self, node: &str) -> Mask {
        let by_id = node.parse().ok().and_then(|id| self.find(&id));
        Mask::of(by_id.iter(), self.size()).or(self.filed.names.mask(node, self.size()))
    }

    pub(super) fn labelled(&self, key: &str, value: &str) -> Mask {
        self.filed.labels.mask(&label(key, value), self.size())
    }

    pub(super) fn with_gpus_like(&self, part: &str) -> Mask {
        self.filed.gpu_types.mask_of_part(part, self.size())
    }

    pub(super) fn with_model(&self, source: &str) -> Mask {
        self.filed.models.mask(source, self.size())
    }

    /// The registry says how a node stands. Answers its slot if something may fit there now that did not before.
    pub(super) fn set_node(&mut self, update: NodeUpdate) -> Option<u32> {
        let slot = self.slot_of(&update.node.id);
        let usage = self.known(slot).and_then(|known| known.usage.clone());
        self.replace(slot, Some(Known::new(update, usage)))
    }

    /// A session says what its node uses. Answers as `set_node`; of a node that is not known nothing is kept.
    pub(super) fn set_usage(&mut self, node: &NodeId, usage: Usage) -> Option<u32> {
        let slot = self.find(node)?;
        let update = self.known(slot)?.update.clone();
        self.replace(slot, Some(Known::new(update, Some(usage))))
    }

    /// Whether a node is known, and not what it uses.
    pub(super) fn lacks_usage(&self, node: &NodeId) -> bool {
        let known = self.find(node).and_then(|slot| self.known(slot));
        known.is_some_and(|known| known.usage.is_none())
    }

    /// Whether the node in this slot said last that this replica lives there.
    pub(super) fn has_living(&self, slot: u32, replica: ReplicaId) -> bool {
        let usage = self.known(slot).and_then(|known| known.usage.as_ref());
        usage.is_some_and(|usage| usage.living.contains(&replica))
    }

    /// The registry has forgotten a node.
    pub(super) fn forget(&mut self, node: &NodeId) {
        if let Some(slot) = self.find(node) {
            self.replace(slot, None);
            self.vacate(slot);
        }
    }

    /// Takes a share of a node, known or not. Answers its slot.
    pub(super) fn take(&mut self, node: &NodeId, share: &Share) -> u32 {
        let slot = self.slot_of(node);
        if let Some(Some(found)) = self.slots.get_mut(slot as usize) {
            found.taken.add(share);
        }
        self.refresh(slot);
        slot
    }

    /// Gives a share back.
    pub(super) fn give_back(&mut self, slot: u32, share: &Share) {
        if let Some(Some(found)) = self.slots.get_mut(slot as usize) {
            found.taken.remove(share);
        }
        self.refresh(slot);
        self.vacate(slot);
    }

    /// Numbers the nodes by id, if some came or went.
    pub(super) fn put_in_order(&mut self) {
        if std::mem::replace(&mut self.ordered, true) {
            return;
        }
        for (order, slot) in (0..).zip(self.by_id.values()) {
            if let Some(brief) = self.briefs.get_mut(*slot as usize) {
                brief.order = order;
            }
        }
    }

    fn slot_of(&mut self, id: &NodeId) -> u32 {
        if let Some(slot) = self.find(id) {
            return slot;
        }
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.briefs.push(Brief::UNKNOWN);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(Slot { id: id.clone(), known: None, taken: Taken::default() });
        }
        self.by_id.insert(id.clone(), slot);
        self.ordered = false;
        slot
    }

    /// Frees the slot of a node that is not known and of which nothing is reserved.
    fn vacate(&mut self, slot: u32) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        if let Some(empty) = place.take_if(|found| found.known.is_none() && found.taken.replicas == 0) {
            self.by_id.remove(&empty.id);
            self.vacant.push(slot);
            self.ordered = false;
        }
    }

    fn replace(&mut self, slot: u32, new: Option<Known>) -> Option<u32> {
        let before = *self.brief(slot);
        let place = self.slots.get_mut(slot as usize)?.as_mut()?;
        let old = std::mem::replace(&mut place.known, new);
        let new = place.known.as_ref();
        let other = old.as_ref().zip(new).is_none_or(|(old, new)| !old.is_like(new));
        if other {
            if let Some(known) = &old {
                self.filed.each(known, |index, text| index.remove(text, slot));
            }
            if let Some(known) = new {
                self.filed.each(known, |index, text| index.add(text, slot));
            }
        }
        self.refresh(slot);
        let now = self.brief(slot);
        (now.state == State::Open && other || now.has_more_than(&before)).then_some(slot)
    }

    fn refresh(&mut self, slot: u32) {
        let Some(brief) = self.briefs.get_mut(slot as usize) else { return };
        let found = self.slots.get(slot as usize).and_then(Option::as_ref);
        *brief = match found.and_then(|found| Some((found.known.as_ref()?, &found.taken))) {
            Some((known, taken)) => known.brief(taken, brief.order),
            None => Brief { order: brief.order, ..Brief::UNKNOWN },
        };
    }
}
