//! What passes through the real Caddy once its routes are there: by name to the right upstream, streams piece by piece
//! and over changes of the configuration, hang-ups, large bodies, and the headers that tell where a request came from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nebula_core::clock::Clock;
use nebulad::edge::caddy::Caddy;
use nebulad::ports::Edge as _;
use reqwest::header::HOST;
use serde_json::{Value, json};

use super::process::RealCaddy;
use super::upstream::Upstream;
use super::{DOMAIN, caddy, free_address, soon, wanted};

/// How soon an upstream sees that the client hung up.
const HANG_UP_MAX: Duration = Duration::from_secs(1);

/// A Caddy with two nodes and a gateway, and a client.
struct World {
    _real: RealCaddy,
    edge: Caddy,
    listen: SocketAddr,
    gateway: Upstream,
    one: Upstream,
    two: Upstream,
    http: reqwest::Client,
}

impl World {
    async fn start() -> Option<Self> {
        let real = RealCaddy::start(json!({})).await?;
        let upstream = async |name| Upstream::start(name, "127.0.0.1:0").await.expect("loopback");
        let (gateway, one, two) = (upstream("gateway").await, upstream("one").await, upstream("two").await);
        let listen = free_address();
        let edge = caddy(real.admin, &listen.to_string(), gateway.address);
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let world = Self { _real: real, edge, listen, gateway, one, two, http };
        world.reach([("one", world.one.address), ("two", world.two.address)]).await;
        Some(world)
    }

    async fn reach<'a>(&self, nodes: impl IntoIterator<Item = (&'a str, SocketAddr)>) {
        let round = self.edge.reconcile(wanted(nodes)).await.expect("a good round");
        assert!(round.left.is_empty() && round.changed > 0, "{round:?}");
    }

    fn request(&self, method: &str, path: &str, host: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.http.request(method, format!("http://{}{path}", self.listen)).header(HOST, host)
    }

    async fn get(&self, host: &str) -> (u16, Value) {
        self.get_path("/hello", host).await
    }

    async fn get_path(&self, path: &str, host: &str) -> (u16, Value) {
        let answer = soon("an answer", self.request("GET", path, host).send()).await.expect("an answer");
        assert!(!answer.headers().contains_key("location"), "no redirect");
        let status = answer.status().as_u16();
        (status, answer.json().await.expect("JSON"))
    }

    /// A stream through Caddy, of which the first event has come.
    async fn stream(&self) -> (super::upstream::Streamed, EventStream) {
        let request = self.request("GET", "/stream", &format!("one.{DOMAIN}"));
        let (answer, stream) =
            soon("a stream", async { tokio::join!(request.send(), self.one.stream()) }).await;
        let mut events = answer.expect("an answer").bytes_stream().boxed();
        step(&stream, &mut events, "data: first\n\n").await;
        (stream, events)
    }
}

type EventStream = futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>;

/// Sends an event and sees it come before the next one is sent.
async fn step(stream: &super::upstream::Streamed, events: &mut EventStream, event: &str) {
    stream.events.send(event.to_owned()).await.expect("the upstream goes on");
    let come = soon("an event", events.next()).await.expect("the stream goes on").expect("no error");
    assert_eq!(come, event.as_bytes());
}

