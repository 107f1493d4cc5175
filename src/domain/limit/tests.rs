use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const NOON: WallTime = WallTime(1_702_382_400_000); // 2023-12-12T12:00:00Z
const DAY_MS: u64 = 86_400_000;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn meter(limits: KeyLimits) -> Meter {
    Meter::new(&limits, 0, Tick(0), NOON)
}

fn rate(result: Result<(), Limited>) -> (RateKind, Duration) {
    match result {
        Err(Limited::Rate { what, retry_after, .. }) => (what, retry_after),
        other => panic!("not limited by a rate: {other:?}"),
    }
}

#[test]
fn a_bucket_holds_a_minute_and_fills_evenly() {
    let mut bucket = Bucket::full(60, Tick(0));
    assert_eq!(bucket.window(Tick(0)), Window { limit: 60, remaining: 60, reset: ms(0) });
    bucket.spend(60, Tick(0));
    for (now, remaining, until_one, reset) in
        [(0, 0, 1_000, 60_000), (999, 0, 1, 59_001), (1_000, 1, 0, 59_000), (90_000, 60, 0, 0)]
    {
        let window = bucket.window(Tick(now));
        assert_eq!((window.remaining, window.reset), (remaining, ms(reset)), "after {now} ms");
        assert_eq!(bucket.until_one(Tick(now)), ms(until_one), "after {now} ms");
    }
}

#[test]
fn tokens_may_go_below_zero_and_what_is_owed_is_waited_for() {
    let mut bucket = Bucket::full(600, Tick(0));
    assert_eq!(bucket.until_open(Tick(0)), ms(0));
    bucket.spend(1_000, Tick(0));
    assert_eq!(bucket.window(Tick(0)), Window { limit: 600, remaining: 0, reset: ms(100_000) });
    // 400 too many at 10 a second; a part of one is enough to be above zero.
    assert_eq!(bucket.until_open(Tick(0)), ms(40_001));
    assert_eq!(bucket.until_open(Tick(40_000)), ms(1));
    assert_eq!(bucket.until_open(Tick(40_001)), ms(0));
    bucket.spend(u64::MAX, Tick(40_001));
    bucket.spend(u64::MAX, Tick(40_001));
    assert!(bucket.until_open(Tick(40_001)) > Duration::from_secs(u64::MAX / 1_000_000), "no overflow");
}

#[test]
fn a_clock_that_goes_back_brings_nothing() {
    let mut bucket = Bucket::full(60, Tick(60_000));
    bucket.spend(60, Tick(60_000));
    assert_eq!(bucket.window(Tick(0)).remaining, 0);
    assert_eq!(bucket.window(Tick(61_000)).remaining, 1);
}

#[test]
fn each_limit_refuses_with_its_own_time() {
    let limits = KeyLimits { rpm: Some(2), tpm: Some(60), max_concurrent: Some(1), ..KeyLimits::default() };
    let mut meter = meter(limits);
    assert_eq!(meter.admit(Tick(0), NOON), Ok(()));
    assert_eq!(rate(meter.admit(Tick(0), NOON)), (RateKind::Concurrent, CONCURRENT_RETRY));
    meter.leave();
    meter.spend(61, Tick(0), NOON);
    assert_eq!(rate(meter.admit(Tick(0), NOON)), (RateKind::Tokens, ms(1_001)));
    assert_eq!(meter.admit(Tick(1_001), NOON), Ok(()));
    meter.leave();
    // Two a minute: the next is there 30 s after the beginning.
    assert_eq!(rate(meter.admit(Tick(1_001), NOON)), (RateKind::Requests, ms(28_999)));
    assert_eq!(meter.admit(Tick(30_000), NOON), Ok(()));
    assert_eq!(meter.under_way(), 1);
}

#[test]
fn of_several_limits_the_longest_wait_is_told_and_a_refusal_costs_nothing() {
    let limits = KeyLimits { rpm: Some(1), tpm: Some(1), ..KeyLimits::default() };
    let mut meter = meter(limits);
    assert_eq!(meter.admit(Tick(0), NOON), Ok(()));
    meter.spend(3, Tick(0), NOON);
    for _ in 0..3 {
        assert_eq!(rate(meter.admit(Tick(0), NOON)), (RateKind::Tokens, ms(120_001)));
    }
    let standing = meter.standing(Tick(60_000));
    assert_eq!(standing.requests.map(|window| window.remaining), Some(1), "refusals took nothing");
}

#[test]
fn a_key_without_limits_is_never_refused() {
    let mut meter = meter(KeyLimits::default());
    for _ in 0..1_000 {
        assert_eq!(meter.admit(Tick(0), NOON), Ok(()));
        meter.spend(u64::MAX, Tick(0), NOON);
    }
    assert_eq!(meter.standing(Tick(0)), Standing::default());
    assert_eq!(meter.spent(NOON), None);
}

