//! Edge: how the reverse proxy and the DNS zone in front of the nodes stand, and what would be changed there.

use std::fmt::Write as _;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::api::{Api, List};
use crate::cli::{EdgeCommand, EdgeName};
use crate::failure::{Result, failed};
use crate::output::{Output, Table, items_at, state, text_at};
use crate::quantity::human_age;

/// Path of the edge.
pub(crate) const PATH: [&str; 3] = ["api", "v1", "edge"];
/// How long a plan may take: a large zone is read at two requests a second. nebulad gives up earlier.
const PLAN_TIMEOUT: Duration = Duration::from_secs(90);
/// What makes nebulad manage something.
const HOW_TO_CONFIGURE: &str =
    "start nebulad with --caddy-admin-url or with --route53-hosted-zone-id and --gateway-ip";

/// Runs one of the commands on the edge.
pub(crate) async fn run(api: &Api, output: &Output, command: EdgeCommand) -> Result<()> {
    match command {
        EdgeCommand::Status => status(api, output).await,
        EdgeCommand::Plan { edge } => plan(api, output, edge).await,
    }
}

/// Whether nebulad manages it.
pub(crate) fn is_configured(edge: &Value) -> bool {
    edge.get("configured").and_then(Value::as_bool).unwrap_or(false)
}

async fn status(api: &Api, output: &Output) -> Result<()> {
    let list = api.list(&PATH).await?;
    if output.is_json() {
        return output.json(&list.text());
    }
    let mut table = Table::new(&["EDGE", "STATE", "TARGET", "NODES", "OBJECTS", "LEFT", "BLOCKED", "LAG"]);
    for edge in &list.items {
        let text = |pointer: &str| text_at(edge, pointer);
        if !is_configured(edge) {
            let mut cells = vec![text("/name").into(), state(text("/state")), not_configured(edge).into()];
            cells.resize_with(8, || "".into());
            table.row(cells);
            continue;
        }
        table.row(vec![
            text("/name").into(),
            state(text("/state")),
            text("/target").into(),
            text("/wanted").into(),
            text("/observed").into(),
            left(edge).to_string().into(),
            text("/differences/blocked").into(),
            seconds_at(edge, "/lag_seconds").filter(|lag| *lag > 0).map(human_age).unwrap_or_default().into(),
        ]);
    }
    output.table(&table)?;
    for edge in &list.items {
        output.text(&trouble(edge))?;
    }
    blocked(output, &list.items)
}

fn not_configured(edge: &Value) -> String {
    let flag = match text_at(edge, "/name").as_str() {
        "caddy" => " (--caddy-admin-url)",
        "route53" => " (--route53-hosted-zone-id)",
        _ => "",
    };
    format!("not configured{flag}")
}

/// How many objects are to be changed.
fn left(edge: &Value) -> u64 {
    let count = |verb: &str| edge.pointer(&format!("/differences/{verb}")).and_then(Value::as_u64);
    ["add", "change", "remove"].into_iter().filter_map(count).sum()
}

fn seconds_at(edge: &Value, pointer: &str) -> Option<u64> {
    let value = edge.pointer(pointer)?;
    // Whole seconds are enough for people.
    value.as_u64().or_else(|| Duration::try_from_secs_f64(value.as_f64()?).ok().map(|time| time.as_secs()))
}

/// The last error of an edge with what to do about it; empty when it has none.
fn trouble(edge: &Value) -> String {
    let text = |pointer: &str| text_at(edge, pointer);
    let message = text("/last_error/message");
    if message.is_empty() {
        return String::new();
    }
    let mut facts = Vec::new();
    match text("/failures").as_str() {
        "" | "0" | "1" => {}
        many => facts.push(format!("{many} rounds failed in a row")),
    }
    facts.push(match seconds_at(edge, "/last_success_age_seconds") {
        Some(age) => format!("the last good one was {} ago", human_age(age)),
        None => "none was good yet".to_owned(),
    });
    facts.extend(
        seconds_at(edge, "/next_round_in_seconds")
            .map(|next| format!("the next comes in {}", human_age(next))),
    );
    let mut out = format!("\n{}: {message} ({})\n", text("/name"), facts.join(", "));
    let hint = text("/last_error/hint");
    if !hint.is_empty() {
        let _ = writeln!(out, "  hint: {hint}");
    }
    out
}

