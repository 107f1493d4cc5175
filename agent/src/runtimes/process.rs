//! How a replica is run as a process of this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nebula_core::runtime::Driver;

use super::{Ask, Health, Runtime, Tools, Unready, environment, model, of};
use crate::driver::programs;
use crate::replica::spec::Spec;

/// Where a process listens.
const HOST: &str = "127.0.0.1";

/// How to run a replica as a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Beyond what the runtime inherits from the agent.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) health: Health,
}

/// How to run a replica on this machine, after a look whether all it needs is there. Blocks on the file system.
/// `local_model` is where the model was fetched to; none: it was not fetched, or need not be.
///
/// # Errors
/// When the model file or the program is missing, or the runtime cannot take such a model.
pub(crate) fn plan(
    spec: &Spec,
    port: u16,
    tools: &Tools,
    gpu_uuids: &[String],
    local_model: Option<&Path>,
) -> Result<Plan, Unready> {
    let runtime = of(spec.runtime);
    environment::check(spec, Driver::Process)?;
    let model = model::on_host(runtime, spec, tools, local_model)?;
    let (gpus, form, model) = (gpu_uuids.len(), model.form, &*model.argument);
    let ask = Ask { spec, tools, model, form, host: HOST, port, gpus };
    let mut env = own_env(runtime, &ask, gpu_uuids);
    let command =
        if spec.command.is_empty() { (runtime.process)(&ask)? } else { ask.fill_all(&spec.command) };
    env.extend(ask.spec_env());
    let mut words = command.into_iter().chain(ask.fill_all(&spec.args));
    let program = found(words.next(), env.get("PATH").map(String::as_str), spec)?;
    Ok(Plan { program, args: words.collect(), env, health: runtime.health })
}

/// Looks whether the runtime's program is on this machine, so that no model is fetched for nothing. A command of the
/// deployment's own may need the model to be said. Blocks on the file system.
///
/// # Errors
/// When it is not.
pub(crate) fn check_program(spec: &Spec, tools: &Tools) -> Result<(), Unready> {
    if !spec.command.is_empty() {
        return Ok(());
    }
    let ask = Ask { spec, tools, model: "", form: model::Form::Path, host: HOST, port: 0, gpus: 0 };
    let words = (of(spec.runtime).process)(&ask)?;
    found(words.into_iter().next(), spec.env.get("PATH").map(String::as_str), spec).map(drop)
}

/// The program that a command line begins with.
fn found(first: Option<String>, path: Option<&str>, spec: &Spec) -> Result<PathBuf, Unready> {
    let name = first.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Unready("the command is empty".to_owned()))?;
    programs::find(&name, path).ok_or_else(|| Unready(missing(&name, spec)))
}

/// What is in the environment unless the deployment says otherwise.
fn own_env(runtime: &Runtime, ask: &Ask<'_>, gpu_uuids: &[String]) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PORT".to_owned(), ask.port.to_string())]);
    if !gpu_uuids.is_empty() {
        env.insert("CUDA_VISIBLE_DEVICES".to_owned(), gpu_uuids.join(","));
    }
    let kept = runtime.cache.as_ref().and_then(|cache| Some((cache.variable, cache.dir(ask.tools)?)));
    env.extend(kept.map(|(name, dir)| (name.to_owned(), dir.display().to_string())));
    env.extend((runtime.env)(ask).into_iter().map(|(name, value)| (name.to_owned(), value)));
    env
}

fn missing(program: &str, spec: &Spec) -> String {
    let advice = if spec.command.is_empty() {
        format!("install {} there, or give the deployment a command of its own", spec.runtime)
    } else {
        "correct the deployment's command, or install the program there".to_owned()
    };
    format!("the program \"{program}\" is not on this node; {advice}")
}
