//! What the handles ask for, and how requests are taken together.

use std::{collections::VecDeque, path::PathBuf, sync::mpsc::Receiver};

use tokio::sync::oneshot::Sender;

use crate::{
    batch::Batch,
    error::{CommitError, ExportFailed, ReadError},
    info::ExportInfo,
    quarantine::{SetAside, Unreadable},
    record::{MAX_BATCH_BYTES, Record},
};

/// Requests in one group.
const GROUP: usize = 256;
/// A group takes no further request beyond this.
const GROUP_BYTES: usize = MAX_BATCH_BYTES;

/// Records with their keys, in key order.
pub(super) type Records = Vec<(Vec<u8>, Record)>;

pub(super) type Commit = (Batch, Sender<Result<(), CommitError>>);
type Answer<T> = Sender<Result<T, ReadError>>;

/// What the handles ask for. One that is dropped unanswered tells its caller `Failed`.
#[derive(Debug)]
pub(crate) enum Request {
    Commit { batch: Batch, reply: Sender<Result<(), CommitError>> },
    Read(Read),
    Export(ExportAsk),
    Close,
}

/// What is answered after the commits of its group.
#[derive(Debug)]
pub(crate) enum Read {
    Get { key: Vec<u8>, reply: Answer<Option<Record>> },
    Scan { prefix: Vec<u8>, reply: Answer<Records> },
    ListSetAside { reply: Answer<Vec<SetAside>> },
    SetAside { records: Vec<Unreadable>, reply: Sender<Result<u64, CommitError>> },
}

/// An export that somebody wants: among the store's own, or as the file `target`.
#[derive(Debug)]
pub(crate) struct ExportAsk {
    pub(crate) target: Option<PathBuf>,
    pub(crate) reply: Sender<Result<ExportInfo, ExportFailed>>,
}

/// Requests that are answered together.
#[derive(Default)]
pub(super) struct Group {
    pub(super) commits: Vec<Commit>,
    pub(super) reads: VecDeque<Read>,
    pub(super) exports: Vec<ExportAsk>,
    pub(super) close: bool,
}

impl Group {
    /// What is queued now, without waiting for more: while one group is synced, the next one gathers.
    pub(super) fn collect(first: Request, requests: &Receiver<Request>) -> Self {
        let mut group = Self::default();
        let mut bytes = group.add(first);
        while !group.close && group.len() < GROUP && bytes < GROUP_BYTES {
            let Ok(next) = requests.try_recv() else { break };
            bytes = bytes.saturating_add(group.add(next));
        }
        group
    }

    /// Takes a request in and returns the bytes it wants to write.
    pub(super) fn add(&mut self, request: Request) -> usize {
        match request {
            Request::Commit { batch, reply } => {
                let bytes = batch.bytes();
                self.commits.push((batch, reply));
                return bytes;
            }
            Request::Read(read) => self.reads.push_back(read),
            Request::Export(ask) => self.exports.push(ask),
            Request::Close => self.close = true,
        }
        0
    }

    /// Requests in it that want an answer.
    pub(super) fn len(&self) -> usize {
        self.commits.len() + self.reads.len() + self.exports.len()
    }

    /// Answers all that is left, of which nothing was begun.
    pub(super) fn turn_away(self, why: ReadError) {
        for (_, reply) in self.commits {
            let _ = reply.send(Err(why.into()));
        }
        self.reads.into_iter().for_each(|read| read.turn_away(why));
        self.exports.into_iter().for_each(|ask| ask.turn_away(why));
    }
}

impl Read {
    fn turn_away(self, why: ReadError) {
        // Whoever dropped the future does not want to know.
        match self {
            Self::Get { reply, .. } => drop(reply.send(Err(why))),
            Self::Scan { reply, .. } => drop(reply.send(Err(why))),
            Self::ListSetAside { reply } => drop(reply.send(Err(why))),
            Self::SetAside { reply, .. } => drop(reply.send(Err(why.into()))),
        }
    }
}

impl ExportAsk {
    pub(super) fn turn_away(self, why: ReadError) {
        drop(self.reply.send(Err(why.into())));
    }
}
