//! Names that stand for several deployments: who gets how much, who answers when one fails, and who may ask.

use std::net::SocketAddr;

use nebula_core::clock::WallTime;
use nebulad::domain::key::KeyLimits;
use nebulad::domain::route::{AliasRoute, Route};

use crate::CHAT;
use crate::front::{ADMIN, Answer, Front, Upstream, private, public, request, unused_address};
use crate::keys::{KEY, added_up, ask, key, put};
use crate::net::{Caller, Script};

const PROD: &str = r#"{"n":1.0,"model" : "prod"}"#;

/// An alias of these routes.
fn alias(targets: &[(&Route, u32)], fallback: Option<&Route>) -> AliasRoute {
    AliasRoute {
        name: "prod".to_owned(),
        created_at: WallTime(1_600_000_000_000),
        targets: targets.iter().map(|(route, weight)| (route.deployment_id, *weight)).collect(),
        fallback: fallback.map(|route| route.deployment_id),
    }
}

async fn front(routes: Vec<Route>, alias: AliasRoute) -> Front {
    let front = Front::before(Vec::new()).await;
    front.publish_all(routes, vec![alias]);
    front
}

async fn prod(front: &Front, token: Option<&str>) -> Answer {
    front.ask(&request("POST", CHAT, token, PROD)).await
}

