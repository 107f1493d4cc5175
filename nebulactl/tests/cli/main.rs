//! The real binary against a server that answers as the API's description says.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

mod aliases;
mod change;
mod chat;
mod deploy;
mod edge;
mod errors;
mod events;
mod exec;
mod keys;
mod nouns;
mod operations;
mod server;
mod settings;
mod terminal;

use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A user: a home directory with an empty working directory in it.
struct User {
    home: TempDir,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl User {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join("work")).expect("a directory");
        Self { home }
    }

    /// Writes a file below the home directory.
    fn write(&self, path: &str, text: &str) {
        let path = self.home.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(path, text).expect("a file");
    }

    /// `nebulactl` with these arguments, run by this user.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.env("HOME", self.home.path()).current_dir(self.home.path().join("work"));
        command
    }
}

/// `nebulactl` with these arguments, run by somebody without a home, files or environment.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nebulactl"));
    command.args(args).env_clear().current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            code: output.status.code().expect("an exit code"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// Runs `nebulactl` as a user with a token against a server.
fn run(server: &server::Server, args: &[&str]) -> Ended {
    let mut nebulactl = command(args);
    nebulactl.env("NEBULA_SERVER", server.url()).env("NEBULA_TOKEN", "nbadm_test");
    Ended::of(nebulactl.output().expect("nebulactl runs"))
}
