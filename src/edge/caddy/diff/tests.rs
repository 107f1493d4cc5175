//! Tables of what may be there; and whatever is there, what is not ours stays as it is and ours comes to be right.

use proptest::prelude::*;
use serde_json::value::{RawValue, to_raw_value};

use super::*;
use crate::domain::edge::Trouble;

type Raw = std::collections::BTreeMap<String, Box<RawValue>>;

const SITES: [(&str, &str); 3] = [
    ("a.example.com", "10.0.0.1:8888"),
    ("a-b.example.com", "10.0.0.2:8888"),
    ("c.example.com", "[::1]:8888"),
];

fn site(listen: &str) -> Site {
    Site {
        listen: listen.to_owned(),
        listener: Listener::parse(listen).expect(listen),
        domain: "example.com".to_owned(),
        gateway: "127.0.0.1:8080".parse().expect("an address"),
    }
}

fn wanted(sites: usize, may_remove: bool) -> Wanted {
    let sites = SITES.iter().take(sites);
    let sites = sites.map(|(host, address)| ((*host).to_owned(), address.parse().expect("an address")));
    Wanted { sites: sites.collect(), may_remove, ..Wanted::default() }
}

fn step(servers: &str, wanted: &Wanted) -> Result<Step, EdgeError> {
    diff(&Seen::parse(servers).expect(servers), wanted, &site(":8443"))
}

/// Does what Caddy does with a write; what it would refuse fails the test.
fn apply(servers: &str, write: &Write) -> String {
    let mut all: Raw = serde_json::from_str::<Option<Raw>>(servers).expect(servers).unwrap_or_default();
    let rest = write.path.strip_prefix(SERVERS_PATH).and_then(|rest| rest.strip_prefix('/'));
    let (key, field) = rest
        .expect("a server")
        .split_once('/')
        .map_or((rest.expect("a server"), None), |(key, f)| (key, Some(f)));
    let key = unescaped(key);
    let body = || RawValue::from_string(write.body.clone()).expect("a body of JSON");
    match (write.method, field) {
        (Method::Put, None) => assert!(all.insert(key, body()).is_none(), "it is there already"),
        (Method::Patch, None) => assert!(all.insert(key, body()).is_some(), "it is not there"),
        (Method::Delete, None) => assert!(all.remove(&key).is_some(), "it is not there"),
        (method, Some(field)) => {
            let mut server: Raw = serde_json::from_str(all[&key].get()).expect("an object");
            let old = server.insert(field.to_owned(), body());
            assert_eq!(old.is_some(), method == Method::Patch, "{write:?}");
            all.insert(key, to_raw_value(&server).expect("JSON"));
        }
    }
    serde_json::to_string(&all).expect("JSON")
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.map(|hex| u8::from_str_radix(hex, 16).expect("hexadecimal"));
        bytes.push(byte.unwrap_or(*first));
        rest = &more[if byte.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8(bytes).expect("text")
}

/// Writes until nothing is left to be written.
fn settled(servers: &str, wanted: &Wanted) -> Result<String, EdgeError> {
    let mut servers = servers.to_owned();
    for _ in 0..10 {
        let step = step(&servers, wanted)?;
        assert_eq!(step.write.is_some(), !step.differences.changes.is_empty(), "{servers}");
        let Some(write) = step.write else { return Ok(servers) };
        assert!(write.changes > 0);
        servers = apply(&servers, &write);
    }
    panic!("no end of it: {servers}");
}

fn changes(servers: &str, wanted: &Wanted) -> Vec<String> {
    let step = step(servers, wanted).expect("no trouble");
    let line = |change: &Change| format!("{:?} {} {} {}", change.verb, change.kind, change.name, change.to);
    step.differences.changes.iter().map(line).collect()
}

fn server<'a>(seen: &'a Seen<'_>, key: &str) -> &'a Server<'a> {
    seen.servers.iter().find(|server| server.key == key).expect(key)
}

