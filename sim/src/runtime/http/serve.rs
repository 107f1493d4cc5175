//! The way of a request: booked, read, recorded, perhaps failed, answered, paced.

use std::future::pending;
use std::time::Duration;

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use tokio::time::sleep;
use uuid::Uuid;

use super::{BODY_MAX, State, Work};
use crate::runtime::body;
use crate::runtime::dialect::{Answer, Context};
use crate::runtime::error::{Api, ApiError};
use crate::runtime::fail::Fail;
use crate::runtime::plan::Plan;
use crate::runtime::playback::{self, Playback, Whole};
use crate::runtime::stats::{Received, Ticket};

/// When a client may come again, in seconds.
const RETRY_AFTER_SECS: &str = "1";

/// Answers one request for tokens or vectors.
pub(super) async fn serve(
    request: HttpRequest,
    payload: Payload,
    state: Data<State>,
    api: Api,
    work: Work,
) -> HttpResponse {
    let ticket = state.stats.open();
    match prepare(&request, payload, &state, work, &ticket).await {
        Ok((answer, plan)) => send(answer, plan, api, ticket, state.args.stamp).await,
        Err(error) => {
            ticket.finish();
            error_response(api, &error)
        }
    }
}

/// Everything before the first byte of the answer.
async fn prepare(
    request: &HttpRequest,
    payload: Payload,
    state: &State,
    work: Work,
    ticket: &Ticket,
) -> Result<(Answer, Plan), ApiError> {
    let body = read(payload).await?;
    state.stats.record(received(request, body.clone()));
    if !state.ready() {
        return Err(ApiError::loading());
    }
    let plan = Plan::read(&state.args, |name| request.headers().get(name)?.to_str().ok())
        .map_err(|message| ApiError::invalid(None, message))?;
    match plan.fail {
        Fail::Error500 => return Err(ApiError::simulated_500()),
        Fail::Error429 => return Err(ApiError::simulated_429()),
        Fail::Hang => pending().await,
        Fail::ExitAfter(answered) if ticket.number() > answered => {
            state.crash();
            pending().await
        }
        _ => {}
    }
    let answer = work(&body, &context(state, plan))?;
    pause(plan.ttft).await;
    Ok((answer, plan))
}

/// A context for a request that comes now.
pub(super) fn context(state: &State, plan: Plan) -> Context<'_> {
    Context {
        model: &state.args.model,
        plan,
        dimensions: state.args.dimensions,
        now: state.clock.wall(),
        id: Uuid::new_v4().simple().to_string(),
    }
}

/// Reads a body up to the limit.
pub(super) async fn read(payload: Payload) -> Result<Bytes, ApiError> {
    match payload.to_bytes_limited(BODY_MAX).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => Err(ApiError::invalid(None, format!("the request body broke off: {error}"))),
        Err(_) => Err(ApiError::too_large(BODY_MAX)),
    }
}

/// Waits; no time at all is not waited for, while the shortest timer takes a millisecond.
async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

async fn send(answer: Answer, plan: Plan, api: Api, ticket: Ticket, stamp: bool) -> HttpResponse {
    match answer {
        Answer::Tokens { script, dialect, stream: true } => {
            let content_type = dialect.stream_type();
            let playback = Playback::new(dialect, script, plan.fail);
            HttpResponse::Ok()
                .insert_header((CONTENT_TYPE, content_type))
                .insert_header((CACHE_CONTROL, "no-cache"))
                .insert_header(("x-accel-buffering", "no"))
                .streaming(body::paced(playback, plan.token_interval, ticket, stamp && api == Api::OpenAi))
        }
        Answer::Tokens { script, dialect, stream: false } => {
            pause(time_between(plan.token_interval, script.pieces.len())).await;
            send_whole(dialect.whole(&script), plan.fail, api, ticket)
        }
        Answer::Body(body) => send_whole(body, plan.fail, api, ticket),
    }
}

/// How long `tokens` tokens take after the first.
fn time_between(interval: Duration, tokens: usize) -> Duration {
    interval.saturating_mul(u32::try_from(tokens.saturating_sub(1)).unwrap_or(u32::MAX))
}

fn send_whole(body: Bytes, fail: Fail, api: Api, ticket: Ticket) -> HttpResponse {
    match playback::whole(body, fail) {
        Whole::Body(body) | Whole::Half(body) => {
            ticket.finish();
            json(body)
        }
        Whole::Broken { half, full_length } => {
            let stream = Box::pin(body::broken(half, ticket));
            HttpResponse::Ok()
                .insert_header((CONTENT_TYPE, "application/json"))
                .body(SizedStream::new(full_length as u64, stream))
        }
        Whole::Error(error) => {
            ticket.finish();
            error_response(api, &error)
        }
    }
}

/// A 200 with JSON.
pub(super) fn json(body: Bytes) -> HttpResponse {
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body(body)
}

/// An error in the API's own form.
pub(super) fn error_response(api: Api, error: &ApiError) -> HttpResponse {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    response.insert_header((CONTENT_TYPE, "application/json"));
    if matches!(error.status, 429 | 503) {
        response.insert_header((RETRY_AFTER, RETRY_AFTER_SECS));
    }
    if error.status == 413 {
        // The rest of the body was not read: the connection is of no more use.
        response.force_close();
    }
    response.body(error.body(api))
}

fn received(request: &HttpRequest, body: Bytes) -> Received {
    Received {
        method: request.method().to_string(),
        path: request.uri().to_string(),
        headers: headers(request.headers()),
        body,
    }
}

fn headers(map: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    map.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect()
}
