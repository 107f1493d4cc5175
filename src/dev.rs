//! `nebulad dev`: the control plane and one agent in this process, a model deployed, and a first answer through
//! the gateway. Everything is the real thing; only the data directory is temporary unless one is given.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use nebula_agent::Running;
use nebula_core::address::is_loopback_host;
use nebula_core::clock::{Clock, Tick, wall_now};
use nebula_core::duration::human;
use nebula_core::exit::{Exit, Fatal};
use nebula_core::runtime::RuntimeKind;
use nebula_core::source::ModelSource;
use nebula_core::token::{Secret, TokenKind};
use tempfile::TempDir;

use crate::actors::catalog::Create;
use crate::actors::deployment::machine::Intent;
use crate::app::{App, Signals, end_at_once};
use crate::config::{Config, DevArgs, Flags};
use crate::domain::deployment::{Deployment, DeploymentSpec, Phase};
use crate::domain::error::{Error, ErrorClass};
use crate::domain::event::Origin;

mod chat;

/// The hidden first argument with which this executable becomes a simulated runtime.
pub const SIM_RUNTIME: &str = "sim-runtime";

/// The deployment's name.
const NAME: &str = "demo";
/// What is asked first.
const PROMPT: &str = "Say hello in one short sentence.";
/// How long the agent may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the deployment may find no place on the only node.
const PENDING_MAX: Duration = Duration::from_secs(10);
/// How often the deployment is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the simulated runtime of this executable.
///
/// # Errors
/// What the runtime says.
pub async fn sim_runtime() -> Result<(), Fatal> {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: nebula_sim::runtime::Args,
    }
    let cli = <Cli as clap::Parser>::parse_from(std::env::args().skip(1));
    nebula_sim::runtime::run(cli.args).await
}

/// Runs dev mode until Ctrl-C, or until the first answer with `--once`.
///
/// # Errors
/// Whatever goes wrong on the way to the first answer; everything that was started is stopped.
pub async fn run(flags: Flags, args: DevArgs) -> Result<(), Fatal> {
    let mut signals = Signals::listen()?;
    let spec = spec(&args)?;
    let (config, data) = config(flags)?;
    let mut out = Progress::begin(&config, &data);
    let app = App::start(config.clone()).await?;
    out.done("control plane", &format!("http://{}  (agents: {})", app.http_addr, app.grpc_addr));
    let agent = match start_agent(&app, &config).await {
        Ok(agent) => agent,
        Err(fatal) => {
            app.stop().await;
            return Err(fatal);
        }
    };
    let killer = agent.killer();
    let served = tokio::select! {
        served = serve(&app, &agent, &config, spec, &args, &mut out) => served,
        () = signals.next() => interrupted(&out),
        fatal = app.failed() => Err(fatal),
        fatal = agent.failed() => Err(fatal),
    };
    let stop = async {
        agent.stop().await;
        app.stop().await;
    };
    tokio::select! {
        () = stop => {}
        () = signals.next() => {
            // Nobody takes these runtimes up later, so they end with us.
            killer.kill_now();
            drop(data);
            end_at_once();
        }
    }
    served
}

/// Ctrl-C is how dev mode ends well, once it has shown what it is for.
fn interrupted(out: &Progress) -> Result<(), Fatal> {
    tell("");
    if out.answered { Ok(()) } else { Err(Fatal::new(Exit::Failed, "interrupted before the first answer")) }
}

/// A line for the person at the terminal. Nobody may be there any more; that is no error of ours.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The data directory, removed at the end when it is our own.
struct Data {
    temporary: Option<TempDir>,
}

