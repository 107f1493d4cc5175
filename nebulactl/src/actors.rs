//! `actors`: nebulad's tree of actors.

use serde_json::Value;

use crate::api::Api;
use crate::failure::Result;
use crate::output::{Output, Table, state, text_at};
use crate::quantity::human_age;

/// Prints the tree.
pub(crate) async fn run(api: &Api, output: &Output) -> Result<()> {
    let tree = api.get(&["admin", "actors"]).await?;
    if output.is_json() {
        return output.json(&tree.text);
    }
    output.table(&table(&tree.value))
}

fn table(tree: &Value) -> Table {
    let mut table =
        Table::new(&["ACTOR", "KIND", "STATE", "RESTARTS", "MAILBOX", "MESSAGES", "AGE", "LAST EXIT"]);
    // The tree is one root, a list of them, or a list under `data`.
    let roots = tree.get("data").unwrap_or(tree);
    match roots {
        Value::Array(roots) => roots.iter().for_each(|root| add(&mut table, root, "", 0)),
        root => add(&mut table, root, "", 0),
    }
    table
}

/// Adds an actor and all below it. The JSON reader bounds the depth.
fn add(table: &mut Table, actor: &Value, parent: &str, depth: usize) {
    let path = text_at(actor, "/path");
    let text = |pointer: &str| text_at(actor, pointer);
    let below_parent = path.strip_prefix(parent.trim_end_matches('/')).filter(|_| depth > 0);
    let name = below_parent.map_or(path.as_str(), |name| name.trim_start_matches('/'));
    let age = actor.get("age_seconds").and_then(Value::as_f64);
    table.row(vec![
        format!("{}{name}", "  ".repeat(depth)).into(),
        text("/kind").into(),
        state(text("/state")),
        text("/restarts").into(),
        text("/mailbox_depth").into(),
        text("/messages_total").into(),
        age.map(|age| human_age(age.max(0.0) as u64)).unwrap_or_default().into(),
        (text("/last_exit") + &text("/last_exit/cause")).into(),
    ]);
    for child in crate::output::items_at(actor, "/children") {
        add(table, child, &path, depth + 1);
    }
}
