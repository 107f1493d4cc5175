//! Aliases: names that stand for several deployments. Set, list, show, delete.

use serde_json::{Map, Value, json};

use crate::api::{Api, Json};
use crate::cli::{AliasCommand, SetAliasArgs};
use crate::failure::{Result, failed};
use crate::output::{Output, Table, age_at, confirmed, items_at, state, text_at};

/// Path of the aliases.
const PATH: [&str; 3] = ["api", "v1", "aliases"];

/// Runs one of the commands on aliases.
pub(crate) async fn run(api: &Api, output: &Output, command: AliasCommand) -> Result<()> {
    match command {
        AliasCommand::Set(args) => set(api, output, args).await,
        AliasCommand::List => list(api, output).await,
        AliasCommand::Get { name } => show(output, &api.get(&path(&name)).await?),
        AliasCommand::Delete { name, yes } => delete(api, output, &name, yes).await,
    }
}

/// Changes the alias, or makes it when there is none of that name.
async fn set(api: &Api, output: &Output, args: SetAliasArgs) -> Result<()> {
    let url = api.url(&path(&args.name))?;
    let exists = match api.try_get(&url).await {
        Ok(_) => true,
        Err(error) if error.status.is_some_and(|status| status.as_u16() == 404) => false,
        Err(error) => return Err(error.into()),
    };
    let mut body = wanted(&args);
    let set = if exists {
        api.patch(&path(&args.name), &Value::Object(body)).await?
    } else {
        body.insert("name".to_owned(), args.name.into());
        api.post(&PATH, Some(&Value::Object(body))).await?
    };
    show(output, &set)
}

/// What was said; the fallback stays as it is when nothing was said of it.
fn wanted(args: &SetAliasArgs) -> Map<String, Value> {
    let target = |(deployment, weight): &(String, u32)| json!({"deployment": deployment, "weight": weight});
    let targets = args.targets.iter().map(target).collect::<Vec<_>>();
    let mut body = Map::from_iter([("targets".to_owned(), targets.into())]);
    if let Some(fallback) = &args.fallback {
        body.insert("fallback".to_owned(), fallback.as_str().into());
    } else if args.no_fallback {
        body.insert("fallback".to_owned(), Value::Null);
    }
    body
}

async fn list(api: &Api, output: &Output) -> Result<()> {
    let list = api.list(&PATH).await?;
    if output.is_json() {
        return output.json(&list.text());
    }
    let mut table = Table::new(&["NAME", "REQUESTS GO TO", "ELSE TO", "AGE"]);
    for alias in &list.items {
        let shares: Vec<String> = items_at(alias, "/targets").iter().map(share).collect();
        table.row(vec![
            text_at(alias, "/name").into(),
            shares.join(", ").into(),
            text_at(alias, "/fallback/deployment").into(),
            age_at(alias, "/created_at").into(),
        ]);
    }
    output.table(&table)?;
    if list.items.is_empty() {
        output.note("there is no alias yet; `nebulactl aliases set NAME DEPLOYMENT=WEIGHT …` makes one");
    }
    Ok(())
}

/// `chat-v2 10 %`, with a word about one to which no request can go.
fn share(target: &Value) -> String {
    let text = |pointer: &str| text_at(target, pointer);
    let serves = target.get("serves").and_then(Value::as_bool).unwrap_or_default();
    let state = if serves { String::new() } else { format!(" ({})", text("/state")) };
    format!("{} {} %{state}", text("/deployment"), percent(target))
}

/// The share without a tenth that is none.
fn percent(target: &Value) -> String {
    text_at(target, "/share_percent").trim_end_matches(".0").to_owned()
}

fn show(output: &Output, alias: &Json) -> Result<()> {
    if output.is_json() {
        return output.json(&alias.text);
    }
    let mut table = Table::new(&["DEPLOYMENT", "WEIGHT", "SHARE", "STATE", "SERVES"]);
    let targets = items_at(&alias.value, "/targets").iter().map(|target| (target, String::new()));
    let fallback = alias.value.get("fallback").filter(|fallback| !fallback.is_null());
    for (target, when) in targets.chain(fallback.map(|fallback| (fallback, "else".to_owned()))) {
        let text = |pointer: &str| text_at(target, pointer);
        let share = if when.is_empty() { format!("{} %", percent(target)) } else { when };
        let serves = if text("/serves") == "true" { "yes" } else { "no" };
        table.row(vec![
            text("/deployment").into(),
            text("/weight").into(),
            share.into(),
            state(text("/state")),
            serves.into(),
        ]);
    }
    output.table(&table)
}

async fn delete(api: &Api, output: &Output, name: &str, yes: bool) -> Result<()> {
    let path = path(name);
    api.url(&path)?;
    if !yes && !confirmed(&format!("delete alias {name}?")) {
        return Err(failed(format!("alias {name} was not deleted")).into());
    }
    api.delete(&path).await?;
    output.note(&format!("alias {name} is deleted; its deployments stay"));
    Ok(())
}

fn path(name: &str) -> Vec<&str> {
    PATH.into_iter().chain([name]).collect()
}
