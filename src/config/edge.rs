//! What is in front of the nodes, as the flags say it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use nebula_core::address::{HostPort, is_domain_name, is_loopback_host};
use nebula_core::token::Secret;

use super::cli::{CADDY_LISTEN, Flags, GATEWAY_DOMAIN, ROUTE53_REGION, ROUTE53_TTL};

/// The longest life of a record that Route 53 takes, in seconds.
const TTL_SECONDS_MAX: u32 = i32::MAX.unsigned_abs();
/// The longest id of a hosted zone.
const ZONE_ID_CHARS_MAX: usize = 32;

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

impl CaddyConfig {
    /// As operators see it.
    #[must_use]
    pub fn redacted(&self) -> serde_json::Value {
        serde_json::json!({"admin_url": self.admin_url, "listen": self.listen})
    }
}

impl Route53Config {
    /// As operators see it: no credential in it.
    #[must_use]
    pub fn redacted(&self) -> serde_json::Value {
        serde_json::json!({
            "hosted_zone_id": self.zone_id,
            "credentials": self.credentials_from(),
            "region": self.region,
            "ttl_seconds": self.ttl_seconds,
            "endpoint_url": self.endpoint_url,
            "gateway_ip": self.gateway_ip,
            "wildcard": self.wildcard,
        })
    }

    fn credentials_from(&self) -> &'static str {
        if self.credentials.is_some() { "given" } else { "the standard AWS chain" }
    }
}

impl fmt::Display for CaddyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if port_of(&self.listen) == Some(443) { "TLS by Caddy" } else { "plain HTTP" };
        write!(f, "{}, serves on {} ({tls})", self.admin_url, self.listen)
    }
}

impl fmt::Display for Route53Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { zone_id, region, ttl_seconds, gateway_ip, .. } = self;
        let names = if self.wildcard { "one wildcard record" } else { "a record per node" };
        let credentials = match self.credentials_from() {
            "given" => "credentials given",
            _ => "credentials from the standard AWS chain",
        };
        write!(
            f,
            "zone {zone_id}, {names} to {gateway_ip}, TTL {ttl_seconds} s, region {region}, {credentials}"
        )?;
        self.endpoint_url.as_ref().map_or(Ok(()), |url| write!(f, ", endpoint {url}"))
    }
}

/// What the checks find.
pub(super) struct Findings<'a> {
    /// What makes the configuration unusable.
    pub(super) wrong: &'a mut Vec<String>,
    /// What the operator should know.
    pub(super) warnings: &'a mut Vec<String>,
}

/// Checks the flags of the edge and makes what they say of it.
pub(super) fn check(
    flags: &Flags,
    bind: IpAddr,
    found: &mut Findings<'_>,
) -> (Option<CaddyConfig>, Option<Route53Config>) {
    let domain = &flags.gateway_domain;
    if !is_domain_name(domain) || !domain.contains('.') || domain.parse::<IpAddr>().is_ok() {
        found.wrong.push(format!("--gateway-domain \"{domain}\" is no domain name"));
    }
    let is_used = flags.caddy_admin_url.is_some() || flags.route53_hosted_zone_id.is_some();
    if is_used && domain == GATEWAY_DOMAIN {
        found.warnings.push(format!(
            "--gateway-domain is {domain} unless you say another one: for a domain that is not yours no name is found \
             and no certificate is given"
        ));
    }
    without_partner(flags, found.warnings);
    (caddy(flags, bind, found), route53(flags, found))
}