#[test]
fn a_budget_is_refused_when_it_is_spent_and_begins_anew_with_its_period() {
    let next_year = WallTime(NOON.0 + 366 * DAY_MS);
    for (period, same, later, anew) in [
        (Period::Day, WallTime(NOON.0 + DAY_MS / 2 - 1), WallTime(NOON.0 + DAY_MS / 2), true),
        (Period::Month, WallTime(NOON.0 + 10 * DAY_MS), WallTime(NOON.0 + 20 * DAY_MS), true),
        (Period::Total, WallTime(NOON.0 + 20 * DAY_MS), next_year, false),
    ] {
        let limits = KeyLimits { budget: Some(Budget { tokens: 100, period }), ..KeyLimits::default() };
        let mut meter = Meter::new(&limits, 40, Tick(0), NOON);
        meter.spend(59, Tick(0), NOON);
        assert_eq!(meter.admit(Tick(0), same), Ok(()), "{period:?}: one token is left");
        meter.spend(10, Tick(0), same);
        assert_eq!(meter.spent(same), Some(109));
        assert_eq!(meter.admit(Tick(0), same), Err(Limited::Budget), "{period:?}");
        assert_eq!(meter.admit(Tick(0), later).is_ok(), anew, "{period:?}");
        assert_eq!(meter.spent(later), Some(if anew { 0 } else { 109 }), "{period:?}");
        // The wall clock goes back: the old period does not return, and the new one is not begun again.
        meter.spend(200, Tick(0), later);
        assert_eq!(meter.admit(Tick(0), same), Err(Limited::Budget), "{period:?}");
    }
}

#[test]
fn a_changed_limit_counts_at_once() {
    let of = |rpm| KeyLimits { rpm: Some(rpm), ..KeyLimits::default() };
    let mut meter = meter(of(10));
    meter.admit(Tick(0), NOON).expect("the first");
    let remaining =
        |meter: &mut Meter, now| meter.standing(Tick(now)).requests.map(|window| window.remaining);
    meter.set(&of(4), Tick(0));
    assert_eq!(remaining(&mut meter, 0), Some(4));
    meter.set(&of(60), Tick(0));
    assert_eq!(remaining(&mut meter, 0), Some(4));
    assert_eq!(remaining(&mut meter, 10_000), Some(14));
    meter.set(&KeyLimits::default(), Tick(0));
    assert_eq!(remaining(&mut meter, 0), None);
}

/// What happens to a meter, each after so many milliseconds.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    Leave,
    Spend(u64),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step =
        prop_oneof![4 => Just(Step::Ask), 2 => Just(Step::Leave), 1 => (0..500_u64).prop_map(Step::Spend)];
    vec((prop_oneof![3 => Just(0_u64), 2 => 0..3_000_u64, 1 => 0..90_000_u64], step), 1..200)
}

proptest! {
    #[test]
    fn no_window_sees_more_than_the_limit_and_what_was_filled_in_it(
        rpm in 1..200_u32, most in 1..5_u32, steps in steps(),
    ) {
        let limits = KeyLimits { rpm: Some(rpm), max_concurrent: Some(most), ..KeyLimits::default() };
        let mut meter = meter(limits);
        let (mut now, mut admitted, mut under_way) = (0, Vec::new(), 0);
        for (pause, step) in steps {
            now += pause;
            match step {
                Step::Ask => match meter.admit(Tick(now), NOON) {
                    Ok(()) => {
                        admitted.push(now);
                        under_way += 1;
                        prop_assert!(under_way <= most);
                    }
                    Err(Limited::Rate { what: RateKind::Concurrent, .. }) => prop_assert_eq!(under_way, most),
                    Err(Limited::Rate { retry_after, .. }) => {
                        // Exact: a millisecond sooner it is still refused, then it is not.
                        let at = now + u64::try_from(retry_after.as_millis()).expect("fits");
                        let ask = |at| {
                            let mut meter = meter;
                            meter.under_way = 0;
                            meter.admit(Tick(at), NOON)
                        };
                        prop_assert!(ask(at).is_ok());
                        prop_assert!(ask(at - 1).is_err());
                    }
                    Err(Limited::Budget) => prop_assert!(false, "there is no budget"),
                },
                Step::Leave if under_way > 0 => {
                    meter.leave();
                    under_way -= 1;
                }
                Step::Leave => {}
                Step::Spend(tokens) => meter.spend(tokens, Tick(now), NOON),
            }
            prop_assert_eq!(meter.under_way(), under_way);
        }
        for (first, from) in admitted.iter().enumerate() {
            for (last, to) in admitted.iter().enumerate().skip(first) {
                let count = u64::try_from(last - first + 1).expect("fits");
                let most = u64::from(rpm) * 60_000 + (to - from) * u64::from(rpm);
                prop_assert!(count * 60_000 <= most, "{count} from {from} to {to} ms at {rpm} a minute");
            }
        }
    }

    #[test]
    fn tokens_are_never_more_than_the_limit_the_filling_and_the_last_request(
        tpm in 1..5_000_u64, costs in vec((0..20_000_u64, 0..3_000_u64), 1..100),
    ) {
        let mut meter = meter(KeyLimits { tpm: Some(tpm), ..KeyLimits::default() });
        let (mut now, mut used, mut last) = (0, 0, 0);
        for (pause, cost) in costs {
            now += pause;
            if meter.admit(Tick(now), NOON).is_ok() {
                meter.spend(cost, Tick(now), NOON);
                (used, last) = (used + cost, cost);
            }
            prop_assert!((used - last) * 60_000 <= tpm * 60_000 + now * tpm);
        }
    }

    #[test]
    fn waiting_never_makes_it_worse(limit in 1..10_000_u64, spent in 0..50_000_u64, times in vec(0..100_000_u64, 2..20)) {
        let mut times = times;
        times.sort_unstable();
        let mut bucket = Bucket::full(limit, Tick(0));
        bucket.spend(spent, Tick(0));
        let windows: Vec<Window> = times.iter().map(|at| bucket.window(Tick(*at))).collect();
        for pair in windows.windows(2) {
            prop_assert!(pair[0].remaining <= pair[1].remaining && pair[0].reset >= pair[1].reset);
            prop_assert!(pair[1].remaining <= limit);
        }
    }
}
