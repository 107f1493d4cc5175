//! The edge as the management API, the actors and the metrics show it.

use std::net::TcpListener;

use nebulad::actors::edge::machine::State;
use serde_json::{Value, json};

use super::control_plane::Nebulad;
use super::metrics::scraped;
use super::openapi::answered_as_described;

const NODE: &str = "550e8400-e29b-41d4-a716-446655440000";
const SECRET: &str = "a-secret-that-nobody-shows";

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

/// A nebulad whose edges are both away.
async fn with_both_away(caddy: &str, route53: &str) -> Nebulad {
    let zone = ["--route53-hosted-zone-id", "Z123", "--gateway-ip", "192.0.2.1"];
    let keys = ["--route53-access-key-id", "AKIA1", "--route53-secret-access-key", SECRET];
    let urls = ["--caddy-admin-url", caddy, "--caddy-listen", ":8443", "--route53-endpoint-url", route53];
    Nebulad::start_with(&[&zone[..], &keys, &urls].concat()).await
}

fn states(nebulad: &Nebulad) -> Vec<State> {
    nebulad.app().system.edge_status().iter().map(|edge| edge.state()).collect()
}

#[actix_rt::test]
async fn an_edge_that_is_not_used_says_how_it_would_be() {
    let nebulad = Nebulad::start().await;
    let status = answered_as_described(&nebulad, "/edge", "/edge").await;
    for (edge, name) in status["data"].as_array().expect("a list").iter().zip(["caddy", "route53"]) {
        assert_eq!(
            (&edge["name"], &edge["configured"], &edge["state"]),
            (&json!(name), &json!(false), &json!("off"))
        );
    }
    let none = answered_as_described(&nebulad, "/edge/plan", "/edge/plan").await;
    assert_eq!(none["data"], json!([]));
    for (name, status, part) in [
        ("caddy", 409, "--caddy-admin-url"),
        ("route53", 409, "--route53-hosted-zone-id"),
        ("nginx", 404, "there are caddy and route53"),
    ] {
        let refused = nebulad.get(&format!("/api/v1/edge/plan?edge={name}")).await;
        let message = refused.body["error"]["message"].as_str().expect("a message");
        assert!(refused.status == status && message.contains(part), "{}", refused.text);
    }
    for path in ["/api/v1/edge", "/api/v1/edge/plan"] {
        assert_eq!(nebulad.get_as_nobody(path).await.status, 401, "{path}");
    }
    let samples = scraped(&nebulad).await;
    assert!(!samples.keys().any(|name| name.starts_with("nebula_edge")), "{samples:?}");
    nebulad.stop().await;
}

