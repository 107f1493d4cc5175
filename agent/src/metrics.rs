//! What Prometheus reads, and a health check, on a port of their own.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::agent::Agent;

/// Starts serving.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) fn serve(listener: TcpListener, agent: Arc<Agent>) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::from(Arc::clone(&agent)))
            .route("/metrics", web::get().to(metrics))
            .route("/health", web::get().to(health))
    });
    Ok(server.workers(1).shutdown_timeout(1).disable_signals().listen(listener)?.run())
}

async fn metrics(agent: web::Data<Agent>) -> HttpResponse {
    let mut text = String::from(
        "# HELP nebula_agent_replicas Replicas on this node by state.\n# TYPE nebula_agent_replicas gauge\n",
    );
    for (status, count) in agent.replicas.count() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "nebula_agent_replicas{{state=\"{}\"}} {count}", status.as_str());
    }
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text)
}

async fn health(agent: web::Data<Agent>) -> HttpResponse {
    let health = agent.health();
    let body = serde_json::json!({ "status": health.status, "issues": health.issues });
    if health.status == "unhealthy" {
        HttpResponse::ServiceUnavailable().json(body)
    } else {
        HttpResponse::Ok().json(body)
    }
}
