//! `models`: what the gateway serves to this credential.

use serde_json::Value;

use crate::api::Api;
use crate::failure::Result;
use crate::output::{Output, Table, age_of, text_at};

/// Prints the gateway's models.
pub(crate) async fn run(api: &Api, output: &Output) -> Result<()> {
    let list = api.list(&["v1", "models"]).await?;
    if output.is_json() {
        return output.json(&list.text());
    }
    let mut table = Table::new(&["MODEL", "OWNED BY", "AGE"]);
    for model in &list.items {
        let age = model.get("created").and_then(Value::as_i64).filter(|created| *created > 0).map(age_of);
        table.row(vec![
            text_at(model, "/id").into(),
            text_at(model, "/owned_by").into(),
            age.unwrap_or_default().into(),
        ]);
    }
    output.table(&table)?;
    if list.items.is_empty() {
        output.note("no model is served to you; private ones are listed with a token only");
    }
    Ok(())
}
