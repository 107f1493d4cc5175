//! Requests that wait, by a clock that jumps.

use std::convert::Infallible;
use std::sync::Mutex;
use std::task::Waker;

use actix_web::body::BodyStream;
use futures_util::FutureExt as _;
use nebula_core::clock::{Clock, WallTime};
use nebula_core::ids::{Generation, ReplicaId};
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::Secret;
use tokio::sync::oneshot;

use super::*;
use crate::domain::route::{Access, Balance, Endpoint};

const LONGEST: Duration = Duration::from_secs(60);

/// Routes that can be replaced, and those who wait for them.
struct Stage {
    id: DeploymentId,
    routes: Arc<ArcSwap<RouteTable>>,
    published: watch::Sender<u64>,
    holding: Holding,
    woken: Arc<Mutex<Vec<DeploymentId>>>,
}

impl Stage {
    fn new(longest: Duration) -> Self {
        let routes = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
        let (published, changed) = watch::channel(0);
        let woken = Arc::<Mutex<Vec<DeploymentId>>>::default();
        let told = Arc::clone(&woken);
        let wake = move |id| told.lock().expect("unpoisoned").push(id);
        let holding = Holding {
            routes: Arc::clone(&routes),
            changed,
            longest,
            wakes: Wakes::to(wake, |_| Some("pulling\n1 of 2".to_owned())),
            clock: Clock::start(),
            waiting: Rc::default(),
        };
        Self { id: DeploymentId::random(), routes, published, holding, woken }
    }

    fn route(&self, coming: bool, endpoints: u16) -> Route {
        let endpoint = |port| {
            let address = format!("127.0.0.1:{port}").parse().expect("an address");
            let node = "n1".parse().expect("a node id");
            Arc::new(Endpoint::new(ReplicaId::random(), Generation::FIRST, node, address))
        };
        Route {
            deployment_id: self.id,
            name: "m".to_owned(),
            served_name: "m".to_owned(),
            runtime: RuntimeKind::Sim,
            access: Access::Public,
            gateway_token: Secret::from_text("nbgw_x"),
            created_at: WallTime(1),
            balance: Balance::default(),
            coming,
            wakes: false,
            demand: Arc::default(),
            endpoints: (1..=endpoints).map(endpoint).collect(),
        }
    }

    fn publish(&self, routes: Vec<Route>) {
        self.routes.store(Arc::new(RouteTable::new(routes)));
        self.published.send_modify(|count| *count += 1);
    }

