//! The gateway behind a server of its own, upstreams that note what they get, and requests as text.
#![allow(unreachable_pub, reason = "a module of a test")]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer};
use arc_swap::ArcSwap;
use nebula_core::clock::{Clock, WallTime};
use nebula_core::ids::{DeploymentId, Generation, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::telemetry::LogFormat;
use nebula_core::telemetry::access::AccessLog;
use nebula_core::token::{Secret, TokenHash};
use nebulad::domain::key::KeyTable;
use nebulad::domain::route::{Access, AliasRoute, Balance, Endpoint, Route, RouteTable};
use nebulad::domain::usage::Tallies;
use nebulad::http::openai::{
    AllowOrigins, Gateway, Limits, Outcome, OutcomeKind, Outcomes, Wakes, configure,
};

use tokio::sync::watch;

use crate::net::{Caller, DEADLINE, Script};

pub const ADMIN: &str = "nbadm_1";
pub const MAX_BODY: usize = 1024 * 1024;

/// The gateway on a port.
pub struct Front {
    pub address: SocketAddr,
    /// The deployments, in the order in which they were given.
    pub routes: Vec<DeploymentId>,
    table: Arc<ArcSwap<RouteTable>>,
    pub keys: Arc<ArcSwap<KeyTable>>,
    pub usage: Arc<Tallies>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    published: watch::Sender<u64>,
    handle: ServerHandle,
}

impl Front {
    pub async fn before(routes: Vec<Route>) -> Self {
        Self::with(routes, AllowOrigins::new(["*".to_owned()])).await
    }

    pub async fn with(routes: Vec<Route>, origins: AllowOrigins) -> Self {
        Self::tuned(routes, origins, |_| {}).await
    }

    /// A gateway that `tune` has changed.
    pub async fn tuned(routes: Vec<Route>, origins: AllowOrigins, tune: impl FnOnce(&mut Gateway)) -> Self {
        let ids = routes.iter().map(|route| route.deployment_id).collect();
        let table = Arc::new(ArcSwap::from_pointee(RouteTable::new(routes)));
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&outcomes);
        let (published, changed) = watch::channel(0);
        let (keys, usage) = (Arc::<ArcSwap<KeyTable>>::default(), Arc::<Tallies>::default());
        let mut gateway = Gateway {
            prefix: "/v1".to_owned(),
            routes: Arc::clone(&table),
            routes_changed: changed,
            keys: Arc::clone(&keys),
            usage: Arc::clone(&usage),
            access: (AccessLog::off(), LogFormat::Text),
            clock: Clock::start(),
            admin: TokenHash::of(ADMIN),
            limits: Limits {
                max_body_bytes: MAX_BODY,
                upstream_timeout: Duration::from_millis(800),
                upstream_idle_timeout: Duration::from_millis(400),
                hold: Duration::ZERO,
                keepalive: Duration::ZERO,
            },
            origins,
            outcomes: Outcomes::to(move |outcome| noted.lock().expect("unpoisoned").push(outcome)),
            wakes: Wakes::to(|_| {}, |_| None),
        };
        tune(&mut gateway);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server =
            HttpServer::new(move || App::new().configure(|config| configure(config, gateway.clone())))
                .workers(1)
                .h1_allow_half_closed(false)
                .client_disconnect_timeout(Duration::from_secs(1))
                .disable_signals()
                .listen(listener)
                .expect("a server")
                .run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Self { address, routes: ids, table, keys, usage, outcomes, handle, published }
    }

    /// Sends a request on a connection of its own and reads the answer to the end.
    pub async fn ask(&self, request: &str) -> Answer {
        let mut caller = Caller::connect(self.address).await;
        caller.send(request).await;
        Answer::parse(&caller.rest().await)
    }

    /// Replaces the routes.
    pub fn publish(&self, routes: Vec<Route>) {
        self.publish_all(routes, Vec::new());
    }

    /// Replaces the routes and the aliases.
    pub fn publish_all(&self, routes: Vec<Route>, aliases: Vec<AliasRoute>) {
        self.publisher()(routes, aliases);
    }

    /// Replaces both, from elsewhere.
    pub fn publisher(&self) -> impl Fn(Vec<Route>, Vec<AliasRoute>) + Clone + 'static {
        let (table, published) = (Arc::clone(&self.table), self.published.clone());
        move |routes, aliases| {
            let aliases = aliases.into_iter().map(|alias| (alias.name.clone(), Arc::new(alias))).collect();
            table.store(Arc::new(RouteTable::new(routes).with_aliases(Arc::new(aliases))));
            published.send_modify(|count| *count += 1);
        }
    }

    pub fn outcomes(&self) -> Vec<OutcomeKind> {
        self.outcomes.lock().expect("unpoisoned").iter().map(|outcome| outcome.kind).collect()
    }

    pub fn inflight(&self) -> u32 {
        let table = self.table.load();
        table.iter().flat_map(|route| &route.endpoints).map(|endpoint| endpoint.inflight()).sum()
    }

    /// Waits until nothing is in flight.
    pub async fn idle(&self) {
        let idle = async {
            while self.inflight() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, idle).await.expect("in time");
    }

    pub async fn stop(self) {
        self.handle.stop(false).await;
    }
}

