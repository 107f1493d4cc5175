//! `deploy`: makes a deployment and, on wish, waits until it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::api::Api;
use crate::cli::{DeployArgs, SpecArgs};
use crate::failure::Result;
use crate::output::{Output, text_at};
use crate::{deployments, wait};

/// Deploys. What was made is printed in every case once nebulad has accepted it, also when waiting for it fails,
/// because its access token is not shown again.
pub(crate) async fn run(api: &Api, output: &Output, args: DeployArgs) -> Result<()> {
    let (wait, timeout) = (args.wait, args.wait_timeout);
    let created = api.post(&deployments::PATH, Some(&request(args))).await?;
    let token = created.value.get("access_token").and_then(Value::as_str);
    let name = text_at(&created.value, "/name");

    let waited = if wait { Some(wait::until_running(api, output, &created, timeout).await) } else { None };
    let (shown, end) = match waited {
        None => (None, Ok(())),
        Some(waited) => (waited.latest, waited.end),
    };
    let shown = shown.unwrap_or_else(|| created.clone());
    if output.is_json() {
        let has_token = shown.value.get("access_token").is_some();
        let text = match token.filter(|_| !has_token) {
            Some(token) => shown.text_with("access_token", &token.into()),
            None => shown.text,
        };
        output.json(&text)?;
    } else {
        deployments::show(output, &shown.value, token)?;
    }
    if token.is_some() {
        output.note("\nnote: the access token is shown only this once; keep it where your clients find it");
    }
    end?;
    if wait {
        output.note(&format!("\ntry it: nebulactl chat {name} \"hello\""));
    } else {
        output.note(&format!("\nfollow it: nebulactl why {name}"));
    }
    Ok(())
}

/// The body of the request.
fn request(args: DeployArgs) -> Value {
    let mut body = described(args.spec);
    body.insert("model".to_owned(), args.model.into());
    if let Some(name) = args.name {
        body.insert("name".to_owned(), name.into());
    }
    Value::Object(body)
}

/// The fields that were said, so that nebulad's defaults hold for the rest.
pub(crate) fn described(args: SpecArgs) -> Map<String, Value> {
    let mut body = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(key.to_owned(), value);
        }
    };
    // Milliseconds are the smallest unit that can be typed.
    let time = |time: Duration| Value::from(format!("{}ms", time.as_millis()));
    put("source", args.source.map(Value::from));
    put("runtime", args.runtime.map(Value::from));
    put("image", args.image.map(Value::from));
    put("driver", args.driver.map(Value::from));
    put("node", args.node.map(Value::from));
    put("replicas", args.replicas.map(Value::from));
    put("args", (!args.args.is_empty()).then(|| args.args.into()));
    put("command", (!args.words.is_empty()).then(|| args.words.into()));
    put("env", (!args.env.is_empty()).then(|| pairs(args.env)));
    put("labels", (!args.labels.is_empty()).then(|| pairs(args.labels)));
    put("public", args.public.map(Value::from));
    put("routing", args.routing.map(Value::from));
    put("placement", args.placement.map(Value::from));
    put("strategy", args.strategy.map(Value::from));
    put("drain_timeout", args.drain_timeout.map(time));
    put("lost_after", args.lost_after.map(Value::from));
    put(
        "gpu",
        object([
            ("count", args.gpus.map(Value::from)),
            ("type", args.gpu_type.map(Value::from)),
            ("memory_bytes", args.gpu_memory.map(Value::from)),
        ]),
    );
    put(
        "autoscale",
        object([
            ("min", args.autoscale.map(|bounds| bounds.min.into())),
            ("max", args.autoscale.map(|bounds| bounds.max.into())),
            ("target_inflight", args.target_inflight.map(Value::from)),
            ("cooldown", args.cooldown.map(time)),
            ("idle_after", args.idle_after.map(time)),
        ]),
    );
    body
}

/// What was said of a field's parts; nothing when nothing was.
fn object<const N: usize>(parts: [(&str, Option<Value>); N]) -> Option<Value> {
    let said = parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let said: Map<String, Value> = said.collect();
    (!said.is_empty()).then(|| said.into())
}

/// Pairs as an object; of two with one key the later counts.
fn pairs(pairs: Vec<(String, String)>) -> Value {
    let last: BTreeMap<String, String> = pairs.into_iter().collect();
    last.into_iter().map(|(key, value)| (key, Value::from(value))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};

    fn body(line: &[&str]) -> Value {
        let line = ["nebulactl", "deploy"].iter().chain(line);
        let Command::Deploy(args) = Cli::parse_from(line).command else { panic!("not a deploy") };
        request(*args)
    }

    #[test]
    fn only_what_was_said_is_sent() {
        assert_eq!(body(&["--model", "llama3.2:1b"]), json!({"model": "llama3.2:1b"}));
    }

    #[test]
    fn every_flag_has_its_place() {
        let line = "--model org/m --name demo --source hf://org/m --runtime vllm --image img:1 --driver docker \
                    --node gpu-1 --replicas 2 --gpus 4 --gpu-type h100 --gpu-memory 80GB --arg --max-len --arg 4096 \
                    --command python3 --command -m --env A=1 --env A=2 --label team=x --public --routing prefix \
                    --placement spread --strategy recreate --drain-timeout 2m --lost-after never --autoscale 1..4 \
                    --target-inflight 16 --cooldown 30 --idle-after 1h";
        let expected = json!({
            "model": "org/m", "name": "demo", "source": "hf://org/m", "runtime": "vllm", "image": "img:1",
            "driver": "docker", "node": "gpu-1", "replicas": 2, "args": ["--max-len", "4096"],
            "command": ["python3", "-m"], "env": {"A": "2"}, "labels": {"team": "x"}, "public": true,
            "routing": "prefix", "placement": "spread", "strategy": "recreate", "drain_timeout": "120000ms",
            "lost_after": "never", "autoscale": {"min": 1, "max": 4, "target_inflight": 16, "cooldown": "30000ms",
            "idle_after": "3600000ms"}, "gpu": {"count": 4, "type": "h100", "memory_bytes": 80_000_000_000_u64},
        });
        assert_eq!(body(&line.split_whitespace().collect::<Vec<_>>()), expected);
    }
}
