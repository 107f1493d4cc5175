//! All routes at one moment, found by name, by id and by token.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use nebula_core::ids::DeploymentId;
use nebula_core::token::TokenHash;

use super::{Access, Route};

/// All routes at one moment. What it costs to find one does not depend on how many there are.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    by_name: HashSet<ByName>,
    by_id: HashSet<ById>,
    by_token: HashMap<TokenHash, DeploymentId>,
}

impl RouteTable {
    /// A table of these routes. When two share a name, the first by name and age wins.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self::of(routes.into_iter().map(Arc::new).collect())
    }

    /// The same, of routes that other tables may hold too.
    #[must_use]
    #[expect(
        clippy::mutable_key_type,
        reason = "only name and id are hashed and compared, and these never change"
    )]
    pub fn of(mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_by(|a, b| (&a.name, a.created_at).cmp(&(&b.name, b.created_at)));
        let mut by_name = HashSet::with_capacity(routes.len());
        let mut by_id = HashSet::with_capacity(routes.len());
        let mut by_token = HashMap::with_capacity(routes.len());
        for route in &routes {
            // A set keeps the first of equals.
            by_name.insert(ByName(Arc::clone(route)));
            by_id.insert(ById(Arc::clone(route)));
            if let Access::Token(hashes) = &route.access {
                by_token.extend(hashes.iter().map(|hash| (*hash, route.deployment_id)));
            }
        }
        Self { routes, by_name, by_id, by_token }
    }

    /// The route for a model's name or a deployment's id.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<&Arc<Route>> {
        // No name can be read as an id.
        let by_name = self.by_name.get(model).map(|found| &found.0);
        by_name.or_else(|| self.by_id(model.parse().ok()?))
    }

    /// The route of a deployment.
    #[must_use]
    pub fn by_id(&self, id: DeploymentId) -> Option<&Arc<Route>> {
        self.by_id.get(&id).map(|found| &found.0)
    }

    /// All routes, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// The deployment to which a token belongs. As the key is a hash, the time it takes says nothing about any token.
    #[must_use]
    pub fn holder(&self, token: &TokenHash) -> Option<DeploymentId> {
        let (hash, deployment) = self.by_token.get_key_value(token)?;
        hash.same(token).then_some(*deployment)
    }
}

/// A route that is found by its name, which so needs no copy.
#[derive(Debug)]
struct ByName(Arc<Route>);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

/// A route that is found by its id.
#[derive(Debug)]
struct ById(Arc<Route>);

impl Borrow<DeploymentId> for ById {
    fn borrow(&self) -> &DeploymentId {
        &self.0.deployment_id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.deployment_id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.deployment_id == other.0.deployment_id
    }
}

impl Eq for ById {}

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
}
