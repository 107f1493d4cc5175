//! All routes at one moment, found by name, by id and by token, and the aliases that stand for several.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use nebula_core::ids::DeploymentId;
use nebula_core::token::TokenHash;

use super::parts::Parts;
use super::{Access, AliasRoute, Route};

/// All routes at one moment. What it costs to find one, and to change one in a copy of the table, does not grow with
/// how many there are: a copy shares all that is the same.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// The one that has the name comes first; there are others only while one deployment goes and another comes.
    by_name: Parts<String, Vec<Arc<Route>>>,
    by_id: Parts<DeploymentId, Arc<Route>>,
    by_token: Parts<TokenHash, DeploymentId>,
    aliases: Arc<BTreeMap<String, Arc<AliasRoute>>>,
    /// All routes by name, once somebody has asked for them.
    in_order: OnceLock<Vec<Arc<Route>>>,
}

impl RouteTable {
    /// A table of these routes. When two share a name, the older one has it.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        let mut table = Self::default();
        routes.into_iter().for_each(|route| table.put(Arc::new(route)));
        table
    }

    /// The same routes with these aliases. A deployment's name comes before an alias of the same name.
    #[must_use]
    pub fn with_aliases(self, aliases: Arc<BTreeMap<String, Arc<AliasRoute>>>) -> Self {
        Self { aliases, ..self }
    }

    /// Adds a route, or puts it in the place of what the deployment's was before.
    pub fn put(&mut self, route: Arc<Route>) {
        self.remove(route.deployment_id);
        let mut named = self.by_name.get(&route.name).cloned().unwrap_or_default();
        named.push(Arc::clone(&route));
        named.sort_by_key(|route| (route.created_at, route.deployment_id));
        self.by_name.insert(route.name.clone(), named);
        for hash in tokens(&route.access) {
            self.by_token.insert(*hash, route.deployment_id);
        }
        self.by_id.insert(route.deployment_id, route);
    }

    /// Takes a deployment's route away.
    pub fn remove(&mut self, id: DeploymentId) {
        self.in_order = OnceLock::new();
        if self.by_id.get(&id).is_none() {
            return;
        }
        let Some(gone) = self.by_id.remove(&id) else { return };
        let mut named = self.by_name.remove(&gone.name).unwrap_or_default();
        named.retain(|route| route.deployment_id != id);
        if !named.is_empty() {
            self.by_name.insert(gone.name.clone(), named);
        }
        for hash in tokens(&gone.access) {
            if self.by_token.get(hash) == Some(&id) {
                self.by_token.remove(hash);
            }
        }
    }

    /// The alias of this name.
    #[must_use]
    pub fn alias(&self, name: &str) -> Option<&Arc<AliasRoute>> {
        self.aliases.get(name)
    }

    /// All aliases, by name.
    pub fn aliases(&self) -> impl Iterator<Item = &Arc<AliasRoute>> {
        self.aliases.values()
    }

    /// The route for a model's name or a deployment's id.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<&Arc<Route>> {
        // No name can be read as an id.
        self.named(model).or_else(|| self.by_id(model.parse().ok()?))
    }

    /// The route of the deployment of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<Route>> {
        self.by_name.get(name)?.first()
    }

    /// The route of a deployment.
    #[must_use]
    pub fn by_id(&self, id: DeploymentId) -> Option<&Arc<Route>> {
        self.by_id.get(&id)
    }

    /// All routes, by name. They are put in order once for each table.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        let in_order = self.in_order.get_or_init(|| {
            let mut routes: Vec<Arc<Route>> = self.by_id.values().cloned().collect();
            routes.sort_by(|a, b| (&a.name, a.created_at).cmp(&(&b.name, b.created_at)));
            routes
        });
        in_order.iter()
    }

    /// The deployment to which a token belongs. As the key is a hash, the time it takes says nothing about any token.
    #[must_use]
    pub fn holder(&self, token: &TokenHash) -> Option<DeploymentId> {
        let (hash, deployment) = self.by_token.get_key_value(token)?;
        hash.same(token).then_some(*deployment)
    }
}

