//! `GET /metrics`: what Prometheus reads. It needs no token, so it says nothing of what deployments hold.

use actix_web::{HttpRequest, HttpResponse, web};
use nebula_core::telemetry::access;

use super::Shared;
use crate::actors::registry::{self, RegistryStatus};
use crate::actors::system::System;
use crate::actors::tree::Life;
use crate::domain::deployment::Phase;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::route::GateState;
use crate::http::api::error::refuse;
use crate::metrics::Page;

mod edge;

pub(super) fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(web::resource("/metrics").route(web::get().to(show)));
}

/// Made beside the threads that serve requests: ten thousand deployments take a moment.
async fn show(request: HttpRequest, api: Shared) -> HttpResponse {
    let made = web::block(move || page(&api.system).text()).await;
    match made.map_err(|error| error.to_string()).and_then(|text| text) {
        Ok(text) => HttpResponse::Ok().content_type(Page::CONTENT_TYPE).body(text),
        Err(why) => refuse(&request, &Error::new(ErrorClass::Internal, format!("the metrics: {why}"))),
    }
}

fn page(system: &System) -> Page {
    // Whether a model was deleted only the catalog knows: while it is down, nothing is dropped.
    let deleted =
        |model: &str| system.find_deployment(model).is_err_and(|error| error.class == ErrorClass::NotFound);
    let mut page = Page::begin(|model| !deleted(model));
    let version = [([env!("CARGO_PKG_VERSION")], 1.0)];
    page.gauges("nebula_build_info", "Which nebulad this is.", ["version"], version);
    nodes(&mut page, system);
    deployments(&mut page, system);
    routes(&mut page, system);
    actors(&mut page, system);
    store(&mut page, system);
    edge::put(&mut page, system);
    let dropped = float(access::dropped_total());
    page.counter(
        "nebula_gateway_access_log_dropped_total",
        "Lines of the access log that were not written fast enough.",
        dropped,
    );
    page
}

fn nodes(page: &mut Page, system: &System) {
    let registry = system.tree.cell(registry::PATH).and_then(|cell| cell.status::<RegistryStatus>());
    let Some(registry) = registry else { return };
    let RegistryStatus { online, suspect, offline, .. } = *registry;
    let states = [("online", online), ("suspect", suspect), ("offline", offline)];
    let states = states.map(|(state, count)| ([state], float(count)));
    page.gauges("nebula_nodes", "Nodes by whether they are heard from.", ["state"], states);
}

fn deployments(page: &mut Page, system: &System) {
    let deployments = system.deployments(None, usize::MAX);
    let states = Phase::ALL.map(|phase| {
        let count = deployments.iter().filter(|deployment| deployment.state() == phase).count();
        ([phase.as_str()], float(count))
    });
    page.gauges("nebula_deployments", "Deployments by state.", ["state"], states);
}

fn routes(page: &mut Page, system: &System) {
    let table = system.routes.load();
    let inflight = table.iter().map(|route| {
        let requests: u32 = route.endpoints.iter().map(|endpoint| endpoint.inflight()).sum();
        ([route.name.as_str()], f64::from(requests))
    });
    page.gauges(
        "nebula_gateway_inflight",
        "Requests that are being answered by replicas, by deployment.",
        ["model"],
        inflight,
    );
    let (mut open, mut limited, mut shut) = (0_u32, 0_u32, 0_u32);
    for endpoint in table.iter().flat_map(|route| &route.endpoints) {
        match endpoint.gate.state() {
            GateState::Open | GateState::Doubted => open += 1,
            GateState::Limited => limited += 1,
            GateState::Shut => shut += 1,
        }
    }
    let gates = [("open", open), ("limited", limited), ("shut", shut)];
    let gates = gates.map(|(gate, count)| ([gate], f64::from(count)));
    page.gauges(
        "nebula_gateway_endpoints",
        "Replicas that the gateway may ask, by how far their gate is open.",
        ["gate"],
        gates,
    );
}

fn actors(page: &mut Page, system: &System) {
    let lives = system.tree.lives();
    let states = [
        ("starting", Life::Starting),
        ("running", Life::Running),
        ("stopping", Life::Stopping),
        ("restarting", Life::Restarting),
        ("crashed", Life::Crashed),
    ];
    let states = states.map(|(state, life)| ([state], float(lives.iter().filter(|it| **it == life).count())));
    page.gauges("nebula_actors", "Actors by where they stand.", ["state"], states);
    let set_aside = float(system.messages_set_aside().len());
    page.gauge("nebula_actor_messages_set_aside", "Messages over which their actors fell.", set_aside);
    page.gauge(
        "nebula_ready",
        "Whether nebulad is ready.",
        f64::from(u8::from(system.not_ready().is_empty())),
    );
}

fn store(page: &mut Page, system: &System) {
    let store = system.store_report();
    let up = f64::from(u8::from(store.state == "ok"));
    page.gauge("nebula_store_up", "Whether the store takes writes.", up);
    page.gauge("nebula_store_size_bytes", "Size of the store's log.", float(store.size_bytes));
    page.gauge("nebula_store_queue_depth", "Requests that wait for the store.", float(store.queue_depth));
    page.gauge("nebula_store_set_aside", "Records that could not be read.", float(store.set_aside));
    let free = float(store.disk.free_bytes);
    page.gauge("nebula_store_disk_free_bytes", "What may still be written to the store's disk.", free);
}

/// Exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "no count and no disk is so large")]
fn float(count: impl TryInto<u64>) -> f64 {
    count.try_into().map_or(0.0, |count| count as f64)
}