    fn coming(&self) -> Option<Hold> {
        let route = self.route(true, 0);
        self.publish(vec![self.route(true, 0)]);
        self.holding.enter(&route)
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_request_goes_on_as_soon_as_a_replica_answers() {
    let stage = Stage::new(LONGEST);
    let mut ready = Box::pin(stage.coming().expect("a place").ready());
    assert!(ready.as_mut().now_or_never().is_none());
    stage.publish(vec![stage.route(true, 0)]);
    assert!(ready.as_mut().now_or_never().is_none(), "still on its way");
    stage.publish(vec![stage.route(false, 1)]);
    let route = ready.as_mut().now_or_never().expect("at once").expect("a route");
    assert_eq!(route.endpoints.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_changes_between_entering_and_waiting_is_not_missed() {
    let stage = Stage::new(LONGEST);
    let hold = stage.coming().expect("a place");
    stage.publish(vec![stage.route(false, 1)]);
    assert!(hold.ready().now_or_never().expect("at once").is_some());
}

#[tokio::test(start_paused = true)]
async fn it_is_refused_early_when_nothing_will_come() {
    for after in [Some(false), None] {
        let stage = Stage::new(LONGEST);
        let mut ready = Box::pin(stage.coming().expect("a place").ready());
        assert!(ready.as_mut().now_or_never().is_none());
        stage.publish(after.map(|coming| stage.route(coming, 0)).into_iter().collect());
        assert!(ready.as_mut().now_or_never().expect("at once").is_none(), "{after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_waits_no_longer_than_it_may() {
    let stage = Stage::new(LONGEST);
    let clock = Clock::start();
    assert!(stage.coming().expect("a place").ready().await.is_none());
    assert_eq!(clock.elapsed(), LONGEST);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_on_its_way_is_waited_for() {
    let stage = Stage::new(LONGEST);
    for (coming, endpoints) in [(false, 0), (false, 1)] {
        assert!(stage.holding.enter(&stage.route(coming, endpoints)).is_none(), "{coming} {endpoints}");
    }
    assert!(Stage::new(Duration::ZERO).coming().is_none(), "holding is off");
}

#[tokio::test(start_paused = true)]
async fn so_many_wait_and_whoever_leaves_makes_room() {
    let stage = Stage::new(LONGEST);
    let mut waiting: Vec<_> = (0..WAITING_MAX).filter_map(|_| stage.coming()).collect();
    assert_eq!(waiting.len(), WAITING_MAX);
    assert!(stage.coming().is_none());
    drop(waiting.pop().map(|hold| Box::pin(hold.ready()).now_or_never()));
    assert!(stage.coming().is_some(), "a client that hangs up drops the future");
}

/// A route of a deployment that sleeps until somebody asks.
fn sleeping(stage: &Stage) -> Route {
    Route { wakes: true, ..stage.route(false, 0) }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_sleeps_is_woken_once_a_second_as_long_as_somebody_waits() {
    let stage = Stage::new(Duration::ZERO);
    let route = sleeping(&stage);
    let demand = Arc::clone(&route.demand);
    stage.publish(vec![route]);
    let enter =
        || stage.holding.enter(stage.routes.load().by_id(stage.id).expect("a route")).expect("a place");
    let mut ready: Vec<_> = (0..3).map(|_| Box::pin(enter().ready())).collect();
    let woken = || stage.woken.lock().expect("unpoisoned").len();
    assert_eq!((demand.waiting(), woken()), (3, 0));
    for seconds in 1..=5 {
        assert!(ready.iter_mut().all(|ready| ready.as_mut().now_or_never().is_none()));
        assert_eq!(woken(), seconds, "once for all of them");
        tokio::time::advance(WAKE_EVERY).await;
    }
    drop(ready.pop());
    assert_eq!(demand.waiting(), 2, "one client has left");
    stage.publish(vec![stage.route(false, 1)]);
    assert!(ready.iter_mut().all(|ready| ready.as_mut().now_or_never().is_some_and(|ready| ready.is_some())));
    assert_eq!(demand.waiting(), 0);
    assert!(stage.woken.lock().expect("unpoisoned").iter().all(|id| *id == stage.id));
}

#[tokio::test(start_paused = true)]
async fn who_woke_a_deployment_waits_for_it_also_where_nobody_is_held() {
    let stage = Stage::new(Duration::ZERO);
    stage.publish(vec![sleeping(&stage)]);
    let clock = Clock::start();
    let hold = stage.holding.enter(&sleeping(&stage)).expect("a place");
    assert!(hold.ready().await.is_none());
    assert_eq!(clock.elapsed(), WAKE_HOLD);
    let stage = Stage::new(LONGEST);
    stage.publish(vec![sleeping(&stage)]);
    let clock = Clock::start();
    assert!(stage.holding.enter(&sleeping(&stage)).expect("a place").ready().await.is_none());
    assert_eq!(clock.elapsed(), LONGEST, "the operator's word counts");
}

#[tokio::test(start_paused = true)]
async fn comments_tell_how_far_the_start_has_got() {
    let stage = Stage::new(LONGEST);
    let comments = stage.coming().expect("a place").comments();
    assert_eq!(&*comments(), b": waiting for the model: pulling 1 of 2\n\n", "on one line");
}

/// The pieces that a body has by now, and whether it has ended.
fn pieces(body: &mut BoxBody) -> (Vec<String>, bool) {
    let mut came = Vec::new();
    loop {
        match Pin::new(&mut *body).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(piece)) => {
                came.push(String::from_utf8(piece.expect("a piece").to_vec()).expect("a text"));
            }
            Poll::Ready(None) => return (came, true),
            Poll::Pending => return (came, false),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_stream_says_so_until_its_answer_comes() {
    let (answer, comes) = oneshot::channel::<()>();
    let response = held(Duration::from_secs(15), || comment(None), async move {
        comes.await.expect("it comes");
        let events = ["data: a\n\n", "data: [DONE]\n\n"].map(|text| Ok::<_, Infallible>(Bytes::from(text)));
        HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/event-stream; charset=utf-8"))
            .body(BodyStream::new(futures_util::stream::iter(events)))
    });
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers().get(CONTENT_TYPE).expect("a type"), "text/event-stream");
    let mut body = response.into_body();
    let comment = || vec![COMMENT.to_owned()];
    assert_eq!(pieces(&mut body), (comment(), false), "at once");
    assert_eq!(pieces(&mut body), (vec![], false));
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(pieces(&mut body), (comment(), false));
    }
    answer.send(()).expect("it is waited for");
    assert_eq!(pieces(&mut body), (vec!["data: a\n\n".to_owned(), "data: [DONE]\n\n".to_owned()], true));
}

#[tokio::test(start_paused = true)]
async fn an_error_after_the_wait_is_an_event_and_without_keepalive_nothing_comes_before() {
    let broken = String::from_utf8(OpenAiError::Upstream.event().to_vec()).expect("a text");
    let json = "{\n \"error\": {\"code\":\"x\"}\r\n}";
    for (status, body, event) in [
        (503, json, "data: {  \"error\": {\"code\":\"x\"}  }\n\n"),
        (200, "{\"object\":\"chat.completion\"}", "data: {\"object\":\"chat.completion\"}\n\n"),
        (502, "<html>", broken.as_str()),
        (502, "", broken.as_str()),
    ] {
        let status = actix_web::http::StatusCode::from_u16(status).expect("a status");
        let answer = HttpResponse::build(status).body(body);
        let mut held = held(Duration::ZERO, || comment(None), async move {
            tokio::task::yield_now().await;
            answer
        })
        .into_body();
        assert_eq!(pieces(&mut held), (vec![], false));
        assert_eq!(pieces(&mut held), (vec![event.to_owned()], true), "{status} {body}");
    }
}
