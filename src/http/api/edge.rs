//! `/api/v1/edge`: how what is in front of the nodes stands, and what would be changed there.

use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::error::refuse;
use crate::actors::edge::EdgePlan;
use crate::domain::edge::Differences;
use crate::domain::error::Error;

type Shared = web::Data<Api>;

/// The most changes of a plan that are shown one by one.
const CHANGES_SHOWN_MAX: usize = 1_000;
/// The most names in the way that are shown.
const BLOCKED_SHOWN_MAX: usize = 1_000;

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/edge").route(web::get().to(status)))
        .service(web::resource("/edge/plan").route(web::get().to(plan)));
}

async fn status(api: Shared) -> HttpResponse {
    let all: Vec<Value> = api.system.edge_status().iter().map(|edge| edge.to_json()).collect();
    HttpResponse::Ok().json(json!({"data": all, "next_cursor": null}))
}

#[derive(Debug, Deserialize)]
struct Which {
    /// `caddy` or `route53`; without it all that are configured.
    edge: Option<String>,
}

async fn plan(request: HttpRequest, api: Shared, which: web::Query<Which>) -> HttpResponse {
    let plans = match &which.edge {
        Some(name) => one(&api, name).await,
        None => Ok(all(&api).await),
    };
    match plans {
        Ok(plans) => HttpResponse::Ok().json(json!({"data": plans, "next_cursor": null})),
        Err(error) => refuse(&request, &error),
    }
}

async fn one(api: &Api, name: &str) -> Result<Vec<Value>, Error> {
    let plan = api.system.edge_plan(name).await?;
    Ok(vec![shown(&plan)])
}

/// One that fails does not keep the others from being shown.
async fn all(api: &Api) -> Vec<Value> {
    let edges = api.system.edge_status().into_iter().filter(|edge| edge.configured);
    let plans = edges.map(async |edge| match api.system.edge_plan(edge.name).await {
        Ok(plan) => shown(&plan),
        Err(error) => failed(edge.name, &edge.target, &error.message, ""),
    });
    join_all(plans).await
}

fn shown(plan: &EdgePlan) -> Value {
    let EdgePlan { name, target, outcome } = plan;
    match outcome {
        Ok(found) => view(name, target, found, &Value::Null),
        Err(error) => failed(name, target, &error.message, &error.hint),
    }
}

fn failed(name: &str, target: &str, message: &str, hint: &str) -> Value {
    view(name, target, &Differences::default(), &json!({"message": message, "hint": hint}))
}

fn view(name: &str, target: &str, found: &Differences, error: &Value) -> Value {
    let changes: Vec<_> = found.changes.iter().take(CHANGES_SHOWN_MAX).collect();
    let blocked: Vec<_> = found.blocked.iter().take(BLOCKED_SHOWN_MAX).collect();
    json!({
        "name": name,
        "target": target,
        "changes": changes,
        "changes_total": found.changes.len(),
        "blocked": blocked,
        "blocked_total": found.blocked.len(),
        "error": error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::edge::{Blocked, Change, EdgeError, Trouble, Verb};

    fn plan(outcome: Result<Differences, EdgeError>) -> EdgePlan {
        EdgePlan { name: "caddy", target: "http://localhost:2019".to_owned(), outcome }
    }

    #[test]
    fn a_long_plan_is_cut_and_says_how_long_it_is() {
        let change = |n: usize| Change {
            verb: Verb::Add,
            kind: "route",
            name: format!("{n}.gateway.example.com"),
            to: "10.0.0.7:8888".to_owned(),
        };
        let name = |n: usize| Blocked { name: format!("{n}.gateway.example.com"), why: "taken".to_owned() };
        let all = CHANGES_SHOWN_MAX + 1;
        let found =
            Differences { changes: (0..all).map(change).collect(), blocked: (0..3).map(name).collect() };
        let plan = shown(&plan(Ok(found)));
        assert_eq!(plan["changes"].as_array().map(Vec::len), Some(CHANGES_SHOWN_MAX));
        assert_eq!((&plan["changes_total"], &plan["blocked_total"]), (&json!(all), &json!(3)));
        let first =
            json!({"verb": "add", "kind": "route", "name": "0.gateway.example.com", "to": "10.0.0.7:8888"});
        assert_eq!(plan["changes"][0], first);
        assert!(plan["error"].is_null());
    }

    #[test]
    fn an_edge_that_cannot_be_looked_at_says_why() {
        let error = EdgeError {
            trouble: Trouble::Unreachable,
            message: "caddy cannot be reached".to_owned(),
            hint: "start it".to_owned(),
        };
        let plan = shown(&plan(Err(error)));
        assert_eq!(plan["error"], json!({"message": "caddy cannot be reached", "hint": "start it"}));
        assert_eq!((&plan["changes"], &plan["changes_total"]), (&json!([]), &json!(0)));
    }
}