fn blocked(output: &Output, edges: &[Value]) -> Result<()> {
    let mut table = Table::new(&["EDGE", "BLOCKED NAME", "WHY"]);
    let (mut shown, mut all) = (0, 0);
    for edge in edges {
        for name in items_at(edge, "/blocked") {
            table.row(vec![
                text_at(edge, "/name").into(),
                text_at(name, "/name").into(),
                text_at(name, "/why").into(),
            ]);
            shown += 1;
        }
        all += edge.pointer("/differences/blocked").and_then(Value::as_u64).unwrap_or_default();
    }
    if shown == 0 {
        return Ok(());
    }
    output.text("\n")?;
    output.table(&table)?;
    match all.saturating_sub(shown) {
        0 => Ok(()),
        more => output.text(&format!("and {more} more; `nebulactl edge plan` shows them\n")),
    }
}

async fn plan(api: &Api, output: &Output, edge: Option<EdgeName>) -> Result<()> {
    let mut url = api.url(&[&PATH[..], &["plan"]].concat())?;
    if let Some(edge) = edge {
        url.query_pairs_mut().append_pair("edge", edge.as_str());
    }
    let response = api.accepted(Method::GET, &url, None, PLAN_TIMEOUT).await?;
    let answer = api.json_body(&url, "GET", response, PLAN_TIMEOUT).await?;
    let mut list = List::default();
    list.add(&answer).ok_or_else(|| failed(format!("the answer of {url} is no list of plans")))?;
    if output.is_json() {
        output.json(&list.text())?;
    } else {
        show_plans(output, &list.items)?;
    }
    failures(&list.items)
}

fn show_plans(output: &Output, plans: &[Value]) -> Result<()> {
    if plans.is_empty() {
        output.note(&format!("nebulad manages no edge; {HOW_TO_CONFIGURE}"));
    }
    let mut out = String::new();
    for plan in plans {
        if plans.len() > 1 {
            let gap = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{gap}{} ({}):", text_at(plan, "/name"), text_at(plan, "/target"));
        }
        if text_at(plan, "/error/message").is_empty() {
            out.push_str(&lines(plan));
        } else if plans.len() > 1 {
            // Why is told on standard error.
            out.push_str("unknown\n");
        }
    }
    output.text(&out)
}

/// A line per change, then one per name that is in the way.
fn lines(plan: &Value) -> String {
    let mut out = String::new();
    let changes = items_at(plan, "/changes");
    for change in changes {
        let text = |pointer: &str| text_at(change, pointer);
        let sign = match text("/verb").as_str() {
            "add" => '+',
            "remove" => '-',
            _ => '~',
        };
        let _ = write!(out, "{sign} {} {}", text("/kind"), text("/name"));
        match text("/to") {
            to if to.is_empty() => out.push('\n'),
            to => {
                let _ = writeln!(out, " -> {to}");
            }
        }
    }
    more(&mut out, plan, "/changes_total", changes.len(), "changes");
    let blocked = items_at(plan, "/blocked");
    for name in blocked {
        let _ = writeln!(out, "! {}: {}", text_at(name, "/name"), text_at(name, "/why"));
    }
    more(&mut out, plan, "/blocked_total", blocked.len(), "names in the way");
    if out.is_empty() { "nothing would change\n".to_owned() } else { out }
}

/// How many there are beyond those that are shown.
fn more(out: &mut String, plan: &Value, total: &str, shown: usize, what: &str) {
    let total = plan.pointer(total).and_then(Value::as_u64).unwrap_or_default();
    let rest = total.saturating_sub(u64::try_from(shown).unwrap_or(u64::MAX));
    if rest > 0 {
        let _ = writeln!(out, "and {rest} more {what}");
    }
}

/// The errors of edges that could not be looked at, as one.
fn failures(plans: &[Value]) -> Result<()> {
    let (mut messages, mut hints) = (Vec::new(), Vec::new());
    for plan in plans {
        let message = text_at(plan, "/error/message");
        if message.is_empty() {
            continue;
        }
        messages.push(format!("{}: {message}", text_at(plan, "/name")));
        hints.extend(Some(text_at(plan, "/error/hint")).filter(|hint| !hint.is_empty()));
    }
    if messages.is_empty() {
        return Ok(());
    }
    let fatal = failed(messages.join("; "));
    Err(if hints.is_empty() { fatal } else { fatal.hint(hints.join("; ")) }.into())
}
