//! Deployments: list, show, start, stop, restart, scale, delete, another token.

use serde_json::{Value, json};

use crate::api::{Api, Json};
use crate::cli::RotateArgs;
use crate::failure::{Result, failed};
use crate::output::{Cell, Facts, Output, Table, age_at, confirmed, items_at, state, text_at};
use crate::quantity::human_bytes;

/// Path of the deployments.
pub(crate) const PATH: [&str; 3] = ["api", "v1", "deployments"];

/// Prints all deployments.
pub(crate) async fn list(api: &Api, output: &Output) -> Result<()> {
    let list = api.list(&PATH).await?;
    if output.is_json() {
        return output.json(&list.text());
    }
    output.table(&table(&list.items))?;
    if list.items.is_empty() {
        output.note("there is no deployment yet; `nebulactl deploy --model MODEL` makes one");
    }
    Ok(())
}

/// Prints one deployment.
pub(crate) async fn get(api: &Api, output: &Output, name: &str) -> Result<()> {
    let deployment = api.get(&path(name, &[])).await?;
    if output.is_json() {
        return output.json(&deployment.text);
    }
    show(output, &deployment.value, None)
}

/// Tells nebulad to start, stop or restart a deployment.
pub(crate) async fn act(api: &Api, output: &Output, name: &str, verb: &str) -> Result<()> {
    let deployment = api.post(&path(name, &[verb]), None).await?;
    changed(output, &deployment)
}

/// Sets the number of replicas.
pub(crate) async fn scale(api: &Api, output: &Output, name: &str, replicas: u32) -> Result<()> {
    let deployment = api.post(&path(name, &["scale"]), Some(&json!({ "replicas": replicas }))).await?;
    changed(output, &deployment)
}

/// Gives a deployment a new access token and prints it: by itself on standard output, so that it can be taken from there.
pub(crate) async fn rotate_token(api: &Api, output: &Output, args: &RotateArgs) -> Result<()> {
    // Milliseconds are the smallest unit that can be typed.
    let body = args.overlap.map(|overlap| json!({ "overlap": format!("{}ms", overlap.as_millis()) }));
    let deployment = api.post(&path(&args.name, &["rotate-token"]), body.as_ref()).await?;
    if output.is_json() {
        return output.json(&deployment.text);
    }
    let text = |pointer: &str| text_at(&deployment.value, pointer);
    output.text(&format!("{}\n", text("/access_token")))?;
    output.note(&format!("this is the access token of {}; it is not shown again", text("/name")));
    match text("/old_token_until").as_str() {
        "" => output.note("the old token has ended"),
        until => output.note(&format!("the old token is valid until {until}")),
    }
    Ok(())
}

/// Deletes a deployment, after asking when somebody is there to answer.
pub(crate) async fn delete(api: &Api, output: &Output, name: &str, yes: bool) -> Result<()> {
    let path = path(name, &[]);
    api.url(&path)?;
    if !yes && !confirmed(&format!("delete deployment {name}?")) {
        return Err(failed(format!("deployment {name} was not deleted")).into());
    }
    match api.delete(&path).await? {
        Some(deployment) => changed(output, &deployment),
        None => Ok(()),
    }
}

/// Prints a deployment and its replicas, with the access token where there is one to show.
pub(crate) fn show(output: &Output, deployment: &Value, access_token: Option<&str>) -> Result<()> {
    let text = |pointer: &str| text_at(deployment, pointer);
    let mut facts = Facts::default();
    facts.add("Name", text("/name"));
    facts.add("Id", text("/id"));
    facts.add("State", state(text("/state")));
    facts.add(
        "Wanted",
        if text("/desired_state") == text("/state") { String::new() } else { text("/desired_state") },
    );
    facts.add("Message", text("/message"));
    facts.add("Model", text("/model"));
    facts.add("Source", text("/source"));
    facts.add("Runtime", text("/runtime"));
    facts.add("Driver", text("/driver"));
    facts.add("Image", text("/image"));
    facts.add("Public", text("/public"));
    facts.add("Endpoint", text("/endpoint"));
    facts.add("Replicas", replicas(deployment));
    facts.add("By load", by_load(deployment));
    facts.add("Memory hint", memory_hint(deployment));
    facts.add("Generation", text("/generation"));
    facts.add("Age", age_at(deployment, "/created_at"));
    facts.add("Access token", access_token.unwrap_or_default());
    output.facts(&facts)?;
    let replicas = items_at(deployment, "/replicas");
    if replicas.is_empty() {
        return Ok(());
    }
    output.text("\n")?;
    output.table(&replica_table(replicas))
}

