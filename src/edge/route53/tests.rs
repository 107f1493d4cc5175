//! Any zone and any wish: a little Route 53 that knows its own rules, and everybody's hands in it.

use std::collections::{BTreeMap, BTreeSet};

use nebula_core::address::HostPort;
use proptest::prelude::*;

use super::batch::{CHARS_MAX, RECORDS_MAX, fitting};
use super::diff::{Aim, Plan};
use super::names::Names;
use super::records::{Action, Body, Group, Kind, Op, OpKind, Records};
use crate::domain::edge::{Change, Verb, Wanted};

const DOMAIN: &str = "gw.example.com";
const HOSTS: [&str; 6] = [
    DOMAIN,
    "a.gw.example.com",
    "b.gw.example.com",
    "c.gw.example.com",
    "d.e.gw.example.com",
    "*.gw.example.com",
];
const ADDRESS: &str = "203.0.113.7";

fn aim(wildcard: bool) -> Aim {
    Aim { names: Names::new(DOMAIN), address: ADDRESS.to_owned(), ttl: 300, wildcard }
}

fn wanted(hosts: impl IntoIterator<Item = impl Into<String>>, may_remove: bool) -> Wanted {
    let proxy: HostPort = "10.0.0.1:8888".parse().expect("an address");
    let sites = hosts.into_iter().map(|host| (host.into(), proxy.clone())).collect();
    Wanted { sites, may_remove, ..Wanted::default() }
}

/// The zone as Route 53 has it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Zone(BTreeMap<(String, &'static str), Body>);

impl Zone {
    fn get(&self, name: &str, kind: Kind) -> Option<&Body> {
        self.0.get(&(name.to_owned(), kind.as_str()))
    }

    fn put(&mut self, name: &str, kind: Kind, body: Option<Body>) {
        let key = (name.to_owned(), kind.as_str());
        match body {
            Some(body) => self.0.insert(key, body),
            None => self.0.remove(&key),
        };
    }

    /// Puts what somebody wishes at a name; a CNAME is alone there.
    fn set(&mut self, name: &str, a: Option<Body>, aaaa: bool, cname: bool) {
        let other = || Some(Body::plain(60, vec!["other".to_owned()]));
        self.put(name, Kind::A, a.filter(|_| !cname));
        self.put(name, Kind::Aaaa, other().filter(|_| aaaa && !cname));
        self.put(name, Kind::Cname, other().filter(|_| cname));
    }

    fn listed(&self) -> Records {
        let mut records = Records::default();
        for ((name, kind), body) in &self.0 {
            let kind = [Kind::A, Kind::Aaaa, Kind::Cname, Kind::Txt]
                .into_iter()
                .find(|known| known.as_str() == *kind)
                .expect("a kind");
            records.insert(name.clone(), kind, body.clone());
        }
        records
    }

    fn is_ours(&self, host: &str) -> bool {
        let names = Names::new(DOMAIN);
        let mark = self.get(&names.ownership(host), Kind::Txt);
        mark.and_then(Body::only_value) == Some(names.mark())
    }

