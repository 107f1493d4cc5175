//! Calls into NVIDIA's management library. Any of them may take long or never return.
//!
//! It needs a driver of the 510 series or newer; an older one does not say how much memory is used.

use std::path::Path;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION;
use nvml_wrapper::{Device, EventSet, Nvml, cuda_driver_version_major, cuda_driver_version_minor};

use super::inventory::Stats;
use super::machine::{Closed, Facts, Fault, Process, RecoveryAction, Sample};

/// The number under which the library reports an XID that it does not know.
const XID_UNKNOWN: u64 = 999;

/// The library, open.
pub(super) struct Library(Nvml);

/// Why the library cannot be used.
#[derive(Debug)]
pub(super) struct Unusable {
    pub(super) why: Closed,
    pub(super) error: String,
}

/// Why a GPU could not be asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is the GPU's.
    Gpu(Fault),
    /// It is the library's: nothing works any more.
    Library(Unusable),
}

/// Tells of one GPU's errors.
pub(super) struct Alarm<'a>(EventSet<'a>);

/// What an alarm says.
#[derive(Debug)]
pub(super) enum Heard {
    Nothing,
    Xid(u64),
    /// It cannot be listened to any more; when the GPU is lost, why.
    Broken(Option<Fault>),
}

impl Library {
    /// Opens the library at `path`; none: the one that the system finds.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Unusable> {
        let mut builder = Nvml::builder();
        if let Some(path) = path {
            builder.lib_path(path.as_os_str());
        }
        builder.init().map(Self).map_err(|error| unusable(&error))
    }

    pub(super) fn driver_version(&self) -> String {
        self.0.sys_driver_version().unwrap_or_default()
    }

    /// The newest CUDA that the driver serves, as in `12.4`.
    pub(super) fn cuda_version(&self) -> String {
        let text = |version| {
            format!("{}.{}", cuda_driver_version_major(version), cuda_driver_version_minor(version))
        };
        self.0.sys_cuda_driver_version().map(text).unwrap_or_default()
    }

    /// How many physical GPUs there are.
    pub(super) fn count(&self) -> Result<u32, Unusable> {
        self.0.device_count().map_err(|error| unusable(&error))
    }

    pub(super) fn facts(&self, position: u32) -> Result<Facts, Failure> {
        let device = self.device(position)?;
        let memory = optional(device.memory_info())?;
        let capability = optional(device.cuda_compute_capability())?;
        let uuid = device.uuid().map_err(failure)?;
        if uuid.is_empty() {
            return Err(Failure::Gpu(Fault("has no UUID".to_owned())));
        }
        Ok(Facts {
            uuid,
            name: optional(device.name())?.unwrap_or_default(),
            memory_bytes: memory.map_or(0, |memory| memory.total),
            compute_capability: capability.map(|it| format!("{}.{}", it.major, it.minor)).unwrap_or_default(),
            pci_bus_id: optional(device.pci_info())?.map(|pci| pci.bus_id).unwrap_or_default(),
        })
    }

    pub(super) fn sample(&self, position: u32) -> Result<Sample, Failure> {
        let device = self.device(position)?;
        let memory = telling(device.memory_info())?;
        let utilization = telling(device.utilization_rates())?.map_or(0, |rates| rates.gpu);
        let temperature = optional(device.temperature(TemperatureSensor::Gpu))?.unwrap_or(0);
        let milliwatts = optional(device.power_usage())?.unwrap_or(0);
        let stats = Stats {
            utilization_percent: small(utilization),
            memory_used_bytes: memory.map_or(0, |memory| memory.used),
            memory_used_by_others_bytes: 0,
            temperature_celsius: small(temperature),
            power_watts: small(milliwatts) / 1_000.0,
        };
        let action = optional(device.field_values_for(&[FieldId(NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)]))?;
        let action = action.and_then(|values| values.into_iter().next()?.ok()?.value.ok());
        Ok(Sample { stats, processes: processes(&device)?, action: action.map(recovery).unwrap_or_default() })
    }

    /// Begins to listen for a GPU's errors. None: it cannot be listened to.
    pub(super) fn alarm(&self, position: u32) -> Option<Alarm<'_>> {
        // One set a GPU: a GPU that fell off the bus could not be asked any more which one it is.
        let listen = || {
            let (device, set) = (self.0.device_by_index(position)?, self.0.create_event_set()?);
            device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|error| error.error)
        };
        match listen() {
            Ok(set) => Some(Alarm(set)),
            Err(error) => {
                tracing::debug!(gpu = position, %error, "the driver does not report this GPU's errors");
                None
            }
        }
    }

    fn device(&self, position: u32) -> Result<Device<'_>, Failure> {
        self.0.device_by_index(position).map_err(failure)
    }
}

