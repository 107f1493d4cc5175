//! Sessions inside containers, as the agent's callers have them: the same as beside a process.

use crate::driver::exec::{Command, ExecError, Input, Output, Session, Window, run_in};
use crate::driver::procfs;
use crate::replica::spec::ContainerRef;

use super::support::{PATIENCE, World, until};

async fn open(
    world: &World,
    container: ContainerRef,
    words: &[&str],
    tty: bool,
) -> Result<Session, ExecError> {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let tty = tty.then_some(Window { columns: 132, rows: 43 });
    run_in(&world.docker, container, &Command { words, tty }).await
}

async fn say(session: &Session, input: Input) {
    session.input.send(input).await.expect("somebody listens");
}

/// What comes until some text has come, or to the end.
async fn hear(session: &mut Session, text: Option<&str>) -> (String, String, Result<i32, ExecError>) {
    let (mut out, mut err) = (String::new(), String::new());
    let hearing = async {
        loop {
            match session.output.recv().await.expect("no end without an exit code") {
                Ok(Output::Stdout(bytes)) => out.push_str(&String::from_utf8_lossy(&bytes)),
                Ok(Output::Stderr(bytes)) => err.push_str(&String::from_utf8_lossy(&bytes)),
                Ok(Output::Exit(code)) => break Ok(code),
                Err(error) => break Err(error),
            }
            if text.is_some_and(|text| out.contains(text)) {
                break Ok(-1);
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, hearing).await.expect("in time");
    (out, err, end)
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes_and_an_exit_code() {
    let Some(world) = World::new().await else { return };
    let (container, _) = world.start("exec sleep 100").await;
    let script = "read go; stty size; echo ready; read x; stty size; echo got $x; cat; exit 7";
    let mut session = open(&world, container, &["/bin/sh", "-c", script], true).await.expect("it starts");
    say(&session, Input::Data("go\n".into())).await;
    let (out, ..) = hear(&mut session, Some("ready")).await;
    assert!(out.contains("43 132\r\n"), "{out}");
    say(&session, Input::Resize(Window { columns: 90, rows: 30 })).await;
    say(&session, Input::Data("some words\n".into())).await;
    say(&session, Input::Close).await;
    let (out, err, end) = hear(&mut session, None).await;
    assert!(out.contains("30 90\r\n") && out.contains("got some words\r\n"), "{out}");
    assert_eq!((err.as_str(), end.expect("it ends")), ("", 7));
}

#[tokio::test]
async fn pipes_stay_apart_and_the_end_of_input_is_seen() {
    let Some(world) = World::new().await else { return };
    let (container, _) = world.start("exec sleep 100").await;
    let script = "echo problem >&2; tr a-z A-Z; exit 3";
    let mut session = open(&world, container, &["sh", "-c", script], false).await.expect("it starts");
    say(&session, Input::Data("asked\n".into())).await;
    say(&session, Input::Close).await;
    let (out, err, end) = hear(&mut session, None).await;
    assert_eq!((out.as_str(), err.as_str(), end.expect("it ends")), ("ASKED\n", "problem\n", 3));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_as_beside_a_process() {
    let Some(world) = World::new().await else { return };
    let (container, name) = world.start("exec sleep 100").await;
    for (tty, program) in [(false, "no-such-program"), (true, "no-such-program"), (false, "/bin")] {
        let error = match open(&world, container, &[program], tty).await {
            Ok(mut session) => {
                let (out, err, end) = hear(&mut session, None).await;
                assert_eq!((out.as_str(), err.as_str()), ("", ""), "{program}");
                end.expect_err("it is not there")
            }
            Err(error) => error,
        };
        assert_eq!(error.to_string(), format!("the program \"{program}\" is not there"));
    }
    world.docker.sweep(name.replica).await;
    let error = open(&world, container, &["true"], false).await.err().expect("nothing runs");
    assert!(matches!(error, ExecError::Gone), "{error}");
}

#[tokio::test]
async fn what_a_command_started_ends_when_the_caller_hangs_up() {
    let Some(world) = World::new().await else { return };
    let (container, _) = world.start("exec sleep 100").await;
    let seconds = format!("{}", 70_000 + std::process::id() % 10_000);
    let script = format!("sleep {seconds} & sleep {seconds} & echo ready; wait");
    let running = || {
        let line = ["sleep", &seconds, ""].join("\0").into_bytes();
        let runs = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|read| read == line);
        procfs::numbers().into_iter().filter(runs).count()
    };
    let mut session = open(&world, container, &["sh", "-c", &script], false).await.expect("it starts");
    let (out, ..) = hear(&mut session, Some("ready")).await;
    assert_eq!(out, "ready\n");
    until("they run", async || (running() == 2).then_some(())).await;
    drop(session);
    until("they are gone", async || (running() == 0).then_some(())).await;
}
