//! Start and stop of the simulated fleet.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use nebula_core::clock::Clock;
use nebula_core::exit::{Exit, Fatal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::agent::{Agent, Fleet, Shared};
use super::args::Args;
use super::chance::Chance;
use super::endpoint;
use super::figures::Figures;
use super::links::Links;
use crate::files;

/// Threads of the fleet.
const WORKERS: usize = 2;
/// How long agents may take to end.
const END_MAX: Duration = Duration::from_secs(10);
/// Open files beyond one listener and one call back for each agent, and the connections.
const FILES_SPARE: u64 = 100;

/// Runs a fleet until its time is over, or until SIGINT or SIGTERM, and prints what it saw.
///
/// # Errors
/// When there are too few ports or open files, or when no agent could register.
pub fn run(args: Args) -> Result<(), Fatal> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Fatal::new(Exit::Failed, format!("no threads for the fleet: {error}")))?;
    let result = runtime.block_on(live(args));
    runtime.shutdown_background();
    result
}

async fn live(args: Args) -> Result<(), Fatal> {
    let no_signals = |error| Fatal::new(Exit::Failed, format!("cannot take signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut usr1 = signal(SignalKind::user_defined1()).map_err(no_signals)?;
    let connections = args.nodes.div_ceil(args.agents_per_connection);
    let files = u64::from(args.nodes) * 2 + u64::from(connections) + FILES_SPARE;
    files::allow(files, "simulate fewer --nodes")?;
    let clock = Clock::start();
    let fleet = Arc::new(Fleet {
        clock,
        figures: Figures::new(clock, args.nodes),
        links: Links::new(&args.control_plane, args.nodes, args.agents_per_connection)?,
        gpus: args.gpus,
        cores: args.cores,
        interval: args.interval,
        first_interval: args.first_interval(),
        jitter: args.jitter,
        deregister: args.deregister,
        proxy_port: args.proxy_port,
    });
    let (stop, stopped) = watch::channel(false);
    let mut agents = start_agents(&args, &fleet, &stopped).await?;
    say(&format!(
        "{{\"kind\":\"start\",\"nodes\":{},\"control_plane\":\"{}\",\"connections\":{connections}}}",
        args.nodes, args.control_plane
    ));
    let over = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let restart_peaks = async {
        while usr1.recv().await.is_some() {
            fleet.figures.restart_peaks();
        }
    };
    tokio::select! {
        () = over => {}
        () = restart_peaks => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = tell_each_second(&fleet), if args.every_second => {}
    }
    stop.send_replace(true);
    let ended = async { while agents.join_next().await.is_some() {} };
    tokio::select! {
        () = ended => {}
        () = tokio::time::sleep(END_MAX) => {}
        _ = int.recv() => {}
    }
    say_view(&fleet, "final");
    match fleet.figures.outcome() {
        (0, Some(error)) => Err(Fatal::new(
            Exit::Unreachable,
            format!("no agent could register with {}: {error}", args.control_plane),
        )
        .hint("start nebulad, and give its gRPC address with --control-plane")),
        (_, _) => Ok(()),
    }
}

async fn start_agents(
    args: &Args,
    fleet: &Arc<Fleet>,
    stopped: &watch::Receiver<bool>,
) -> Result<JoinSet<()>, Fatal> {
    let listeners = endpoint::listen(args.nodes as usize).await?;
    let gap = args.start_within() / args.nodes;
    let mut agents = JoinSet::new();
    let mut served = Vec::with_capacity(listeners.len());
    for (number, (listener, address)) in listeners.into_iter().enumerate() {
        let shared = Arc::new(Shared::new(format!("{}-{number:05}", args.prefix), args.start_delay));
        let chance = Chance::new(args.seed, number as u64);
        let agent = Agent::new(number, fleet.clone(), shared.clone(), address.to_string(), chance);
        agents.spawn(agent.run(gap * u32::try_from(number).unwrap_or(u32::MAX), stopped.clone()));
        served.push((listener, address, shared));
    }
    tokio::spawn(endpoint::serve(fleet.clone(), served, stopped.clone()));
    Ok(agents)
}

async fn tell_each_second(fleet: &Fleet) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        say_view(fleet, "second");
    }
}

fn say_view(fleet: &Fleet, kind: &'static str) {
    match serde_json::to_string(&fleet.figures.view(kind)) {
        Ok(line) => say(&line),
        Err(error) => eprintln!("error: the figures cannot be printed: {error}"),
    }
}

/// One line; a closed standard output is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
