//! Callers with an API key: what it opens, its limits, and what is added up on its account.

use std::collections::BTreeSet;
use std::time::Duration;

use nebula_core::clock::{Tick, WallTime, wall_now};
use nebula_core::token::TokenHash;
use nebulad::domain::key::{ApiKey, Budget, KeyLimits, LiveKey, NewKey, Period};
use nebulad::domain::route::Route;
use nebulad::domain::usage::{Sums, UsageRow};
use nebulad::http::openai::AllowOrigins;

use crate::CHAT;
use crate::front::{ADMIN, Answer, Front, Upstream, private, public, request};
use crate::net::{CANCELLED, Caller, Script};

pub(crate) const KEY: &str = "nbkey_1";
/// An answer of 7 prompt tokens and 5 of completion.
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}"#;

pub(crate) fn key(models: &[&str], limits: KeyLimits) -> ApiKey {
    let models: BTreeSet<String> = models.iter().map(|model| (*model).to_owned()).collect();
    let models = (!models.is_empty()).then_some(models);
    let wanted = NewKey { name: "alice".to_owned(), models, expires_at: None, limits };
    ApiKey::new(wanted, TokenHash::of(KEY), wall_now())
}

pub(crate) fn put(front: &Front, key: ApiKey) {
    front.keys.rcu(|table| {
        let mut table = (**table).clone();
        table.put(LiveKey::new(key.clone(), 0, Tick(0), wall_now()).into());
        table
    });
}

pub(crate) async fn ask(front: &Front, token: &str, model: &str) -> Answer {
    front.ask(&request("POST", CHAT, Some(token), &format!("{{\"model\":\"{model}\"}}"))).await
}

/// The sums of what has been added up, once there is something.
pub(crate) async fn added_up(front: &Front) -> Vec<UsageRow> {
    let some = async {
        while front.usage.is_empty() {
            tokio::task::yield_now().await;
        }
        front.usage.drain()
    };
    tokio::time::timeout(crate::net::DEADLINE, some).await.expect("in time")
}

#[actix_rt::test]
async fn a_key_opens_the_models_it_names_and_what_it_uses_is_on_its_account() {
    let up = Upstream::answering(ANSWER).await;
    let front = Front::before(vec![
        private("one", "nbtok_1", &[up.address]),
        private("two", "nbtok_2", &[up.address]),
        public("open", &[up.address]),
    ])
    .await;
    let key = key(&["one"], KeyLimits::default());
    put(&front, key.clone());
    assert_eq!(ask(&front, KEY, "one").await.status, 200);
    let rows = added_up(&front).await;
    let sums = Sums { requests: 1, prompt_tokens: 7, completion_tokens: 5, aborted: 0 };
    let seen: Vec<_> = rows.iter().map(|row| (row.key, row.model.as_str(), row.sums)).collect();
    assert_eq!(seen, [(Some(key.id), "one", sums)]);
    // The same answer for what there is not and what it may not use.
    for model in ["two", "none"] {
        let answer = ask(&front, KEY, model).await;
        assert_eq!(
            (answer.status, answer.error()["code"].as_str()),
            (404, Some("model_not_found")),
            "{model}"
        );
    }
    // A public model is for everybody, and on nobody's account where the key is not for it.
    assert_eq!(ask(&front, KEY, "open").await.status, 200);
    assert_eq!(ask(&front, ADMIN, "two").await.status, 200);
    let rows = added_up(&front).await;
    assert!(rows.iter().all(|row| row.key.is_none()), "{rows:?}");
    let listed = front.ask(&request("GET", "/v1/models", Some(KEY), "")).await.json();
    let ids: Vec<_> = listed["data"].as_array().expect("a list").iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["one", "open"]);
    front.stop().await;
}

#[actix_rt::test]
async fn a_key_that_expired_or_was_revoked_opens_nothing() {
    let up = Upstream::answering(ANSWER).await;
    let front = Front::before(vec![private("one", "nbtok_1", &[up.address])]).await;
    let expired = ApiKey { expires_at: Some(WallTime(1)), ..key(&[], KeyLimits::default()) };
    let id = expired.id;
    put(&front, expired.clone());
    assert_eq!(ask(&front, KEY, "one").await.error()["code"], "invalid_api_key");
    put(&front, ApiKey { expires_at: None, ..expired });
    assert_eq!(ask(&front, KEY, "one").await.status, 200);
    front.keys.rcu(|table| {
        let mut table = (**table).clone();
        table.remove(id);
        table
    });
    assert_eq!(ask(&front, KEY, "one").await.status, 401);
    assert_eq!(up.count(), 1);
    front.stop().await;
}

