//! From the protocol's requests to the agent's own, every field checked. Used by the gRPC service and for commands.

use std::time::Duration;

use nebula_core::ids::{DeploymentId, Generation, ReplicaId};
use nebula_core::runtime::{Driver, RuntimeKind};
use nebula_core::source::ModelSource;
use nebula_core::token::TokenHash;
use nebula_proto::StartRuntimeRequest;

use crate::replica::manager::{Selector, Start};
use crate::replica::spec::{Access, Spec};

/// How long a name or a model's identifier may be, in bytes.
const NAME_MAX: usize = 512;
/// How long the name of a container image may be, in bytes.
const IMAGE_MAX: usize = 512;
/// Valid deployment tokens at a time.
const TOKENS_MAX: usize = 16;
/// The longest time that requests in flight may be granted.
const DRAIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest grace a stop may ask for.
const GRACE_MAX: Duration = Duration::from_secs(600);

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    /// A field is wrong.
    #[error("{0}")]
    Invalid(String),
}

fn invalid(error: impl std::fmt::Display) -> BadRequest {
    BadRequest::Invalid(error.to_string())
}

/// Which replica a request is to start. Without a replica id the deployment has one replica here, with its own id.
pub(crate) fn ids(request: &StartRuntimeRequest) -> Result<(DeploymentId, ReplicaId), BadRequest> {
    let deployment: DeploymentId = request.deployment_id.parse().map_err(invalid)?;
    let replica = match request.replica_id.as_str() {
        "" => ReplicaId::from_bytes(*deployment.as_bytes()),
        text => text.parse().map_err(invalid)?,
    };
    Ok((deployment, replica))
}

/// Reads a request to start a replica.
pub(crate) fn start(request: StartRuntimeRequest) -> Result<Start, BadRequest> {
    let (deployment, replica) = ids(&request)?;
    let access = access(&request)?;
    let port = u16::try_from(request.port).map_err(|_| invalid("the port is none from 0 to 65535"))?;
    let generation = Generation(request.generation);
    let drain = drain(request.drain_seconds);
    Ok(Start { deployment, replica, generation, spec: spec(request)?, access, port, drain })
}

fn spec(request: StartRuntimeRequest) -> Result<Spec, BadRequest> {
    let runtime: RuntimeKind = request.runtime.parse().map_err(invalid)?;
    if request.model.is_empty() && request.model_path.is_empty() {
        return Err(invalid("the model is missing"));
    }
    let source = match request.model_path.as_str() {
        "" => ModelSource::detect(&request.model, Some(runtime)).map_err(invalid)?,
        text => Some(text.parse().map_err(invalid)?),
    };
    let model = if request.model.is_empty() { request.model_path } else { request.model };
    let served_name =
        if request.served_model_name.is_empty() { model.clone() } else { request.served_model_name };
    if model.len() > NAME_MAX || served_name.len() > NAME_MAX {
        return Err(invalid(format!("the model's name is longer than {NAME_MAX} bytes")));
    }
    let gpu_devices = request.gpu_devices.into_iter().map(u32::try_from).collect::<Result<_, _>>();
    let gpu_devices = gpu_devices.map_err(|_| invalid("a GPU's index is below 0"))?;
    let env = request.env.into_iter().collect::<std::collections::BTreeMap<_, _>>();
    if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(invalid(format!("\"{name}\" is no name of an environment variable")));
    }
    let words = request.command.iter().chain(&request.args);
    if words.chain(env.values()).chain(env.keys()).chain([&served_name]).any(|text| text.contains('\0')) {
        return Err(invalid("command, args and env may not contain a zero byte"));
    }
    Ok(Spec {
        runtime,
        model,
        source,
        served_name,
        command: request.command,
        args: request.args,
        env,
        gpu_devices,
        image: image(request.image)?,
        driver: driver(&request.driver)?,
    })
}

