//! Route 53 behind a real socket: what is made there, what is left alone, and what is said when it fails.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "that is how a test fails")]

#[path = "edge_route53/credentials.rs"]
mod credentials;
#[path = "edge_route53/failures.rs"]
mod failures;
#[path = "edge_route53/zone.rs"]
mod zone;

use std::sync::Arc;
use std::time::Duration;

use nebula_core::token::Secret;
use nebulad::domain::edge::{EdgeError, Round, Verb, Wanted};
use nebulad::edge::route53::{Route53, Route53Options};
use nebulad::ports::Edge as _;
use zone::Zone;

const DOMAIN: &str = "gw.example.com";
const IP: &str = "203.0.113.7";
const RIGHT: &str = "300 203.0.113.7";
const MARK: &str = "\"heritage=nebula,domain=gw.example.com\"";

fn options(zone: &Zone) -> Route53Options {
    Route53Options {
        zone_id: zone::ZONE.to_owned(),
        credentials: Some(("AKIDTEST".to_owned(), Secret::from_text("very-secret-key"))),
        region: "us-east-1".to_owned(),
        ttl_seconds: 300,
        endpoint_url: Some(zone.url.clone()),
        domain: DOMAIN.to_owned(),
        gateway_ip: IP.parse().expect("an address"),
        wildcard: false,
    }
}

fn edge(zone: &Zone) -> Route53 {
    Route53::new(options(zone)).expect("good options")
}

fn wanted<S: Into<String>>(hosts: impl IntoIterator<Item = S>) -> Arc<Wanted> {
    let proxy = "10.0.0.1:8888".parse().expect("an address");
    let sites = hosts.into_iter().map(|host| (host.into(), Clone::clone(&proxy))).collect();
    Arc::new(Wanted { sites, may_remove: true, ..Wanted::default() })
}

const A: &str = "0000000a.gw.example.com";
const B: &str = "0000000b.gw.example.com";

async fn round(edge: &Route53, wanted: &Arc<Wanted>) -> Round {
    edge.reconcile(Arc::clone(wanted)).await.expect("a good round")
}

async fn failed(edge: &Route53, wanted: &Arc<Wanted>) -> EdgeError {
    edge.reconcile(Arc::clone(wanted)).await.expect_err("a failed round")
}

