use nebula_core::clock::WallTime;
use nebula_core::ids::KeyId;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::domain::usage::Span;

const HOUR: u64 = 3_600_000;

fn row(hour: u64, key: u8, requests: u64) -> UsageRow {
    let id = UsageId {
        span: Span::Hour,
        from: WallTime(hour * HOUR),
        key: Some(KeyId::from_bytes([key; 16])),
        model: "m".to_owned(),
    };
    UsageRow::new(id, Sums { requests, ..Sums::default() })
}

/// What the store holds.
type Stored = BTreeMap<UsageId, Sums>;

fn read(stored: &Stored, wanted: &[UsageId]) -> Vec<UsageRow> {
    let there = wanted.iter().filter_map(|id| Some(UsageRow::new(id.clone(), *stored.get(id)?)));
    there.collect()
}

fn apply(stored: &mut Stored, writes: Vec<Write>) {
    for write in writes {
        match write {
            Write::PutUsage(row) => drop(stored.insert(row.id(), row.sums)),
            other => panic!("not a row of usage: {other:?}"),
        }
    }
}

/// Takes all steps until nothing waits.
fn deliver(book: &mut Book, stored: &mut Stored) {
    loop {
        apply(stored, book.writes());
        book.written();
        let wanted = book.next();
        if wanted.is_empty() {
            return;
        }
        let there = read(stored, &wanted);
        book.known(&wanted, there);
    }
}

fn requests(stored: &Stored) -> u64 {
    stored.values().map(|sums| sums.requests).sum()
}

#[test]
fn sums_are_added_to_what_is_stored_and_writing_them_twice_is_harmless() {
    let (mut book, mut stored) = (Book::default(), Stored::new());
    book.take(vec![row(1, 1, 5)]);
    deliver(&mut book, &mut stored);
    book.take(vec![row(1, 1, 2), row(2, 1, 1)]);
    let wanted = book.next();
    book.known(&wanted, read(&stored, &wanted));
    assert_eq!((book.undelivered(), book.writes().len()), (2, 2));
    // The commit may have been made although nobody heard of it.
    apply(&mut stored, book.writes());
    apply(&mut stored, book.writes());
    assert_eq!(book.written(), 2);
    assert_eq!(stored[&row(1, 1, 0).id()].requests, 7);
    assert_eq!((requests(&stored), book.undelivered(), book.writes().len()), (8, 0, 0));
}

#[test]
fn a_row_too_many_of_a_day_is_counted_without_its_key() {
    let (mut book, mut stored) = (Book::default(), Stored::new());
    let known = row(1, 1, 1);
    stored.insert(known.id(), known.sums);
    book.counts.insert(known.id().block(), ROWS_PER_DAY_MAX);
    book.take(vec![row(1, 1, 10), row(1, 2, 20), row(2, 3, 30), row(24, 2, 40)]);
    deliver(&mut book, &mut stored);
    assert_eq!(requests(&stored), 101, "nothing is lost");
    assert_eq!(stored[&known.id()].requests, 11, "a row that is there goes on");
    assert_eq!(stored[&row(24, 2, 0).id()].requests, 40, "the next day has room");
    let rest = UsageId { key: None, model: String::new(), ..row(1, 2, 0).id() };
    assert_eq!(stored[&rest].requests, 20);
    assert!(!stored.contains_key(&row(1, 2, 0).id()));
}

proptest! {
    // Some hundreds of rows each.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_lost_and_nothing_counted_twice_whatever_the_store_refuses(
        batches in vec((vec((0..30_u64, 0..200_u8, 1..10_u64), 0..400), any::<bool>(), any::<bool>()), 1..8),
    ) {
        let (mut book, mut stored, mut used) = (Book::default(), Stored::new(), 0);
        for (rows, refuses, hears_nothing) in batches {
            used += rows.iter().map(|(_, _, requests)| requests).sum::<u64>();
            book.take(rows.into_iter().map(|(hour, key, requests)| row(hour, key, requests)).collect());
            if refuses {
                if book.writes().is_empty() {
                    let wanted = book.next();
                    let there = read(&stored, &wanted);
                    book.known(&wanted, there);
                }
                if hears_nothing {
                    apply(&mut stored, book.writes());
                }
            } else {
                deliver(&mut book, &mut stored);
                prop_assert_eq!(requests(&stored), used);
            }
        }
        deliver(&mut book, &mut stored);
        prop_assert_eq!(requests(&stored), used);
        prop_assert_eq!(book.counts().values().sum::<usize>(), stored.len());
    }
}
