use super::*;
use crate::domain::key::{Budget, KeyLimits, NewKey, Period};

const NOW: Tick = Tick(0);
const AT: WallTime = WallTime(1_702_382_400_000);

fn hash(n: u32) -> TokenHash {
    TokenHash::of(&format!("nbkey_{n}"))
}

fn key(name: &str, n: u32) -> ApiKey {
    let limits =
        KeyLimits { budget: Some(Budget { tokens: 100, period: Period::Day }), ..KeyLimits::default() };
    ApiKey::new(NewKey { name: name.to_owned(), models: None, expires_at: None, limits }, hash(n), AT)
}

fn make(machine: &mut Machine, key: &ApiKey) {
    let plan = machine.begin(Change::Create(Box::new(key.clone())), AT).expect("planned");
    assert_eq!(machine.done(plan, NOW, AT), *key);
}

fn knows(machine: &Machine, n: u32) -> bool {
    machine.table().find(&hash(n), AT).is_some()
}

fn class(result: Result<Plan, Error>) -> ErrorClass {
    result.expect_err("refused").class
}

#[test]
fn a_key_is_known_when_it_is_durable_and_its_name_is_taken_before() {
    let (mut machine, one) = (Machine::default(), key("one", 1));
    let plan = machine.begin(Change::Create(Box::new(one.clone())), AT).expect("planned");
    assert_eq!((plan.kind(), plan.write()), ("key.create", Write::PutKey(Box::new(one.clone()))));
    assert!(!knows(&machine, 1));
    assert_eq!(class(machine.begin(Change::Create(Box::new(key("one", 2))), AT)), ErrorClass::Conflict);
    machine.done(plan, NOW, AT);
    assert!(knows(&machine, 1));
    assert_eq!(class(machine.begin(Change::Create(Box::new(key("one", 2))), AT)), ErrorClass::Conflict);
}

#[test]
fn what_the_store_refused_leaves_nothing_behind() {
    let (mut machine, one) = (Machine::default(), key("one", 1));
    let plan = machine.begin(Change::Create(Box::new(one.clone())), AT).expect("planned");
    machine.given_up(&plan);
    make(&mut machine, &one);
    for change in
        [Change::Revoke(one.id), Change::Rotate { id: one.id, hash: hash(2), overlap: Duration::ZERO }]
    {
        let plan = machine.begin(change.clone(), AT).expect("planned");
        assert_eq!(class(machine.begin(change, AT)), ErrorClass::Conflict, "one change at a time");
        machine.given_up(&plan);
        assert!(knows(&machine, 1) && !knows(&machine, 2));
    }
    assert_eq!(class(machine.begin(Change::Create(Box::new(key("one", 3))), AT)), ErrorClass::Conflict);
}

#[test]
fn a_rotation_puts_another_secret_in_place_and_a_revocation_ends_all_of_them() {
    let (mut machine, one) = (Machine::default(), key("one", 1));
    make(&mut machine, &one);
    let rotate = Change::Rotate { id: one.id, hash: hash(2), overlap: Duration::from_secs(60) };
    let plan = machine.begin(rotate, AT).expect("planned");
    assert_eq!(plan.kind(), "key.rotate");
    assert!(plan.to_string().contains("valid until 2023-12-12T12:01:00"), "{plan}");
    machine.done(plan, NOW, AT);
    assert!(knows(&machine, 1) && knows(&machine, 2));
    let plan = machine.begin(Change::Revoke(one.id), AT).expect("planned");
    assert_eq!((plan.kind(), plan.write()), ("key.revoke", Write::DeleteKey(one.id)));
    machine.done(plan, NOW, AT);
    assert!(!knows(&machine, 1) && !knows(&machine, 2) && machine.table().is_empty());
    assert_eq!(class(machine.begin(Change::Revoke(one.id), AT)), ErrorClass::NotFound);
    make(&mut machine, &key("one", 3));
}

#[test]
fn an_expired_key_gets_no_new_secret_and_can_be_revoked() {
    let mut machine = Machine::default();
    let one = ApiKey { expires_at: Some(WallTime(AT.0 + 1_000)), ..key("one", 1) };
    make(&mut machine, &one);
    let (rotate, at_end) =
        (Change::Rotate { id: one.id, hash: hash(2), overlap: Duration::ZERO }, WallTime(AT.0 + 1_000));
    assert_eq!(class(machine.begin(rotate.clone(), at_end)), ErrorClass::Conflict);
    assert!(machine.begin(rotate, AT).is_ok_and(|plan| {
        machine.given_up(&plan);
        machine.begin(Change::Revoke(one.id), at_end).is_ok()
    }));
}

#[test]
fn the_audit_tells_no_secret() {
    let mut machine = Machine::default();
    let one = ApiKey { models: Some(["a".to_owned()].into()), ..key("one", 1) };
    let plan = machine.begin(Change::Create(Box::new(one.clone())), AT).expect("planned");
    assert_eq!(plan.to_string(), format!("key \"one\" ({}): one model", one.id));
    assert!(!format!("{plan:?}").contains(&hash(1).to_hex()));
}

#[test]
fn what_was_used_survives_being_loaded_again_and_else_comes_from_the_rows() {
    let (mut machine, one, two) = (Machine::default(), key("one", 1), key("two", 2));
    make(&mut machine, &one);
    let live = machine.table().get(one.id).expect("made").clone();
    live.admit(NOW, AT).expect("within the budget").spend(99, NOW, AT);
    let spent = BTreeMap::from([(one.id, 5), (two.id, 7)]);
    let stored = vec![one.clone(), two.clone()];
    let again = Machine::load(stored.clone(), machine.table(), &spent, NOW, AT);
    let spent_of = |machine: &Machine, id| machine.table().get(id).and_then(|live| live.spent(AT));
    assert_eq!((spent_of(&again, one.id), spent_of(&again, two.id)), (Some(99), Some(7)));
    let cold = Machine::load(stored, &KeyTable::default(), &spent, NOW, AT);
    assert_eq!((spent_of(&cold, one.id), spent_of(&cold, two.id)), (Some(5), Some(7)));
}

#[test]
fn there_are_not_too_many_keys() {
    let mut machine = Machine::default();
    for n in 0..KEYS_MAX {
        machine.names.insert(n.to_string(), KeyId::from_bytes([1; 16]));
    }
    let refused = machine.begin(Change::Create(Box::new(key("one", 1))), AT).expect_err("too many");
    assert!(refused.class == ErrorClass::Conflict && refused.message.contains("100000 keys"), "{refused}");
}
