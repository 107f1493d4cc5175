//! `status`: whether nebulad lives, is ready, and what it looks after.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::{Api, List};
use crate::failure::{Failure, Result, failed};
use crate::output::{Cell, Facts, Output, items_at, state, text_at};
use crate::{deployments, edge, nodes};

/// Prints the status. Ends well only when nebulad is ready and says what it looks after.
pub(crate) async fn run(api: &Api, output: &Output) -> Result<()> {
    let health = api.probe(&["health"]).await?;
    let ready = api.probe(&["ready"]).await?;
    let reasons = if ready.ok { Vec::new() } else { lines(&ready.body.value, "/reasons") };
    let concerns = lines(&ready.body.value, "/concerns");
    // The counts need a token, health does not: show what can be had before saying what cannot.
    let (nodes, denied) = split(api.list(&nodes::PATH).await);
    let (deployments, denied_too) = split(api.list(&deployments::PATH).await);
    let (nodes, deployments) = (nodes.as_ref().map(count), deployments.as_ref().map(count));
    // Whoever may not see the edge may not see the nodes, which is said below; an older nebulad has none.
    let edges = api.list(&edge::PATH).await.map(|list| list.items).unwrap_or_default();
    let edges: Vec<&Value> = edges.iter().filter(|edge| edge::is_configured(edge)).collect();

    let health = text_at(&health.body.value, "/status");
    if output.is_json() {
        let status = json!({
            "server": api.server(), "health": health, "ready": ready.ok, "reasons": reasons,
            "concerns": concerns,
            "nodes": nodes.as_ref().map(Counts::json), "deployments": deployments.as_ref().map(Counts::json),
            "edge": edges,
        });
        output.json(&status.to_string())?;
    } else {
        let mut facts = Facts::default();
        facts.add("Server", api.server());
        facts.add("Health", state(health));
        facts.add("Ready", state(if ready.ok { "ready" } else { "not ready" }.to_owned()));
        facts.add("Reasons", reasons.join("; "));
        facts.add("Concerns", concerns.join("; "));
        facts.add("Nodes", nodes.as_ref().map(Counts::text).unwrap_or_default());
        facts.add("Deployments", deployments.as_ref().map(Counts::text).unwrap_or_default());
        for edge in edges {
            let label = if text_at(edge, "/name") == "caddy" { "Caddy" } else { "Route 53" };
            facts.add(label, standing(edge));
        }
        output.facts(&facts)?;
    }
    if let Some(failure) = denied.or(denied_too) {
        return Err(failure);
    }
    if !ready.ok {
        let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
        return Err(failed(format!("nebulad at {} is not ready{why}", api.server())).into());
    }
    Ok(())
}

/// `in_sync`, `failing: http://localhost:2019 cannot be reached`.
fn standing(edge: &Value) -> Cell {
    match (text_at(edge, "/state"), text_at(edge, "/last_error/message")) {
        (word, message) if message.is_empty() => state(word),
        (word, message) => format!("{word}: {message}").into(),
    }
}

fn split(list: Result<List>) -> (Option<List>, Option<Failure>) {
    match list {
        Ok(list) => (Some(list), None),
        Err(failure) => (None, Some(failure)),
    }
}

/// Why nebulad is not ready, or what is of concern, as the body of `/ready` says it.
fn lines(body: &Value, at: &str) -> Vec<String> {
    let of = |reason: &Value| match text_at(reason, "") {
        text if text.is_empty() => text_at(reason, "/message"),
        text => text,
    };
    items_at(body, at).iter().map(of).filter(|reason| !reason.is_empty()).collect()
}

/// How many things there are, in all and in each state.
struct Counts {
    total: usize,
    states: BTreeMap<String, usize>,
}

fn count(list: &List) -> Counts {
    let mut states = BTreeMap::new();
    for item in &list.items {
        *states.entry(text_at(item, "/state")).or_default() += 1;
    }
    Counts { total: list.items.len(), states }
}

impl Counts {
    fn text(&self) -> String {
        let parts: Vec<String> =
            self.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        if parts.is_empty() {
            self.total.to_string()
        } else {
            format!("{} ({})", self.total, parts.join(", "))
        }
    }

    fn json(&self) -> Value {
        json!({ "total": self.total, "states": self.states })
    }
}
