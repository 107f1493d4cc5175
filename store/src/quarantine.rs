//! Bad records: kept under `q/`, never returned, never lost.

use crate::{
    engine::{Engine, EngineError, Writes},
    envelope::{self, Codec, Flaw},
    record::{OWN_KINDS, Record},
};

const PREFIX: &[u8] = b"q/";
const KIND: u8 = OWN_KINDS + 1;
const RECORD_SCHEMA: u16 = 1;

/// More bad records than this in one run look like a bug in the program, which must not move good records away.
pub(crate) const MAX_SET_ASIDE: u64 = 100;

/// A record that did not check out.
pub(crate) struct Bad {
    pub(crate) key: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) flaw: Flaw,
}

/// How many bad records are kept.
pub(crate) fn count(engine: &impl Engine) -> Result<u64, EngineError> {
    Ok(u64::try_from(engine.scan(PREFIX)?.len()).unwrap_or(u64::MAX))
}

/// The writes that move `bad` under `q/<time in ms>/<key>` in one step, their bytes as they are.
pub(crate) fn moves(bad: Vec<Bad>, now_ms: u64) -> Writes {
    let mut writes = Writes::new();
    for Bad { key, bytes, flaw } in bad {
        tracing::error!(key = %key.escape_ascii(), reason = %flaw, "bad record set aside");
        let mut place = [PREFIX, format!("{now_ms:013}/").as_bytes()].concat();
        place.extend_from_slice(&key);
        let record = Record { kind: KIND, schema: RECORD_SCHEMA, payload: bytes };
        let value = envelope::seal(&place, Codec::Raw, &record);
        writes.insert(place, Some(value));
        writes.insert(key, None);
    }
    writes
}
