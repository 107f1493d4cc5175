//! Nodes: list, show, cordon, drain, uncordon, delete.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, Json};
use crate::cli::NodeCommand;
use crate::failure::{Result, failed};
use crate::operations;
use crate::output::{Facts, Output, Table, confirmed, items_at, state, text_at};
use crate::quantity::{human_age, human_bytes};

/// Path of the nodes.
pub(crate) const PATH: [&str; 3] = ["api", "v1", "nodes"];

/// Runs one of the commands on nodes.
pub(crate) async fn run(api: &Api, output: &Output, command: NodeCommand) -> Result<()> {
    match command {
        NodeCommand::List => list(api, output).await,
        NodeCommand::Get { name } => {
            let node = api.get(&path(&name, &[])).await?;
            show(output, &node)
        }
        NodeCommand::Cordon { name } => changed(output, &api.post(&path(&name, &["cordon"]), None).await?),
        NodeCommand::Drain { name, timeout, wait } => drain(api, output, &name, timeout, wait).await,
        NodeCommand::Uncordon { name } => {
            changed(output, &api.post(&path(&name, &["uncordon"]), None).await?)
        }
        NodeCommand::Delete { name, yes } => delete(api, output, &name, yes).await,
    }
}

async fn list(api: &Api, output: &Output) -> Result<()> {
    let list = api.list(&PATH).await?;
    if output.is_json() {
        return output.json(&list.text());
    }
    output.table(&table(&list.items))?;
    if list.items.is_empty() {
        output.note("there is no node yet; start `nebula-agent` on a machine to add it");
    }
    Ok(())
}

async fn drain(api: &Api, output: &Output, name: &str, timeout: Option<Duration>, wait: bool) -> Result<()> {
    // Milliseconds are the smallest unit that can be typed.
    let body = timeout.map(|timeout| json!({ "timeout": format!("{}ms", timeout.as_millis()) }));
    let node = api.post(&path(name, &["drain"]), body.as_ref()).await?;
    let id = text_at(&node.value, "/operation");
    if wait && !id.is_empty() {
        return operations::wait(api, output, &id).await;
    }
    changed(output, &node)?;
    if text_at(&node.value, "/scheduling") == "draining" {
        output.note(&format!(
            "its replicas are replaced elsewhere: `nebulactl operations get {id}` shows how far that is, \
             `nebulactl nodes uncordon {name}` cancels it"
        ));
    }
    Ok(())
}

async fn delete(api: &Api, output: &Output, name: &str, yes: bool) -> Result<()> {
    let path = path(name, &[]);
    api.url(&path)?;
    if !yes && !confirmed(&format!("delete node {name}?")) {
        return Err(failed(format!("node {name} was not deleted")).into());
    }
    match api.delete(&path).await? {
        Some(node) => changed(output, &node),
        None => {
            output.note(&format!("node {name} is deleted"));
            Ok(())
        }
    }
}

fn path<'a>(name: &'a str, below: &[&'a str]) -> Vec<&'a str> {
    PATH.into_iter().chain([name]).chain(below.iter().copied()).collect()
}

fn changed(output: &Output, node: &Json) -> Result<()> {
    if output.is_json() {
        return output.json(&node.text);
    }
    output.table(&table(std::slice::from_ref(&node.value)))
}

fn table(nodes: &[Value]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "SCHEDULING",
        "GPUS",
        "REPLICAS",
        "HEARTBEAT",
        "VERSION",
        "ADDRESS",
        "ID",
    ]);
    for node in nodes {
        let text = |pointer: &str| text_at(node, pointer);
        table.row(vec![
            text("/name").into(),
            state(text("/state")),
            state(text("/scheduling")),
            gpus(node).into(),
            replicas(node).into(),
            heartbeat(node).into(),
            text("/version").into(),
            text("/address").into(),
            text("/id").into(),
        ]);
    }
    table
}