#[actix_rt::test]
async fn each_target_gets_its_share_and_its_own_name() {
    const REQUESTS: usize = 2_000;
    let (a, b) = (Upstream::answering("{}").await, Upstream::answering("{}").await);
    let (of_a, of_b) = (public("a", &[a.address]), public("b", &[b.address]));
    let alias = alias(&[(&of_a, 90), (&of_b, 10)], None);
    let front = front(vec![of_a, of_b], alias).await;
    let mut caller = Caller::connect(front.address).await;
    let kept = request("POST", CHAT, None, PROD).replace("connection: close\r\n", "");
    for _ in 0..REQUESTS {
        caller.send(&kept).await;
        let answer = caller.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert_eq!(a.count() + b.count(), REQUESTS);
    // Five standard deviations to either side: less than one run in a million is outside.
    assert!((133..=267).contains(&b.count()), "{} of {REQUESTS} instead of 200", b.count());
    assert_eq!(a.last().1, PROD.replace("prod", "a"), "nothing else is changed");
    assert_eq!(b.last().1, PROD.replace("prod", "b"));
    let rows = added_up(&front).await;
    let mut models: Vec<_> = rows.iter().map(|row| (row.model.as_str(), row.sums.requests)).collect();
    models.sort_unstable();
    assert_eq!(models, [("a", a.count() as u64), ("b", b.count() as u64)], "counted where it was answered");
    front.stop().await;
}

#[actix_rt::test]
async fn the_fallback_answers_when_the_target_has_not() {
    let silent = Script::start(|mut peer| async move { peer.gone().await }).await.address;
    let with = async |head: &str| Upstream::with(&format!("HTTP/1.1 {head}"), "{\"error\":{}}").await.address;
    let going = with("503 X\r\nx-nebula-proxy-error: model_not_ready").await;
    let busy = with("429 X\r\nretry-after: 7").await;
    let broken = Upstream::with("", "").await.address;
    let (bad_prompt, error) = (with("400 X").await, with("500 X").await);
    // The status with a fallback, and without one.
    let cases: [(&str, &[SocketAddr], u16, u16); 9] = [
        ("nothing serves", &[], 200, 503),
        ("nobody listens", &[unused_address(), unused_address()], 200, 502),
        ("all are going", &[going, going], 200, 503),
        ("all are busy", &[busy, busy], 200, 429),
        ("one breaks", &[broken], 200, 502),
        ("two break, and the prompt may be what breaks them", &[broken, broken], 502, 502),
        ("it says nothing", &[silent], 200, 504),
        ("the prompt is bad", &[bad_prompt], 400, 400),
        ("it has answered, be it with an error", &[error], 500, 500),
    ];
    for (what, upstreams, with, without) in cases {
        for (status, has_fallback) in [(with, true), (without, false)] {
            let last = Upstream::answering("{\"from\":\"c\"}").await;
            let (target, other) = (public("a", upstreams), public("c", &[last.address]));
            let alias = alias(&[(&target, 1)], has_fallback.then_some(&other));
            let front = front(vec![target, other], alias).await;
            let answer = prod(&front, None).await;
            assert_eq!(answer.status, status, "{what}: {}", answer.body);
            assert_eq!(last.count(), usize::from(status == 200), "{what}");
            if status == 200 {
                assert_eq!(last.last().1, PROD.replace("prod", "c"), "{what}");
                let rows = added_up(&front).await;
                assert_eq!((rows[0].model.as_str(), rows[0].sums.requests), ("c", 1), "{what}");
            }
            front.stop().await;
        }
    }
}

#[actix_rt::test]
async fn the_fallback_has_its_own_tries_and_its_own_failure_is_told() {
    let dead = || [unused_address(), unused_address(), unused_address()];
    let up = Upstream::answering("{}").await;
    let [one, two, _] = dead();
    for (replicas, status) in [(vec![one, two, up.address], 200), (vec![one, two], 502)] {
        let (target, last) = (public("a", &dead()), public("c", &replicas));
        let alias = alias(&[(&target, 1)], Some(&last));
        let front = front(vec![target, last], alias).await;
        assert_eq!(prod(&front, None).await.status, status, "{replicas:?}");
        front.stop().await;
    }
    assert_eq!(up.count(), 1);
}

#[actix_rt::test]
async fn a_stream_that_breaks_after_its_first_byte_stays_where_it_is() {
    let breaks = Script::start(|mut peer| async move {
        peer.request().await;
        peer.send(crate::STREAM).await;
    })
    .await;
    let other = Upstream::answering("{}").await;
    let (target, last) = (public("a", &[breaks.address]), public("c", &[other.address]));
    let alias = alias(&[(&target, 1)], Some(&last));
    let front = front(vec![target, last], alias).await;
    let answer = front.ask(&request("POST", CHAT, None, r#"{"model":"prod","stream":true}"#)).await;
    assert!(answer.body.contains("data: a") && answer.body.contains("upstream_error"), "{}", answer.body);
    assert_eq!(other.count(), 0);
    front.stop().await;
}

#[actix_rt::test]
async fn who_may_use_the_alias_has_all_of_it_and_others_what_they_could_use_anyway() {
    let ups =
        [Upstream::answering("{}").await, Upstream::answering("{}").await, Upstream::answering("{}").await];
    let routes = || {
        let [a, b, c] = [&ups[0], &ups[1], &ups[2]].map(|up| up.address);
        [private("a", "nbtok_a", &[a]), private("b", "nbtok_b", &[b]), public("c", &[c])]
    };
    // Which targets are private: a and b, or one of them with the public c. Who asks, with which key, and who answers.
    let (both, half) = ("ab", "ac");
    let cases = [
        (both, Some(ADMIN), None, 200, "ab"),
        (both, Some(KEY), Some("prod"), 200, "ab"),
        (both, Some(KEY), Some(""), 200, "ab"),
        (both, Some(KEY), Some("a"), 404, ""),
        (both, Some("nbtok_a"), None, 200, "a"),
        (both, Some("nbtok_b"), None, 200, "b"),
        (both, Some("nbtok_wrong"), None, 401, ""),
        (both, None, None, 401, ""),
        (half, None, None, 200, "c"),
        (half, Some("nbtok_wrong"), None, 200, "c"),
        (half, Some(KEY), Some("other"), 200, "c"),
        (half, Some(KEY), Some("prod"), 200, "ac"),
        (half, Some("nbtok_a"), None, 200, "ac"),
        (half, Some("nbtok_b"), None, 200, "c"),
    ];
    for (targets, token, models, status, answers) in cases {
        let what = format!("{targets} {token:?} {models:?}");
        let routes = routes();
        let weights: Vec<_> = routes.iter().filter(|r| targets.contains(&r.name)).map(|r| (r, 50)).collect();
        let alias = alias(&weights, None);
        let front = front(routes.into(), alias).await;
        if let Some(models) = models {
            let models: Vec<&str> = Some(models).filter(|models| !models.is_empty()).into_iter().collect();
            put(&front, key(&models, KeyLimits::default()));
        }
        let before = ups.each_ref().map(Upstream::count);
        for _ in 0..40 {
            let answer = prod(&front, token).await;
            assert_eq!(answer.status, status, "{what}: {}", answer.body);
        }
        let came: String = ["a", "b", "c"]
            .iter()
            .zip(ups.iter().zip(before))
            .filter(|(_, (up, before))| up.count() > *before)
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(came, answers, "{what}");
        front.stop().await;
    }
}

#[actix_rt::test]
async fn what_a_key_uses_under_an_alias_is_on_its_account() {
    let up = Upstream::answering(r#"{"usage":{"prompt_tokens":7,"completion_tokens":5}}"#).await;
    let target = private("a", "nbtok_a", &[up.address]);
    let alias = alias(&[(&target, 1)], None);
    let front = front(vec![target], alias).await;
    let key = key(&["prod"], KeyLimits { max_concurrent: Some(1), ..KeyLimits::default() });
    put(&front, key.clone());
    assert_eq!(prod(&front, Some(KEY)).await.status, 200);
    assert_eq!(ask(&front, KEY, "a").await.status, 404, "the alias and nothing else");
    let rows = added_up(&front).await;
    let seen: Vec<_> = rows.iter().map(|row| (row.key, row.model.as_str(), row.sums.prompt_tokens)).collect();
    assert_eq!(seen, [(Some(key.id), "a", 7)]);
    front.stop().await;
}

#[actix_rt::test]
async fn aliases_are_listed_among_the_models_for_whom_may_use_them() {
    let up = Upstream::answering("{}").await;
    let (target, other) = (private("a", "nbtok_a", &[up.address]), public("z", &[up.address]));
    let down = private("down", "nbtok_d", &[]);
    let alias = alias(&[(&target, 1)], None);
    let asleep =
        AliasRoute { name: "down-too".to_owned(), targets: vec![(down.deployment_id, 1)], ..alias.clone() };
    let front = Front::before(Vec::new()).await;
    front.publish_all(vec![target, other, down], vec![alias, asleep]);
    put(&front, key(&["prod"], KeyLimits::default()));
    for (token, names) in [
        (None, &["z"][..]),
        (Some("nbtok_a"), &["a", "prod", "z"]),
        (Some(ADMIN), &["a", "prod", "z"]),
        (Some(KEY), &["prod", "z"]),
    ] {
        let list = front.ask(&request("GET", "/v1/models", token, "")).await.json();
        let ids: Vec<_> = list["data"].as_array().expect("a list").iter().map(|model| &model["id"]).collect();
        assert_eq!(ids, names, "{token:?}");
    }
    let one = front.ask(&request("GET", "/v1/models/prod", Some(KEY), "")).await;
    let expected =
        serde_json::json!({"id": "prod", "object": "model", "created": 1_600_000_000, "owned_by": "nebula"});
    assert_eq!((one.status, one.json()), (200, expected));
    for (path, token, status) in [
        ("prod", None, 401),
        ("a", Some(KEY), 404),
        ("down-too", Some(ADMIN), 503),
        ("down-too", Some(KEY), 404),
    ] {
        let answer = front.ask(&request("GET", &format!("/v1/models/{path}"), token, "")).await;
        assert_eq!(answer.status, status, "{path} {token:?}");
    }
    front.stop().await;
}
