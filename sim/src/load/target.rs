//! Whom to ask: an address such as `http://127.0.0.1:8080/v1`.

use std::fmt;
use std::str::FromStr;

use nebula_core::address::HostPort;

/// The port of an address without one.
const HTTP_PORT: u16 = 80;

/// A server without TLS and the path below which its API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    server: HostPort,
    /// Without a slash at its end.
    prefix: String,
}

impl Target {
    /// Where to connect.
    pub(crate) fn server(&self) -> &HostPort {
        &self.server
    }

    /// The path of `below`, which begins with a slash.
    pub(crate) fn path(&self, below: &str) -> String {
        format!("{}{below}", self.prefix)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.server, self.prefix)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("TLS is not spoken here; give the server's own http:// address".to_owned());
        }
        let rest = text.strip_prefix("http://").ok_or("write http://host:port/v1")?;
        let (server, prefix) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if !prefix.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte)) {
            return Err("the path has signs that no path has".to_owned());
        }
        let has_port = server.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let server = if has_port { server.to_owned() } else { format!("{server}:{HTTP_PORT}") };
        let server = server.parse::<HostPort>().map_err(|error| error.to_string())?;
        Ok(Self { server, prefix: prefix.trim_end_matches('/').to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, server, path) in [
            ("http://127.0.0.1:8080/v1", "127.0.0.1:8080", "/v1/x"),
            ("http://localhost:1/", "localhost:1", "/x"),
            ("http://example.com", "example.com:80", "/x"),
            ("http://[::1]:9/a/b/", "[::1]:9", "/a/b/x"),
            ("http://[::1]/a", "[::1]:80", "/a/x"),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!((target.server().to_string().as_str(), target.path("/x").as_str()), (server, path));
        }
        for text in ["", "127.0.0.1:80", "https://x", "http://", "http://x:0", "http://x/a?b"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
