//! Start and stop of the simulated runtime.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App, HttpServer, web};
use nebula_core::exit::{Exit, Fatal};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::args::Args;
use super::fail::Fail;
use super::http::{State, routes};

/// How long an idle connection is kept: above what the pools of clients use.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long answers may go on after the first signal to stop, in seconds.
const DRAIN_MAX_SECS: u64 = 5;
/// Within this time the last bytes of an answer that was worked out are handed to the system.
const FLUSH_PAUSE: Duration = Duration::from_millis(50);

/// Starts a runtime in this process and says where it listens. The server runs while it is awaited or
/// spawned; `server.handle()` stops it. Must be called inside a tokio or actix runtime.
///
/// # Errors
/// When the address cannot be listened on, the variable `PORT` is no port, or the failure mode is
/// `exit-at-start`.
pub fn start(args: Args) -> io::Result<(Server, SocketAddr)> {
    match launch(args) {
        Ok(launched) => Ok((launched.server, launched.address)),
        Err(fatal) if fatal.exit == Exit::PortTaken => Err(io::Error::new(io::ErrorKind::AddrInUse, fatal)),
        Err(fatal) => Err(io::Error::other(fatal)),
    }
}

/// Runs a runtime until SIGTERM or SIGINT: then it takes no more requests, lets answers end for a few seconds
/// (a second signal cuts that short) and returns.
///
/// # Errors
/// When the address cannot be listened on ([`Exit::PortTaken`] if it is taken), and when it fails because it
/// was told to (`exit-at-start`, `exit-after`).
pub async fn run(args: Args) -> Result<(), Fatal> {
    let no_signals = |error| Fatal::new(Exit::Failed, format!("cannot listen for signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let Launched { server, address, state } = launch(args)?;
    announce(&state.args, address);
    let handle = server.handle();
    let mut server = tokio::spawn(server);
    let ended = tokio::select! {
        ended = &mut server => ended,
        () = any(&mut term, &mut int) => tokio::select! {
            () = handle.stop(true) => server.await,
            () = answered(&state) => return Ok(()),
            () = any(&mut term, &mut int) => return Ok(()),
        },
    };
    if state.crashed() {
        return Err(Fatal::new(Exit::Failed, format!("simulated failure: {}", state.args.fail)));
    }
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Fatal::new(Exit::Failed, format!("the simulated runtime failed: {error}"))),
        Err(error) => Err(Fatal::new(Exit::Failed, format!("the simulated runtime broke: {error}"))),
    }
}

/// When nothing is left to send. The server itself only looks once a second.
async fn answered(state: &State) {
    state.stats.idle().await;
    sleep(FLUSH_PAUSE).await;
}

async fn any(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

struct Launched {
    server: Server,
    address: SocketAddr,
    state: web::Data<State>,
}

fn launch(args: Args) -> Result<Launched, Fatal> {
    if args.fail == Fail::ExitAtStart {
        return Err(Fatal::new(Exit::Failed, format!("simulated failure: {}", args.fail)));
    }
    let address = args.address(std::env::var("PORT").ok().as_deref())?;
    let workers = usize::from(args.workers);
    let state = web::Data::new(State::new(args));
    let shared = state.clone();
    let server = HttpServer::new(move || App::new().app_data(shared.clone()).configure(routes))
        .workers(workers)
        .tcp_nodelay(true)
        .keep_alive(KEEP_ALIVE)
        // A client that hangs up stops its answer.
        .h1_allow_half_closed(false)
        .disable_signals()
        .shutdown_timeout(DRAIN_MAX_SECS)
        .bind(address)
        .map_err(|error| cannot_listen(address, &error))?;
    let address = server.addrs().first().copied().unwrap_or(address);
    let server = server.run();
    state.runs_on(server.handle());
    Ok(Launched { server, address, state })
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Fatal {
    if error.kind() == io::ErrorKind::AddrInUse {
        Fatal::new(Exit::PortTaken, format!("port {} on {} is taken", address.port(), address.ip()))
            .hint("give another port with --port, or 0 for a free one")
    } else {
        Fatal::new(Exit::Failed, format!("cannot listen on {address}: {error}"))
            .hint("give an address of this machine with --bind and a port above 1023 with --port")
    }
}

/// One line for people and logs; a closed standard output is no reason to stop.
fn announce(args: &Args, address: SocketAddr) {
    let fail = if args.fail == Fail::None { String::new() } else { format!(" (fail: {})", args.fail) };
    let line = format!("nebula-sim serves the simulated model {} on http://{address}{fail}", args.model);
    let _ = writeln!(io::stdout(), "{line}");
}