#[actix_rt::test]
async fn who_asks_too_often_hears_when_to_come_again() {
    let up = Upstream::answering(ANSWER).await;
    let front = Front::before(vec![private("one", "nbtok_1", &[up.address])]).await;
    put(&front, key(&[], KeyLimits { rpm: Some(2), ..KeyLimits::default() }));
    let first = ask(&front, KEY, "one").await;
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("2"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"));
    assert_eq!(ask(&front, KEY, "one").await.status, 200);
    let refused = ask(&front, KEY, "one").await;
    assert_eq!(refused.status, 429);
    assert_eq!(
        (&refused.error()["type"], &refused.error()["code"]),
        (&"rate_limit_error".into(), &"rate_limit_exceeded".into())
    );
    let pause: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("a pause");
    assert!((1..=30).contains(&pause), "{pause}");
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(refused.header("x-should-retry"), None);
    assert_eq!(up.count(), 2);
    front.stop().await;
}

#[actix_rt::test]
async fn tokens_are_charged_after_the_answer_and_a_spent_budget_is_final() {
    let up = Upstream::answering(ANSWER).await;
    let front = Front::before(vec![private("one", "nbtok_1", &[up.address])]).await;
    let budget = Some(Budget { tokens: 12, period: Period::Total });
    put(&front, key(&[], KeyLimits { budget, tpm: Some(100), ..KeyLimits::default() }));
    let first = ask(&front, KEY, "one").await;
    assert_eq!((first.status, first.header("x-ratelimit-limit-tokens")), (200, Some("100")));
    added_up(&front).await;
    let refused = ask(&front, KEY, "one").await;
    assert_eq!((refused.status, refused.error()["type"].as_str()), (429, Some("insufficient_quota")));
    assert_eq!(refused.error()["code"], "insufficient_quota");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    front.stop().await;
}

#[actix_rt::test]
async fn requests_at_once_are_counted_until_their_answers_end() {
    let (gone, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let up = Script::start(move |mut peer| {
        let gone = gone.clone();
        async move {
            peer.request().await;
            peer.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n2f\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\r\n").await;
            peer.gone().await;
            let _ = gone.send(());
        }
    })
    .await;
    let front = Front::before(vec![private("one", "nbtok_1", &[up.address])]).await;
    put(&front, key(&[], KeyLimits { max_concurrent: Some(1), ..KeyLimits::default() }));
    let mut streaming = Caller::connect(front.address).await;
    let body = r#"{"model":"one","stream":true,"messages":[{"role":"user","content":"hello there"}]}"#;
    streaming.send(&request("POST", CHAT, Some(KEY), body)).await;
    streaming.until("}}]}\n\n\r\n").await;
    let refused = ask(&front, KEY, "one").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    drop(streaming);
    tokio::time::timeout(CANCELLED, ended.recv()).await.expect("cancelled in time");
    // What was cut is counted as far as it was sent, and marked.
    let rows = added_up(&front).await;
    let [row] = rows.as_slice() else { panic!("one row: {rows:?}") };
    assert_eq!((row.sums.requests, row.sums.completion_tokens, row.sums.aborted), (1, 1, 1));
    assert!(row.sums.prompt_tokens > 0, "an estimate");
    front.stop().await;
}

#[actix_rt::test]
async fn a_held_stream_whose_client_leaves_is_marked_and_gives_its_place_back() {
    let (asked, mut comes) = tokio::sync::mpsc::unbounded_channel();
    let (gone, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let up = Script::start(move |mut peer| {
        let (asked, gone) = (asked.clone(), gone.clone());
        async move {
            peer.request().await;
            let _ = asked.send(());
            peer.gone().await;
            let _ = gone.send(());
        }
    })
    .await;
    let first = Route { coming: true, ..private("one", "nbtok_1", &[]) };
    let ready = Route { deployment_id: first.deployment_id, ..private("one", "nbtok_1", &[up.address]) };
    let front = Front::tuned(vec![first], AllowOrigins::new([]), |gateway| {
        gateway.limits.hold = crate::net::DEADLINE;
        gateway.limits.upstream_timeout = crate::net::DEADLINE;
        gateway.limits.keepalive = Duration::from_millis(20);
    })
    .await;
    put(&front, key(&[], KeyLimits { max_concurrent: Some(1), ..KeyLimits::default() }));
    let body = r#"{"model":"one","stream":true,"messages":[{"role":"user","content":"hello there"}]}"#;
    let mut held = Caller::connect(front.address).await;
    held.send(&request("POST", CHAT, Some(KEY), body)).await;
    held.until(": waiting for the model\n\n\r\n").await;
    assert_eq!(ask(&front, KEY, "one").await.status, 429, "who is held has a place");
    front.publish(vec![ready]);
    comes.recv().await.expect("the request");
    drop(held);
    tokio::time::timeout(CANCELLED, ended.recv()).await.expect("cancelled in time");
    let rows = added_up(&front).await;
    let [row] = rows.as_slice() else { panic!("one row: {rows:?}") };
    assert_eq!((row.sums.requests, row.sums.completion_tokens, row.sums.aborted), (1, 0, 1));
    assert!(row.sums.prompt_tokens > 0, "an estimate");
    let mut again = Caller::connect(front.address).await;
    again.send(&request("POST", CHAT, Some(KEY), body)).await;
    comes.recv().await.expect("the place is free again");
    front.stop().await;
}

#[actix_rt::test]
async fn an_engine_that_counts_nonsense_does_no_harm() {
    let usage = format!("{{\"prompt_tokens\":{0},\"completion_tokens\":{0}}}", u64::MAX);
    let up = Upstream::answering(&format!("{{\"usage\":{usage}}}")).await;
    let front = Front::before(vec![private("one", "nbtok_1", &[up.address])]).await;
    let budget = Some(Budget { tokens: 1 << 40, period: Period::Total });
    put(&front, key(&[], KeyLimits { budget, ..KeyLimits::default() }));
    for _ in 0..2 {
        assert_eq!(ask(&front, KEY, "one").await.body, format!("{{\"usage\":{usage}}}"));
        let rows = added_up(&front).await;
        assert!(rows.iter().all(|row| row.sums.tokens() < 1 << 40), "{rows:?}");
    }
    front.stop().await;
}

#[actix_rt::test]
async fn a_stream_is_asked_for_its_usage_and_the_client_does_not_see_it() {
    const CHUNK: &str = r#"data: {"choices":[{"delta":{"content":"hi"}}]}"#;
    const USAGE: &str = r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
    let up = Upstream::with(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream",
        &format!("{CHUNK}\n\n{USAGE}\n\ndata: [DONE]\n\n"),
    )
    .await;
    let front = Front::before(vec![private("one", "nbtok_1", &[up.address])]).await;
    put(&front, key(&[], KeyLimits::default()));
    let plain = r#"{"model":"one", "stream":true ,"x":0.10}"#;
    let answer = front.ask(&request("POST", CHAT, Some(KEY), plain)).await;
    assert!(answer.body.contains("hi") && answer.body.contains("[DONE]"), "{}", answer.body);
    assert!(!answer.body.contains("usage"), "{}", answer.body);
    let got = up.last().1;
    let added = r#","stream_options":{"include_usage":true}"#;
    assert!(got.contains(added), "{got}");
    assert_eq!(got.replace(added, ""), plain, "nothing else was changed");
    tokio::time::timeout(Duration::from_secs(5), async {
        let rows = added_up(&front).await;
        assert_eq!((rows[0].sums.prompt_tokens, rows[0].sums.completion_tokens), (3, 1));
    })
    .await
    .expect("in time");
    let asked = r#"{"model":"one","stream":true,"stream_options":{"include_usage":true}}"#;
    let answer = front.ask(&request("POST", CHAT, Some(KEY), asked)).await;
    assert!(answer.body.contains("\"prompt_tokens\":3"), "{}", answer.body);
    assert_eq!(up.last().1, asked);
    front.stop().await;
}
