//! `POST /deployments`: from what the user wrote to a spec that can be right.

use std::collections::BTreeMap;

use nebula_core::clock::WallTime;
use nebula_core::duration;
use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::source::ModelSource;
use nebula_core::token::{Secret, TokenKind};
use serde::Deserialize;
use serde_json::Value;

use crate::domain::deployment::{
    CpuNeed, DRAIN_DEFAULT, Deployment, DeploymentSpec, GpuNeed, LostAfter, Policy, Strategy,
    is_deployment_name, slug,
};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::image;
use crate::domain::route::Balance;

/// Most replicas of one deployment.
const REPLICAS_MAX: i64 = 1_000;
/// Most GPUs of one replica.
const GPUS_MAX: i64 = 64;
/// Most cores of one replica.
const CORES_MAX: i64 = 4_096;
/// The largest spec, so that its records and commands fit into the store.
const SPEC_BYTES_MAX: usize = 5_000;

/// The request's body. Fields that are not known are refused: they are typing errors more often than not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    name: Option<String>,
    model: String,
    runtime: Option<String>,
    source: Option<String>,
    image: Option<String>,
    driver: Option<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    node: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    replicas: Option<i64>,
    gpu: Option<GpuBody>,
    cpu: Option<CpuBody>,
    #[serde(default)]
    public: bool,
    lost_after: Option<Value>,
    routing: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GpuBody {
    count: Option<i64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    memory_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CpuBody {
    cores: i64,
}

fn wrong(message: impl Into<String>) -> Error {
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
    let spec = spec(body)?;
    let no_token =
        |error: nebula_core::token::NoRandomness| Error::new(ErrorClass::Internal, error.to_string());
    let token = Secret::generate(TokenKind::Deployment).map_err(no_token)?;
    let gateway_token = Secret::generate(TokenKind::Gateway).map_err(no_token)?;
    let dep = Deployment::new(name, spec, token.hash(), gateway_token, now);
    Ok((dep, token))
}

fn spec(body: CreateBody) -> Result<DeploymentSpec, Error> {
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
    let spec = DeploymentSpec {
        gpu: gpu(body.gpu, runtime)?,
        cpu: CpuNeed { cores: body.cpu.map_or(Ok(0), |cpu| count("cpu.cores", cpu.cores, CORES_MAX))? },
        replicas: count("replicas", body.replicas.unwrap_or(1), REPLICAS_MAX)?,
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
        placement: Policy::default(),
        strategy: Strategy::default(),
        drain: DRAIN_DEFAULT,
        autoscale: None,
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

/// The number of replicas of a scale request.
pub(super) fn replicas(value: i64) -> Result<u32, Error> {
    count("replicas", value, REPLICAS_MAX)
}

fn lost_after(value: &Value) -> Result<LostAfter, Error> {
    let text = match value {
        Value::String(text) if text == "never" => return Ok(LostAfter::Never),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(wrong("lost_after is neither seconds nor a duration like \"5m\" nor \"never\"")),
    };
    duration::parse(&text).map(LostAfter::After).map_err(|error| wrong(format!("lost_after: {error}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn create(json: &str) -> Result<(Deployment, Secret), Error> {
        deployment(serde_json::from_str(json).expect("well formed"), WallTime(1))
    }

    #[test]
    fn what_is_not_said_is_found_out() {
        let (dep, token) = create(r#"{"model":"llama3.2:1b"}"#).expect("valid");
        assert_eq!(dep.name, "llama3.2-1b");
        assert_eq!(dep.spec.runtime, RuntimeKind::Ollama);
        assert_eq!(
            dep.spec.source.as_ref().map(ToString::to_string).as_deref(),
            Some("ollama://llama3.2:1b")
        );
        assert_eq!((dep.spec.replicas, dep.spec.gpu.count), (1, 0));
        assert_eq!((dep.spec.lost_after, dep.spec.routing), (LostAfter::DEFAULT, Balance::LeastOutstanding));
        assert!(dep.token.matches(token.expose()));
        let (dep, _) = create(r#"{"model":"meta-llama/Llama-3.1-8B"}"#).expect("valid");
        assert_eq!((dep.spec.runtime, dep.spec.gpu.count), (RuntimeKind::Vllm, 1));
    }

    #[test]
    fn what_can_never_be_right_is_refused() {
        for (json, part) in [
            (r#"{"model":"m","runtime":"vlm"}"#, "unknown runtime \"vlm\""),
            (r#"{"model":"demo"}"#, "cannot tell the runtime"),
            (r#"{"model":" ","runtime":"sim"}"#, "model is empty"),
            (r#"{"model":"m","runtime":"sim","replicas":-1}"#, "replicas is -1"),
            (r#"{"model":"m","runtime":"sim","gpu":{"count":-1}}"#, "gpu.count is -1"),
            (r#"{"model":"m","runtime":"sim","name":"a b"}"#, "name \"a b\""),
            (r#"{"model":"ftp://x","runtime":"sim"}"#, "unknown model source"),
            (r#"{"model":"m","runtime":"sim","lost_after":"soon"}"#, "lost_after"),
            (r#"{"model":"m","runtime":"sim","routing":"random"}"#, "routing \"random\" is none of"),
            (r#"{"model":"m","runtime":"sim","env":{"A=B":"c"}}"#, "environment"),
            (
                r#"{"model":"m","runtime":"sim","image":"Bad Image"}"#,
                "image \"Bad Image\" has capital letters",
            ),
            (r#"{"model":"m","runtime":"sim","image":"a","driver":"process"}"#, "needs the driver docker"),
            (r#"{"model":"m","runtime":"sim","driver":"podman"}"#, "podman"),
            (r#"{"model":"m","runtime":"sim","command":[""]}"#, "names no program"),
            (r#"{"model":"m","runtime":"sim","args":["a\u0000"]}"#, "zero byte"),
        ] {
            let error = create(json).expect_err(json);
            assert_eq!(error.class, ErrorClass::Unprocessable, "{json}");
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn requests_are_spread_as_it_was_said() {
        for balance in Balance::ALL {
            let (dep, _) =
                create(&format!(r#"{{"model":"m","runtime":"sim","routing":"{balance}"}}"#)).expect("valid");
            assert_eq!(dep.spec.routing, balance);
        }
    }

    #[test]
    fn zero_replicas_and_never_lost_are_right() {
        let (dep, _) =
            create(r#"{"model":"m","runtime":"sim","replicas":0,"lost_after":"never"}"#).expect("valid");
        assert_eq!((dep.spec.replicas, dep.spec.lost_after), (0, LostAfter::Never));
    }
}
