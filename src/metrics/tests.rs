//! The page as Prometheus reads it. Every test counts for models of its own: counts live as long as the process.

use std::collections::BTreeMap;
use std::thread;

use super::*;

/// Samples by their name with labels.
fn samples(exists: impl Fn(&str) -> bool) -> BTreeMap<String, f64> {
    let text = Page::begin(exists).text().unwrap();
    let mut families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let count = families.len();
    families.dedup();
    assert_eq!(families.len(), count, "each family is once on the page");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

#[test]
fn requests_are_counted_by_model_and_code_from_every_thread() {
    let count = || {
        for _ in 0..10 {
            gateway().answered("every-thread", 200, 0.3, Some(0.02), 7, 11);
        }
        gateway().answered("every-thread", 503, 0.001, None, 0, 0);
        gateway().answered("", 404, 0.001, None, 0, 0);
    };
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(count)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let samples = samples(|_| true);
    for (name, value) in [
        ("nebula_gateway_requests_total{code=\"200\",model=\"every-thread\"}", 40.0),
        ("nebula_gateway_requests_total{code=\"503\",model=\"every-thread\"}", 4.0),
        ("nebula_gateway_tokens_total{kind=\"prompt\",model=\"every-thread\"}", 280.0),
        ("nebula_gateway_tokens_total{kind=\"completion\",model=\"every-thread\"}", 440.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}");
    }
    assert!(samples["nebula_gateway_requests_total{code=\"404\",model=\"\"}"] >= 4.0);
    let [le_one, all] =
        ["nebula_gateway_request_seconds_bucket{le=\"1\"}", "nebula_gateway_request_seconds_count"]
            .map(|name| samples[name]);
    assert!(le_one >= 48.0 && all >= le_one, "{le_one} of {all}");
    assert!(samples["nebula_gateway_ttft_seconds_bucket{le=\"0.025\"}"] >= 40.0);
}

#[test]
fn series_of_deleted_models_go_and_one_of_the_same_name_begins_anew() {
    let requests = "nebula_gateway_requests_total{code=\"200\",model=\"deleted\"}";
    let tokens = "nebula_gateway_tokens_total{kind=\"prompt\",model=\"deleted\"}";
    gateway().answered("deleted", 200, 0.1, None, 5, 0);
    assert_eq!(samples(|_| true).get(requests), Some(&1.0));
    let after = samples(|model| model != "deleted");
    assert!(!after.contains_key(requests) && !after.contains_key(tokens));
    gateway().answered("deleted", 200, 0.1, None, 3, 0);
    let again = samples(|_| true);
    assert_eq!((again.get(requests), again.get(tokens)), (Some(&1.0), Some(&3.0)));
}

#[test]
fn the_page_holds_what_else_is_counted_and_what_is_put_on_it() {
    heartbeat();
    actor_kind("calm");
    actor_restarted("restless");
    committed(Duration::from_micros(700));
    gateway().retried();
    gateway().limited("tokens");
    let found = samples(|_| true);
    assert_eq!(found["nebula_heartbeats_total"], 1.0);
    assert_eq!(found["nebula_actor_restarts_total{kind=\"calm\"}"], 0.0);
    assert_eq!(found["nebula_actor_restarts_total{kind=\"restless\"}"], 1.0);
    assert_eq!(found["nebula_store_commit_seconds_bucket{le=\"0.0005\"}"], 0.0);
    assert_eq!(found["nebula_store_commit_seconds_bucket{le=\"0.001\"}"], 1.0);
    assert_eq!(found["nebula_gateway_retries_total"], 1.0);
    assert_eq!(found["nebula_gateway_limited_total{kind=\"tokens\"}"], 1.0);
    assert_eq!(found["nebula_gateway_limited_total{kind=\"budget\"}"], 0.0);
    assert!(found["process_resident_memory_bytes"] > 1e6 && found["process_open_fds"] >= 3.0);
    assert!(found["process_cpu_seconds_total"] >= 0.0 && found["process_threads"] >= 1.0);
    assert!(found["process_start_time_seconds"] > 1.7e9);

    let mut page = Page::default();
    page.gauges("nebula_x", "Help.", ["model"], [(["a\"b\n"], 1.0), (["c"], 2.5)]);
    page.gauges("nebula_none", "Help.", ["model"], Vec::<([&str; 1], f64)>::new());
    page.counter("nebula_y_total", "Help.", 3.0);
    assert_eq!(
        page.text().unwrap(),
        "# HELP nebula_x Help.\n# TYPE nebula_x gauge\nnebula_x{model=\"a\\\"b\\n\"} 1\nnebula_x{model=\"c\"} 2.5\n\
         # HELP nebula_y_total Help.\n# TYPE nebula_y_total counter\nnebula_y_total 3\n"
    );
}
