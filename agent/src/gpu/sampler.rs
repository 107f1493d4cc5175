//! The two threads that call the driver: one looks at all GPUs every few seconds, one listens for their errors.
//!
//! Each call is announced, so that others see which one does not return. A thread that hangs is left alone: nobody
//! waits for it, and it goes on when the driver answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use super::machine::{Closed, Event, GPUS_MAX};
use super::nvml::{Failure, Heard, Library, Unusable};

/// Messages that may wait for the agent to take them.
pub(super) const MESSAGES_MAX: usize = 256;
/// One round of all alarms takes about this long, in milliseconds.
const ALARM_ROUND_MS: u32 = 1_000;
/// The least time that one alarm is listened to, in milliseconds.
const ALARM_WAIT_MS_MIN: u32 = 10;
/// A round without alarms.
const ALARM_PAUSE: Duration = Duration::from_millis(1_000);
/// Rounds between two tries to listen to GPUs that could not be listened to.
const ALARM_RETRY_ROUNDS: u32 = 60;

/// How often things are done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two looks at the GPUs.
    pub(super) sample_every: Duration,
    /// Between two tries to open the library.
    pub(super) open_every: Duration,
}

/// What a thread says.
#[derive(Debug)]
pub(super) enum Message {
    /// A call begins: opening the library, or one about the GPU at a position.
    Begins(Call),
    /// It has returned with this.
    Returned(Event),
    /// All GPUs were looked at.
    Round,
    /// Nobody had to ask: a GPU has reported an error. The number is that of the library's opening.
    Reported(u64, Event),
}

/// A call that may not return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Opening the library, which may bring up the GPUs.
    Open,
    /// Asking what the GPU at a position is, which may bring it up.
    Find(u32),
    /// Asking how it does.
    Sample(u32),
}

/// Nobody listens any more.
struct Gone;

/// Looks at the GPUs until nobody listens.
pub(super) struct Sampler {
    lib: Option<PathBuf>,
    pace: Pace,
    messages: mpsc::Sender<Message>,
    /// Ends a pause early.
    wake: Receiver<()>,
    /// How often the library was opened.
    opened: u64,
}

impl Sampler {
    /// Starts the thread. What it says, and a way to wake it.
    pub(super) fn start(
        lib: Option<PathBuf>,
        pace: Pace,
    ) -> std::io::Result<(mpsc::Receiver<Message>, SyncSender<()>)> {
        let (messages, said) = mpsc::channel(MESSAGES_MAX);
        let (waker, wake) = sync_channel(1);
        let sampler = Self { lib, pace, messages, wake, opened: 0 };
        thread::Builder::new().name("gpu-sampler".to_owned()).spawn(move || sampler.run())?;
        Ok((said, waker))
    }

    fn run(mut self) {
        loop {
            let Ok(Unusable { why, error }) = self.session() else { return };
            if self.say(Message::Returned(Event::Closed { why, error })).is_err()
                || self.say(Message::Round).is_err()
                || self.pause(self.pace.open_every).is_err()
            {
                return;
            }
        }
    }

    /// From opening the library to what makes it useless.
    fn session(&mut self) -> Result<Unusable, Gone> {
        self.say(Message::Begins(Call::Open))?;
        let (library, count) = match self.open() {
            Ok(opened) => opened,
            Err(unusable) => return Ok(unusable),
        };
        let library = Arc::new(library);
        for position in 0..count {
            self.say(Message::Begins(Call::Find(position)))?;
            let facts = match library.facts(position) {
                Ok(facts) => Ok(facts),
                Err(Failure::Gpu(fault)) => Err(fault),
                Err(Failure::Library(unusable)) => return Ok(unusable),
            };
            self.say(Message::Returned(Event::Found { position, facts }))?;
        }
        self.say(Message::Returned(Event::Listed))?;
        // The alarms end when this goes.
        let _listening = self.listen(&library, count);
        self.rounds(&library, count)
    }

