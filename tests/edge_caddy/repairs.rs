//! The configuration: from whatever is there to what is wanted, and nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nebula_core::clock::Clock;
use nebulad::domain::edge::{Trouble, Wanted};
use nebulad::ports::Edge as _;
use serde_json::{Value, json};

use super::between::{Between, request};
use super::process::RealCaddy;
use super::{DOMAIN, caddy, free_address, wanted};

const SERVERS: &str = "/config/apps/http/servers";
const OURS: &str = "/config/apps/http/servers/nebula";

fn nodes() -> Arc<Wanted> {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    wanted([("aaaa0001", at(1)), ("aaaa0002", at(2)), ("aaaa0003", at(3))])
}

/// The `@id`s of our server's routes, `-` for foreign ones.
async fn ids(real: &RealCaddy, server: &str) -> Vec<String> {
    let routes = real.read(&format!("{SERVERS}/{server}/routes")).await;
    let id = |route: &Value| route["@id"].as_str().unwrap_or("-").to_owned();
    routes.as_array().expect("routes").iter().map(id).collect()
}

const IDS: [&str; 5] = [
    "nebula-gateway",
    "nebula-node-aaaa0001",
    "nebula-node-aaaa0002",
    "nebula-node-aaaa0003",
    "nebula-unknown",
];

#[tokio::test]
async fn every_configuration_without_our_server_gets_it() {
    for apps in [
        json!({}),
        json!({"http": {}}),
        json!({"http": {"servers": null}}),
        json!({"http": {"servers": {}, "grace_period": "1s"}}),
        json!({"tls": {"automation": {"policies": [{"subjects": ["x.test"], "issuers": [{"module": "internal"}]}]}}}),
        json!({"http": {"servers": {"srv0": {"listen": [free_address().to_string()], "routes": [{"handle": []}]}}}}),
    ] {
        let Some(real) = RealCaddy::start(apps.clone()).await else { return };
        let listen = free_address();
        let edge = caddy(real.admin, &listen.to_string(), free_address());
        edge.probe().await.expect("caddy answers");
        let plan = edge.plan(nodes()).await.expect("a plan");
        assert_eq!((plan.changes.len(), plan.blocked.len()), (6, 0), "{apps}: {plan:?}");
        let round = edge.reconcile(nodes()).await.expect("a good round");
        assert_eq!((round.changed, round.observed), (6, 6), "{apps}");
        assert!(round.left.is_empty(), "{apps}: {:?}", round.left);
        assert_eq!(ids(&real, "nebula").await, IDS);
        let server = real.read(OURS).await;
        assert_eq!(server["listen"], json!([listen.to_string()]));
        assert_eq!(server["automatic_https"], json!({"disable": true}));

        let again = edge.reconcile(nodes()).await.expect("a good round");
        assert_eq!((again.changed, again.left.is_empty()), (0, true));
        let mut now = real.read("/config/apps").await;
        now["http"]["servers"].as_object_mut().expect("servers").remove("nebula");
        let mut expected = apps.clone();
        if expected["http"]["servers"].is_null() {
            expected["http"]["servers"] = json!({});
        }
        assert_eq!(now, expected, "the rest is as it was");
    }
}

#[tokio::test]
async fn a_caddy_without_any_configuration_gets_one() {
    let Some(real) = RealCaddy::start_empty().await else { return };
    assert_eq!(real.get("/config/").await.trim(), "null");
    let edge = caddy(real.admin, &free_address().to_string(), free_address());
    edge.probe().await.expect("caddy answers");
    let round = edge.reconcile(nodes()).await.expect("a good round");
    assert_eq!((round.changed, round.left.is_empty()), (6, true));
    assert_eq!(ids(&real, "nebula").await, IDS);
}