/// A response.
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().expect("a status").split(' ').nth(1).expect("a status");
        let headers =
            lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned()));
        Self { status: status.parse().expect("a number"), headers: headers.collect(), body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    pub fn error(&self) -> serde_json::Value {
        self.json()["error"].clone()
    }
}

/// An upstream that gives every request the same answer.
pub struct Upstream {
    pub address: SocketAddr,
    requests: Rc<RefCell<Vec<(String, String)>>>,
}

impl Upstream {
    pub async fn answering(body: &str) -> Self {
        Self::with("HTTP/1.1 200 OK\r\ncontent-type: application/json", body).await
    }

    /// `head` without the length; an empty one closes the connection instead.
    pub async fn with(head: &str, body: &str) -> Self {
        let requests = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&requests);
        let close = head.is_empty();
        let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let script = Script::start(move |mut peer| {
            let (noted, answer) = (Rc::clone(&noted), answer.clone());
            async move {
                while let Some((head, body)) = peer.request().await {
                    noted.borrow_mut().push((head, String::from_utf8(body).expect("a text")));
                    if close {
                        return;
                    }
                    peer.send(&answer).await;
                }
            }
        })
        .await;
        Self { address: script.address, requests }
    }

    pub fn last(&self) -> (String, String) {
        self.requests.borrow().last().expect("a request").clone()
    }

    pub fn count(&self) -> usize {
        self.requests.borrow().len()
    }
}

/// A port on which nobody listens.
pub fn unused_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

pub fn public(name: &str, upstreams: &[SocketAddr]) -> Route {
    route(name, Access::Public, upstreams)
}

pub fn private(name: &str, token: &str, upstreams: &[SocketAddr]) -> Route {
    route(name, Access::Token(vec![TokenHash::of(token)]), upstreams)
}

pub fn endpoint(address: &SocketAddr) -> Arc<Endpoint> {
    let node = "node-1".parse().expect("a node id");
    let address = address.to_string().parse().expect("an address");
    Arc::new(Endpoint::new(ReplicaId::random(), Generation::FIRST, node, address))
}

fn route(name: &str, access: Access, upstreams: &[SocketAddr]) -> Route {
    Route {
        deployment_id: DeploymentId::random(),
        name: name.to_owned(),
        served_name: name.to_owned(),
        runtime: RuntimeKind::Sim,
        access,
        gateway_token: Secret::from_text("nbgw_secret"),
        created_at: WallTime(1_700_000_000_123),
        balance: Balance::default(),
        coming: false,
        wakes: false,
        demand: Arc::default(),
        endpoints: upstreams.iter().map(endpoint).collect(),
    }
}

/// A request as text; the connection closes after the answer.
pub fn request(method: &str, path: &str, token: Option<&str>, body: &str) -> String {
    let credential = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: t\r\n{credential}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
