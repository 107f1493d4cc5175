//! Deployments that sleep until somebody asks, and replicas that go while they are asked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nebula_core::ids::DeploymentId;
use nebulad::domain::route::{Load, Route};
use nebulad::http::openai::{AllowOrigins, Wakes};
use tokio::sync::mpsc;

use crate::CHAT;
use crate::front::{Front, Upstream, public, request, unused_address};
use crate::net::{CANCELLED, Caller, DEADLINE, Script};

const ASK: &str = r#"{"model":"m"}"#;
const STREAM: &str = r#"{"model":"m","stream":true}"#;
const GOING: &str = "HTTP/1.1 503 X\r\nx-nebula-proxy-error: model_not_ready\r\ncontent-length: 2\r\n\r\n{}";

/// A deployment that sleeps: who wakes it is heard, and how far it has got is told.
struct Sleeper {
    front: Front,
    route: Route,
    woken: mpsc::UnboundedReceiver<DeploymentId>,
    progress: Arc<Mutex<Option<String>>>,
}

impl Sleeper {
    async fn start() -> Self {
        let route = Route { wakes: true, ..public("m", &[]) };
        let (wake, woken) = mpsc::unbounded_channel();
        let progress = Arc::<Mutex<Option<String>>>::default();
        let told = Arc::clone(&progress);
        let wake = move |id| {
            let _ = wake.send(id);
        };
        let wakes = Wakes::to(wake, move |_| told.lock().expect("unpoisoned").clone());
        let front = Front::tuned(vec![again(&route)], AllowOrigins::new([]), |gateway| {
            gateway.wakes = wakes;
            gateway.limits.keepalive = Duration::from_millis(20);
            gateway.limits.upstream_timeout = DEADLINE;
        })
        .await;
        Self { front, route, woken, progress }
    }

    async fn is_woken(&mut self) {
        let woken = tokio::time::timeout(DEADLINE, self.woken.recv()).await.expect("in time");
        assert_eq!(woken, Some(self.route.deployment_id));
    }

    /// It starts.
    fn starts(&self) {
        self.front.publish(vec![Route { coming: true, ..again(&self.route) }]);
    }

    fn serves(&self, up: &Upstream) {
        let endpoints = public("m", &[up.address]).endpoints;
        self.front.publish(vec![Route { wakes: false, endpoints, ..again(&self.route) }]);
    }

