use super::*;

const NOW: WallTime = WallTime(1_702_382_400_000);

fn secret(n: u32) -> TokenHash {
    TokenHash::of(&format!("nbkey_{n}"))
}

fn wanted(name: &str) -> NewKey {
    NewKey { name: name.to_owned(), models: None, expires_at: None, limits: KeyLimits::default() }
}

fn key(name: &str, n: u32) -> ApiKey {
    ApiKey::new(wanted(name), secret(n), NOW)
}

fn live(key: ApiKey) -> Arc<LiveKey> {
    Arc::new(LiveKey::new(key, 0, Tick(0), NOW))
}

fn later(secs: u64) -> WallTime {
    WallTime(NOW.0 + secs * 1_000)
}

fn name_of(table: &KeyTable, n: u32, at: WallTime) -> Option<String> {
    table.find(&secret(n), at).map(|live| live.key.name.clone())
}

#[test]
fn a_key_is_found_by_its_secret_until_it_is_taken_away() {
    let mut table = KeyTable::default();
    for n in 0..1_000 {
        table.put(live(key(&format!("key {n}"), n)));
    }
    assert_eq!(table.len(), 1_000);
    assert_eq!(name_of(&table, 7, NOW).as_deref(), Some("key 7"));
    assert_eq!(name_of(&table, 1_000, NOW), None);
    let before = table.clone();
    let id = table.find(&secret(7), NOW).expect("it is there").key.id;
    table.remove(id);
    table.remove(id);
    assert_eq!((table.len(), name_of(&table, 7, NOW)), (999, None));
    assert!(table.get(id).is_none());
    assert!(before.get(id).is_some(), "who still reads the old table is not disturbed");
    let ids: Vec<_> = table.iter().map(|live| live.key.id).collect();
    assert!(ids.len() == 999 && ids.is_sorted(), "listed by id");
}

#[test]
fn an_expired_key_is_not_found_but_listed() {
    let mut table = KeyTable::default();
    table.put(live(ApiKey { expires_at: Some(later(10)), ..key("short", 1) }));
    assert!(name_of(&table, 1, later(9)).is_some());
    assert_eq!(name_of(&table, 1, later(10)), None);
    assert_eq!(table.iter().count(), 1);
}

#[test]
fn two_secrets_are_valid_while_a_rotation_overlaps_and_never_three() {
    let mut table = KeyTable::default();
    let first = key("k", 1);
    let second = first.rotated(secret(2), Duration::from_secs(60), NOW);
    table.put(live(second.clone()));
    assert_eq!(table.len(), 1);
    assert!(name_of(&table, 1, later(59)).is_some() && name_of(&table, 2, later(59)).is_some());
    assert!(name_of(&table, 1, later(60)).is_none() && name_of(&table, 2, later(60)).is_some());
    let third = second.rotated(secret(3), Duration::from_secs(60), NOW);
    table.put(live(third.clone()));
    assert!(name_of(&table, 1, NOW).is_none(), "the oldest ends with the second rotation");
    assert!(name_of(&table, 2, NOW).is_some() && name_of(&table, 3, NOW).is_some());
    table.put(live(third.rotated(secret(4), Duration::ZERO, NOW)));
    let valid: Vec<u32> = (1..5).filter(|n| name_of(&table, *n, NOW).is_some()).collect();
    assert_eq!(valid, [4], "without an overlap the old one ends at once");
    assert_eq!(table.len(), 1);
}

#[test]
fn models_are_allowed_by_name_or_id() {
    let (one, two) = (DeploymentId::random(), DeploymentId::random());
    let all = key("all", 1);
    assert!(all.allows("a", one) && all.allows("b", two));
    let some = ApiKey { models: Some(["a".to_owned(), two.to_string()].into()), ..key("some", 2) };
    for (model, id, allowed) in [("a", one, true), ("b", one, false), ("b", two, true)] {
        assert_eq!(some.allows(model, id), allowed, "{model}");
    }
}

#[test]
fn a_permit_gives_its_place_back_and_use_survives_a_change() {
    let limits = KeyLimits {
        max_concurrent: Some(1),
        rpm: Some(60),
        budget: Some(Budget { tokens: 100, period: Period::Total }),
        ..KeyLimits::default()
    };
    let first = live(ApiKey { limits, ..key("k", 1) });
    let permit = first.admit(Tick(0), NOW).expect("the first");
    assert!(matches!(first.admit(Tick(0), NOW), Err(Limited::Rate { what: RateKind::Concurrent, .. })));
    permit.spend(99, Tick(0), NOW);
    assert_eq!(permit.standing(Tick(0)).requests.map(|window| window.remaining), Some(59));
    let rotated = first.key.rotated(secret(2), Duration::ZERO, NOW);
    let second = Arc::new(first.changed(rotated, Tick(0)));
    assert!(second.admit(Tick(0), NOW).is_err(), "the request is still under way");
    drop(permit);
    let permit = second.admit(Tick(0), NOW).expect("the place is free");
    permit.spend(1, Tick(0), NOW);
    drop(permit);
    assert_eq!(second.admit(Tick(0), NOW).err(), Some(Limited::Budget));
    assert_eq!(first.spent(NOW), Some(100));
    let more = KeyLimits { budget: Some(Budget { tokens: 101, period: Period::Total }), ..limits };
    let third = Arc::new(second.changed(ApiKey { limits: more, ..second.key.clone() }, Tick(0)));
    assert!(third.admit(Tick(0), NOW).is_ok(), "a changed limit counts at once");
}

#[test]
fn a_key_without_limits_costs_no_lock() {
    let free = live(key("k", 1));
    let _held = free.meter();
    let permit = free.admit(Tick(0), NOW).expect("nothing limits it");
    permit.spend(u64::MAX, Tick(0), NOW);
    assert_eq!(permit.standing(Tick(0)), Standing::default());
}

#[test]
fn what_can_never_be_right_is_refused_by_name() {
    let limits = |limits| NewKey { limits, ..wanted("k") };
    let models = |names: &[String]| NewKey { models: Some(names.iter().cloned().collect()), ..wanted("k") };
    let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
    let zero = KeyLimits::default();
    for (wrong, word) in [
        (wanted(""), "name"),
        (wanted(" k"), "name"),
        (wanted("a\nb"), "name"),
        (wanted(".."), "name"),
        (wanted(&"x".repeat(129)), "name"),
        (models(&[]), "models"),
        (models(&[String::new()]), "models"),
        (models(&many), "models"),
        (models(&["x".repeat(4_097)]), "models"),
        (NewKey { expires_at: Some(NOW), ..wanted("k") }, "expired"),
        (limits(KeyLimits { rpm: Some(0), ..zero }), "rpm"),
        (limits(KeyLimits { tpm: Some(0), ..zero }), "tpm"),
        (limits(KeyLimits { max_concurrent: Some(0), ..zero }), "max_concurrent"),
        (limits(KeyLimits { budget: Some(Budget { tokens: 0, period: Period::Day }), ..zero }), "budget"),
    ] {
        let error = wrong.check(NOW).expect_err("refused");
        assert!(error.class == ErrorClass::Unprocessable && error.message.contains(word), "{error}");
    }
    let right = NewKey { expires_at: Some(later(1)), ..models(&["org/model".to_owned()]) };
    assert_eq!(right.check(NOW), Ok(()));
    assert_eq!(wanted(&"ü".repeat(128)).check(NOW), Ok(()));
}