impl Alarm<'_> {
    /// Waits for an error for so long, in milliseconds.
    pub(super) fn wait(&self, ms: u32) -> Heard {
        match self.0.wait(ms) {
            Ok(event) => match event.event_data {
                Some(XidError::Value(xid)) => Heard::Xid(xid),
                Some(XidError::Unknown) => Heard::Xid(XID_UNKNOWN),
                None => Heard::Nothing,
            },
            Err(NvmlError::Timeout) => Heard::Nothing,
            Err(NvmlError::GpuLost) => Heard::Broken(Some(fell_off())),
            Err(error) => {
                tracing::debug!(%error, "errors of a GPU are not reported any more");
                Heard::Broken(None)
            }
        }
    }
}

/// The processes that use a GPU; one may be listed for computing and for graphics.
fn processes(device: &Device<'_>) -> Result<Vec<Process>, Failure> {
    let compute = optional(device.running_compute_processes())?.unwrap_or_default();
    let graphics = optional(device.running_graphics_processes())?.unwrap_or_default();
    let mut processes: Vec<Process> = compute.into_iter().chain(graphics).map(process).collect();
    processes.sort_by_key(|process| (process.pid, process.bytes));
    processes.dedup();
    Ok(processes)
}

fn process(info: ProcessInfo) -> Process {
    let bytes = match info.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    };
    Process { pid: info.pid, bytes }
}

/// Percents, degrees and milliwatts: all far below where an `f32` gets coarse.
#[expect(clippy::cast_precision_loss, reason = "such values are small")]
fn small(value: u32) -> f32 {
    value as f32
}

fn recovery(value: SampleValue) -> RecoveryAction {
    let number = match value {
        SampleValue::U32(number) => u64::from(number),
        SampleValue::U64(number) => number,
        _ => return RecoveryAction::None,
    };
    match number {
        0 => RecoveryAction::None,
        1 => RecoveryAction::Reset,
        2 => RecoveryAction::Reboot,
        3 => RecoveryAction::DrainPeers,
        4 => RecoveryAction::DrainAndReset,
        other => RecoveryAction::Other(other),
    }
}

/// What not every GPU or driver can say. Some GPUs have internal errors with side issues such as their power.
fn optional<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(
            error @ (NvmlError::GpuLost
            | NvmlError::ResetRequired
            | NvmlError::IrqIssue
            | NvmlError::Uninitialized
            | NvmlError::DriverNotLoaded
            | NvmlError::LibRmVersionMismatch),
        ) => Err(failure(error)),
        Err(_) => Ok(None),
    }
}

/// What a GPU that is well can say, if it is of a kind that can say it at all.
fn telling<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, Failure> {
    match answer {
        Err(NvmlError::Unknown) => Err(failure(NvmlError::Unknown)),
        other => optional(other),
    }
}

fn failure(error: NvmlError) -> Failure {
    let fault = |what: &str| Failure::Gpu(Fault(what.to_owned()));
    match error {
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => {
            Failure::Library(unusable(&error))
        }
        NvmlError::GpuLost => Failure::Gpu(fell_off()),
        NvmlError::Unknown => fault("the driver has an internal error with it"),
        NvmlError::ResetRequired => fault("needs a reset"),
        NvmlError::IrqIssue => fault("its interrupts do not arrive"),
        NvmlError::InsufficientPower => fault("its power cables are not connected"),
        NvmlError::NoPermission => fault("the agent may not use it"),
        error => fault(&format!("the driver refuses it: {error}")),
    }
}

fn fell_off() -> Fault {
    Fault("fell off the bus".to_owned())
}

fn unusable(error: &NvmlError) -> Unusable {
    let (why, error) = match error {
        NvmlError::LibloadingError(error) => (Closed::Absent, error.to_string()),
        NvmlError::DriverNotLoaded | NvmlError::LibraryNotFound | NvmlError::NotFound => {
            (Closed::Absent, error.to_string())
        }
        NvmlError::Uninitialized => (Closed::Absent, "the driver was unloaded".to_owned()),
        NvmlError::LibRmVersionMismatch => (
            Closed::Failed,
            "the driver and its library have different versions; reboot the machine".to_owned(),
        ),
        NvmlError::FailedToLoadSymbol(_) => {
            (Closed::Failed, "this is no NVIDIA management library".to_owned())
        }
        // What a container sees whose devices were taken away.
        NvmlError::Unknown => (Closed::Failed, "the driver has an internal error".to_owned()),
        error => (Closed::Failed, error.to_string()),
    };
    Unusable { why, error }
}
