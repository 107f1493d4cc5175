//! `usage`: requests and tokens by time, key and model.

use std::collections::HashMap;

use serde_json::Value;

use crate::api::Api;
use crate::cli::UsageArgs;
use crate::failure::Result;
use crate::keys;
use crate::output::{Output, Table, text_at};
use crate::quantity::human_count;

/// Prints what was used, the oldest first, and a last row with the sums.
pub(crate) async fn run(api: &Api, output: &Output, args: &UsageArgs) -> Result<()> {
    let by = args.by.as_deref().map(|by| if by == "none" { "" } else { by });
    let given = [("from", args.from.as_deref()), ("to", args.to.as_deref()), ("by", by)];
    let query: Vec<(&str, &str)> =
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let rows = api.list_of(&["api", "v1", "usage"], &query).await?;
    if output.is_json() {
        return output.json(&rows.text());
    }
    if rows.items.is_empty() {
        output.note("nothing was used in this time");
    }
    let names = names(api, &rows.items).await?;
    let mut table =
        Table::new(&["FROM", "SPAN", "KEY", "MODEL", "REQUESTS", "PROMPT", "COMPLETION", "ABORTED"]);
    let mut sums = [0_u64; COUNTS.len()];
    for row in &rows.items {
        let text = |pointer: &str| text_at(row, pointer);
        let counts = COUNTS.map(|name| row.pointer(name).and_then(Value::as_u64).unwrap_or_default());
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(count));
        let id = text("/key_id");
        let key = names.get(&id).cloned().unwrap_or(id);
        let mut cells = vec![text("/from").into(), text("/span").into(), key.into(), text("/model").into()];
        cells.extend(counts.map(|count| human_count(count).into()));
        table.row(cells);
    }
    if rows.items.len() > 1 {
        let mut cells = vec!["total".into(), "".into(), "".into(), "".into()];
        cells.extend(sums.map(|sum| human_count(sum).into()));
        table.row(cells);
    }
    output.table(&table)
}

/// Where the numbers are in a row, in the order of their columns.
const COUNTS: [&str; 4] = ["/requests", "/prompt_tokens", "/completion_tokens", "/aborted"];

/// The names of the keys that rows are about, by id. One that is revoked has none any more.
async fn names(api: &Api, rows: &[Value]) -> Result<HashMap<String, String>> {
    if rows.iter().all(|row| text_at(row, "/key_id").is_empty()) {
        return Ok(HashMap::new());
    }
    let keys = api.list(&keys::PATH).await?;
    Ok(keys.items.iter().map(|key| (text_at(key, "/id"), text_at(key, "/name"))).collect())
}
