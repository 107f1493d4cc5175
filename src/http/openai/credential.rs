//! Who calls, and what that opens.

use std::sync::Arc;

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use nebula_core::clock::WallTime;
use nebula_core::token::{TokenHash, bearer};

use crate::domain::key::{KeyTable, LiveKey};
use crate::domain::route::{Access, AliasRoute, Chosen, Route, RouteTable};
use crate::http::error::OpenAiError;

/// Where clients of `/messages` put the credential; it counts when there is no `authorization`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who calls.
pub(crate) enum Caller {
    /// Without a credential, or with one that opens nothing; the error says which.
    Nobody(OpenAiError),
    /// With a deployment's token.
    Holder(TokenHash),
    /// With an API key.
    Key(Arc<LiveKey>),
    /// With the admin token.
    Admin,
}

impl Caller {
    /// Finds out who calls. The work is the same whatever model is asked for, known or not.
    pub(crate) fn of(
        headers: &HeaderMap,
        admin: &TokenHash,
        table: &RouteTable,
        keys: &KeyTable,
        now: WallTime,
    ) -> Self {
        let token = match (headers.get(AUTHORIZATION), headers.get(API_KEY)) {
            (Some(header), _) => header.to_str().ok().and_then(bearer),
            (None, Some(key)) => key.to_str().ok(),
            (None, None) => return Self::Nobody(OpenAiError::NoCredential),
        };
        let Some(token) = token else { return Self::Nobody(OpenAiError::BadCredential) };
        let hash = TokenHash::of(token);
        let (holds, key) = (table.holder(&hash).is_some(), keys.find(&hash, now));
        if admin.same(&hash) {
            Self::Admin
        } else if let Some(key) = key {
            Self::Key(Arc::clone(key))
        } else if holds {
            Self::Holder(hash)
        } else {
            Self::Nobody(OpenAiError::BadCredential)
        }
    }

    /// Whether the caller may use a route.
    pub(crate) fn may_use(&self, route: &Route) -> bool {
        route.access == Access::Public || self.is_let_in(route)
    }

    /// Whether the caller may use a route if it is private.
    fn is_let_in(&self, route: &Route) -> bool {
        match self {
            Self::Admin => true,
            Self::Holder(hash) => route.access.admits(hash),
            Self::Key(key) => key.allows(&route.name, route.deployment_id),
            Self::Nobody(_) => false,
        }
    }

    /// What the caller may use under a model's name. A public model is for everybody, and on nobody's account where the
    /// key is not for it. For the rest a caller without a good credential hears the same of every model, and one with a
    /// good credential the same of those that are missing or not for it.
    pub(crate) fn open(self, table: &RouteTable, model: &str) -> Result<Opened, OpenAiError> {
        let opened = match table.get(model) {
            Some(route) if self.may_use(route) => {
                let let_in = self.is_let_in(route);
                Some((Arc::clone(route), let_in, None, None))
            }
            Some(_) => None,
            None => table.alias(model).and_then(|alias| self.choose(table, alias)).map(|(chosen, let_in)| {
                (Arc::clone(chosen.route), let_in, chosen.fallback.cloned(), chosen.sleeper.cloned())
            }),
        };
        let Some((route, let_in, fallback, sleeper)) = opened else {
            return Err(match self {
                Self::Nobody(error) => error,
                Self::Holder(_) | Self::Key(_) | Self::Admin => OpenAiError::NoSuchModel(model.to_owned()),
            });
        };
        let key = match self {
            Self::Key(key) if let_in => Some(key),
            Self::Key(_) | Self::Nobody(_) | Self::Holder(_) | Self::Admin => None,
        };
        Ok(Opened { route, fallback, sleeper, key })
    }

    /// A deployment that could answer this caller for an alias.
    pub(crate) fn alias<'a>(&self, table: &'a RouteTable, alias: &AliasRoute) -> Option<&'a Arc<Route>> {
        self.choose(table, alias).map(|(chosen, _)| chosen.route)
    }

    /// Who answers for an alias, and whether the caller may use the alias as such. One who may not has its share of
    /// the deployments behind it that are public or that its token opens.
    fn choose<'a>(&self, table: &'a RouteTable, alias: &AliasRoute) -> Option<(Chosen<'a>, bool)> {
        let let_in = match self {
            Self::Admin => true,
            Self::Key(key) => key.key.models.as_ref().is_none_or(|models| models.contains(&alias.name)),
            Self::Holder(_) | Self::Nobody(_) => false,
        };
        let usable = |route: &Route| {
            let holds = || matches!(self, Self::Holder(hash) if route.access.admits(hash));
            let_in || route.access == Access::Public || holds()
        };
        Some((alias.choose(table, rand::random(), usable)?, let_in))
    }
}

/// What a caller may use under a model's name.
pub(crate) struct Opened {
    /// Who is asked.
    pub(crate) route: Arc<Route>,
    /// Who is asked if that fails.
    pub(crate) fallback: Option<Arc<Route>>,
    /// Who is to be woken meanwhile.
    pub(crate) sleeper: Option<Arc<Route>>,
    /// On whose account.
    pub(crate) key: Option<Arc<LiveKey>>,
}
