//! `host:port` addresses as agents announce them and flags take them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A host name or literal IP address with a port above zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no host:port ({reason})")]
pub struct InvalidHostPort {
    text: String,
    reason: &'static str,
}

impl HostPort {
    /// The host: a name, an IPv4 address, or an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never zero.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// Whether the host is a loopback address or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(&self.host)
    }
}

/// Whether `host` names this machine only.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether `text` is a DNS name: labels of letters, digits, hyphens (and underscores), 253 characters at most.
#[must_use]
pub fn is_domain_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| InvalidHostPort { text: text.chars().take(100).collect(), reason };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| fail("no port"))?;
        let port: u16 = port.parse().map_err(|_| fail("the port is no number from 1 to 65535"))?;
        if port == 0 {
            return Err(fail("port 0"));
        }
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(fail("no IPv6 address in the brackets")),
            None if host.contains(':') => return Err(fail("an IPv6 address needs brackets")),
            None if is_domain_name(host) => host,
            None => return Err(fail("no host name")),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl TryFrom<String> for HostPort {
    type Error = InvalidHostPort;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(address: HostPort) -> Self {
        address.to_string()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_printed_alike() {
        for text in ["localhost:9091", "192.168.1.100:9091", "[::1]:80", "gpu-1.example.com:65535"] {
            let address: HostPort = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "host", "host:", ":9091", "host:0", "host:65536", "::1:80", "[x]:80", "a b:1", "http://h:1"]
        {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_is_recognised() {
        assert!("localhost:1".parse::<HostPort>().expect("valid").is_loopback());
        assert!("127.9.9.9:1".parse::<HostPort>().expect("valid").is_loopback());
        assert!(!"10.0.0.1:1".parse::<HostPort>().expect("valid").is_loopback());
    }
}
