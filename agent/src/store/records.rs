//! The layout of what is stored. Fields are only added with a new schema, and every schema that was ever written is
//! read.

use std::collections::BTreeMap;

use nebula_core::ids::{DeploymentId, Generation, ReplicaId};
use nebula_core::token::TokenHash;
use nebula_store::Record;

use super::{value, value_of};
use crate::replica::machine::{Desired, Failure, FailureReason, Phase, State};
use crate::replica::spec::{Access, ContainerRef, Instance, ProcessRef, Spec};

/// The version of layouts that have only had one.
const FIRST: u16 = 1;
/// Of a spec with its image and driver, and of a state whose instance may be a container.
const CONTAINERS: u16 = 2;

/// Kinds of records; each number is given once.
pub(super) const NODE: u8 = 1;
pub(super) const SPEC: u8 = 2;
pub(super) const STATE: u8 = 3;
pub(super) const JOURNAL: u8 = 4;
pub(super) const COMMAND: u8 = 5;
pub(super) const FENCE: u8 = 6;

/// The version in which a kind of record is written.
pub(super) fn schema(kind: u8) -> u16 {
    match kind {
        SPEC | STATE => CONTAINERS,
        _ => FIRST,
    }
}

/// A spec as it is written now.
#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct SpecRecord {
    basis: SpecBasis,
    image: Option<String>,
    driver: Option<String>,
}

/// A spec of schema 1.
#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct SpecBasis {
    runtime: String,
    model: String,
    source: Option<String>,
    served_name: String,
    command: Vec<String>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    gpu_devices: Vec<u32>,
}

/// A state as it is written now.
#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct StateRecord {
    basis: StateBasis<InstanceRecord>,
    out_of_memory: bool,
}

/// A state of schema 1, where what runs is always a process.
pub(super) type FirstState = StateBasis<ProcessRecord>;

/// A state but for what schema 2 added; `I` is what runs.
#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct StateBasis<I> {
    deployment: [u8; 16],
    generation: u64,
    desired: DesiredRecord,
    phase: PhaseRecord<I>,
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
enum PhaseRecord<I> {
    Preparing,
    Spawning { stale: bool },
    Starting { instance: I },
    Running { instance: I },
    BackingOff,
    Killing { instance: I, failure: Option<FailureRecord> },
    Stopped,
    Failed(FailureRecord),
}

#[derive(bincode::Encode, bincode::Decode)]
enum InstanceRecord {
    Process(ProcessRecord),
    Container([u8; 32]),
}

#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct ProcessRecord {
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
    ImagePull,
    Model,
    Gpu,
    Unresponsive,
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
        let driver = spec.driver.map(|driver| driver.as_str().to_owned());
        Self { basis: spec.into(), image: spec.image.clone(), driver }
    }
}

impl From<&Spec> for SpecBasis {
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
    /// The spec; none when it names a runtime, driver or source that this version does not know.
    pub(super) fn into_spec(self) -> Option<Spec> {
        let driver = match self.driver {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        Some(Spec { image: self.image, driver, ..self.basis.into_spec()? })
    }
}

impl SpecBasis {
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
            image: None,
            driver: None,
        })
    }
}

impl From<&State> for StateRecord {
    fn from(state: &State) -> Self {
        Self { basis: state.into(), out_of_memory: state.out_of_memory }
    }
}

impl StateRecord {
    pub(super) fn into_state(self, replica: ReplicaId) -> State {
        State { out_of_memory: self.out_of_memory, ..self.basis.into_state(replica) }
    }
}

impl From<&State> for StateBasis<InstanceRecord> {
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

impl<I: Into<Instance>> StateBasis<I> {
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
            out_of_memory: false,
        }
    }
}

impl From<&Phase> for PhaseRecord<InstanceRecord> {
    fn from(phase: &Phase) -> Self {
        match phase.clone() {
            // What the agent ended because it stopped is to be started by the next one. The other two are never
            // stored; as this they would do no harm.
            Phase::Halted | Phase::Preparing | Phase::New | Phase::Removed => Self::Preparing,
            Phase::Spawning { stale } => Self::Spawning { stale },
            Phase::Starting { instance } => Self::Starting { instance: instance.into() },
            Phase::Running { instance } | Phase::Hung { instance, .. } => {
                Self::Running { instance: instance.into() }
            }
            Phase::BackingOff => Self::BackingOff,
            Phase::Draining { instance } => Self::Killing { instance: instance.into(), failure: None },
            Phase::Killing { instance, failure } => {
                Self::Killing { instance: instance.into(), failure: failure.map(Into::into) }
            }
            Phase::Stopped => Self::Stopped,
            Phase::Failed(failure) => Self::Failed(failure.into()),
        }
    }
}

impl<I: Into<Instance>> From<PhaseRecord<I>> for Phase {
    fn from(phase: PhaseRecord<I>) -> Self {
        match phase {
            PhaseRecord::Preparing => Self::Preparing,
            PhaseRecord::Spawning { stale } => Self::Spawning { stale },
            PhaseRecord::Starting { instance } => Self::Starting { instance: instance.into() },
            PhaseRecord::Running { instance } => Self::Running { instance: instance.into() },
            PhaseRecord::BackingOff => Self::BackingOff,
            PhaseRecord::Killing { instance, failure } => {
                Self::Killing { instance: instance.into(), failure: failure.map(Into::into) }
            }
            PhaseRecord::Stopped => Self::Stopped,
            PhaseRecord::Failed(failure) => Self::Failed(failure.into()),
        }
    }
}

impl From<Instance> for InstanceRecord {
    fn from(instance: Instance) -> Self {
        match instance {
            Instance::Process(process) => Self::Process(process.into()),
            Instance::Container(container) => Self::Container(container.0),
        }
    }
}

impl From<InstanceRecord> for Instance {
    fn from(instance: InstanceRecord) -> Self {
        match instance {
            InstanceRecord::Process(process) => process.into(),
            InstanceRecord::Container(id) => Self::Container(ContainerRef(id)),
        }
    }
}

impl From<ProcessRecord> for Instance {
    fn from(process: ProcessRecord) -> Self {
        Self::Process(process.into())
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
            FailureReason::ImagePull => ReasonRecord::ImagePull,
            FailureReason::Model => ReasonRecord::Model,
            FailureReason::Gpu => ReasonRecord::Gpu,
            FailureReason::Unresponsive => ReasonRecord::Unresponsive,
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
            ReasonRecord::ImagePull => FailureReason::ImagePull,
            ReasonRecord::Model => FailureReason::Model,
            ReasonRecord::Gpu => FailureReason::Gpu,
            ReasonRecord::Unresponsive => FailureReason::Unresponsive,
        };
        Self { reason, message: failure.message, exit_code: failure.exit_code }
    }
}

/// The spec in a record of any schema.
///
/// # Errors
/// When it cannot be read, or names what this version does not know.
pub(super) fn read_spec(record: &Record) -> Result<Spec, String> {
    let spec = match record.schema {
        FIRST => value_of::<SpecBasis>(record, SPEC, FIRST)?.into_spec(),
        _ => value::<SpecRecord>(record, SPEC)?.into_spec(),
    };
    spec.ok_or_else(|| "a runtime, a driver or a source that is not known here".to_owned())
}

/// The state in a record of any schema.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read_state(record: &Record, replica: ReplicaId) -> Result<State, String> {
    match record.schema {
        FIRST => Ok(value_of::<FirstState>(record, STATE, FIRST)?.into_state(replica)),
        _ => Ok(value::<StateRecord>(record, STATE)?.into_state(replica)),
    }
}
