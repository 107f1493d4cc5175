//! The keys: which API keys there are.
//!
//! * Owns: the API keys, each name of which is taken once.
//! * Persists: every change of a key, with its line in the audit, before it is acknowledged.
//! * Talks to: nobody; publishes the table by which the gateway finds keys.
//! * Timers: none; what has expired is seen when it is used.
//! * On crash: loads the keys from the store; the published table, and what was used of each limit, stays until then. It
//!   ends by itself when nobody can know whether a change was stored: what is stored then counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, Context, Handler, Message, ResponseActFuture, WrapFuture};
use nebula_core::clock::WallTime;
use nebula_core::ids::KeyId;
use nebula_core::token::{Secret, TokenKind};
use serde::Serialize;

use self::machine::{Change, Machine, Plan};
use super::letter::{Member, opens_letters};
use super::supervisor::{Birth, ChildSpec, DeathWatch, Restart};
use super::system::{System, patiently, store_error};
use super::tree::Cell;
use super::upkeep::Need;
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::{Line, Origin};
use crate::domain::key::{ApiKey, KeyTable, NewKey, OVERLAP_MAX};
use crate::ports::StoreError;

pub mod machine;

/// Where the keys' actor is in the tree.
pub const PATH: &str = "/keys";

/// How many changes may be made durable at a time.
const CHANGING_MAX: usize = 256;

/// What the actor publishes of itself.
#[derive(Debug, Serialize)]
struct KeysStatus {
    keys: usize,
}

/// The keys' actor.
pub struct Keys {
    machine: Machine,
    system: System,
    cell: Arc<Cell>,
    /// Changes that are being made durable.
    changing: usize,
    watch: DeathWatch,
}

/// How the keys' actor is built.
pub(crate) fn spec(system: System) -> ChildSpec {
    ChildSpec::new("keys", "keys", Restart::Permanent, move |birth| {
        let system = system.clone();
        async move { Keys::load(birth, system).await }
    })
}

impl Keys {
    async fn load(birth: Birth, system: System) -> Result<(), Error> {
        let stored = patiently(|| system.store.keys()).await.map_err(store_error)?;
        let (clock, before) = (system.tree.clock(), system.keys.load_full());
        let spent = spent(&system, &stored, &before, clock.wall()).await?;
        let machine = Machine::load(stored, &before, &spent, clock.now(), clock.wall());
        let keys = Self { machine, system, cell: birth.cell.clone(), changing: 0, watch: birth.watch };
        keys.publish();
        birth.cell.running(keys.start());
        Ok(())
    }

    fn publish(&self) {
        self.system.keys.store(Arc::new(self.machine.table().clone()));
        self.cell.publish(Arc::new(KeysStatus { keys: self.machine.table().len() }));
    }
}

/// What keys with a budget have used in its period that is running, by what was written down. Only of those whose use
/// is not known from before.
async fn spent(
    system: &System,
    stored: &[ApiKey],
    before: &KeyTable,
    now: WallTime,
) -> Result<BTreeMap<KeyId, u64>, Error> {
    let unknown = stored.iter().filter(|key| before.get(key.id).is_none());
    let since = unknown.filter_map(|key| Some((key.id, key.limits.budget?.period.start(now))));
    let since: BTreeMap<KeyId, WallTime> = since.collect();
    let mut spent = BTreeMap::new();
    if since.is_empty() {
        return Ok(spent);
    }
    for row in patiently(|| system.store.usage(None)).await.map_err(store_error)? {
        let Some(key) = row.key else { continue };
        if since.get(&key).is_some_and(|since| row.from >= *since) {
            let tokens = spent.entry(key).or_insert(0_u64);
            *tokens = tokens.saturating_add(row.sums.tokens());
        }
    }
    Ok(spent)
}

impl Actor for Keys {
    type Context = Context<Self>;
}

impl Member for Keys {
    fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }

    fn watch(&mut self) -> &mut DeathWatch {
        &mut self.watch
    }

    fn busy(&self) -> bool {
        self.changing > 0
    }
}

opens_letters!(Keys);

