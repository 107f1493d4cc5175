use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// 2024-02-29T13:45:00Z.
const LEAP: WallTime = WallTime(1_709_214_300_000);

fn sums(requests: u64) -> Sums {
    Sums { requests, prompt_tokens: requests * 10, completion_tokens: requests * 3, aborted: requests / 2 }
}

fn row(span: Span, at: WallTime, key: Option<KeyId>, model: &str, requests: u64) -> UsageRow {
    let id = UsageId { span, from: span.start(at), key, model: model.to_owned() };
    UsageRow::new(id, sums(requests))
}

fn key(n: u8) -> Option<KeyId> {
    Some(KeyId::from_bytes([n; 16]))
}

#[test]
fn spans_begin_and_end_with_the_calendar() {
    for (span, start, end) in [
        (Span::Hour, "2024-02-29T13:00", "2024-02-29T14:00"),
        (Span::Day, "2024-02-29T00:00", "2024-03-01T00:00"),
        (Span::Month, "2024-02-01T00:00", "2024-03-01T00:00"),
        (Span::Year, "2024-01-01T00:00", "2025-01-01T00:00"),
    ] {
        assert!(span.start(LEAP).rfc3339().starts_with(start), "{span:?} {}", span.start(LEAP).rfc3339());
        assert!(span.end(LEAP).rfc3339().starts_with(end), "{span:?} {}", span.end(LEAP).rfc3339());
    }
    assert_eq!(Span::Year.start(WallTime(0)), WallTime(0));
    for (number, span) in Span::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(span.number()), number);
    }
}

#[test]
fn old_blocks_are_folded_and_new_ones_only_when_there_are_too_many() {
    let days_ago = |days: u64| WallTime(LEAP.0 - days * DAY_MS);
    let hours = |days| Block::of(Span::Hour, days_ago(days));
    let days = |ago| Block::of(Span::Day, days_ago(ago));
    let next =
        |blocks: &[Block], most| next_fold(&blocks.iter().map(|block| (*block, 10)).collect(), most, LEAP);
    // The day that ended 8 days ago is due, the one after it is not.
    assert_eq!(next(&[hours(0), hours(8), hours(9)], 100), Some(hours(9)));
    assert_eq!(next(&[hours(0), hours(8)], 100), None);
    assert_eq!(next(&[days(300), days(500)], 100), Some(days(500)));
    // Too many rows: the oldest day that is over goes, then months; today never does.
    assert_eq!(next(&[hours(0), hours(1), hours(2)], 25), Some(hours(2)));
    assert_eq!(next(&[hours(0), days(40)], 15), Some(days(40)));
    assert_eq!(next(&[hours(0)], 5), None);
    assert_eq!(next(&[Block { span: Span::Year, start: WallTime(0) }], 5), None);
}

#[test]
fn folding_adds_up_what_belongs_together_and_nothing_else() {
    let rows = vec![
        row(Span::Hour, LEAP, key(1), "a", 4),
        row(Span::Hour, WallTime(LEAP.0 - HOUR_MS), key(1), "a", 6),
        row(Span::Hour, LEAP, key(2), "a", 1),
        row(Span::Hour, LEAP, None, "a", 2),
    ];
    let folded = fold(rows);
    let expected = [(None, sums(2), 1), (key(1), sums(10), 2), (key(2), sums(1), 1)];
    assert_eq!(folded.len(), expected.len());
    for ((row, parts), (key, sums, count)) in folded.into_iter().zip(expected) {
        assert_eq!((row.span, row.from), (Span::Day, Span::Day.start(LEAP)));
        assert_eq!((row.key, row.sums, parts.len()), (key, sums, count));
    }
}

