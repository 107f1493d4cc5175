//! What is said when Route 53 fails, and that it comes right by itself afterwards.

use std::time::Duration;

use nebulad::domain::edge::Trouble::{self, Busy, Refused, Unreachable};
use nebulad::edge::route53::{Route53, Route53Options};
use nebulad::ports::Edge as _;

use crate::zone::{Fault, Zone};
use crate::{A, B, DOMAIN, RIGHT, edge, failed, options, round, wanted};

/// It goes on, and does not say where.
const ENDLESS: &str = "<ListResourceRecordSetsResponse><ResourceRecordSets/><IsTruncated>true</IsTruncated>\
                       <MaxItems>300</MaxItems></ListResourceRecordSetsResponse>";
const HTML: &str = "<!DOCTYPE html><html><body>Please log in</body></html>";

#[tokio::test]
async fn each_failure_to_list_is_named_and_gets_well() {
    let cases: [(Fault, Trouble, &str, &str); 15] = [
        (Fault::Error(400, "Throttling", "Rate exceeded"), Busy, "Throttling: Rate exceeded", ""),
        (
            Fault::Error(403, "AccessDenied", "User: arn x"),
            Refused,
            "AccessDenied: User: arn x",
            "route53:List",
        ),
        (Fault::Error(403, "InvalidClientTokenId", "invalid"), Refused, "InvalidClientTokenId", "access key"),
        (Fault::Error(403, "SignatureDoesNotMatch", "x"), Refused, "SignatureDoesNotMatch", "clock"),
        (Fault::Error(403, "ExpiredToken", "expired"), Refused, "ExpiredToken", "renew"),
        (Fault::Error(404, "NoSuchHostedZone", "none"), Refused, "NoSuchHostedZone: none", "hosted-zone-id"),
        (Fault::Error(500, "InternalFailure", "oops"), Unreachable, "InternalFailure: oops", ""),
        (Fault::Raw(500, ""), Unreachable, "HTTP 500", ""),
        (Fault::Raw(200, HTML), Unreachable, "answers, but not as Route 53 does (HTTP 200)", "endpoint-url"),
        (Fault::Raw(403, HTML), Unreachable, "answers, but not as Route 53 does (HTTP 403)", "endpoint-url"),
        (Fault::Raw(302, ""), Unreachable, "answers, but not as Route 53 does (HTTP 302)", "endpoint-url"),
        (Fault::Truncated, Unreachable, "answers, but not as Route 53 does (HTTP 200)", "endpoint-url"),
        (
            Fault::Raw(200, ENDLESS),
            Unreachable,
            "answers, but not as Route 53 does (HTTP 200)",
            "endpoint-url",
        ),
        (Fault::Cut, Unreachable, "answers, but not as Route 53 does (HTTP 200)", "endpoint-url"),
        (Fault::Reset, Unreachable, "no connection", "network"),
    ];
    let zone = Zone::start().await;
    for (fault, trouble, message, hint) in cases {
        let edge = edge(&zone);
        zone.fail("GET", [fault.clone()]);
        let error = failed(&edge, &wanted([A])).await;
        assert_eq!(error.trouble, trouble, "{fault:?}: {error:?}");
        assert!(error.message.contains(message), "{fault:?}: {}", error.message);
        assert!(error.message.starts_with("route 53, zone Z0TEST at http://127.0.0.1:"), "{}", error.message);
        assert!(error.hint.contains(hint), "{fault:?}: {}", error.hint);
        assert!(!format!("{error:?} {edge:?}").contains("very-secret-key"));
        assert!(round(&edge, &wanted([A])).await.left.is_empty());
    }
    let wrong = Route53Options { zone_id: "ZWRONG".to_owned(), ..options(&zone) };
    let error = failed(&Route53::new(wrong).expect("good options"), &wanted([A])).await;
    assert!(error.message.contains("zone ZWRONG") && error.message.contains("NoSuchHostedZone"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_five_seconds() {
    let zone = Zone::start().await;
    let edge = edge(&zone);
    zone.fail("GET", [Fault::Hang]);
    let clock = nebula_core::clock::Clock::start();
    let error = edge.probe().await.expect_err("no answer");
    assert_eq!(
        (error.trouble, error.message.contains("no answer in time")),
        (Unreachable, true),
        "{error:?}"
    );
    let took = clock.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!(zone.state().seen.len(), 1, "nothing is repeated behind our back");
    edge.probe().await.expect("it is back");
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let zone = Zone::start().await;
    let endpoint_url = Some("http://127.0.0.1:1".to_owned());
    let edge = Route53::new(Route53Options { endpoint_url, ..options(&zone) }).expect("good options");
    let error = edge.probe().await.expect_err("nobody is there");
    assert_eq!(error.trouble, Unreachable);
    assert!(error.message.contains("no connection: "), "{error:?}");
}

#[tokio::test]
async fn a_change_that_was_surely_not_made_needs_no_new_listing() {
    let zone = Zone::start().await;
    let edge = edge(&zone);
    zone.fail(
        "POST",
        [
            Fault::Error(400, "Throttling", "Rate exceeded"),
            Fault::Error(400, "PriorRequestNotComplete", "The request was rejected"),
        ],
    );
    for text in ["Throttling: Rate exceeded", "PriorRequestNotComplete: The request was rejected"] {
        let error = failed(&edge, &wanted([A])).await;
        assert_eq!((error.trouble, error.message.contains(text)), (Busy, true), "{error:?}");
    }
    zone.fail("POST", [Fault::Error(403, "AccessDenied", "no")]);
    assert_eq!(failed(&edge, &wanted([A])).await.trouble, Refused);
    assert_eq!(round(&edge, &wanted([A])).await.changed, 4);
    assert_eq!(zone.counts(), (1, 4));
}

#[tokio::test]
async fn after_a_change_that_may_have_been_made_the_zone_is_listed_again() {
    for (fault, trouble, was_made) in [
        (Fault::Error(500, "InternalFailure", ""), Busy, false),
        (Fault::Raw(503, HTML), Busy, false),
        (Fault::Reset, Unreachable, false),
        (Fault::DoneAndReset, Unreachable, true),
        (Fault::Truncated, Unreachable, true),
    ] {
        let zone = Zone::start().await;
        let edge = edge(&zone);
        zone.fail("POST", [fault.clone()]);
        let error = failed(&edge, &wanted([A])).await;
        assert_eq!(error.trouble, trouble, "{fault:?}: {error:?}");
        let again = round(&edge, &wanted([A])).await;
        assert_eq!((again.changed, again.observed), (if was_made { 0 } else { 4 }, 2), "{fault:?}");
        assert_eq!(zone.counts().0, 2, "{fault:?}");
    }
}

#[tokio::test]
async fn a_record_that_appears_before_the_write_is_found_in_the_same_round() {
    let zone = Zone::start().await;
    let edge = edge(&zone);
    zone.state().appears = Some((A, "A", "198.51.100.1"));
    let done = round(&edge, &wanted([A, B])).await;
    assert_eq!((done.changed, done.left.changes.len()), (4, 0), "the others go on");
    assert_eq!(done.left.blocked[0].name, A);
    assert_eq!(zone.state().get(A, "A").as_deref(), Some("60 198.51.100.1"));
    assert_eq!(zone.state().get(B, "A").as_deref(), Some(RIGHT));
}

#[tokio::test]
async fn a_name_that_route_53_does_not_take_does_not_stop_the_others() {
    let zone = Zone::start().await;
    let edge = edge(&zone);
    zone.state().refuses = Some(A);
    let done = round(&edge, &wanted([A, B])).await;
    assert_eq!((done.changed, done.observed), (4, 2));
    let blocked = &done.left.blocked[0];
    assert_eq!(blocked.name, A);
    assert!(blocked.why.starts_with("route 53 does not take it: [RRSet with DNS name"), "{}", blocked.why);
    let posts = zone.counts().1;
    assert_eq!(round(&edge, &wanted([A, B])).await.changed, 0);
    assert_eq!(zone.counts().1, posts, "it is not tried again at once");
    zone.state().refuses = None;
    crate::later(Duration::from_secs(301)).await;
    assert_eq!(round(&edge, &wanted([A, B])).await.changed, 2);
}

#[tokio::test]
async fn a_change_set_that_is_refused_as_a_whole_says_why() {
    let zone = Zone::start().await;
    let edge = edge(&zone);
    zone.fail("POST", [Fault::Messages("It is Sunday"), Fault::Messages("It is Sunday")]);
    let error = failed(&edge, &wanted([A])).await;
    assert_eq!(error.trouble, Busy);
    assert!(error.message.ends_with("InvalidChangeBatch: It is Sunday"), "{}", error.message);
    zone.state().faults.clear();
    zone.fail("POST", [Fault::Error(400, "InvalidInput", "Invalid request")]);
    assert_eq!(failed(&edge, &wanted([A])).await.trouble, Refused);
    let elsewhere = "RRSet with DNS name gw.example.com. is not permitted in zone example.org.";
    zone.fail("POST", [Fault::Error(400, "InvalidChangeBatch", elsewhere)]);
    let error = failed(&edge, &wanted([A])).await;
    assert_eq!((error.trouble, error.hint.contains("--gateway-domain")), (Refused, true), "{error:?}");
    assert_eq!(round(&edge, &wanted([A])).await.changed, 4);
    assert_eq!(zone.state().names("A"), [A, DOMAIN]);
}

#[tokio::test]
async fn all_calls_together_keep_to_two_requests_per_second() {
    let zone = Zone::start().await;
    let edge = edge(&zone);
    let calls = (0..5).map(|_| {
        let edge = edge.clone();
        tokio::spawn(async move {
            edge.probe().await.expect("an answer");
            edge.plan(wanted([A])).await.expect("a plan");
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("no panic");
    }
    let mut at: Vec<Duration> = zone.state().seen.iter().map(|seen| seen.at).collect();
    at.sort();
    assert_eq!(at.len(), 10);
    let took = at[9].saturating_sub(at[0]);
    assert!(took > Duration::from_millis(2_500), "10 requests in {took:?}");
}
