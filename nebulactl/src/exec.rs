//! `exec`: runs a command beside a deployment's runtime and ends as it ends.

use std::time::Duration;

use nebula_core::exit::Exit;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::Api;
use crate::cli::ExecArgs;
use crate::deployments;
use crate::failure::{Failure, Result, failed};
use crate::output::Output;

/// What nebulad may take beyond the time that the command has.
const ANSWER_GRACE: Duration = Duration::from_secs(15);

/// Runs it. Its outputs go where they went there, and its exit code becomes ours.
pub(crate) async fn run(api: &Api, output: &Output, args: &ExecArgs) -> Result<()> {
    let url = api.url(&deployments::path(&args.name, &["exec"]))?;
    let mut body = json!({ "command": args.command, "timeout_seconds": args.timeout.as_secs().max(1) });
    if let (Some(fields), Some(replica)) = (body.as_object_mut(), &args.replica) {
        fields.insert("replica".to_owned(), json!(replica));
    }
    let patience = args.timeout + ANSWER_GRACE;
    let response = api.accepted(Method::POST, &url, Some(&body), patience).await?;
    let answer = api.json_body(&url, "POST", response, patience).await?;
    let code = answer.value.get("exit_code").and_then(Value::as_i64);
    let code = code.ok_or_else(|| failed(format!("{} did not say how the command ended", api.server())))?;
    if output.is_json() {
        output.json(&answer.text)?;
    } else {
        let text = |name: &str| answer.value.get(name).and_then(Value::as_str).unwrap_or_default();
        output.bytes(text("stdout").as_bytes())?;
        output.errors(text("stderr").as_bytes());
    }
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Code(code)),
        // No shell counts such a thing: something went wrong there.
        Err(_) => Err(Failure::Code(Exit::Failed as u8)),
    }
}
