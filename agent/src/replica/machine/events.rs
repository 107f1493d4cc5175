//! What a replica's machine takes and gives.

use std::sync::Arc;
use std::time::Duration;

use nebula_core::ids::Generation;

use super::FailureReason;
use crate::replica::spec::{Access, Ended, Instance, Spec};

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Event {
    /// Run this. `drain`, here and below: how long requests in flight may take at what runs now; zero: it is ended at
    /// once.
    Start { generation: Generation, spec: Arc<Spec>, access: Access, port: u16, drain: Duration },
    /// Stop and keep the record. No generation: whatever there is; no grace: the usual one.
    Stop { generation: Option<Generation>, grace: Option<Duration>, drain: Duration },
    /// Start again, with the same spec.
    Restart { generation: Option<Generation> },
    /// Stop and leave nothing.
    Delete { generation: Option<Generation>, drain: Duration },
    /// Other credentials. No gateway token: the old one stays.
    SetAccess { access: Access },
    /// What the runtime needs is there, and this port is free.
    Prepared { attempt: u32, port: u16 },
    /// Something it needs is not there.
    PrepareFailed { attempt: u32, reason: FailureReason, message: String },
    /// Something of that is worth a line in the journal.
    Noted { attempt: u32, entry: Entry },
    /// The process or container exists.
    Spawned { attempt: u32, instance: Instance },
    /// It could not be made.
    SpawnFailed { attempt: u32, message: String },
    /// It could not be made because somebody else has its port.
    PortTaken { attempt: u32, message: String },
    /// It is gone.
    Exited { attempt: u32, ended: Ended },
    /// It answered its health check.
    Healthy { attempt: u32 },
    /// It is not healthy yet and got on with it.
    Progressed { attempt: u32 },
    /// It was healthy and has answered nothing several times.
    Silent { attempt: u32, message: String },
    /// It still answers nothing, but what leads to it is away too: that says nothing about the runtime.
    Excused { attempt: u32 },
    /// It answers again.
    Answering { attempt: u32 },
    /// Something it needs is lost or cannot be had: it has to end, and fails for this.
    Broken { attempt: u32, reason: FailureReason, message: String },
    /// No request is in flight any more.
    Drained { attempt: u32 },
    /// The timer that was set with this fence is due.
    Timer { fence: u64 },
    /// The agent stops: end what runs, or leave it to the next agent.
    Halt { leave: bool },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the state durable, with these lines for the deployment's journal.
    Persist(Vec<Entry>),
    /// Forget it durably: records, files, port, route. A start below this generation stays refused.
    Remove(Generation),
    /// Answer who asked.
    Reply(Result<(), Refusal>),
    /// Tell the proxy who may call and whether the runtime answers.
    Route { ready: bool },
    /// See that a port, the GPUs, the model and the program or the image are there.
    Prepare { attempt: u32 },
    /// Make the process or the container.
    Spawn { attempt: u32 },
    /// Say when it ends.
    Watch { attempt: u32, instance: Instance },
    /// Ask for its health until it is healthy.
    Probe { attempt: u32 },
    /// Ask from now on whether it still answers.
    Guard { attempt: u32 },
    /// Stop asking.
    StopProbe,
    /// Say when no request is in flight any more. The route is not ready by then, so that no new one comes.
    Drain { attempt: u32 },
    /// Send a signal to its process group or into its container.
    Signal { instance: Instance, signal: Signal },
    /// Replace the timer.
    SetTimer { fence: u64, after: Duration },
    /// Nothing is to be waited for.
    CancelTimer,
    /// Tell nebulad at once.
    Report,
    /// The machine has nothing more to do in this process.
    Done,
}

/// A line of a deployment's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `accepted`, `started`, `running`, `unresponsive`, `exited`, `draining`, `stopping`, `stopped`, `failed`,
    /// `restarted`, `access`, `deleted`; the task adds `fetching`, `fetched`, `pulling` and `pulled`.
    pub kind: &'static str,
    /// For people.
    pub message: String,
}

/// How a process is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// Why a command is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A newer generation was seen.
    #[error("generation {given} is older than {newest}, the newest seen for this replica")]
    Stale { given: Generation, newest: Generation },
    /// There is no such replica here.
    #[error("no such replica on this node")]
    Unknown,
    /// It is on its way out.
    #[error("the replica is being deleted")]
    Deleting,
    /// The agent is.
    #[error("the agent is stopping")]
    Halting,
}