#[tokio::test]
async fn nodes_come_move_and_go() {
    let Some(real) = RealCaddy::start(json!({})).await else { return };
    let edge = caddy(real.admin, &free_address().to_string(), free_address());
    edge.reconcile(nodes()).await.expect("a good round");
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let other = wanted([("aaaa0002", at(22)), ("aaaa0009", at(9))]);
    let plan = edge.plan(Arc::clone(&other)).await.expect("a plan");
    let plan: Vec<String> =
        plan.changes.iter().map(|it| format!("{:?} {} {} {}", it.verb, it.kind, it.name, it.to)).collect();
    let expected = [
        format!("Remove route aaaa0001.{DOMAIN} "),
        format!("Change route aaaa0002.{DOMAIN} 127.0.0.1:22"),
        format!("Remove route aaaa0003.{DOMAIN} "),
        format!("Add route aaaa0009.{DOMAIN} 127.0.0.1:9"),
    ];
    assert_eq!(plan, expected);
    assert_eq!(ids(&real, "nebula").await, IDS, "a plan changes nothing");
    assert_eq!(edge.reconcile(Arc::clone(&other)).await.expect("a good round").changed, 4);
    let now = ["nebula-gateway", "nebula-node-aaaa0002", "nebula-node-aaaa0009", "nebula-unknown"];
    assert_eq!(ids(&real, "nebula").await, now);

    let careful = Wanted { may_remove: false, ..Wanted::default() };
    let round = edge.reconcile(Arc::new(careful)).await.expect("a good round");
    assert_eq!((round.changed, ids(&real, "nebula").await.len()), (0, 4), "nothing may go");
    assert_eq!(edge.reconcile(wanted([])).await.expect("a good round").changed, 2);
}

#[tokio::test]
async fn a_foreign_server_on_our_port_is_left_alone() {
    let port = free_address().port();
    for listen in [
        format!(":{port}"),
        format!("127.0.0.1:{port}"),
        format!("tcp/0.0.0.0:{port}"),
        format!("tcp4/:{port}"),
        format!("localhost:{port}-{port}"),
    ] {
        let servers = json!({"srv0": {"listen": [listen], "routes": [{"group": "g", "handle": []}]}});
        let Some(real) = RealCaddy::start(json!({"http": {"servers": {}}})).await else { return };
        real.set("PATCH", SERVERS, &servers).await;
        let before = real.get("/config/").await;
        let edge = caddy(real.admin, &format!("127.0.0.1:{port}"), free_address());
        let error = edge.reconcile(nodes()).await.expect_err("the port is taken");
        assert_eq!(error.trouble, Trouble::Refused, "{error:?}");
        assert_eq!(error.message, format!("caddy's server \"srv0\" already listens on 127.0.0.1:{port}"));
        assert!(
            error.hint.contains("--caddy-listen") && error.hint.contains("nebula-server"),
            "{}",
            error.hint
        );
        assert_eq!(edge.plan(nodes()).await.expect_err("the same").message, error.message);
        assert_eq!(real.get("/config/").await, before, "{listen}");

        real.set("PUT", &format!("{SERVERS}/srv0/@id"), &json!("nebula-server")).await;
        edge.reconcile(nodes()).await.expect("it may be used now");
        assert_eq!(ids(&real, "srv0").await, [&IDS[..4], &["-"]].concat());
        let server = real.read(&format!("{SERVERS}/srv0")).await;
        assert_eq!(server["listen"], servers["srv0"]["listen"]);
        assert_eq!(server["routes"][4], servers["srv0"]["routes"][0]);
        assert_eq!(server.as_object().expect("a server").len(), 3, "{server}");
    }
}

#[tokio::test]
async fn what_caddy_cannot_listen_on_is_told() {
    let Some(real) = RealCaddy::start(json!({})).await else { return };
    let before = real.get("/config/").await;
    let edge = caddy(real.admin, "203.0.113.1:80", free_address());
    let error = edge.reconcile(nodes()).await.expect_err("not an address of this machine");
    assert_eq!(error.trouble, Trouble::Refused);
    assert!(error.message.contains("cannot listen") && error.message.contains("203.0.113.1:80"), "{error}");
    assert_eq!(real.get("/config/").await, before);
}

