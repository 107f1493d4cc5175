//! nebulad's configuration: its flags, checked once.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use nebula_core::address::is_loopback_host;
use nebula_core::duration;
use nebula_core::exit::{Exit, Fatal};
use nebula_core::telemetry::{LogFormat, LogLevel};
use nebula_core::timing;
use nebula_core::token::Secret;

mod cli;
mod edge;

pub use self::cli::{Cli, Command, DevArgs, Flags, StoreCommand, Switch};
pub use self::edge::{CaddyConfig, Route53Config};

/// A configuration that makes sense.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where durable state is kept.
    pub data_dir: PathBuf,
    /// The address to listen on.
    pub bind: IpAddr,
    /// For agents; 0: any free port.
    pub grpc_port: u16,
    /// For clients and operators; 0: any free port.
    pub http_port: u16,
    /// Begins with a slash and does not end with one; may be empty.
    pub api_prefix: String,
    /// Nodes get their host names below it.
    pub gateway_domain: String,
    /// The reverse proxy in front of the nodes, if it is managed.
    pub caddy: Option<CaddyConfig>,
    /// The DNS zone of the nodes, if it is managed.
    pub route53: Option<Route53Config>,
    /// A node that is silent for this long is offline.
    pub heartbeat_timeout: Duration,
    /// How often agents report.
    pub heartbeat_interval: Duration,
    /// How long known nodes are waited for after a start.
    pub restart_grace: Duration,
    /// The operator's token, if it was given.
    pub admin_token: Option<Secret>,
    /// Origins from which browsers may call the gateway.
    pub cors_allow_origins: Vec<String>,
    /// The largest request body that the gateway takes.
    pub max_body_bytes: usize,
    /// To the first byte of an answer.
    pub upstream_timeout: Duration,
    /// Between two bytes of an answer.
    pub upstream_idle_timeout: Duration,
    /// How long a request for a model that is starting waits for it.
    pub hold_starting: Duration,
    /// After so much silence in a stream a comment is sent; zero: never.
    pub sse_keepalive: Duration,
    /// The form of the gateway's access log; none: it is not written.
    pub access_log: Option<LogFormat>,
    /// For requests in flight when nebulad stops.
    pub shutdown_grace: Duration,
    /// Whether a network or user-space file system may hold the data directory.
    pub allow_any_filesystem: bool,
    /// What the operator should know although it is allowed.
    pub warnings: Vec<String>,
}

impl Config {
    /// As operators see it: no secret in it.
    #[must_use]
    pub fn redacted(&self) -> serde_json::Value {
        serde_json::json!({
            "data_dir": self.data_dir,
            "bind": self.bind,
            "grpc_port": self.grpc_port,
            "http_port": self.http_port,
            "api_prefix": self.api_prefix,
            "gateway_domain": self.gateway_domain,
            "caddy": self.caddy.as_ref().map(CaddyConfig::redacted),
            "route53": self.route53.as_ref().map(Route53Config::redacted),
            "heartbeat_timeout_seconds": self.heartbeat_timeout.as_secs(),
            "default_heartbeat_interval_seconds": self.heartbeat_interval.as_secs(),
            "restart_grace_seconds": self.restart_grace.as_secs(),
            "admin_token": if self.admin_token.is_some() { "given" } else { "made at the first start" },
            "cors_allow_origin": self.cors_allow_origins,
            "max_body_bytes": self.max_body_bytes,
            "upstream_timeout_seconds": self.upstream_timeout.as_secs(),
            "upstream_idle_timeout_seconds": self.upstream_idle_timeout.as_secs(),
            "hold_starting_seconds": self.hold_starting.as_secs_f64(),
            "sse_keepalive_seconds": self.sse_keepalive.as_secs_f64(),
            "access_log": self.access_log.is_some(),
            "shutdown_grace_seconds": self.shutdown_grace.as_secs(),
            "allow_any_filesystem": self.allow_any_filesystem,
            "warnings": self.warnings,
        })
    }
}

