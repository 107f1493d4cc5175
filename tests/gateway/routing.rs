//! Which replica gets a request, while replicas come, go and die, and what happens when there is none yet.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nebula_core::clock::Clock;
use nebulad::actors::route::machine::{Machine, Outcome as Seen, SetGate};
use nebulad::domain::route::{Balance, Endpoint, Route};
use nebulad::http::openai::{AllowOrigins, Outcome, OutcomeKind, Outcomes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::front::{Front, Upstream, endpoint, public, request};
use crate::net::{Caller, DEADLINE};

const CHAT: &str = "/v1/chat/completions";
const CONNECTIONS: usize = 32;
const WHOLE: &str = r#"{"choices":[],"the":"end"}"#;
const EVENTS: [&str; 3] = [
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
];

/// How many requests each long test sends, for each policy.
fn requests() -> usize {
    if std::env::var("NEBULA_FULL").is_ok_and(|full| full == "1") { 10_000 } else { 1_000 }
}

/// What a replica does with a connection that has nothing to do.
#[derive(Clone, Copy, Debug)]
enum Idle {
    /// Keeps it.
    Keeps,
    /// Closes it at once, without having said so.
    Closes,
    /// Closes it after a while, as engines do.
    ClosesAfter(Duration),
}

/// A replica that ends in order, as an engine does that is told to stop, or without a word.
struct Replica {
    endpoint: Arc<Endpoint>,
    served: Rc<Cell<usize>>,
    end: watch::Sender<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not yet.
    Not,
    /// Takes nothing new, and answers what it has.
    Drains,
    /// Resets everything.
    Dies,
}

impl Replica {
    async fn start(idle: Idle) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = watch::channel(End::Not);
        let served = Rc::new(Cell::new(0));
        let count = Rc::clone(&served);
        actix_rt::spawn(async move {
            let mut over = ended.clone();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = over.changed() => return,
                };
                let Ok((stream, _)) = accepted else { return };
                actix_rt::spawn(serve(stream, idle, Rc::clone(&count), ended.clone()));
            }
        });
        Self { endpoint: endpoint(&address), served, end }
    }

    /// Waits until nothing is on its way to it, and ends it.
    async fn drain(&self) {
        let drained = async {
            while self.endpoint.inflight() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, drained).await.expect("in time");
        self.end.send_replace(End::Drains);
    }
}

/// Answers the requests of one connection.
async fn serve(mut stream: TcpStream, idle: Idle, served: Rc<Cell<usize>>, mut end: watch::Receiver<End>) {
    stream.set_nodelay(true).expect("a socket");
    let (mut read, mut is_new) = (Vec::new(), true);
    loop {
        let patience = match idle {
            Idle::ClosesAfter(after) if !is_new => after,
            _ => DEADLINE,
        };
        tokio::select! {
            whole = tokio::time::timeout(patience, whole_request(&mut stream, &mut read)) => {
                if !whole.unwrap_or(false) { return }
            }
            _ = end.wait_for(|end| *end != End::Not) => return,
        }
        // A request takes a moment, so that some are always under way.
        tokio::task::yield_now().await;
        if *end.borrow() == End::Dies {
            stream.set_zero_linger().expect("a socket");
            return;
        }
        served.set(served.get() + 1);
        let streams = read.windows(15).any(|part| part == b"\"stream\":  true");
        read.clear();
        is_new = false;
        if answer(&mut stream, streams).await.is_err() || matches!(idle, Idle::Closes) {
            return;
        }
    }
}

async fn answer(stream: &mut TcpStream, streams: bool) -> std::io::Result<()> {
    if !streams {
        let length = WHOLE.len();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        return stream.write_all(format!("{head}{WHOLE}").as_bytes()).await;
    }
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await?;
    for event in EVENTS {
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
        tokio::task::yield_now().await;
    }
    stream.write_all(b"0\r\n\r\n").await
}

/// Reads until `read` holds one request; false when the connection ended first.
async fn whole_request(stream: &mut TcpStream, read: &mut Vec<u8>) -> bool {
    loop {
        let text = String::from_utf8_lossy(read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return true;
            }
        }
        match stream.read_buf(read).await {
            Ok(count) if count > 0 => {}
            _ => return false,
        }
    }
}

fn kept(body: &str) -> String {
    request("POST", CHAT, None, body).replace("connection: close\r\n", "")
}