/// How it is to be run; none: as the node does.
fn driver(text: &str) -> Result<Option<Driver>, BadRequest> {
    match text {
        "" | "auto" => Ok(None),
        name => name.parse().map(Some).map_err(invalid),
    }
}

/// The container image; none: the runtime's usual one. Whether it exists is the Engine's to say.
fn image(text: String) -> Result<Option<String>, BadRequest> {
    if text.len() > IMAGE_MAX {
        return Err(invalid(format!("the image's name is longer than {IMAGE_MAX} bytes")));
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(invalid("the image's name may not contain spaces or control characters"));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn access(request: &StartRuntimeRequest) -> Result<Access, BadRequest> {
    let mut tokens = tokens(&hashes(&request.access_token_sha256))?;
    if tokens.is_empty() && !request.access_token.is_empty() {
        tokens.push(TokenHash::of(&request.access_token));
    }
    Ok(Access { public: request.is_public, tokens, gateway: gateway(&request.gateway_token) })
}

/// Hashes of tokens in one text, separated by commas: while one is rotated, the one before is valid too.
pub(crate) fn hashes(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|hash| !hash.is_empty()).map(str::to_owned).collect()
}

fn tokens(hashes: &[String]) -> Result<Vec<TokenHash>, BadRequest> {
    if hashes.len() > TOKENS_MAX {
        return Err(invalid(format!("more than {TOKENS_MAX} tokens")));
    }
    hashes.iter().map(|hex| TokenHash::from_hex(hex)).collect::<Result<_, _>>().map_err(invalid)
}

fn gateway(token: &str) -> Option<TokenHash> {
    Some(token).filter(|token| !token.is_empty()).map(TokenHash::of)
}

/// New credentials. An empty gateway token keeps the old one.
pub(crate) fn new_access(public: bool, hashes: &[String], gateway_token: &str) -> Result<Access, BadRequest> {
    Ok(Access { public, tokens: tokens(hashes)?, gateway: gateway(gateway_token) })
}

/// Which replicas a request is about.
pub(crate) fn selector(deployment: &str, replica: &str) -> Result<Selector, BadRequest> {
    let deployment = deployment.parse().map_err(invalid)?;
    let replica = match replica {
        "" => None,
        text => Some(text.parse().map_err(invalid)?),
    };
    Ok(Selector { deployment, replica })
}

/// The generation of a request; 0 is none: it stands for whatever there is.
pub(crate) fn generation(number: u64) -> Option<Generation> {
    (number > 0).then_some(Generation(number))
}

/// The grace of a stop; 0 is none: the usual one.
pub(crate) fn grace(seconds: i32) -> Option<Duration> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds).min(GRACE_MAX))
}

