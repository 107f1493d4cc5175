//! Which file systems are trusted with what must not be lost.

use std::path::Path;

use crate::error::OpenError;

/// What a kind of file system is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// A sync is what it promises to be.
    Full,
    /// It keeps its promises but not for long, or in a way of its own.
    Remark(&'static str),
    /// A sync promises too little, or locks do.
    None(&'static str),
}

/// By `f_type` of `statfs(2)`, its lower 32 bits.
fn trust(kind: u32) -> Trust {
    match kind {
        0x6969 => Trust::None("NFS"),
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => Trust::None("SMB"),
        0x6573_5546 => Trust::None("FUSE"),
        0x0102_1997 => Trust::None("9p"),
        0x794C_7630 => Trust::Remark("overlayfs: it goes when its container goes"),
        0x0102_1994 => Trust::Remark("tmpfs: it goes when the machine stops"),
        _ => Trust::Full,
    }
}

/// Refuses a file system that may lose what it said was written, unless any is allowed.
pub(crate) fn check(dir: &Path, allow_any: bool) -> Result<(), OpenError> {
    let found = rustix::fs::statfs(dir).map_err(|error| OpenError::io(dir, error.into()))?;
    // The type of this field differs between targets; the numbers have 32 bits on all of them.
    let kind = u32::try_from(found.f_type & 0xFFFF_FFFF).unwrap_or_default();
    judge(dir, trust(kind), allow_any)
}

fn judge(dir: &Path, trust: Trust, allow_any: bool) -> Result<(), OpenError> {
    match trust {
        Trust::Full => {}
        Trust::Remark(what) => tracing::info!(path = %dir.display(), "data directory is on {what}"),
        Trust::None(kind) if allow_any => {
            tracing::warn!(path = %dir.display(), kind, "file system may lose what was acknowledged");
        }
        Trust::None(kind) => return Err(OpenError::Filesystem { path: dir.to_owned(), kind }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nebula_core::exit::{Exit, Fatal};

    use super::*;

    #[test]
    fn kinds_by_their_numbers() {
        for kind in [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x6573_5546, 0x0102_1997] {
            assert!(matches!(trust(kind), Trust::None(_)), "{kind:#x}");
        }
        for kind in [0x794C_7630, 0x0102_1994] {
            assert!(matches!(trust(kind), Trust::Remark(_)), "{kind:#x}");
        }
        // ext4, xfs, btrfs, zfs.
        for kind in [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1] {
            assert_eq!(trust(kind), Trust::Full, "{kind:#x}");
        }
    }

    #[test]
    fn what_is_not_trusted_is_refused_unless_allowed() {
        let dir = Path::new("/data");
        assert!(judge(dir, Trust::None("NFS"), true).is_ok());
        assert!(judge(dir, Trust::Remark("tmpfs"), false).is_ok());
        let fatal = Fatal::from(judge(dir, Trust::None("NFS"), false).unwrap_err());
        assert_eq!(fatal.exit, Exit::DataDir);
        assert_eq!(fatal.message, "data directory /data is on NFS, which may lose what was acknowledged");
        assert!(fatal.hint.unwrap().contains("--allow-any-filesystem"));
    }

    #[test]
    fn a_local_directory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path(), false).is_ok());
        assert!(check(&dir.path().join("missing"), false).is_err());
    }
}
