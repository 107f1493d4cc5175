//! How full the disk is, and what that allows.

use std::{io, path::Path, time::Duration};

use nebula_core::clock::Tick;

use crate::{ballast::Ballast, batch::Purpose};

/// The free space is asked for no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const MIB: u64 = 1024 * 1024;
/// Below so many bytes, or so many percent of the volume, space is low.
const LOW: (u64, u64) = (2048 * MIB, 20);
/// Below so many bytes and so many percent nothing new may be begun.
const SCARCE: (u64, u64) = (512 * MIB, 5);
/// Below so many bytes and so many percent only what frees space is taken.
const FULL: (u64, u64) = (128 * MIB, 2);

/// How much space is left on the volume of the data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskLevel {
    /// Enough.
    #[default]
    Ample,
    /// Less than 2 GiB or 20 %: somebody should look after it.
    Low,
    /// Less than 512 MiB and 5 %: growing batches are refused.
    Scarce,
    /// Less than 128 MiB and 2 %: only freeing batches are taken, and the reserve is given back.
    Full,
}

impl DiskLevel {
    /// The level in one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ample => "ample",
            Self::Low => "low",
            Self::Scarce => "scarce",
            Self::Full => "full",
        }
    }
}

/// What is known of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStatus {
    /// What the free space allows.
    pub level: DiskLevel,
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// The size of the volume in bytes.
    pub total_bytes: u64,
    /// Bytes kept in reserve.
    pub ballast_bytes: u64,
}

/// The space of a volume in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// Asks for the space of a volume.
pub(crate) type Probe = Box<dyn FnMut() -> io::Result<Space> + Send>;

