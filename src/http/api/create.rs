//! `POST /deployments`: from what the user wrote to a spec that can be right. `PATCH` comes through here too, with what
//! is there already beside what was written.

use std::collections::BTreeMap;
use std::time::Duration;

use nebula_core::clock::WallTime;
use nebula_core::duration;
use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::source::ModelSource;
use nebula_core::token::{Secret, TokenKind};
use serde_json::Value;

use self::body::{AutoscaleBody, GpuBody};
use crate::domain::deployment::{
    Autoscale, CpuNeed, DRAIN_DEFAULT, Deployment, DeploymentSpec, GpuNeed, LostAfter, Policy, Strategy,
    is_deployment_name, slug,
};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::image;
use crate::domain::route::Balance;

mod body;
#[cfg(test)]
mod tests;

pub(super) use self::body::CreateBody;

/// Most replicas of one deployment.
const REPLICAS_MAX: i64 = 1_000;
/// Most GPUs of one replica.
const GPUS_MAX: i64 = 64;
/// Most cores of one replica.
const CORES_MAX: i64 = 4_096;
/// The largest spec, so that its records and commands fit into the store.
const SPEC_BYTES_MAX: usize = 5_000;
/// The longest time that a replica which is to go may take for the requests that it has.
const DRAIN_MAX: Duration = Duration::from_secs(3_600);
/// Requests in flight that each replica should have, unless the user says otherwise.
const TARGET_INFLIGHT_DEFAULT: i64 = 8;
/// Most of them.
const TARGET_INFLIGHT_MAX: i64 = 100_000;
/// How long the number of replicas stays after a change, unless the user says otherwise.
const COOLDOWN_DEFAULT: Duration = Duration::from_secs(60);
/// How long nobody asks until the last replica goes, unless the user says otherwise.
const IDLE_AFTER_DEFAULT: Duration = Duration::from_secs(300);
/// The longest of both.
const AUTOSCALE_TIME_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorClass::Unprocessable, message)
}

/// A new deployment, and its token, which is shown once.
pub(super) fn deployment(body: CreateBody, now: WallTime) -> Result<(Deployment, Secret), Error> {
    let name = match &body.name {
        Some(name) if is_deployment_name(name) => name.clone(),
        Some(name) => {
            let shown: String = name.chars().take(64).collect();
            return Err(wrong(format!(
                "name \"{shown}\" is not 1 to 128 letters, digits and ._-/:@+ beginning with a letter or digit"
            )));
        }
        None => slug(&body.model),
    };
    let spec = spec(body, None)?;
    let no_token =
        |error: nebula_core::token::NoRandomness| Error::new(ErrorClass::Internal, error.to_string());
    let token = Secret::generate(TokenKind::Deployment).map_err(no_token)?;
    let gateway_token = Secret::generate(TokenKind::Gateway).map_err(no_token)?;
    let dep = Deployment::new(name, spec, token.hash(), gateway_token, now);
    Ok((dep, token))
}

/// What is wanted. `present`: how many replicas are wanted now, when the body does not say.
pub(super) fn spec(body: CreateBody, present: Option<u32>) -> Result<DeploymentSpec, Error> {
    if body.model.trim().is_empty() {
        return Err(wrong("model is empty"));
    }
    let runtime = body
        .runtime
        .as_deref()
        .map(str::parse::<RuntimeKind>)
        .transpose()
        .map_err(|e| wrong(e.to_string()))?;
    let given = body.source.as_deref().unwrap_or(&body.model);
    let source = ModelSource::detect(given, runtime).map_err(|error| wrong(error.to_string()))?;
    let runtime = runtime.or_else(|| source.as_ref().map(ModelSource::natural_runtime)).ok_or_else(|| {
        wrong(format!(
            "cannot tell the runtime of model \"{}\"; name one: runtime is vllm, ollama, llamacpp …",
            body.model
        ))
    })?;
    let driver = body.driver.as_deref().filter(|driver| *driver != "auto");
    let driver = driver.map(str::parse::<Driver>).transpose().map_err(|error| wrong(error.to_string()))?;
    let routing = body.routing.as_deref().map(str::parse::<Balance>).transpose();
    let routing = routing.map_err(|error| wrong(error.to_string()))?;
    let placement = body.placement.as_deref().map(str::parse::<Policy>).transpose().map_err(wrong)?;
    let strategy = body.strategy.as_deref().map(str::parse::<Strategy>).transpose().map_err(wrong)?;
    let autoscale = body.autoscale.as_ref().map(autoscale).transpose()?;
    let spec = DeploymentSpec {
        gpu: gpu(body.gpu, runtime)?,
        cpu: CpuNeed { cores: body.cpu.map_or(Ok(0), |cpu| count("cpu.cores", cpu.cores, CORES_MAX))? },
        replicas: wanted_replicas(body.replicas, present, autoscale.as_ref())?,
        lost_after: body.lost_after.as_ref().map_or(Ok(LostAfter::DEFAULT), lost_after)?,
        model: body.model,
        runtime,
        source,
        image: body.image.filter(|image| !image.is_empty()),
        driver,
        command: body.command,
        args: body.args,
        env: body.env,
        node: body.node.filter(|node| !node.is_empty()),
        labels: body.labels,
        public: body.public,
        routing: routing.unwrap_or_default(),
        placement: placement.unwrap_or_default(),
        strategy: strategy.unwrap_or_default(),
        drain: body
            .drain_timeout
            .as_ref()
            .map_or(Ok(DRAIN_DEFAULT), |value| time("drain_timeout", value, DRAIN_MAX))?,
        autoscale,
    };
    if let Some(image) = &spec.image {
        image::check(image).map_err(wrong)?;
    }
    check_words(&spec)?;
    check_env(&spec.env)?;
    let size = serde_json::to_vec(&spec).map_or(usize::MAX, |text| text.len());
    if size > SPEC_BYTES_MAX {
        return Err(wrong(format!(
            "the spec takes {size} bytes, more than the {SPEC_BYTES_MAX} that are kept"
        )));
    }
    Ok(spec)
}

