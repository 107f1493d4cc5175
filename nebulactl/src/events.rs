//! `events`: what happened to a deployment.

use crate::api::Api;
use crate::deployments;
use crate::failure::Result;
use crate::output::{Output, Table, text_at};

/// Prints a deployment's events, newest last.
pub(crate) async fn run(api: &Api, output: &Output, name: &str) -> Result<()> {
    let list = api.list(&deployments::path(name, &["events"])).await?;
    if output.is_json() {
        return output.json(&list.text());
    }
    let mut table = Table::new(&["TIME", "TYPE", "REPLICA", "NODE", "MESSAGE"]);
    for event in &list.items {
        let text = |pointer: &str| text_at(event, pointer);
        table.row(vec![
            text("/time").into(),
            text("/type").into(),
            text("/replica").into(),
            text("/node").into(),
            text("/message").into(),
        ]);
    }
    output.table(&table)
}
