//! `deploy --wait`: watches a deployment until it runs, fails or takes too long.

use std::time::Duration;

use nebula_core::duration;
use serde_json::Value;

use crate::api::{Api, Json};
use crate::failure::{Failure, Result, failed, one_line};
use crate::output::{Output, items_at, text_at};
use crate::{deployments, logs};

mod teller;

use self::teller::Teller;

/// Time between two looks at the deployment.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Log lines shown when a deployment failed.
const LOG_LINES: &str = "20";
/// Looks in a row that may fail, as while nebulad restarts, before waiting is given up.
const FAILED_LOOKS_MAX: u32 = 30;

/// How waiting ended, and the deployment as it was seen last.
pub(crate) struct Waited {
    pub(crate) latest: Option<Json>,
    pub(crate) end: Result<()>,
}

/// What one look at a deployment says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Running,
    Coming,
    /// It will not run by itself; the text says what became of it.
    Over(&'static str),
}

fn judge(deployment: &Value) -> Verdict {
    let desired = text_at(deployment, "/desired_state");
    match text_at(deployment, "/state").as_str() {
        "running" => Verdict::Running,
        "failed" => Verdict::Over("failed"),
        "deleting" => Verdict::Over("is being deleted"),
        "stopped" | "stopping" if desired == "stopped" => Verdict::Over("was stopped"),
        _ => Verdict::Coming,
    }
}

/// Waits until the deployment runs, telling every change on standard error.
pub(crate) async fn until_running(api: &Api, output: &Output, created: &Json, timeout: Duration) -> Waited {
    let mut latest = None;
    let mut teller = Teller::new(output);
    let end = tokio::select! {
        biased;
        end = watch(api, &mut teller, created, &mut latest) => Some(end),
        _ = tokio::signal::ctrl_c() => Some(Err(failed("interrupted while waiting; the deployment goes on").into())),
        () = tokio::time::sleep(timeout) => None,
    };
    teller.end();
    let end = end.unwrap_or_else(|| Err(too_late(created, latest.as_ref(), timeout)));
    Waited { latest, end }
}

async fn watch(api: &Api, teller: &mut Teller<'_>, created: &Json, latest: &mut Option<Json>) -> Result<()> {
    let name = text_at(&created.value, "/name");
    let id = text_at(&created.value, "/id");
    let url = api.url(&deployments::path(if id.is_empty() { &name } else { &id }, &[]))?;
    let mut failed_looks = 0;
    loop {
        match api.try_get(&url).await {
            Ok(deployment) => {
                failed_looks = 0;
                let deployment = latest.insert(deployment);
                teller.tell(&describe(&deployment.value), comes_along(&deployment.value));
                match judge(&deployment.value) {
                    Verdict::Running => return Ok(()),
                    Verdict::Over(fate) => {
                        teller.end();
                        return Err(over(api, teller.output(), &deployment.value, &name, fate).await);
                    }
                    Verdict::Coming => {}
                }
            }
            Err(error) => {
                failed_looks += 1;
                if !error.is_passing() || failed_looks >= FAILED_LOOKS_MAX {
                    return Err(error.into());
                }
                teller.tell(&error.fatal.message, false);
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn too_late(created: &Json, latest: Option<&Json>, timeout: Duration) -> Failure {
    let name = text_at(&created.value, "/name");
    let state = latest
        .map_or_else(|| "not seen yet".to_owned(), |d| format!("still {}", text_at(&d.value, "/state")));
    failed(format!("deployment {name} is {state} after {}", duration::human(timeout)))
        .hint(format!("it goes on without you: `nebulactl get {name}`; wait longer with --wait-timeout"))
        .into()
}

/// `starting` or `preparing: pulling the image`.
fn describe(deployment: &Value) -> String {
    let (state, message) = (text_at(deployment, "/state"), text_at(deployment, "/message"));
    if message.is_empty() { state } else { format!("{state}: {message}") }
}

/// Whether a replica that is not there yet says how far it has got.
fn comes_along(deployment: &Value) -> bool {
    items_at(deployment, "/replicas")
        .iter()
        .any(|replica| replica.get("progress").is_some_and(|progress| !progress.is_null()))
}

/// The error for a deployment that will not run, after its last log lines.
async fn over(api: &Api, output: &Output, deployment: &Value, name: &str, fate: &str) -> Failure {
    if fate == "failed" {
        match logs::tail(api, name, LOG_LINES).await {
            Ok(lines) if lines.trim().is_empty() => {}
            Ok(lines) => {
                output.note("\nlast lines of its log:");
                lines.lines().for_each(|line| output.note(&format!("  {}", one_line(line))));
                output.note("");
            }
            Err(Failure::Fatal(error)) => output.note(&format!("its log cannot be read: {error}")),
            Err(Failure::ClosedPipe | Failure::Code(_)) => {}
        }
    }
    let message = text_at(deployment, "/message");
    let reason = if message.is_empty() { String::new() } else { format!(": {message}") };
    failed(format!("deployment {name} {fate}{reason}"))
        .hint(format!("`nebulactl logs {name}` and `nebulactl events {name}` tell more"))
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_state_is_judged() {
        for (state, desired, verdict) in [
            ("pending", "running", Verdict::Coming),
            ("preparing", "running", Verdict::Coming),
            ("starting", "running", Verdict::Coming),
            ("running", "running", Verdict::Running),
            ("unreachable", "running", Verdict::Coming),
            ("stopping", "running", Verdict::Coming),
            ("stopped", "running", Verdict::Coming),
            ("stopping", "stopped", Verdict::Over("was stopped")),
            ("stopped", "stopped", Verdict::Over("was stopped")),
            ("failed", "running", Verdict::Over("failed")),
            ("deleting", "deleted", Verdict::Over("is being deleted")),
        ] {
            assert_eq!(judge(&json!({"state": state, "desired_state": desired})), verdict, "{state}");
        }
    }
}