/// From the API: a key is made, rotated or revoked. Answers when it is durable and the gateway goes by it, with the key
/// as it is then, or was.
#[derive(Debug, Message)]
#[rtype(result = "Result<ApiKey, Error>")]
pub struct ChangeKey {
    /// What is to change.
    pub change: Change,
    /// When.
    pub at: WallTime,
    /// Who wants it.
    pub origin: Origin,
}

impl Handler<ChangeKey> for Keys {
    type Result = ResponseActFuture<Self, Result<ApiKey, Error>>;

    fn handle(&mut self, message: ChangeKey, _: &mut Context<Self>) -> Self::Result {
        if self.changing >= CHANGING_MAX {
            return Box::pin(async { Err(Error::overloaded()) }.into_actor(self));
        }
        let ChangeKey { change, at, origin } = message;
        let plan = match self.machine.begin(change, at) {
            Ok(plan) => plan,
            Err(error) => return Box::pin(async move { Err(error) }.into_actor(self)),
        };
        let audit = Line::of_audit(origin, plan.kind(), plan.to_string(), at);
        let commit = self.system.journal.commit(vec![plan.write()], vec![audit]);
        self.changing += 1;
        Box::pin(commit.into_actor(self).map(move |result, keys: &mut Self, ctx: &mut Context<Self>| {
            let _turn = keys.cell.future_turn("future: a key's change is committed");
            keys.changing -= 1;
            if let Err(error @ StoreError::Failed(_)) = &result {
                keys.watch.ends_because(format!("whether a key was changed is unknown: {error}"));
                ctx.stop();
            }
            keys.ended(plan, result.map_err(store_error))
        }))
    }
}

impl Keys {
    fn ended(&mut self, plan: Plan, result: Result<(), Error>) -> Result<ApiKey, Error> {
        let clock = self.system.tree.clock();
        match result {
            Ok(()) => {
                let key = self.machine.done(plan, clock.now(), clock.wall());
                self.publish();
                Ok(key)
            }
            Err(error) => {
                self.machine.given_up(&plan);
                Err(error)
            }
        }
    }
}

impl System {
    /// All API keys as they are now.
    #[must_use]
    pub fn keys(&self) -> Arc<KeyTable> {
        self.keys.load_full()
    }

    /// Makes a key. The secret is told here and never again.
    ///
    /// # Errors
    /// `Unprocessable` when it can never be right, `Conflict` when the name is taken or there are too many; what the
    /// store says.
    pub async fn create_key(&self, wanted: NewKey, origin: Origin) -> Result<(ApiKey, Secret), Error> {
        let now = self.tree.clock().wall();
        wanted.check(now)?;
        self.admit(Need::Growing)?;
        let secret = new_secret()?;
        let key = ApiKey::new(wanted, secret.hash(), now);
        Ok((self.change_key(Change::Create(Box::new(key)), origin).await?, secret))
    }

    /// Revokes a key with all its secrets; from then on the gateway does not know it.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` while it is being changed; what the store says.
    pub async fn revoke_key(&self, id: KeyId, origin: Origin) -> Result<(), Error> {
        self.change_key(Change::Revoke(id), origin).await.map(drop)
    }

    /// Gives a key another secret. The old one stays valid for `overlap`; zero ends it at once.
    ///
    /// # Errors
    /// `NotFound`, `Unprocessable` when the overlap is over [`OVERLAP_MAX`], `Conflict` when it has expired or is being
    /// changed; what the store says.
    pub async fn rotate_key(
        &self,
        id: KeyId,
        overlap: Duration,
        origin: Origin,
    ) -> Result<(ApiKey, Secret), Error> {
        if overlap > OVERLAP_MAX {
            return Err(Error::new(ErrorClass::Unprocessable, "the overlap is to be at most 365 days"));
        }
        let secret = new_secret()?;
        let rotate = Change::Rotate { id, hash: secret.hash(), overlap };
        Ok((self.change_key(rotate, origin).await?, secret))
    }

    async fn change_key(&self, change: Change, origin: Origin) -> Result<ApiKey, Error> {
        let at = self.tree.clock().wall();
        self.keys_actor.ask(PATH, ChangeKey { change, at, origin }).await?
    }
}

fn new_secret() -> Result<Secret, Error> {
    Secret::generate(TokenKind::Key).map_err(|error| Error::new(ErrorClass::Internal, error.to_string()))
}
