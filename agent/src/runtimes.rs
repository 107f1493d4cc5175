//! The table of runtimes: one file for each, which says all that Nebula knows of it.
//!
//! A deployment's `command` replaces the runtime's own command line, in a container also the image's entry point;
//! `args` follow it either way. In `command`, `args` and `env` the placeholders `{port}`, `{model}` and `{name}` are
//! filled in.
//!
//! To add a runtime: name it in `nebula_core::runtime::RuntimeKind`, write its file with a `RUNTIME`, and add one line
//! to [`of`]. `docs/runtimes.md` says what the fields mean in practice.

mod container;
mod environment;
mod lines;
mod llamacpp;
mod model;
mod ollama;
mod process;
mod sim;
mod tgi;
mod triton;
mod vllm;

use std::path::PathBuf;

use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::source::ModelSource;

use self::model::Form;
use crate::progress::Progress;
use crate::replica::spec::Spec;

#[cfg(test)]
pub(crate) use self::container::Mount;
pub(crate) use self::container::{ContainerPlan, container_plan};
pub(crate) use self::model::check_path;
pub(crate) use self::process::{Plan, check_program, plan};

/// What this machine offers for starting runtimes.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// Starts the simulated runtime.
    pub(crate) sim_command: Vec<String>,
    /// The Python to use; none: the one that is found.
    pub(crate) python: Option<PathBuf>,
    /// Where models are kept; none: processes keep them where they do by themselves, containers keep none.
    pub(crate) model_dir: Option<PathBuf>,
    /// Directories from which `fs://` may name models; none: any.
    pub(crate) fs_roots: Vec<PathBuf>,
}

/// Where a runtime says that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    /// Answers 2xx when it is.
    pub(crate) path: &'static str,
    /// Asked instead when that path does not exist there.
    pub(crate) otherwise: Option<&'static str>,
}

/// Why a replica cannot be run here: one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unready(pub(crate) String);

/// Which drivers a node uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NodeDriver {
    /// What fits each replica.
    #[default]
    Auto,
    /// This one, unless the deployment names one.
    Only(Driver),
}

impl From<Option<Driver>> for NodeDriver {
    fn from(driver: Option<Driver>) -> Self {
        driver.map_or(Self::Auto, Self::Only)
    }
}

/// What Nebula knows of a runtime.
struct Runtime {
    kind: RuntimeKind,
    /// Its usual images; none: a deployment must name one.
    images: Option<Images>,
    /// Where it listens in a container.
    container_port: u16,
    health: Health,
    /// What it takes as a model; nothing: it loads none, and whatever the deployment names is not looked at.
    takes: &'static [Form],
    /// What to do instead with a model that it does not take.
    advice: &'static str,
    /// The files that make up a model, the one that it is told first.
    files: fn(PathBuf) -> Result<Vec<PathBuf>, Unready>,
    /// Where it keeps the models that it fetches.
    cache: Option<Cache>,
    /// Whether it fetches from the Hugging Face hub.
    hub: bool,
    /// Whether its processes share memory when there are several GPUs.
    shares_memory: bool,
    /// Its command line on the machine itself.
    process: fn(&Ask<'_>) -> Result<Vec<String>, Unready>,
    /// Its command line in a container.
    container: fn(&Ask<'_>) -> Words,
    /// What it takes from the environment, with a command of the deployment's too.
    env: fn(&Ask<'_>) -> Vec<(&'static str, String)>,
    /// Whether its program is on this machine. May block for some seconds when the look is thorough.
    is_there: fn(&Look<'_>) -> bool,
    /// What a line of its log says about progress.
    progress: fn(&str) -> Option<Progress>,
}

/// Published images.
struct Images {
    plain: &'static str,
    /// The one for replicas with GPUs.
    gpu: &'static str,
}

/// A directory where a runtime keeps models.
struct Cache {
    /// The variable that names it. When the agent's environment has it, that is the place.
    variable: &'static str,
    /// Its place below the node's directory of models otherwise.
    below: &'static str,
    /// Its place in a container.
    inside: &'static str,
}

impl Cache {
    /// Its place on this machine; none: wherever the runtime likes.
    fn dir(&self, tools: &Tools) -> Option<PathBuf> {
        let own = std::env::var_os(self.variable).map(PathBuf::from).filter(|dir| dir.is_absolute());
        own.or_else(|| Some(tools.model_dir.as_ref()?.join(self.below)))
    }
}

/// How a container's command line begins.
struct Words {
    /// Replaces the image's entry point.
    entrypoint: Option<Vec<String>>,
    /// None at all: the image's own, if it has any.
    arguments: Vec<String>,
}

/// How to look for a program.
struct Look<'a> {
    tools: &'a Tools,
    /// Instead of the agent's `PATH`.
    path: Option<&'a str>,
    /// Whether a program may be run to find out.
    thorough: bool,
}

/// What a command line is made from.
struct Ask<'a> {
    spec: &'a Spec,
    tools: &'a Tools,
    /// What the runtime takes as the model: a path, a repository, a tag or a name.
    model: &'a str,
    form: Form,
    /// Where to listen.
    host: &'static str,
    port: u16,
    /// How many GPUs it has.
    gpus: usize,
}

impl Ask<'_> {
    /// Whether the deployment's own arguments set one of these flags.
    fn has_flag(&self, flags: &[&str]) -> bool {
        self.spec.args.iter().any(|arg| flags.contains(&arg.split('=').next().unwrap_or_default()))
    }

