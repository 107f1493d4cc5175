//! What an alias comes to while the deployments that it names come and go.

use nebula_core::clock::WallTime;
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash};

use super::*;
use crate::domain::alias::Target;
use crate::domain::route::AliasRoute;

fn id(n: u8) -> DeploymentId {
    DeploymentId::from_bytes([n; 16])
}

fn spec(n: u8, name: &str) -> RouteSpec {
    RouteSpec {
        deployment_id: id(n),
        name: name.to_owned(),
        served_name: name.to_owned(),
        runtime: RuntimeKind::Sim,
        public: false,
        tokens: vec![TokenHash::of(name)],
        gateway_token: Secret::from_text("nbgw_x"),
        created_at: WallTime(u64::from(n)),
        balance: Default::default(),
        coming: false,
        wakes: false,
        endpoints: Vec::new(),
    }
}

fn alias(name: &str, targets: &[(&str, u32)], fallback: Option<&str>) -> Arc<Alias> {
    let target = |(name, weight): &(&str, u32)| Target { deployment: (*name).to_owned(), weight: *weight };
    Arc::new(Alias {
        name: name.to_owned(),
        targets: targets.iter().map(target).collect(),
        fallback: fallback.map(str::to_owned),
        created_at: WallTime(5),
        updated_at: WallTime(6),
    })
}

/// Targets with their weights, and the fallback.
type StandsFor = (Vec<(DeploymentId, u32)>, Option<DeploymentId>);

fn stands_for(table: &RouteTable, name: &str) -> Option<StandsFor> {
    let AliasRoute { targets, fallback, .. } = table.alias(name).map(|found| (**found).clone())?;
    Some((targets, fallback))
}

#[test]
fn an_alias_stands_for_whoever_has_the_names_now() {
    let mut machine = Machine::load(vec![spec(1, "old")], &RouteTable::default());
    assert!(machine.set_aliases(vec![alias("chat", &[("old", 90), ("new", 10)], Some("spare"))]));
    let table = machine.publication().table;
    assert_eq!(stands_for(&table, "chat"), Some((vec![(id(1), 90)], None)), "the others are not there");
    machine.publish(spec(2, "new"));
    machine.publish(spec(3, "spare"));
    let table = machine.publication().table;
    assert_eq!(stands_for(&table, "chat"), Some((vec![(id(1), 90), (id(2), 10)], Some(id(3)))));
    machine.withdraw(id(1));
    machine.withdraw(id(3));
    let table = machine.publication().table;
    assert_eq!(stands_for(&table, "chat"), Some((vec![(id(2), 10)], None)));
    machine.publish(spec(4, "old"));
    let table = machine.publication().table;
    assert_eq!(
        stands_for(&table, "chat"),
        Some((vec![(id(4), 90), (id(2), 10)], None)),
        "it came back by name"
    );
}

#[test]
fn aliases_change_go_and_stay_as_they_were_told_last() {
    let mut machine = Machine::load(vec![spec(1, "a"), spec(2, "b")], &RouteTable::default());
    machine.set_aliases(vec![alias("x", &[("a", 1)], None), alias("y", &[("b", 1)], None)]);
    let first = machine.publication().table;
    assert!(
        !machine.set_aliases(vec![alias("x", &[("a", 1)], None), alias("y", &[("b", 1)], None)]),
        "the same"
    );
    assert!(machine.set_aliases(vec![alias("x", &[("b", 3)], Some("a"))]));
    assert_eq!(machine.alias_count(), 1);
    let second = machine.publication().table;
    assert_eq!(stands_for(&second, "x"), Some((vec![(id(2), 3)], Some(id(1)))));
    assert_eq!(stands_for(&second, "y"), None);
    assert_eq!(stands_for(&first, "y"), Some((vec![(id(2), 1)], None)), "a table that is in use stays");
    let names: Vec<&str> = first.aliases().map(|alias| alias.name.as_str()).collect();
    assert_eq!(names, ["x", "y"]);
}

#[test]
fn a_router_that_is_built_again_forgets_aliases_that_went_meanwhile() {
    let mut machine = Machine::load(vec![spec(1, "a")], &RouteTable::default());
    machine.set_aliases(vec![alias("x", &[("a", 1)], None), alias("y", &[("a", 1)], None)]);
    let published = machine.publication().table;
    let mut again = Machine::load(vec![spec(1, "a")], &published);
    again.set_aliases(vec![alias("y", &[("a", 2)], None)]);
    let table = again.publication().table;
    assert_eq!((stands_for(&table, "x"), stands_for(&table, "y")), (None, Some((vec![(id(1), 2)], None))));
    let mut none = Machine::load(vec![spec(1, "a")], &published);
    none.set_aliases(Vec::new());
    assert_eq!(none.publication().table.aliases().count(), 0);
}
