//! A deployment in words: what is wanted, what is, and all of it in one line.

use std::fmt::Write as _;

use super::{Is, Wanted};
use crate::domain::deployment::{Autoscale, Deployment, DeploymentSpec, Desired, Phase, Replica};

/// What is wanted.
pub(super) fn wanted(dep: &Deployment) -> Wanted {
    Wanted {
        summary: match dep.desired {
            Desired::Running => wish(&dep.spec),
            Desired::Stopped => "stopped".to_owned(),
            Desired::Deleted => "deleted".to_owned(),
        },
        desired_state: dep.desired,
        replicas: dep.spec.replicas,
        autoscale: dep.spec.autoscale,
        generation: dep.generation.0,
    }
}

/// `2 replicas of org/m by vllm, each with 1 GPU of type H100 with 80.0 GB, on node "a"`.
fn wish(spec: &DeploymentSpec) -> String {
    let mut text = format!("{} of {} by {}", count(spec.replicas, "replica"), spec.model, spec.runtime);
    let mut needs = Vec::new();
    if spec.gpu.count > 0 {
        let mut gpu = count(spec.gpu.count, "GPU");
        if let Some(kind) = &spec.gpu.kind {
            let _ = write!(gpu, " of type {kind}");
        }
        if spec.gpu.memory_bytes > 0 {
            let _ = write!(gpu, " with {}", gigabytes(spec.gpu.memory_bytes));
        }
        needs.push(gpu);
    }
    if spec.cpu.cores > 0 {
        needs.push(count(spec.cpu.cores, "core"));
    }
    if !needs.is_empty() {
        let _ = write!(text, ", each with {}", needs.join(" and "));
    }
    if let Some(node) = &spec.node {
        let _ = write!(text, ", on node \"{node}\"");
    }
    for (key, value) in &spec.labels {
        let _ = write!(text, ", on nodes with {key}={value}");
    }
    if let Some(Autoscale { min, max, target, .. }) = &spec.autoscale {
        let _ = write!(text, "; {min} to {max} by load, for {target} requests in flight each");
    }
    text
}

/// What is.
pub(super) fn is(dep: &Deployment) -> Is {
    let running = running(dep);
    let mut summary = format!("{}: {}", dep.state().as_str(), of_replicas(running, dep.spec.replicas));
    let leaving = dep.replicas.iter().filter(|replica| replica.leaving).count();
    if leaving > 0 {
        let _ = write!(summary, ", {leaving} on the way out");
    }
    Is { summary, running, replicas: dep.replicas.len(), changing: dep.previous.is_some() }
}

/// All of it in one line; `taken_back`: the last change of what runs had failed.
pub(super) fn summary(dep: &Deployment, taken_back: bool) -> String {
    let mut summary = stands_as_a_whole(dep);
    if taken_back && dep.desired == Desired::Running && dep.previous.is_none() {
        summary.push_str("; its last change was taken back");
    }
    summary
}

fn stands_as_a_whole(dep: &Deployment) -> String {
    let name = &dep.name;
    let (running, wanted) = (running(dep), dep.spec.replicas);
    match dep.desired {
        Desired::Deleted => {
            format!("{name} is being deleted: {} to end", count_of(dep.replicas.len(), "replica"))
        }
        Desired::Stopped if dep.state() == Phase::Stopped => format!("{name} is stopped, as was wanted"),
        Desired::Stopped => {
            let left = dep.replicas.iter().filter(|replica| replica.phase != Phase::Stopped).count();
            format!("{name} is stopping, as was wanted: {} to end", count_of(left, "replica"))
        }
        Desired::Running if wanted == 0 => match &dep.spec.autoscale {
            Some(auto) if auto.min == 0 => {
                format!("{name} has no replica because nobody asks for it; the next request starts one")
            }
            _ => format!("{name} has no replica because 0 are wanted"),
        },
        Desired::Running if dep.previous.is_some() => {
            let new = |replica: &&Replica| !replica.leaving && replica.revision == dep.revision;
            let ready = dep.replicas.iter().filter(new).filter(|r| r.phase == Phase::Running).count();
            let late = staying(dep).filter(|r| r.phase != Phase::Running).min_by_key(|r| urgency(r.phase));
            let late = late.map(|replica| format!("; {}", stands_of_several(replica))).unwrap_or_default();
            format!("{name} is being changed: {ready} of {wanted} replicas run the new version{late}")
        }
        Desired::Running if running >= wanted as usize => {
            format!("{name} runs as wanted: {}", of_replicas(running, wanted))
        }
        Desired::Running => {
            let worst = staying(dep).filter(|r| r.phase != Phase::Running).min_by_key(|r| urgency(r.phase));
            if let (Some(only), 1) = (worst, wanted) {
                return stands(name, only);
            }
            let why = worst.map(|replica| format!("; {}", stands_of_several(replica))).unwrap_or_default();
            let verb = if running > 0 { "runs in part" } else { stood(dep.state()) };
            format!("{name} {verb}: {}{why}", of_replicas(running, wanted))
        }
    }
}

