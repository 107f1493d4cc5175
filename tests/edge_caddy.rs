//! Caddy as an edge. Against the real one: every state in which it may be found, damage, other programs that write
//! meanwhile, and what passes through it. Against a server that answers whatever it is told: everything else that may
//! be behind an admin URL.
//!
//! The real one is looked for in `NEBULA_CADDY`, `.venv/caddy/usr/bin` and `PATH`; without it those tests say so.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "that is how a test fails")]

#[path = "edge_caddy/between.rs"]
mod between;
#[path = "edge_caddy/passing.rs"]
mod passing;
#[path = "edge_caddy/process.rs"]
mod process;
#[path = "edge_caddy/repairs.rs"]
mod repairs;
#[path = "edge_caddy/strange.rs"]
mod strange;
#[path = "edge_caddy/upstream.rs"]
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nebulad::domain::edge::Wanted;
use nebulad::edge::caddy::{Caddy, CaddyOptions};

/// The gateway's name in all tests.
const DOMAIN: &str = "nebula.test";
/// Longest wait for what must come.
const SOON: Duration = Duration::from_secs(10);

fn caddy(admin: SocketAddr, listen: &str, gateway: SocketAddr) -> Caddy {
    let admin_url = format!("http://{admin}");
    let options = CaddyOptions { admin_url, listen: listen.to_owned(), domain: DOMAIN.to_owned(), gateway };
    Caddy::new(options).expect("good options")
}

/// Nodes by their labels, each at an address.
fn wanted<'a>(nodes: impl IntoIterator<Item = (&'a str, SocketAddr)>) -> Arc<Wanted> {
    let site = |(label, address): (&str, SocketAddr)| {
        (format!("{label}.{DOMAIN}"), address.to_string().parse().expect("an address"))
    };
    Arc::new(Wanted { sites: nodes.into_iter().map(site).collect(), may_remove: true, ..Wanted::default() })
}

/// An address of this machine with a port that was free a moment ago, below those from which the system takes the ports
/// of connections: else a connection may take it before Caddy does.
fn free_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::random_range(10_000..32_000)));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Waits for something that must come soon.
async fn soon<T>(what: &str, coming: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, coming).await {
        Ok(come) => come,
        Err(_) => panic!("{what} did not come within {} s", SOON.as_secs()),
    }
}