fn config(flags: Flags) -> Result<(Config, Data), Fatal> {
    if flags.bind != "localhost" && !is_loopback_host(&flags.bind) {
        return Err(Fatal::new(
            Exit::Config,
            format!("dev mode listens on this machine only, not on {}", flags.bind),
        )
        .hint("to serve others, start nebulad and nebula-agent on their own"));
    }
    let mut config = Config::try_from(flags.clone())?;
    // Whoever tries things at a terminal reads answers, not lines about them.
    config.access_log = config.access_log.filter(|_| flags.log_level.is_some());
    if flags.data_dir.is_some() {
        return Ok((config, Data { temporary: None }));
    }
    let made = tempfile::Builder::new().prefix("nebula-dev-").tempdir();
    let dir = made.map_err(|error| {
        Fatal::new(Exit::DataDir, format!("cannot make a temporary directory: {error}"))
            .hint("choose a directory with --data-dir")
    })?;
    config.data_dir = dir.path().to_owned();
    Ok((config, Data { temporary: Some(dir) }))
}

fn spec(args: &DevArgs) -> Result<DeploymentSpec, Fatal> {
    let usage = |error: String| Fatal::new(Exit::Usage, error);
    let runtime = args.runtime.as_deref().map(str::parse::<RuntimeKind>).transpose();
    let mut runtime = runtime.map_err(|error| usage(error.to_string()))?;
    if args.model.is_none() && runtime.is_none() {
        runtime = Some(RuntimeKind::Sim);
    }
    let model = args.model.clone().unwrap_or_else(|| NAME.to_owned());
    // The person at the terminal names files as the shell does.
    let model = match std::fs::canonicalize(&model) {
        Ok(path) if model.starts_with('.') => path.to_string_lossy().into_owned(),
        _ => model,
    };
    let source = ModelSource::detect(&model, runtime).map_err(|error| usage(error.to_string()))?;
    if let Some(ModelSource::File { path }) = &source
        && !PathBuf::from(path).exists()
    {
        return Err(Fatal::new(Exit::Failed, format!("there is no model file {path}"))
            .hint("fs:// takes an absolute path: fs:///models/tiny.gguf"));
    }
    let runtime = runtime.or_else(|| source.as_ref().map(ModelSource::natural_runtime)).ok_or_else(|| {
        usage(format!("cannot tell the runtime of model \"{model}\"")).hint("name one with --runtime")
    })?;
    Ok(DeploymentSpec { source, public: true, ..DeploymentSpec::plain(&model, runtime) })
}

async fn start_agent(app: &App, config: &Config) -> Result<Running, Fatal> {
    let executable = std::env::current_exe().map_err(|error| {
        Fatal::new(Exit::Failed, format!("this program's own file is not known: {error}"))
    })?;
    let sim = vec![executable.to_string_lossy().into_owned(), SIM_RUNTIME.to_owned()];
    let data_dir = config.data_dir.join("agent");
    let words = [
        ("--control-plane", format!("http://{}", app.grpc_addr)),
        ("--data-dir", data_dir.to_string_lossy().into_owned()),
        ("--bind", config.bind.to_string()),
        ("--grpc-port", "0".to_owned()),
        ("--proxy-port", "0".to_owned()),
        ("--metrics-port", "0".to_owned()),
        ("--driver", "process".to_owned()),
    ];
    let words: Vec<String> = words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    nebula_agent::start(nebula_agent::Config::from_words(&words, sim)?).await
}

async fn serve(
    app: &App,
    agent: &Running,
    config: &Config,
    spec: DeploymentSpec,
    args: &DevArgs,
    out: &mut Progress,
) -> Result<(), Fatal> {
    out.starting("agent");
    tokio::time::timeout(JOIN_TIMEOUT, agent.registered())
        .await
        .map_err(|_| Fatal::new(Exit::Failed, "the agent did not join in time"))?;
    out.done("agent", &format!("joined; auth proxy on {}", agent.proxy_addr));
    let what = format!("{} on runtime {}", spec.model, spec.runtime);
    out.starting(&format!("model {NAME}"));
    deploy(app, spec).await.map_err(|error| Fatal::new(Exit::Failed, error.message))?;
    wait_until_running(app, out).await?;
    out.done(&format!("model {NAME}"), &what);
    tell(&format!("\n> {PROMPT}\n"));
    let first = chat::stream(app.http_addr, &config.api_prefix, NAME, PROMPT).await?;
    let total = out.elapsed();
    tell(&format!(
        "

first token after {}; all of it {} after the start",
        human(first),
        human(total)
    ));
    out.answered = true;
    if args.once {
        return Ok(());
    }
    next_steps(app, config);
    std::future::pending::<()>().await;
    Ok(())
}

