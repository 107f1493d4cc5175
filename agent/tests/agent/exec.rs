//! Sessions beside a replica: terminals, pipes, ends and refusals.

use nebula_proto::exec_stream_input::Input;
use nebula_proto::exec_stream_output::Output;
use nebula_proto::{ExecResize, ExecStart, ExecStreamInput, ExecStreamOutput, StartRuntimeRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::nebulad::Nebulad;
use crate::node::{Home, Node, PATIENCE, processes_of, sim, until};

/// A node with one simulated runtime.
async fn node(home: &Home, nebulad: &Nebulad) -> (Node, StartRuntimeRequest) {
    let mut node = Node::start(home, nebulad.addr, &[]).await;
    let mut start = sim("demo");
    start.env.insert("GREETING".to_owned(), "hello {name}".to_owned());
    node.api.start_runtime(start.clone()).await.expect("accepted");
    node.until(&start.deployment_id, "running").await;
    (node, start)
}

/// A session from outside.
struct Typing {
    said: mpsc::Sender<ExecStreamInput>,
    told: Streaming<ExecStreamOutput>,
    stdout: String,
    stderr: String,
    /// How often something came.
    pieces: usize,
}

async fn open(node: &Node, first: Vec<Input>) -> Result<Typing, Status> {
    let (said, receiver) = mpsc::channel(16);
    for input in first {
        said.send(ExecStreamInput { input: Some(input) }).await.expect("there is room");
    }
    let told = node.api.clone().exec_stream(ReceiverStream::new(receiver)).await?.into_inner();
    Ok(Typing { said, told, stdout: String::new(), stderr: String::new(), pieces: 0 })
}

fn start(request: &StartRuntimeRequest, script: &str, tty: bool) -> Input {
    Input::Start(ExecStart {
        deployment_id: request.deployment_id.clone(),
        command: ["sh", "-c", script].map(str::to_owned).into(),
        tty,
        replica_id: request.replica_id.clone(),
    })
}

fn resize(columns: u32, rows: u32) -> Input {
    Input::Resize(ExecResize { columns, rows })
}

impl Typing {
    async fn say(&self, input: Input) {
        self.said.send(ExecStreamInput { input: Some(input) }).await.expect("somebody listens");
    }

    /// The next thing that comes; an exit code when it is that.
    async fn hear(&mut self) -> Result<Option<i32>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.told.message()).await.expect("in time")?;
        self.pieces += 1;
        match next.expect("no end without an exit code").output.expect("something") {
            Output::Stdout(bytes) => self.stdout.push_str(&String::from_utf8_lossy(&bytes)),
            Output::Stderr(bytes) => self.stderr.push_str(&String::from_utf8_lossy(&bytes)),
            Output::ExitCode(code) => return Ok(Some(code)),
        }
        Ok(None)
    }

    async fn until(&mut self, text: &str) {
        while !self.stdout.contains(text) {
            assert_eq!(self.hear().await.expect("it goes on"), None, "{text} in {}", self.stdout);
        }
    }

    async fn end(&mut self) -> Result<i32, Status> {
        loop {
            if let Some(code) = self.hear().await? {
                assert!(self.told.message().await?.is_none(), "nothing follows");
                return Ok(code);
            }
        }
    }
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes_a_line_that_is_read_and_an_exit_code() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let (node, request) = node(&home, &nebulad).await;
    let script = "trap 'echo now $(stty size)' WINCH; stty size; tty; echo $GREETING; \
                  read x || read x; echo got $x; exit 7";
    let mut typing =
        open(&node, vec![start(&request, script, true), resize(132, 43)]).await.expect("it starts");
    typing.until("hello demo").await;
    assert!(typing.stdout.starts_with("43 132\r\n/dev/pts/"), "{}", typing.stdout);
    typing.say(resize(90, 30)).await;
    // A shell may handle the signal only once the line has come.
    typing.say(Input::Stdin("some words\n".into())).await;
    assert_eq!(typing.end().await.expect("it ends"), 7);
    assert!(typing.stdout.contains("now 30 90\r\n"), "{}", typing.stdout);
    assert!(typing.stdout.contains("got some words\r\n"), "{}", typing.stdout);
    assert_eq!(typing.stderr, "");
}

#[tokio::test]
async fn closing_the_input_of_a_terminal_is_what_ctrl_d_is() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let (node, request) = node(&home, &nebulad).await;
    for (typed, left) in [("whole\n", "whole"), ("half a line", "half a line")] {
        let script = "echo ready; cat > kept; echo read $(cat kept); exit 3";
        let mut typing = open(&node, vec![start(&request, script, true)]).await.expect("it starts");
        typing.until("ready").await;
        typing.say(Input::Stdin(typed.into())).await;
        typing.say(Input::CloseStdin(true)).await;
        assert_eq!(typing.end().await.expect("it ends"), 3);
        assert!(typing.stdout.contains(&format!("read {left}")), "{}", typing.stdout);
    }
}

