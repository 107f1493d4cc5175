//! Reads, and what becomes of records that are no good.

use std::sync::atomic::Ordering::Relaxed;

use nebula_core::clock::wall_now;

use super::{
    Writer,
    group::{Read, Records},
};
use crate::{
    engine::{EngineError, Entries, Exports},
    envelope,
    quarantine::{self, Bad, Unreadable},
};

impl<E: Exports> Writer<E> {
    /// Answers one read. After an error its reply is dropped, which says `Failed`.
    pub(super) fn answer(&mut self, read: Read) -> Result<(), EngineError> {
        // Whoever dropped the future does not want to know.
        match read {
            Read::Get { key, reply } => {
                let value = self.engine()?.get(&key)?;
                let found = value.map(|value| (key, value)).into_iter().collect();
                let record = self.sort_out(found)?.into_iter().next().map(|(_, record)| record);
                drop(reply.send(Ok(record)));
            }
            Read::Scan { prefix, reply } => {
                let found = self.engine()?.scan(&prefix)?;
                drop(reply.send(Ok(self.sort_out(found)?)));
            }
            Read::ListSetAside { reply } => drop(reply.send(Ok(quarantine::list(self.engine()?)?))),
            Read::SetAside { records, reply } => {
                let bad = self.still_there(records)?;
                drop(reply.send(Ok(self.set_aside(bad)?)));
            }
        }
        Ok(())
    }

    /// Of records that somebody could not read, those that nobody has replaced since.
    fn still_there(&mut self, records: Vec<Unreadable>) -> Result<Vec<Bad>, EngineError> {
        let engine = self.engine()?;
        let mut bad = Vec::with_capacity(records.len());
        for Unreadable { key, record, reason } in records {
            let stored = engine.get(&key)?;
            let same = |bytes: &Vec<u8>| envelope::unseal(&key, bytes).is_ok_and(|stored| stored == record);
            if let Some(bytes) = stored.filter(same) {
                bad.push(Bad { key, bytes, reason });
            }
        }
        Ok(bad)
    }

    /// The good records among `found`; the bad ones are set aside first.
    fn sort_out(&mut self, found: Entries) -> Result<Records, EngineError> {
        let mut good = Vec::with_capacity(found.len());
        let mut bad = Vec::new();
        for (key, bytes) in found {
            match envelope::unseal(&key, &bytes) {
                Ok(record) => good.push((key, record)),
                Err(flaw) => bad.push(Bad { key, bytes, reason: flaw.to_string() }),
            }
        }
        self.set_aside(bad)?;
        Ok(good)
    }

    /// Sets records aside, durably, and returns how many.
    fn set_aside(&mut self, bad: Vec<Bad>) -> Result<u64, EngineError> {
        let count = u64::try_from(bad.len()).unwrap_or(u64::MAX);
        if count == 0 {
            return Ok(0);
        }
        let before = self.set_aside;
        let engine = self.engine()?;
        let total = quarantine::admit(engine, before, count)?;
        let writes = quarantine::moves(engine, bad, wall_now())?;
        engine.apply(writes)?;
        engine.sync()?;
        self.set_aside = total;
        self.shared.set_aside.fetch_add(count, Relaxed);
        Ok(count)
    }
}
