//! What can be asked besides answers: health, models, versions, and the simulator's own books.

use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, stream};
use serde_json::{Map, Value, json};

use super::State;
use super::serve::{self, context, error_response, read};
use crate::runtime::error::{Api, ApiError};
use crate::runtime::plan::Plan;
use crate::runtime::stats::Received;
use crate::runtime::{FINGERPRINT, ollama, openai};

/// `GET /`: a line for people.
pub(super) async fn root() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/plain; charset=utf-8"))
        .body(format!("{FINGERPRINT} is running"))
}

/// `GET /health`: 200 once the model is loaded, 503 before.
pub(super) async fn health(state: Data<State>) -> HttpResponse {
    when_ready(&state, Api::OpenAi, || {
        Ok(Bytes::from(json!({ "status": "ok", "system_fingerprint": FINGERPRINT }).to_string()))
    })
}

/// `GET /sim/stats`: the counts of requests, and the tokens made for streams.
pub(super) async fn stats(state: Data<State>) -> HttpResponse {
    let counts = state.stats.counts();
    let stats = json!({
        "requests": counts.requests, "inflight": counts.inflight, "finished": counts.finished,
        "cancelled": counts.cancelled, "failed": counts.failed, "tokens": state.stats.tokens(),
    });
    serve::json(Bytes::from(stats.to_string()))
}

/// `GET /sim/last`: the last request for an answer, as it was received.
pub(super) async fn last(state: Data<State>) -> HttpResponse {
    match state.stats.last() {
        Some(received) => serve::json(Bytes::from(shown(&received).to_string())),
        None => {
            let error =
                ApiError { status: 404, ..ApiError::invalid(None, "no request for an answer came yet") };
            error_response(Api::OpenAi, &error)
        }
    }
}

/// The body as text and, since that may not be UTF-8, in base64. Values of repeated headers are joined.
fn shown(received: &Received) -> Value {
    let mut headers: Map<String, Value> = Map::new();
    for (name, value) in &received.headers {
        match headers.get_mut(name) {
            Some(Value::String(values)) => values.extend([", ", value]),
            _ => drop(headers.insert(name.clone(), Value::String(value.clone()))),
        }
    }
    json!({
        "method": received.method,
        "path": received.path,
        "headers": headers,
        "body": String::from_utf8_lossy(&received.body),
        "body_base64": STANDARD.encode(&received.body),
    })
}

/// `GET /v1/models`.
pub(super) async fn models(state: Data<State>) -> HttpResponse {
    when_ready(&state, Api::OpenAi, || Ok(openai::models(&state.args.model, state.started.unix_secs())))
}

/// `GET /v1/models/{id}`; an id may hold slashes.
pub(super) async fn model(state: Data<State>, id: Path<String>) -> HttpResponse {
    when_ready(&state, Api::OpenAi, || openai::model(&id, &state.args.model, state.started.unix_secs()))
}

/// `GET /api/version`.
pub(super) async fn version() -> HttpResponse {
    serve::json(ollama::version())
}

/// `GET /api/tags`.
pub(super) async fn tags(state: Data<State>) -> HttpResponse {
    serve::json(ollama::tags(&state.args.model, state.started))
}

/// `GET /api/ps`.
pub(super) async fn ps(state: Data<State>) -> HttpResponse {
    serve::json(ollama::ps(&state.args.model, state.ready()))
}

/// `POST /api/show`.
pub(super) async fn show(request: HttpRequest, payload: Payload, state: Data<State>) -> HttpResponse {
    let shown = match asked(&request, payload, &state).await {
        Ok((body, plan)) => ollama::show(&body, &context(&state, plan)),
        Err(error) => Err(error),
    };
    match shown {
        Ok(body) => serve::json(body),
        Err(error) => error_response(Api::Ollama, &error),
    }
}

/// `POST /api/pull`: its lines come at the pace of tokens.
pub(super) async fn pull(request: HttpRequest, payload: Payload, state: Data<State>) -> HttpResponse {
    let lines = match asked(&request, payload, &state).await {
        Ok((body, plan)) => ollama::pull(&body, &context(&state, plan)).map(|lines| (lines, plan)),
        Err(error) => Err(error),
    };
    let (lines, plan) = match lines {
        Ok(lines) => lines,
        Err(error) => return error_response(Api::Ollama, &error),
    };
    let paced = stream::iter(lines).then(move |line| async move {
        tokio::time::sleep(plan.token_interval).await;
        Ok::<_, actix_web::Error>(line)
    });
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/x-ndjson")).streaming(Box::pin(paced))
}

/// A request's body, and what it says of how it is to be answered.
async fn asked(request: &HttpRequest, payload: Payload, state: &State) -> Result<(Bytes, Plan), ApiError> {
    let body = read(payload).await?;
    let plan = Plan::read(&state.args, |name| request.headers().get(name)?.to_str().ok());
    plan.map(|plan| (body, plan)).map_err(|message| ApiError::invalid(None, message))
}

/// Any other path.
pub(super) async fn unknown(request: HttpRequest) -> HttpResponse {
    let api = if request.path().starts_with("/api/") { Api::Ollama } else { Api::OpenAi };
    error_response(api, &ApiError::unknown_url(request.method().as_str(), request.path()))
}

fn when_ready(state: &State, api: Api, body: impl FnOnce() -> Result<Bytes, ApiError>) -> HttpResponse {
    let body = if state.ready() { body() } else { Err(ApiError::loading()) };
    match body {
        Ok(body) => serve::json(body),
        Err(error) => error_response(api, &error),
    }
}
