//! API keys: create, list, revoke, rotate.

use serde_json::{Map, Value, json};

use crate::api::{Api, Json};
use crate::cli::{CreateKeyArgs, KeyCommand};
use crate::failure::{Result, failed};
use crate::output::{Output, Table, age_at, confirmed, items_at, state, text_at};
use crate::quantity::human_count;

/// Path of the keys.
pub(crate) const PATH: [&str; 3] = ["api", "v1", "keys"];

/// Runs one of the commands on keys.
pub(crate) async fn run(api: &Api, output: &Output, command: KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Create(args) => {
            let key = api.post(&PATH, Some(&wanted(args))).await?;
            secret(output, &key)
        }
        KeyCommand::List => list(api, output).await,
        KeyCommand::Revoke { key, yes } => revoke(api, output, &key, yes).await,
        KeyCommand::Rotate { key, overlap } => {
            // Milliseconds are the smallest unit that can be typed.
            let body = overlap.map(|overlap| json!({ "overlap": format!("{}ms", overlap.as_millis()) }));
            let key = api.post(&path(&key, &["rotate"]), body.as_ref()).await?;
            secret(output, &key)
        }
    }
}

/// The body of a create: what was not said is left to nebulad.
fn wanted(args: CreateKeyArgs) -> Value {
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    put("name", args.name.into());
    if !args.models.is_empty() {
        put("models", args.models.into());
    }
    if let Some(time) = args.expires_in {
        put("expires_in", format!("{}ms", time.as_millis()).into());
    }
    let numbers = [
        ("rpm", args.rpm.map(u64::from)),
        ("tpm", args.tpm),
        ("max_concurrent", args.max_concurrent.map(u64::from)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            put(name, number.into());
        }
    }
    if let (Some(tokens), Some(period)) = (args.budget, args.budget_period) {
        put("budget", json!({"tokens": tokens, "period": period}));
    }
    body.into()
}

/// Prints a new secret: by itself on standard output, so that it can be taken from there, and the rest beside it.
fn secret(output: &Output, key: &Json) -> Result<()> {
    if output.is_json() {
        return output.json(&key.text);
    }
    let text = |pointer: &str| text_at(&key.value, pointer);
    output.text(&format!("{}\n", text("/key")))?;
    output.note(&format!(
        "this is the secret of key {} ({}); it is not shown again",
        text("/name"),
        text("/id")
    ));
    let until = text("/old_secret_until");
    if !until.is_empty() {
        output.note(&format!("the old secret is valid until {until}"));
    }
    Ok(())
}

async fn list(api: &Api, output: &Output) -> Result<()> {
    let list = api.list(&PATH).await?;
    if output.is_json() {
        return output.json(&list.text());
    }
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "MODELS",
        "RPM",
        "TPM",
        "CONCURRENT",
        "BUDGET",
        "EXPIRES",
        "OLD SECRET UNTIL",
        "AGE",
        "ID",
    ]);
    for key in &list.items {
        let text = |pointer: &str| text_at(key, pointer);
        let count = |pointer: &str| count_at(key, pointer);
        table.row(vec![
            text("/name").into(),
            state(text("/state")),
            models(key).into(),
            count("/rpm").into(),
            count("/tpm").into(),
            count("/max_concurrent").into(),
            budget(key).into(),
            text("/expires_at").into(),
            text("/old_secret_until").into(),
            age_at(key, "/created_at").into(),
            text("/id").into(),
        ]);
    }
    output.table(&table)?;
    if list.items.is_empty() {
        output.note("there is no key yet; `nebulactl keys create NAME` makes one");
    }
    Ok(())
}

async fn revoke(api: &Api, output: &Output, key: &str, yes: bool) -> Result<()> {
    let path = path(key, &[]);
    api.url(&path)?;
    if !yes && !confirmed(&format!("revoke key {key}?")) {
        return Err(failed(format!("key {key} was not revoked")).into());
    }
    api.delete(&path).await?;
    output.note(&format!("key {key} is revoked"));
    Ok(())
}

fn path<'a>(key: &'a str, below: &[&'a str]) -> Vec<&'a str> {
    PATH.into_iter().chain([key]).chain(below.iter().copied()).collect()
}

/// The models that a key may use.
fn models(key: &Value) -> String {
    match key.get("models") {
        Some(Value::Array(_)) => {
            let names: Vec<String> = items_at(key, "/models").iter().map(|name| text_at(name, "")).collect();
            names.join(",")
        }
        _ => "all".to_owned(),
    }
}

/// `1,000 of 50,000 a month`.
fn budget(key: &Value) -> String {
    let (spent, tokens) = (count_at(key, "/budget/spent"), count_at(key, "/budget/tokens"));
    match text_at(key, "/budget/period").as_str() {
        "" => String::new(),
        "total" => format!("{spent} of {tokens}"),
        period => format!("{spent} of {tokens} a {period}"),
    }
}

fn count_at(key: &Value, pointer: &str) -> String {
    key.pointer(pointer).and_then(Value::as_u64).map(human_count).unwrap_or_default()
}