    /// Waits until so many requests are counted as waiting.
    async fn waiting(&self, count: u32, within: Duration) {
        let reached = async {
            while Load::of(&self.route).waiting != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(within, reached).await.expect("in time");
    }
}

/// The route in another table: the same but for what is set.
fn again(route: &Route) -> Route {
    Route {
        deployment_id: route.deployment_id,
        coming: route.coming,
        wakes: route.wakes,
        demand: Arc::clone(&route.demand),
        endpoints: route.endpoints.clone(),
        ..public(&route.name, &[])
    }
}

#[actix_rt::test]
async fn a_request_wakes_a_deployment_and_is_answered_when_it_serves() {
    let mut sleeper = Sleeper::start().await;
    let mut whole = Caller::connect(sleeper.front.address).await;
    whole.send(&request("POST", CHAT, None, ASK)).await;
    sleeper.is_woken().await;
    let mut stream = Caller::connect(sleeper.front.address).await;
    stream.send(&request("POST", CHAT, None, STREAM)).await;
    stream.until(": waiting for the model\n\n\r\n").await;
    sleeper.waiting(2, DEADLINE).await;
    sleeper.is_woken().await;
    sleeper.starts();
    *sleeper.progress.lock().expect("unpoisoned") = Some("pulling 3 of 8 GiB".to_owned());
    stream.until(": waiting for the model: pulling 3 of 8 GiB\n\n\r\n").await;
    let up = Upstream::answering(r#"{"the":"end"}"#).await;
    sleeper.serves(&up);
    let answer = whole.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(r#"{"the":"end"}"#), "{answer}");
    let events = stream.rest().await;
    assert!(events.contains("data: {\"the\":\"end\"}\n\n"), "{events}");
    sleeper.waiting(0, DEADLINE).await;
    assert_eq!(up.count(), 2);
    sleeper.front.stop().await;
}

#[actix_rt::test]
async fn who_leaves_while_waiting_is_not_counted_any_more_and_not_answered() {
    let mut sleeper = Sleeper::start().await;
    let mut callers = Vec::new();
    for body in [ASK, STREAM, ASK, STREAM] {
        let mut caller = Caller::connect(sleeper.front.address).await;
        caller.send(&request("POST", CHAT, None, body)).await;
        callers.push(caller);
    }
    sleeper.waiting(4, DEADLINE).await;
    sleeper.is_woken().await;
    for left in (0..4).rev() {
        drop(callers.pop());
        sleeper.waiting(left, CANCELLED).await;
    }
    let up = Upstream::answering("{}").await;
    sleeper.serves(&up);
    assert_eq!(sleeper.front.ask(&request("POST", CHAT, None, ASK)).await.status, 200);
    assert_eq!(up.count(), 1, "nobody else is there");
    sleeper.front.stop().await;
}

#[actix_rt::test]
async fn a_start_that_fails_is_told_at_once() {
    let mut sleeper = Sleeper::start().await;
    let mut caller = Caller::connect(sleeper.front.address).await;
    caller.send(&request("POST", CHAT, None, ASK)).await;
    sleeper.is_woken().await;
    sleeper.front.publish(vec![Route { wakes: false, ..again(&sleeper.route) }]);
    let answer = caller.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("model_not_ready"), "{answer}");
    sleeper.front.stop().await;
}

#[actix_rt::test]
async fn a_model_that_sleeps_is_listed() {
    let sleeper = Sleeper::start().await;
    let list = sleeper.front.ask(&request("GET", "/v1/models", None, "")).await.json();
    assert_eq!(list["data"][0]["id"], "m");
    assert_eq!(sleeper.front.ask(&request("GET", "/v1/models/m", None, "")).await.status, 200);
    sleeper.front.stop().await;
}

type Publish = Rc<RefCell<Option<Box<dyn Fn()>>>>;

/// A node's proxy whose replica is going: by the time it says so, or once nothing is in flight there, the routes are
/// those that `then` publishes.
async fn going(lags: bool, then: &Publish, idle: impl Fn() -> bool + Clone + 'static) -> Script {
    let then = Rc::clone(then);
    Script::start(move |mut peer| {
        let (then, idle) = (Rc::clone(&then), idle.clone());
        async move {
            while peer.request().await.is_some() {
                let publish = || then.borrow().as_ref().expect("set")();
                if !lags {
                    publish();
                }
                peer.send(GOING).await;
                if lags {
                    while !idle() {
                        tokio::task::yield_now().await;
                    }
                    publish();
                }
            }
        }
    })
    .await
}

/// Far more requests than second tries are allowed.
const REQUESTS: usize = 60;

#[actix_rt::test]
async fn a_request_that_looked_at_the_old_table_is_no_error_of_a_change() {
    for lags in [false, true] {
        let then = Publish::default();
        let inflight = Rc::new(RefCell::new(None::<Arc<Route>>));
        let seen = Rc::clone(&inflight);
        let idle = move || seen.borrow().as_ref().is_some_and(|route| Load::of(route).total() == 0);
        let old = going(lags, &then, idle).await;
        let up = Upstream::answering("{}").await;
        let front = Front::before(Vec::new()).await;
        let publish = front.publisher();
        for _ in 0..REQUESTS {
            let before = public("m", &[old.address, old.address]);
            *inflight.borrow_mut() = Some(Arc::new(again(&before)));
            let after = Arc::new(Route { deployment_id: before.deployment_id, ..public("m", &[up.address]) });
            let publish_after = publish.clone();
            *then.borrow_mut() = Some(Box::new(move || publish_after(vec![again(&after)], Vec::new())));
            publish(vec![before], Vec::new());
            let answer = front.ask(&request("POST", CHAT, None, ASK)).await;
            assert_eq!(answer.status, 200, "lags: {lags}: {}", answer.body);
        }
        assert_eq!(up.count(), REQUESTS);
        front.stop().await;
    }
}

#[actix_rt::test]
async fn a_replica_that_came_since_is_asked_when_the_one_that_was_known_is_dead() {
    let up = Upstream::answering("{}").await;
    let front = Front::before(Vec::new()).await;
    let publish = front.publisher();
    let then = Publish::default();
    let busy = Rc::new(Cell::new(0));
    let (publishes, count) = (Rc::clone(&then), Rc::clone(&busy));
    let first = Script::start(move |mut peer| {
        let (publishes, count) = (Rc::clone(&publishes), Rc::clone(&count));
        async move {
            while peer.request().await.is_some() {
                count.set(count.get() + 1);
                publishes.borrow().as_ref().expect("set")();
                peer.send("HTTP/1.1 503 X\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{}").await;
            }
        }
    })
    .await;
    let before = public("m", &[first.address]);
    let dead = public("m", &[unused_address()]).endpoints;
    let fresh = public("m", &[up.address]).endpoints;
    let endpoints = before.endpoints.iter().chain(&dead).chain(&fresh).cloned().collect();
    let after = Route { endpoints, ..again(&before) };
    *then.borrow_mut() = Some(Box::new(move || publish(vec![again(&after)], Vec::new())));
    front.publish(vec![before]);
    assert_eq!(front.ask(&request("POST", CHAT, None, ASK)).await.status, 200);
    assert_eq!((busy.get(), up.count()), (1, 1), "the busy one is not asked again");
    front.stop().await;
}

#[actix_rt::test]
async fn a_request_waits_for_the_only_replica_that_starts_again() {
    for body in [ASK, STREAM] {
        let then = Publish::default();
        let old = going(false, &then, || true).await;
        let front = Front::tuned(Vec::new(), AllowOrigins::new([]), |gateway| {
            gateway.limits.hold = DEADLINE;
            gateway.limits.keepalive = Duration::from_millis(20);
        })
        .await;
        let before = public("m", &[old.address]);
        let (publish, none) = (front.publisher(), Arc::new(Route { coming: true, ..again(&before) }));
        let coming = Arc::new(Route { endpoints: Vec::new(), ..again(&none) });
        *then.borrow_mut() = Some(Box::new(move || publish(vec![again(&coming)], Vec::new())));
        let demand = Arc::clone(&before.demand);
        let id = before.deployment_id;
        front.publish(vec![again(&before)]);
        let mut caller = Caller::connect(front.address).await;
        caller.send(&request("POST", CHAT, None, body)).await;
        let waits = async {
            while demand.waiting() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, waits).await.expect("in time");
        let up = Upstream::answering(r#"{"the":"end"}"#).await;
        front.publish(vec![Route { deployment_id: id, ..public("m", &[up.address]) }]);
        let answer = caller.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(r#"{"the":"end"}"#), "{answer}");
        assert_eq!((up.count(), demand.waiting()), (1, 0));
        front.stop().await;
    }
}
