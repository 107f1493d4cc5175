//! The table of runtimes: for each its command line, its health check and what it takes as a model.
//!
//! A deployment's `command` replaces the command line; `args` follow it either way. In `command`, `args` and `env`
//! the placeholders `{port}`, `{model}` and `{name}` are filled in.

mod llamacpp;
mod ollama;
mod sim;
mod tgi;
mod triton;
mod vllm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nebula_core::runtime::RuntimeKind;
use nebula_core::source::ModelSource;

use crate::driver::programs;
use crate::replica::spec::Spec;

/// What this machine offers for starting runtimes.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// Starts the simulated runtime.
    pub(crate) sim_command: Vec<String>,
    /// The Python to use; none: the one that is found.
    pub(crate) python: Option<PathBuf>,
    /// Where models are kept.
    pub(crate) model_dir: Option<PathBuf>,
}

/// How to run a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Beyond what the runtime inherits from the agent.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) health: Health,
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

/// A command line of a runtime's own.
struct Line {
    command: Vec<String>,
    env: Vec<(&'static str, String)>,
}

/// What a command line is made from.
struct Ask<'a> {
    spec: &'a Spec,
    /// What the runtime takes as the model: a path, a repository, a tag or a name.
    model: &'a str,
    port: u16,
    tools: &'a Tools,
}

impl Ask<'_> {
    /// Whether the deployment's own arguments set one of these flags.
    fn has_flag(&self, flags: &[&str]) -> bool {
        self.spec.args.iter().any(|arg| flags.contains(&arg.split('=').next().unwrap_or_default()))
    }

    /// The revision of a Hugging Face repository, if one was named.
    fn revision(&self) -> Option<&str> {
        match &self.spec.source {
            Some(ModelSource::HuggingFace { revision, .. }) => revision.as_deref(),
            _ => None,
        }
    }
}

/// How to run a replica on this machine, after a look whether all it needs is there. Blocks on the file system.
///
/// # Errors
/// When the model file or the program is missing, or the runtime cannot take such a model.
pub(crate) fn plan(spec: &Spec, port: u16, tools: &Tools) -> Result<Plan, Unready> {
    check_model(spec)?;
    let model = model_argument(spec);
    let ask = Ask { spec, model: &model, port, tools };
    let mut env: BTreeMap<String, String> = environment(spec, port, tools);
    let command = if spec.command.is_empty() {
        let line = own_line(&ask)?;
        env.extend(line.env.into_iter().map(|(name, value)| (name.to_owned(), value)));
        line.command
    } else {
        spec.command.iter().map(|word| ask.fill(word)).collect()
    };
    env.extend(spec.env.iter().map(|(name, value)| (name.clone(), ask.fill(value))));
    let mut words = command.into_iter().chain(spec.args.iter().map(|word| ask.fill(word)));
    let name = words.next().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Unready("the command is empty".to_owned()))?;
    let program = programs::find(&name, env.get("PATH").map(String::as_str))
        .ok_or_else(|| Unready(missing(&name, spec)))?;
    Ok(Plan { program, args: words.collect(), env, health: health(spec.runtime) })
}

impl Ask<'_> {
    fn fill(&self, text: &str) -> String {
        text.replace("{port}", &self.port.to_string())
            .replace("{model}", self.model)
            .replace("{name}", &self.spec.served_name)
    }
}

fn own_line(ask: &Ask<'_>) -> Result<Line, Unready> {
    match ask.spec.runtime {
        RuntimeKind::Vllm => Ok(vllm::line(ask)),
        RuntimeKind::Tgi => Ok(tgi::line(ask)),
        RuntimeKind::Ollama => Ok(ollama::line(ask)),
        RuntimeKind::Triton => triton::line(ask),
        RuntimeKind::Llamacpp => llamacpp::line(ask),
        RuntimeKind::Sim => Ok(sim::line(ask)),
    }
}

