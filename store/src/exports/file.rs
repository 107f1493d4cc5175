//! The bytes of an export:
//! `magic | format u16be | schema u16be | number of the last write u64be | ms since 1970 u64be`, the entries,
//! `0xFFFFFFFF | count u64be`, and the SHA-256 of all before it.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nebula_core::{
    clock::WallTime,
    exit::{Exit, Fatal},
};
use sha2::{Digest, Sha256};

use crate::{
    engine::{EngineError, Entries},
    entry, envelope,
    info::ExportInfo,
    schema::SCHEMA,
    seq,
};

const MAGIC: [u8; 8] = *b"NbExport";
const FORMAT: u16 = 1;
const HEADER: usize = 28;
const END: [u8; 4] = [0xFF; 4];
const HASH: usize = 32;
/// The end mark, the count and the hash.
const TRAILER: usize = 12 + HASH;

/// Why a file is no good export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file cannot be read.
    #[error("export {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is no export, is not whole, or was changed.
    #[error("export {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A newer version of the program wrote it.
    #[error("export {} has format {found}, this version knows format {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u16,
        /// The newest format this version knows.
        known: u16,
    },
}

impl From<ExportError> for Fatal {
    fn from(error: ExportError) -> Self {
        let message = error.to_string();
        match error {
            ExportError::Unreadable { .. } => {
                Self::new(Exit::DataDir, message).hint("check the path, and that this user may read the file")
            }
            ExportError::Damaged { .. } => {
                Self::new(Exit::Disk, message).hint("nothing was changed; take another export")
            }
            ExportError::Newer { .. } => {
                Self::new(Exit::DataDir, message).hint("use the newer version of the program")
            }
        }
    }
}

/// Writes all entries that `show` shows to `path`, which must not be there yet; durable only after [`File::sync_all`] on the file
/// that is returned. The number of the last write is told in the header and is no entry.
pub(crate) fn write(
    show: impl FnOnce(&mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError>,
    number: u64,
    at: WallTime,
    path: &Path,
) -> Result<(File, ExportInfo), EngineError> {
    let failed = |error: io::Error| EngineError::io("export", &error);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let mut writer = Hashing { file: BufWriter::new(file), hash: Sha256::new(), bytes: 0 };
    let mut outcome = writer.put(&header(number, at));
    let mut records = 0_u64;
    let mut buffer = Vec::new();
    show(&mut |key, value| {
        if key != seq::KEY && outcome.is_ok() {
            buffer.clear();
            entry::put(&mut buffer, key, Some(value));
            outcome = writer.put(&buffer);
            records += 1;
        }
    })?;
    outcome
        .and_then(|()| writer.put(&END))
        .and_then(|()| writer.put(&records.to_be_bytes()))
        .and_then(|()| writer.end())
        .map(|(file, bytes)| {
            let path = path.to_owned();
            (file, ExportInfo { path, at, schema: SCHEMA, seq: number, records, bytes, took_ms: 0 })
        })
        .map_err(failed)
}

fn header(number: u64, at: WallTime) -> Vec<u8> {
    let parts: [&[u8]; 5] =
        [&MAGIC, &FORMAT.to_be_bytes(), &SCHEMA.to_be_bytes(), &number.to_be_bytes(), &at.0.to_be_bytes()];
    parts.concat()
}

/// A file and the hash of what was written to it.
struct Hashing {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Hashing {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.file.write_all(bytes)
    }

    /// The file, complete and handed to the operating system, and its size.
    fn end(mut self) -> io::Result<(File, u64)> {
        let hash: [u8; HASH] = self.hash.finalize().into();
        self.file.write_all(&hash)?;
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((file, self.bytes.saturating_add(HASH as u64)))
    }
}

/// Reads and checks the export at `path`: what it tells of itself, and all its entries.
pub(crate) fn read(path: &Path) -> Result<(ExportInfo, Entries), ExportError> {
    let bytes =
        std::fs::read(path).map_err(|source| ExportError::Unreadable { path: path.to_owned(), source })?;
    let damaged = |reason: &str| ExportError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let Some(info) = described(path, &bytes) else { return Err(damaged("it is no export")) };
    let whole = bytes.split_last_chunk::<HASH>().is_some_and(|(body, hash)| {
        let found: [u8; HASH] = Sha256::digest(body).into();
        found == *hash
    });
    // The hash before the version: a flipped bit must not look like a newer format.
    if !whole {
        return Err(damaged("its checksum does not match"));
    }
    let format = bytes.get(8..10).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
    for (found, known) in [(format, FORMAT), (info.schema, SCHEMA)] {
        if found > known {
            return Err(ExportError::Newer { path: path.to_owned(), found, known });
        }
    }
    let mut rest = bytes.get(HEADER..bytes.len().saturating_sub(TRAILER)).unwrap_or_default();
    let mut entries = Entries::new();
    while !rest.is_empty() {
        let Some((key, Some(value))) = entry::take(&mut rest) else {
            return Err(damaged("an entry makes no sense"));
        };
        entries.push((key.to_owned(), value.to_owned()));
    }
    let counted = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    if counted != info.records {
        return Err(damaged(&format!("it has {counted} records, but says {}", info.records)));
    }
    Ok((info, entries))
}

/// The same, with a look at each record: one that is bad makes the export a damaged one.
pub(crate) fn checked(path: &Path) -> Result<(ExportInfo, Entries), ExportError> {
    let (info, entries) = read(path)?;
    for (key, value) in &entries {
        envelope::unseal(key, value).map_err(|flaw| ExportError::Damaged {
            path: path.to_owned(),
            reason: format!("record {}: {flaw}", key.escape_ascii()),
        })?;
    }
    Ok((info, entries))
}

/// Checks the export at `path` and each record in it; changes nothing.
///
/// # Errors
/// See [`ExportError`]; also if a record in it is bad.
pub fn verify_export(path: &Path) -> Result<ExportInfo, ExportError> {
    checked(path).map(|(info, _)| info)
}

/// What the export at `path` tells of itself, from its first and last bytes only.
pub(crate) fn peek(path: &Path) -> Option<ExportInfo> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let mut ends = [0; HEADER + TRAILER];
    let (head, tail) = ends.split_at_mut(HEADER);
    file.read_exact(head).ok()?;
    file.seek(SeekFrom::Start(size.checked_sub(TRAILER as u64)?)).ok()?;
    file.read_exact(tail).ok()?;
    let mut info = described(path, &ends)?;
    info.bytes = size;
    Some(info)
}

/// What `bytes`, an export's or the first and last of them, tell; nothing if they cannot be those of an export.
fn described(path: &Path, bytes: &[u8]) -> Option<ExportInfo> {
    let (&[magic @ .., _, _, s0, s1, n0, n1, n2, n3, n4, n5, n6, n7, a0, a1, a2, a3, a4, a5, a6, a7], rest) =
        bytes.split_first_chunk::<HEADER>()?;
    let (_, trailer) = rest.split_last_chunk::<TRAILER>()?;
    let (end, trailer) = trailer.split_first_chunk::<4>()?;
    let count = trailer.first_chunk::<8>()?;
    if magic != MAGIC || *end != END {
        return None;
    }
    Some(ExportInfo {
        path: path.to_owned(),
        at: WallTime(u64::from_be_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
        schema: u16::from_be_bytes([s0, s1]),
        seq: u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
        records: u64::from_be_bytes(*count),
        bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        took_ms: 0,
    })
}