fn gpu(body: Option<GpuBody>, runtime: RuntimeKind) -> Result<GpuNeed, Error> {
    let default = i64::from(runtime.default_gpu_count());
    let Some(body) = body else {
        return Ok(GpuNeed { count: runtime.default_gpu_count(), ..GpuNeed::default() });
    };
    // Whoever names a type or memory wants a GPU.
    let implied = if body.kind.is_some() || body.memory_bytes.is_some() { default.max(1) } else { default };
    Ok(GpuNeed {
        count: count("gpu.count", body.count.unwrap_or(implied), GPUS_MAX)?,
        kind: body.kind.filter(|kind| !kind.is_empty()),
        memory_bytes: body.memory_bytes.unwrap_or(0),
    })
}

/// A number of things, from 0 to `max`.
pub(super) fn count(field: &str, value: i64, max: i64) -> Result<u32, Error> {
    match u32::try_from(value) {
        Ok(number) if value <= max => Ok(number),
        _ => Err(wrong(format!("{field} is {value}, not from 0 to {max}"))),
    }
}

/// The number of replicas that a user asks for; of an autoscaled deployment one that the load may ask for too.
pub(super) fn replicas(value: i64, autoscale: Option<&Autoscale>) -> Result<u32, Error> {
    let number = count("replicas", value, REPLICAS_MAX)?;
    match autoscale {
        Some(Autoscale { min, max, .. }) if !(*min..=*max).contains(&number) => Err(wrong(format!(
            "replicas is {number}, and autoscale allows {min} to {max}; change autoscale, or leave replicas to it"
        ))),
        _ => Ok(number),
    }
}

/// How many replicas are wanted: what was said, else what is there as far as it is allowed, else one.
fn wanted_replicas(
    said: Option<i64>,
    present: Option<u32>,
    autoscale: Option<&Autoscale>,
) -> Result<u32, Error> {
    match (said, present, autoscale) {
        (Some(said), _, _) => replicas(said, autoscale),
        (None, Some(present), Some(auto)) => Ok(present.clamp(auto.min, auto.max)),
        (None, Some(present), None) => Ok(present),
        (None, None, Some(auto)) => Ok(auto.min.max(1)),
        (None, None, None) => Ok(1),
    }
}

fn autoscale(body: &AutoscaleBody) -> Result<Autoscale, Error> {
    let min = count("autoscale.min", body.min, REPLICAS_MAX)?;
    let max = count("autoscale.max", body.max, REPLICAS_MAX)?;
    if max == 0 {
        return Err(wrong("autoscale.max is 0; to have no replicas, stop the deployment or scale it to 0"));
    }
    if max < min {
        return Err(wrong(format!("autoscale.max is {max}, less than autoscale.min, which is {min}")));
    }
    let target = body.target_inflight.unwrap_or(TARGET_INFLIGHT_DEFAULT);
    let target = u32::try_from(target).ok().filter(|_| (1..=TARGET_INFLIGHT_MAX).contains(&target));
    let target = target.ok_or_else(|| {
        let given = body.target_inflight.unwrap_or_default();
        wrong(format!("autoscale.target_inflight is {given}, not from 1 to {TARGET_INFLIGHT_MAX}"))
    })?;
    let wait = |field: &str, value: &Option<Value>, default| {
        value.as_ref().map_or(Ok(default), |value| time(field, value, AUTOSCALE_TIME_MAX))
    };
    Ok(Autoscale {
        min,
        max,
        target,
        cooldown: wait("autoscale.cooldown", &body.cooldown, COOLDOWN_DEFAULT)?,
        idle_after: wait("autoscale.idle_after", &body.idle_after, IDLE_AFTER_DEFAULT)?,
    })
}

fn lost_after(value: &Value) -> Result<LostAfter, Error> {
    if value == "never" {
        return Ok(LostAfter::Never);
    }
    let or_never = |mut error: Error| {
        error.message.push_str(", or \"never\"");
        error
    };
    time("lost_after", value, Duration::MAX).map(LostAfter::After).map_err(or_never)
}

/// A time as seconds or as a duration with its unit.
pub(super) fn time(field: &str, value: &Value, most: Duration) -> Result<Duration, Error> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(wrong(format!("{field} is neither seconds nor a duration like \"5m\""))),
    };
    let time = duration::parse(&text).map_err(|error| wrong(format!("{field}: {error}")))?;
    if time > most {
        return Err(wrong(format!("{field} is {text}, more than {}", duration::human(most))));
    }
    Ok(time)
}

/// The program and its arguments as an operating system can take them.
fn check_words(spec: &DeploymentSpec) -> Result<(), Error> {
    if spec.command.first().is_some_and(String::is_empty) {
        return Err(wrong("command names no program: its first word is empty"));
    }
    if spec.command.iter().chain(&spec.args).any(|word| word.contains('\0')) {
        return Err(wrong("command and args may not hold a zero byte"));
    }
    if spec.driver == Some(Driver::Process) && spec.image.is_some() {
        return Err(wrong("an image needs the driver docker, and the driver given is process"));
    }
    Ok(())
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), Error> {
    let legal = |key: &String| !key.is_empty() && !key.contains(['=', '\0']);
    match env.iter().find(|(key, value)| !legal(key) || value.contains('\0')) {
        Some((key, _)) => Err(wrong(format!("\"{key}\" is no environment variable's name"))),
        None => Ok(()),
    }
}
