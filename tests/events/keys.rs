//! API keys and usage as the management API shows them.

use std::collections::BTreeSet;

use nebula_core::clock::{WallTime, wall_now};
use nebula_core::ids::KeyId;
use nebulad::domain::usage::{Span, Sums};
use serde_json::{Value, json};

use super::control_plane::{Nebulad, kinds};

const KEYS: &str = "/api/v1/keys";

/// Makes a key; its id and its secret.
async fn made(nebulad: &Nebulad, wanted: &Value) -> (String, String) {
    let made = nebulad.post(KEYS, wanted).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let text = |field: &str| made.body[field].as_str().expect("text").to_owned();
    (text("id"), text("key"))
}

#[actix_rt::test]
async fn a_key_lives_from_its_creation_to_its_revocation() {
    let nebulad = Nebulad::start().await;
    let wanted = json!({"name": "ci", "models": ["demo"], "expires_in": "30d", "rpm": 60, "tpm": 1000,
                        "max_concurrent": 2, "budget": {"tokens": 5000, "period": "month"}});
    let (id, secret) = made(&nebulad, &wanted).await;
    assert!(secret.starts_with("nbkey_") && secret.len() >= 48, "{secret}");
    assert_eq!(nebulad.post(KEYS, &json!({"name": "ci"})).await.status, 409, "the name is taken");
    assert_eq!(nebulad.post(KEYS, &json!({"name": "x", "rpm": 0})).await.status, 422);
    assert_eq!(nebulad.post(KEYS, &json!({"name": "x", "limit": 1})).await.status, 400);

    let shown = nebulad.get(&format!("{KEYS}/{id}")).await.body;
    assert_eq!(
        (&shown["name"], &shown["state"], &shown["models"]),
        (&json!("ci"), &json!("active"), &json!(["demo"]))
    );
    assert_eq!(
        (&shown["rpm"], &shown["tpm"], &shown["max_concurrent"]),
        (&json!(60), &json!(1000), &json!(2))
    );
    assert_eq!(shown["budget"], json!({"tokens": 5000, "period": "month", "spent": 0}));
    let ends = shown["expires_at"].as_str().and_then(WallTime::from_rfc3339).expect("a time");
    assert!(ends.0.abs_diff(wall_now().0 + 30 * 86_400_000) < 600_000, "{shown}");

    let nebulad = nebulad.restart().await;
    assert_eq!(nebulad.get(&format!("{KEYS}/ci")).await.body, shown, "by its name, after a restart");
    let rotated = nebulad.post(&format!("{KEYS}/ci/rotate"), &json!({"overlap": "1h"})).await;
    assert_eq!((rotated.status, &rotated.body["id"]), (200, &json!(id)));
    assert_ne!(rotated.body["key"], json!(secret));
    let until = rotated.body["old_secret_until"].as_str().and_then(WallTime::from_rfc3339).expect("a time");
    assert!(until.0.abs_diff(wall_now().0 + 3_600_000) < 600_000, "{}", rotated.text);
    let default = nebulad.post(&format!("{KEYS}/{id}/rotate"), &Value::Null).await.body;
    let until = default["old_secret_until"].as_str().and_then(WallTime::from_rfc3339).expect("a time");
    assert!(until.0.abs_diff(wall_now().0 + 24 * 3_600_000) < 600_000, "a day when nothing is said");
    let at_once = nebulad.post(&format!("{KEYS}/{id}/rotate"), &json!({"overlap": 0})).await.body;
    assert_eq!(at_once["old_secret_until"], Value::Null);
    assert_eq!(nebulad.post(&format!("{KEYS}/{id}/rotate"), &json!({"overlap": "400d"})).await.status, 422);

    let (list, audit) = (nebulad.get(KEYS).await.text, nebulad.get("/api/v1/events").await.text);
    for answer in [&list, &audit] {
        assert!(!answer.contains("nbkey_") && !answer.contains("hash"), "{answer}");
    }
    assert_eq!(nebulad.delete(&format!("{KEYS}/{id}")).await.status, 204);
    for path in [format!("{KEYS}/{id}"), format!("{KEYS}/ci")] {
        assert_eq!(nebulad.get(&path).await.status, 404);
        assert_eq!(nebulad.delete(&path).await.status, 404);
    }
    assert_eq!(nebulad.post(&format!("{KEYS}/{id}/rotate"), &Value::Null).await.status, 404);
    let told = kinds(&nebulad.list("/api/v1/events?type=audit.key").await);
    let expected = ["create", "rotate", "rotate", "rotate", "revoke"];
    assert_eq!(told, expected.map(|verb| format!("audit.key.{verb}")), "what was refused leaves no line");
    nebulad.stop().await;
}

/// What the gateway answers to who shows this credential for the model `demo`.
async fn asked(nebulad: &Nebulad, credential: &str) -> (u16, Value) {
    let url = format!("http://{}/v1/chat/completions", nebulad.app().http_addr);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let body = json!({"model": "demo", "messages": []});
    let answer = client.post(url).bearer_auth(credential).json(&body).send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json::<Value>().await.expect("JSON")["error"]["code"].clone())
}

