//! What is written together: all of it or nothing, and only if its preconditions hold.

use crate::{
    envelope::{self, Codec, HEADER_BYTES},
    error::CommitError,
    record::{MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Record},
};

/// Writes and preconditions. Preconditions look at the store before the batch; of two writes to a key the later counts.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) conditions: Vec<(Vec<u8>, Expected)>,
    bytes: usize,
    refused: Option<CommitError>,
    purpose: Purpose,
}

/// What a batch does to the space that is used, which decides whether a disk that fills up still takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Begins something that will need more and more.
    Growing,
    /// Keeps up with what is there.
    #[default]
    Keeping,
    /// Leads to less.
    Freeing,
}

/// What a key must hold for a batch to be applied.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Absent,
    Present,
    Value(Record),
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores `record` under `key`.
    #[must_use]
    pub fn put(mut self, key: impl Into<Vec<u8>>, record: Record) -> Self {
        let key = key.into();
        self.admit(&key, record.payload.len());
        let value = envelope::seal(&key, Codec::Bincode, &record);
        self.writes.push((key, Some(value)));
        self
    }

    /// Removes the record under `key`, if there is one.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Vec<u8>>) -> Self {
        let key = key.into();
        self.admit(&key, 0);
        self.writes.push((key, None));
        self
    }

    /// Apply only if there is nothing under `key`.
    #[must_use]
    pub fn require_absent(self, key: impl Into<Vec<u8>>) -> Self {
        self.require(key.into(), Expected::Absent)
    }

    /// Apply only if there is a record under `key`.
    #[must_use]
    pub fn require_present(self, key: impl Into<Vec<u8>>) -> Self {
        self.require(key.into(), Expected::Present)
    }

    /// Apply only if exactly `record` is stored under `key`.
    #[must_use]
    pub fn require_value(self, key: impl Into<Vec<u8>>, record: Record) -> Self {
        self.require(key.into(), Expected::Value(record))
    }

    /// Marks the batch as the start of something new, which is refused first when the disk fills up.
    #[must_use]
    pub fn growing(mut self) -> Self {
        self.purpose = Purpose::Growing;
        self
    }

    /// Marks the batch as one that leads to less being stored, which is taken even when the disk is full.
    #[must_use]
    pub fn freeing(mut self) -> Self {
        self.purpose = Purpose::Freeing;
        self
    }

    /// Whether there is nothing in it, not even a precondition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.conditions.is_empty()
    }

    /// What the batch takes up, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it does to the space that is used.
    pub(crate) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The batch, if everything in it is within its limit.
    pub(crate) fn within_limits(mut self) -> Result<Self, CommitError> {
        match self.refused.take() {
            Some(refused) => Err(refused),
            None => Ok(self),
        }
    }

    fn require(mut self, key: Vec<u8>, expected: Expected) -> Self {
        let bytes = if let Expected::Value(record) = &expected { record.payload.len() } else { 0 };
        self.admit(&key, bytes);
        self.conditions.push((key, expected));
        self
    }

    /// Counts an entry and remembers the first limit it breaks.
    fn admit(&mut self, key: &[u8], payload: usize) {
        self.bytes = self.bytes.saturating_add(key.len() + HEADER_BYTES + payload);
        let sizes = [
            ("key", key.len(), MAX_KEY_BYTES),
            ("record", payload, MAX_VALUE_BYTES),
            ("batch", self.bytes, MAX_BATCH_BYTES),
        ];
        for (what, bytes, limit) in sizes {
            if bytes > limit && self.refused.is_none() {
                self.refused = Some(CommitError::TooLarge { what, bytes, limit });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: usize) -> Record {
        Record { kind: 1, schema: 1, payload: vec![0; bytes] }
    }

    fn refused(batch: Batch) -> &'static str {
        match batch.within_limits() {
            Err(CommitError::TooLarge { what, .. }) => what,
            other => panic!("within its limits: {other:?}"),
        }
    }

    #[test]
    fn limits_are_checked_before_anything_is_sent() {
        assert!(Batch::new().put("k", record(MAX_VALUE_BYTES)).within_limits().is_ok());
        assert_eq!(refused(Batch::new().put("k", record(MAX_VALUE_BYTES + 1))), "record");
        assert_eq!(refused(Batch::new().delete(vec![0; MAX_KEY_BYTES + 1])), "key");
        let mut many = Batch::new();
        for n in 0..200_u8 {
            many = many.put(vec![n], record(MAX_VALUE_BYTES));
        }
        assert_eq!(refused(many), "batch");
    }

    #[test]
    fn a_precondition_alone_is_not_nothing() {
        assert!(Batch::new().is_empty());
        assert!(!Batch::new().require_absent("k").is_empty());
        assert!(!Batch::new().delete("k").is_empty());
    }
}