#[actix_rt::test]
async fn an_edge_that_is_away_is_told_and_nothing_else_is_hurt() {
    let (caddy, route53) = (nobody(), nobody());
    let nebulad = with_both_away(&caddy, &route53).await;
    nebulad.register(NODE).await;
    nebulad.create("demo").await;
    nebulad.until(|_| states(&nebulad) == [State::Failing; 2]).await;
    nebulad.until(|app| app.system.edge_status().iter().all(|edge| edge.wanted == 1)).await;

    let status = answered_as_described(&nebulad, "/edge", "/edge").await;
    for edge in status["data"].as_array().expect("a list") {
        assert_eq!((&edge["configured"], &edge["state"]), (&json!(true), &json!("failing")), "{edge}");
        assert_eq!(edge["last_error"]["trouble"], "unreachable", "{edge}");
        assert!(!edge["last_error"]["hint"].as_str().expect("a hint").is_empty(), "{edge}");
    }
    assert_eq!(status["data"][0]["target"], json!(caddy));

    let plans = answered_as_described(&nebulad, "/edge/plan", "/edge/plan").await;
    let plans = plans["data"].as_array().expect("a list");
    assert_eq!(plans.len(), 2);
    for (plan, name) in plans.iter().zip(["caddy", "route53"]) {
        assert_eq!((&plan["name"], &plan["changes_total"]), (&json!(name), &json!(0)));
        assert!(!plan["error"]["message"].as_str().expect("a message").is_empty(), "{plan}");
    }
    let one = answered_as_described(&nebulad, "/edge/plan?edge=caddy", "/edge/plan").await;
    assert_eq!(one["data"].as_array().map(Vec::len), Some(1));

    let samples = scraped(&nebulad).await;
    for edge in ["caddy", "route53"] {
        for (name, value) in [
            (format!("nebula_edge_up{{edge=\"{edge}\"}}"), 0.0),
            (format!("nebula_edge_state{{edge=\"{edge}\",state=\"failing\"}}"), 1.0),
            (format!("nebula_edge_state{{edge=\"{edge}\",state=\"in_sync\"}}"), 0.0),
            (format!("nebula_edge_blocked{{edge=\"{edge}\"}}"), 0.0),
            (format!("nebula_edge_rounds_total{{edge=\"{edge}\",outcome=\"good\"}}"), 0.0),
            (format!("nebula_edge_changes_total{{edge=\"{edge}\"}}"), 0.0),
        ] {
            assert_eq!(samples.get(&name), Some(&value), "{name}");
        }
        assert!(samples[&format!("nebula_edge_rounds_total{{edge=\"{edge}\",outcome=\"failed\"}}")] >= 1.0);
        assert!(samples.contains_key(&format!("nebula_edge_lag_seconds{{edge=\"{edge}\"}}")));
        assert!(samples.contains_key(&format!("nebula_edge_differences{{edge=\"{edge}\"}}")));
    }

    assert_eq!(nebulad.get("/ready").await.status, 200, "the edge is not needed to be ready");
    let actor = nebulad.get("/admin/actors/edge/caddy").await.body;
    assert_eq!((&actor["path"], &actor["status"]["state"]), (&json!("/edge/caddy"), &json!("failing")));
    let config = nebulad.get("/admin/config").await.body;
    assert_eq!(config["caddy"], json!({"admin_url": caddy, "listen": ":8443"}));
    assert_eq!(
        (&config["route53"]["hosted_zone_id"], &config["route53"]["credentials"]),
        (&json!("Z123"), &json!("given"))
    );
    for path in ["/api/v1/edge", "/api/v1/edge/plan", "/admin/actors", "/admin/config", "/metrics"] {
        let shown = nebulad.get(path).await.text;
        assert!(!shown.contains(SECRET), "{path}: {shown}");
    }
    nebulad.stop().await;
}

/// Answers every `GET` as a Caddy that has no configuration, and refuses every change.
async fn bare_caddy() -> (String, actix_web::dev::ServerHandle) {
    use actix_web::{App, HttpResponse, HttpServer, web};
    let answer = |request: actix_web::HttpRequest| async move {
        if request.method() == actix_web::http::Method::GET {
            return HttpResponse::Ok()
                .content_type("application/json")
                .insert_header(("etag", "\"/ 1\""))
                .body("null\n");
        }
        HttpResponse::InternalServerError().json(json!({"error": "the disk is full"}))
    };
    let server = HttpServer::new(move || App::new().default_service(web::to(answer)))
        .workers(1)
        .bind("127.0.0.1:0")
        .expect("a free port");
    let url = format!("http://{}", server.addrs()[0]);
    let server = server.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    (url, handle)
}

#[actix_rt::test]
async fn a_plan_says_what_would_be_changed() {
    let (url, caddy) = bare_caddy().await;
    let nebulad =
        Nebulad::start_with(&["--caddy-admin-url", &url, "--gateway-domain", "gw.example.com"]).await;
    nebulad.register(NODE).await;
    nebulad.until(|app| app.system.edge_status()[0].wanted == 1).await;
    let plan = answered_as_described(&nebulad, "/edge/plan", "/edge/plan").await;
    let plan = &plan["data"][0];
    assert_eq!(
        (&plan["name"], &plan["target"], &plan["error"]),
        (&json!("caddy"), &json!(url), &Value::Null)
    );
    let changes = plan["changes"].as_array().expect("a list");
    let route =
        json!({"verb": "add", "kind": "route", "name": "550e8400.gw.example.com", "to": "127.0.0.1:8888"});
    assert!(changes.contains(&route), "{plan}");
    assert_eq!(plan["changes_total"], json!(changes.len()));

    nebulad.until(|_| states(&nebulad)[0] == State::Failing).await;
    let status = answered_as_described(&nebulad, "/edge", "/edge").await;
    let edge = &status["data"][0];
    assert_ne!(edge["last_error"], Value::Null, "{edge}");
    nebulad.stop().await;
    caddy.stop(false).await;
}
