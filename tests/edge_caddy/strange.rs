//! What else may be behind an admin URL: nothing, somebody else, or a Caddy that is unwell. Each is told in one line,
//! in bounded time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::clock::Clock;
use nebula_core::exit::Exit;
use nebulad::domain::edge::{EdgeError, Trouble};
use nebulad::edge::caddy::{Caddy, CaddyOptions};
use nebulad::ports::Edge as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::process::RealCaddy;
use super::{DOMAIN, caddy, free_address, wanted};

/// How an answer goes on after its text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Close,
    Reset,
    /// Nothing more comes, and the connection stays.
    Hang,
    /// A blank every 100 ms.
    Drip,
    /// Chunks without end, as fast as they are taken.
    Flood,
}

/// Answers every request that begins with `method` in one way, all others as a Caddy without an HTTP app does.
async fn fake(method: &'static str, answer: String, then: Then) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let answer: Arc<str> = answer.into();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, method, Arc::clone(&answer), then));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, method: &str, answer: Arc<str>, then: Then) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    if !head.starts_with(method.as_bytes()) {
        stream.write_all(healthy().as_bytes()).await?;
        return stream.shutdown().await;
    }
    stream.write_all(answer.as_bytes()).await?;
    match then {
        Then::Close => stream.shutdown().await?,
        Then::Reset => stream.set_zero_linger()?,
        Then::Hang => {
            stream.read_to_end(&mut head).await?;
        }
        Then::Drip => loop {
            stream.write_all(b" ").await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        },
        Then::Flood => {
            let chunk = format!("100000\r\n{}\r\n", " ".repeat(0x10_0000));
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
    }
    Ok(())
}

fn healthy() -> String {
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTrailer: ETag\r\nTransfer-Encoding: chunked\r\n\
     Connection: close\r\n\r\n4\r\nnull\r\n0\r\nEtag: \"/config/apps/http/servers 0e7c22ea\"\r\n\r\n"
        .to_owned()
}

fn response(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn json_response(status: &str, body: &str) -> String {
    response(status, "application/json", body)
}

/// What a round comes to when `method` is answered so, and how long it took.
async fn trouble(method: &'static str, answer: String, then: Then) -> (EdgeError, Duration) {
    let admin = fake(method, answer, then).await;
    let edge = caddy(admin, ":8443", free_address());
    let clock = Clock::start();
    let error = edge.reconcile(wanted([("a", admin)])).await.expect_err("trouble");
    if method == "GET " {
        assert_eq!(edge.plan(wanted([])).await.expect_err("trouble").trouble, error.trouble);
        let probed = edge.probe().await.expect_err("trouble");
        assert_eq!(probed.trouble, error.trouble, "{probed:?}");
    }
    assert!(error.message.contains(&admin.to_string()), "{error}");
    assert!(!error.message.contains('\n') && error.message.len() < 600, "{error}");
    (error, clock.elapsed())
}

#[tokio::test]
async fn readings_that_fail_are_told_apart() {
    let html = "<html><body>It works!</body></html>";
    let error = |text: &str| json!({"error": text}).to_string();
    let cut = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{}".to_owned();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnull\r\n";
    for (answer, then, trouble_is, part) in [
        (
            response("200 OK", "text/html", html),
            Then::Close,
            Trouble::Unreachable,
            "answers, but not as caddy",
        ),
        (
            response("502 Bad Gateway", "text/html", html),
            Then::Close,
            Trouble::Unreachable,
            "502 with text/html",
        ),
        (json_response("200 OK", ""), Then::Close, Trouble::Unreachable, "200 with application/json"),
        (json_response("200 OK", "{\"a\":"), Then::Close, Trouble::Unreachable, "not as caddy"),
        (json_response("404 Not Found", "[\"x\"]"), Then::Close, Trouble::Unreachable, "404 with"),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Then::Close,
            Trouble::Unreachable,
            "302",
        ),
        (
            json_response("403 Forbidden", &error("host not allowed: x")),
            Then::Close,
            Trouble::Refused,
            "403 host not allowed: x",
        ),
        (
            json_response("500 Internal Server Error", &error("disk\non fire")),
            Then::Close,
            Trouble::Unreachable,
            "500 diskon fire",
        ),
        (String::new(), Then::Close, Trouble::Unreachable, "cannot be reached"),
        (String::new(), Then::Reset, Trouble::Unreachable, "cannot be reached"),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), Then::Close, Trouble::Unreachable, "cannot be reached"),
        (cut.clone(), Then::Close, Trouble::Unreachable, "cannot be reached"),
        (cut, Then::Reset, Trouble::Unreachable, "cannot be reached"),
        (chunked.to_owned(), Then::Close, Trouble::Unreachable, "cannot be reached"),
        (chunked.to_owned(), Then::Flood, Trouble::Unreachable, "more than 64 MiB"),
    ] {
        let (error, _) = trouble("GET ", answer.clone(), then).await;
        assert_eq!(error.trouble, trouble_is, "{answer}: {error:?}");
        assert!(error.message.contains(part), "{answer}: {}", error.message);
    }
}

