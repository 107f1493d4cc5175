//! What Prometheus reads, and a health check, on a port of their own.

use std::fmt::{Display, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::agent::Agent;
use crate::gpu::{Gpu, Inventory};

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
    let mut page = Page::default();
    replicas(&mut page, &agent);
    gpus(&mut page, &agent.gpus.inventory());
    parts(&mut page, &agent);
    proxy(&mut page, &agent);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(page.0)
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

fn replicas(page: &mut Page, agent: &Agent) {
    let states = agent.replicas.count();
    let states = states.iter().map(|(status, count)| (status.as_str(), *count));
    page.by("nebula_agent_replicas", "Replicas on this node by state.", "state", states);
    let restarts: u64 = agent.replicas.list().iter().map(|replica| u64::from(replica.view.restarts)).sum();
    page.gauge("nebula_agent_replica_restarts", "Restarts of the replicas that are on this node.", restarts);
}

fn gpus(page: &mut Page, gpus: &Inventory) {
    let mut each = |name: &str, help: &str, value: &dyn Fn(&Gpu) -> f64| {
        let named = gpus.gpus.iter().filter(|gpu| !gpu.uuid.is_empty());
        page.by(name, help, "uuid", named.map(|gpu| (gpu.uuid.as_str(), value(gpu))));
    };
    each("nebula_agent_gpu_utilization_percent", "How busy a GPU is.", &|gpu| {
        f64::from(gpu.stats.utilization_percent)
    });
    each("nebula_agent_gpu_memory_used_bytes", "Memory of a GPU in use by anybody.", &|gpu| {
        bytes(gpu.stats.memory_used_bytes)
    });
    each(
        "nebula_agent_gpu_memory_used_by_others_bytes",
        "Memory of a GPU in use by none of the replicas.",
        &|gpu| bytes(gpu.stats.memory_used_by_others_bytes),
    );
    each("nebula_agent_gpu_memory_total_bytes", "Memory of a GPU.", &|gpu| bytes(gpu.memory_bytes));
    each("nebula_agent_gpu_temperature_celsius", "Temperature of a GPU.", &|gpu| {
        f64::from(gpu.stats.temperature_celsius)
    });
    each("nebula_agent_gpu_power_watts", "Power that a GPU draws.", &|gpu| f64::from(gpu.stats.power_watts));
    each("nebula_agent_gpu_problem", "Whether a GPU takes no replicas because of a problem.", &|gpu| {
        f64::from(u8::from(gpu.problem.is_some()))
    });
}

fn parts(page: &mut Page, agent: &Agent) {
    let store = agent.store.status();
    page.gauge(
        "nebula_agent_store_up",
        "Whether the agent's store takes writes.",
        u8::from(store.failed.is_none()),
    );
    let engine = u8::from(agent.docker.status().is_ready());
    page.gauge("nebula_agent_engine_up", "Whether a Docker Engine answers.", engine);
    let heard = &agent.heard;
    let failures = "Calls to nebulad that have failed.";
    page.family("nebula_agent_heartbeat_failures_total", failures, "counter");
    page.line("nebula_agent_heartbeat_failures_total", "", heard.failures());
    let age = heard.age(agent.clock.now()).as_secs_f64();
    page.gauge("nebula_agent_heartbeat_age_seconds", "Time since nebulad acknowledged a heartbeat.", age);
}

fn proxy(page: &mut Page, agent: &Agent) {
    let name = "nebula_agent_proxy_requests_total";
    page.family(name, "Requests to the auth proxy by the class of their answer.", "counter");
    for (class, count) in agent.replicas.shared().routes.stats().counts() {
        page.line(name, &format!("{{code=\"{class}\"}}"), count);
    }
}

/// All but the largest numbers of bytes are exact: from 8 PiB on they are rounded.
#[expect(clippy::cast_precision_loss, reason = "no GPU has so much memory")]
fn bytes(count: u64) -> f64 {
    count as f64
}

/// Text in Prometheus' format.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help, "gauge");
        self.line(name, "", value);
    }

    /// A gauge with one value for each value of a label.
    fn by<'a, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'a str, V)>,
    ) {
        self.family(name, help, "gauge");
        for (key, value) in values {
            self.line(name, &format!("{{{label}=\"{}\"}}", escaped(key)), value);
        }
    }
}

/// A label's value as Prometheus reads it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::inventory::Stats;

    #[test]
    fn every_gpu_has_a_line_in_every_family() {
        let stats = Stats { utilization_percent: 12.5, memory_used_bytes: 80 << 30, ..Stats::default() };
        let well = Gpu { uuid: "GPU-0".to_owned(), stats, ..Gpu::default() };
        let lost = Gpu { uuid: "GPU-\"1\\\n".to_owned(), problem: Some("lost".to_owned()), ..Gpu::default() };
        let nameless = Gpu { index: 2, ..Gpu::default() };
        let mut page = Page::default();
        gpus(&mut page, &Inventory { gpus: vec![well, lost, nameless], ..Inventory::default() });
        for line in [
            "# TYPE nebula_agent_gpu_utilization_percent gauge",
            "nebula_agent_gpu_utilization_percent{uuid=\"GPU-0\"} 12.5",
            "nebula_agent_gpu_memory_used_bytes{uuid=\"GPU-0\"} 85899345920",
            "nebula_agent_gpu_problem{uuid=\"GPU-0\"} 0",
            "nebula_agent_gpu_problem{uuid=\"GPU-\\\"1\\\\\\n\"} 1",
        ] {
            assert!(page.0.lines().any(|found| found == line), "{line} is not in\n{}", page.0);
        }
        let count = |what: &str| page.0.lines().filter(|line| line.starts_with(what)).count();
        assert_eq!((count("# HELP "), count("# TYPE "), count("nebula_")), (7, 7, 14));
    }
}