/// Where durable state is kept unless it is said.
const DATA_DIR: &str = "/var/lib/nebulad";

/// The shortest admin token that is taken.
const ADMIN_TOKEN_CHARS_MIN: usize = 16;

impl TryFrom<Flags> for Config {
    type Error = Fatal;

    /// Checks everything and reports all that is wrong in one error.
    fn try_from(mut flags: Flags) -> Result<Self, Fatal> {
        flags.drop_empty();
        let mut wrong = Vec::new();
        let mut warnings = Vec::new();
        let bind = bind_address(&flags, &mut wrong, &mut warnings);
        check_times(&flags, &mut wrong, &mut warnings);
        let mut found = edge::Findings { wrong: &mut wrong, warnings: &mut warnings };
        let (caddy, route53) = edge::check(&flags, bind, &mut found);
        let api_prefix = flags.api_prefix.trim_end_matches('/').to_owned();
        let prefix_is_path = api_prefix.is_empty()
            || (api_prefix.starts_with('/')
                && !api_prefix.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."))
                && api_prefix
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.')));
        if !prefix_is_path
            || ["/api/", "/admin/"].iter().any(|taken| api_prefix.starts_with(taken))
            || matches!(api_prefix.as_str(), "" | "/api" | "/admin" | "/health" | "/ready" | "/metrics")
        {
            wrong.push(format!("--api-prefix \"{}\" is no path of its own such as /v1", flags.api_prefix));
        }
        if flags.max_body_bytes == 0 {
            wrong.push("--max-body-bytes is 0".to_owned());
        }
        let long_enough =
            |token: &String| token.len() >= ADMIN_TOKEN_CHARS_MIN && !token.contains(char::is_whitespace);
        if flags.admin_token.as_ref().is_some_and(|token| !long_enough(token)) {
            wrong.push(format!(
                "--admin-token is shorter than {ADMIN_TOKEN_CHARS_MIN} characters or holds spaces"
            ));
        }
        if !wrong.is_empty() {
            return Err(Fatal::new(Exit::Config, wrong.join("; "))
                .hint("nebulad --help lists the flags; nebulad check-config checks them without starting"));
        }
        Ok(Self {
            data_dir: flags.data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR)),
            bind,
            grpc_port: flags.grpc_port,
            http_port: flags.http_port,
            api_prefix,
            gateway_domain: flags.gateway_domain.to_ascii_lowercase(),
            caddy,
            route53,
            heartbeat_timeout: flags.heartbeat_timeout,
            heartbeat_interval: flags.default_heartbeat_interval,
            restart_grace: flags.restart_grace,
            admin_token: flags.admin_token.map(Secret::from_text),
            cors_allow_origins: flags.cors_allow_origin,
            max_body_bytes: flags.max_body_bytes,
            upstream_timeout: flags.upstream_timeout,
            upstream_idle_timeout: flags.upstream_idle_timeout,
            hold_starting: flags.hold_starting,
            sse_keepalive: flags.sse_keepalive,
            access_log: (flags.access_log == Switch::On && wants_lines(flags.log_level))
                .then_some(flags.log_format),
            shutdown_grace: flags.shutdown_grace,
            allow_any_filesystem: flags.allow_any_filesystem,
            warnings,
        })
    }
}

/// Whether lines of the level `info` are wanted, as those of the access log are.
fn wants_lines(level: Option<LogLevel>) -> bool {
    matches!(level, None | Some(LogLevel::Debug | LogLevel::Info))
}