#[tokio::test]
async fn names_lead_to_their_upstreams() {
    let Some(world) = World::start().await else { return };
    for (host, name) in [
        (format!("one.{DOMAIN}"), "one"),
        (format!("TWO.{DOMAIN}"), "two"),
        (format!("two.{DOMAIN}:{}", world.listen.port()), "two"),
        (DOMAIN.to_owned(), "gateway"),
    ] {
        let (status, answer) = world.get(&host).await;
        assert_eq!((status, &answer["name"]), (200, &json!(name)), "{host}: {answer}");
        let head = answer["head"].as_str().expect("a head").to_ascii_lowercase();
        assert!(head.contains(&format!("\r\nhost: {}\r\n", host.to_ascii_lowercase())), "{head}");
        assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
        assert!(head.contains("\r\nx-forwarded-proto: http\r\n"), "{head}");
        assert!(head.contains("\r\nx-forwarded-host: "), "{head}");
    }
    for host in [format!("none.{DOMAIN}"), "other.test".to_owned(), world.listen.to_string()] {
        let (status, answer) = world.get(&host).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("unknown_host")), "{host}: {answer}");
        assert_eq!(answer["error"]["message"], "there is nothing at this name");
    }
    for path in
        ["/metrics", "/metrics/", "/metrics/x", "/METRICS", "/%6detrics", "//metrics", "/a/../metrics"]
    {
        let (status, answer) = world.get_path(path, DOMAIN).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("unknown_host")), "{path}: {answer}");
    }
    for path in ["/metricsx", "/v1/metrics", "/api/v1/nodes?x=/metrics"] {
        assert_eq!(world.get_path(path, DOMAIN).await.1["name"], "gateway", "{path}");
    }
    assert_eq!(
        world.get_path("/metrics", &format!("one.{DOMAIN}")).await.1["name"],
        "one",
        "a node's own affair"
    );
    world.reach([("two", world.two.address)]).await;
    assert_eq!(world.get(&format!("one.{DOMAIN}")).await.0, 404, "it is gone");
    world.reach([("one", world.two.address), ("two", world.two.address)]).await;
    assert_eq!(world.get(&format!("one.{DOMAIN}")).await.1["name"], "two", "it moved");
    assert_ne!(world.gateway.address, world.one.address);
}

#[tokio::test]
async fn upstreams_may_have_ipv6_addresses() {
    let Some(upstream) = Upstream::start("six", "[::1]:0").await else {
        println!("skipped: this machine has no IPv6");
        return;
    };
    let Some(world) = World::start().await else { return };
    world.reach([("six", upstream.address)]).await;
    assert_eq!(world.get(&format!("six.{DOMAIN}")).await.1["name"], "six");
}

#[tokio::test]
async fn streams_come_piece_by_piece_and_outlive_changes() {
    let Some(world) = World::start().await else { return };
    let (stream, mut events) = world.stream().await;
    for round in 0..5 {
        let event = format!("data: {round}\n\n");
        step(&stream, &mut events, &event).await;
        // Other nodes come, the other one goes, and in the end the very node that streams.
        match round {
            0 => world.reach([("one", world.one.address)]).await,
            4 => world.reach([]).await,
            _ => {
                world
                    .reach([("one", world.one.address), (["b", "c", "d"][round - 1], world.two.address)])
                    .await
            }
        }
        step(&stream, &mut events, "data: still there\n\n").await;
    }
    drop(stream.events);
    assert!(soon("the end", events.next()).await.is_none(), "a whole end");
}

#[tokio::test]
async fn a_clients_hang_up_reaches_the_upstream() {
    let Some(world) = World::start().await else { return };
    for changed_meanwhile in [false, true] {
        let (mut stream, events) = world.stream().await;
        if changed_meanwhile {
            world.reach([("one", world.one.address)]).await;
        }
        let clock = Clock::start();
        drop(events);
        let closed = tokio::time::timeout(HANG_UP_MAX, stream.closed.recv()).await;
        assert_eq!(closed, Ok(None), "it took longer than {HANG_UP_MAX:?}");
        println!("figures: the upstream saw the hang-up after {:?}", clock.elapsed());
    }
}

#[tokio::test]
async fn large_bodies_pass() {
    let Some(world) = World::start().await else { return };
    let body = Arc::new(vec![b'x'; 10_000_000]);
    for host in [format!("one.{DOMAIN}"), DOMAIN.to_owned()] {
        let request = world.request("POST", "/upload", &host).body(body.to_vec());
        let answer: Value =
            soon("an answer", request.send()).await.expect("an answer").json().await.expect("JSON");
        assert_eq!(answer["bytes"], 10_000_000);
    }
}