fn caddy(flags: &Flags, bind: IpAddr, found: &mut Findings<'_>) -> Option<CaddyConfig> {
    let port = listen_port(&flags.caddy_listen);
    if port.is_none() {
        found.wrong.push(format!(
            "--caddy-listen \"{}\" is neither :port nor address:port (an IPv6 address in brackets)",
            flags.caddy_listen
        ));
    }
    let admin = base_url("--caddy-admin-url", flags.caddy_admin_url.as_deref()?);
    let admin = admin.map_err(|why| found.wrong.push(why)).ok()?;
    if admin.host.is_loopback() {
        let own = [("--http-port", flags.http_port), ("--grpc-port", flags.grpc_port)];
        for (flag, own) in own.into_iter().filter(|(_, own)| port == Some(*own)) {
            found.warnings.push(format!(
                "--caddy-listen {} is nebulad's own {flag} {own}: on one machine only one of them gets it",
                flags.caddy_listen
            ));
        }
    } else {
        caddy_elsewhere(&admin, bind, found.warnings);
    }
    Some(CaddyConfig { admin_url: admin.text, listen: flags.caddy_listen.clone() })
}

/// What is to be known when Caddy does not run on this machine, or is reached as if it did not.
fn caddy_elsewhere(admin: &BaseUrl, bind: IpAddr, warnings: &mut Vec<String>) {
    let url = &admin.text;
    if !admin.encrypted {
        warnings.push(format!(
            "--caddy-admin-url {url} is neither on this machine nor encrypted: whoever reaches Caddy's admin API \
             owns the proxy, so let nobody but nebulad reach it"
        ));
    }
    let told = if bind.is_unspecified() {
        format!("listens on every address ({bind}), so Caddy is told to call it at a loopback address")
    } else if bind.is_loopback() {
        format!("listens on {bind} only")
    } else {
        return;
    };
    warnings.push(format!(
        "Caddy at {url} seems to be on another machine, and nebulad {told}: give --bind an address of this \
         machine that Caddy can call"
    ));
}

fn route53(flags: &Flags, found: &mut Findings<'_>) -> Option<Route53Config> {
    let wrong = &mut *found.wrong;
    let credentials = match (&flags.route53_access_key_id, &flags.route53_secret_access_key) {
        (Some(id), Some(secret)) => Some((id.clone(), Secret::from_text(secret.clone()))),
        (None, None) => None,
        _ => {
            wrong.push("--route53-access-key-id and --route53-secret-access-key belong together".to_owned());
            None
        }
    };
    if !(1..=TTL_SECONDS_MAX).contains(&flags.route53_ttl) {
        wrong.push(format!("--route53-ttl is {}, not from 1 to {TTL_SECONDS_MAX}", flags.route53_ttl));
    }
    let region_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !flags.route53_region.bytes().all(region_byte) {
        wrong.push(format!(
            "--route53-region \"{}\" is no region such as {ROUTE53_REGION}",
            flags.route53_region
        ));
    }
    let endpoint = flags.route53_endpoint_url.as_deref().map(|url| base_url("--route53-endpoint-url", url));
    let endpoint_url = match endpoint.transpose() {
        Ok(endpoint) => endpoint.map(|url| url.text),
        Err(why) => {
            wrong.push(why);
            None
        }
    };
    let gateway_ip = flags.gateway_ip.as_deref().and_then(|text| gateway_ip(flags, text, wrong));
    let zone = flags.route53_hosted_zone_id.as_deref()?;
    if flags.gateway_ip.is_none() {
        wrong.push(
            "--route53-hosted-zone-id needs --gateway-ip, the IPv4 address that records point to".to_owned(),
        );
    }
    let zone_id = zone_id(zone);
    if zone_id.is_none() {
        wrong.push(format!(
            "--route53-hosted-zone-id \"{zone}\" is no id of a hosted zone such as Z0123456789ABC"
        ));
    }
    Some(Route53Config {
        zone_id: zone_id?,
        credentials,
        region: flags.route53_region.clone(),
        ttl_seconds: flags.route53_ttl,
        endpoint_url,
        gateway_ip: gateway_ip?,
        wildcard: flags.route53_wildcard,
    })
}

