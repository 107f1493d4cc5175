//! A wire between two programs that can be made slow, cut, or left without anybody at its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::engine::Host;

/// How the wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// So many bytes a second towards the caller.
    Slow(u64),
    /// Whoever calls is connected and hears nothing.
    Silent,
    /// Nobody is there; who was connected is cut off.
    Gone,
}

/// A wire from a loopback port of its own to somewhere.
pub(super) struct Wire {
    pub(super) address: SocketAddr,
    state: watch::Sender<State>,
    /// Bytes that went towards the caller.
    passed: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Wire {
    pub(super) async fn to(target: Host) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (state, passed) = (watch::Sender::new(State::Open), Arc::default());
        let task = tokio::spawn(serve(address, listener, target, state.subscribe(), Arc::clone(&passed)));
        Self { address, state, passed, task }
    }

    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    pub(super) fn passed(&self) -> usize {
        self.passed.load(Ordering::Acquire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    address: SocketAddr,
    listener: TcpListener,
    target: Host,
    mut state: watch::Receiver<State>,
    passed: Arc<AtomicUsize>,
) {
    let mut listener = Some(listener);
    loop {
        let mut calls = JoinSet::new();
        let bound = match listener.take() {
            Some(bound) => bound,
            None => TcpListener::bind(address).await.expect("the port is free again"),
        };
        let shown = state.clone();
        loop {
            tokio::select! {
                accepted = bound.accept() => {
                    let (caller, _) = accepted.expect("a caller");
                    calls.spawn(join(caller, target.clone(), shown.clone(), Arc::clone(&passed)));
                }
                gone = state.wait_for(|state| *state == State::Gone) => match gone {
                    Ok(_) => break,
                    Err(_) => return,
                },
            }
        }
        drop(bound);
        calls.shutdown().await;
        if state.wait_for(|state| *state != State::Gone).await.is_err() {
            return;
        }
    }
}

async fn join(caller: TcpStream, target: Host, state: watch::Receiver<State>, passed: Arc<AtomicUsize>) {
    let (from_caller, to_caller) = caller.into_split();
    match target {
        Host::Unix(path) => {
            let (from, to) = UnixStream::connect(path).await.expect("somebody is there").into_split();
            tokio::join!(
                copy(from_caller, to, state.clone(), None),
                copy(from, to_caller, state, Some(passed))
            );
        }
        Host::Tcp(address) => {
            let (from, to) = TcpStream::connect(address).await.expect("somebody is there").into_split();
            tokio::join!(
                copy(from_caller, to, state.clone(), None),
                copy(from, to_caller, state, Some(passed))
            );
        }
    }
}

/// Copies to the end; what is counted is slow when the wire is.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    passed: Option<Arc<AtomicUsize>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let Ok(now) = state.wait_for(|state| *state != State::Silent).await.map(|state| *state) else {
            return;
        };
        if let (State::Slow(rate), Some(_)) = (now, &passed) {
            tokio::time::sleep(
                Duration::from_secs(1) * u32::try_from(count).expect("small")
                    / u32::try_from(rate).expect("small"),
            )
            .await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if let Some(passed) = &passed {
            passed.fetch_add(count, Ordering::AcqRel);
        }
    }
    let _ = to.shutdown().await;
}
