use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, NodeId};
use proptest::prelude::*;

use super::*;
use crate::domain::event::{EVENTS_PER_DEPLOYMENT_MAX, Origin, Subject};

fn line(subject: Subject) -> Line {
    Line {
        time: WallTime(1),
        subject,
        kind: "k".to_owned(),
        message: "m".to_owned(),
        replica: None,
        node: None,
    }
}

fn deployment(n: u8) -> DeploymentId {
    DeploymentId::from_bytes([n; 16])
}

fn node() -> NodeId {
    "node-1".parse().expect("an id")
}

fn of_deployment(n: u8) -> Line {
    line(Subject::Deployment(deployment(n)))
}

fn read(ledger: &Ledger, after: u64) -> Vec<u64> {
    ledger.recent(after, usize::MAX).map(|event| event.seq).collect()
}

fn kept(ledger: &Ledger, rings: Option<&[Ring]>) -> Vec<u64> {
    ledger.kept(0, rings, usize::MAX).into_iter().map(|(_, seq, _)| seq).collect()
}

#[test]
fn a_line_waits_for_those_before_it() {
    let mut ledger = Ledger::load(Vec::new());
    let first = ledger.enter(vec![of_deployment(1)], &[]);
    let second = ledger.enter(vec![of_deployment(2), of_deployment(2)], &[]);
    let third = ledger.enter(vec![of_deployment(3)], &[]);
    ledger.settle(second, true);
    assert_eq!((read(&ledger, 0), kept(&ledger, None), ledger.last()), (vec![], vec![], 0));
    ledger.settle(first, false);
    assert_eq!((read(&ledger, 0), ledger.last(), ledger.newest()), (vec![2, 3], 3, 4));
    ledger.settle(third, true);
    assert_eq!((read(&ledger, 2), kept(&ledger, None), ledger.last()), (vec![3, 4], vec![2, 3, 4], 4));
}

#[test]
fn a_full_ring_loses_its_oldest_line_in_the_same_commit() {
    let mut ledger = Ledger::load(Vec::new());
    let full = ledger.enter(vec![of_deployment(1); EVENTS_PER_DEPLOYMENT_MAX], &[]);
    ledger.settle(full, true);
    let other = ledger.enter(vec![of_deployment(2)], &[]);
    ledger.settle(other, true);
    let ring = Ring::Deployment(deployment(1));
    let one_more = ledger.enter(vec![of_deployment(1)], &[]);
    assert_eq!(one_more.dropped, [(ring.clone(), 1)]);
    ledger.settle(one_more, false);
    assert_eq!(kept(&ledger, Some(std::slice::from_ref(&ring))).first(), Some(&1), "it stays if that fails");
    let again = ledger.enter(vec![of_deployment(1)], &[]);
    ledger.settle(again, true);
    let left = kept(&ledger, Some(&[ring]));
    assert_eq!((left.len(), left[0], left[199]), (EVENTS_PER_DEPLOYMENT_MAX, 2, 203));
    assert_eq!(read(&ledger, 0)[0], 1, "followers still see it");
}

#[test]
fn more_lines_at_once_than_are_kept_are_not_written() {
    let mut ledger = Ledger::load(Vec::new());
    let entry = ledger.enter(vec![of_deployment(1); EVENTS_PER_DEPLOYMENT_MAX + 5], &[]);
    assert_eq!((entry.events.len(), entry.events[0].seq, entry.dropped.len()), (200, 6, 0));
    ledger.settle(entry, true);
    assert_eq!(ledger.last(), 205);
}

#[test]
fn what_is_gone_takes_its_lines_along_and_the_audit_stays() {
    let mut ledger = Ledger::load(Vec::new());
    let audit = Line::of_audit(Origin::nebulad(), "deployment.create", String::new(), WallTime(1));
    let created = ledger.enter(vec![audit, of_deployment(1), line(Subject::Node(node()))], &[]);
    ledger.settle(created, true);
    let gone =
        ledger.enter(vec![line(Subject::Fleet)], &[Ring::Deployment(deployment(1)), Ring::Node(node())]);
    assert_eq!(gone.dropped, [(Ring::Deployment(deployment(1)), 2), (Ring::Node(node()), 3)]);
    ledger.settle(gone, true);
    assert_eq!(kept(&ledger, None), [1, 4]);
    assert_eq!(kept(&ledger, Some(&[Ring::Audit])), [1]);
}

