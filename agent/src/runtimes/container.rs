//! How a replica is run in a container.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nebula_core::runtime::Driver;
use sysinfo::System;

use super::{Ask, Cache, Health, Runtime, Tools, Unready, Words, environment, model, of};
use crate::replica::spec::Spec;

/// Where a runtime listens in its container, whose port is published on loopback only.
const HOST: &str = "0.0.0.0";
/// Where a deployment's own command listens in a container.
const COMMAND_PORT: u16 = 8_000;

/// Shared memory of a container, in bytes: what the Engine gives by itself.
const SHM_USUAL: u64 = 64 << 20;
/// For a runtime whose processes share memory.
const SHM_BASE: u64 = 1 << 30;
/// And for each GPU when there are several.
const SHM_PER_GPU: u64 = 4 << 30;

/// Which GPUs a container sees when it has none: images that are made for GPUs ask for all of them.
const NO_GPUS: &str = "void";

/// The first port that everybody may listen on.
const FREE_PORTS: u16 = 1_024;

/// How to run a replica in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerPlan {
    pub(crate) image: String,
    /// Replaces the image's entry point and, with no words in `command`, its command too.
    pub(crate) entrypoint: Option<Vec<String>>,
    /// Replaces the image's command; empty: nothing is said.
    pub(crate) command: Vec<String>,
    /// All that is added to the image's environment: nothing else of the agent's gets in.
    pub(crate) env: BTreeMap<String, String>,
    /// On 127.0.0.1 of this machine.
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) mounts: Vec<Mount>,
    /// The GPUs it gets; empty: none.
    pub(crate) gpu_uuids: Vec<String>,
    /// The size of `/dev/shm`.
    pub(crate) shm_bytes: u64,
    /// Capabilities that are not taken from it; all others are.
    pub(crate) keep_capabilities: &'static [&'static str],
    pub(crate) health: Health,
}

/// A file or directory of this machine in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) host: PathBuf,
    pub(crate) container: String,
    pub(crate) read_only: bool,
}

/// How to run a replica in a container, after a look whether what it needs of this machine is there. Makes the
/// directory where the runtime keeps models. Blocks on the file system. `local_model` is where the model was fetched
/// to; none: it was not fetched, or need not be.
///
/// # Errors
/// When there is no image, the model file is missing, or the runtime cannot take such a model.
pub(crate) fn container_plan(
    spec: &Spec,
    port: u16,
    tools: &Tools,
    gpu_uuids: &[String],
    local_model: Option<&Path>,
) -> Result<ContainerPlan, Unready> {
    let runtime = of(spec.runtime);
    environment::check(spec, Driver::Docker)?;
    let image = image(runtime, spec, gpu_uuids.len())?;
    let kept = cache(runtime, tools)?;
    let cache = kept.as_ref().map(|(cache, dir)| (*cache, dir.as_path()));
    let model = model::inside(runtime, spec, tools, local_model, cache)?;
    let is_usual = spec.command.is_empty();
    let container_port = if is_usual { runtime.container_port } else { COMMAND_PORT };
    let (gpus, form) = (gpu_uuids.len(), model.form);
    let ask = Ask { spec, tools, model: &model.argument, form, host: HOST, port: container_port, gpus };
    let Words { entrypoint, arguments: mut command } =
        if is_usual { (runtime.container)(&ask) } else { own_words(&ask)? };
    command.extend(ask.fill_all(&spec.args));
    let mut env = own_env(runtime, &ask, gpu_uuids, local_model.is_some());
    let mut mounts = model.mounts;
    if let Some((cache, dir)) = kept {
        env.insert(cache.variable.to_owned(), cache.inside.to_owned());
        mounts.push(Mount { host: dir, container: cache.inside.to_owned(), read_only: false });
    }
    env.extend(ask.spec_env());
    let keep_capabilities = capabilities(&mounts, container_port);
    Ok(ContainerPlan {
        image,
        entrypoint,
        command,
        env,
        host_port: port,
        container_port,
        mounts,
        gpu_uuids: gpu_uuids.to_vec(),
        shm_bytes: shared_memory(runtime, gpus, memory()),
        keep_capabilities,
        health: runtime.health,
    })
}

fn image(runtime: &Runtime, spec: &Spec, gpus: usize) -> Result<String, Unready> {
    match (&spec.image, &runtime.images) {
        (Some(image), _) => Ok(image.clone()),
        (None, Some(images)) => Ok(if gpus > 0 { images.gpu } else { images.plain }.to_owned()),
        (None, None) => Err(Unready(format!(
            "the runtime {} has no image of its own; give the deployment an image, or the driver process",
            runtime.kind
        ))),
    }
}

