//! One GPU: what it is, how it does, and what keeps it from being used.

use std::collections::BTreeSet;

use nebula_core::clock::Tick;

use super::{Facts, Fault, GOOD_SAMPLES, Process, RecoveryAction, Sample, XID_QUIET};
use crate::gpu::inventory::{Gpu, Stats};

/// The problem of a GPU that will be looked at in a moment.
pub(super) const UNREAD: &str = "was not read yet";

/// What keeps a GPU from being used until it answers well again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It was not sampled yet.
    Unread,
    /// A call about it does not return.
    Hung,
    /// The driver has lost it, or answers with an error of its own.
    Lost(Fault),
    /// The driver wants it recovered.
    Recovery,
    /// The driver does not list it any more.
    Unlisted,
    /// There is no driver any more; why.
    Away(String),
}

/// The last fatal XID.
#[derive(Clone, Copy, Debug)]
struct Fatal {
    xid: u64,
    what: &'static str,
    at: Tick,
}

/// One GPU.
#[derive(Debug)]
pub(super) struct Slot {
    index: u32,
    facts: Facts,
    stats: Stats,
    processes: Vec<Process>,
    action: RecoveryAction,
    trouble: Option<Trouble>,
    /// Good samples that are still missing for the trouble to be over.
    missing: u32,
    fatal: Option<Fatal>,
}

impl Slot {
    pub(super) fn new(index: u32) -> Self {
        Self {
            index,
            facts: Facts::default(),
            stats: Stats::default(),
            processes: Vec::new(),
            action: RecoveryAction::None,
            trouble: Some(Trouble::Unread),
            missing: 1,
            fatal: None,
        }
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn uuid(&self) -> &str {
        &self.facts.uuid
    }

    pub(super) fn label(&self) -> String {
        Gpu { index: self.index, uuid: self.facts.uuid.clone(), ..Gpu::default() }.label()
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(|process| process.pid)
    }

    pub(super) fn describe(&mut self, facts: Facts) {
        self.facts = facts;
    }

    pub(super) fn trouble(&mut self, trouble: Trouble) {
        self.trouble = Some(trouble);
        self.missing = GOOD_SAMPLES;
    }

    pub(super) fn fatal(&mut self, xid: u64, what: &'static str, at: Tick) {
        self.fatal = Some(Fatal { xid, what, at });
    }

    pub(super) fn forget_xid(&mut self) {
        self.fatal = None;
    }

    pub(super) fn sampled(&mut self, sample: Result<Sample, Fault>, now: Tick) {
        let sample = match sample {
            Ok(sample) => sample,
            Err(fault) => return self.trouble(Trouble::Lost(fault)),
        };
        (self.stats, self.processes, self.action) = (sample.stats, sample.processes, sample.action);
        if self.action != RecoveryAction::None {
            return self.trouble(Trouble::Recovery);
        }
        self.missing = self.missing.saturating_sub(1);
        // Without facts there is no UUID by which it could be used.
        if self.missing > 0 || self.facts.uuid.is_empty() {
            return;
        }
        self.trouble = None;
        self.fatal = self.fatal.filter(|fatal| now.since(fatal.at) < XID_QUIET);
    }

    /// As others see it. `ours` are the processes of this node's replicas.
    pub(super) fn gpu(&self, ours: Option<&BTreeSet<u32>>) -> Gpu {
        let memory_used_by_others_bytes = ours.map_or(0, |ours| self.used_by_others(ours));
        Gpu {
            index: self.index,
            uuid: self.facts.uuid.clone(),
            name: self.facts.name.clone(),
            memory_bytes: self.facts.memory_bytes,
            compute_capability: self.facts.compute_capability.clone(),
            pci_bus_id: self.facts.pci_bus_id.clone(),
            stats: Stats { memory_used_by_others_bytes, ..self.stats },
            problem: self.problem(),
            is_lost: self.is_lost(),
        }
    }

    /// Whether what runs there cannot go on.
    fn is_lost(&self) -> bool {
        let gone = matches!(self.trouble, Some(Trouble::Lost(_) | Trouble::Unlisted | Trouble::Away(_)));
        gone || self.fatal.is_some()
    }

    /// What is used beyond what our processes hold; 0 when that cannot be told.
    fn used_by_others(&self, ours: &BTreeSet<u32>) -> u64 {
        let held = self.processes.iter().filter(|process| ours.contains(&process.pid));
        let held: Option<u64> = held.map(|process| process.bytes).sum();
        held.map_or(0, |held| self.stats.memory_used_bytes.saturating_sub(held))
    }

    /// What keeps it from being used, and what helps.
    fn problem(&self) -> Option<String> {
        let advice = self.action.advice();
        if let Some(Fatal { xid, what, .. }) = self.fatal {
            return Some(format!("{what} (XID {xid}); {advice}"));
        }
        Some(match self.trouble.as_ref()? {
            Trouble::Unread => UNREAD.to_owned(),
            Trouble::Hung => {
                "the driver does not answer about it, so all GPUs' figures may be old; drain the node \
                              and reboot it"
                    .to_owned()
            }
            Trouble::Lost(Fault(what)) => format!("{what}; {advice}"),
            Trouble::Recovery => format!("the driver wants it recovered; {advice}"),
            Trouble::Unlisted => format!("the driver does not list it any more; {advice}"),
            Trouble::Away(error) => format!("the driver is away: {error}"),
        })
    }
}

impl RecoveryAction {
    /// What a person should do.
    fn advice(self) -> String {
        match self {
            Self::None => "drain the node and reset or reboot it".to_owned(),
            Self::Reset | Self::DrainAndReset => "drain the node and reset the GPU".to_owned(),
            Self::Reboot => "drain the node and reboot it".to_owned(),
            Self::DrainPeers => "stop what shares it with other GPUs, then reset it".to_owned(),
            Self::Other(action) => format!("nvidia-smi -q names the recovery action ({action})"),
        }
    }
}