    fn open(&mut self) -> Result<(Library, u32), Unusable> {
        let library = Library::open(self.lib.as_deref())?;
        let count = library.count()?.min(GPUS_MAX);
        if count == 0 {
            return Err(Unusable { why: Closed::Absent, error: "the driver lists no GPU".to_owned() });
        }
        self.opened += 1;
        let (driver_version, cuda_version) = (library.driver_version(), library.cuda_version());
        // Whoever is gone is noticed with the next message.
        let _ = self.say(Message::Returned(Event::Opened { driver_version, cuda_version }));
        Ok((library, count))
    }

    /// Looks at all GPUs again and again.
    fn rounds(&self, library: &Library, count: u32) -> Result<Unusable, Gone> {
        loop {
            let mut lost = 0;
            for position in 0..count {
                self.say(Message::Begins(Call::Sample(position)))?;
                let sample = match library.sample(position) {
                    Ok(sample) => Ok(sample),
                    Err(Failure::Gpu(fault)) => Err(fault),
                    Err(Failure::Library(unusable)) => return Ok(unusable),
                };
                lost += u32::from(sample.is_err());
                self.say(Message::Returned(Event::Sampled { position, sample }))?;
            }
            if lost == count {
                return Ok(Unusable { why: Closed::Renew, error: "every GPU is lost".to_owned() });
            }
            self.say(Message::Round)?;
            self.pause(self.pace.sample_every)?;
        }
    }

    /// Starts to listen for errors. It ends when the sender that this gives goes away.
    fn listen(&self, library: &Arc<Library>, count: u32) -> Option<SyncSender<()>> {
        let (alive, ended) = sync_channel(0);
        let listener = Listener { messages: self.messages.clone(), opened: self.opened, ended };
        let library = Arc::clone(library);
        let named = thread::Builder::new().name("gpu-alarms".to_owned());
        match named.spawn(move || listener.run(&library, count)) {
            Ok(_) => Some(alive),
            Err(error) => {
                tracing::warn!(%error, "errors of GPUs are not listened to: no thread");
                None
            }
        }
    }

    fn say(&self, message: Message) -> Result<(), Gone> {
        self.messages.blocking_send(message).map_err(|_| Gone)
    }

    fn pause(&self, time: Duration) -> Result<(), Gone> {
        match self.wake.recv_timeout(time) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Gone),
        }
    }
}

/// Listens for errors of GPUs.
struct Listener {
    messages: mpsc::Sender<Message>,
    opened: u64,
    /// Nothing is sent here: it ends.
    ended: Receiver<()>,
}

impl Listener {
    fn run(&self, library: &Library, count: u32) {
        let wait = (ALARM_ROUND_MS / count.max(1)).max(ALARM_WAIT_MS_MIN);
        let mut alarms: Vec<_> = (0..count).map(|position| library.alarm(position)).collect();
        let mut rounds = 0_u32;
        loop {
            for (position, alarm) in (0..count).zip(&mut alarms) {
                let heard = alarm.as_ref().map_or(Heard::Nothing, |alarm| alarm.wait(wait));
                if matches!(heard, Heard::Broken(_)) {
                    *alarm = None;
                }
                if self.tell(position, heard).is_err() {
                    return;
                }
            }
            let nothing_to_hear = alarms.iter().all(Option::is_none);
            let pause = if nothing_to_hear { ALARM_PAUSE } else { Duration::ZERO };
            match self.ended.recv_timeout(pause) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(ALARM_RETRY_ROUNDS) {
                for (position, alarm) in (0..count).zip(&mut alarms).filter(|(_, alarm)| alarm.is_none()) {
                    *alarm = library.alarm(position);
                }
            }
        }
    }

    fn tell(&self, position: u32, heard: Heard) -> Result<(), Gone> {
        let event = match heard {
            Heard::Xid(xid) => Event::Xid { position, xid },
            Heard::Broken(Some(fault)) => Event::Sampled { position, sample: Err(fault) },
            Heard::Nothing | Heard::Broken(None) => return Ok(()),
        };
        self.messages.blocking_send(Message::Reported(self.opened, event)).map_err(|_| Gone)
    }
}
