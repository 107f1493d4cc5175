//! Operations: list, show, cancel, and wait for the end of one.

use std::time::Duration;

use serde_json::Value;

use crate::api::{Api, Json};
use crate::cli::OperationCommand;
use crate::failure::{Result, failed};
use crate::output::{Facts, Output, Table, age_at, items_at, state, text_at};
use crate::wait::Teller;

/// Path of the operations.
const PATH: [&str; 3] = ["api", "v1", "operations"];
/// Time between two looks at an operation that is waited for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Looks in a row that may fail, as while nebulad restarts, before waiting is given up.
const FAILED_LOOKS_MAX: u32 = 30;

/// Runs one of the commands on operations.
pub(crate) async fn run(api: &Api, output: &Output, command: OperationCommand) -> Result<()> {
    match command {
        OperationCommand::List => list(api, output).await,
        OperationCommand::Get { id } => {
            let operation = api.get(&path(&id)).await?;
            show(output, &operation)
        }
        OperationCommand::Cancel { id } => {
            api.delete(&path(&id)).await?;
            output.note(&format!("operation {id} is cancelled; its node stays cordoned"));
            Ok(())
        }
    }
}

fn path(id: &str) -> Vec<&str> {
    PATH.into_iter().chain([id]).collect()
}

async fn list(api: &Api, output: &Output) -> Result<()> {
    let list = api.list(&PATH).await?;
    if output.is_json() {
        return output.json(&list.text());
    }
    let mut table = Table::new(&["NODE", "KIND", "STATE", "LEFT", "AGE", "ID", "MESSAGE"]);
    for operation in &list.items {
        let text = |pointer: &str| text_at(operation, pointer);
        table.row(vec![
            text("/node_name").into(),
            text("/kind").into(),
            state(text("/state")),
            left(operation).into(),
            age_at(operation, "/started_at").into(),
            text("/id").into(),
            text("/message").into(),
        ]);
    }
    output.table(&table)?;
    if list.items.is_empty() {
        output.note("there is no operation; `nebulactl nodes drain NAME` begins one");
    }
    Ok(())
}

/// `1/3`: so many of the replicas that were there are left.
fn left(operation: &Value) -> String {
    format!("{}/{}", text_at(operation, "/left"), text_at(operation, "/total"))
}

fn show(output: &Output, operation: &Json) -> Result<()> {
    if output.is_json() {
        return output.json(&operation.text);
    }
    let operation = &operation.value;
    let text = |pointer: &str| text_at(operation, pointer);
    let mut facts = Facts::default();
    facts.add("Id", text("/id"));
    facts.add("Kind", text("/kind"));
    facts.add("Node", text("/node_name"));
    facts.add("State", state(text("/state")));
    facts.add("Message", text("/message"));
    facts.add("Left", left(operation));
    facts.add("Started", text("/started_at"));
    facts.add("Until", if text("/ended_at").is_empty() { text("/until") } else { String::new() });
    facts.add("Ended", text("/ended_at"));
    output.facts(&facts)?;
    let blocked = items_at(operation, "/blocked");
    if blocked.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["DEPLOYMENT", "REPLICA", "WHY IT IS LEFT"]);
    for left in blocked {
        let text = |pointer: &str| text_at(left, pointer);
        table.row(vec![text("/deployment").into(), text("/replica").into(), text("/why").into()]);
    }
    output.text("\n")?;
    output.table(&table)
}

/// Waits until an operation has ended, telling on standard error how far it is, and shows it then.
pub(crate) async fn wait(api: &Api, output: &Output, id: &str) -> Result<()> {
    let mut teller = Teller::new(output);
    let ended = tokio::select! {
        biased;
        ended = watch(api, &mut teller, id) => ended,
        _ = tokio::signal::ctrl_c() => Err(
            failed("interrupted while waiting; the drain goes on")
                .hint(format!("`nebulactl operations cancel {id}` ends it"))
                .into(),
        ),
    };
    teller.end();
    let operation = ended?;
    show(output, &operation)?;
    let text = |pointer: &str| text_at(&operation.value, pointer);
    let node = text("/node_name");
    let message = text("/message");
    match text("/state").as_str() {
        "done" => Ok(()),
        "failed" => Err(failed(format!("the drain of node {node} failed: {message}"))
            .hint(format!(
                "the node is cordoned and what is left on it goes on; `nebulactl nodes drain {node}` tries again, \
                 `nebulactl nodes uncordon {node}` gives it back"
            ))
            .into()),
        fate => Err(failed(format!("the drain of node {node} was {fate}: {message}")).into()),
    }
}

async fn watch(api: &Api, teller: &mut Teller<'_>, id: &str) -> Result<Json> {
    let url = api.url(&path(id))?;
    let mut failed_looks = 0;
    loop {
        match api.try_get(&url).await {
            Ok(operation) => {
                failed_looks = 0;
                if text_at(&operation.value, "/state") != "running" {
                    return Ok(operation);
                }
                teller.tell(&describe(&operation.value), true);
            }
            Err(error) => {
                failed_looks += 1;
                if !error.is_passing() || failed_looks >= FAILED_LOOKS_MAX {
                    return Err(error.into());
                }
                teller.tell(&error.fatal.message, false);
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// `1 of 3 replicas are left; demo: its successor is starting`.
fn describe(operation: &Value) -> String {
    let message = text_at(operation, "/message");
    match items_at(operation, "/blocked").first() {
        Some(first) => format!("{message}; {}: {}", text_at(first, "/deployment"), text_at(first, "/why")),
        None => message,
    }
}