pub(crate) fn health(runtime: RuntimeKind) -> Health {
    match runtime {
        RuntimeKind::Vllm => vllm::HEALTH,
        RuntimeKind::Tgi => tgi::HEALTH,
        RuntimeKind::Ollama => ollama::HEALTH,
        RuntimeKind::Triton => triton::HEALTH,
        RuntimeKind::Llamacpp => llamacpp::HEALTH,
        RuntimeKind::Sim => sim::HEALTH,
    }
}

/// The runtimes whose program is on this machine. The simulated one always is. Blocks, at worst for some seconds.
pub(crate) fn supported(tools: &Tools) -> Vec<RuntimeKind> {
    supported_with(|| llamacpp::is_there(tools))
}

/// The same without what takes a program to find out.
pub(crate) fn supported_at_a_glance() -> Vec<RuntimeKind> {
    supported_with(llamacpp::has_server)
}

fn supported_with(llamacpp: impl Fn() -> bool) -> Vec<RuntimeKind> {
    let there = |runtime: &RuntimeKind| match runtime {
        RuntimeKind::Vllm => programs::find(vllm::PROGRAM, None).is_some(),
        RuntimeKind::Tgi => programs::find(tgi::PROGRAM, None).is_some(),
        RuntimeKind::Ollama => programs::find(ollama::PROGRAM, None).is_some(),
        RuntimeKind::Triton => triton::is_there(),
        RuntimeKind::Llamacpp => llamacpp(),
        RuntimeKind::Sim => true,
    };
    RuntimeKind::ALL.into_iter().filter(there).collect()
}

/// What is in the environment unless the deployment says otherwise.
fn environment(spec: &Spec, port: u16, tools: &Tools) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PORT".to_owned(), port.to_string())]);
    if !spec.gpu_devices.is_empty() {
        let devices: Vec<String> = spec.gpu_devices.iter().map(ToString::to_string).collect();
        env.insert("CUDA_VISIBLE_DEVICES".to_owned(), devices.join(","));
    }
    if let Some(dir) = &tools.model_dir {
        for (name, below) in [("HF_HOME", "huggingface"), ("OLLAMA_MODELS", "ollama")] {
            if std::env::var_os(name).is_none() {
                env.insert(name.to_owned(), dir.join(below).display().to_string());
            }
        }
    }
    env
}

/// What stands for the model on a command line.
fn model_argument(spec: &Spec) -> String {
    match &spec.source {
        Some(ModelSource::HuggingFace { repo, .. }) => repo.clone(),
        Some(ModelSource::Ollama { tag }) => tag.clone(),
        Some(ModelSource::File { path }) => path.clone(),
        Some(ModelSource::S3 { .. }) | None => spec.model.clone(),
    }
}

/// Whether the model's source can be used and its file is there.
pub(crate) fn check_model(spec: &Spec) -> Result<(), Unready> {
    // Nothing is loaded by the simulated runtime, so nothing has to be there.
    match &spec.source {
        _ if spec.runtime == RuntimeKind::Sim => Ok(()),
        Some(ModelSource::File { path }) => check_file(Path::new(path)),
        Some(source @ ModelSource::S3 { .. }) => Err(Unready(format!(
            "{source} cannot be fetched: s3:// is not built yet; copy the model to the node and use fs://"
        ))),
        Some(ModelSource::HuggingFace { .. } | ModelSource::Ollama { .. }) | None => Ok(()),
    }
}

/// Whether a model's file or directory is there and can be read.
pub(crate) fn check_file(path: &Path) -> Result<(), Unready> {
    let found = std::fs::metadata(path)
        .and_then(|found| if found.is_dir() { Ok(()) } else { std::fs::File::open(path).map(drop) });
    found.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Unready(format!(
            "there is no model file {}; copy it to this node or correct the path",
            path.display()
        )),
        _ => Unready(format!("the model file {} cannot be read: {error}", path.display())),
    })
}

fn missing(program: &str, spec: &Spec) -> String {
    let advice = if spec.command.is_empty() {
        format!("install {} there, or give the deployment a command of its own", spec.runtime)
    } else {
        "correct the deployment's command, or install the program there".to_owned()
    };
    format!("the program \"{program}\" is not on this node; {advice}")
}

#[cfg(test)]
mod tests;