/// The deployment's own command: all of it stands in for the entry point, so that nothing of the image's is run.
fn own_words(ask: &Ask<'_>) -> Result<Words, Unready> {
    let words = ask.fill_all(&ask.spec.command);
    if words.first().is_none_or(String::is_empty) {
        return Err(Unready("the command is empty".to_owned()));
    }
    Ok(Words { entrypoint: Some(words), arguments: Vec::new() })
}

/// Where the runtime keeps models on this machine.
fn cache(runtime: &'static Runtime, tools: &Tools) -> Result<Option<(&'static Cache, PathBuf)>, Unready> {
    let Some(cache) = &runtime.cache else { return Ok(None) };
    let Some(dir) = cache.dir(tools) else { return Ok(None) };
    std::fs::create_dir_all(&dir).and_then(|()| dir.canonicalize()).map(|dir| Some((cache, dir))).map_err(
        |error| Unready(format!("the directory {} for models cannot be made: {error}", dir.display())),
    )
}

/// What is in the environment unless the deployment says otherwise.
fn own_env(
    runtime: &Runtime,
    ask: &Ask<'_>,
    gpu_uuids: &[String],
    is_fetched: bool,
) -> BTreeMap<String, String> {
    let mut env = environment::passed_on(runtime.hub, |name| std::env::var(name).ok());
    env.insert("PORT".to_owned(), ask.port.to_string());
    let gpus = if gpu_uuids.is_empty() { NO_GPUS.to_owned() } else { gpu_uuids.join(",") };
    env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), gpus);
    if runtime.hub && is_fetched {
        env.insert("HF_HUB_OFFLINE".to_owned(), "1".to_owned());
    }
    env.extend((runtime.env)(ask).into_iter().map(|(name, value)| (name.to_owned(), value)));
    env
}

/// What a container's root cannot do without a capability, and this one has to: use files of others, listen on a low
/// port (which newer Engines allow anyway).
fn capabilities(mounts: &[Mount], port: u16) -> &'static [&'static str] {
    let is_roots = |mount: &Mount| std::fs::metadata(&mount.host).is_ok_and(|found| found.uid() == 0);
    match (mounts.iter().all(is_roots), port < FREE_PORTS) {
        (true, false) => &[],
        (true, true) => &["NET_BIND_SERVICE"],
        (false, false) => &["DAC_OVERRIDE"],
        (false, true) => &["DAC_OVERRIDE", "NET_BIND_SERVICE"],
    }
}

/// At most half of the machine's memory: shared memory is memory.
fn shared_memory(runtime: &Runtime, gpus: usize, machine: u64) -> u64 {
    if !runtime.shares_memory {
        return SHM_USUAL;
    }
    let for_gpus = if gpus > 1 { SHM_PER_GPU.saturating_mul(gpus as u64) } else { 0 };
    SHM_BASE.saturating_add(for_gpus).min(machine / 2).max(SHM_USUAL)
}

/// This machine's memory in bytes.
fn memory() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    system.total_memory()
}

#[cfg(test)]
mod tests {
    use super::super::{sim, vllm};
    use super::*;

    #[test]
    fn shared_memory_grows_with_the_gpus_and_stays_within_the_machine() {
        let large = 1 << 40;
        assert_eq!(shared_memory(&sim::RUNTIME, 8, large), SHM_USUAL);
        assert_eq!(shared_memory(&vllm::RUNTIME, 1, large), 1 << 30);
        assert_eq!(shared_memory(&vllm::RUNTIME, 8, large), 33 << 30);
        assert_eq!(shared_memory(&vllm::RUNTIME, 8, 16 << 30), 8 << 30);
        assert_eq!(shared_memory(&vllm::RUNTIME, usize::MAX, u64::MAX), u64::MAX / 2);
        assert!(memory() > SHM_USUAL);
    }

    #[test]
    fn a_container_keeps_the_capabilities_that_it_needs() {
        let dir = tempfile::tempdir().expect("a directory");
        // Who is not root makes a file that is not root's; only root can give one away.
        let chown = std::os::unix::fs::chown(dir.path(), Some(12_345), None);
        let uid = dir.path().metadata().expect("a directory").uid();
        assert!(chown.is_ok() || uid != 0, "{chown:?}");
        let mount =
            |host: &Path| Mount { host: host.to_owned(), container: "/m".to_owned(), read_only: true };
        let (roots, others) = (mount(Path::new("/etc/hostname")), mount(dir.path()));
        for (mounts, port, expected) in [
            (vec![], 8_000, &[] as &[&str]),
            (vec![roots.clone()], 8_000, &[]),
            (vec![roots.clone()], 80, &["NET_BIND_SERVICE"]),
            (vec![roots.clone(), others.clone()], 8_000, &["DAC_OVERRIDE"]),
            (vec![others], 80, &["DAC_OVERRIDE", "NET_BIND_SERVICE"]),
        ] {
            assert_eq!(capabilities(&mounts, port), expected, "{mounts:?}");
        }
    }
}
