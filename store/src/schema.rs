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
    let unreadable = |error: EngineError| OpenError::engine(dir, error);
    let Some(bytes) = engine.get(KEY).map_err(unreadable)? else {
        if !engine.scan(b"").map_err(unreadable)?.is_empty() {
            return Err(damaged("it has records but no format version".to_owned()));
        }
        let (key, value) = entry().map_err(|error| damaged(error.to_string()))?;
        engine.apply([(key, Some(value))].into()).map_err(unreadable)?;
        return engine.sync().map_err(unreadable);
    };
    match decoded(&bytes).map_err(damaged)? {
        SCHEMA => Ok(()),
        0 => Err(damaged("its format version is 0".to_owned())),
        found => Err(OpenError::NewerSchema { path: dir.to_owned(), found, known: SCHEMA }),
    }
}

/// Refuses a store of a newer version, and nothing else: what cannot be read is left to those who mend it.
pub(crate) fn refuse_newer(engine: &impl Engine, dir: &Path) -> Result<(), OpenError> {
    let bytes = engine.get(KEY).ok().flatten();
    match bytes.and_then(|bytes| decoded(&bytes).ok()) {
        Some(found) if found > SCHEMA => {
            Err(OpenError::NewerSchema { path: dir.to_owned(), found, known: SCHEMA })
        }
        _ => Ok(()),
    }
}

/// The record that tells this version, as it is stored.
pub(crate) fn entry() -> Result<(Vec<u8>, Vec<u8>), codec::CodecError> {
    let record = Record { kind: KIND, schema: RECORD_SCHEMA, payload: codec::encode(&SCHEMA)? };
    Ok((KEY.to_vec(), envelope::seal(KEY, Codec::Bincode, &record)))
}

fn decoded(bytes: &[u8]) -> Result<u16, String> {
    let record = envelope::unseal(KEY, bytes).map_err(|flaw| format!("its format version: {flaw}"))?;
    codec::decode(&record.payload).map_err(|error| error.to_string())
}