#[test]
fn nothing_there_is_one_write_of_everything() {
    for none in ["null", "{}", r#"{"srv0":{"listen":[":80"]}}"#] {
        let step = step(none, &wanted(2, true)).expect("no trouble");
        let write = step.write.expect("a write");
        assert_eq!((write.method, &*write.path), (Method::Put, "/config/apps/http/servers/nebula"));
        assert_eq!(write.changes, 5, "the server and four routes");
    }
    assert_eq!(
        changes("null", &wanted(2, true)),
        [
            "Add route a-b.example.com 10.0.0.2:8888",
            "Add route a.example.com 10.0.0.1:8888",
            "Add route any other name 404",
            "Add route example.com 127.0.0.1:8080",
            "Add server nebula :8443",
        ]
    );
}

#[test]
fn routes_stand_in_their_order_with_foreign_ones_before_the_last() {
    let foreign = r#"{"handle":[],"x":1.0e5}"#;
    let own = format!(r#"{{"nebula":{{"@id":"nebula-server","routes":[{foreign}]}}}}"#);
    let after = settled(&own, &wanted(3, true)).expect("no trouble");
    let seen = Seen::parse(&after).expect("JSON");
    let order: Vec<&str> = server(&seen, "nebula")
        .routes
        .iter()
        .map(|route| route.ours.as_deref().unwrap_or(route.text))
        .collect();
    let expected =
        ["nebula-gateway", "nebula-node-a-b", "nebula-node-a", "nebula-node-c", foreign, "nebula-unknown"];
    assert_eq!(order, expected);
    assert_eq!(step(&after, &wanted(3, true)).expect("no trouble").observed, 6);
}

#[test]
fn every_damage_is_put_right() {
    let right = settled("null", &wanted(3, true)).expect("no trouble");
    let damaged = |from: &str, to: &str| {
        let damaged = right.replacen(from, to, 1);
        assert_ne!(damaged, right, "{from}");
        damaged
    };
    for (damaged, what) in [
        (damaged("10.0.0.1:8888", "10.6.6.6:8888"), "Change route a.example.com 10.0.0.1:8888"),
        (
            damaged(r#""terminal":true"#, r#""group":"x","terminal":true"#),
            "Change route example.com 127.0.0.1:8080",
        ),
        (damaged("nebula-node-a\"", "nebula-node-c\""), "Add route a.example.com 10.0.0.1:8888"),
        (damaged("nebula-node-a\"", "mine\""), "Add route a.example.com 10.0.0.1:8888"),
        (damaged(r#""listen":[":8443"]"#, r#""listen":[":8444"]"#), "Change server nebula :8443"),
        (damaged(r#""listen":[":8443"]"#, r#""listen":[":8443"],"logs":{}"#), "Change server nebula :8443"),
        (damaged(r#""automatic_https":{"disable":true},"#, ""), "Change server nebula :8443"),
        (damaged(r#""status_code":404"#, r#""status_code":200"#), "Change route any other name 404"),
    ] {
        let changes = changes(&damaged, &wanted(3, true));
        assert!(changes.iter().any(|change| change == what), "{what}: {changes:?}");
        let after = settled(&damaged, &wanted(3, true)).expect("no trouble");
        assert!(step(&after, &wanted(3, true)).expect("no trouble").differences.is_empty());
    }
    let reversed = {
        let mut all: Value = serde_json::from_str(&right).expect("JSON");
        all["nebula"]["routes"].as_array_mut().expect("routes").reverse();
        all.to_string()
    };
    assert_eq!(changes(&reversed, &wanted(3, true)), ["Change server nebula its routes in order"]);
    assert_eq!(settled(&reversed, &wanted(3, true)).expect("no trouble"), right);
}

#[test]
fn the_same_in_other_words_is_right() {
    let right = settled("null", &wanted(1, true)).expect("no trouble");
    let spaced = right.replace("\"handle\":", "\"handle\" : ").replace("example", "ex\\u0061mple");
    assert!(step(&spaced, &wanted(1, true)).expect("no trouble").differences.is_empty());
}

#[test]
fn what_is_not_wanted_goes_only_when_it_may() {
    let three = settled("null", &wanted(3, true)).expect("no trouble");
    assert_eq!(
        changes(&three, &wanted(1, true)),
        ["Remove route a-b.example.com ", "Remove route c.example.com "]
    );
    let kept = settled(&three, &wanted(1, false)).expect("no trouble");
    for (_, address) in SITES {
        assert!(kept.contains(address), "{address}");
    }
    let gone = settled(&kept, &wanted(0, true)).expect("no trouble");
    assert_eq!(changes(&gone, &wanted(0, true)), [""; 0]);
    assert!(SITES.iter().all(|(_, address)| !gone.contains(address)));
}

#[test]
fn a_foreign_server_on_our_port_is_refused_and_named() {
    for listen in [":8443", "tcp/0.0.0.0:8443", ":8000-9000", "127.0.0.1:8443"] {
        let there = format!(r#"{{"srv0":{{"listen":["{listen}"]}}}}"#);
        let error = step(&there, &wanted(1, true)).expect_err(listen);
        assert_eq!(error.trouble, Trouble::Refused);
        assert_eq!(error.message, "caddy's server \"srv0\" already listens on :8443");
        assert!(error.hint.contains("--caddy-listen") && error.hint.contains("\"@id\": \"nebula-server\""));
    }
}

#[test]
fn a_server_that_comes_to_our_port_later_is_told_while_the_nodes_go_on() {
    let right = settled("null", &wanted(1, true)).expect("no trouble");
    let both = right.replacen('{', r#"{"srv0":{"listen":["0.0.0.0:8443"]},"#, 1);
    let step = step(&both, &wanted(2, true)).expect("no trouble");
    assert_eq!(step.differences.blocked[0].why, "caddy's server \"srv0\" already listens on :8443");
    assert_eq!(step.differences.changes.len(), 1);
    assert!(step.write.is_some());
}

#[test]
fn an_adopted_server_gets_our_routes_and_nothing_else() {
    for (routes, method) in
        [("", Method::Put), (r#","routes":null"#, Method::Patch), (r#","routes":[{}]"#, Method::Patch)]
    {
        let there = format!(r#"{{"a b":{{"@id":"nebula-server","listen":[":8443"],"logs":{{}}{routes}}}}}"#);
        let write = step(&there, &wanted(1, true)).expect("no trouble").write.expect("a write");
        assert_eq!((write.method, &*write.path), (method, "/config/apps/http/servers/a%20b/routes"));
        let after = settled(&there, &wanted(1, true)).expect("no trouble");
        assert!(after.contains("nebula-node-a\"") && !after.contains("nebula-unknown"));
        assert!(after.contains(r#""listen":[":8443"],"logs":{}"#), "{after}");
    }
}

#[test]
fn routes_move_to_a_server_that_is_adopted_and_back() {
    let own = settled("null", &wanted(2, true)).expect("no trouble");
    let adopted = own.replacen('{', r#"{"srv0":{"@id":"nebula-server","listen":[":443"]},"#, 1);
    let moved = settled(&adopted, &wanted(2, true)).expect("no trouble");
    let seen = Seen::parse(&moved).expect("JSON");
    assert_eq!(seen.servers.len(), 1, "ours is gone: {moved}");
    assert_eq!(seen.servers[0].ours().count(), 3);
    let let_go = moved.replace("nebula-server", "mine");
    let back = settled(&let_go, &wanted(2, true)).expect("no trouble");
    let seen = Seen::parse(&back).expect("JSON");
    assert_eq!(server(&seen, "srv0").routes.len(), 0);
    assert_eq!(server(&seen, "nebula").routes.len(), 4);
}

#[test]
fn what_only_a_person_can_decide_is_refused() {
    for (there, part) in [
        (r#"{"a":{"@id":"nebula-server"},"b":{"@id":"nebula-server"}}"#, "\"a\" and \"b\""),
        (r#"{"nebula":{"listen":[":1"]}}"#, "\"nebula\" that is not marked"),
        (r#"{"nebula":{"@id":7}}"#, "\"nebula\" that is not marked"),
        (r#"{"a/b":{"@id":"nebula-server"}}"#, "cannot address"),
    ] {
        let error = step(there, &wanted(1, true)).expect_err(there);
        assert_eq!(error.trouble, Trouble::Refused);
        assert!(error.message.contains(part) && !error.hint.is_empty(), "{error:?}");
    }
}

#[test]
fn what_caddy_could_not_have_is_nonsense() {
    for text in
        ["", "[]", "7", r#"{"a":7}"#, r#"{"a":{"routes":{}}}"#, r#"{"a":{"listen":":80"}}"#, r#"{"a":{}"#]
    {
        assert!(Seen::parse(text).is_err(), "{text}");
    }
}

/// Any JSON as a text, with what parsers like to change: long numbers, escapes, repeated keys, blanks.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("123456789012345678901234567890.10".to_owned()),
        Just("-0.0e-0".to_owned()),
        Just("1E400".to_owned()),
        Just(r#""\u003cb\u003e \ud83d\ude00 \/ é""#.to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        "[a-z]{0,6}".prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let field = ("[ab]", inner.clone()).prop_map(|(key, value)| format!("\"{key}\" :{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(|items| format!("[{}]", items.join(" ,"))),
            prop::collection::vec(field, 0..4).prop_map(|fields| format!("{{ {}\n}}", fields.join(","))),
        ]
    })
}

fn route_text() -> impl Strategy<Value = String> {
    let id = prop_oneof![
        Just("nebula-gateway"),
        Just("nebula-unknown"),
        Just("nebula-node-a"),
        Just("nebula-node-a-b"),
        Just("nebula-node-gone"),
        Just("nebula-custom"),
        Just("\\u006eebula-node-c"),
        Just("mine"),
    ];
    let rendered = (0..SITES.len()).prop_map(|at| {
        let (host, address) = SITES[at];
        render::node(&site(":8443"), host, &address.parse().expect("an address")).text
    });
    prop_oneof![
        2 => json_text().prop_map(|value| format!("{{\"handle\": {value}}}")),
        2 => (id, json_text()).prop_map(|(id, value)| format!("{{\"x\":{value},\"@id\" : \"{id}\"}}")),
        1 => json_text().prop_map(|value| format!("{{\"@id\":{value}}}")),
        1 => Just(r#"["nebula-node-a"]"#.to_owned()),
        2 => rendered,
    ]
}

fn server_text() -> impl Strategy<Value = String> {
    let id = prop_oneof![
        4 => Just(""),
        2 => Just(r#""@id":"nebula-server","#),
        1 => Just(r#""@id":"other","#),
    ];
    let listen = prop_oneof![
        4 => Just(r#""listen":[":80","unix//x"],"#),
        2 => Just(r#""listen":[":8443"],"#),
        1 => Just(r#""listen":null,"#),
    ];
    let routes = prop_oneof![
        1 => Just(String::new()),
        1 => Just("\"routes\":null,".to_owned()),
        6 => prop::collection::vec(route_text(), 0..6).prop_map(|all| format!("\"routes\": [{}],", all.join(", "))),
    ];
    (id, listen, routes, json_text())
        .prop_map(|(id, listen, routes, value)| format!("{{{id}{listen}{routes}\"extra\":{value}}}"))
}

fn servers_text() -> impl Strategy<Value = String> {
    let key = prop_oneof![3 => Just("nebula"), 2 => Just("srv0"), 2 => Just("a b%\u{e9}"), 1 => Just("x/y")];
    prop::collection::btree_map(key, server_text(), 0..4).prop_map(|servers| {
        let servers = servers.into_iter().map(|(key, server)| format!("\"{key}\":{server}"));
        format!("{{{}}}", servers.collect::<Vec<_>>().join(","))
    })
}

/// Every text that is not ours, with where it is: it must be there afterwards.
fn foreign_texts(servers: &str) -> Vec<(String, String)> {
    let seen = Seen::parse(servers).expect(servers);
    let mut found = Vec::new();
    for server in &seen.servers {
        found.extend(server.foreign().map(|text| (format!("{} route", server.key), text.to_owned())));
        if server.key != SERVER_KEY {
            let fields = server.fields.iter();
            found.extend(fields.map(|(key, raw)| (format!("{} {key}", server.key), raw.get().to_owned())));
        }
    }
    found
}

#[test]
fn a_route_whose_node_is_gone_may_go_before_all_may() {
    let three = settled("null", &wanted(3, true)).expect("no trouble");
    let gone = [SITES[1].0.to_owned()].into();
    let after = settled(&three, &Wanted { gone, ..wanted(1, false) }).expect("no trouble");
    let there = SITES.map(|(_, address)| after.contains(address));
    assert_eq!(there, [true, false, true], "the last one's node may live");
}

#[test]
fn a_server_that_is_adopted_leaves_no_second_copy_of_a_route() {
    let three = settled("null", &wanted(3, true)).expect("no trouble");
    let adopted = three.replacen('{', r#"{"edge":{"@id":"nebula-server","listen":[":80"]},"#, 1);
    let after = settled(&adopted, &wanted(2, false)).expect("no trouble");
    for (id, count) in
        [("nebula-gateway", 1), ("nebula-node-a\"", 1), ("nebula-unknown", 0), ("nebula-node-c", 1)]
    {
        assert_eq!(after.matches(id).count(), count, "{id} in {after}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_is_there_foreign_texts_stay_and_ours_come_right(
        servers in servers_text(),
        sites in 0..=SITES.len(),
        may_remove: bool,
    ) {
        let wanted = wanted(sites, may_remove);
        if let Ok(after) = settled(&servers, &wanted) {
            prop_assert_eq!(foreign_texts(&servers), foreign_texts(&after));
            let step = step(&after, &wanted).expect("no trouble");
            prop_assert!(step.differences.changes.is_empty() && step.write.is_none());
            let seen = Seen::parse(&after).expect("JSON");
            let home = Home::find(&seen).expect("no trouble").server().expect("a server");
            let ids: Vec<&str> = home.ours().map(|(id, _)| id).collect();
            for (host, address) in &wanted.sites {
                let node = render::node(&site(":8443"), host, address);
                let found: Vec<_> = home.ours().filter(|(id, _)| *id == node.id).collect();
                prop_assert!(found.len() == 1 && same(found[0].1.text, &node.text));
            }
            let expected = 1 + sites + usize::from(home.key == SERVER_KEY);
            prop_assert!(ids.len() == expected || !may_remove && ids.len() > expected, "{:?}", ids);
        }
    }

    #[test]
    fn without_leave_no_nodes_route_goes(servers in servers_text(), sites in 0..=SITES.len()) {
        let nodes = |servers: &str| {
            let seen = Seen::parse(servers).expect("JSON");
            let ids = seen.servers.iter().flat_map(|server| server.ours().map(|(id, _)| id.to_owned()));
            ids.filter(|id| render::is_node(id)).collect::<std::collections::BTreeSet<_>>()
        };
        if let Ok(after) = settled(&servers, &wanted(sites, false)) {
            prop_assert!(nodes(&servers).is_subset(&nodes(&after)));
        }
    }

    #[test]
    fn the_servers_are_found_in_any_configuration(servers in servers_text(), other in json_text()) {
        let whole = format!("{{\"admin\":{other},\"apps\":{{\"x\":{other},\"http\":{{\"servers\": {servers}}}}}}}");
        prop_assert_eq!(crate::edge::caddy::seen::servers_within(&whole), Ok(servers));
        let without = format!("{{\"apps\":{{\"tls\":{other}}}}}");
        prop_assert_eq!(crate::edge::caddy::seen::servers_within(&without), Ok("null".to_owned()));
    }
}