#[tokio::test]
async fn without_a_terminal_the_outputs_stay_apart_and_the_end_of_input_is_seen() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let (node, request) = node(&home, &nebulad).await;
    let script = "echo problem >&2; wc -c; test -t 0 || echo no terminal; kill -9 $$";
    let mut typing = open(&node, vec![start(&request, script, false)]).await.expect("it starts");
    for _ in 0..64 {
        typing.say(Input::Stdin(vec![b'x'; 64 * 1024].into())).await;
    }
    typing.say(Input::CloseStdin(true)).await;
    assert_eq!(typing.end().await.expect("it ends"), 137, "as shells count a signal");
    assert_eq!(typing.stdout, format!("{}\nno terminal\n", 64 * 64 * 1024));
    assert_eq!(typing.stderr, "problem\n");

    // A caller who only says no more has closed the input too.
    let Typing { said, told, .. } =
        open(&node, vec![start(&request, "cat", false)]).await.expect("it starts");
    drop(said);
    let (said, _) = mpsc::channel(1);
    let mut listening = Typing { said, told, stdout: String::new(), stderr: String::new(), pieces: 0 };
    assert_eq!(listening.end().await.expect("it ends"), 0);
}

#[tokio::test]
async fn whatever_a_command_started_ends_when_the_caller_hangs_up() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let (node, request) = node(&home, &nebulad).await;
    for tty in [false, true] {
        // Job control gives the one in the background a process group of its own.
        let script = "set -m; sleep 600 & sleep 600 & echo ready; wait";
        let mut typing = open(&node, vec![start(&request, script, tty)]).await.expect("it starts");
        typing.until("ready").await;
        until("they run", async || (processes_of(&request.replica_id).len() == 4).then_some(())).await;
        drop(typing);
        until("nothing is left but the runtime", async || {
            (processes_of(&request.replica_id).len() == 1).then_some(())
        })
        .await;
    }
    assert_eq!(node.deployment(&request.deployment_id).await.expect("it is there").status, "running");
}

#[tokio::test]
async fn a_reader_who_waits_makes_the_command_wait() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let (node, request) = node(&home, &nebulad).await;
    let script = "while :; do head -c 65536 /dev/zero; echo . >> count; done";
    let mut typing = open(&node, vec![start(&request, script, false)]).await.expect("it starts");
    let count = home.data().join("replicas").join(&request.replica_id).join("work/count");
    let written = || std::fs::metadata(&count).map_or(0, |file| file.len());
    // It stands still when everything between us is full.
    let mut last = (0, 0);
    let full = until("it waits", async || {
        let now = written();
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        (now > 0 && last.1 > 30).then_some(now)
    })
    .await;
    assert!(full < 2 * 200, "{full} bytes counted: two for each 64 KiB that somebody keeps");
    while typing.pieces < 2_000 {
        assert_eq!(typing.hear().await.expect("it goes on"), None);
        typing.stdout.clear();
    }
    assert!(written() > full);
}

#[tokio::test]
async fn what_is_no_session_is_refused_in_words() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let (mut node, request) = node(&home, &nebulad).await;
    let refused = async |first: Vec<Input>| match open(&node, first).await {
        Err(status) => status,
        Ok(mut typing) => typing.end().await.expect_err("refused"),
    };
    let command = |words: &[&str]| {
        Input::Start(ExecStart {
            deployment_id: request.deployment_id.clone(),
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            tty: false,
            replica_id: String::new(),
        })
    };
    let cat = || start(&request, "cat", false);
    for (first, code, part) in [
        (vec![Input::Stdin("x".into())], Code::InvalidArgument, "the first message of ExecStream is start"),
        (vec![resize(80, 24), cat()], Code::InvalidArgument, "the first message of ExecStream is start"),
        (vec![cat(), cat()], Code::InvalidArgument, "has started already"),
        (vec![cat(), resize(0, 24)], Code::InvalidArgument, "a window has from 1 to 65535"),
        (vec![start(&request, "cat", true), resize(70_000, 24)], Code::InvalidArgument, "a window has"),
        (vec![command(&[])], Code::InvalidArgument, "the command is empty"),
        (vec![command(&[""])], Code::InvalidArgument, "the command is empty"),
        (vec![command(&["no-such-program"])], Code::InvalidArgument, "\"no-such-program\" is not there"),
        (vec![command(&["/etc/passwd"])], Code::InvalidArgument, "\"/etc/passwd\" is not there"),
        (vec![start(&sim("other"), "true", false)], Code::NotFound, "is not on this node"),
    ] {
        let what = format!("{first:?}");
        let status = refused(first).await;
        assert!(status.code() == code && status.message().contains(part), "{what}: {status:?}");
    }

    let stop = nebula_proto::StopRuntimeRequest {
        deployment_id: request.deployment_id.clone(),
        ..nebula_proto::StopRuntimeRequest::default()
    };
    node.api.stop_runtime(stop).await.expect("accepted");
    node.until(&request.deployment_id, "stopped").await;
    let status = open(&node, vec![start(&request, "true", false)]).await.err().expect("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), "nothing runs: the replica is stopped");
}

#[tokio::test]
async fn sessions_are_counted_and_one_that_ends_makes_room() {
    let (home, nebulad) = (Home::new(), Nebulad::start().await);
    let (node, request) = node(&home, &nebulad).await;
    let mut sessions = Vec::new();
    for _ in 0..32 {
        sessions.push(open(&node, vec![start(&request, "cat", false)]).await.expect("there is room"));
    }
    let status = open(&node, vec![start(&request, "cat", false)]).await.err().expect("refused");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    drop(sessions.pop());
    until("there is room again", async || {
        open(&node, vec![start(&request, "true", false)]).await.ok().map(drop)
    })
    .await;
}
