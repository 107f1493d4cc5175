//! Caddy: the reverse proxy in front of the nodes, by its admin API.
//!
//! A round looks at the HTTP servers, compares ([`diff`], pure), makes at most a few guarded writes and looks again
//! after each. What is there is never assumed: a Caddy that lost its configuration is put right by the next round.

mod admin;
mod diff;
mod listen;
mod render;
mod seen;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;

use nebula_core::exit::{Exit, Fatal};
use tokio::task::spawn_blocking;

use self::admin::{Admin, Written};
use self::diff::Step;
use self::listen::Listener;
use self::render::Site;
use self::seen::Seen;
use crate::domain::edge::{Differences, EdgeError, Round, Wanted};
use crate::ports::{BoxFuture, Edge};

/// How often a round looks again because somebody else changed something.
const OVERTAKEN_MAX: u32 = 3;
/// How often a round looks again because the connection of a write broke.
const BROKEN_MAX: u32 = 1;
/// Writes in one round; each makes Caddy load its whole configuration. What is left is for the next round.
const WRITES_MAX: u32 = 4;

/// Where Caddy is and what it is to be for us.
#[derive(Clone, Debug)]
pub struct CaddyOptions {
    /// The admin API's address: `http://localhost:2019`.
    pub admin_url: String,
    /// What our server listens on: `:443`, `127.0.0.1:8081`.
    pub listen: String,
    /// The gateway's own name, in lower case; the nodes' names are below it.
    pub domain: String,
    /// Where nebulad serves HTTP.
    pub gateway: SocketAddr,
}

/// The Caddy that is made to lead to the nodes.
#[derive(Clone, Debug)]
pub struct Caddy {
    admin: Arc<Admin>,
    site: Arc<Site>,
}

impl Caddy {
    /// Checks the options; nothing is sent yet.
    ///
    /// # Errors
    /// The URL is none, or what is to be listened on is neither `:port` nor `address:port`, or is the admin API itself.
    pub fn new(options: CaddyOptions) -> Result<Self, Fatal> {
        let CaddyOptions { admin_url, listen, domain, gateway } = options;
        let admin = Admin::new(&admin_url)?;
        let Some(listener) = Listener::parse(&listen) else {
            return Err(Fatal::new(
                Exit::Config,
                format!("--caddy-listen \"{listen}\" is neither :port nor address:port"),
            ));
        };
        // Caddy would share the port between the two, and then be out of reach now and again.
        if admin.listener().is_some_and(|admin| admin.overlaps(&listener)) {
            let message =
                format!("--caddy-listen {listen} is where Caddy's admin API is ({})", admin.shown());
            return Err(Fatal::new(Exit::Config, message).hint("give --caddy-listen another port"));
        }
        let site = Site { listen, listener, domain, gateway };
        Ok(Self { admin: Arc::new(admin), site: Arc::new(site) })
    }

    /// Looks and compares; the ETag guards what is written in consequence.
    async fn compare(&self, wanted: &Arc<Wanted>) -> Result<(Step, Option<String>), EdgeError> {
        let look = self.admin.look().await?;
        let (servers, etag) = (look.servers, look.etag);
        let (wanted, site) = (Arc::clone(wanted), Arc::clone(&self.site));
        // With thousands of nodes this takes some hundredths of a second, which others need not wait for.
        let compared = spawn_blocking(move || {
            let seen = Seen::parse(&servers).map_err(|seen::Nonsense| None)?;
            diff::diff(&seen, &wanted, &site).map_err(Some)
        });
        let nonsense = |what| words::nonsense(self.admin.shown(), what);
        match compared.await {
            Ok(Ok(step)) => Ok((step, etag)),
            Ok(Err(Some(error))) => Err(error),
            Ok(Err(None)) => Err(nonsense("its HTTP servers are not as Caddy writes them")),
            Err(_) => Err(nonsense("its HTTP servers could not be compared")),
        }
    }

    async fn round(self, wanted: Arc<Wanted>) -> Result<Round, EdgeError> {
        let mut round = Round::default();
        let (mut overtaken, mut writes, mut broken) = (0, 0, 0);
        let mut written: Vec<String> = Vec::new();
        loop {
            let (step, etag) = self.compare(&wanted).await?;
            (round.observed, round.left) = (step.observed, step.differences);
            let Some(write) = step.write.filter(|_| writes < WRITES_MAX) else { return Ok(round) };
            // Again what was written a moment ago: somebody else has changed it since.
            overtaken += u32::from(written.contains(&write.path));
            if overtaken >= OVERTAKEN_MAX {
                return Err(words::overtaken(self.admin.shown(), overtaken));
            }
            let Some(etag) = etag else { return Err(words::no_etag(self.admin.shown())) };
            let (path, changes) = (write.path.clone(), write.changes);
            match self.admin.write(write, &etag, &self.site.listen).await? {
                Written::Overtaken => overtaken += 1,
                Written::Broken(_) if broken < BROKEN_MAX => broken += 1,
                Written::Broken(error) => return Err(error),
                Written::Done => {
                    writes += 1;
                    round.changed += changes;
                    written.push(path);
                }
            }
        }
    }
}

impl Edge for Caddy {
    fn target(&self) -> String {
        self.admin.shown().to_owned()
    }

    fn probe(&self) -> BoxFuture<Result<(), EdgeError>> {
        let caddy = self.clone();
        Box::pin(async move { caddy.admin.probe().await })
    }

    fn plan(&self, wanted: Arc<Wanted>) -> BoxFuture<Result<Differences, EdgeError>> {
        let caddy = self.clone();
        Box::pin(async move { Ok(caddy.compare(&wanted).await?.0.differences) })
    }

    fn reconcile(&self, wanted: Arc<Wanted>) -> BoxFuture<Result<Round, EdgeError>> {
        Box::pin(self.clone().round(wanted))
    }
}
