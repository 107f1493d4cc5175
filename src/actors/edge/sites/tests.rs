//! What the book says after the registry has written.

use std::collections::BTreeMap;

use nebula_core::clock::WallTime;
use proptest::prelude::*;

use super::*;
use crate::domain::node::{Capabilities, Node, Presence, Scheduling};

fn update(n: u8, port: u16, availability: Availability) -> NodeUpdate {
    let node = Node {
        id: format!("node-{n}").parse().expect("an id"),
        name: format!("n{n}"),
        version: "1".to_owned(),
        address: format!("10.0.0.{n}:9091").parse().expect("an address"),
        proxy_port: port,
        subdomain: format!("AB{n}.Example.com"),
        labels: BTreeMap::new(),
        capabilities: Capabilities::default(),
        boot_id: String::new(),
        scheduling: Scheduling::Schedulable,
        presence: Presence::Expected,
        created_at: WallTime(1),
    };
    NodeUpdate { node, availability }
}

/// A book of a nebulad that started so long ago.
fn book(since_start: Duration) -> SiteBook {
    let clock = Clock::start();
    SiteBook::new(clock, clock.now().plus(GRACE.saturating_sub(since_start)))
}

fn settled() -> SiteBook {
    book(GRACE)
}

const GRACE: Duration = Duration::from_secs(3_600);

fn version(book: &SiteBook) -> u64 {
    *book.watch().borrow()
}

fn sites(book: &SiteBook) -> Vec<String> {
    let wanted = book.wanted(true);
    wanted.sites.iter().map(|(host, to)| format!("{host} {to}")).collect()
}

#[test]
fn before_it_is_filled_nobody_may_remove_anything() {
    let book = settled();
    assert!(!book.is_filled() && !book.wanted(true).may_remove);
    book.fill(&[]);
    assert!(book.is_filled() && book.wanted(true).may_remove && !book.wanted(false).may_remove);
    assert!(book.is_empty());
}

#[test]
fn until_nodes_have_had_the_time_to_register_only_those_lose_their_name_that_are_known_to_be_gone() {
    let book = book(Duration::ZERO);
    let names = ["ab1.example.com", "ab2.example.com", "ab3.example.com", "unknown.example.com"];
    let may_go = |may_remove: bool| names.map(|name| book.wanted(may_remove).may_go(name));
    book.fill(&[update(1, 8888, Availability::Offline), update(2, 8888, Availability::Suspect)]);
    assert_eq!(may_go(true), [true, false, false, false]);
    assert_eq!(may_go(false), [false; 4]);
    book.note(&update(3, 8888, Availability::Online));
    book.forget(&update(2, 8888, Availability::Suspect).node.id);
    assert_eq!(may_go(true), [true, true, false, false]);
    book.note(&update(1, 8888, Availability::Online));
    book.note(&update(3, 8888, Availability::Offline));
    assert_eq!(may_go(true), [false, true, true, false]);
    book.fill(&[update(3, 8888, Availability::Offline)]);
    assert_eq!(
        may_go(true),
        [false, false, true, false],
        "a registry that is built again knows what the store knows"
    );
    let settled = settled();
    settled.fill(&[]);
    assert!(settled.wanted(true).may_go("unknown.example.com"));
    assert!(settled.wanted(true).gone.is_empty());
}

#[test]
fn a_node_is_in_it_unless_it_is_offline() {
    let book = settled();
    book.fill(&[update(1, 8888, Availability::Suspect), update(2, 8888, Availability::Offline)]);
    assert_eq!(sites(&book), ["ab1.example.com 10.0.0.1:8888"]);
    book.note(&update(2, 8889, Availability::Online));
    book.note(&update(1, 8888, Availability::Offline));
    assert_eq!(sites(&book), ["ab2.example.com 10.0.0.2:8889"]);
    book.note(&update(2, 9000, Availability::Suspect));
    assert_eq!(sites(&book), ["ab2.example.com 10.0.0.2:9000"]);
    book.forget(&update(2, 1, Availability::Online).node.id);
    assert!(book.is_empty());
}

#[test]
fn readers_wake_only_when_something_else_is_wanted() {
    let book = settled();
    let one = update(1, 8888, Availability::Online);
    book.fill(std::slice::from_ref(&one));
    assert_eq!(version(&book), 1);
    book.note(&one);
    book.note(&update(1, 8888, Availability::Suspect));
    book.note(&update(2, 8888, Availability::Offline));
    book.forget(&update(3, 1, Availability::Online).node.id);
    book.fill(std::slice::from_ref(&one));
    assert_eq!(version(&book), 1, "the same is wanted as before");
    book.note(&update(1, 8889, Availability::Online));
    assert_eq!(version(&book), 2);
    book.fill(std::slice::from_ref(&one));
    assert_eq!(version(&book), 3);
}

#[test]
fn both_edges_share_a_copy_until_something_changes() {
    let book = settled();
    book.fill(&[update(1, 8888, Availability::Online)]);
    let first = book.wanted(true);
    assert!(Arc::ptr_eq(&first, &book.wanted(true)));
    book.fill(&[update(1, 8888, Availability::Suspect)]);
    assert!(Arc::ptr_eq(&first, &book.wanted(true)));
    book.note(&update(2, 8888, Availability::Online));
    assert_eq!((first.sites.len(), book.wanted(true).sites.len()), (1, 2));
}

fn availability() -> impl Strategy<Value = Availability> {
    prop_oneof![Just(Availability::Online), Just(Availability::Suspect), Just(Availability::Offline)]
}

proptest! {
    /// However nodes come, move and go: the book is what the nodes say, and its version tells when that changed.
    #[test]
    fn the_book_is_what_the_nodes_say(
        steps in prop::collection::vec((0_u8..6, 1_u16..4, availability(), 0_u8..8), 0..80),
    ) {
        let book = settled();
        let mut nodes: BTreeMap<u8, NodeUpdate> = BTreeMap::new();
        book.fill(&[]);
        for (n, port, availability, what) in steps {
            let (before, was) = (book.wanted(true), version(&book));
            match what {
                0 => {
                    nodes.remove(&n);
                    book.forget(&update(n, 1, availability).node.id);
                }
                1 => book.fill(nodes.values()),
                _ => {
                    let news = update(n, port, availability);
                    book.note(&news);
                    nodes.insert(n, news);
                }
            }
            let expected: BTreeMap<String, HostPort> = nodes
                .values()
                .filter(|update| update.availability != Availability::Offline)
                .map(|update| (update.node.subdomain.to_ascii_lowercase(), update.node.proxy_address()))
                .collect();
            let now = book.wanted(true);
            prop_assert_eq!(&now.sites, &expected);
            prop_assert_eq!(version(&book) > was, now.sites != before.sites);
            prop_assert_eq!(book.len(), expected.len());
        }
    }
}