/// The space of the volume that `dir` is on.
pub(crate) fn space_of(dir: &Path) -> io::Result<Space> {
    let volume = rustix::fs::statvfs(dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
    Ok(Space { free: bytes(volume.f_bavail), total: bytes(volume.f_blocks) })
}

/// The level of a volume of which `missing` bytes should be in reserve and are not: what the reserve gave back is for
/// freeing batches, so it does not count as free.
fn level(space: Space, missing: u64) -> DiskLevel {
    let free = space.free.saturating_sub(missing);
    let percent = |percent: u64| space.total / 100 * percent;
    if space.total == 0 {
        // Some file systems do not tell.
        DiskLevel::Ample
    } else if free < FULL.0.min(percent(FULL.1)) {
        DiskLevel::Full
    } else if free < SCARCE.0.min(percent(SCARCE.1)) {
        DiskLevel::Scarce
    } else if free < LOW.0.max(percent(LOW.1)) {
        DiskLevel::Low
    } else {
        DiskLevel::Ample
    }
}

/// Watches the space and keeps the reserve.
pub(crate) struct Disk {
    probe: Probe,
    ballast: Ballast,
    status: DiskStatus,
    look_at: Tick,
    blind: bool,
}

impl Disk {
    /// Watches by `probe`.
    pub(crate) fn new(probe: Probe, ballast: Ballast) -> Self {
        Self { probe, ballast, status: DiskStatus::default(), look_at: Tick(0), blind: false }
    }

    pub(crate) fn status(&self) -> DiskStatus {
        DiskStatus { ballast_bytes: self.ballast.held(), ..self.status }
    }

    /// Whether a batch for this purpose may be committed.
    pub(crate) fn allows(&self, purpose: Purpose) -> bool {
        match self.status.level {
            DiskLevel::Ample | DiskLevel::Low => true,
            DiskLevel::Scarce => purpose != Purpose::Growing,
            DiskLevel::Full => purpose == Purpose::Freeing,
        }
    }

    /// Looks at the space, unless somebody did so a moment ago, and gives the reserve back or makes it again.
    pub(crate) fn look(&mut self, now: Tick) {
        if now < self.look_at {
            return;
        }
        self.look_at = now.plus(LOOK_EVERY);
        let space = match (self.probe)() {
            Ok(space) => space,
            Err(error) => {
                if !self.blind {
                    tracing::warn!(%error, "free space of the disk not known");
                }
                self.blind = true;
                return;
            }
        };
        self.blind = false;
        let before = self.status.level;
        let level = level(space, self.ballast.missing());
        self.status.level = level;
        self.status.free_bytes = space.free;
        self.status.total_bytes = space.total;
        self.tell(before);
        match level {
            DiskLevel::Full => drop(self.ballast.release()),
            DiskLevel::Scarce => {}
            DiskLevel::Low | DiskLevel::Ample => self.ballast.make(),
        }
    }

    /// A write found no space: whatever the volume says, it is full now.
    pub(crate) fn found_full(&mut self, now: Tick) {
        let before = self.status.level;
        self.status.level = DiskLevel::Full;
        self.tell(before);
        self.ballast.release();
        self.look_at = now.plus(LOOK_EVERY);
    }

    fn tell(&self, before: DiskLevel) {
        let DiskStatus { level, free_bytes, total_bytes, .. } = self.status;
        if level == before {
            return;
        }
        let what = level.as_str();
        if level > before {
            tracing::warn!(space = what, free_bytes, total_bytes, "disk of the data directory fills up");
        } else {
            tracing::info!(
                space = what,
                free_bytes,
                total_bytes,
                "disk of the data directory has space again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    use super::*;

    const GIB: u64 = 1024 * MIB;

    #[test]
    fn levels_of_large_and_small_volumes() {
        use DiskLevel::{Ample, Full, Low, Scarce};
        for (free, total, missing, expected) in [
            (900 * GIB, 1000 * GIB, 0, Ample),
            (200 * GIB, 1000 * GIB, 0, Ample),
            (199 * GIB, 1000 * GIB, 0, Low),
            (512 * MIB, 1000 * GIB, 0, Low),
            (511 * MIB, 1000 * GIB, 0, Scarce),
            (128 * MIB, 1000 * GIB, 0, Scarce),
            (127 * MIB, 1000 * GIB, 0, Full),
            // Space that the reserve gave back does not count.
            (128 * MIB, 1000 * GIB, 64 * MIB, Full),
            (192 * MIB, 1000 * GIB, 64 * MIB, Scarce),
            // A small volume is always low, and its other levels are percents.
            (4000, 4000, 0, Low),
            (200, 4000, 0, Low),
            (199, 4000, 0, Scarce),
            (80, 4000, 0, Scarce),
            (79, 4000, 0, Full),
            (0, 0, 0, Ample),
        ] {
            assert_eq!(level(Space { free, total }, missing), expected, "{free} of {total} less {missing}");
        }
    }

    #[test]
    fn what_each_level_allows() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk =
            Disk::new(Box::new(|| Err(io::ErrorKind::Other.into())), Ballast::find(dir.path(), 0, 0));
        for (level, allowed) in [
            (DiskLevel::Ample, [true, true, true]),
            (DiskLevel::Low, [true, true, true]),
            (DiskLevel::Scarce, [false, true, true]),
            (DiskLevel::Full, [false, false, true]),
        ] {
            disk.status.level = level;
            let purposes = [Purpose::Growing, Purpose::Keeping, Purpose::Freeing];
            assert_eq!(purposes.map(|purpose| disk.allows(purpose)), allowed, "{level:?}");
        }
    }

    #[test]
    fn the_reserve_is_given_back_when_full_and_made_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(500 * GIB));
        let probe = {
            let free = free.clone();
            Box::new(move || Ok(Space { free: free.load(Relaxed), total: 1000 * GIB }))
        };
        let mut disk = Disk::new(probe, Ballast::find(dir.path(), 4096, 1000 * GIB));
        let mut look = |at: u64, bytes: u64| {
            free.store(bytes, Relaxed);
            disk.look(Tick(at));
            (disk.status().level, disk.status().ballast_bytes)
        };
        assert_eq!(look(0, 500 * GIB), (DiskLevel::Ample, 4096));
        assert_eq!(look(999, 0), (DiskLevel::Ample, 4096), "not looked at twice in a second");
        assert_eq!(look(1000, 300 * MIB), (DiskLevel::Scarce, 4096));
        assert_eq!(look(2000, 128 * MIB - 1), (DiskLevel::Full, 0));
        assert_eq!(look(3000, 128 * MIB), (DiskLevel::Full, 0), "the reserve's space is not free");
        assert_eq!(look(4000, 400 * MIB), (DiskLevel::Scarce, 0));
        assert_eq!(look(5000, 5 * GIB), (DiskLevel::Low, 4096));
    }

    #[test]
    fn a_write_that_found_no_space_is_believed_until_the_next_look() {
        let dir = tempfile::tempdir().unwrap();
        let probe = Box::new(|| Ok(Space { free: 500 * GIB, total: 1000 * GIB }));
        let mut disk = Disk::new(probe, Ballast::find(dir.path(), 4096, 1000 * GIB));
        disk.look(Tick(0));
        disk.found_full(Tick(100));
        assert_eq!((disk.status().level, disk.status().ballast_bytes), (DiskLevel::Full, 0));
        disk.look(Tick(1099));
        assert_eq!(disk.status().level, DiskLevel::Full);
        disk.look(Tick(1100));
        assert_eq!((disk.status().level, disk.status().ballast_bytes), (DiskLevel::Ample, 4096));
    }

    #[test]
    fn a_real_volume_has_a_size() {
        let space = space_of(&std::env::temp_dir()).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        assert!(space_of(Path::new("/no/such/directory")).is_err());
    }
}
