use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::*;

fn spliced(body: &'static str, name: &str) -> Bytes {
    scan(body.as_bytes()).expect("a model").with_model(&Bytes::from_static(body.as_bytes()), name)
}

fn asking(body: &str) -> (String, bool) {
    let scan = scan(body.as_bytes()).expect("a model");
    let (body, asks) = scan.for_engine(&Bytes::copy_from_slice(body.as_bytes()), &scan.model, true);
    (String::from_utf8(body.to_vec()).expect("a text"), asks)
}

#[test]
fn the_last_model_counts_and_escapes_do_not_hide_it() {
    for (body, model) in [
        (r#"{"model":"a"}"#, "a"),
        (r#" { "x" : {"model":"no"}, "model" : "a" } "#, "a"),
        (r#"{"model":"a","model":"b"}"#, "b"),
        (r#"{"model":"a","mod\u0065l":"b"}"#, "b"),
        (r#"{"model":"or\u0067\/m"}"#, "org/m"),
        (r#"{"messages":["\"model\":\"x\""],"model":"a"}"#, "a"),
    ] {
        assert_eq!(scan(body.as_bytes()).map(|scan| scan.model), Ok(model.to_owned()), "{body}");
    }
}

#[test]
fn what_is_not_one_object_is_refused_with_a_reason() {
    for (body, reason) in [
        ("", "EOF"),
        (" ", "EOF"),
        ("[]", "an object"),
        ("null", "an object"),
        ("\"model\"", "an object"),
        ("{", "EOF"),
        ("{\"model\":\"a\"", "EOF"),
        ("{} {}", "trailing characters"),
        ("{\"model\":\"a\"}x", "trailing characters"),
        ("{\"model\":\"a\"}\0", "trailing characters"),
        ("{\"model\":\"a\",}", "trailing comma"),
        ("{'a':1}", "key must be a string"),
        ("{\"model\":\"a\nb\"}", "control character"),
    ] {
        let error = scan(body.as_bytes()).expect_err(body);
        assert!(matches!(&error, ScanError::InvalidJson(why) if why.contains(reason)), "{body}: {error:?}");
    }
    let error = scan(b"{\"model\":\"\xff\"}").expect_err("no text");
    assert_eq!(error, ScanError::InvalidJson("\"model\" is not UTF-8".to_owned()));
}

#[test]
fn a_model_that_is_missing_or_no_string_is_refused() {
    for body in [
        "{}",
        r#"{"Model":"a"}"#,
        r#"{"model":1}"#,
        r#"{"model":null}"#,
        r#"{"model":"a","model":{}}"#,
        r#"{"model":"\ud800"}"#,
    ] {
        assert_eq!(scan(body.as_bytes()), Err(ScanError::MissingModel), "{body}");
    }
}

#[test]
fn only_the_models_bytes_are_replaced() {
    let body = r#"{ "n":1.0e+2,"model" : "\u0061" , "x":0.30000000000000004,"x":[1 ,2]}"#;
    assert_eq!(spliced(body, "a"), body);
    assert_eq!(
        spliced(body, "org/\"b\""),
        r#"{ "n":1.0e+2,"model" : "org/\"b\"" , "x":0.30000000000000004,"x":[1 ,2]}"#
    );
    assert_eq!(spliced(r#"{"model":"a","model":"b"}"#, "c"), r#"{"model":"a","model":"c"}"#);
}

#[test]
fn deep_nesting_costs_no_stack() {
    let body = format!("{{\"model\":\"a\",\"x\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(scan(body.as_bytes()).is_ok());
    assert!(scan(&body.as_bytes()[..300_000]).is_err());
}

#[test]
fn a_stream_is_what_the_last_key_says() {
    for (body, streams) in [
        (r#"{"model":"a"}"#, false),
        (r#"{"model":"a","stream":true}"#, true),
        (r#"{"model":"a","stre\u0061m": true }"#, true),
        (r#"{"model":"a","stream":true,"stream":false}"#, false),
        (r#"{"model":"a","stream":null}"#, false),
        (r#"{"model":"a","stream":"true"}"#, false),
        (r#"{"model":"a","x":{"stream":true}}"#, false),
    ] {
        assert_eq!(scan(body.as_bytes()).expect("a model").streams, streams, "{body}");
    }
}

#[test]
fn a_stream_is_asked_for_usage_in_the_fewest_bytes() {
    for (before, after) in [
        (
            r#"{"model":"a", "stream" : true }"#,
            r#"{"model":"a", "stream" : true,"stream_options":{"include_usage":true} }"#,
        ),
        (
            r#"{"stream":true,"model":"a","stream_options": null}"#,
            r#"{"stream":true,"model":"a","stream_options": {"include_usage":true}}"#,
        ),
        (
            r#"{"stream":true,"model":"a","stream_options":{ }}"#,
            r#"{"stream":true,"model":"a","stream_options":{"include_usage":true }}"#,
        ),
        (
            r#"{"stream_options":{"x":1},"stream":true,"model":"a"}"#,
            r#"{"stream_options":{"include_usage":true,"x":1},"stream":true,"model":"a"}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":false},"stream":true,"model":"a"}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true,"model":"a"}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":true,"include_us\u0061ge": null},"stream":true,"model":"a"}"#,
            r#"{"stream_options":{"include_usage":true,"include_us\u0061ge": true},"stream":true,"model":"a"}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":true},"stream_options":{},"stream":true,"model":"a"}"#,
            r#"{"stream_options":{"include_usage":true},"stream_options":{"include_usage":true},"stream":true,"model":"a"}"#,
        ),
    ] {
        assert_eq!(asking(before), (after.to_owned(), true), "{before}");
    }
}

#[test]
fn what_asks_itself_or_cannot_be_judged_is_left_alone() {
    for body in [
        r#"{"model":"a"}"#,
        r#"{"model":"a","stream":false,"stream_options":{}}"#,
        r#"{"model":"a","stream":true,"stream_options":{"include_usage":true}}"#,
        r#"{"model":"a","stream":true,"stream_options":{"include_usage":false,"include_usage":true}}"#,
        r#"{"model":"a","stream":true,"stream_options":{"include_usage":1}}"#,
        r#"{"model":"a","stream":true,"stream_options":[]}"#,
        r#"{"model":"a","stream":true,"stream_options":"yes"}"#,
    ] {
        assert_eq!(asking(body), (body.to_owned(), false), "{body}");
    }
}

#[test]
fn model_and_usage_are_changed_together_in_any_order() {
    for (before, after) in [
        (
            r#"{"model":"a","stream":true}"#,
            r#"{"model":"long","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream":true,"stream_options":null,"model":"a"}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true},"model":"long"}"#,
        ),
    ] {
        let scan = scan(before.as_bytes()).expect("a model");
        let (body, asks) = scan.for_engine(&Bytes::from_static(before.as_bytes()), "long", true);
        assert_eq!((&body[..], asks), (after.as_bytes(), true));
    }
}

#[test]
fn a_prompt_counts_a_token_for_four_bytes_up_to_a_bound() {
    let estimate = |body: &str| scan(body.as_bytes()).expect("a model").prompt_estimate;
    assert_eq!(estimate(r#"{"model":"a","messages":[{"role":"user","content":"x"}]}"#), 7);
    assert_eq!(estimate(r#"{"model":"a","prompt":"12345678901234"}"#), 4);
    assert_eq!(estimate(r#"{"model":"a","input":[1,2,3]}"#), 1);
    let long = "x".repeat(4 * 200_000);
    assert_eq!(estimate(&format!(r#"{{"model":"a","prompt":"{long}"}}"#)), PROMPT_ESTIMATE_MAX);
    assert_eq!(Scan::of_text("a", 0..1).prompt_estimate, 0);
}

#[test]
fn prompts_that_begin_alike_have_the_same_affinity() {
    let affinity = |body: &str| scan(body.as_bytes()).expect("a model").affinity(body.as_bytes());
    let chat = |rest: &str| {
        affinity(&format!(r#"{{"model":"a","messages":[{{"role":"system","content":"s"}},{rest}],"x":1}}"#))
    };
    let one = chat(r#"{"content":"hi","role":"user"}"#);
    assert_eq!(one, chat(r#"{"content":"hi","role":"user"},{"role":"assistant","content":"yes"}"#));
    assert_ne!(one, chat(r#"{"content":"ho","role":"user"}"#));
    assert_ne!(chat(r#"{"role":"assistant","content":"a"}"#), chat(r#"{"role":"assistant","content":"b"}"#));
    assert_ne!(one, chat(r#"1,"x",{"role":["user"]},{"role":"user"}"#));
    let text = |text: String| affinity(&format!(r#"{{"model":"a","prompt":"{text}"}}"#));
    assert_eq!(text("x".repeat(2_000)), text("x".repeat(3_000)));
    assert_ne!(text("x".repeat(100)), text("x".repeat(101)));
    // Without a prompt the body's beginning counts, which differs between forms.
    let form = Scan::of_text("a", 0..1);
    assert_ne!(form.affinity(b"--one"), form.affinity(b"--two"));
}

/// What `serde_json` makes of a body: whether it is one object, and its last `model`.
fn reference(body: &[u8]) -> Result<Option<String>, ()> {
    struct LastModel;
    impl<'de> Visitor<'de> for LastModel {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut model = None;
            while let Some(key) = map.next_key::<String>()? {
                if key == "model" {
                    model = Some(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(model)
        }
    }
    let mut document = serde_json::Deserializer::from_slice(body);
    let model = (&mut document).deserialize_map(LastModel).map_err(|_| ())?;
    document.end().map_err(|_| ())?;
    Ok(model.and_then(|raw| String::deserialize(&mut serde_json::Deserializer::from_str(raw.get())).ok()))
}

fn agrees(body: &[u8]) -> Result<(), TestCaseError> {
    let shown = String::from_utf8_lossy(body);
    match (scan(body), reference(body)) {
        (Ok(scan), Ok(Some(model))) => {
            prop_assert_eq!(&scan.model, &model, "{}", shown);
            let whole = Bytes::copy_from_slice(body);
            let (changed, asks) = scan.for_engine(&whole, "another", true);
            let again = reference(&changed);
            prop_assert_eq!(again, Ok(Some("another".to_owned())), "{}", shown);
            let again = super::scan(&changed).expect("still a body");
            prop_assert_eq!(again.streams, scan.streams);
            prop_assert!(!asks || again.ask.is_none(), "{}", shown);
        }
        (Err(ScanError::MissingModel), Ok(None)) | (Err(ScanError::InvalidJson(_)), Err(())) => {}
        (ours, theirs) => prop_assert!(false, "{shown}: {ours:?}, but serde_json {theirs:?}"),
    }
    Ok(())
}

fn json() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("\"model\"".to_owned()),
        Just("\"mod\\u0065l\"".to_owned()),
        Just("\"stream\"".to_owned()),
        Just("\"stream_options\"".to_owned()),
        Just("\"include_usage\"".to_owned()),
        Just("\"\\ud83d\\ude00ä\"".to_owned()),
        "\"[a-z]{0,20}\"",
    ];
    let leaf = prop_oneof![
        "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?",
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("null".to_owned()),
        "\"([ -!#-\\[\\]-~äß😀]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}){0,40}\"",
    ];
    let space = "[ \n\t\r]{0,2}";
    let value = leaf.prop_recursive(4, 24, 4, move |inner| {
        let members = proptest::collection::vec((key.clone(), space, inner.clone()), 0..4);
        let object = members.prop_map(|members| {
            let members: Vec<String> = members.iter().map(|(k, s, v)| format!("{s}{k}{s}:{v}{s}")).collect();
            format!("{{{}}}", members.join(","))
        });
        let array =
            proptest::collection::vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(" ,")));
        prop_oneof![object, array]
    });
    proptest::collection::vec(
        (prop_oneof![Just("model"), Just("stream"), Just("stream_options"), Just("x")], value),
        0..5,
    )
    .prop_map(|members| {
        let members: Vec<String> = members.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        format!("{{\"model\":\"m\",\"stream\":true,{}}}", members.join(",")).replace(",}", "}")
    })
}

proptest! {
    #[test]
    fn what_serde_json_accepts_is_accepted_and_nothing_else(body in json()) {
        agrees(body.as_bytes())?;
    }

    #[test]
    fn a_body_with_a_few_wrong_bytes_is_judged_as_serde_json_does(
        body in json(),
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<Option<u8>>()), 1..4),
    ) {
        let mut body = body.into_bytes();
        for (index, byte) in wrong {
            let at = index.index(body.len());
            match byte {
                Some(byte) => body[at] = byte,
                None => drop(body.remove(at)),
            }
        }
        agrees(&body)?;
    }

    #[test]
    fn bytes_of_json_in_any_order_are_judged_as_serde_json_does(
        body in proptest::collection::vec(prop::sample::select(&b"{}[]:,\"\\ntrue01-.eE \x00\x1f\xc3u"[..]), 0..24),
    ) {
        agrees(&body)?;
        let mut value = b"{\"model\":\"m\",\"x\":".to_vec();
        value.extend_from_slice(&body);
        value.push(b'}');
        agrees(&value)?;
    }
}