/// Creates the deployment, or makes the one of an earlier run what is wanted now.
async fn deploy(app: &App, spec: DeploymentSpec) -> Result<(), Error> {
    let no_token =
        |error: nebula_core::token::NoRandomness| Error::new(ErrorClass::Internal, error.to_string());
    let token = Secret::generate(TokenKind::Deployment).map_err(no_token)?.hash();
    let gateway_token = Secret::generate(TokenKind::Gateway).map_err(no_token)?;
    let dep = Deployment::new(NAME.to_owned(), spec.clone(), token, gateway_token, wall_now());
    match app.system.create(Create { deployment: dep, key: None, origin: Origin::nebulad() }).await {
        Err(error) if error.class == ErrorClass::Conflict => {
            app.system.want(NAME, Intent::Change(Box::new(spec)), Origin::nebulad()).await?;
            app.system.want(NAME, Intent::Start, Origin::nebulad()).await.map(drop)
        }
        created => created.map(drop),
    }
}

async fn wait_until_running(app: &App, out: &mut Progress) -> Result<(), Fatal> {
    let began = out.elapsed();
    let mut shown = (Phase::Pending, String::new());
    loop {
        let dep =
            app.system.deployment(NAME).await.map_err(|error| Fatal::new(Exit::Failed, error.message))?;
        let now = (dep.state(), dep.message());
        if now != shown {
            out.step(now.0.as_str(), &now.1);
            shown.clone_from(&now);
        }
        match now {
            (Phase::Running, _) if routed(app) => return Ok(()),
            (Phase::Failed, why) => {
                return Err(Fatal::new(Exit::Failed, format!("model {NAME} failed: {why}")));
            }
            (Phase::Pending, why) if out.elapsed() - began > PENDING_MAX => {
                return Err(Fatal::new(Exit::Failed, format!("model {NAME} finds no place: {why}")));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Whether the gateway has heard of it.
fn routed(app: &App) -> bool {
    app.system.routes.load().get(NAME).is_some_and(|route| !route.endpoints.is_empty())
}

fn next_steps(app: &App, config: &Config) {
    let base = format!("http://{}{}", app.http_addr, config.api_prefix);
    let token = match config.admin_token {
        Some(_) => "<your admin token>".to_owned(),
        None => format!("$(cat {})", config.data_dir.join("admin.token").display()),
    };
    tell(&format!(
        "\nTry next:\n\n  \
         curl {base}/chat/completions -H 'content-type: application/json' \\\n    \
         -d '{{\"model\":\"{NAME}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n\n  \
         curl {base}/models\n\n  \
         cargo run --release -p nebulactl -- --server http://{} --token \"{token}\" list\n\n\
         Serving until Ctrl-C.",
        app.http_addr,
    ));
}

/// What the terminal shows on the way.
struct Progress {
    clock: Clock,
    last: Tick,
    answered: bool,
}

impl Progress {
    fn begin(config: &Config, data: &Data) -> Self {
        let kept = if data.temporary.is_some() { "removed at the end" } else { "kept" };
        let version = env!("CARGO_PKG_VERSION");
        tell(&format!("nebula {version}, dev mode; data in {} ({kept})\n", config.data_dir.display()));
        let clock = Clock::start();
        Self { clock, last: clock.now(), answered: false }
    }

    fn elapsed(&self) -> Duration {
        self.clock.now().since(Tick(0))
    }

    fn starting(&mut self, what: &str) {
        tell(&format!("  starting {what} …"));
    }

    fn step(&self, state: &str, message: &str) {
        match message {
            "" => tell(&format!("    {state}")),
            message => tell(&format!("    {state}: {message}")),
        }
    }

    fn done(&mut self, what: &str, detail: &str) {
        let now = self.clock.now();
        let took = human(now.since(self.last));
        self.last = now;
        tell(&format!("  {what:<14} ready in {took:<8} {detail}"));
    }
}
