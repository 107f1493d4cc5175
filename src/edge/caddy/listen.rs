//! Which listeners get in each other's way. Caddy itself refuses only what is written alike, and shares a port that is
//! written in two ways between both servers: then either of them answers, by chance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// The port on which Caddy serves HTTPS.
const HTTPS_PORT: u16 = 443;

/// What one entry of a server's `listen` takes: `:443`, `tcp4/10.0.0.1:8000-8010`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    place: Place,
    ports: RangeInclusive<u16>,
}

/// On which of the machine's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Everywhere,
    EveryV4,
    EveryV6,
    /// `localhost`: the loopback addresses of both families.
    Local,
    At(IpAddr),
    /// A name that only Caddy's machine can look up.
    Named(String),
}

impl Listener {
    /// Reads an entry as Caddy does; nothing when it takes no TCP port, or when only Caddy knows which (a placeholder).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (network, address) = match text.split_once('/') {
            Some((network, address)) => (network.trim().to_ascii_lowercase(), address),
            None => ("tcp".to_owned(), text),
        };
        let (host, ports) = address.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let ports = first.parse().ok()?..=last.parse().ok()?;
        let place = Place::parse(&network, host)?;
        Some(Self { place, ports })
    }

    /// Whether one connection could reach either of them.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let ports = self.ports.start().max(other.ports.start()) <= self.ports.end().min(other.ports.end());
        ports && (self.place.covers(&other.place) || other.place.covers(&self.place))
    }

    /// Whether it is where Caddy serves HTTPS by itself.
    pub(crate) fn is_https(&self) -> bool {
        self.ports.contains(&HTTPS_PORT)
    }
}

impl Place {
    fn parse(network: &str, host: &str) -> Option<Self> {
        let every = match network {
            "tcp" => Self::Everywhere,
            "tcp4" => Self::EveryV4,
            "tcp6" => Self::EveryV6,
            _ => return None,
        };
        if host.is_empty() {
            return Some(every);
        }
        if host.contains(['{', '}']) {
            return None;
        }
        if host.eq_ignore_ascii_case("localhost") {
            return Some(match every {
                Self::EveryV4 => Self::At(Ipv4Addr::LOCALHOST.into()),
                Self::EveryV6 => Self::At(Ipv6Addr::LOCALHOST.into()),
                _ => Self::Local,
            });
        }
        Some(match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => Self::EveryV4,
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => every,
            Ok(ip) => Self::At(ip),
            Err(_) => Self::Named(host.to_ascii_lowercase()),
        })
    }

    /// Whether `other` is, at least in part, within this place.
    fn covers(&self, other: &Self) -> bool {
        match self {
            Self::Everywhere => true,
            Self::EveryV4 => !matches!(other, Self::EveryV6 | Self::At(IpAddr::V6(_))),
            Self::EveryV6 => !matches!(other, Self::EveryV4 | Self::At(IpAddr::V4(_))),
            Self::Local => match other {
                Self::Local => true,
                Self::At(ip) => *ip == Ipv4Addr::LOCALHOST || *ip == Ipv6Addr::LOCALHOST,
                _ => false,
            },
            Self::At(_) | Self::Named(_) => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clash(one: &str, other: &str) -> bool {
        match (Listener::parse(one), Listener::parse(other)) {
            (Some(one), Some(other)) => {
                assert_eq!(one.overlaps(&other), other.overlaps(&one), "{one:?} {other:?}");
                one.overlaps(&other)
            }
            _ => false,
        }
    }

    #[test]
    fn one_port_in_many_notations_clashes() {
        for other in [
            ":443",
            "tcp/:443",
            "TCP/:443",
            "tcp4/:443",
            "tcp6/:443",
            "0.0.0.0:443",
            "[::]:443",
            "tcp/[::]:443",
            ":400-500",
            ":443-443",
            "127.0.0.1:443",
            "[::1]:443",
            "localhost:443",
            "gateway.example.com:443",
        ] {
            assert!(clash(":443", other), "{other}");
        }
        for (one, other) in [
            ("127.0.0.1:8081", "0.0.0.0:8081"),
            ("127.0.0.1:8081", "localhost:8080-8090"),
            ("[::1]:8081", "localhost:8081"),
            ("[::ffff:10.0.0.1]:1", "10.0.0.1:1"),
            ("Host.example:1", "host.example:1"),
        ] {
            assert!(clash(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_never_meets_does_not_clash() {
        for (one, other) in [
            (":443", ":444"),
            (":443", ":80-442"),
            (":443", ":500-400"),
            (":443", "udp/:443"),
            (":443", "unix//run/caddy.sock"),
            (":443", "unix/:443/x"),
            (":443", "fd/3"),
            (":443", "{env.LISTEN}"),
            (":443", "{env.HOST}:443"),
            (":443", ":{env.PORT}"),
            (":443", "443"),
            (":443", ""),
            (":443", "::443"),
            (":443", ":99999"),
            ("10.0.0.1:443", "10.0.0.2:443"),
            ("127.0.0.1:443", "[::1]:443"),
            ("0.0.0.0:443", "[::1]:443"),
            ("tcp6/:443", "0.0.0.0:443"),
            ("127.0.0.2:443", "localhost:443"),
            ("tcp4/localhost:443", "[::1]:443"),
        ] {
            assert!(!clash(one, other), "{one} {other}");
        }
    }

    #[test]
    fn https_is_on_its_port_alone() {
        for (text, https) in [(":443", true), ("10.0.0.1:443", true), (":8443", false), (":80", false)] {
            assert_eq!(Listener::parse(text).expect(text).is_https(), https, "{text}");
        }
    }
}