fn ask_for(model: &str, more: &str) -> String {
    kept(&format!(r#"{{"model":"{model}"{more}}}"#))
}

fn route_over(balance: Balance, replicas: &[Replica]) -> Route {
    let endpoints = replicas.iter().map(|replica| Arc::clone(&replica.endpoint)).collect();
    Route { balance, endpoints, ..public("m", &[]) }
}

/// Clients with one connection each that send `total` requests, and what they got that is not what they should get.
struct Load {
    address: SocketAddr,
    left: Cell<usize>,
    failures: RefCell<Vec<String>>,
}

impl Load {
    async fn start(
        address: SocketAddr,
        total: usize,
        streams: bool,
    ) -> (Rc<Self>, Vec<actix_rt::task::JoinHandle<()>>) {
        let load = Rc::new(Self { address, left: Cell::new(total), failures: RefCell::default() });
        let clients = (0..CONNECTIONS).map(|_| actix_rt::spawn(Rc::clone(&load).client(streams))).collect();
        (load, clients)
    }

    async fn client(self: Rc<Self>, streams: bool) {
        let mut caller = Caller::connect(self.address).await;
        while let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            let stream = streams && left.is_multiple_of(4);
            let more = if stream { r#","stream":  true"# } else { "" };
            caller.send(&ask_for("m", more)).await;
            let answer = caller.answer().await;
            let whole = if stream { EVENTS.concat() } else { WHOLE.to_owned() };
            if !answer.starts_with("HTTP/1.1 200 OK\r\n") || !dechunked(&answer).ends_with(&whole) {
                self.failures.borrow_mut().push(answer);
            }
        }
    }
}

/// The answer without its chunks' heads and ends.
fn dechunked(answer: &str) -> String {
    let is_size = |line: &&str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lines = answer.split("\r\n").filter(|line| !is_size(line) && !line.is_empty());
    lines.collect()
}

/// Replicas are replaced one after another while requests come.
async fn roll(balance: Balance) {
    const CHANGES: usize = 20;
    let manners = [Idle::Keeps, Idle::Closes, Idle::ClosesAfter(Duration::from_millis(5))];
    let mut replicas = Vec::new();
    for idle in manners {
        replicas.push(Replica::start(idle).await);
    }
    let front = Front::before(vec![route_over(balance, &replicas)]).await;
    let total = requests();
    let (load, clients) = Load::start(front.address, total, true).await;
    let mut gone = Vec::new();
    for change in 1..=CHANGES {
        let due = total - total * change / (CHANGES + 1);
        while load.left.get() > due {
            tokio::task::yield_now().await;
        }
        replicas.push(Replica::start(manners[change % manners.len()]).await);
        front.publish(vec![route_over(balance, &replicas)]);
        let old = replicas.remove(0);
        front.publish(vec![route_over(balance, &replicas)]);
        old.drain().await;
        gone.push(old);
    }
    for client in clients {
        tokio::time::timeout(DEADLINE * 6, client).await.expect("in time").expect("a client");
    }
    let failures = load.failures.take();
    assert!(failures.is_empty(), "{balance}: {} failures, the first: {}", failures.len(), failures[0]);
    let served: Vec<usize> = gone.iter().chain(&replicas).map(|replica| replica.served.get()).collect();
    assert!(served.iter().sum::<usize>() >= total, "{served:?}");
    assert!(
        served.iter().filter(|count| **count > 0).count() > CHANGES / 2,
        "all had their part: {served:?}"
    );
    front.idle().await;
    front.stop().await;
}

#[actix_rt::test]
async fn a_rolling_change_is_no_error_of_any_request() {
    for balance in Balance::ALL {
        roll(balance).await;
    }
}

/// What the route's actor does with the gateway's observations, at once.
fn breaker(endpoints: Vec<Arc<Endpoint>>) -> Outcomes {
    let mut machine = Machine::default();
    machine.replicas(&endpoints.iter().map(|endpoint| endpoint.replica_id).collect::<Vec<_>>());
    let (machine, clock) = (Mutex::new(machine), Clock::start());
    Outcomes::to(move |outcome: Outcome| {
        let seen = match outcome.kind {
            OutcomeKind::Ok => Seen::Answered,
            OutcomeKind::Saturated => Seen::Saturated,
            OutcomeKind::ConnectFailed | OutcomeKind::Timeout | OutcomeKind::ServerError => Seen::Failed,
        };
        let mut machine = machine.lock().expect("unpoisoned");
        if let Some(SetGate(replica, state)) = machine.outcome(outcome.replica, seen, clock.now()) {
            endpoints
                .iter()
                .filter(|endpoint| endpoint.replica_id == replica)
                .for_each(|e| e.gate.set(state));
        }
    })
}

#[actix_rt::test]
async fn a_replica_that_dies_without_a_word_is_no_error_of_any_request() {
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Replica::start(Idle::Keeps).await);
    }
    let endpoints: Vec<_> = replicas.iter().map(|replica| Arc::clone(&replica.endpoint)).collect();
    let route = route_over(Balance::LeastOutstanding, &replicas);
    let outcomes = breaker(endpoints);
    let origins = AllowOrigins::new(["*".to_owned()]);
    let front = Front::tuned(vec![route], origins, |gateway| gateway.outcomes = outcomes).await;
    let total = requests();
    let (load, clients) = Load::start(front.address, total, false).await;
    while load.left.get() > total / 2 {
        tokio::task::yield_now().await;
    }
    replicas[1].end.send_replace(End::Dies);
    for client in clients {
        tokio::time::timeout(DEADLINE * 6, client).await.expect("in time").expect("a client");
    }
    let failures = load.failures.take();
    assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    assert!(replicas[1].served.get() > total / 10 && replicas[1].served.get() < total / 2 + CONNECTIONS);
    front.stop().await;
}

