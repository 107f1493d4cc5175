//! The bytes around a payload: `magic 0x4E | kind | schema u16be | codec | flags | crc32 u32be | payload`.
//!
//! The checksum covers the first six bytes, the key and the payload, so that a record under a wrong key is found too.
//! The layout is frozen: a change needs a new magic.

use crate::record::Record;

const MAGIC: u8 = 0x4E;
const NO_FLAGS: u8 = 0;

/// The bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 10;

/// How a payload was encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    /// Bytes as they are.
    Raw = 0,
    /// bincode 2, standard configuration.
    Bincode = 1,
}

/// Why stored bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("shorter than its header")]
    Short,
    #[error("wrong magic byte")]
    Magic,
    #[error("checksum does not match")]
    Checksum,
    #[error("unknown codec {0}")]
    Codec(u8),
    #[error("unknown flags {0:#04x}")]
    Flags(u8),
}

/// The bytes to store for `record` under `key`.
pub(crate) fn seal(key: &[u8], codec: Codec, record: &Record) -> Vec<u8> {
    let [schema_high, schema_low] = record.schema.to_be_bytes();
    let head = [MAGIC, record.kind, schema_high, schema_low, codec as u8, NO_FLAGS];
    let mut bytes = Vec::with_capacity(HEADER_BYTES + record.payload.len());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&checksum(&head, key, &record.payload).to_be_bytes());
    bytes.extend_from_slice(&record.payload);
    bytes
}

/// The record in `bytes`, if it is whole, known and was stored under `key`.
pub(crate) fn unseal(key: &[u8], bytes: &[u8]) -> Result<Record, Flaw> {
    let Some((&[magic, kind, schema_high, schema_low, codec, flags, c0, c1, c2, c3], payload)) =
        bytes.split_first_chunk::<HEADER_BYTES>()
    else {
        return Err(Flaw::Short);
    };
    if magic != MAGIC {
        return Err(Flaw::Magic);
    }
    let head = [magic, kind, schema_high, schema_low, codec, flags];
    if checksum(&head, key, payload) != u32::from_be_bytes([c0, c1, c2, c3]) {
        return Err(Flaw::Checksum);
    }
    if codec != Codec::Raw as u8 && codec != Codec::Bincode as u8 {
        return Err(Flaw::Codec(codec));
    }
    if flags != NO_FLAGS {
        return Err(Flaw::Flags(flags));
    }
    Ok(Record { kind, schema: u16::from_be_bytes([schema_high, schema_low]), payload: payload.to_vec() })
}

fn checksum(head: &[u8], key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Written by hand: header, then CRC-32 of `4e 07 01 02 01 00` + `n/7` + `de ad be ef`.
    const GOLDEN: [u8; 14] =
        [0x4E, 0x07, 0x01, 0x02, 0x01, 0x00, 0x8D, 0x2D, 0xB1, 0x23, 0xDE, 0xAD, 0xBE, 0xEF];

    fn golden_record() -> Record {
        Record { kind: 7, schema: 0x0102, payload: vec![0xDE, 0xAD, 0xBE, 0xEF] }
    }

    #[test]
    fn the_golden_bytes_stay() {
        assert_eq!(seal(b"n/7", Codec::Bincode, &golden_record()), GOLDEN);
        assert_eq!(unseal(b"n/7", &GOLDEN), Ok(golden_record()));
    }

    #[test]
    fn a_record_under_another_key_is_found() {
        assert_eq!(unseal(b"n/8", &GOLDEN), Err(Flaw::Checksum));
    }

    /// A well-sealed record with other header fields than this version writes.
    fn sealed_with(codec: u8, flags: u8) -> Vec<u8> {
        let head = [MAGIC, 1, 0, 1, codec, flags];
        let crc = checksum(&head, b"k", b"v").to_be_bytes();
        [&head[..], &crc, b"v"].concat()
    }

    #[test]
    fn unknown_codecs_and_flags_are_refused() {
        assert!(unseal(b"k", &sealed_with(1, 0)).is_ok());
        assert_eq!(unseal(b"k", &sealed_with(9, 0)), Err(Flaw::Codec(9)));
        assert_eq!(unseal(b"k", &sealed_with(1, 2)), Err(Flaw::Flags(2)));
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_back(
            key in prop::collection::vec(any::<u8>(), 0..64),
            kind: u8,
            schema: u16,
            payload in prop::collection::vec(any::<u8>(), 0..512),
        ) {
            let record = Record { kind, schema, payload };
            prop_assert_eq!(unseal(&key, &seal(&key, Codec::Bincode, &record)), Ok(record));
        }

        #[test]
        fn a_flipped_bit_is_never_returned(
            payload in prop::collection::vec(any::<u8>(), 0..512),
            at: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let mut bytes = seal(b"d/1", Codec::Bincode, &Record { kind: 2, schema: 1, payload });
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(unseal(b"d/1", &bytes).is_err());
        }

        #[test]
        fn any_bytes_are_looked_at_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(unseal(b"k", &bytes).is_err());
        }

        #[test]
        fn a_cut_record_is_never_returned(
            payload in prop::collection::vec(any::<u8>(), 1..512),
            keep: prop::sample::Index,
        ) {
            let bytes = seal(b"d/1", Codec::Bincode, &Record { kind: 2, schema: 1, payload });
            prop_assert!(unseal(b"d/1", &bytes[..keep.index(bytes.len())]).is_err());
        }
    }
}