#[test]
fn what_was_stored_is_there_again_and_numbers_go_on() {
    let events = [3, 1, 2].map(|seq| JournalEvent { seq, line: of_deployment(1) });
    let ledger = Ledger::load(events.to_vec());
    assert_eq!((read(&ledger, 1), ledger.last(), ledger.floor()), (vec![2, 3], 3, 0));
    assert!(
        ledger.kept(0, None, 2).iter().all(|(_, seq, event)| event.as_ref().map(|e| e.seq) == Some(*seq))
    );
}

#[test]
fn memory_is_bounded_and_says_from_where_on_it_is_whole() {
    let nodes = (1..=RECENT_MAX as u64 + 7).map(|seq| JournalEvent { seq, line: line(Subject::Fleet) });
    let ledger = Ledger::load(nodes.collect());
    assert_eq!((ledger.recent.len(), ledger.floor(), read(&ledger, 0)[0]), (RECENT_MAX, 7, 8));
    let oldest = ledger.kept(0, None, 1);
    assert!(oldest[0].2.is_none(), "it must be fetched");
}

#[derive(Clone, Debug)]
enum Step {
    Enter {
        subject: u8,
        lines: usize,
        ends: Option<u8>,
    },
    Settle {
        which: prop::sample::Index,
        durable: bool,
    },
    /// The oldest open one ends well.
    Finish,
}

fn subject(n: u8) -> Subject {
    match n {
        0 | 1 => Subject::Deployment(deployment(n)),
        2 => Subject::Node(node()),
        _ => Subject::Fleet,
    }
}

fn ring_of(n: u8) -> Ring {
    JournalEvent { seq: 0, line: line(subject(n)) }.ring()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let few = prop_oneof![4 => 0_usize..4, 1 => 90_usize..230];
    let enter = (0_u8..4, few, prop::option::weighted(0.1, 0_u8..2))
        .prop_map(|(subject, lines, ends)| Step::Enter { subject, lines, ends });
    let settle = (any::<prop::sample::Index>(), prop::bool::weighted(0.8))
        .prop_map(|(which, durable)| Step::Settle { which, durable });
    prop::collection::vec(prop_oneof![enter, settle], 1..60)
}

proptest! {
    /// A store that applies what each commit says, and a reader who reads on where it stopped.
    #[test]
    fn readers_miss_nothing_and_the_ledger_knows_what_the_store_holds(steps in steps()) {
        let mut ledger = Ledger::load(Vec::new());
        let (mut open, mut stored) = (Vec::<Entry>::new(), BTreeMap::<u64, Ring>::new());
        let (mut cursor, mut seen, mut durable_numbers) = (0, Vec::new(), BTreeSet::new());
        let ends = std::iter::repeat_n(Step::Finish, steps.len());
        for step in steps.into_iter().chain(ends) {
            match step {
                Step::Enter { subject: n, lines, ends } => {
                    let ended: Vec<Ring> = ends.map(|n| Ring::Deployment(deployment(n))).into_iter().collect();
                    open.push(ledger.enter(vec![line(subject(n)); lines], &ended));
                    // What a failed commit would have deleted is one too many until the next line comes.
                    let full = |(ring, numbers): (&Ring, &BTreeSet<u64>)| numbers.len() <= ring.lines_max();
                    prop_assert!(lines == 0 || ledger.rings.iter().filter(|(ring, _)| **ring == ring_of(n)).all(full));
                }
                Step::Settle { .. } | Step::Finish if open.is_empty() => {}
                // Any may fail, the store works off the others in order.
                Step::Settle { which, durable: false } => ledger.settle(open.remove(which.index(open.len())), false),
                Step::Settle { .. } | Step::Finish => {
                    let entry = open.remove(0);
                    stored.extend(entry.events.iter().map(|event| (event.seq, event.ring())));
                    durable_numbers.extend(entry.events.iter().map(|event| event.seq));
                    entry.dropped.iter().for_each(|(_, seq)| drop(stored.remove(seq)));
                    ledger.settle(entry, true);
                }
            }
            let news = read(&ledger, cursor);
            prop_assert!(news.iter().all(|seq| *seq > cursor && *seq <= ledger.last()));
            prop_assert!(news.is_sorted());
            cursor = ledger.last();
            seen.extend(news);
        }
        prop_assert!(open.is_empty());
        prop_assert_eq!(seen, durable_numbers.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(kept(&ledger, None), stored.keys().copied().collect::<Vec<_>>());
        for (ring, numbers) in &ledger.rings {
            prop_assert_eq!(kept(&ledger, Some(std::slice::from_ref(ring))), numbers.iter().copied().collect::<Vec<_>>());
        }
    }
}
