//! Start and end of a run.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use nebula_core::clock::Clock;
use nebula_core::exit::{Exit, Fatal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use super::args::Args;
use super::connection::{Ask, Connection};
use super::failure::Failure;
use super::figures::Figures;
use super::hold::{Holding, Kind};
use super::report::Report;
use super::request;
use crate::files;

/// Open files besides the connections.
const FILES_SPARE: u64 = 50;
/// After a failure a connection waits: a server that refuses is not flooded.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// Asks as the flags say, tells the result on standard output, and ends with it.
///
/// # Errors
/// When a request failed or a held connection was lost ([`Exit::Unreachable`] if none could be made), and when there
/// are too few open files.
pub fn run(args: Args) -> Result<(), Fatal> {
    let json = args.json;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fatal::new(Exit::Failed, format!("no thread for the load: {error}")))?;
    let report = LocalSet::new().block_on(&runtime, live(args))?;
    let text = if json {
        let line = serde_json::to_string(&report)
            .map_err(|error| Fatal::new(Exit::Failed, format!("the result cannot be printed: {error}")))?;
        line + "\n"
    } else {
        report.table()
    };
    // A closed standard output is no failure of the server's.
    let _ = std::io::stdout().write_all(text.as_bytes());
    verdict(&report)
}

fn verdict(report: &Report) -> Result<(), Fatal> {
    let (failed, all) = (report.failed(), report.failed() + report.requests());
    match report.worst() {
        Some((failure, _)) if failure == Failure::Connect && report.requests() == 0 => {
            Err(Fatal::new(Exit::Unreachable, "no connection could be made").hint(failure.hint()))
        }
        Some((failure, count)) => {
            let message = format!("{failed} of {all} requests failed, {count} of them with {failure}");
            Err(Fatal::new(Exit::Failed, message).hint(failure.hint()))
        }
        None if report.not_held() > 0 => {
            let message = format!("{} connections were not held to the end", report.not_held());
            Err(Fatal::new(Exit::Failed, message)
                .hint("the server ended them, or streams were not slow enough"))
        }
        None => Ok(()),
    }
}

/// What all connections of a run share.
struct Load {
    args: Args,
    request: Rc<Vec<u8>>,
    clock: Clock,
    /// When requests began, by the clock.
    began: Cell<Duration>,
    begun: Cell<u64>,
    stopped: Cell<bool>,
    figures: RefCell<Figures>,
}

async fn live(args: Args) -> Result<Report, Fatal> {
    let no_signals = |error| Fatal::new(Exit::Failed, format!("cannot take signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let connections = u64::from(args.connections) + u64::from(args.idle) + u64::from(args.hold_streams);
    files::allow(connections + FILES_SPARE, "ask for fewer connections")?;
    let load = Rc::new(Load {
        request: Rc::new(request::bytes(&args, args.stream)),
        clock: Clock::start(),
        began: Cell::default(),
        begun: Cell::default(),
        stopped: Cell::new(false),
        figures: RefCell::default(),
        args,
    });
    let running = load.clone().hold_and_ask();
    tokio::pin!(running);
    let (idle, streams) = tokio::select! {
        held = &mut running => held,
        () = async { tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} } } => {
            // Answers that are on their way may end; a second signal ends those too.
            load.stopped.set(true);
            tokio::select! {
                held = &mut running => held,
                _ = int.recv() => Default::default(),
                _ = term.recv() => Default::default(),
            }
        }
    };
    let counted_from = load.began.get() + load.args.warmup;
    let figures = load.figures.borrow();
    let took = figures.last_end.saturating_sub(counted_from);
    Ok(Report::new(&load.args, &figures, took, idle, streams))
}

impl Load {
    async fn hold_and_ask(self: Rc<Self>) -> (super::figures::Held, super::figures::Held) {
        let args = &self.args;
        let failed = |failure| *self.figures.borrow_mut().failures.entry(failure).or_default() += 1;
        let plain = Rc::new(request::bytes(args, false));
        let idle = Holding::open(args, plain, Kind::Idle, args.idle, failed).await;
        let streaming = Rc::new(request::bytes(args, true));
        let streams = Holding::open(args, streaming, Kind::Stream, args.hold_streams, failed).await;
        if args.idle + args.hold_streams > 0 {
            let (idle, streams) = (idle.held().opened, streams.held().opened);
            eprintln!("holding {idle} idle connections and {streams} streams");
        }
        self.began.set(self.clock.elapsed());
        let mut asking = JoinSet::new();
        for _ in 0..args.connections {
            asking.spawn_local(self.clone().ask());
        }
        if args.connections == 0 {
            self.wait_until_over().await;
        }
        while asking.join_next().await.is_some() {}
        (idle.held(), streams.held())
    }

    /// One connection's life.
    async fn ask(self: Rc<Self>) {
        let server = self.args.url.server();
        let mut connection = Connection::new(server, self.clock, self.args.timeout);
        while let Some(due) = self.next().await {
            let ask = Ask { request: &self.request, stream: self.args.stream, due };
            let result = connection.ask(ask).await;
            let failed = result.is_err();
            if due >= self.began.get() + self.args.warmup {
                let at = self.clock.elapsed();
                self.figures.borrow_mut().add(result, self.request.len(), at);
            }
            if failed {
                sleep(FAILURE_PAUSE).await;
            }
        }
        let mut figures = self.figures.borrow_mut();
        figures.reconnects += connection.reconnects;
        figures.delay.join(&connection.delay);
    }

    /// Waits until the next request is due, and says when that was; none: there are to be no more.
    async fn next(&self) -> Option<Duration> {
        let (number, now) = (self.begun.get(), self.clock.elapsed());
        let began = self.began.get();
        let due = match self.args.rate {
            None => now,
            Some(rate) => began + whole_millis(number as f64 / f64::from(rate)),
        };
        let over = self.args.over_after().is_some_and(|after| due.max(now) >= began + after);
        if over || self.stopped.get() || self.args.requests.is_some_and(|requests| number >= requests) {
            return None;
        }
        self.begun.set(number + 1);
        if due > now {
            sleep(due - now).await;
        }
        Some(due)
    }

    async fn wait_until_over(&self) {
        /// How long a signal to stop may go unnoticed.
        const LOOK: Duration = Duration::from_millis(50);
        let over = self.began.get() + self.args.over_after().unwrap_or_default();
        while self.clock.elapsed() < over && !self.stopped.get() {
            sleep(LOOK).await;
        }
        self.figures.borrow_mut().last_end = self.clock.elapsed();
    }
}

/// Timers are exact to a millisecond, so requests are due at whole ones.
fn whole_millis(seconds: f64) -> Duration {
    Duration::from_millis((seconds * 1_000.0).ceil() as u64)
}
