//! What is asked, what is counted, and how the program ends.

use crate::support::{ended, load, reported, server, sim};

#[actix_web::test]
async fn answers_are_counted_and_timed() {
    let sim = sim(|_| {});
    let (code, report, said) =
        reported(sim.address, "--requests 200 --connections 4 --prompt-bytes 2000").await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_eq!((&report["requests"], &report["failed"]), (&200.into(), &0.into()));
    assert!(report["requests_per_second"].as_f64() > Some(0.0));
    let times = &report["latency_ms"];
    assert!(times["p50"].as_f64() > Some(0.0) && times["p50"].as_f64() <= times["max"].as_f64(), "{times}");
    assert!(report["bytes_sent"].as_u64() > Some(200 * 2000));
    assert!(report["ttft_ms"].is_null());
}

#[actix_web::test]
async fn tokens_of_streams_are_counted_and_their_way_is_timed() {
    let sim = sim(|args| args.stamp = true);
    let (code, report, _) = reported(sim.address, "--stream --requests 50 --connections 3").await;
    assert_eq!((code, &report["requests"], &report["tokens"]), (Some(0), &50.into(), &(50 * 8).into()));
    // Also the role's event and the finish's.
    assert_eq!(report["events"], 50 * 10);
    assert!(report["ttft_ms"]["p50"].as_f64() > Some(0.0));
    let delay = report["token_delay_ms"]["p50"].as_f64().expect("events say when they were sent");
    assert!((0.0..1_000.0).contains(&delay), "{delay}");
}

#[actix_web::test]
async fn a_rate_is_kept_and_waiting_for_a_connection_counts() {
    let sim = sim(|args| args.ttft = std::time::Duration::from_millis(20));
    // One connection can answer 50 a second; 100 are due.
    let (code, report, _) = reported(sim.address, "--rate 100 --requests 40 --connections 1").await;
    assert_eq!((code, &report["requests"]), (Some(0), &40.into()));
    let (p50, max) = (report["latency_ms"]["p50"].as_f64(), report["latency_ms"]["max"].as_f64());
    assert!(p50 > Some(100.0) && max > Some(350.0), "later ones wait longer: {report}");
    let (_, report, _) = reported(sim.address, "--rate 50 --requests 25 --connections 8").await;
    let seconds = report["seconds"].as_f64();
    assert!(seconds > Some(0.45), "25 at 50 a second: {report}");
}

#[actix_web::test]
async fn the_table_is_for_people() {
    let sim = sim(|_| {});
    let (code, out, _) = ended(load(sim.address, "--requests 10 --connections 2 --stream")).await;
    assert_eq!(code, Some(0));
    for part in ["10 in ", "0 failed", "requests/s", "latency", "first token", "p99", "80 ("] {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
}

#[actix_web::test]
async fn failures_are_named_counted_and_end_it_with_1() {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n";
    let events = format!("{head}content-type: text/event-stream\r\n\r\n");
    let answers: Vec<(&str, String, &str)> = vec![
        ("closed", format!("{head}content-length: 9\r\n\r\n{{}}"), ""),
        ("closed", String::new(), ""),
        ("malformed", "hello\r\n\r\n".to_owned(), ""),
        ("body", format!("{head}content-length: 5\r\n\r\nhello"), ""),
        ("body", format!("{head}content-length: 2\r\n\r\n{{}}"), "--stream"),
        ("no_done", format!("{events}data: {{\"choices\":[]}}\n\n"), "--stream"),
        ("error_event", format!("{events}data: {{\"error\":{{}}}}\n\ndata: [DONE]\n\n"), "--stream"),
        ("status_429", "HTTP/1.1 429 Slow\r\ncontent-length: 2\r\n\r\n{}".to_owned(), ""),
    ];
    for (kind, answer, flags) in answers {
        let address = server(answer.leak()).await;
        let (code, report, said) = reported(address, &format!("--requests 2 --connections 1 {flags}")).await;
        assert_eq!((code, &report["failures"][kind]), (Some(1), &2.into()), "{kind}: {report}");
        assert!(
            said.starts_with(&format!("error: 2 of 2 requests failed, 2 of them with {kind}\n")),
            "{said}"
        );
        assert!(said.contains("hint: "), "{said}");
    }
}

#[actix_web::test]
async fn a_slow_answer_and_a_wrong_model_are_failures_too() {
    let sim = sim(|args| args.ttft = std::time::Duration::from_secs(20));
    let (code, report, _) = reported(sim.address, "--requests 1 --connections 1 --timeout 50ms").await;
    assert_eq!((code, &report["failures"]["timeout"]), (Some(1), &1.into()));
    let (code, report, said) = reported(sim.address, "--requests 1 --connections 1 --model nope").await;
    assert_eq!((code, &report["failures"]["status_404"]), (Some(1), &1.into()));
    assert!(said.contains("--model"), "{said}");
}

#[actix_web::test]
async fn a_server_that_closes_after_each_answer_is_no_failure() {
    let address = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let (code, report, _) = reported(address, "--requests 5 --connections 1").await;
    assert_eq!((code, &report["requests"], &report["reconnects"]), (Some(0), &5.into(), &4.into()));
}

#[actix_web::test]
async fn without_a_server_it_says_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let (code, report, said) = reported(nobody.expect("an address"), "--requests 3 --connections 1").await;
    assert_eq!((code, &report["failures"]["connect"]), (Some(69), &3.into()));
    assert!(said.starts_with("error: no connection could be made\n"), "{said}");
}
