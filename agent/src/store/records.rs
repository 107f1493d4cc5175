//! The layout of what is stored. Fields are only added with a new schema.

use std::collections::BTreeMap;

use nebula_core::ids::{DeploymentId, Generation, ReplicaId};
use nebula_core::token::TokenHash;

use crate::replica::machine::{Desired, Failure, FailureReason, Phase, State};
use crate::replica::spec::{Access, ProcessRef, Spec};

/// The version of all layouts.
pub(super) const SCHEMA: u16 = 1;

/// Kinds of records; each number is given once.
pub(super) const NODE: u8 = 1;
pub(super) const SPEC: u8 = 2;
pub(super) const STATE: u8 = 3;
pub(super) const JOURNAL: u8 = 4;
pub(super) const COMMAND: u8 = 5;
pub(super) const FENCE: u8 = 6;

#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct SpecRecord {
    runtime: String,
    model: String,
    source: Option<String>,
    served_name: String,
    command: Vec<String>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    gpu_devices: Vec<u32>,
}

#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct StateRecord {
    deployment: [u8; 16],
    generation: u64,
    desired: DesiredRecord,
    phase: PhaseRecord,
    public: bool,
    tokens: Vec<[u8; 32]>,
    gateway: Option<[u8; 32]>,
    port: u16,
    attempt: u32,
    restarts: u32,
    ever_healthy: bool,
    restarted: bool,
    recent_crashes: u8,
    last_end: String,
}

#[derive(bincode::Encode, bincode::Decode)]
enum DesiredRecord {
    Running,
    Stopped,
    Deleted,
}

#[derive(bincode::Encode, bincode::Decode)]
enum PhaseRecord {
    Preparing,
    Spawning { stale: bool },
    Starting { process: ProcessRecord },
    Running { process: ProcessRecord },
    BackingOff,
    Killing { process: ProcessRecord, failure: Option<FailureRecord> },
    Stopped,
    Failed(FailureRecord),
}

#[derive(bincode::Encode, bincode::Decode)]
struct ProcessRecord {
    pid: u32,
    started: u64,
    boot: [u8; 16],
}

#[derive(bincode::Encode, bincode::Decode)]
struct FailureRecord {
    reason: ReasonRecord,
    message: String,
    exit_code: i32,
}

#[derive(bincode::Encode, bincode::Decode)]
enum ReasonRecord {
    Prepare,
    Spawn,
    Exited,
    HealthDeadline,
    CrashLoop,
}

/// A line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(crate) struct JournalLine {
    pub(crate) kind: String,
    pub(crate) message: String,
    /// Seconds since 1970.
    pub(crate) at: u64,
}

#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct FenceRecord {
    pub(super) replica: [u8; 16],
    pub(super) generation: u64,
}

