//! Commands inside containers.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::super::{Channel, ExecError, ExecSession, ExecSpec};
use super::support::{PATIENCE, World, until};
use crate::replica::spec::ContainerRef;

fn shell(script: &str, tty: bool) -> ExecSpec {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ExecSpec { command, tty, env: BTreeMap::from([("WHO".to_owned(), "me".to_owned())]) }
}

/// All that it writes, by stream.
async fn read(session: &mut ExecSession) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let reading = async {
        while let Some(piece) = session.output.next().await {
            let (channel, bytes) = piece.expect("bytes");
            match channel {
                Channel::Out => out.extend_from_slice(&bytes),
                Channel::Err => err.extend_from_slice(&bytes),
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("it ends");
    (out, err)
}

#[tokio::test]
async fn a_command_reads_writes_and_ends() {
    let Some(world) = World::new().await else { return };
    let (container, _) = world.start("exec sleep 100").await;
    let script = "echo $WHO; cat; echo wrong >&2; exit 9";
    let mut session = world.docker.exec(container, shell(script, false)).await.expect("it starts");
    session.input.write_all(b"asked\n").await.expect("it reads");
    session.input.shutdown().await.expect("it sees the end");
    assert_eq!(read(&mut session).await, (b"me\nasked\n".to_vec(), b"wrong\n".to_vec()));
    let code =
        until("its code", async || world.docker.exec_exit_code(&session.id).await.expect("an answer")).await;
    assert_eq!(code, 9);
}

#[tokio::test]
async fn a_terminal_has_a_size_and_takes_any_byte() {
    let Some(world) = World::new().await else { return };
    let (container, _) = world.start("exec sleep 100").await;
    let script = "read go; stty size; head -c 300000 /dev/urandom; echo; echo done";
    let mut session = world.docker.exec(container, shell(script, true)).await.expect("it starts");
    world.docker.resize_exec(&session.id, 132, 43).await.expect("it is resized");
    session.input.write_all(b"go\n").await.expect("it reads");
    let (out, err) = read(&mut session).await;
    assert!(err.is_empty());
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("43 132\r\n"), "{}", text.get(..40).unwrap_or_default());
    assert!(text.ends_with("done\r\n") && out.len() > 300_000, "{} bytes", out.len());
}

#[tokio::test]
async fn what_cannot_be_run_is_told() {
    let Some(world) = World::new().await else { return };
    let (container, name) = world.start("exec sleep 100").await;
    let spec = ExecSpec { command: vec!["/bin/nothing".to_owned()], ..ExecSpec::default() };
    match world.docker.exec(container, spec).await {
        Ok(mut session) => {
            let (out, err) = read(&mut session).await;
            let text = String::from_utf8_lossy(&[out, err].concat()).into_owned();
            assert!(text.contains("/bin/nothing"), "{text}");
            let code = until("its code", async || {
                world.docker.exec_exit_code(&session.id).await.expect("an answer")
            });
            assert!(matches!(code.await, 126 | 127));
        }
        // Newer Engines say so beforehand.
        Err(error) => assert!(error.to_string().contains("/bin/nothing"), "{error}"),
    }
    world.docker.sweep(name.replica).await;
    for gone in [container, ContainerRef([7; 32])] {
        let error = world.docker.exec(gone, shell("true", false)).await.expect_err("nothing runs");
        assert_eq!(error, ExecError::NotRunning);
    }
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_is_killed() {
    let Some(world) = World::new().await else { return };
    let (container, _) = world.start("exec sleep 100").await;
    let mut session =
        world.docker.exec(container, shell("echo up; exec sleep 77", false)).await.expect("it starts");
    let first = session.output.next().await.expect("output").expect("bytes");
    assert_eq!(first, (Channel::Out, "up\n".into()));
    let id = session.id.clone();
    drop(session);
    assert_eq!(world.docker.exec_exit_code(&id).await, Ok(None));
    world.docker.kill_exec(&id).await;
    let code = until("it is dead", async || world.docker.exec_exit_code(&id).await.expect("an answer")).await;
    assert_eq!(code, 137);
}
