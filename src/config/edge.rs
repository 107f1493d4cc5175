//! What is in front of the nodes, as the flags say it.

use std::net::Ipv4Addr;

use nebula_core::token::Secret;

/// The reverse proxy that nebulad manages.
#[derive(Clone, Debug)]
pub struct CaddyConfig {
    /// Its admin API, without a slash at the end.
    pub admin_url: String,
    /// What its server listens on, in its own words: `:443`, `127.0.0.1:8081`.
    pub listen: String,
}

/// The DNS zone that nebulad manages.
#[derive(Clone, Debug)]
pub struct Route53Config {
    /// The hosted zone.
    pub zone_id: String,
    /// Access key and secret key; none: the standard AWS chain.
    pub credentials: Option<(String, Secret)>,
    /// AWS region.
    pub region: String,
    /// Of records, in seconds.
    pub ttl_seconds: u32,
    /// Another endpoint than Amazon's.
    pub endpoint_url: Option<String>,
    /// What records point to.
    pub gateway_ip: Ipv4Addr,
    /// One record for all names below the domain, none per node.
    pub wildcard: bool,
}