/// The path of one deployment, or of something below it.
pub(crate) fn path<'a>(name: &'a str, below: &[&'a str]) -> Vec<&'a str> {
    PATH.into_iter().chain([name]).chain(below.iter().copied()).collect()
}

/// Prints a deployment after a change of it.
pub(crate) fn changed(output: &Output, deployment: &Json) -> Result<()> {
    if output.is_json() {
        return output.json(&deployment.text);
    }
    output.table(&table(std::slice::from_ref(&deployment.value)))
}

fn table(deployments: &[Value]) -> Table {
    let mut table =
        Table::new(&["NAME", "STATE", "REPLICAS", "MODEL", "RUNTIME", "PUBLIC", "AGE", "MESSAGE"]);
    for deployment in deployments {
        let text = |pointer: &str| text_at(deployment, pointer);
        table.row(vec![
            text("/name").into(),
            state(text("/state")),
            replicas(deployment).into(),
            text("/model").into(),
            text("/runtime").into(),
            yes_or_no(deployment.get("public")),
            age_at(deployment, "/created_at").into(),
            text("/message").into(),
        ]);
    }
    table
}

fn replica_table(replicas: &[Value]) -> Table {
    let mut table =
        Table::new(&["REPLICA", "STATE", "NODE", "ENDPOINT", "GPUS", "RESTARTS", "ID", "MESSAGE"]);
    for replica in replicas {
        let text = |pointer: &str| text_at(replica, pointer);
        let node = text("/node_name");
        let gpus: Vec<String> =
            items_at(replica, "/gpu_devices").iter().map(|gpu| text_at(gpu, "")).collect();
        table.row(vec![
            text("/index").into(),
            state(text("/state")),
            if node.is_empty() { text("/node_id") } else { node }.into(),
            text("/endpoint").into(),
            gpus.join(",").into(),
            text("/restarts").into(),
            text("/id").into(),
            told(replica).into(),
        ]);
    }
    table
}

/// How far a replica has got, else why it stands where it does.
fn told(replica: &Value) -> String {
    let message = text_at(replica, "/progress/message");
    match text_at(replica, "/progress/percent").as_str() {
        "" if message.is_empty() => text_at(replica, "/message"),
        percent if !percent.is_empty() && !message.contains('%') => format!("{message}, {percent} %"),
        _ => message,
    }
}

/// `1 to 4 replicas, 8 requests in flight each`.
fn by_load(deployment: &Value) -> String {
    let text = |field: &str| text_at(deployment, &format!("/spec/autoscale/{field}"));
    match text("max").as_str() {
        "" => String::new(),
        max => {
            format!("{} to {max} replicas, {} requests in flight each", text("min"), text("target_inflight"))
        }
    }
}

/// How much GPU memory the model is thought to need, and the arithmetic.
pub(crate) fn memory_hint(deployment: &Value) -> String {
    let bytes = deployment.pointer("/hint/bytes").and_then(Value::as_u64);
    bytes
        .map(|bytes| format!("about {}: {}", human_bytes(bytes), text_at(deployment, "/hint/how")))
        .unwrap_or_default()
}

/// Running replicas of those wanted: `1/2`. Those on their way out do not count.
fn replicas(deployment: &Value) -> String {
    let all = items_at(deployment, "/replicas");
    let running = all
        .iter()
        .filter(|replica| text_at(replica, "/state") == "running" && text_at(replica, "/leaving") != "true")
        .count();
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_u64);
    format!("{running}/{}", wanted.unwrap_or(all.len() as u64))
}

fn yes_or_no(value: Option<&Value>) -> Cell {
    match value.and_then(Value::as_bool) {
        Some(true) => "yes".into(),
        Some(false) => "no".into(),
        None => "".into(),
    }
}
