//! Amazon Route 53: an A record for each name that should be reachable, in one hosted zone.
//!
//! What is there is listed at the start, once a day and whenever a write did not certainly end well; between, it is
//! known. A record is ours when the TXT record beside it says so; no other one is changed or removed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nebula_core::address::is_domain_name;
use nebula_core::clock::{Clock, Tick};
use nebula_core::exit::{Exit, Fatal};
use nebula_core::token::Secret;

use self::client::Zone;
use self::diff::{Aim, Plan, brief};
use self::names::Names;
use self::records::{Group, Op, Records};
use self::trouble::{Doing, Failure};
use crate::domain::edge::{Differences, EdgeError, Round, Trouble, Wanted};
use crate::ports::{BoxFuture, Edge};

mod batch;
mod client;
mod diff;
mod names;
mod pace;
mod records;
#[cfg(test)]
mod tests;
mod trouble;

/// How long a listing is good for when nothing else says that it is not.
const AUDIT_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// How old a listing may be when records are overwritten because of it.
const OVERWRITE_WITHIN: Duration = Duration::from_secs(60);
/// How long a change that Route 53 found invalid is not tried again.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// How often a change set may be found invalid in one round.
const TRIES_MAX: usize = 2;

/// The zone, what is to be in it, and how to get at it.
#[derive(Clone, Debug)]
pub struct Route53Options {
    /// The hosted zone, such as `Z0123456789ABCDEFGHIJ`.
    pub zone_id: String,
    /// Access key and secret key; none: the standard AWS chain (environment, profile, web identity, ECS, EC2).
    pub credentials: Option<(String, Secret)>,
    /// AWS region, for the signature.
    pub region: String,
    /// Of our records, in seconds.
    pub ttl_seconds: u32,
    /// Another endpoint than Amazon's: `http://…` or `https://…`.
    pub endpoint_url: Option<String>,
    /// The gateway's domain, in lower case, without a dot at the end. All our names are this one or below it.
    pub domain: String,
    /// What our records point to.
    pub gateway_ip: Ipv4Addr,
    /// One record for all names below the domain, none per node.
    pub wildcard: bool,
}

/// A hosted zone of Route 53.
#[derive(Clone, Debug)]
pub struct Route53 {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    zone: Zone,
    aim: Aim,
    target: String,
    clock: Clock,
    memory: Mutex<Memory>,
}

/// What is known between rounds.
#[derive(Debug, Default)]
struct Memory {
    /// Nothing while a round runs: one that is dropped in the middle of a write leaves nothing wrong behind.
    known: Option<Known>,
    /// Somebody saw that what is known is not how it is.
    is_stale: bool,
    /// By host: changes that Route 53 found invalid.
    refused: BTreeMap<String, Refused>,
}

#[derive(Debug)]
struct Known {
    records: Records,
    listed_at: Tick,
}

#[derive(Debug)]
struct Refused {
    ops: Vec<Op>,
    why: String,
    at: Tick,
}

impl Route53 {
    /// Checks the options; asks Route 53 nothing. Credentials are looked for at the first request.
    ///
    /// # Errors
    /// When the zone, the domain or the endpoint's address cannot be one.
    pub fn new(options: Route53Options) -> Result<Self, Fatal> {
        check(&options)?;
        let target = match &options.endpoint_url {
            Some(url) => format!("zone {} at {url}", options.zone_id),
            None => format!("zone {}", options.zone_id),
        };
        let aim = Aim {
            names: Names::new(&options.domain),
            address: options.gateway_ip.to_string(),
            ttl: u64::from(options.ttl_seconds),
            wildcard: options.wildcard,
        };
        let clock = Clock::start();
        let zone = Zone::new(options, clock);
        Ok(Self { inner: Arc::new(Inner { zone, aim, target, clock, memory: Mutex::default() }) })
    }
}

