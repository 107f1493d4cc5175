//! One batch in the log: `magic | length u32be | crc32 u32be | seq u64be | entries`.
//!
//! The checksum covers length, number and entries. After bytes that are no frame the next one is looked for by its
//! magic, so that damage costs no more than the frames it touches.

use crate::{engine::Writes, entry};

const MAGIC: [u8; 4] = *b"NbF1";
const HEADER: usize = 20;

/// A batch in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// The number of the batch.
    pub(crate) seq: u64,
    entries: &'a [u8],
}

impl Frame<'_> {
    /// What the batch wrote; nothing if its entries make no sense in spite of the checksum.
    pub(crate) fn writes(&self) -> Option<Writes> {
        let mut writes = Writes::new();
        let mut rest = self.entries;
        while !rest.is_empty() {
            let (key, value) = entry::take(&mut rest)?;
            writes.insert(key.to_owned(), value.map(<[u8]>::to_owned));
        }
        Some(writes)
    }
}

/// Writes the frame of batch `seq` into `into`, which is emptied first.
pub(crate) fn encode(seq: u64, writes: &Writes, into: &mut Vec<u8>) {
    let mut entries = Vec::new();
    for (key, value) in writes {
        entry::put(&mut entries, key, value.as_deref());
    }
    let length = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    into.clear();
    into.extend_from_slice(&MAGIC);
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(&checksum(length, seq, &entries).to_be_bytes());
    into.extend_from_slice(&seq.to_be_bytes());
    into.extend_from_slice(&entries);
}

/// The frames in `bytes`, whatever else is between them.
pub(crate) struct Frames<'a> {
    rest: &'a [u8],
    /// Bytes that were skipped because they are no frame.
    pub(crate) skipped: usize,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, skipped: 0 }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            if let Some((frame, rest)) = first_frame(self.rest) {
                self.rest = rest;
                return Some(frame);
            }
            let next = self.rest.windows(MAGIC.len()).skip(1).position(|window| window == MAGIC);
            let skip = next.map_or(self.rest.len(), |at| at + 1);
            self.skipped += skip;
            self.rest = self.rest.get(skip..).unwrap_or_default();
        }
        None
    }
}

/// The frame that `bytes` start with, and what follows it.
fn first_frame(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let [m0, m1, m2, m3, l0, l1, l2, l3, c0, c1, c2, c3, seq @ ..] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let seq = u64::from_be_bytes(seq);
    let (entries, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let whole =
        [m0, m1, m2, m3] == MAGIC && u32::from_be_bytes([c0, c1, c2, c3]) == checksum(length, seq, entries);
    whole.then_some((Frame { seq, entries }, rest))
}

fn checksum(length: u32, seq: u64, entries: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_be_bytes());
    hasher.update(&seq.to_be_bytes());
    hasher.update(entries);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn writes(n: u64) -> Writes {
        let key = format!("n/{n}").into_bytes();
        let filler = vec![0x4E; usize::try_from(n * 13 % 90).unwrap()];
        [(key, Some(filler)), (b"gone".to_vec(), None)].into()
    }

    fn log(count: u64) -> (Vec<u8>, Vec<usize>) {
        let mut log = Vec::new();
        let mut starts = Vec::new();
        let mut frame = Vec::new();
        for seq in 1..=count {
            starts.push(log.len());
            encode(seq, &writes(seq), &mut frame);
            log.extend_from_slice(&frame);
        }
        (log, starts)
    }

    #[test]
    fn the_golden_bytes_stay() {
        let mut frame = Vec::new();
        encode(258, &[(b"k".to_vec(), Some(b"v".to_vec())), (b"l".to_vec(), None)].into(), &mut frame);
        let golden = [
            0x4E, 0x62, 0x46, 0x31, 0, 0, 0, 19, 0x60, 0x35, 0x9A, 0x2E, 0, 0, 0, 0, 0, 0, 1,
            2, // header
            0, 0, 0, 1, 0, 0, 0, 2, b'k', b'v', 0, 0, 0, 1, 0, 0, 0, 0, b'l',
        ];
        assert_eq!(frame, golden);
    }

    #[test]
    fn a_torn_tail_leaves_the_frames_before_it() {
        let (log, starts) = log(10);
        for cut in starts[9]..log.len() {
            let mut frames = Frames::new(&log[..cut]);
            let seqs = frames.by_ref().map(|frame| frame.seq).collect::<Vec<_>>();
            assert_eq!(seqs, (1..=9).collect::<Vec<_>>());
            assert_eq!(frames.skipped, cut - starts[9]);
        }
    }

    proptest! {
        #[test]
        fn damage_costs_the_frames_it_touches(at: prop::sample::Index, length in 1..200_usize, flip in 1..=255_u8) {
            let (mut bytes, starts) = log(30);
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + length);
            bytes[at..end].iter_mut().for_each(|byte| *byte ^= flip);
            let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
            let unhurt = starts.iter().zip(ends).zip(1_u64..)
                .filter(|((start, stop), _)| *stop <= at || **start >= end)
                .map(|(_, seq)| seq);
            let mut found = Vec::new();
            for frame in Frames::new(&bytes) {
                prop_assert_eq!(frame.writes(), Some(writes(frame.seq)));
                found.push(frame.seq);
            }
            prop_assert_eq!(found, unhurt.collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_looked_at_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Frames::new(&bytes).count(), 0);
        }
    }
}
