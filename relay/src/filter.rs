//! What changes a body on its way to the client.

use bytes::Bytes;

/// What an upstream's body is, as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// `text/event-stream`, not compressed.
    Events,
    /// Anything else that can be read.
    Other,
    /// It is compressed.
    Opaque,
}

/// Changes a body on its way to the client.
pub trait Filter {
    /// Called once before any data. True: what goes out is an event stream although what comes is none. False: what
    /// is no event stream goes out with as many bytes as it came.
    fn begin(&mut self, incoming: Incoming) -> bool;

    /// What goes out for the next data; may be empty. Events come whole, several at once or alone; one that is longer
    /// than 64 KiB comes in pieces, without another event in them. What is made of other data must be whole events.
    fn pass(&mut self, data: Bytes) -> Bytes;

    /// What still goes out after the last byte has come in order. Says of an event stream whether it is complete; of
    /// any other body only the bytes count, and there must be none.
    ///
    /// # Errors
    /// When the answer lacks its end.
    fn finish(&mut self) -> Result<Bytes, Unfinished>;
}

/// The answer has ended before it was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The client has been told why, so that nothing need follow.
    pub told: bool,
}