fn check(options: &Route53Options) -> Result<(), Fatal> {
    let fatal = |message: String, hint: &str| Err(Fatal::new(Exit::Config, message).hint(hint));
    if options.zone_id.is_empty() || !options.zone_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return fatal(
            format!("\"{}\" is no hosted zone of route 53", brief(&options.zone_id)),
            "--route53-hosted-zone-id takes letters and digits, such as Z0123456789ABCDEFGHIJ",
        );
    }
    if !is_domain_name(&options.domain) {
        return fatal(
            format!("\"{}\" is no domain name", brief(&options.domain)),
            "--gateway-domain takes a name such as gateway.example.com",
        );
    }
    if let Some(url) = &options.endpoint_url {
        let is_endpoint = url.parse::<http::Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        if !is_endpoint {
            return fatal(
                "the endpoint for route 53 is no address of a server".to_owned(),
                "--route53-endpoint-url takes http://host:port or https://host:port, without user and password",
            );
        }
    }
    Ok(())
}

impl Edge for Route53 {
    fn target(&self) -> String {
        self.inner.target.clone()
    }

    fn probe(&self) -> BoxFuture<Result<(), EdgeError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let answer = inner.zone.glance(&inner.aim.names).await;
            answer.map_err(|failure| inner.error(&failure, Doing::Listing))
        })
    }

    fn plan(&self, wanted: Arc<Wanted>) -> BoxFuture<Result<Differences, EdgeError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(inner.plan(wanted))
    }

    fn reconcile(&self, wanted: Arc<Wanted>) -> BoxFuture<Result<Round, EdgeError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(inner.reconcile(wanted))
    }
}

impl Inner {
    async fn plan(self: Arc<Self>, wanted: Arc<Wanted>) -> Result<Differences, EdgeError> {
        let (_, plan) = self.compared(self.list().await?, &wanted).await?;
        if !plan.groups.is_empty() {
            // The next round shall see it, too.
            self.memory().is_stale = true;
        }
        aside(|| plan.into_differences()).await
    }

    async fn reconcile(self: Arc<Self>, wanted: Arc<Wanted>) -> Result<Round, EdgeError> {
        let (mut known, mut is_fresh) = match self.take_known() {
            Some(known) => (known, false),
            None => (self.list().await?, true),
        };
        for _ in 0..TRIES_MAX {
            let mut plan;
            (known, plan) = self.compared(known, &wanted).await?;
            // A listing of this round is as fresh as can be, however long it took.
            if !is_fresh && self.is_too_old_for(&known, &plan) {
                (known, plan) = self.compared(self.list().await?, &wanted).await?;
            }
            let batch: Vec<Group> = plan.groups.drain(..batch::fitting(&plan.groups)).collect();
            if batch.is_empty() {
                return self.end_round(known, plan, 0).await;
            }
            match self.zone.change(&batch).await {
                Ok(()) => {
                    let ops = || batch.iter().flat_map(|group| &group.ops);
                    known.records.apply(ops());
                    let (known, plan) = self.compared(known, &wanted).await?;
                    return self.end_round(known, plan, ops().count()).await;
                }
                Err(failure) => known = self.after_failure(&failure, known, batch, &wanted).await?,
            }
            is_fresh = true;
        }
        // Both change sets were invalid, and what made them so was left out: the next round goes on from here.
        let (known, plan) = self.compared(known, &wanted).await?;
        self.end_round(known, plan, 0).await
    }

    /// A failed change set. When it was found invalid, what is there is listed again, and what is still invalid
    /// then is left alone for a while.
    async fn after_failure(
        self: &Arc<Self>,
        failure: &Failure,
        known: Known,
        batch: Vec<Group>,
        wanted: &Arc<Wanted>,
    ) -> Result<Known, EdgeError> {
        let error = self.error(failure, Doing::Changing);
        let Some(text) = failure.invalid_batch() else {
            if failure.is_certain() {
                self.memory().known = Some(known);
            }
            return Err(error);
        };
        let (known, plan) = self.compared(self.list().await?, wanted).await?;
        let said = text.to_owned();
        let Some(culprits) = aside(move || culprits(&said, batch, &plan)).await? else {
            self.memory().known = Some(known);
            return Err(error);
        };
        let at = self.clock.now();
        let why = format!("route 53 does not take it: {}", brief(text));
        let refused =
            culprits.into_iter().map(|group| (group.host, Refused { ops: group.ops, why: why.clone(), at }));
        self.memory().refused.extend(refused);
        Ok(known)
    }