impl From<&Spec> for SpecRecord {
    fn from(spec: &Spec) -> Self {
        Self {
            runtime: spec.runtime.as_str().to_owned(),
            model: spec.model.clone(),
            source: spec.source.as_ref().map(ToString::to_string),
            served_name: spec.served_name.clone(),
            command: spec.command.clone(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            gpu_devices: spec.gpu_devices.clone(),
        }
    }
}

impl SpecRecord {
    /// The spec; none when it names a runtime or source that this version does not know.
    pub(super) fn into_spec(self) -> Option<Spec> {
        let source = match self.source {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        Some(Spec {
            runtime: self.runtime.parse().ok()?,
            model: self.model,
            source,
            served_name: self.served_name,
            command: self.command,
            args: self.args,
            env: self.env,
            gpu_devices: self.gpu_devices,
        })
    }
}

impl From<&State> for StateRecord {
    fn from(state: &State) -> Self {
        Self {
            deployment: *state.deployment.as_bytes(),
            generation: state.generation.0,
            desired: match state.desired {
                Desired::Running => DesiredRecord::Running,
                Desired::Stopped => DesiredRecord::Stopped,
                Desired::Deleted => DesiredRecord::Deleted,
            },
            phase: (&state.phase).into(),
            public: state.access.public,
            tokens: state.access.tokens.iter().map(|hash| *hash.as_bytes()).collect(),
            gateway: state.access.gateway.map(|hash| *hash.as_bytes()),
            port: state.port,
            attempt: state.attempt,
            restarts: state.restarts,
            ever_healthy: state.ever_healthy,
            restarted: state.restarted,
            recent_crashes: state.recent_crashes,
            last_end: state.last_end.clone(),
        }
    }
}

impl StateRecord {
    pub(super) fn into_state(self, replica: ReplicaId) -> State {
        State {
            deployment: DeploymentId::from_bytes(self.deployment),
            replica,
            generation: Generation(self.generation),
            desired: match self.desired {
                DesiredRecord::Running => Desired::Running,
                DesiredRecord::Stopped => Desired::Stopped,
                DesiredRecord::Deleted => Desired::Deleted,
            },
            phase: self.phase.into(),
            access: Access {
                public: self.public,
                tokens: self.tokens.into_iter().map(TokenHash::from_bytes).collect(),
                gateway: self.gateway.map(TokenHash::from_bytes),
            },
            port: self.port,
            attempt: self.attempt,
            restarts: self.restarts,
            ever_healthy: self.ever_healthy,
            restarted: self.restarted,
            recent_crashes: self.recent_crashes,
            last_end: self.last_end,
        }
    }
}

impl From<&Phase> for PhaseRecord {
    fn from(phase: &Phase) -> Self {
        match phase.clone() {
            // What the agent ended because it stopped is to be started by the next one. The other two are never
            // stored; as this they would do no harm.
            Phase::Halted | Phase::Preparing | Phase::New | Phase::Removed => Self::Preparing,
            Phase::Spawning { stale } => Self::Spawning { stale },
            Phase::Starting { process } => Self::Starting { process: process.into() },
            Phase::Running { process } => Self::Running { process: process.into() },
            Phase::BackingOff => Self::BackingOff,
            Phase::Killing { process, failure } => {
                Self::Killing { process: process.into(), failure: failure.map(Into::into) }
            }
            Phase::Stopped => Self::Stopped,
            Phase::Failed(failure) => Self::Failed(failure.into()),
        }
    }
}

impl From<PhaseRecord> for Phase {
    fn from(phase: PhaseRecord) -> Self {
        match phase {
            PhaseRecord::Preparing => Self::Preparing,
            PhaseRecord::Spawning { stale } => Self::Spawning { stale },
            PhaseRecord::Starting { process } => Self::Starting { process: process.into() },
            PhaseRecord::Running { process } => Self::Running { process: process.into() },
            PhaseRecord::BackingOff => Self::BackingOff,
            PhaseRecord::Killing { process, failure } => {
                Self::Killing { process: process.into(), failure: failure.map(Into::into) }
            }
            PhaseRecord::Stopped => Self::Stopped,
            PhaseRecord::Failed(failure) => Self::Failed(failure.into()),
        }
    }
}

impl From<ProcessRef> for ProcessRecord {
    fn from(process: ProcessRef) -> Self {
        Self { pid: process.pid, started: process.started, boot: process.boot }
    }
}

impl From<ProcessRecord> for ProcessRef {
    fn from(process: ProcessRecord) -> Self {
        Self { pid: process.pid, started: process.started, boot: process.boot }
    }
}

impl From<Failure> for FailureRecord {
    fn from(failure: Failure) -> Self {
        let reason = match failure.reason {
            FailureReason::Prepare => ReasonRecord::Prepare,
            FailureReason::Spawn => ReasonRecord::Spawn,
            FailureReason::Exited => ReasonRecord::Exited,
            FailureReason::HealthDeadline => ReasonRecord::HealthDeadline,
            FailureReason::CrashLoop => ReasonRecord::CrashLoop,
        };
        Self { reason, message: failure.message, exit_code: failure.exit_code }
    }
}

impl From<FailureRecord> for Failure {
    fn from(failure: FailureRecord) -> Self {
        let reason = match failure.reason {
            ReasonRecord::Prepare => FailureReason::Prepare,
            ReasonRecord::Spawn => FailureReason::Spawn,
            ReasonRecord::Exited => FailureReason::Exited,
            ReasonRecord::HealthDeadline => FailureReason::HealthDeadline,
            ReasonRecord::CrashLoop => FailureReason::CrashLoop,
        };
        Self { reason, message: failure.message, exit_code: failure.exit_code }
    }
}

#[cfg(test)]
mod tests {
    use nebula_core::runtime::RuntimeKind;
    use nebula_store::codec;

    use super::*;

    #[test]
    fn a_spec_is_read_back() {
        let spec = Spec {
            runtime: RuntimeKind::Llamacpp,
            model: "m".to_owned(),
            source: Some("fs:///m/x.gguf".parse().expect("source")),
            served_name: "n".to_owned(),
            command: vec!["c".to_owned()],
            args: vec!["a".to_owned(), String::new()],
            env: BTreeMap::from([("K".to_owned(), "V".to_owned())]),
            gpu_devices: vec![0, 7],
        };
        let bytes = codec::encode(&SpecRecord::from(&spec)).expect("encodes");
        let back: SpecRecord = codec::decode(&bytes).expect("decodes");
        assert_eq!(back.into_spec(), Some(spec));
    }

    #[test]
    fn a_state_is_read_back_in_every_stored_phase() {
        let process = ProcessRef { pid: 7, started: 8, boot: [9; 16] };
        let failure = Failure { reason: FailureReason::CrashLoop, message: "x".to_owned(), exit_code: 3 };
        for phase in [
            Phase::Preparing,
            Phase::Spawning { stale: true },
            Phase::Starting { process },
            Phase::Running { process },
            Phase::BackingOff,
            Phase::Killing { process, failure: Some(failure.clone()) },
            Phase::Killing { process, failure: None },
            Phase::Stopped,
            Phase::Failed(failure),
        ] {
            let state = State {
                deployment: DeploymentId::random(),
                replica: ReplicaId::random(),
                generation: Generation(5),
                desired: Desired::Deleted,
                phase,
                access: Access {
                    public: true,
                    tokens: vec![TokenHash::of("a")],
                    gateway: Some(TokenHash::of("b")),
                },
                port: 30000,
                attempt: 2,
                restarts: 1,
                ever_healthy: true,
                restarted: true,
                recent_crashes: 3,
                last_end: "e".to_owned(),
            };
            let bytes = codec::encode(&StateRecord::from(&state)).expect("encodes");
            let back: StateRecord = codec::decode(&bytes).expect("decodes");
            assert_eq!(back.into_state(state.replica), state);
        }
    }
}
