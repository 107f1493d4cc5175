//! `why`: explains where a deployment stands, for people in the order in which they ask.

use std::fmt::Write as _;

use nebula_core::clock::{WallTime, wall_now};
use serde_json::Value;

use crate::api::Api;
use crate::deployments;
use crate::failure::{Result, one_line};
use crate::output::{Facts, Output, Table, items_at, state, text_at};
use crate::quantity::human_age;

/// Prints why a deployment stands where it does.
pub(crate) async fn run(api: &Api, output: &Output, name: &str) -> Result<()> {
    let why = api.get(&deployments::path(name, &["why"])).await?;
    if output.is_json() {
        return output.json(&why.text);
    }
    show(output, &why.value)
}

fn show(output: &Output, why: &Value) -> Result<()> {
    let text = |pointer: &str| text_at(why, pointer);
    output.text(&format!("{}\n\n", text("/summary")))?;
    let mut facts = Facts::default();
    facts.add("State", state(text("/state")));
    facts.add("Wanted", text("/wanted/summary"));
    facts.add("Is", text("/is/summary"));
    facts.add("Last change", event(why.get("last_change").unwrap_or(&Value::Null)));
    facts.add("Memory hint", deployments::memory_hint(why));
    output.facts(&facts)?;
    let replicas = items_at(why, "/replicas");
    if !replicas.is_empty() {
        output.text("\n")?;
        output.table(&replica_table(replicas))?;
    }
    for replica in replicas {
        output.text(&story(replica))?;
    }
    refusals(output, why)?;
    output.text(&next(why))
}

fn replica_table(replicas: &[Value]) -> Table {
    let mut table = Table::new(&["REPLICA", "STATE", "NODE", "RESTARTS", "ID", "MESSAGE"]);
    for replica in replicas {
        let text = |pointer: &str| text_at(replica, pointer);
        let leaving = if text("/leaving") == "true" { "leaves" } else { "" };
        let message = text("/message");
        let said: Vec<&str> =
            [leaving, brief(&message)].into_iter().filter(|said| !said.is_empty()).collect();
        table.row(vec![
            text("/index").into(),
            state(text("/state")),
            text("/node").into(),
            text("/restarts").into(),
            text("/id").into(),
            said.join("; ").into(),
        ]);
    }
    table
}

/// A message without the end of the log, which is told below.
fn brief(message: &str) -> &str {
    message.split("; its last lines:").next().unwrap_or(message)
}

/// What a replica that does not run went through, and its last words.
fn story(replica: &Value) -> String {
    let mut out = String::new();
    if text_at(replica, "/state") == "running" {
        return out;
    }
    let index = text_at(replica, "/index");
    let attempts = items_at(replica, "/attempts");
    if !attempts.is_empty() {
        let _ = writeln!(out, "\nReplica {index} so far:");
        for attempt in attempts {
            let _ = writeln!(out, "  {}", event(attempt));
        }
    }
    let tail = items_at(replica, "/log_tail");
    if !tail.is_empty() {
        let _ = writeln!(out, "\nLast lines of the log of replica {index}:");
        for line in tail {
            let _ = writeln!(out, "  {}", one_line(line.as_str().unwrap_or_default()));
        }
    }
    out
}

/// `2026-01-31T12:00:00.000Z  failed  exited: … (exit code 1)`.
fn event(event: &Value) -> String {
    let kind = text_at(event, "/type");
    if kind.is_empty() {
        return kind;
    }
    let mut line = format!("{}  {kind}", text_at(event, "/time"));
    let (message, code) = (text_at(event, "/message"), text_at(event, "/exit_code"));
    if !message.is_empty() {
        let _ = write!(line, "  {message}");
    }
    let is_said = message.contains(&format!("code {code}"));
    if !code.is_empty() && !is_said {
        let _ = write!(line, " (exit code {code})");
    }
    line
}

fn refusals(output: &Output, why: &Value) -> Result<()> {
    let refused = items_at(why, "/refused");
    if !refused.is_empty() {
        output.text("\n")?;
        let mut table = Table::new(&["NODE", "DOES NOT TAKE IT BECAUSE"]);
        for node in refused {
            table.row(vec![text_at(node, "/node").into(), text_at(node, "/reason").into()]);
        }
        output.table(&table)?;
    }
    match text_at(why, "/refused_more").as_str() {
        "" | "0" => {}
        more => output.text(&format!("and {more} more nodes\n"))?,
    }
    let fits: Vec<String> = items_at(why, "/fits").iter().map(|node| text_at(node, "")).collect();
    if !fits.is_empty() {
        output.text(&format!("\nNodes that would take it: {}\n", fits.join(", ")))?;
    }
    Ok(())
}

fn next(why: &Value) -> String {
    let steps = items_at(why, "/next");
    if steps.is_empty() {
        return String::new();
    }
    let mut out = "\nNext:\n".to_owned();
    for step in steps {
        let _ = writeln!(out, "  {}{}", wait(step), text_at(step, "/what"));
    }
    out
}

/// `in 42s: `.
fn wait(step: &Value) -> String {
    let at = step.get("at").and_then(Value::as_str).and_then(WallTime::from_rfc3339);
    let left = at.map(|at| at.unix_secs().saturating_sub(wall_now().unix_secs()));
    match left {
        None => String::new(),
        Some(0) => "now: ".to_owned(),
        Some(left) => format!("in {}: ", human_age(left)),
    }
}
