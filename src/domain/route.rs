//! Routes: which replicas answer for a public model name, and who may ask. The router publishes an immutable
//! [`RouteTable`]; the gateway reads it without asking anybody.
//!
//! Endpoints are shared between successive tables, so that what is in flight and what a gate says survive a
//! publication.

use std::sync::Arc;

use nebula_core::clock::WallTime;
use nebula_core::ids::DeploymentId;
use nebula_core::runtime::RuntimeKind;
use nebula_core::token::{Secret, TokenHash};

mod alias;
mod balance;
mod endpoint;
#[cfg(test)]
mod fixtures;
mod load;
mod parts;
mod table;

pub use self::alias::{AliasRoute, Chosen};
pub use self::balance::{Balance, Pick, UnknownBalance};
pub use self::endpoint::{Endpoint, Gate, GateState, InflightGuard};
pub use self::load::{Demand, Load, Waiting};
pub use self::table::RouteTable;

/// A deployment as the gateway sees it.
#[derive(Debug)]
pub struct Route {
    /// The deployment; its id is a model name too.
    pub deployment_id: DeploymentId,
    /// The public model name.
    pub name: String,
    /// The name under which the runtime serves the model.
    pub served_name: String,
    /// What is spoken upstream.
    pub runtime: RuntimeKind,
    /// Who may call.
    pub access: Access,
    /// What the agents' proxies want to see.
    pub gateway_token: Secret,
    /// When the deployment was created.
    pub created_at: WallTime,
    /// Which of the replicas gets a request.
    pub balance: Balance,
    /// No replica can be asked yet, and one is on its way.
    pub coming: bool,
    /// No replica can be asked, and a request starts one, or one that was started so is on its way.
    pub wakes: bool,
    /// How much it is asked for; the same in all tables.
    pub demand: Arc<Demand>,
    /// The replicas that may be asked; none while nothing of the deployment can serve.
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl Route {
    /// Whether waiting makes sense: no replica can be asked yet, and one comes, by itself or because of the request.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.endpoints.is_empty() && (self.coming || self.wakes)
    }
}

/// Who may call a route, besides the administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Who shows one of these tokens; an empty list lets nobody in.
    Token(Vec<TokenHash>),
}

impl Access {
    /// Whether a token with this hash opens it.
    #[must_use]
    pub fn admits(&self, token: &TokenHash) -> bool {
        match self {
            Self::Public => true,
            // Every hash is compared, so that the time does not tell which one fits.
            Self::Token(hashes) => hashes.iter().fold(false, |found, hash| hash.same(token) | found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_route_without_a_token_lets_nobody_in() {
        assert!(!Access::Token(Vec::new()).admits(&TokenHash::of("")));
        let access = Access::Token(vec![TokenHash::of("a"), TokenHash::of("b")]);
        assert!(access.admits(&TokenHash::of("a")) && access.admits(&TokenHash::of("b")));
        assert!(!access.admits(&TokenHash::of("c")));
        assert!(Access::Public.admits(&TokenHash::of("c")));
    }
}
