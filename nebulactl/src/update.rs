//! `update`: changes a deployment, new replicas before old ones go.

use nebula_core::exit::{Exit, Fatal};
use serde_json::{Map, Value};

use crate::api::Api;
use crate::cli::UpdateArgs;
use crate::deploy::described;
use crate::failure::Result;
use crate::output::{Output, text_at};
use crate::{deployments, wait};

/// Changes what was said and leaves the rest.
pub(crate) async fn run(api: &Api, output: &Output, args: UpdateArgs) -> Result<()> {
    let (name, wait, timeout) = (args.name.clone(), args.wait, args.wait_timeout);
    let patch = patch(args);
    if patch.is_empty() {
        let nothing = Fatal::new(Exit::Usage, "nothing that is to change was named");
        return Err(nothing.hint("`nebulactl update --help` lists what can be changed").into());
    }
    let changed = api.patch(&deployments::path(&name, &[]), &Value::Object(patch)).await?;
    if !wait {
        deployments::changed(output, &changed)?;
        output.note(&format!("\nfollow it: nebulactl why {}", text_at(&changed.value, "/name")));
        return Ok(());
    }
    let waited = wait::until_changed(api, output, &changed, timeout).await;
    deployments::changed(output, &waited.latest.unwrap_or(changed))?;
    waited.end
}

/// A merge patch: what was said, and null for what gets its default back.
fn patch(args: UpdateArgs) -> Map<String, Value> {
    let mut patch = described(args.spec);
    if let Some(model) = args.model {
        patch.insert("model".to_owned(), model.into());
    }
    for field in &args.unset {
        match field.split_once('.') {
            None => drop(patch.insert(field.clone(), Value::Null)),
            Some((field, part)) => {
                let parts = patch.entry(field).or_insert_with(|| Map::new().into());
                if let Value::Object(parts) = parts {
                    parts.insert(part.to_owned(), Value::Null);
                }
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};

    fn body(line: &str) -> Value {
        let line = ["nebulactl", "update", "demo"].into_iter().chain(line.split_whitespace());
        let Command::Update(args) = Cli::parse_from(line).command else { panic!("not an update") };
        patch(*args).into()
    }

    #[test]
    fn only_what_was_said_changes() {
        assert_eq!(body(""), json!({}));
        assert_eq!(body("--wait"), json!({}));
        assert_eq!(
            body("--model org/m --arg --x --public=false"),
            json!({"model": "org/m", "args": ["--x"], "public": false})
        );
        assert_eq!(body("--idle-after 10m"), json!({"autoscale": {"idle_after": "600000ms"}}));
    }

    #[test]
    fn defaults_come_back_by_null() {
        let expected = json!({"image": null, "env": {"A": "1", "B": null}, "gpu": {"type": null}});
        assert_eq!(body("--unset image --env A=1 --unset env.B --unset gpu.type"), expected);
        assert_eq!(body("--autoscale 1..2 --unset autoscale"), json!({"autoscale": null}));
    }
}
