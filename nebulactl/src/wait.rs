//! `deploy --wait` and `update --wait`: watches a deployment until it runs or a change of it is made, fails or takes too
//! long.

use std::time::Duration;

use nebula_core::duration;
use serde_json::Value;

use crate::api::{Api, Json};
use crate::failure::{Failure, Result, failed, one_line};
use crate::output::{Output, items_at, text_at};
use crate::{deployments, logs};

mod teller;

pub(crate) use self::teller::Teller;

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

/// What is waited for.
#[derive(Clone, Copy)]
struct Aim {
    judge: fn(&Value) -> Verdict,
    describe: fn(&Value) -> String,
}

const RUNNING: Aim = Aim { judge, describe };
const CHANGED: Aim = Aim { judge: judge_change, describe: describe_change };

/// A change is made when it is under way no longer and what is to run runs.
fn judge_change(deployment: &Value) -> Verdict {
    let nothing =
        text_at(deployment, "/desired_state") != "running" || text_at(deployment, "/spec/replicas") == "0";
    match is_changing(deployment) {
        true => Verdict::Coming,
        false if nothing => Verdict::Running,
        false => judge(deployment),
    }
}

fn is_changing(deployment: &Value) -> bool {
    deployment.get("changing").and_then(Value::as_bool).unwrap_or_default()
}

/// Waits until the deployment runs, telling every change on standard error.
pub(crate) async fn until_running(api: &Api, output: &Output, created: &Json, timeout: Duration) -> Waited {
    until(api, output, created, timeout, RUNNING).await
}

/// Waits until a change is made, telling how far it has got on standard error. One that is taken back is a failure.
pub(crate) async fn until_changed(api: &Api, output: &Output, changed: &Json, timeout: Duration) -> Waited {
    let mut waited = until(api, output, changed, timeout, CHANGED).await;
    if let (Ok(()), Some(latest)) = (&waited.end, &waited.latest)
        && !is_same_wish(&latest.value, &changed.value)
    {
        waited.end = Err(taken_back(api, &text_at(&changed.value, "/name")).await);
    }
    waited
}

/// Whether two pictures of a deployment show the same wish, however many replicas there are to be.
fn is_same_wish(one: &Value, other: &Value) -> bool {
    let wish = |deployment: &Value| {
        let mut spec = deployment.get("spec").cloned().unwrap_or_default();
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("replicas");
        }
        spec
    };
    wish(one) == wish(other)
}

/// The error for a change after which something else is wanted.
async fn taken_back(api: &Api, name: &str) -> Failure {
    let why = api.get(&deployments::path(name, &["why"])).await.ok();
    let told = why.map(|why| text_at(&why.value, "/last_change/message")).filter(|told| !told.is_empty());
    let told = told.map(|told| format!(": {told}")).unwrap_or_default();
    failed(format!("the change of deployment {name} was taken back{told}"))
        .hint(format!("`nebulactl why {name}` and `nebulactl events {name}` tell more"))
        .into()
}

async fn until(api: &Api, output: &Output, first: &Json, timeout: Duration, aim: Aim) -> Waited {
    let mut latest = None;
    let mut teller = Teller::new(output);
    let end = tokio::select! {
        biased;
        end = watch(api, &mut teller, first, &mut latest, aim) => Some(end),
        _ = tokio::signal::ctrl_c() => Some(Err(interrupted(first))),
        () = tokio::time::sleep(timeout) => None,
    };
    teller.end();
    let end = end.unwrap_or_else(|| Err(too_late(first, latest.as_ref(), timeout, aim)));
    Waited { latest, end }
}

async fn watch(
    api: &Api,
    teller: &mut Teller<'_>,
    created: &Json,
    latest: &mut Option<Json>,
    aim: Aim,
) -> Result<()> {
    let name = text_at(&created.value, "/name");
    let id = text_at(&created.value, "/id");
    let url = api.url(&deployments::path(if id.is_empty() { &name } else { &id }, &[]))?;
    let mut failed_looks = 0;
    loop {
        match api.try_get(&url).await {
            Ok(deployment) => {
                failed_looks = 0;
                let deployment = latest.insert(deployment);
                teller.tell(&(aim.describe)(&deployment.value), comes_along(&deployment.value));
                match (aim.judge)(&deployment.value) {
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

fn interrupted(first: &Json) -> Failure {
    let name = text_at(&first.value, "/name");
    failed("interrupted while waiting; the deployment goes on")
        .hint(format!("`nebulactl why {name}` shows how far it is"))
        .into()
}

fn too_late(created: &Json, latest: Option<&Json>, timeout: Duration, aim: Aim) -> Failure {
    let name = text_at(&created.value, "/name");
    let state =
        latest.map_or_else(|| "not seen yet".to_owned(), |d| format!("still {}", (aim.describe)(&d.value)));
    failed(format!("deployment {name} is {state} after {}", duration::human(timeout)))
        .hint(format!("it goes on without you: `nebulactl why {name}`; wait longer with --wait-timeout"))
        .into()
}

/// `changing: 1 of 3 replicas run the new version`.
fn describe_change(deployment: &Value) -> String {
    if !is_changing(deployment) {
        return describe(deployment);
    }
    let revision = text_at(deployment, "/revision");
    let new = items_at(deployment, "/replicas").iter().filter(|r| text_at(r, "/revision") == revision);
    let ready = new.filter(|replica| text_at(replica, "/state") == "running").count();
    let wanted = text_at(deployment, "/spec/replicas");
    format!("changing: {ready} of {wanted} replicas run the new version")
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
        .hint(format!("`nebulactl why {name}` and `nebulactl logs {name}` tell more"))
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_over_when_what_is_to_run_runs() {
        for (changing, state, desired, replicas, verdict) in [
            (true, "running", "running", 1, Verdict::Coming),
            (false, "running", "running", 1, Verdict::Running),
            (false, "starting", "running", 1, Verdict::Coming),
            (false, "failed", "running", 1, Verdict::Over("failed")),
            (false, "stopped", "running", 0, Verdict::Running),
            (false, "stopped", "stopped", 1, Verdict::Running),
        ] {
            let deployment = json!({"changing": changing, "state": state, "desired_state": desired,
                                    "spec": {"replicas": replicas}});
            assert_eq!(judge_change(&deployment), verdict, "{deployment}");
        }
    }

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
