//! Starts runtimes, bad servers and the program.

use std::future::Future;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use nebula_sim::runtime::{Args, start};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// Nothing that a test waits for takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits, but not for ever.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// A runtime in this process, stopped when it is dropped.
pub(crate) struct Sim {
    pub(crate) address: SocketAddr,
    handle: ServerHandle,
}

impl Drop for Sim {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

/// A runtime that loses no time.
pub(crate) fn sim(change: impl FnOnce(&mut Args)) -> Sim {
    let mut args = Args {
        port: Some(0),
        ttft: Duration::ZERO,
        token_interval: Duration::ZERO,
        tokens: 8,
        workers: 1,
        ..Args::default()
    };
    change(&mut args);
    let (server, address) = start(args).expect("a runtime");
    let handle = server.handle();
    tokio::spawn(server);
    Sim { address, handle }
}

/// A server that reads something, says `answer` to it and closes the connection.
pub(crate) async fn server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                if matches!(stream.read(&mut request).await, Ok(read) if read > 0) {
                    // The client may have left.
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    address
}

/// The program, asking a server.
pub(crate) fn load(address: SocketAddr, flags: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nebula-sim"));
    command.args(["load", "--url", &format!("http://{address}/v1")]).args(flags.split_whitespace());
    command.env_remove("NEBULA_SIM_TOKEN").kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program")
}

/// How the program ended, what it printed and what it said on stderr.
pub(crate) async fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = within("the end", child.wait_with_output()).await.expect("a status");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The same with `--json`: the report.
pub(crate) async fn reported(address: SocketAddr, flags: &str) -> (Option<i32>, Value, String) {
    let (code, out, said) = ended(load(address, &format!("--json {flags}"))).await;
    (code, serde_json::from_str(&out).expect("one line of JSON"), said)
}