#[actix_rt::test]
async fn turns_go_round_and_a_prefix_stays_with_its_replica() {
    let mut upstreams = Vec::new();
    for _ in 0..3 {
        upstreams.push(Upstream::answering("{}").await);
    }
    let addresses: Vec<SocketAddr> = upstreams.iter().map(|upstream| upstream.address).collect();
    let of = |name, balance| Route { balance, ..public(name, &addresses) };
    let front = Front::before(vec![of("turns", Balance::RoundRobin), of("prefix", Balance::Prefix)]).await;
    let counts = || upstreams.iter().map(Upstream::count).collect::<Vec<_>>();
    for _ in 0..9 {
        front.ask(&request("POST", CHAT, None, r#"{"model":"turns"}"#)).await;
    }
    assert_eq!(counts(), [3, 3, 3]);
    let mut homes = Vec::new();
    for talk in 0..16 {
        let before = counts();
        for turn in 0..4 {
            let later = format!(r#"{{"role":"assistant","content":"{turn}"}}"#);
            let first = format!(r#"{{"role":"user","content":"talk {talk}"}}"#);
            let body = format!(r#"{{"model":"prefix","n":{turn},"messages":[{first},{later}]}}"#);
            front.ask(&request("POST", CHAT, None, &body)).await;
        }
        let came: Vec<usize> = counts().iter().zip(&before).map(|(after, before)| after - before).collect();
        let home = came.iter().position(|count| *count == 4);
        homes.push(home.unwrap_or_else(|| panic!("talk {talk} went to more than one: {came:?}")));
    }
    assert!((0..3).all(|replica| homes.contains(&replica)), "every replica has its share: {homes:?}");
    front.stop().await;
}

/// A deployment without a replica, at a gateway that holds requests for one.
async fn coming() -> (Front, impl Fn(bool, Option<SocketAddr>) -> Route) {
    let first = Route { coming: true, ..public("m", &[]) };
    let id = first.deployment_id;
    let front = Front::tuned(vec![first], AllowOrigins::new(["*".to_owned()]), |gateway| {
        gateway.limits.hold = DEADLINE;
        gateway.limits.keepalive = Duration::from_millis(20);
    })
    .await;
    let next = move |coming, upstream: Option<SocketAddr>| Route {
        deployment_id: id,
        coming,
        ..public("m", upstream.as_slice())
    };
    (front, next)
}

const COMMENT: &str = ": waiting for the model\n\n\r\n";

/// One request of each kind that waits; the stream has said so.
async fn two_that_wait(front: &Front) -> (Caller, Caller) {
    let mut whole = Caller::connect(front.address).await;
    whole.send(&request("POST", CHAT, None, r#"{"model":"m"}"#)).await;
    let mut stream = Caller::connect(front.address).await;
    stream.send(&request("POST", CHAT, None, r#"{"model":"m","stream":  true}"#)).await;
    let head = stream.until(COMMENT).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/event-stream"), "{head}");
    stream.until(COMMENT).await;
    (whole, stream)
}

#[actix_rt::test]
async fn requests_for_a_deployment_that_starts_are_held_until_it_answers() {
    let (front, next) = coming().await;
    let (mut whole, mut stream) = two_that_wait(&front).await;
    let replica = Replica::start(Idle::Keeps).await;
    let address = replica.endpoint.address.to_string().parse().expect("an address");
    front.publish(vec![next(false, Some(address))]);
    let answer = whole.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(WHOLE), "{answer}");
    let events = dechunked(&stream.rest().await);
    assert!(events.ends_with(&EVENTS.concat()), "{events}");
    assert_eq!(replica.served.get(), 2);
    front.stop().await;
}

#[actix_rt::test]
async fn held_requests_are_refused_as_soon_as_nothing_will_come() {
    let (front, next) = coming().await;
    let (mut whole, mut stream) = two_that_wait(&front).await;
    front.publish(vec![next(false, None)]);
    let answer = whole.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("model_not_ready"), "{answer}");
    let events = dechunked(&stream.rest().await);
    assert!(events.contains("data: {\"error\":{") && events.contains("model_not_ready"), "{events}");
    front.stop().await;
}
