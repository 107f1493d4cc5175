//! In words: why a node does not fit. Only when none does, or somebody asks.

use std::collections::BTreeMap;

use nebula_core::ids::NodeId;
use serde::Serialize;

use super::choice::{Reason, Score, Wish};
use super::fleet::{Fleet, Known};

/// How many nodes a refusal names.
const NAMED_MAX: usize = 5;

/// How many nodes that fit an explanation names.
const FITS_MAX: usize = 10;

/// Of how many nodes that do not fit an explanation tells the reason.
const REFUSED_MAX: usize = 200;

/// What every node says to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The names of nodes that fit, the best first; ten at most.
    pub fits: Vec<String>,
    /// Nodes that do not, the nearest to it first; 200 at most.
    pub refused: Vec<Refusal>,
    /// How many more do not.
    pub more: usize,
    /// Why no node fits, in one line; empty when one does.
    pub said: String,
}

/// Why one node does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The node.
    pub node_id: NodeId,
    /// For people.
    pub node_name: String,
    /// One line.
    pub reason: String,
}

/// Why no node fits, in one line that names some of them and counts the others.
pub(super) fn refusal(wish: &Wish<'_>, fleet: &Fleet) -> String {
    let (_, mut refused) = sorted(wish, fleet);
    if refused.is_empty() {
        return "no node has joined yet; start nebula-agent on one".to_owned();
    }
    if let Some(wanted) = &wish.need.shape.node {
        refused.retain(|(_, _, reason)| *reason != Reason::OtherNode);
        if refused.is_empty() {
            return format!("no node is called \"{wanted}\"; `nebulactl nodes list` shows those there are");
        }
    }
    let named = refused.iter().take(NAMED_MAX).filter_map(|(_, slot, reason)| {
        let known = fleet.known(*slot)?;
        Some(format!("{}: {}", known.update.node.name, words(*reason, *slot, known, wish, fleet)))
    });
    let mut text = format!("no node fits: {}", named.collect::<Vec<_>>().join("; "));
    let more = refused.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        let mut counts: BTreeMap<Reason, usize> = BTreeMap::new();
        for (_, _, reason) in refused.iter().skip(NAMED_MAX) {
            *counts.entry(*reason).or_default() += 1;
        }
        let counts = counts.iter().rev().map(|(reason, count)| format!("{count} {}", summary(*reason)));
        text.push_str(&format!("; and {more} more: {}", counts.collect::<Vec<_>>().join(", ")));
    }
    text
}

/// What every node says.
pub(super) fn explanation(wish: &Wish<'_>, fleet: &Fleet) -> Explanation {
    let (fits, refused) = sorted(wish, fleet);
    let said = if fits.is_empty() { refusal(wish, fleet) } else { String::new() };
    let name = |slot: &u32| fleet.known(*slot).map(|known| known.update.node.name.clone());
    let told = refused.iter().take(REFUSED_MAX).filter_map(|(_, slot, reason)| {
        let known = fleet.known(*slot)?;
        Some(Refusal {
            node_id: known.update.node.id.clone(),
            node_name: known.update.node.name.clone(),
            reason: words(*reason, *slot, known, wish, fleet),
        })
    });
    Explanation {
        fits: fits.iter().take(FITS_MAX).filter_map(|(_, slot)| name(slot)).collect(),
        refused: told.collect(),
        more: refused.len().saturating_sub(REFUSED_MAX),
        said,
    }
}

/// A node that does not fit: first those whose reason is not that another is asked for; then by id. Its slot, and why.
type Refused = ((bool, u32), u32, Reason);

/// Those that fit, the best first, and the others.
fn sorted(wish: &Wish<'_>, fleet: &Fleet) -> (Vec<(Score, u32)>, Vec<Refused>) {
    let (mut fits, mut refused) = (Vec::new(), Vec::new());
    for (slot, fit) in wish.each(fleet) {
        match fit {
            Ok(score) => fits.push((score, slot)),
            Err(Reason::Unknown) => {}
            Err(reason) => {
                refused.push(((reason == Reason::OtherNode, fleet.brief(slot).order), slot, reason));
            }
        }
    }
    fits.sort_unstable();
    refused.sort_unstable();
    (fits, refused)
}

fn words(reason: Reason, slot: u32, known: &Known, wish: &Wish<'_>, fleet: &Fleet) -> String {
    let (node, shape, brief) = (&known.update.node, &wish.need.shape, fleet.brief(slot));
    match reason {
        Reason::Unknown | Reason::OtherNode => "another node is asked for".to_owned(),
        Reason::Offline => "is offline".to_owned(),
        Reason::Suspect => "is suspect: not heard from lately".to_owned(),
        Reason::Cordoned => "is cordoned".to_owned(),
        Reason::Draining => "is being drained".to_owned(),
        Reason::Label => {
            let lacking = shape.labels.iter().find(|(key, value)| node.labels.get(*key) != Some(value));
            lacking.map_or_else(String::new, |(key, value)| format!("lacks the label {key}={value}"))
        }
        Reason::Runtime => match shape.runtime {
            Some(runtime) => format!("does not run {runtime}"),
            None => "runs nothing".to_owned(),
        },
        Reason::Cores => {
            let all = node.capabilities.cpu_cores;
            format!("{} of {all} cores free, {} wanted", brief.free_cores, shape.cores)
        }
        Reason::NoGpu => "has no GPU".to_owned(),
        Reason::Gpus => gpus(known, wish.most_alike(known, brief), shape.gpu.count),
        Reason::Disk => {
            let gib = |bytes: u64| bytes.div_ceil(1 << 30);
            let (free, wanted) = (brief.disk_gib, gib(wish.disk));
            format!("{free} GiB of disk are free, {wanted} GiB wanted to fetch the model")
        }
    }
}

/// How many fit, and what keeps others out besides that they are taken or other ones.
fn gpus(known: &Known, fit: usize, wanted: u32) -> String {
    let all = known.gpus.len();
    let mut text = format!("{fit} of {all} GPUs are free and fit, {wanted} of one type wanted");
    if let Some(gpu) = known.gpus.iter().find(|gpu| !gpu.problem.is_empty()) {
        text.push_str(&format!(" (GPU {}: {})", gpu.device, gpu.problem));
    }
    let crowded = known.gpus.iter().filter(|gpu| gpu.crowded).count();
    if crowded > 0 {
        text.push_str(&format!(" (others use most of the memory of {crowded})"));
    }
    text
}

/// What many nodes have in common.
fn summary(reason: Reason) -> &'static str {
    match reason {
        Reason::Unknown | Reason::OtherNode => "not asked for",
        Reason::Offline => "offline",
        Reason::Suspect => "suspect",
        Reason::Cordoned => "cordoned",
        Reason::Draining => "being drained",
        Reason::Label => "without a label",
        Reason::Runtime => "without the runtime",
        Reason::Cores => "without enough free cores",
        Reason::NoGpu => "without a GPU",
        Reason::Gpus => "without enough free GPUs that fit",
        Reason::Disk => "without enough disk",
    }
}