#[tokio::test]
async fn damage_is_repaired_and_foreign_routes_stay() {
    let Some(real) = RealCaddy::start(json!({})).await else { return };
    let edge = caddy(real.admin, &free_address().to_string(), free_address());
    edge.reconcile(nodes()).await.expect("a good round");
    let foreign =
        json!({"handle": [{"body": "<&>\u{e9}", "handler": "static_response"}], "match": [{"path": ["/x"]}]});
    real.set("POST", &format!("{OURS}/routes"), &foreign).await;
    edge.reconcile(nodes()).await.expect("a good round");
    let right = real.get(SERVERS).await;
    assert_eq!(
        ids(&real, "nebula").await,
        [&IDS[..4], &["-", IDS[4]]].concat(),
        "the last one is last again"
    );

    let routes = real.read(&format!("{OURS}/routes")).await;
    let reversed: Vec<&Value> = routes.as_array().expect("routes").iter().rev().collect();
    let twice = [&routes[1], &routes[1], &routes[4], &routes[0]];
    let marked = json!({"@id": "nebula-node-zzzz", "handle": [], "match": [{"host": ["z.test"]}]});
    for (method, path, body) in [
        ("DELETE", "/routes/1", json!(null)),
        ("PATCH", "/routes", json!([foreign])),
        ("PATCH", "/routes", json!(reversed)),
        ("PATCH", "/routes", json!(twice)),
        ("PATCH", "/routes/2/handle/0/upstreams/0/dial", json!("127.0.0.1:7")),
        ("PUT", "/routes/2/group", json!("g")),
        ("DELETE", "/routes/5", json!(null)),
        ("PUT", "/routes/0", routes[5].clone()),
        ("POST", "/routes", marked),
        ("PATCH", "/listen", json!([free_address().to_string()])),
        ("PUT", "/strict_sni_host", json!(true)),
        ("DELETE", "/automatic_https", json!(null)),
    ] {
        real.set(method, &format!("{OURS}{path}"), &body).await;
        assert_ne!(real.get(SERVERS).await, right, "{method} {path}");
        let round = edge.reconcile(nodes()).await.expect("a good round");
        assert!(round.changed > 0 && round.left.is_empty(), "{method} {path}");
        assert_eq!(real.get(SERVERS).await, right, "{method} {path} {body}");
    }
}

#[tokio::test]
async fn our_routes_in_a_foreign_server_go_without_a_trace() {
    let listen = free_address().to_string();
    let foreign = json!({"handle": [{"handler": "static_response", "body": "mine"}], "terminal": true});
    let stray = json!({"@id": "nebula-node-aaaa0002", "handle": [], "match": [{"host": ["x.test"]}]});
    let apps =
        json!({"http": {"servers": {"srv0": {"listen": [listen], "routes": [foreign, stray, foreign]}}}});
    let Some(real) = RealCaddy::start(apps).await else { return };
    let edge = caddy(real.admin, &free_address().to_string(), free_address());
    let round = edge.reconcile(nodes()).await.expect("a good round");
    assert!(round.left.is_empty());
    assert_eq!(ids(&real, "nebula").await, IDS);
    let expected = json!({"listen": [listen], "routes": [foreign, foreign]});
    assert_eq!(real.read(&format!("{SERVERS}/srv0")).await, expected);
}

