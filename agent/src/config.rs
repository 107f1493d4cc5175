//! The agent's settings, validated.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};
use nebula_core::address::HostPort;
use nebula_core::exit::{Exit, Fatal};
use nebula_core::ids::NodeId;
use nebula_core::runtime::Driver;
use nebula_core::telemetry::{LogFormat, LogLevel};
use nebula_core::token::Secret;

use crate::cli::{Cli, ignore_empty_environment};

/// How long a name or a label's key or value may be, in bytes; as much as nebulad takes.
const TEXT_MAX: usize = 200;
/// Labels of one node; as many as nebulad takes.
const LABELS_MAX: usize = 32;
/// All labels together, in bytes: nebulad takes 5,000 for a whole registration.
const LABELS_BYTES_MAX: usize = 3_000;

/// The least that a container can be given, in bytes.
const CONTAINER_MEMORY_MIN: u64 = 16 << 20;

/// Everything the agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where nebulad's gRPC listens; plain text.
    pub control_plane: HostPort,
    /// This node's id; none: the one it was assigned, or a new one.
    pub node_id: Option<NodeId>,
    /// This node's name; none: the host name.
    pub node_name: Option<String>,
    /// Where the agent keeps its state.
    pub data_dir: PathBuf,
    /// Address to listen on.
    pub bind: IpAddr,
    /// Port of the agent's gRPC; 0: a free one.
    pub grpc_port: u16,
    /// Port of the auth proxy; 0: a free one.
    pub proxy_port: u16,
    /// Port of the metrics; 0: a free one.
    pub metrics_port: u16,
    /// Where nebulad calls back; none: from `bind`.
    pub advertise_address: Option<HostPort>,
    /// Loopback ports for runtimes.
    pub port_range: RangeInclusive<u16>,
    /// How runtimes are run; none: as fits each.
    pub driver: Option<Driver>,
    /// Address of the Docker Engine; none: the usual one.
    pub docker_host: Option<String>,
    /// Memory that one container may take, in bytes; none: the machine's, less a tenth.
    pub container_memory: Option<u64>,
    /// NVIDIA's management library; none: the one that the system finds.
    pub nvml_lib: Option<PathBuf>,
    /// Where models are kept; none: inside the data directory, and runtimes that fetch models keep them where they
    /// do by themselves.
    pub model_dir: Option<PathBuf>,
    /// Directories from which `fs://` may name models; none: any.
    pub model_roots: Vec<PathBuf>,
    /// What the node says of itself.
    pub labels: BTreeMap<String, String>,
    /// Token with which the node joins.
    pub join_token: Option<Secret>,
    /// Python that runs runtimes written in it.
    pub python: Option<PathBuf>,
    /// How long a runtime may take to become healthy.
    pub start_timeout: Duration,
    /// How long a runtime may take to end before it is killed.
    pub stop_grace: Duration,
    /// Leave runtimes running when the agent stops.
    pub leave_runtimes: bool,
    /// Withdraw the node when the agent stops.
    pub deregister_on_stop: bool,
    /// Starts the simulated runtime: a program and the words that come before the runtime's flags.
    pub sim_command: Vec<String>,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// The form of the log.
    pub log_format: LogFormat,
}

/// The command line as a program of its own, for those who build a configuration from words.
#[derive(clap::Parser)]
#[command(name = "nebula-agent")]
struct Words {
    #[command(flatten)]
    cli: Cli,
}

impl Config {
    /// Settings from command-line words (without the program's name) and the environment, as nebulad's development
    /// mode needs them. `sim_command` starts the simulated runtime.
    ///
    /// # Errors
    /// When a flag is wrong or flags contradict each other.
    pub fn from_words(words: &[String], sim_command: Vec<String>) -> Result<Self, Fatal> {
        let words = std::iter::once("nebula-agent").chain(words.iter().map(String::as_str));
        let parsed = ignore_empty_environment(Words::command())
            .try_get_matches_from(words)
            .and_then(|matches| Words::from_arg_matches(&matches))
            .map_err(|error| Fatal::new(Exit::Usage, error.to_string().trim().to_owned()))?;
        Self::new(parsed.cli, sim_command)
    }

