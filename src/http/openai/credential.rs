//! Who calls, and what that opens.

use std::sync::Arc;

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use nebula_core::token::{TokenHash, bearer};

use crate::domain::route::{Access, Route, RouteTable};
use crate::http::error::OpenAiError;

/// Where clients of `/messages` put the credential; it counts when there is no `authorization`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who calls.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Without a credential, or with one that opens nothing; the error says which.
    Nobody(OpenAiError),
    /// With a deployment's token.
    Holder(TokenHash),
    /// With the admin token.
    Admin,
}

impl Caller {
    /// Finds out who calls. The work is the same whatever model is asked for, known or not.
    pub(crate) fn of(headers: &HeaderMap, admin: &TokenHash, table: &RouteTable) -> Self {
        let token = match (headers.get(AUTHORIZATION), headers.get(API_KEY)) {
            (Some(header), _) => header.to_str().ok().and_then(bearer),
            (None, Some(key)) => key.to_str().ok(),
            (None, None) => return Self::Nobody(OpenAiError::NoCredential),
        };
        let Some(token) = token else { return Self::Nobody(OpenAiError::BadCredential) };
        let hash = TokenHash::of(token);
        let holds = table.holder(&hash).is_some();
        if admin.same(&hash) {
            Self::Admin
        } else if holds {
            Self::Holder(hash)
        } else {
            Self::Nobody(OpenAiError::BadCredential)
        }
    }

    /// Whether the caller may use a route.
    pub(crate) fn may_use(&self, route: &Route) -> bool {
        match self {
            Self::Admin => true,
            Self::Holder(hash) => route.access.admits(hash),
            Self::Nobody(_) => route.access == Access::Public,
        }
    }

    /// The route for a model. A public one is for everybody; for the rest a caller without a good credential hears
    /// the same of every model, and one with a good credential the same of those that are missing or not for it.
    pub(crate) fn route(self, table: &RouteTable, model: &str) -> Result<Arc<Route>, OpenAiError> {
        match (table.get(model).filter(|route| self.may_use(route)), self) {
            (Some(route), _) => Ok(Arc::clone(route)),
            (None, Self::Nobody(error)) => Err(error),
            (None, Self::Holder(_) | Self::Admin) => Err(OpenAiError::NoSuchModel(model.to_owned())),
        }
    }
}