    /// Everything that is not ours to touch.
    fn foreign(&self) -> Vec<(&(String, &'static str), &Body)> {
        let names = Names::new(DOMAIN);
        let is_ours = |(name, kind): &(String, &str)| match *kind {
            "A" => self.is_ours(name),
            "TXT" => names.owned_host(name).is_some_and(|host| self.is_ours(&host)),
            _ => false,
        };
        self.0.iter().filter(|(key, _)| !is_ours(key)).collect()
    }

    /// All or nothing, by the rules of Route 53.
    fn change(&mut self, batch: &[Group]) -> Result<(), String> {
        let mut after = self.clone();
        let (mut records, mut chars) = (0, 0);
        for op in batch.iter().flat_map(|group| &group.ops) {
            let times = if op.action == Action::Upsert { 2 } else { 1 };
            records += times * op.values.len();
            chars += times * op.values.iter().map(|value| value.chars().count()).sum::<usize>();
            after.change_one(op)?;
        }
        assert!(records <= 1_000 && chars <= 32_000, "{records} records, {chars} characters");
        *self = after;
        Ok(())
    }

    fn change_one(&mut self, op: &Op) -> Result<(), String> {
        let kind = if op.kind == OpKind::A { Kind::A } else { Kind::Txt };
        let (there, given) = (self.get(&op.name, kind), Body::plain(op.ttl, op.values.clone()));
        let is_valid = match op.action {
            Action::Create => there.is_none(),
            Action::Upsert => there != Some(&Body::Special),
            Action::Delete => there == Some(&given),
        };
        let conflicts = op.action != Action::Delete && self.get(&op.name, Kind::Cname).is_some();
        if !is_valid || conflicts {
            return Err(format!("{op:?} in spite of {there:?}"));
        }
        self.put(&op.name, kind, Some(given).filter(|_| op.action != Action::Delete));
        Ok(())
    }
}

fn address() -> impl Strategy<Value = Option<Body>> {
    let plain = |ttl, value: &str| Just(Some(Body::plain(ttl, vec![value.to_owned()])));
    prop_oneof![
        2 => Just(None),
        2 => plain(300, ADDRESS),
        1 => plain(60, ADDRESS),
        1 => plain(300, "198.51.100.1"),
        1 => Just(Some(Body::plain(300, vec![ADDRESS.to_owned(), "198.51.100.1".to_owned()]))),
        1 => Just(Some(Body::plain(300, vec!["198.51.100.1".to_owned(); 400]))),
        1 => Just(Some(Body::Alias)),
        1 => Just(Some(Body::Special)),
    ]
}

fn mark() -> impl Strategy<Value = Option<Body>> {
    let ours = Names::new(DOMAIN).mark().to_owned();
    let plain = |values: &[&str]| {
        Just(Some(Body::plain(300, values.iter().map(|value| (*value).to_owned()).collect())))
    };
    prop_oneof![
        2 => Just(None),
        4 => plain(&[&ours]),
        1 => plain(&["\"heritage=nebula,domain=other.example.com\""]),
        1 => plain(&[&ours, "\"more\""]),
        1 => Just(Some(Body::Special)),
    ]
}

/// What somebody does at a host and at its ownership name.
type Hand = (usize, Option<Body>, bool, bool, Option<Body>);

fn hand() -> impl Strategy<Value = Hand> {
    (0..HOSTS.len(), address(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), mark())
}

fn shake(zone: &mut Zone, (host, a, aaaa, cname, mark): Hand) {
    zone.set(HOSTS[host], a, aaaa, cname);
    zone.put(&Names::new(DOMAIN).ownership(HOSTS[host]), Kind::Txt, mark);
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    (prop::collection::btree_set(0..HOSTS.len() - 1, 0..HOSTS.len()), any::<bool>())
        .prop_map(|(hosts, may_remove)| wanted(hosts.into_iter().map(|host| HOSTS[host]), may_remove))
}

/// The next change set; nothing when there is none.
fn batch(plan: &Plan) -> Option<&[Group]> {
    let fit = fitting(&plan.groups);
    assert_eq!(fit == 0, plan.groups.is_empty(), "a group does not fit by itself");
    plan.groups.get(..fit).filter(|batch| !batch.is_empty())
}

/// That nothing is left to do, and each wanted name is right or said to be blocked.
fn assert_done(zone: &Zone, aim: &Aim, wanted: &Wanted) {
    let plan = aim.compare(&zone.listed(), wanted);
    assert_eq!(plan.groups, []);
    let is_blocked = |host: &str| plan.blocked.iter().any(|blocked| blocked.name == host);
    let mut hosts = BTreeSet::from([DOMAIN]);
    let wildcard_is_there = zone.get("*.gw.example.com", Kind::A).and_then(Body::only_value) == Some(ADDRESS);
    if aim.wildcard {
        hosts.insert("*.gw.example.com");
    } else {
        hosts.extend(wanted.sites.keys().map(String::as_str));
    }
    for host in HOSTS {
        let value = zone.get(host, Kind::A).and_then(Body::only_value);
        if hosts.contains(host) {
            assert!(value == Some(ADDRESS) || is_blocked(host), "{host} is {value:?}");
        } else if if aim.wildcard { wildcard_is_there } else { wanted.may_remove } {
            assert!(!zone.is_ours(host) || is_blocked(host), "{host} is left over");
        }
    }
}

/// Zones of thousands of records take their time without optimisation.
const LARGE_CASES: u32 = 12;

proptest! {
    #[test]
    fn any_zone_becomes_as_it_is_wanted_and_foreign_records_stay(
        hands in prop::collection::vec(hand(), 0..12), wanted in any_wanted(), wildcard: bool
    ) {
        let (mut zone, aim) = (Zone::default(), aim(wildcard));
        hands.into_iter().for_each(|hand| shake(&mut zone, hand));
        let before = zone.clone();
        let foreign = before.foreign();
        let mut known = zone.listed();
        for _ in 0..10 {
            let plan = aim.compare(&known, &wanted);
            let Some(batch) = batch(&plan) else { break };
            zone.change(batch).expect("nobody else is here");
            known.apply(batch.iter().flat_map(|group| &group.ops));
            prop_assert_eq!(&known, &zone.listed());
        }
        assert_done(&zone, &aim, &wanted);
        for ((name, kind), body) in foreign {
            prop_assert_eq!(zone.0.get(&(name.clone(), *kind)), Some(body), "{} {}", name, kind);
        }
    }

    #[test]
    fn whatever_hands_do_between_only_our_own_is_changed(
        rounds in prop::collection::vec((any_wanted(), prop::collection::vec(hand(), 0..3)), 1..12),
        wildcard: bool,
    ) {
        let (mut zone, aim) = (Zone::default(), aim(wildcard));
        let mut known = zone.listed();
        let mut last = wanted(Vec::<String>::new(), false);
        for (wanted, hands) in rounds {
            hands.into_iter().for_each(|hand| shake(&mut zone, hand));
            let mut plan = aim.compare(&known, &wanted);
            if plan.groups.iter().flat_map(|group| &group.ops).any(Op::overwrites) {
                known = zone.listed();
                plan = aim.compare(&known, &wanted);
            }
            last = wanted;
            let Some(batch) = batch(&plan) else { continue };
            let before = zone.clone();
            match zone.change(batch) {
                Ok(()) => known.apply(batch.iter().flat_map(|group| &group.ops)),
                Err(_) => known = zone.listed(),
            }
            for ((name, kind), body) in before.foreign() {
                prop_assert_eq!(zone.0.get(&(name.clone(), *kind)), Some(body), "{} {}", name, kind);
            }
        }
        known = zone.listed();
        while let Some(batch) = batch(&aim.compare(&known, &last)) {
            zone.change(batch).expect("nobody else is here");
            known = zone.listed();
        }
        assert_done(&zone, &aim, &last);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(LARGE_CASES))]

