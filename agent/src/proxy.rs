//! The auth proxy: checks who calls and streams to the runtime on loopback and back.

mod answer;
pub(crate) mod gate;
mod held;
mod path;
pub(crate) mod stats;
pub(crate) mod table;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::http::{ConnectionType, Version};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use nebula_core::address::HostPort;
use nebula_core::token::bearer;
use nebula_relay::{Call, CallBody, Client, RequestHead, Unread, UpstreamError};

use self::table::{Route, Routes};

/// How long a runtime may take to the first byte of its answer.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long it may be silent between two.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a client's body may stand still.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client's idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long requests in flight may take when the agent stops, in seconds.
const SHUTDOWN_SECS: u64 = 5;
/// Threads; more would help nobody on a machine that runs a model.
const WORKERS_MAX: usize = 4;
/// Connections of each thread.
const CONNECTIONS_MAX: usize = 10_000;

const DEPLOYMENT: &str = "x-nebula-deployment";
const REPLICA: &str = "x-nebula-replica";

/// Starts the proxy on its own threads.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) fn serve(listener: TcpListener, routes: Arc<Routes>) -> std::io::Result<Server> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Client::new())
            .app_data(web::Data::from(Arc::clone(&routes)))
            .default_service(web::to(handle))
    });
    let server = server
        .workers(workers)
        .max_connections(CONNECTIONS_MAX)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_TIMEOUT)
        .shutdown_timeout(SHUTDOWN_SECS)
        // A client that hangs up ends its request at the runtime.
        .h1_allow_half_closed(false)
        .tcp_nodelay(true)
        .disable_signals()
        .listen(listener)?;
    Ok(server.run())
}

async fn handle(request: HttpRequest, body: web::Payload, routes: web::Data<Routes>) -> HttpResponse {
    let mut call = routes.stats().call();
    let mut body = Some(body);
    let mut answer = answer_to(&request, &mut body, &routes).await;
    if let Some(rest) = body {
        answer = answer.map_body(|_, body| Unread::keep(rest, body));
    }
    if request.version() < Version::HTTP_11 {
        // Such clients know no chunks: the end of the connection ends the body.
        answer.head_mut().no_chunking(true);
        answer.head_mut().set_connection_type(ConnectionType::Close);
    }
    call.answered(answer.status().as_u16());
    answer
}

/// Answers, and takes the body if a runtime is to have it.
async fn answer_to(request: &HttpRequest, body: &mut Option<web::Payload>, routes: &Routes) -> HttpResponse {
    let headers = request.headers();
    let named = header(headers, DEPLOYMENT);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if named.is_none() && request.path() == "/health" {
        return HttpResponse::Ok().json(serde_json::json!({ "status": "ok" }));
    }
    let (named, rest) = match (named, path::named(target)) {
        (Some(named), _) => (Some(named.to_owned()), target.to_owned()),
        (None, Some(Ok(found))) => (Some(found.deployment), found.rest),
        (None, Some(Err(path::NotText))) => return answer::bad_path(),
        (None, None) => (None, target.to_owned()),
    };
    let meant = match routes.table().pick(named.as_deref(), header(headers, REPLICA)) {
        Ok(meant) => meant,
        Err(reason) => return answer::not_picked(&reason),
    };
    let token = header(headers, AUTHORIZATION.as_str()).and_then(bearer);
    let admitted: Vec<_> = meant.into_iter().filter(|route| route.access.admits(token)).collect();
    if admitted.is_empty() {
        return answer::unauthorized();
    }
    let ready: Vec<_> = admitted.into_iter().filter(|route| route.gate.is_open()).collect();
    // Any of them will do; nebulad's gateway names the replica that it wants.
    let chosen = ready.get(rand::random_range(0..ready.len().max(1)));
    let Some((route, entered)) = chosen.and_then(|route| Some((route, route.gate.pass()?))) else {
        return answer::not_ready();
    };
    let Some(body) = body.take() else { return answer::not_ready() };
    match pass(request, body, route, rest).await {
        Ok(answer) => answer.map_body(|_, body| held::until_over(body, entered)),
        Err(error) => {
            tracing::debug!(deployment_id = %route.deployment, replica_id = %route.replica, %error, "call failed");
            answer::upstream(&error)
        }
    }
}

async fn pass(
    request: &HttpRequest,
    body: web::Payload,
    route: &Route,
    path_and_query: String,
) -> Result<HttpResponse, UpstreamError> {
    let broken = |error: String| UpstreamError::Broken(error);
    let client = request.app_data::<Client>().ok_or_else(|| broken("no client".to_owned()))?;
    let address: HostPort =
        format!("127.0.0.1:{}", route.port).parse().map_err(|_| broken("no port".to_owned()))?;
    let body = CallBody::of(request, body, BODY_TIMEOUT).await?;
    let (path, query) =
        path_and_query.split_once('?').map_or((&*path_and_query, None), |(path, query)| (path, Some(query)));
    let call = Call {
        address: &address,
        head: RequestHead::new(request.method(), path, query).forward(request.headers(), |_| false),
        body,
        first_byte_timeout: FIRST_BYTE_TIMEOUT,
    };
    let mut upstream = client.send(call).await?;
    let mut answer = HttpResponse::new(upstream.status);
    *answer.headers_mut() = std::mem::take(&mut upstream.headers);
    Ok(answer.set_body(upstream.relay(IDLE_TIMEOUT, answer::last_event)).map_into_boxed_body())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