    /// Settings from flags. `sim_command` starts the simulated runtime: `[program, "sim-runtime"]`.
    ///
    /// # Errors
    /// Exit code 78, naming everything that is wrong.
    pub fn new(cli: Cli, sim_command: Vec<String>) -> Result<Self, Fatal> {
        let mut wrong = Problems::default();
        let control_plane = wrong.take(control_plane(&cli.control_plane));
        let node_id = wrong.take(node_id(&cli.node_id));
        let advertise_address = wrong.take(cli.advertise_address.as_deref().map(address).transpose());
        let port_range = wrong.take(port_range(&cli.port_range));
        let labels = wrong.take(labels(&cli.labels));
        let driver = wrong.take(driver(&cli.driver));
        let container_memory = wrong.take(cli.container_memory.as_deref().map(memory).transpose());
        wrong.take(model_roots(&cli.model_roots));
        if !cli.bind.is_loopback() && !cli.insecure {
            wrong.add(Fatal::new(Exit::Config, format!("--bind {} would be without TLS", cli.bind)).hint(
                "TLS is not built yet; bind to a loopback address, or accept plain text with --insecure",
            ));
        }
        if cli.node_name.as_ref().is_some_and(|name| name.is_empty() || !is_short(name)) {
            wrong.add(
                Fatal::new(Exit::Config, "the node's name is empty, too long or has control characters")
                    .hint(format!("--node-name takes 1 to {TEXT_MAX} bytes")),
            );
        }
        wrong.finish()?;
        let (Some(control_plane), Some(node_id), Some(advertise_address), Some(port_range), Some(labels)) =
            (control_plane, node_id, advertise_address, port_range, labels)
        else {
            return Err(Fatal::new(Exit::Config, "the configuration is not complete"));
        };
        Ok(Self {
            control_plane,
            node_id,
            node_name: cli.node_name,
            data_dir: cli.data_dir,
            bind: cli.bind,
            grpc_port: cli.grpc_port,
            proxy_port: cli.proxy_port,
            metrics_port: cli.metrics_port,
            advertise_address,
            port_range,
            driver: driver.flatten(),
            docker_host: cli.docker_host,
            container_memory: container_memory.flatten(),
            nvml_lib: cli.nvml_lib,
            model_dir: cli.model_dir,
            model_roots: cli.model_roots,
            labels,
            join_token: cli.join_token.map(Secret::from_text),
            python: cli.python,
            start_timeout: cli.start_timeout,
            stop_grace: cli.stop_grace,
            leave_runtimes: cli.leave_runtimes,
            deregister_on_stop: cli.deregister_on_stop,
            sim_command,
            log_level: cli.log_level,
            log_format: cli.log_format,
        })
    }
}

/// Everything that is wrong, told at once.
#[derive(Default)]
struct Problems(Vec<Fatal>);

impl Problems {
    fn add(&mut self, problem: Fatal) {
        self.0.push(problem);
    }

    fn take<T>(&mut self, result: Result<T, Fatal>) -> Option<T> {
        result.map_err(|problem| self.add(problem)).ok()
    }

    fn finish(self) -> Result<(), Fatal> {
        let messages: Vec<&str> = self.0.iter().map(|problem| problem.message.as_str()).collect();
        let hints: Vec<&str> = self.0.iter().filter_map(|problem| problem.hint.as_deref()).collect();
        if messages.is_empty() {
            return Ok(());
        }
        let fatal = Fatal::new(Exit::Config, messages.join("; "));
        Err(if hints.is_empty() { fatal } else { fatal.hint(hints.join("; ")) })
    }
}

fn address(text: &str) -> Result<HostPort, Fatal> {
    text.parse().map_err(|error| {
        Fatal::new(Exit::Config, format!("{error}")).hint("an address is a host and a port: 10.0.0.1:9090")
    })
}

fn control_plane(text: &str) -> Result<HostPort, Fatal> {
    let no_tls = |address: &HostPort| {
        Fatal::new(
            Exit::Config,
            format!("TLS to the control plane is not built yet, so {address} is not called"),
        )
        .hint(format!("--control-plane http://{address} uses plain text"))
    };
    if let Some(rest) = text.strip_prefix("http://") {
        return address(rest.trim_end_matches('/'));
    }
    if let Some(rest) = text.strip_prefix("https://") {
        return Err(no_tls(&address(rest.trim_end_matches('/'))?));
    }
    let address = address(text)?;
    if address.is_loopback() { Ok(address) } else { Err(no_tls(&address)) }
}

fn node_id(text: &str) -> Result<Option<NodeId>, Fatal> {
    if text.is_empty() || text == "auto" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| {
        Fatal::new(Exit::Config, format!("{error}"))
            .hint("a node id is auto, or 1 to 64 letters, digits, dots, underscores and hyphens")
    })
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, Fatal> {
    let parsed = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    match parsed {
        Some((first, last)) if first > 0 && first <= last => Ok(first..=last),
        _ => Err(Fatal::new(Exit::Config, format!("\"{text}\" is no range of ports"))
            .hint("--port-range takes two ports, the lower one first: 30000-31000")),
    }
}

fn is_short(text: &str) -> bool {
    text.len() <= TEXT_MAX && !text.contains(char::is_control)
}

fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, Fatal> {
    let hint = format!(
        "--label takes key=value, {TEXT_MAX} bytes each at most, {LABELS_MAX} labels and {LABELS_BYTES_MAX} bytes \
         in all"
    );
    let mut labels = BTreeMap::new();
    for text in texts {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() && is_short(key) && is_short(value) => {
                labels.insert(key.to_owned(), value.to_owned());
            }
            _ => return Err(Fatal::new(Exit::Config, format!("\"{text}\" is no label")).hint(hint)),
        }
    }
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if labels.len() > LABELS_MAX || bytes > LABELS_BYTES_MAX {
        return Err(Fatal::new(Exit::Config, "there are too many labels").hint(hint));
    }
    Ok(labels)
}