/// How long requests in flight may take; nothing, or less than that: no time.
pub(crate) fn drain(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).min(DRAIN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> StartRuntimeRequest {
        StartRuntimeRequest {
            deployment_id: DeploymentId::random().to_string(),
            runtime: "sim".to_owned(),
            model: "demo".to_owned(),
            ..StartRuntimeRequest::default()
        }
    }

    #[test]
    fn a_request_as_in_the_guide_is_enough() {
        let start = start(request()).expect("valid");
        assert_eq!(start.replica.as_bytes(), start.deployment.as_bytes());
        assert_eq!(start.spec.served_name, "demo");
        assert_eq!(start.access, Access::default());
        let request = StartRuntimeRequest {
            model: String::new(),
            model_path: "hf://a/b".to_owned(),
            access_token: "nbtok_1".to_owned(),
            gateway_token: "nbgw_1".to_owned(),
            ..request()
        };
        let start = super::start(request).expect("valid");
        assert!(start.access.admits(Some("nbtok_1")) && start.access.admits(Some("nbgw_1")));
        assert_eq!(start.spec.model, "hf://a/b");
        assert_eq!((start.spec.image, start.spec.driver), (None, None));
        let (image, driver) = ("registry:5000/a/b@sha256:1".to_owned(), "docker".to_owned());
        let start = super::start(StartRuntimeRequest { image: image.clone(), driver, ..self::request() });
        let spec = start.expect("valid").spec;
        assert_eq!((spec.image, spec.driver), (Some(image), Some(Driver::Docker)));
    }

    #[test]
    fn the_hash_counts_before_the_token() {
        let hash = TokenHash::of("nbtok_2").to_hex();
        let request = StartRuntimeRequest {
            access_token: "nbtok_1".to_owned(),
            access_token_sha256: hash,
            ..request()
        };
        let access = start(request).expect("valid").access;
        assert!(access.admits(Some("nbtok_2")) && !access.admits(Some("nbtok_1")));
    }

    #[test]
    fn several_tokens_are_valid_at_a_time() {
        let hash = |token: &str| TokenHash::of(token).to_hex();
        let access_token_sha256 = format!("{}, {},", hash("nbtok_1"), hash("nbtok_2"));
        let started = start(StartRuntimeRequest { access_token_sha256, ..request() }).expect("valid").access;
        let changed = new_access(false, &[hash("nbtok_1"), hash("nbtok_2")], "").expect("valid");
        for access in [started, changed] {
            assert!(access.admits(Some("nbtok_1")) && access.admits(Some("nbtok_2")));
            assert!(!access.admits(Some("nbtok_3")) && !access.admits(None));
        }
        let many = vec![hash("x"); TOKENS_MAX + 1];
        assert_eq!(
            new_access(false, &many, "").map_err(|error| error.to_string()),
            Err("more than 16 tokens".to_owned())
        );
        assert!(new_access(false, &["zz".to_owned()], "").is_err());
        assert_eq!(hashes(" , ,"), Vec::<String>::new());
    }

    #[test]
    fn every_wrong_field_is_refused() {
        let bad = |change: fn(&mut StartRuntimeRequest)| {
            let mut request = request();
            change(&mut request);
            start(request).map(drop).expect_err("refused").to_string()
        };
        assert_eq!(bad(|r| r.deployment_id = "x".to_owned()), "\"x\" is no deployment id");
        assert_eq!(bad(|r| r.replica_id = "y".to_owned()), "\"y\" is no replica id");
        assert!(bad(|r| r.runtime = "vlm".to_owned()).starts_with("unknown runtime \"vlm\""));
        assert_eq!(bad(|r| r.model.clear()), "the model is missing");
        assert!(bad(|r| r.model_path = "ftp://x".to_owned()).starts_with("unknown model source"));
        assert!(bad(|r| r.driver = "lxc".to_owned()).starts_with("unknown driver \"lxc\""));
        assert!(bad(|r| r.image = "x".repeat(513)).contains("longer than 512 bytes"));
        assert!(bad(|r| r.image = "a b".to_owned()).contains("may not contain spaces"));
        assert!(bad(|r| r.image = "a\u{7}b".to_owned()).contains("control characters"));
        assert_eq!(bad(|r| r.port = 70_000), "the port is none from 0 to 65535");
        assert_eq!(bad(|r| r.gpu_devices = vec![-1]), "a GPU's index is below 0");
        assert_eq!(bad(|r| r.access_token_sha256 = "zz".to_owned()), "a token hash is 64 hex digits");
        assert!(bad(|r| r.args = vec!["a\0b".to_owned()]).contains("zero byte"));
        assert!(bad(|r| drop(r.env.insert("A=B".to_owned(), String::new()))).contains("\"A=B\""));
    }

    #[test]
    fn zero_means_not_given() {
        assert_eq!(generation(0), None);
        assert_eq!(generation(3), Some(Generation(3)));
        assert_eq!(grace(0), None);
        assert_eq!(grace(-1), None);
        assert_eq!(grace(100_000), Some(GRACE_MAX));
        assert_eq!((drain(0), drain(-1)), (Duration::ZERO, Duration::ZERO));
        assert_eq!((drain(60), drain(i32::MAX)), (Duration::from_secs(60), DRAIN_MAX));
    }
}
