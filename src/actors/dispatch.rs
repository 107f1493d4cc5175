//! Commands on their way from deployments to sessions. Each node has a queue, emptied by one task, which tries again
//! once a second when the session cannot take more: ten thousand deployments on one node make one try a second, and one
//! line in the log.
//!
//! The queues are in memory. They outlive the deployments' actors: the last thing that a deployment says must be heard.
//! When nebulad starts, deployments compare again what is wanted with what nodes report, and say again what is missing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nebula_core::ids::NodeId;
use tokio::sync::Notify;

use self::queue::Queue;
use super::system::System;
use crate::domain::command::Command;
use crate::domain::error::{Error, ErrorClass};

mod queue;

/// How long to wait before commands that a session could not take are given to it again.
const RETRY: Duration = Duration::from_secs(1);

/// The queues of all nodes for which commands wait.
#[derive(Default)]
pub(crate) struct Dispatch {
    nodes: Mutex<BTreeMap<NodeId, Way>>,
}

/// One node's queue. It is there as long as its task is.
#[derive(Default)]
struct Way {
    queue: Queue,
    news: Arc<Notify>,
}

/// What became of a command.
enum Verdict {
    /// It is durable in the session's outbox.
    Given,
    /// There is no such node any more.
    Gone,
    /// It will never be taken.
    Never(Error),
    /// It may be taken later.
    Later(Error),
}

impl Verdict {
    fn of(answer: Result<Result<(), Error>, Error>) -> Self {
        match answer {
            Ok(Ok(())) => Self::Given,
            Err(error) if error.class == ErrorClass::NotFound => Self::Gone,
            Err(error) if error.class == ErrorClass::Unprocessable => Self::Never(error),
            Ok(Err(error)) | Err(error) => Self::Later(error),
        }
    }
}

impl Dispatch {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Way>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, node: &NodeId, what: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        self.nodes().get_mut(node).map(|way| what(&mut way.queue))
    }

    /// The queue is gone if nothing is left in it.
    fn ends(&self, node: &NodeId) -> bool {
        let mut nodes = self.nodes();
        let ends = nodes.get(node).is_none_or(|way| way.queue.is_empty());
        if ends {
            nodes.remove(node);
        }
        ends
    }
}

impl System {
    /// Gives a command to its node's session until it is durable there or the node is forgotten, in order with the others
    /// about the same replica. The same command again while it waits is the same command.
    pub(crate) fn send(&self, command: Command) {
        let (node, id) = (command.node_id.clone(), command.id);
        let (begins, taken) = {
            let mut nodes = self.dispatch.nodes();
            let begins = !nodes.contains_key(&node);
            let way = nodes.entry(node.clone()).or_default();
            let taken = way.queue.push(command);
            way.news.notify_one();
            (begins, taken)
        };
        if !taken {
            // The node's next report shows what is missing, and it is said again.
            tracing::debug!(node_id = %node, command_id = %id, "too many commands wait for this node");
        }
        if begins {
            actix_rt::spawn(give_all(self.clone(), node));
        }
    }
}

/// Empties a node's queue.
async fn give_all(system: System, node: NodeId) {
    let path = super::session::path(&node);
    let Some(news) = system.dispatch.nodes().get(&node).map(|way| Arc::clone(&way.news)) else { return };
    let mut giving = FuturesUnordered::new();
    let (mut stalled, mut pause) = (false, false);
    loop {
        while !pause && let Some(command) = system.dispatch.with(&node, Queue::next).flatten() {
            let (sessions, path) = (system.sessions.clone(), path.clone());
            giving.push(async move {
                let answer = sessions.ask(&path, super::session::Enqueue(command.clone())).await;
                (command, Verdict::of(answer))
            });
        }
        if giving.is_empty() && pause {
            tokio::time::sleep(RETRY).await;
            pause = false;
            continue;
        }
        if giving.is_empty() && system.dispatch.ends(&node) {
            return;
        }
        let ended = tokio::select! {
            ended = giving.next(), if !giving.is_empty() => ended,
            () = news.notified() => None,
        };
        let Some((command, verdict)) = ended else { continue };
        match verdict {
            Verdict::Given => {
                system.dispatch.with(&node, |queue| queue.done(command.replica_id));
                if std::mem::take(&mut stalled) {
                    tracing::info!(node_id = %node, "commands are taken by the session again");
                }
            }
            Verdict::Gone => {
                system.dispatch.nodes().remove(&node);
                return;
            }
            Verdict::Never(error) => {
                system.dispatch.with(&node, |queue| queue.done(command.replica_id));
                tracing::error!(node_id = %node, command_id = %command.id, %error, "command is not given");
            }
            Verdict::Later(error) => {
                system.dispatch.with(&node, |queue| queue.again(command));
                pause = true;
                if !std::mem::replace(&mut stalled, true) {
                    tracing::warn!(node_id = %node, %error, "commands wait for their session");
                }
            }
        }
    }
}
