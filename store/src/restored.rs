//! The record `m/restored`: the store may lack acknowledged writes, until an operator accepts that.

use nebula_core::clock::WallTime;

use crate::{
    codec::{self, CodecError},
    engine::{Engine, EngineError},
    envelope::{self, Codec},
    info::{RESTORED_KEY, Restored},
    record::{OWN_KINDS, Record},
};

const KIND: u8 = OWN_KINDS + 3;
const RECORD_SCHEMA: u16 = 1;

/// The payload: `at`, `export`, `export_at`, `why`, times in milliseconds since 1970.
type Stored = (u64, Option<String>, Option<u64>, String);

/// The value under [`RESTORED_KEY`].
pub(crate) fn sealed(restored: &Restored) -> Result<Vec<u8>, CodecError> {
    let Restored { at, export, export_at, why } = restored;
    let stored: Stored = (at.0, export.clone(), export_at.map(|at| at.0), why.clone());
    let record = Record { kind: KIND, schema: RECORD_SCHEMA, payload: codec::encode(&stored)? };
    Ok(envelope::seal(RESTORED_KEY, Codec::Bincode, &record))
}

/// What `engine` says; nothing if it lacks nothing or that was accepted. A record that cannot be read still says that
/// it was not accepted.
pub(crate) fn read(engine: &impl Engine) -> Result<Option<Restored>, EngineError> {
    let Some(bytes) = engine.get(RESTORED_KEY)? else { return Ok(None) };
    let stored = envelope::unseal(RESTORED_KEY, &bytes).ok();
    let stored = stored.and_then(|record| codec::decode::<Stored>(&record.payload).ok());
    let unreadable = || (0, None, None, "its record cannot be read".to_owned());
    let (at, export, export_at, why) = stored.unwrap_or_else(unreadable);
    Ok(Some(Restored { at: WallTime(at), export, export_at: export_at.map(WallTime), why }))
}