    #[test]
    fn thousands_of_hosts_go_in_change_sets_that_are_full_and_not_too_large(
        count in 0_usize..4_000, edited in prop::collection::btree_set(0_usize..4_000, 0..40), wanted_now: bool
    ) {
        let host = |number: usize| format!("{number:08x}.{DOMAIN}");
        let all = wanted((0..count).map(host), true);
        let nothing = Wanted { may_remove: true, ..Wanted::default() };
        let (mut zone, aim) = (Zone::default(), aim(false));
        let mut sets = 0;
        for wish in [&all, if wanted_now { &all } else { &nothing }] {
            let mut known = zone.listed();
            while let Some(batch) = batch(&aim.compare(&known, wish)) {
                zone.change(batch).expect("nobody else is here");
                known.apply(batch.iter().flat_map(|group| &group.ops));
                sets += 1;
            }
            for number in edited.iter().filter(|number| **number < count) {
                zone.put(&host(*number), Kind::A, Some(Body::plain(1, vec![ADDRESS.to_owned(); 300])));
            }
        }
        // A hand-edited set has 300 values: no more than its group stays empty in any change set but the last.
        let most = 2 * count / 699 + (2 * count + 301 * edited.len()) / 699 + 2;
        prop_assert!(sets <= most, "{sets} change sets, at most {most}");
    }
}

#[test]
fn the_limits_are_those_of_route_53() {
    assert_eq!((RECORDS_MAX, CHARS_MAX), (1_000, 32_000));
}