/// Whether a line of the journal tells of a change of what runs.
pub(super) fn tells_of_a_change(kind: &str) -> bool {
    matches!(kind, "change_started" | "change_done" | "change_failed" | "rolled_back")
}

/// The exit code that a message of an agent names.
pub(super) fn exit_code_in(message: &str) -> Option<i32> {
    let marks = ["exited with code ", "exit code "];
    let after = marks.into_iter().find_map(|mark| message.split_once(mark).map(|(_, after)| after))?;
    let sign = after.starts_with('-').into();
    let digits = after.bytes().skip(sign).take_while(u8::is_ascii_digit).count();
    after.get(..sign + digits)?.parse().ok()
}

fn staying(dep: &Deployment) -> impl Iterator<Item = &Replica> {
    dep.replicas.iter().filter(|replica| !replica.leaving)
}

fn running(dep: &Deployment) -> usize {
    staying(dep).filter(|replica| replica.phase == Phase::Running).count()
}

fn stands_of_several(replica: &Replica) -> String {
    stands(&format!("replica {}", replica.index), replica)
}

/// `replica 1 on gpu-2 has failed: the runtime exited with code 1`.
fn stands(who: &str, replica: &Replica) -> String {
    let place = replica.placement.as_ref().map(|place| format!(" on {}", place.node_name));
    let mut text = format!("{who}{} {}", place.unwrap_or_default(), stood(replica.phase));
    let told = replica.told();
    let first = told.lines().next().unwrap_or_default();
    // What follows on other lines is the end of the log, which is told elsewhere.
    let first = first.strip_suffix("; its last lines:").unwrap_or(first);
    if !first.is_empty() {
        let _ = write!(text, ": {first}");
    }
    text
}

fn stood(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "waits for a place",
        Phase::Preparing => "is being prepared",
        Phase::Starting => "is starting",
        Phase::Running => "runs",
        Phase::Unreachable => "is unreachable",
        Phase::Stopping => "is stopping",
        Phase::Stopped => "is stopped",
        Phase::Failed => "has failed",
        Phase::Deleting => "is being deleted",
    }
}

/// Which of several troubles is told first: the lowest.
fn urgency(phase: Phase) -> u8 {
    match phase {
        Phase::Failed => 0,
        Phase::Unreachable => 1,
        Phase::Pending => 2,
        Phase::Starting => 3,
        Phase::Preparing => 4,
        Phase::Stopping | Phase::Stopped | Phase::Deleting => 5,
        Phase::Running => 6,
    }
}

fn of_replicas(running: usize, wanted: u32) -> String {
    let verb = if running == 1 || wanted == 1 { "runs" } else { "run" };
    format!("{running} of {} {verb}", count(wanted, "replica"))
}

fn count(number: u32, what: &str) -> String {
    count_of(number as usize, what)
}

fn count_of(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// In the unit in which GPUs are sold: `80.0 GB`.
fn gigabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000_000;
    format!("{}.{} GB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests;
