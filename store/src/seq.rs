//! The number of the last write, which is part of every write.

use crate::{
    engine::{Engine, EngineError},
    envelope::{self, Codec, Flaw},
    record::{OWN_KINDS, Record},
};

pub(crate) const KEY: &[u8] = b"m/seq";
const KIND: u8 = OWN_KINDS + 2;
const RECORD_SCHEMA: u16 = 1;

/// The value under [`KEY`] for the number `seq`.
pub(crate) fn sealed(seq: u64) -> Vec<u8> {
    let payload = seq.to_be_bytes().to_vec();
    envelope::seal(KEY, Codec::Raw, &Record { kind: KIND, schema: RECORD_SCHEMA, payload })
}

/// The number in `engine`; nothing if there was no write.
pub(crate) fn read(engine: &impl Engine) -> Result<Option<u64>, EngineError> {
    let Some(bytes) = engine.get(KEY)? else { return Ok(None) };
    let record = envelope::unseal(KEY, &bytes);
    let number = record.and_then(|record| record.payload.try_into().map_err(|_| Flaw::Short));
    number
        .map(|number| Some(u64::from_be_bytes(number)))
        .map_err(|flaw| EngineError::other(format!("the number of the last write: {flaw}")))
}
