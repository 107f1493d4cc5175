//! The version of everything on disk, in the record `m/schema`.

use std::path::Path;

use crate::{
    codec,
    engine::{Engine, EngineError},
    envelope::{self, Codec},
    error::OpenError,
    record::{OWN_KINDS, Record},
};

/// What this version writes and the newest it reads.
pub(crate) const SCHEMA: u16 = 1;

const KEY: &[u8] = b"m/schema";
const KIND: u8 = OWN_KINDS;
const RECORD_SCHEMA: u16 = 1;

/// Writes the version into an empty store, and refuses a store of a newer one.
pub(crate) fn check(engine: &mut impl Engine, dir: &Path) -> Result<(), OpenError> {
    let damaged = |reason: String| OpenError::Damaged { path: dir.to_owned(), reason };
    let unreadable = |error: EngineError| damaged(error.to_string());
    let Some(bytes) = engine.get(KEY).map_err(unreadable)? else {
        if !engine.scan(b"").map_err(unreadable)?.is_empty() {
            return Err(damaged("it has records but no format version".to_owned()));
        }
        let value = sealed(SCHEMA).map_err(|error| damaged(error.to_string()))?;
        engine.apply([(KEY.to_vec(), Some(value))].into()).map_err(unreadable)?;
        return engine.sync().map_err(unreadable);
    };
    let record =
        envelope::unseal(KEY, &bytes).map_err(|flaw| damaged(format!("its format version: {flaw}")))?;
    let found: u16 = codec::decode(&record.payload).map_err(|error| damaged(error.to_string()))?;
    match found {
        SCHEMA => Ok(()),
        0 => Err(damaged("its format version is 0".to_owned())),
        found => Err(OpenError::NewerSchema { path: dir.to_owned(), found, known: SCHEMA }),
    }
}

fn sealed(schema: u16) -> Result<Vec<u8>, codec::CodecError> {
    let record = Record { kind: KIND, schema: RECORD_SCHEMA, payload: codec::encode(&schema)? };
    Ok(envelope::seal(KEY, Codec::Bincode, &record))
}