#[tokio::test]
async fn an_edit_between_look_and_write_is_not_lost() {
    let front = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = front.local_addr().expect("an address");
    let Some(real) = RealCaddy::start_behind(address, json!({"http": {"servers": {}}})).await else { return };
    let (admin, edits) = (real.admin, Arc::new(AtomicUsize::new(1)));
    let left = Arc::clone(&edits);
    let between = Between::start(
        front,
        admin,
        Arc::new(move |before| {
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).ok()?;
            let server = json!({"listen": [free_address().to_string()]}).to_string();
            Some(request("PUT", admin, &format!("{SERVERS}/other{before}"), &server))
        }),
    );
    let edge = caddy(between.address, &free_address().to_string(), free_address());
    let round = edge.reconcile(nodes()).await.expect("a good round");
    assert!(round.left.is_empty());
    assert_eq!(between.writes(), 2, "the first was refused, as the other server had come");
    let servers: BTreeMap<String, Value> = serde_json::from_str(&real.get(SERVERS).await).expect("servers");
    assert_eq!(servers.keys().collect::<Vec<_>>(), ["nebula", "other0"]);

    edits.store(100, Ordering::SeqCst);
    let error = edge.reconcile(wanted([])).await.expect_err("never quiet");
    assert_eq!(error.trouble, Trouble::Busy, "{error:?}");
    assert_eq!(between.writes(), 5, "three tries");
    assert_eq!(ids(&real, "nebula").await, IDS);
}

#[tokio::test]
async fn a_caddy_that_lost_everything_is_repaired() {
    let Some(mut real) = RealCaddy::start(json!({"tls": {}})).await else { return };
    let edge = caddy(real.admin, &free_address().to_string(), free_address());
    edge.reconcile(nodes()).await.expect("a good round");
    let before = real.get(SERVERS).await;
    real.kill();
    for error in [
        edge.probe().await.expect_err("it is gone"),
        edge.plan(nodes()).await.expect_err("it is gone"),
        edge.reconcile(nodes()).await.expect_err("it is gone"),
    ] {
        assert_eq!(error.trouble, Trouble::Unreachable);
        assert!(error.message.contains("onnection refused"), "{error}");
        assert!(error.message.contains(&real.admin.to_string()) && !error.hint.is_empty(), "{error}");
    }
    real.restart().await;
    edge.probe().await.expect("it is back");
    assert!(real.get(SERVERS).await.contains("invalid traversal path"), "it has lost its servers");
    edge.reconcile(nodes()).await.expect("a good round");
    assert_eq!(real.get(SERVERS).await, before);
}

#[tokio::test]
async fn many_nodes_are_one_write() {
    let count: u32 = if std::env::var_os("NEBULA_FULL").is_some() { 5_000 } else { 1_000 };
    let front = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = front.local_addr().expect("an address");
    let Some(real) = RealCaddy::start_behind(address, json!({})).await else { return };
    let between = Between::start(front, real.admin, Arc::new(|_| None));
    let edge = caddy(between.address, &free_address().to_string(), free_address());
    let labels: Vec<String> = (0..count).map(|at| format!("{at:08x}")).collect();
    let at = |number: u32| SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a00_0000 + number), 8888));
    let all = wanted(labels.iter().map(String::as_str).zip((0..count).map(at)));
    let clock = Clock::start();
    let round = edge.reconcile(Arc::clone(&all)).await.expect("a good round");
    let first = clock.elapsed();
    assert_eq!((round.changed, round.left.is_empty()), (count as usize + 3, true));
    assert_eq!(between.writes(), 1);
    let clock = Clock::start();
    assert_eq!(edge.reconcile(Arc::clone(&all)).await.expect("a good round").changed, 0);
    let looked = clock.elapsed();
    assert_eq!(between.writes(), 1, "nothing to write");
    let bytes = real.get(SERVERS).await.len();
    let mut fewer = (*all).clone();
    fewer.sites.pop_first();
    let clock = Clock::start();
    assert_eq!(edge.reconcile(Arc::new(fewer)).await.expect("a good round").changed, 1);
    println!(
        "figures: {count} nodes, {bytes} bytes: all at once {first:?}, a look {looked:?}, one fewer {:?}",
        clock.elapsed()
    );
    assert_eq!(between.writes(), 2);
}