#[actix_rt::test]
async fn the_gateway_knows_a_key_from_the_moment_it_is_made_to_the_one_it_is_revoked() {
    let nebulad = Nebulad::start().await;
    nebulad.create("demo").await;
    nebulad.until(|app| app.system.routes.load().get("demo").is_some()).await;
    let (may, forbidden, unknown) =
        ((503, json!("model_not_ready")), (404, json!("model_not_found")), (401, json!("invalid_api_key")));
    let (_, other) = made(&nebulad, &json!({"name": "other", "models": ["other"]})).await;
    assert_eq!(asked(&nebulad, &other).await, forbidden);
    let (id, first) = made(&nebulad, &json!({"name": "ci", "models": ["demo"]})).await;
    assert_eq!(asked(&nebulad, &first).await, may);
    let rotate = |overlap: &str| {
        let (path, body) = (format!("{KEYS}/{id}/rotate"), json!({"overlap": overlap}));
        let nebulad = &nebulad;
        async move { nebulad.post(&path, &body).await.body["key"].as_str().expect("a secret").to_owned() }
    };
    let second = rotate("1h").await;
    assert_eq!((asked(&nebulad, &first).await, asked(&nebulad, &second).await), (may.clone(), may.clone()));
    let third = rotate("0").await;
    assert_eq!((asked(&nebulad, &second).await, asked(&nebulad, &third).await), (unknown.clone(), may));
    assert_eq!(nebulad.delete(&format!("{KEYS}/{id}")).await.status, 204);
    assert_eq!(asked(&nebulad, &third).await, unknown);
    nebulad.stop().await;
}

#[actix_rt::test]
async fn keys_are_listed_in_pages() {
    let nebulad = Nebulad::start().await;
    let mut ids = BTreeSet::new();
    for number in 0..5 {
        ids.insert(made(&nebulad, &json!({"name": format!("key {number}/ü")})).await.0);
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    for size in [2, 2, 1] {
        let page = nebulad.get(&format!("{KEYS}?limit=2{cursor}")).await.body;
        let rows = page["data"].as_array().expect("a list");
        assert_eq!(rows.len(), size);
        seen.extend(rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()));
        cursor = page["next_cursor"].as_str().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    }
    assert!(cursor.is_empty());
    assert_eq!(seen, ids.into_iter().collect::<Vec<_>>());
    assert_eq!(
        nebulad.get(&format!("{KEYS}/key%203%2F%C3%BC")).await.status,
        200,
        "any name can be asked for"
    );
    for query in ["limit=0", "limit=501", "limit=x", "cursor=x"] {
        assert_eq!(nebulad.get(&format!("{KEYS}?{query}")).await.status, 400, "{query}");
    }
    nebulad.stop().await;
}

/// What the rows of a query say: key, model, requests and tokens.
async fn usage(nebulad: &Nebulad, query: &str) -> Vec<Value> {
    let rows = nebulad.list(&format!("/api/v1/usage?{query}")).await;
    let row = |row: &Value| {
        let tokens = json!([row["prompt_tokens"], row["completion_tokens"]]);
        json!([row["key_id"], row["model"], row["requests"], tokens, row["aborted"]])
    };
    rows.iter().map(row).collect()
}

#[actix_rt::test]
async fn usage_is_told_apart_as_asked_and_is_there_after_a_restart() {
    let nebulad = Nebulad::start().await;
    let (id, _) = made(&nebulad, &json!({"name": "ci"})).await;
    let key: KeyId = id.parse().expect("an id");
    let hour = Span::Hour.start(WallTime(wall_now().0 - 7_200_000));
    let sums = Sums { requests: 1, prompt_tokens: 10, completion_tokens: 3, aborted: 0 };
    let tallies = nebulad.app().system.usage.clone();
    for (key, model, aborted) in
        [(Some(key), "a", 0), (Some(key), "a", 1), (Some(key), "b", 0), (None, "b", 0)]
    {
        tallies.add(key, model, hour, Sums { aborted, ..sums });
    }
    let apart =
        [json!([null, "b", 1, [10, 3], 0]), json!([id, "a", 2, [20, 6], 1]), json!([id, "b", 1, [10, 3], 0])];
    assert_eq!(usage(&nebulad, "").await, apart, "what was added a moment ago is there at once");
    let nebulad = nebulad.restart().await;
    assert_eq!(usage(&nebulad, "").await, apart);
    assert_eq!(usage(&nebulad, "limit=1").await, apart, "page by page");
    assert_eq!(
        usage(&nebulad, "by=key").await,
        [json!([null, null, 1, [10, 3], 0]), json!([id, null, 3, [30, 9], 1]),]
    );
    assert_eq!(
        usage(&nebulad, "by=model").await,
        [json!([null, "a", 2, [20, 6], 1]), json!([null, "b", 2, [20, 6], 0]),]
    );
    assert_eq!(usage(&nebulad, "by=").await, [json!([null, null, 4, [40, 12], 1])]);
    let row = nebulad.get("/api/v1/usage?by=").await.body["data"][0].clone();
    assert_eq!((&row["from"], &row["span"]), (&json!(hour.rfc3339()), &json!("hour")));
    let (from, next) = (hour.unix_secs(), WallTime(hour.0 + 1).rfc3339());
    assert_eq!(usage(&nebulad, &format!("from={from}&to={next}&by=")).await.len(), 1);
    assert_eq!(usage(&nebulad, &format!("from={next}&by=")).await.len(), 0);
    assert_eq!(usage(&nebulad, &format!("from=0&to={from}&by=")).await.len(), 0);
    for (query, name) in [
        ("from=soon", "from"),
        ("to=-1", "to"),
        ("by=node", "by"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
    ] {
        let refused = nebulad.get(&format!("/api/v1/usage?{query}")).await;
        let message = refused.body["error"]["message"].as_str().unwrap_or_default();
        assert!(refused.status == 400 && message.starts_with(name), "{query}: {}", refused.text);
    }
    nebulad.stop().await;
}
