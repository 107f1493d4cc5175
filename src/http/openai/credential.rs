//! Who calls, and what that opens.

use std::sync::Arc;

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use nebula_core::clock::WallTime;
use nebula_core::token::{TokenHash, bearer};

use crate::domain::key::{KeyTable, LiveKey};
use crate::domain::route::{Access, Route, RouteTable};
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

    /// The route for a model, and the key on whose account it is used. A public one is for everybody, and on nobody's
    /// account where the key is not for it. For the rest a caller without a good credential hears the same of every
    /// model, and one with a good credential the same of those that are missing or not for it.
    pub(crate) fn route(
        self,
        table: &RouteTable,
        model: &str,
    ) -> Result<(Arc<Route>, Option<Arc<LiveKey>>), OpenAiError> {
        let Some(route) = table.get(model).filter(|route| self.may_use(route)) else {
            return Err(match self {
                Self::Nobody(error) => error,
                Self::Holder(_) | Self::Key(_) | Self::Admin => OpenAiError::NoSuchModel(model.to_owned()),
            });
        };
        let let_in = self.is_let_in(route);
        let key = match self {
            Self::Key(key) if let_in => Some(key),
            Self::Key(_) | Self::Nobody(_) | Self::Holder(_) | Self::Admin => None,
        };
        Ok((Arc::clone(route), key))
    }
}