fn show(output: &Output, node: &Json) -> Result<()> {
    if output.is_json() {
        return output.json(&node.text);
    }
    let node = &node.value;
    let text = |pointer: &str| text_at(node, pointer);
    let bytes =
        |pointer: &str| node.pointer(pointer).and_then(Value::as_u64).map(human_bytes).unwrap_or_default();
    let mut facts = Facts::default();
    facts.add("Name", text("/name"));
    facts.add("Id", text("/id"));
    facts.add("State", state(text("/state")));
    facts.add("Scheduling", state(text("/scheduling")));
    facts.add("Operation", text("/operation"));
    facts.add("Health", state(text("/health/status")));
    facts.add("Issues", joined(items_at(node, "/health/issues")));
    facts.add("Heartbeat", heartbeat(node));
    facts.add("Address", text("/address"));
    facts.add("Version", text("/version"));
    facts.add("Gateway", text("/gateway_subdomain"));
    facts.add("System", [text("/capabilities/os"), text("/capabilities/arch")].join(" ").trim().to_owned());
    facts.add("CPU cores", text("/capabilities/cpu_cores"));
    facts.add("Memory", bytes("/capabilities/total_memory_bytes"));
    facts.add("Driver", text("/capabilities/driver_version"));
    facts.add("CUDA", text("/capabilities/cuda_version"));
    facts.add("Runtimes", joined(items_at(node, "/capabilities/supported_runtimes")));
    facts.add("Labels", labels(node));
    facts.add("Replicas", replicas(node));
    output.facts(&facts)?;
    if items_at(node, "/capabilities/gpus").is_empty() && lost_gpus(node).next().is_none() {
        return Ok(());
    }
    output.text("\n")?;
    output.table(&gpu_table(node))
}

/// What is told of GPUs that are not offered.
fn lost_gpus(node: &Value) -> impl Iterator<Item = &Value> {
    items_at(node, "/stats/gpu_stats").iter().filter(|stats| !text_at(stats, "/problem").is_empty())
}

fn gpu_table(node: &Value) -> Table {
    let mut table = Table::new(&["GPU", "NAME", "MEMORY", "USED", "BY OTHERS", "LOAD", "UUID", "PROBLEM"]);
    let bytes = |value: &Value, pointer: &str| {
        value.pointer(pointer).and_then(Value::as_u64).map(human_bytes).unwrap_or_default()
    };
    let mut row = |index: String, name: String, memory: String, uuid: String, stats: Option<&Value>| {
        let load = stats.and_then(|stats| stats.get("utilization_percent")).and_then(Value::as_f64);
        let others = stats.map(|stats| bytes(stats, "/memory_used_by_others_bytes"));
        table.row(vec![
            index.into(),
            name.into(),
            memory.into(),
            stats.map(|stats| bytes(stats, "/memory_used_bytes")).unwrap_or_default().into(),
            others.filter(|others| others != "0 B").unwrap_or_default().into(),
            load.map(|load| format!("{load:.0} %")).unwrap_or_default().into(),
            uuid.into(),
            stats.map(|stats| text_at(stats, "/problem")).unwrap_or_default().into(),
        ]);
    };
    let offered = items_at(node, "/capabilities/gpus");
    for gpu in offered {
        let uuid = text_at(gpu, "/uuid");
        let stats = items_at(node, "/stats/gpu_stats").iter().find(|stats| text_at(stats, "/uuid") == uuid);
        row(text_at(gpu, "/index"), text_at(gpu, "/name"), bytes(gpu, "/memory_bytes"), uuid, stats);
    }
    for stats in lost_gpus(node) {
        let uuid = text_at(stats, "/uuid");
        if !offered.iter().any(|gpu| text_at(gpu, "/uuid") == uuid) {
            let memory = bytes(stats, "/memory_total_bytes");
            row(String::new(), text_at(stats, "/name"), memory, uuid, Some(stats));
        }
    }
    table
}

/// `8 x NVIDIA H100 80GB`, or each kind with its number.
fn gpus(node: &Value) -> String {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for gpu in items_at(node, "/capabilities/gpus") {
        let name = text_at(gpu, "/name");
        match kinds.iter_mut().find(|(kind, _)| *kind == name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((name, 1)),
        }
    }
    kinds.iter().map(|(kind, count)| format!("{count} x {kind}")).collect::<Vec<_>>().join(", ")
}

/// The number of replicas on a node, which the API gives as a number or as a list.
fn replicas(node: &Value) -> String {
    match node.get("replicas") {
        Some(Value::Array(replicas)) => replicas.len().to_string(),
        _ => text_at(node, "/replicas"),
    }
}

fn heartbeat(node: &Value) -> String {
    let age = node.get("last_heartbeat_age_seconds");
    let seconds = age.and_then(|age| age.as_u64().or_else(|| age.as_f64().map(|age| age.max(0.0) as u64)));
    seconds.map(|seconds| format!("{} ago", human_age(seconds))).unwrap_or_default()
}

fn labels(node: &Value) -> String {
    let labels = node.get("labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", text_at(value, "")));
    pairs.collect::<Vec<_>>().join(", ")
}

fn joined(items: &[Value]) -> String {
    items.iter().map(|item| text_at(item, "")).collect::<Vec<_>>().join(", ")
}