/// None: as fits each runtime.
fn driver(text: &str) -> Result<Option<Driver>, Fatal> {
    if text == "auto" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| {
        Fatal::new(Exit::Config, format!("{error}, auto")).hint("--driver auto takes what the machine has")
    })
}

/// A number of bytes: `1073741824`, `1024m`, `1g`, `1GiB`.
fn memory(text: &str) -> Result<u64, Fatal> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => Some(1),
        "k" => Some(1_u64 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        "t" => Some(1 << 40),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(unit).and_then(|(count, unit)| count.checked_mul(unit));
    bytes.filter(|bytes| *bytes >= CONTAINER_MEMORY_MIN).ok_or_else(|| {
        Fatal::new(Exit::Config, format!("\"{text}\" is no size of memory for a container"))
            .hint("--container-memory takes at least 16m: 512m, 80g")
    })
}

fn model_roots(roots: &[PathBuf]) -> Result<(), Fatal> {
    match roots.iter().find(|root| !root.is_absolute()) {
        None => Ok(()),
        Some(root) => Err(Fatal::new(Exit::Config, format!("\"{}\" is no absolute path", root.display()))
            .hint("--model-root takes a directory: /srv/models")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(words: &str) -> Result<Config, Fatal> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        Config::from_words(&words, vec!["sim".to_owned()])
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = config("").expect("valid");
        assert_eq!(config.control_plane.to_string(), "localhost:9090");
        assert_eq!((config.grpc_port, config.proxy_port, config.metrics_port), (9091, 8888, 9100));
        assert_eq!(config.port_range, 30_000..=31_000);
        assert_eq!(config.node_id, None);
        assert_eq!(config.start_timeout, Duration::from_secs(900));
        assert!(config.bind.is_loopback());
    }

    #[test]
    fn flags_are_read() {
        let config = config(
            "--control-plane http://10.0.0.1:9090 --node-id gpu-1 --label zone=a --label rack=b=c \
             --port-range 1-2 --stop-grace 500ms --advertise-address 10.0.0.2:9091 --driver process",
        )
        .expect("valid");
        assert_eq!(config.control_plane.to_string(), "10.0.0.1:9090");
        assert_eq!(config.labels.get("rack").map(String::as_str), Some("b=c"));
        assert_eq!(config.stop_grace, Duration::from_millis(500));
        assert_eq!(config.driver, Some(Driver::Process));
        assert_eq!(self::config("--driver docker").expect("valid").driver, Some(Driver::Docker));
    }

    #[test]
    fn sizes_of_memory_are_read() {
        for (text, bytes) in [("16777216", 16 << 20), ("64m", 64 << 20), ("2G", 2 << 30), ("1GiB", 1 << 30)] {
            let config = config(&format!("--container-memory {text}")).expect("valid");
            assert_eq!(config.container_memory, Some(bytes), "{text}");
        }
        assert_eq!(config("").expect("valid").container_memory, None);
    }

    #[test]
    fn labels_are_no_more_than_nebulad_takes() {
        let many = |count: usize, size: usize| {
            let labels = (0..count).map(|number| format!("--label k{number:02}={}", "v".repeat(size)));
            config(&labels.collect::<Vec<_>>().join(" "))
        };
        assert!(many(32, 90).is_ok());
        assert!(many(1, 200).is_ok());
        for (count, size) in [(33, 1), (1, 201), (32, 91), (16, 200)] {
            assert_eq!(many(count, size).expect_err("refused").exit, Exit::Config, "{count} of {size}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_advice() {
        for (words, part) in [
            ("--control-plane https://10.0.0.1:9090", "TLS to the control plane is not built yet"),
            ("--control-plane 10.0.0.1:9090", "TLS to the control plane is not built yet"),
            ("--control-plane nowhere", "\"nowhere\" is no host:port"),
            ("--bind 0.0.0.0", "--bind 0.0.0.0 would be without TLS"),
            ("--node-id a/b", "\"a/b\" is no node id"),
            ("--port-range 5-1", "\"5-1\" is no range of ports"),
            ("--label zone", "\"zone\" is no label"),
            ("--driver lxc", "unknown driver \"lxc\""),
            ("--container-memory 1x", "\"1x\" is no size of memory"),
            ("--container-memory 99999999999t", "is no size of memory"),
            ("--container-memory 1k", "is no size of memory"),
            ("--model-root models", "\"models\" is no absolute path"),
        ] {
            let fatal = config(words).expect_err(words);
            assert_eq!(fatal.exit, Exit::Config, "{words}");
            assert!(fatal.hint.is_some(), "{words}");
            assert!(fatal.message.contains(part), "{words}: {}", fatal.message);
        }
        let both = config("--bind 0.0.0.0 --label zone").expect_err("two problems");
        assert!(both.message.contains("TLS") && both.message.contains("zone"), "{}", both.message);
        assert_eq!(config("--no-such-flag").expect_err("usage").exit, Exit::Usage);
        assert!(config("--bind 0.0.0.0 --insecure").is_ok());
    }
}