    /// Compares beside the others on this thread: with thousands of nodes it takes some hundredths of a second.
    async fn compared(
        self: &Arc<Self>,
        known: Known,
        wanted: &Arc<Wanted>,
    ) -> Result<(Known, Plan), EdgeError> {
        let (inner, wanted) = (Arc::clone(self), Arc::clone(wanted));
        aside(move || {
            let plan = inner.compare(&known.records, &wanted);
            (known, plan)
        })
        .await
    }

    fn compare(&self, records: &Records, wanted: &Wanted) -> Plan {
        let mut plan = self.aim.compare(records, wanted);
        let now = self.clock.now();
        let mut memory = self.memory();
        memory.refused.retain(|_, refused| now.since(refused.at) < REFUSED_FOR);
        if !memory.refused.is_empty() {
            let refused = |group: &Group| memory.refused.get(&group.host).filter(|it| it.ops == group.ops);
            plan.block(|group| refused(group).map(|it| it.why.clone()));
        }
        plan
    }

    async fn end_round(&self, known: Known, plan: Plan, changed: usize) -> Result<Round, EdgeError> {
        let (observed, left) = (plan.observed, aside(|| plan.into_differences()).await?);
        self.memory().known = Some(known);
        Ok(Round { observed, changed, left })
    }

    /// What is known, if it is still good; until it is put back nothing is known.
    fn take_known(&self) -> Option<Known> {
        let mut memory = self.memory();
        let was_stale = std::mem::take(&mut memory.is_stale);
        let known = memory.known.take()?;
        let is_good = !was_stale && self.clock.now().since(known.listed_at) < AUDIT_EVERY;
        is_good.then_some(known)
    }

    fn is_too_old_for(&self, known: &Known, plan: &Plan) -> bool {
        let overwrites = plan.groups.iter().flat_map(|group| &group.ops).any(Op::overwrites);
        overwrites && self.clock.now().since(known.listed_at) > OVERWRITE_WITHIN
    }

    async fn list(&self) -> Result<Known, EdgeError> {
        let listed_at = self.clock.now();
        let records = self.zone.list(&self.aim.names).await;
        let records = records.map_err(|failure| self.error(&failure, Doing::Listing))?;
        tracing::debug!(target = self.target, records = records.len(), "the zone was listed");
        Ok(Known { records, listed_at })
    }

    fn error(&self, failure: &Failure, doing: Doing) -> EdgeError {
        failure.explain(&self.target, doing)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that takes its time, on another thread.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EdgeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| EdgeError {
        trouble: Trouble::Busy,
        message: format!("route 53: the records could not be compared: {error}"),
        hint: String::new(),
    })
}

/// The changes of an invalid set that it names and that are planned still. Nothing when another try would be the same.
fn culprits(text: &str, batch: Vec<Group>, plan: &Plan) -> Option<Vec<Group>> {
    let planned: BTreeMap<&str, &Group> =
        plan.groups.iter().map(|group| (group.host.as_str(), group)).collect();
    let is_as_before = |group: &Group| planned.get(group.host.as_str()) == Some(&group);
    let (as_before, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_as_before);
    let named: Vec<Group> = as_before.into_iter().filter(|group| is_named(text, group)).collect();
    (!named.is_empty() || !others.is_empty()).then_some(named)
}

/// Whether a text of Route 53 speaks of a record of this group.
fn is_named(text: &str, group: &Group) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    group.ops.iter().any(|op| {
        let name = op.name.replace('*', "\\052");
        let name = if text.contains(&name) { &name } else { &op.name };
        text.match_indices(name.as_str()).any(|(at, _)| {
            let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + name.len()..));
            !before.ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
                && after.is_none_or(ends)
        })
    })
}
