//! The HTTP server: one listener for clients and operators.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpResponse, HttpServer, web};
use nebula_core::exit::{Exit, Fatal};
use serde_json::json;

use super::api::{self, Api};
use super::openai::{self, Gateway};
use super::operators;

/// Idle connections of clients are kept this long: longer than clients keep theirs, so that they close first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that is being closed is waited for.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most worker threads.
const WORKERS_MAX: usize = 16;
/// Connections of one worker.
const CONNECTIONS_PER_WORKER_MAX: usize = 25_000;

/// Builds the server on `listener`, which is bound already. It runs when it is polled.
///
/// # Errors
/// When the operating system refuses.
pub fn build(
    listener: TcpListener,
    gateway: Gateway,
    api: Api,
    shutdown_grace: Duration,
) -> Result<Server, Fatal> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(WORKERS_MAX);
    let server = HttpServer::new(move || {
        let (gateway, api) = (gateway.clone(), api.clone());
        App::new()
            // Tried in this order; what is asked most often comes first.
            .configure(|cfg| openai::configure(cfg, gateway))
            .configure(|cfg| api::configure(cfg, api))
            .configure(operators::configure)
            .default_service(web::to(nothing_here))
    })
    .workers(workers)
    .max_connections(CONNECTIONS_PER_WORKER_MAX)
    .keep_alive(KEEP_ALIVE)
    .client_request_timeout(HEAD_TIMEOUT)
    .client_disconnect_timeout(DISCONNECT_TIMEOUT)
    .shutdown_timeout(shutdown_grace.as_secs())
    // Without this a client that goes away is not noticed, and its answer is generated for nobody.
    .h1_allow_half_closed(false)
    .tcp_nodelay(true)
    .disable_signals()
    .listen(listener)
    .map_err(|error| Fatal::new(Exit::Failed, format!("HTTP server cannot start: {error}")))?;
    Ok(server.run())
}

/// Stops taking requests and waits for those in flight, for the server's grace.
pub async fn stop(server: &ServerHandle) {
    server.stop(true).await;
}

async fn nothing_here(request: actix_web::HttpRequest) -> HttpResponse {
    let message = format!("there is nothing at {}", request.path());
    HttpResponse::NotFound()
        .json(json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": "unknown_url"}}))
}
