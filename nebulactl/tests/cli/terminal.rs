//! What changes when a person sits at a terminal: colour, and questions.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;

use crate::command;
use crate::server::{Answer, Server};

/// Our end of a new pseudo terminal, and the program's.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("a name");
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
    let theirs = OpenOptions::new().read(true).write(true).open(path).expect("it opens");
    (ours.into(), theirs)
}

/// Everything a command writes to a terminal on its standard output.
fn shown(mut command: Command) -> String {
    let (mut ours, theirs) = terminal();
    let mut child = command.stdout(theirs).spawn().expect("it runs");
    // The command holds the program's end as well.
    drop(command);
    let mut bytes = Vec::new();
    // A terminal whose other end is closed reports an error after the last byte.
    let _ = ours.read_to_end(&mut bytes);
    assert!(child.wait().expect("it ends").success());
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let server = Server::start(|_| Answer::list(&json!([{"name": "demo", "state": "running"}])));
    let list = |args: &[&str], env: &[(&str, &str)]| {
        let mut nebulactl = command(args);
        nebulactl.env("NEBULA_SERVER", server.url()).envs(env.iter().copied());
        shown(nebulactl)
    };
    assert!(list(&["list"], &[]).contains("demo  \u{1b}[32mrunning\u{1b}[0m"));
    assert!(list(&["list"], &[("NO_COLOR", "")]).contains('\u{1b}'), "an empty NO_COLOR asks for nothing");
    for plain in [
        list(&["list"], &[("NO_COLOR", "1")]),
        list(&["list", "--no-color"], &[]),
        list(&["list"], &[("TERM", "dumb")]),
    ] {
        assert!(plain.contains("demo  running") && !plain.contains('\u{1b}'), "{plain:?}");
    }
}

#[test]
fn deleting_asks_at_a_terminal_only_and_takes_no_for_an_answer() {
    let server = Server::start(|_| Answer::new("204 No Content", "", ""));
    let delete = |args: &[&str], answer: &str| {
        let (mut ours, theirs) = terminal();
        let mut nebulactl = command(args);
        nebulactl.env("NEBULA_SERVER", server.url()).stdin(theirs).stdout(Stdio::null());
        let child = nebulactl.spawn().expect("it runs");
        ours.write_all(answer.as_bytes()).expect("it is typed");
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (code, err) = delete(&["delete", "demo"], "n\n");
    assert_eq!((code, server.requests().len()), (Some(1), 0));
    assert_eq!(err, "delete deployment demo? [y/N] error: deployment demo was not deleted\n");
    assert_eq!(delete(&["nodes", "delete", "gpu-1"], "\n").0, Some(1));
    assert_eq!(
        delete(&["keys", "revoke", "ci"], "no\n").1,
        "revoke key ci? [y/N] error: key ci was not revoked\n"
    );
    assert_eq!(server.requests().len(), 0);

    assert_eq!(delete(&["delete", "demo"], "y\n").0, Some(0));
    assert_eq!(delete(&["delete", "demo", "--yes"], "").1, "");
    assert_eq!(delete(&["nodes", "delete", "gpu-1"], "yes\n").0, Some(0));
    assert_eq!(
        server.lines(),
        ["DELETE /api/v1/deployments/demo", "DELETE /api/v1/deployments/demo", "DELETE /api/v1/nodes/gpu-1",]
    );
}

#[test]
fn waiting_rewrites_one_line_while_something_comes_along() {
    let server = crate::deploy::pulling(3);
    let (mut ours, theirs) = terminal();
    let mut nebulactl = command(&["deploy", "--model", "m", "--wait"]);
    nebulactl.env("NEBULA_SERVER", server.url()).env("NEBULA_TOKEN", "nbadm_test");
    let mut child = nebulactl.stdout(Stdio::null()).stderr(theirs).spawn().expect("it runs");
    drop(nebulactl);
    let mut bytes = Vec::new();
    // A terminal whose other end is closed reports an error after the last byte.
    let _ = ours.read_to_end(&mut bytes);
    assert!(child.wait().expect("it ends").success());
    let shown = String::from_utf8(bytes).expect("UTF-8");
    let (while_pulling, after) = shown.split_once("running\r\n").expect("it runs at last");
    assert!(!while_pulling.contains('\n'), "{while_pulling:?}");
    let lines: Vec<&str> =
        while_pulling.split("\r\u{1b}[2K").filter(|line| line.contains("pulling")).collect();
    assert_eq!(lines.len(), 3, "{while_pulling:?}");
    assert!(lines[2].contains("preparing: pulling image x: 2 of 3 layers, 66 %"), "{while_pulling:?}");
    assert!(!after.contains("pulling"), "{after:?}");
}