#[test]
fn a_query_tells_apart_what_it_is_asked_to() {
    let rows = [
        row(Span::Hour, LEAP, key(1), "a", 4),
        row(Span::Hour, LEAP, key(1), "b", 2),
        row(Span::Hour, LEAP, key(2), "a", 6),
        row(Span::Hour, WallTime(LEAP.0 + HOUR_MS), key(2), "a", 8),
    ];
    let from = Span::Hour.start(LEAP);
    let ask = |by_key, by_model, hours: u64| {
        let query = UsageQuery { from, to: WallTime(from.0 + hours * HOUR_MS), by_key, by_model };
        let mut found = BTreeMap::new();
        for row in rows.clone().into_iter().filter(|row| query.wants(row.id().block())) {
            query.gather(row, &mut found);
        }
        found.into_iter().map(|(id, sums)| (id.key, id.model, sums.requests)).collect::<Vec<_>>()
    };
    let (a, b, none) = ("a".to_owned(), "b".to_owned(), String::new());
    assert_eq!(ask(true, true, 1), [(key(1), a.clone(), 4), (key(1), b.clone(), 2), (key(2), a.clone(), 6)]);
    assert_eq!(ask(true, false, 1), [(key(1), none.clone(), 6), (key(2), none.clone(), 6)]);
    assert_eq!(ask(false, true, 1), [(None, a, 10), (None, b, 2)]);
    assert_eq!(ask(false, false, 1), [(None, none.clone(), 12)]);
    assert_eq!(ask(false, false, 2).last(), Some(&(None, none, 8)), "the end is not in it, the next hour is");
    assert_eq!(ask(true, true, 0), []);
}

#[test]
fn tallies_hold_no_more_than_they_may_and_lose_nothing() {
    let tallies = Tallies::default();
    let keys = 5_000_u64;
    for n in 0..keys {
        tallies.add(Some(KeyId::from_bytes(u128::from(n).to_be_bytes())), "m", LEAP, sums(2));
    }
    tallies.add(None, &"x".repeat(10_000), LEAP, sums(1));
    assert!(tallies.len() <= 4_097, "one thread fills one part: {}", tallies.len());
    let rows = tallies.drain();
    assert!(tallies.is_empty());
    let mut total = Sums::default();
    rows.iter().for_each(|row| total.add(row.sums));
    assert_eq!(total.requests, 2 * keys + 1);
    let rest = rows.iter().find(|row| row.key.is_none() && row.model.is_empty()).expect("the rest");
    assert_eq!(rest.sums.requests, 2 * (keys - 4_096) + 1);
}

#[test]
fn all_threads_add_to_the_same_rows() {
    let tallies = Tallies::default();
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| (0..1_000).for_each(|_| tallies.add(key(1), "m", LEAP, sums(1))));
        }
    });
    let rows = tallies.drain();
    assert_eq!(
        rows,
        [row(Span::Hour, LEAP, key(1), "m", 1)].map(|mut row| {
            row.sums = Sums { requests: 8_000, prompt_tokens: 80_000, completion_tokens: 24_000, aborted: 0 };
            row
        })
    );
}

proptest! {
    #[test]
    fn every_moment_is_in_its_span_and_every_span_in_the_next(at in 0..4_102_444_800_000_u64) {
        let at = WallTime(at);
        for span in Span::ALL {
            let (start, end) = (span.start(at), span.end(at));
            prop_assert!(start <= at && at < end, "{span:?}");
            prop_assert_eq!(span.start(WallTime(end.0 - 1)), start);
            prop_assert_eq!(span.start(end), end, "one ends where the next begins");
            if let Some(coarser) = span.coarser() {
                prop_assert_eq!(coarser.start(start), coarser.start(at));
                prop_assert!(end <= coarser.end(at));
            }
        }
    }

    #[test]
    fn folding_again_and_again_loses_nothing(
        rows in vec((0..400_u64, select(vec![None, key(1), key(2)]), select(vec!["a", "b"]), 0..100_u64), 0..60),
    ) {
        let mut stored: BTreeMap<UsageId, Sums> = BTreeMap::new();
        for (hours, key, model, requests) in rows {
            let row = row(Span::Hour, WallTime(LEAP.0 + hours * HOUR_MS), key, model, requests);
            stored.entry(row.id()).or_default().add(row.sums);
        }
        let total = |stored: &BTreeMap<UsageId, Sums>| stored.values().fold(Sums::default(), |mut all, sums| {
            all.add(*sums);
            all
        });
        let before = total(&stored);
        for _ in 0..3 {
            let rows = stored.into_iter().map(|(id, sums)| UsageRow::new(id, sums)).collect();
            stored = fold(rows).into_iter().map(|(row, _)| (row.id(), row.sums)).collect();
            prop_assert_eq!(total(&stored), before);
        }
        prop_assert!(stored.len() <= 6, "one year, three keys, two models");
    }
}
