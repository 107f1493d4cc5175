//! `GET /metrics` of a real nebulad.

use std::collections::BTreeMap;

use super::control_plane::Nebulad;

/// Samples by their name with labels, read as Prometheus does.
pub(super) async fn scraped(nebulad: &Nebulad) -> BTreeMap<String, f64> {
    let response =
        reqwest::get(format!("http://{}/metrics", nebulad.app().http_addr)).await.expect("an answer");
    assert_eq!(response.status(), 200, "no token is needed");
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text().await.expect("text");
    let mut samples = BTreeMap::new();
    let mut family = "";
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(named) => family = named.split(' ').next().expect("a name"),
            None if line.starts_with("# HELP ") => {}
            None => {
                let (name, value) = line.rsplit_once(' ').expect("a sample");
                assert!(!family.is_empty() && name.starts_with(family), "{name} is not of {family}");
                let before = samples.insert(name.to_owned(), value.parse().expect("a number"));
                assert_eq!(before, None, "{name} is there twice");
            }
        }
    }
    samples
}

#[actix_rt::test]
async fn the_page_says_how_everything_stands() {
    let nebulad = Nebulad::start().await;
    nebulad.register("n-1").await;
    nebulad.create("demo").await;
    nebulad.until(|app| !app.system.deployments(None, 1).is_empty()).await;
    nebulad::metrics::gateway().answered("demo", 200, 0.1, Some(0.05), 7, 3);
    let samples = scraped(&nebulad).await;
    for (name, value) in [
        ("nebula_nodes{state=\"online\"}", 1.0),
        ("nebula_nodes{state=\"offline\"}", 0.0),
        ("nebula_deployments{state=\"stopped\"}", 1.0),
        ("nebula_deployments{state=\"running\"}", 0.0),
        ("nebula_gateway_inflight{model=\"demo\"}", 0.0),
        ("nebula_gateway_endpoints{gate=\"open\"}", 0.0),
        ("nebula_gateway_requests_total{code=\"200\",model=\"demo\"}", 1.0),
        ("nebula_gateway_tokens_total{kind=\"prompt\",model=\"demo\"}", 7.0),
        ("nebula_gateway_limited_total{kind=\"tokens\"}", 0.0),
        ("nebula_gateway_access_log_dropped_total", 0.0),
        ("nebula_heartbeats_total", 0.0),
        ("nebula_actor_restarts_total{kind=\"registry\"}", 0.0),
        ("nebula_actors{state=\"crashed\"}", 0.0),
        ("nebula_ready", 1.0),
        ("nebula_store_up", 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}");
    }
    assert!(samples["nebula_store_commit_seconds_count"] >= 2.0);
    assert!(samples["nebula_actors{state=\"running\"}"] >= 5.0);
    assert!(samples["process_resident_memory_bytes"] > 1e6);

    let series = |samples: &BTreeMap<String, f64>| {
        samples.keys().filter(|name| name.contains("model=\"demo\"")).count()
    };
    assert_eq!(series(&samples), 4);
    assert_eq!(nebulad.delete("/api/v1/deployments/demo").await.status, 202);
    nebulad.until(|app| app.system.find_deployment("demo").is_err()).await;
    nebulad.until(|app| app.system.routes.load().get("demo").is_none()).await;
    let after = scraped(&nebulad).await;
    assert_eq!(series(&after), 0, "what is deleted leaves no series");
    nebulad.stop().await;
}
