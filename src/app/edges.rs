//! What is in front of the nodes, as the configuration says it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use nebula_core::exit::Fatal;

use crate::actors::system::Edges;
use crate::config::{CaddyConfig, Config, Route53Config};
use crate::edge::caddy::{Caddy, CaddyOptions};
use crate::edge::route53::{Route53, Route53Options};
use crate::ports::Edge;

/// What the configuration wants to be managed. Nothing is sent yet.
pub(super) fn of(config: &Config, http: SocketAddr) -> Result<Edges, Fatal> {
    let domain = config.gateway_domain.as_str();
    Ok(Edges {
        caddy: config.caddy.as_ref().map(|edge| caddy(edge, domain, http)).transpose()?,
        route53: config.route53.as_ref().map(|edge| route53(edge, domain)).transpose()?,
    })
}

fn caddy(config: &CaddyConfig, domain: &str, http: SocketAddr) -> Result<Arc<dyn Edge>, Fatal> {
    let options = CaddyOptions {
        admin_url: config.admin_url.clone(),
        listen: config.listen.clone(),
        domain: domain.to_owned(),
        gateway: callable(http),
    };
    Ok(Arc::new(Caddy::new(options)?))
}

fn route53(config: &Route53Config, domain: &str) -> Result<Arc<dyn Edge>, Fatal> {
    let options = Route53Options {
        zone_id: config.zone_id.clone(),
        credentials: config.credentials.clone(),
        region: config.region.clone(),
        ttl_seconds: config.ttl_seconds,
        endpoint_url: config.endpoint_url.clone(),
        domain: domain.to_owned(),
        gateway_ip: config.gateway_ip,
        wildcard: config.wildcard,
    };
    Ok(Arc::new(Route53::new(options)?))
}

/// Whoever listens on every address is called at the loopback one.
fn callable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use nebula_core::exit::Exit;

    use super::*;
    use crate::config::Cli;

    #[test]
    fn a_caddy_that_is_to_serve_on_its_admin_port_is_refused_before_anything_is_made() {
        let checked = |listen: &str| {
            let args = ["nebulad", "--caddy-admin-url", "http://localhost:2019", "--caddy-listen", listen];
            let config = Config::try_from(Cli::try_parse_from(args).expect("parsed").flags).expect("valid");
            crate::app::check(&config)
        };
        for listen in [":2019", "127.0.0.1:2019", "0.0.0.0:2019"] {
            let refused = checked(listen).expect_err(listen);
            assert_eq!(refused.exit, Exit::Config);
            assert!(refused.message.contains(listen) && refused.hint.is_some(), "{}", refused.message);
        }
        for listen in [":443", "192.0.2.1:2019"] {
            checked(listen).expect(listen);
        }
    }

    #[test]
    fn caddy_is_told_an_address_that_can_be_called() {
        for (bound, told) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.0.0.5:80", "10.0.0.5:80"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(callable(bound.parse().expect(bound)).to_string(), told);
        }
    }
}