fn tokens(access: &Access) -> &[TokenHash] {
    match access {
        Access::Public => &[],
        Access::Token(hashes) => hashes,
    }
}

#[cfg(test)]
mod tests {
    use nebula_core::clock::WallTime;

    use super::super::fixtures::route;
    use super::*;

    #[test]
    fn a_route_is_found_by_name_and_by_id_and_its_token_by_hash() {
        let hash = TokenHash::of("nbtok_1");
        let one = route("org/one", Access::Token(vec![hash]), Vec::new());
        let id = one.deployment_id;
        let table = RouteTable::new(vec![route("two", Access::Public, Vec::new()), one]);
        assert_eq!(table.get("org/one").map(|route| route.deployment_id), Some(id));
        assert_eq!(table.get(&id.to_string()).map(|route| route.deployment_id), Some(id));
        assert_eq!(table.by_id(id).map(|route| route.name.as_str()), Some("org/one"));
        assert!(table.get("three").is_none() && table.by_id(DeploymentId::random()).is_none());
        assert_eq!(table.holder(&hash), Some(id));
        assert_eq!(table.holder(&TokenHash::of("nbtok_2")), None);
        assert_eq!(table.iter().map(|route| route.name.as_str()).collect::<Vec<_>>(), ["org/one", "two"]);
    }

    #[test]
    fn of_two_routes_with_one_name_the_older_one_has_it_and_both_have_their_ids() {
        let of =
            |created_at| Route { created_at: WallTime(created_at), ..route("m", Access::Public, Vec::new()) };
        let (young, old) = (of(2), of(1));
        let (young_id, old_id) = (young.deployment_id, old.deployment_id);
        let table = RouteTable::new(vec![young, old]);
        assert_eq!(table.get("m").map(|route| route.deployment_id), Some(old_id));
        assert!(table.by_id(young_id).is_some() && table.by_id(old_id).is_some());
    }

    #[test]
    fn a_changed_copy_leaves_the_table_as_it_was() {
        let token = |text| Access::Token(vec![TokenHash::of(text)]);
        let one = route("a", token("nbtok_1"), Vec::new());
        let id = one.deployment_id;
        let before = RouteTable::new(vec![one, route("b", Access::Public, Vec::new())]);
        assert_eq!(before.iter().count(), 2);
        let mut after = before.clone();
        after.put(Arc::new(Route { deployment_id: id, ..route("a", token("nbtok_2"), Vec::new()) }));
        after.put(Arc::new(route("c", Access::Public, Vec::new())));
        let names = |table: &RouteTable| table.iter().map(|route| route.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&before), names(&after)),
            (vec!["a".to_owned(), "b".to_owned()], vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],)
        );
        let holders =
            |table: &RouteTable| ["nbtok_1", "nbtok_2"].map(|text| table.holder(&TokenHash::of(text)));
        assert_eq!((holders(&before), holders(&after)), ([Some(id), None], [None, Some(id)]));
        after.remove(id);
        assert!(after.get("a").is_none() && after.by_id(id).is_none() && holders(&after) == [None, None]);
        assert!(before.get("a").is_some() && before.by_id(id).is_some());
    }

    #[test]
    fn a_name_passes_on_when_its_holder_goes() {
        let of =
            |created_at| Route { created_at: WallTime(created_at), ..route("m", Access::Public, Vec::new()) };
        let (young, old) = (of(2), of(1));
        let (young_id, old_id) = (young.deployment_id, old.deployment_id);
        let mut table = RouteTable::new(vec![young, old]);
        table.remove(old_id);
        assert_eq!(table.get("m").map(|route| route.deployment_id), Some(young_id));
        table.remove(young_id);
        assert!(table.get("m").is_none());
    }
}
