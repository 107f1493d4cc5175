//! How far the log was durable, told outside the log.
//!
//! sled takes the first bytes it cannot read for the torn end of its log and forgets all that follows, silently. So every
//! durable write carries a number inside the log, and after its sync the number is noted here. An engine that ends
//! before the number in this file has lost acknowledged writes, and must not be served as it is.
//!
//! The note itself is not synced with each write: the file then tells less than is true, never more.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

const FILE: &str = "mark";
const MAGIC: [u8; 4] = *b"NbMk";
/// `magic | number u64be | crc32 u32be`
const SLOT: usize = 16;

/// The noted number. Two slots are written in turn, so that a torn one leaves the one before.
pub(crate) struct Mark {
    file: File,
}

impl Mark {
    /// Opens or creates the mark in `dir`.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(FILE))?;
        Ok(Self { file })
    }

    /// Notes that write `number` is durable.
    pub(crate) fn note(&self, number: u64) -> io::Result<()> {
        let at = if number.is_multiple_of(2) { 0 } else { SLOT as u64 };
        self.file.write_all_at(&slot_of(number), at)
    }

    /// Makes the note durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// The highest number noted in `dir`, 0 if there is none that can be read.
pub(crate) fn read(dir: &Path) -> u64 {
    let Ok(file) = File::open(dir.join(FILE)) else { return 0 };
    let slots = [0, SLOT as u64].map(|at| {
        let mut slot = [0; SLOT];
        // A missing or short slot stays zero and is no valid one.
        let _ = file.read_exact_at(&mut slot, at);
        number_in(&slot)
    });
    slots.into_iter().flatten().max().unwrap_or(0)
}

fn slot_of(number: u64) -> [u8; SLOT] {
    let [m0, m1, m2, m3] = MAGIC;
    let [n0, n1, n2, n3, n4, n5, n6, n7] = number.to_be_bytes();
    let [c0, c1, c2, c3] = crc32fast::hash(&number.to_be_bytes()).to_be_bytes();
    [m0, m1, m2, m3, n0, n1, n2, n3, n4, n5, n6, n7, c0, c1, c2, c3]
}

fn number_in(slot: &[u8; SLOT]) -> Option<u64> {
    let [_, _, _, _, number @ .., _, _, _, _] = *slot;
    let number = u64::from_be_bytes(number);
    (slot_of(number) == *slot).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_number_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), 0);
        let mark = Mark::open(dir.path()).unwrap();
        for number in [1, 2, 3, 300] {
            mark.note(number).unwrap();
            assert_eq!(read(dir.path()), number);
        }
    }

    #[test]
    fn a_torn_note_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::open(dir.path()).unwrap();
        mark.note(6).unwrap();
        mark.note(7).unwrap();
        mark.file.write_all_at(&[0xFF; 3], SLOT as u64 + 9).unwrap();
        assert_eq!(read(dir.path()), 6);
        mark.file.set_len(5).unwrap();
        assert_eq!(read(dir.path()), 0);
    }
}