#[test]
fn what_stands_in_the_way_is_said() {
    let ours = || Some(Body::plain(300, vec![Names::new(DOMAIN).mark().to_owned()]));
    let theirs = || Some(Body::plain(300, vec!["\"v=spf1 -all\"".to_owned()]));
    let plain = |value: &str| Some(Body::plain(60, vec![value.to_owned()]));
    let host = "a.gw.example.com";
    for (a, aaaa, cname, txt, changes, why) in [
        (None, false, false, None, 2, ""),
        (plain(ADDRESS), false, false, None, 0, ""),
        (plain(ADDRESS), true, false, theirs(), 0, ""),
        (plain(ADDRESS), false, false, ours(), 1, ""),
        (plain("198.51.100.1"), false, false, ours(), 1, ""),
        (Some(Body::Alias), false, false, ours(), 1, ""),
        (None, false, false, ours(), 1, ""),
        (
            plain("198.51.100.1"),
            false,
            false,
            None,
            0,
            "an A record (198.51.100.1) is there that is not ours",
        ),
        (Some(Body::Alias), false, false, None, 0, "an alias is there that is not ours"),
        (
            Some(Body::Special),
            false,
            false,
            None,
            0,
            "an A record with a routing policy is there that is not ours",
        ),
        (None, true, false, None, 0, "an AAAA record is there that is not ours"),
        (None, false, true, None, 0, "a CNAME record is there that is not ours"),
        (None, false, true, ours(), 0, "a CNAME record is there instead of our A record"),
        (Some(Body::Special), false, false, ours(), 0, "our A record has been given a routing policy"),
        (
            None,
            false,
            false,
            theirs(),
            0,
            "the TXT record _nebula.a.gw.example.com is not ours: \"v=spf1 -all\"",
        ),
    ] {
        let mut zone = Zone::default();
        zone.set(DOMAIN, plain(ADDRESS), false, false);
        zone.set(host, a.clone(), aaaa, cname);
        zone.put("_nebula.a.gw.example.com", Kind::Txt, txt);
        let found = aim(false).compare(&zone.listed(), &wanted([host], true)).into_differences();
        assert_eq!(found.changes.len(), changes, "{a:?} {found:?}");
        let whys: Vec<&str> = found.blocked.iter().map(|blocked| blocked.why.as_str()).collect();
        assert_eq!(whys, Vec::from_iter((!why.is_empty()).then_some(why)), "{a:?}");
    }
    let other = aim(false).compare(&Records::default(), &wanted(["x.example.org"], true)).into_differences();
    assert_eq!(other.blocked.len(), 1);
    assert_eq!(other.blocked[0].why, "it is not below gw.example.com");
}

#[test]
fn nodes_keep_their_records_until_the_wildcard_is_there() {
    let (host, star) = ("a.gw.example.com", "*.gw.example.com");
    let mut zone = Zone::default();
    let all = wanted([host], false);
    zone.change(&aim(false).compare(&zone.listed(), &all).groups).expect("an empty zone");
    zone.put(star, Kind::Cname, Some(Body::plain(60, vec!["www.example.net".to_owned()])));
    let plan = aim(true).compare(&zone.listed(), &all);
    assert_eq!((plan.groups, plan.blocked.len()), (vec![], 1), "it is somebody else's");
    zone.put(star, Kind::Cname, None);
    let add = aim(true).compare(&zone.listed(), &all).groups;
    assert_eq!(add.iter().map(|group| group.host.as_str()).collect::<Vec<_>>(), [star]);
    zone.change(&add).expect("nobody else is here");
    let remove = aim(true).compare(&zone.listed(), &all).groups;
    assert_eq!(remove.iter().map(|group| group.host.as_str()).collect::<Vec<_>>(), [host]);
    zone.change(&remove).expect("nobody else is here");
    let back = aim(false).compare(&zone.listed(), &all).groups;
    assert_eq!(
        back.iter().map(|group| group.host.as_str()).collect::<Vec<_>>(),
        [host],
        "it stays for others"
    );
}

#[test]
fn a_name_whose_node_is_gone_may_go_before_all_may() {
    let (gone, unknown) = ("a.gw.example.com", "b.gw.example.com");
    let mut zone = Zone::default();
    let all = wanted([gone, unknown], true);
    zone.change(&aim(false).compare(&zone.listed(), &all).groups).expect("an empty zone");
    let young = Wanted { gone: BTreeSet::from([gone.to_owned()]), ..Wanted::default() };
    let remove = aim(false).compare(&zone.listed(), &young).groups;
    assert_eq!(remove.iter().map(|group| group.host.as_str()).collect::<Vec<_>>(), [gone]);
}

#[test]
fn differences_are_in_the_order_of_names() {
    let mut zone = Zone::default();
    let aim = aim(false);
    for group in aim.compare(&zone.listed(), &wanted(["b.gw.example.com"], true)).groups {
        zone.change(&[group]).expect("an empty zone");
    }
    zone.put(DOMAIN, Kind::A, Some(Body::plain(60, vec!["198.51.100.1".to_owned()])));
    let found = aim.compare(&zone.listed(), &wanted(["c.gw.example.com"], true)).into_differences();
    let change = |verb, kind, name: &str, to: &str| Change { verb, kind, name: name.into(), to: to.into() };
    let mark = Names::new(DOMAIN).mark().to_owned();
    assert_eq!(
        found.changes,
        [
            change(Verb::Remove, "TXT", "_nebula.b.gw.example.com", ""),
            change(Verb::Add, "TXT", "_nebula.c.gw.example.com", &mark),
            change(Verb::Remove, "A", "b.gw.example.com", ""),
            change(Verb::Add, "A", "c.gw.example.com", ADDRESS),
            change(Verb::Change, "A", DOMAIN, ADDRESS),
        ]
    );
}