#[tokio::test]
async fn readings_and_writings_that_never_end_are_given_up() {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n".to_owned();
    let [nothing, half, slow, write] = [
        ("GET ", String::new(), Then::Hang),
        ("GET ", head.clone(), Then::Hang),
        ("GET ", head.clone(), Then::Drip),
        ("PUT ", head, Then::Drip),
    ]
    .map(|(method, answer, then)| tokio::spawn(trouble(method, answer, then)));
    for reading in [nothing, half, slow] {
        let (error, took) = reading.await.expect("no panic");
        assert_eq!(error.trouble, Trouble::Unreachable, "{error:?}");
        assert!(error.message.contains("did not answer within 5 s"), "{error}");
        assert!(took < Duration::from_secs(20), "three calls of 5 s: {took:?}");
    }
    let (error, took) = write.await.expect("no panic");
    assert_eq!(error.trouble, Trouble::Busy, "it can be read: {error:?}");
    assert!(error.message.contains("was given a change and did not answer within 5 s"), "{error}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn writings_that_fail_are_told_apart() {
    let error = |text: &str| json!({"error": text}).to_string();
    for (answer, then, trouble_is, part) in [
        (json_response("500 No", &error("it failed")), Then::Close, Trouble::Busy, "500 it failed"),
        (
            json_response("400 No", &error("loading config: x")),
            Then::Close,
            Trouble::Refused,
            "loading config: x",
        ),
        (
            json_response("412 No", &error("If-Match header")),
            Then::Close,
            Trouble::Busy,
            "by somebody else 3 times",
        ),
        // It says that it was done, and it is not there.
        (json_response("200 OK", ""), Then::Close, Trouble::Busy, "by somebody else 3 times"),
        (response("200 OK", "text/html", "<html>"), Then::Close, Trouble::Busy, "by somebody else 3 times"),
        (response("405 No", "text/html", "<html>"), Then::Close, Trouble::Unreachable, "405 with text/html"),
        (String::new(), Then::Reset, Trouble::Unreachable, "cannot be reached"),
        (String::new(), Then::Close, Trouble::Unreachable, "cannot be reached"),
    ] {
        let (error, _) = trouble("PUT ", answer.clone(), then).await;
        assert_eq!(error.trouble, trouble_is, "{answer}: {error:?}");
        assert!(error.message.contains(part), "{answer}: {}", error.message);
    }
}

#[tokio::test]
async fn without_an_etag_nothing_is_written() {
    let (error, _) =
        trouble("GET /config/apps/http/servers", json_response("200 OK", "{}"), Then::Close).await;
    assert_eq!(error.trouble, Trouble::Refused);
    assert!(error.message.contains("no ETag") && error.hint.contains("2.6"), "{error:?}");

    let with = json_response("200 OK", "{}")
        .replace("Connection", "ETag: \"/config/apps/http/servers x\"\r\nConnection");
    let (error, _) = trouble("GET /config/apps/http/servers", with, Then::Close).await;
    assert_eq!(error.trouble, Trouble::Busy, "as a header it is as good, and the write was made: {error:?}");
}

#[tokio::test]
async fn a_caddy_that_does_not_know_us_refuses() {
    let origins = json!({"http": {}});
    let Some(real) = RealCaddy::start_behind(free_address(), origins).await else { return };
    let admin = format!("http://localhost:{}", real.admin.port());
    let options = CaddyOptions {
        admin_url: admin.clone(),
        listen: ":8443".to_owned(),
        domain: DOMAIN.to_owned(),
        gateway: free_address(),
    };
    let edge = Caddy::new(options).expect("good options");
    assert_eq!(edge.target(), admin);
    let error = edge.reconcile(wanted([])).await.expect_err("localhost is not among its origins");
    assert_eq!(error.trouble, Trouble::Refused);
    assert!(error.message.contains("host not allowed") && error.hint.contains("origins"), "{error:?}");
    assert_eq!(edge.probe().await.expect_err("the same").trouble, Trouble::Refused);
}

#[test]
fn options_that_cannot_work_are_refused() {
    for (admin_url, listen, part) in [
        ("localhost:2019", ":443", "--caddy-admin-url"),
        ("unix:///run/caddy.sock", ":443", "--caddy-admin-url"),
        ("", ":443", "--caddy-admin-url"),
        ("http://localhost:2019", "443", "--caddy-listen \"443\""),
        ("http://localhost:2019", ":x", "--caddy-listen \":x\""),
        ("http://localhost:2019", ":2019", "where Caddy's admin API is"),
        ("http://[::1]:2019", "localhost:2019", "where Caddy's admin API is"),
    ] {
        let options = CaddyOptions {
            admin_url: admin_url.to_owned(),
            listen: listen.to_owned(),
            domain: DOMAIN.to_owned(),
            gateway: free_address(),
        };
        let error = Caddy::new(options).expect_err(admin_url);
        assert_eq!(error.exit, Exit::Config);
        assert!(error.message.contains(part), "{}", error.message);
    }
    let options = CaddyOptions {
        admin_url: "http://user:secret@localhost:2019/".to_owned(),
        listen: "10.0.0.1:2019".to_owned(),
        domain: DOMAIN.to_owned(),
        gateway: free_address(),
    };
    assert_eq!(Caddy::new(options).expect("good options").target(), "http://localhost:2019");
}