    /// The revision to ask the Hugging Face hub for, if one was named.
    fn revision(&self) -> Option<&str> {
        match &self.spec.source {
            Some(ModelSource::HuggingFace { revision, .. }) if self.form == Form::Repository => {
                revision.as_deref()
            }
            _ => None,
        }
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{port}", &self.port.to_string())
            .replace("{model}", self.model)
            .replace("{name}", &self.spec.served_name)
    }

    fn fill_all(&self, words: &[String]) -> Vec<String> {
        words.iter().map(|word| self.fill(word)).collect()
    }

    /// The deployment's environment.
    fn spec_env(&self) -> impl Iterator<Item = (String, String)> {
        self.spec.env.iter().map(|(name, value)| (name.clone(), self.fill(value)))
    }
}

/// The entry of a runtime: this is the table.
fn of(kind: RuntimeKind) -> &'static Runtime {
    match kind {
        RuntimeKind::Vllm => &vllm::RUNTIME,
        RuntimeKind::Tgi => &tgi::RUNTIME,
        RuntimeKind::Ollama => &ollama::RUNTIME,
        RuntimeKind::Triton => &triton::RUNTIME,
        RuntimeKind::Llamacpp => &llamacpp::RUNTIME,
        RuntimeKind::Sim => &sim::RUNTIME,
    }
}

/// Where a runtime says that it is ready. For Ollama there is more to do: see [`model_to_load`].
pub(crate) fn health(runtime: RuntimeKind) -> Health {
    of(runtime).health
}

/// The model that must be loaded into a runtime through its own API once it answers, before it is ready; none: it
/// comes up with its model. A deployment's own `command` brings its model itself.
pub(crate) fn model_to_load(spec: &Spec) -> Option<String> {
    if spec.runtime != RuntimeKind::Ollama || !spec.command.is_empty() {
        return None;
    }
    match &spec.source {
        Some(ModelSource::Ollama { tag }) => Some(tag.clone()),
        _ => Some(spec.model.clone()),
    }
}

/// What a line of a runtime's log says about how far it has got. Of a long line only a part is looked at.
pub(crate) fn progress(runtime: RuntimeKind, line: &str) -> Option<Progress> {
    (of(runtime).progress)(lines::newest(line))
}

/// The runtimes that can run here: those whose program is on this machine and, with a Docker Engine at hand, those
/// with an image of their own. The simulated one always can. Blocks, at worst for some seconds. For a node that runs
/// processes only no Engine is at hand.
pub(crate) fn supported(tools: &Tools, engine_ready: bool) -> Vec<RuntimeKind> {
    supported_with(&Look { tools, path: None, thorough: true }, engine_ready)
}

/// The same without what takes a program to find out.
pub(crate) fn supported_at_a_glance(tools: &Tools, engine_ready: bool) -> Vec<RuntimeKind> {
    supported_with(&Look { tools, path: None, thorough: false }, engine_ready)
}

fn supported_with(look: &Look<'_>, engine_ready: bool) -> Vec<RuntimeKind> {
    let can_run = |runtime: &Runtime| engine_ready && runtime.images.is_some() || (runtime.is_there)(look);
    RuntimeKind::ALL.into_iter().filter(|kind| can_run(of(*kind))).collect()
}

/// How a replica is run: as the deployment says, else as the node does, else as fits it. Blocks, at worst for some
/// seconds.
///
/// # Errors
/// When neither its program nor a Docker Engine is there.
pub(crate) fn choose_driver(
    spec: &Spec,
    node: NodeDriver,
    engine_ready: bool,
    tools: &Tools,
) -> Result<Driver, Unready> {
    if let Some(driver) = spec.driver {
        return Ok(driver);
    }
    if let NodeDriver::Only(driver) = node {
        return Ok(driver);
    }
    if spec.image.is_some() {
        return Ok(Driver::Docker);
    }
    if spec.runtime == RuntimeKind::Sim || !spec.command.is_empty() {
        return Ok(Driver::Process);
    }
    let path = spec.env.get("PATH").map(String::as_str);
    if (of(spec.runtime).is_there)(&Look { tools, path, thorough: true }) {
        return Ok(Driver::Process);
    }
    if engine_ready {
        return Ok(Driver::Docker);
    }
    let runtime = spec.runtime;
    Err(Unready(format!(
        "{runtime} is not on this node, and no Docker Engine answers; install {runtime} there, start Docker, or give \
         the deployment a command"
    )))
}

#[cfg(test)]
mod tests;