fn bind_address(flags: &Flags, wrong: &mut Vec<String>, warnings: &mut Vec<String>) -> IpAddr {
    let address =
        if flags.bind == "localhost" { Ok(IpAddr::from([127, 0, 0, 1])) } else { flags.bind.parse() };
    let address = address.unwrap_or_else(|_| {
        wrong.push(format!("--bind \"{}\" is no IP address", flags.bind));
        IpAddr::from([127, 0, 0, 1])
    });
    if !is_loopback_host(&address.to_string()) {
        if flags.insecure {
            warnings.push("others can reach this address and nothing is encrypted (--insecure)".to_owned());
        } else {
            wrong.push(format!(
                "--bind {address} can be reached by others and TLS is not built yet; bind to 127.0.0.1 or add --insecure"
            ));
        }
    }
    address
}

fn check_times(flags: &Flags, wrong: &mut Vec<String>, warnings: &mut Vec<String>) {
    let interval = flags.default_heartbeat_interval;
    if interval < Duration::from_secs(1) || interval.subsec_nanos() != 0 {
        wrong.push("--default-heartbeat-interval is not a whole number of seconds from 1".to_owned());
    }
    if flags.heartbeat_timeout < interval * 2 {
        wrong.push(format!(
            "--heartbeat-timeout {} is below twice the heartbeat interval {}",
            duration::human(flags.heartbeat_timeout),
            duration::human(interval)
        ));
    }
    let (gap, timeout) = (timing::worst_honest_gap(interval), flags.heartbeat_timeout);
    if timeout < gap && timeout >= interval * 2 {
        warnings.push(format!(
            "--heartbeat-timeout {} is short: {} failed calls in a row make a node offline; {} would do",
            duration::human(timeout),
            timing::FAILURES_SURVIVED,
            duration::human(gap)
        ));
    }
    let grace_min = timing::restart_grace_min(interval);
    if flags.restart_grace < grace_min {
        warnings.push(format!(
            "--restart-grace {} is short: nodes may be declared offline after a restart; {} would do",
            duration::human(flags.restart_grace),
            duration::human(grace_min)
        ));
    }
    for (name, value) in [
        ("--upstream-timeout", flags.upstream_timeout),
        ("--upstream-idle-timeout", flags.upstream_idle_timeout),
    ] {
        if value.is_zero() {
            wrong.push(format!("{name} is 0"));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn config(args: &[&str]) -> Result<Config, Fatal> {
        let cli =
            Cli::try_parse_from(std::iter::once("nebulad").chain(args.iter().copied())).expect("parsed");
        Config::try_from(cli.flags)
    }

    #[test]
    fn the_defaults_make_sense() {
        let config = config(&[]).expect("valid");
        assert_eq!(config.heartbeat_timeout, timing::HEARTBEAT_TIMEOUT);
        assert_eq!(config.heartbeat_interval, timing::HEARTBEAT_INTERVAL);
        assert_eq!(config.restart_grace, timing::RESTART_GRACE);
        assert_eq!((config.grpc_port, config.http_port), (9090, 8080));
        assert_eq!(config.warnings, Vec::<String>::new());
    }

    #[test]
    fn flags_stand_before_or_after_the_sub_command() {
        for args in [["nebulad", "--http-port", "1", "dev"], ["nebulad", "dev", "--http-port", "1"]] {
            assert_eq!(Cli::try_parse_from(args).expect("parsed").flags.http_port, 1);
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let error = config(&[
            "--heartbeat-timeout",
            "59",
            "--gateway-domain",
            "not a domain",
            "--bind",
            "0.0.0.0",
            "--api-prefix",
            "/admin",
        ])
        .expect_err("wrong");
        assert_eq!(error.exit, Exit::Config);
        for part in ["--heartbeat-timeout 59.0 s", "--gateway-domain", "--bind 0.0.0.0", "--api-prefix"] {
            assert!(error.message.contains(part), "{part} in {}", error.message);
        }
    }

    #[test]
    fn an_open_address_without_tls_must_be_wanted() {
        let config = config(&["--bind", "0.0.0.0", "--insecure"]).expect("allowed");
        assert_eq!(config.warnings.len(), 1);
    }
}