fn gateway_ip(flags: &Flags, text: &str, wrong: &mut Vec<String>) -> Option<Ipv4Addr> {
    match text.parse() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() => {
            wrong.push(format!("--gateway-ip {ip} is no address that one machine has"));
            None
        }
        Ok(IpAddr::V4(ip)) => Some(ip),
        Ok(IpAddr::V6(ip)) => {
            if flags.route53_hosted_zone_id.is_some() {
                wrong.push(format!(
                    "--gateway-ip {ip} is no IPv4 address, to which the A records in Route 53 point"
                ));
            }
            None
        }
        Err(_) => {
            wrong.push(format!("--gateway-ip \"{text}\" is no IP address"));
            None
        }
    }
}

/// The id alone: Amazon shows it as `/hostedzone/Z123` too.
fn zone_id(text: &str) -> Option<String> {
    let id = text.trim_start_matches('/');
    let id = id.strip_prefix("hostedzone/").unwrap_or(id);
    let legal = (1..=ZONE_ID_CHARS_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    legal.then(|| id.to_owned())
}

/// Flags that do nothing because the one that they go with is not given.
fn without_partner(flags: &Flags, warnings: &mut Vec<String>) {
    let mut warn = |idle: Vec<&str>, partner: &str, what: &str| {
        if !idle.is_empty() {
            let (flags, verb) = (idle.join(", "), if idle.len() == 1 { "does" } else { "do" });
            warnings.push(format!("{flags} {verb} nothing without {partner}: {what} is not used"));
        }
    };
    if flags.caddy_admin_url.is_none() && flags.caddy_listen != CADDY_LISTEN {
        warn(vec!["--caddy-listen"], "--caddy-admin-url", "Caddy");
    }
    if flags.route53_hosted_zone_id.is_none() {
        let given = [
            ("--route53-access-key-id", flags.route53_access_key_id.is_some()),
            ("--route53-secret-access-key", flags.route53_secret_access_key.is_some()),
            ("--route53-region", flags.route53_region != ROUTE53_REGION),
            ("--route53-ttl", flags.route53_ttl != ROUTE53_TTL),
            ("--route53-endpoint-url", flags.route53_endpoint_url.is_some()),
            ("--route53-wildcard", flags.route53_wildcard),
            ("--gateway-ip", flags.gateway_ip.is_some()),
        ];
        let idle = given.into_iter().filter_map(|(flag, given)| given.then_some(flag));
        warn(idle.collect(), "--route53-hosted-zone-id", "Route 53");
    }
}

fn port_of(listen: &str) -> Option<u16> {
    listen.rsplit_once(':')?.1.parse().ok().filter(|port| *port > 0)
}

/// The port of `:port` or `address:port`.
fn listen_port(listen: &str) -> Option<u16> {
    let host = listen.rsplit_once(':')?.0;
    let legal = host.is_empty()
        || listen.parse::<HostPort>().is_ok_and(|address| {
            address.host().parse::<IpAddr>().is_ok() || is_loopback_host(address.host())
        });
    port_of(listen).filter(|_| legal)
}

/// An address that consists of scheme, host and port.
#[derive(Debug)]
struct BaseUrl {
    /// Without a slash at the end.
    text: String,
    /// With the scheme's port if none is said.
    host: HostPort,
    encrypted: bool,
}

/// Reads the URL of a flag. What may be a secret in it is not repeated in the error.
fn base_url(flag: &str, text: &str) -> Result<BaseUrl, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(format!("{flag} holds a user name or a password, which nothing would use: leave it out"));
    }
    let scheme = scheme.to_ascii_lowercase();
    let base = if scheme.is_empty() { authority.to_owned() } else { format!("{scheme}://{authority}") };
    let no_address = || format!("{flag} \"{base}\" is no http:// or https:// address");
    let port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return Err(no_address()),
    };
    let host = authority.parse::<HostPort>().or_else(|_| format!("{authority}:{port}").parse());
    let host = host.map_err(|_| no_address())?;
    if !matches!(rest.strip_prefix(authority), Some("" | "/")) {
        return Err(format!("{flag} goes on after {base}, where a path or a query has no use: leave it out"));
    }
    Ok(BaseUrl { text: base, host, encrypted: port == 443 })
}

#[cfg(test)]
mod tests;
