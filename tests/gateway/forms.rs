//! Forms, such as transcriptions have.

use serde_json::json;

use crate::front::{Front, MAX_BODY, Upstream, private, public, request};

const PATH: &str = "/v1/audio/transcriptions";

fn form(model: &str) -> String {
    format!(
        "--bound\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
         Content-Type: audio/wav\r\n\r\nRIFF\r\n--boun\r\n\0\r\n--bound\r\n\
         Content-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--bound--\r\n"
    )
}

fn post(token: Option<&str>, body: &str) -> String {
    let kind = "host: t\r\ncontent-type: multipart/form-data; boundary=bound\r\n";
    request("POST", PATH, token, body).replace("host: t\r\n", kind)
}

#[actix_rt::test]
async fn a_form_reaches_the_runtime_of_its_model_unchanged() {
    let up = Upstream::answering(r#"{"text":"hello"}"#).await;
    let front =
        Front::before(vec![private("org/closed", "nbtok_c", &[up.address]), public("open", &[])]).await;
    let answer = front.ask(&post(Some("nbtok_c"), &form("org/closed"))).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"text": "hello"})));
    let (head, body) = up.last();
    assert_eq!(body, form("org/closed"));
    assert!(head.starts_with("POST /v1/audio/transcriptions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: multipart/form-data; boundary=bound\r\n"), "{head}");
    let id = front.routes[0].to_string();
    assert_eq!(front.ask(&post(Some("nbtok_c"), &form(&id))).await.status, 200);
    assert_eq!(up.last().1, form("org/closed"), "the runtime does not know the deployment's id");
    assert_eq!(front.ask(&post(None, &form("org/closed"))).await.status, 401);
    assert_eq!(front.ask(&post(None, &form("open"))).await.status, 503);
    assert_eq!(up.count(), 2);
    front.stop().await;
}

#[actix_rt::test]
async fn a_form_that_is_none_is_refused() {
    let front = Front::before(vec![public("open", &[])]).await;
    for (text, status, code) in [
        (request("POST", PATH, None, r#"{"model":"open"}"#), 400, "invalid_multipart"),
        (post(None, r#"{"model":"open"}"#), 400, "invalid_multipart"),
        (post(None, &form("")), 400, "missing_required_parameter"),
        (post(None, &form(&"x".repeat(MAX_BODY))), 413, "request_too_large"),
    ] {
        let answer = front.ask(&text).await;
        assert_eq!((answer.status, answer.error()["code"].as_str()), (status, Some(code)), "{}", answer.body);
    }
    front.stop().await;
}
