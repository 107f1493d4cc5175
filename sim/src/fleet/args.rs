//! The command line of the simulated fleet.

use std::time::Duration;

use nebula_core::address::HostPort;
use nebula_core::duration;
use nebula_core::timing::{HEARTBEAT_INTERVAL, HEARTBEAT_JITTER};

/// The largest fleet: beyond it the listeners leave no ports for connections.
const NODES_MAX: i64 = 20_000;
/// How many calls the control plane takes from one connection at once leaves room for this many agents.
const AGENTS_PER_CONNECTION_MAX: i64 = 50;

/// Settings of the simulated fleet. Each is also an environment variable `NEBULA_SIM_<NAME>`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The control plane's gRPC address
    #[arg(long, env = "NEBULA_SIM_CONTROL_PLANE", default_value = "127.0.0.1:9090")]
    pub control_plane: HostPort,
    /// How many agents
    #[arg(long, env = "NEBULA_SIM_NODES", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=NODES_MAX))]
    pub nodes: u32,
    /// Nodes are named <PREFIX>-00000 and so on; the same names are the same nodes again
    #[arg(long, env = "NEBULA_SIM_PREFIX", default_value = "sim", value_parser = prefix)]
    pub prefix: String,
    /// GPUs of each node
    #[arg(long, env = "NEBULA_SIM_GPUS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=32))]
    pub gpus: u32,
    /// Cores of each node
    #[arg(long, env = "NEBULA_SIM_CORES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub cores: u32,
    /// Report this often, whatever the control plane asks for
    #[arg(long, env = "NEBULA_SIM_INTERVAL", value_parser = interval)]
    pub interval: Option<Duration>,
    /// A heartbeat comes up to this part of the interval earlier or later
    #[arg(long, env = "NEBULA_SIM_JITTER", default_value_t = HEARTBEAT_JITTER, value_parser = jitter)]
    pub jitter: f64,
    /// The agents start within this time, evenly [default: the interval, else 30s]
    #[arg(long, env = "NEBULA_SIM_RAMP", value_parser = duration::parse)]
    pub ramp: Option<Duration>,
    /// Replicas are said to be reached through a proxy on this port; nothing of the fleet listens there
    #[arg(long, env = "NEBULA_SIM_PROXY_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub proxy_port: Option<u16>,
    /// How long a replica prepares before it runs
    #[arg(long, env = "NEBULA_SIM_START_DELAY", default_value = "1s", value_parser = duration::parse)]
    pub start_delay: Duration,
    /// End after this time; without it at Ctrl-C
    #[arg(long, env = "NEBULA_SIM_DURATION", value_parser = duration::parse)]
    pub duration: Option<Duration>,
    /// The same seed gives the same waits
    #[arg(long, env = "NEBULA_SIM_SEED", default_value_t = 1)]
    pub seed: u64,
    /// How many agents share one connection to the control plane
    #[arg(long, env = "NEBULA_SIM_AGENTS_PER_CONNECTION", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=AGENTS_PER_CONNECTION_MAX))]
    pub agents_per_connection: u32,
    /// Print the figures each second too
    #[arg(long, env = "NEBULA_SIM_EVERY_SECOND")]
    pub every_second: bool,
    /// Withdraw the nodes at the end; otherwise they fall silent
    #[arg(long, env = "NEBULA_SIM_DEREGISTER")]
    pub deregister: bool,
}

impl Args {
    /// How often agents report until the control plane says otherwise.
    pub(crate) fn first_interval(&self) -> Duration {
        self.interval.unwrap_or(HEARTBEAT_INTERVAL)
    }

    /// The time within which the agents start.
    pub(crate) fn start_within(&self) -> Duration {
        self.ramp.unwrap_or_else(|| self.first_interval())
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 40;
    if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err("write 1 to 40 letters, digits and hyphens, not a hyphen first".to_owned())
    }
}

fn jitter(text: &str) -> Result<f64, String> {
    let part: f64 = text.parse().map_err(|_| "write a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&part) { Ok(part) } else { Err("write a number from 0 to 1".to_owned()) }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text).map_err(|error| error.to_string())?;
    if interval.is_zero() { Err("an interval is longer than 0".to_owned()) } else { Ok(interval) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_fleet_keeps_the_agents_times_unless_it_is_told_otherwise() {
        let args = Cli::parse_from(["x"]).args;
        assert_eq!((args.first_interval(), args.start_within()), (HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL));
        let args = Cli::parse_from(["x", "--interval", "5s"]).args;
        assert_eq!(args.start_within(), Duration::from_secs(5));
    }

    #[test]
    fn impossible_flags_are_refused() {
        for flags in [
            "--nodes 0",
            "--nodes 20001",
            "--interval 0",
            "--jitter 2",
            "--jitter x",
            "--prefix a/b",
            "--control-plane nowhere",
            "--agents-per-connection 51",
        ] {
            let line = std::iter::once("x").chain(flags.split(' '));
            assert!(Cli::try_parse_from(line).is_err(), "{flags}");
        }
    }
}