/// Moves the clock, but not the sockets.
async fn later(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

#[tokio::test]
async fn nodes_come_and_go_and_nothing_is_asked_while_nothing_changes() {
    let zone = Zone::start().await;
    let edge = edge(&zone);
    let first = round(&edge, &wanted([A, B])).await;
    assert_eq!((first.observed, first.changed), (3, 6));
    assert!(first.left.is_empty(), "{:?}", first.left);
    for host in [DOMAIN, A, B] {
        assert_eq!(zone.state().get(host, "A").as_deref(), Some(RIGHT), "{host}");
        assert_eq!(zone.state().get(&format!("_nebula.{host}"), "TXT"), Some(format!("300 {MARK}")));
    }
    assert!(zone.state().seen.iter().all(|seen| seen.authorization.contains("Credential=AKIDTEST/")));
    assert_eq!(round(&edge, &wanted([A, B])).await.changed, 0);
    assert_eq!(zone.counts(), (1, 1));
    let kept = Arc::new(Wanted { may_remove: false, ..(*wanted([A])).clone() });
    assert_eq!(round(&edge, &kept).await, Round { observed: 3, ..Round::default() });
    assert_eq!(round(&edge, &wanted([A])).await.changed, 2);
    assert_eq!(zone.state().names("A"), [A, DOMAIN]);
    assert_eq!(zone.state().names("TXT").len(), 2);
    assert_eq!(zone.counts().0, 1, "what was done is known");
    assert_eq!(edge.target(), format!("zone {} at {}", zone::ZONE, zone.url));
}

#[tokio::test]
async fn foreign_records_stay_and_only_their_names_are_blocked() {
    let zone = Zone::start().await;
    let host = |label: &str| format!("{label}.{DOMAIN}");
    let foreign: [(String, &str, &[&str]); 9] = [
        (host("plain"), "A", &["198.51.100.1"]),
        (host("right"), "A", &[IP]),
        (host("cname"), "CNAME", &["www.example.net"]),
        (host("six"), "AAAA", &["2001:db8::1"]),
        (host("alias"), "A", &[]),
        (host("_nebula.text"), "TXT", &["\"v=spf1 -all\""]),
        (host("_nebula.other"), "TXT", &["\"heritage=nebula,domain=other.example.com\""]),
        (host("unwanted"), "A", &["198.51.100.2"]),
        (DOMAIN.to_owned(), "MX", &["10 mail.example.com"]),
    ];
    for (name, kind, values) in &foreign {
        zone.state().put(name, kind, 60, values);
    }
    let edge = edge(&zone);
    let all = wanted(["plain", "right", "cname", "six", "alias", "text", "other", "free"].map(host));
    let plan = edge.plan(Arc::clone(&all)).await.expect("a plan");
    assert_eq!(zone.counts().1, 0, "a plan changes nothing");
    let done = round(&edge, &all).await;
    assert_eq!((plan.changes.len(), done.changed, done.observed), (4, 4, 2), "the domain and the free name");
    assert_eq!(plan.blocked, done.left.blocked);
    assert_eq!(done.left.changes, []);
    let blocked: Vec<&str> = done.left.blocked.iter().map(|blocked| blocked.name.as_str()).collect();
    assert_eq!(blocked, ["alias", "cname", "other", "plain", "six", "text"].map(host));
    assert_eq!(done.left.blocked[1].why, "a CNAME record is there that is not ours");
    for (name, kind, values) in &foreign {
        assert_eq!(zone.state().get(name, kind), Some(format!("60 {}", values.join(" "))), "{name}");
    }
    assert_eq!(zone.state().get(&host("free"), "A").as_deref(), Some(RIGHT));
    zone.state().remove(&host("cname"), "CNAME");
    edge.plan(Arc::clone(&all)).await.expect("a plan");
    assert_eq!(round(&edge, &all).await.changed, 2, "what a plan has seen the next round sees, too");
}

#[tokio::test]
async fn what_hands_did_is_found_by_the_daily_audit() {
    let zone = Zone::start().await;
    let edge = edge(&zone);
    let all = wanted([A, B]);
    round(&edge, &all).await;
    zone.state().remove(A, "A");
    zone.state().put(B, "A", 60, &["198.51.100.1", "198.51.100.2"]);
    assert_eq!(round(&edge, &all).await.changed, 0);
    later(Duration::from_secs(23 * 3_600)).await;
    assert_eq!(round(&edge, &all).await.changed, 0);
    later(Duration::from_secs(3_600)).await;
    let audit = round(&edge, &all).await;
    assert_eq!((audit.changed, audit.left.changes.len(), zone.counts().0), (2, 0, 2));
    for host in [A, B] {
        assert_eq!(zone.state().get(host, "A").as_deref(), Some(RIGHT));
    }
    // A node leaves whose record was edited: its removal is found invalid, and done as it is now.
    zone.state().put(B, "A", 60, &["198.51.100.3"]);
    assert_eq!(round(&edge, &wanted([A])).await.changed, 2);
    assert_eq!(zone.state().get(B, "A"), None);
    assert_eq!(zone.state().names("TXT").len(), 2);
}

#[tokio::test]
async fn another_address_or_time_to_live_overwrites_what_is_ours() {
    let zone = Zone::start().await;
    let all = wanted([A]);
    round(&edge(&zone), &all).await;
    let gateway_ip = "203.0.113.8".parse().expect("an address");
    let moved = Route53::new(Route53Options { gateway_ip, ttl_seconds: 60, ..options(&zone) });
    let moved = moved.expect("good options");
    let plan = moved.plan(Arc::clone(&all)).await.expect("a plan");
    assert!(plan.changes.iter().all(|change| change.verb == Verb::Change && change.kind == "A"));
    assert_eq!(plan.changes[0].to, "203.0.113.8");
    assert_eq!(round(&moved, &all).await.changed, 2);
    for host in [DOMAIN, A] {
        assert_eq!(zone.state().get(host, "A").as_deref(), Some("60 203.0.113.8"));
    }
}

#[tokio::test]
async fn a_wildcard_takes_the_place_of_a_record_per_node() {
    let zone = Zone::start().await;
    zone.state().put("www.gw.example.com", "A", 60, &["198.51.100.1"]);
    let all = wanted([A, B]);
    round(&edge(&zone), &all).await;
    let wildcard = Route53::new(Route53Options { wildcard: true, ..options(&zone) }).expect("good options");
    let done = round(&wildcard, &all).await;
    assert_eq!((done.changed, done.left.changes.len()), (2, 4), "first the wildcard, then the others go");
    let done = round(&wildcard, &all).await;
    assert_eq!((done.changed, done.observed, done.left.is_empty()), (4, 2, true));
    assert_eq!(zone.state().names("A"), ["\\052.gw.example.com", DOMAIN, "www.gw.example.com"]);
    assert_eq!(zone.state().names("TXT"), ["_nebula-wildcard.gw.example.com", "_nebula.gw.example.com"]);
    assert_eq!(round(&wildcard, &wanted([A])).await.changed, 0);
    // A fresh look finds the same, and the way back is as short.
    let again = Route53::new(Route53Options { wildcard: true, ..options(&zone) }).expect("good options");
    assert_eq!(round(&again, &all).await.changed, 0);
    assert_eq!(round(&edge(&zone), &all).await.changed, 6);
    assert_eq!(zone.state().names("A"), [A, B, DOMAIN, "www.gw.example.com"]);
}

#[tokio::test]
async fn a_thousand_nodes_take_pages_and_full_change_sets() {
    let zone = Zone::start().await;
    for other in ["aa.example.com", "gv.example.com", "gx.example.com", "zz.example.org"] {
        zone.state().put(other, "A", 60, &["198.51.100.1"]);
    }
    let all = wanted((0..1_000).map(|number| format!("{number:08x}.{DOMAIN}")));
    let first = edge(&zone);
    let mut changes = Vec::new();
    while changes.last() != Some(&0) {
        changes.push(round(&first, &all).await.changed);
    }
    assert_eq!(changes.iter().sum::<usize>(), 2_002);
    assert!(changes.len() <= 5, "{changes:?}");
    let (records, chars) = zone.state().largest;
    assert!(records == 1_000 && chars <= 32_000, "{records} records, {chars} characters");
    let pages = zone.counts().0;
    let fresh = round(&edge(&zone), &all).await;
    assert_eq!((fresh.observed, fresh.changed, fresh.left.is_empty()), (1_001, 0, true));
    assert_eq!(zone.counts().0 - pages, 7, "2,002 records in pages of 300");
}
