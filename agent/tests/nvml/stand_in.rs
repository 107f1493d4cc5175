//! The stand-in for NVIDIA's management library, for tests: `stand_in.c` says what it can do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The stand-in, in a directory of its own.
pub(crate) struct StandIn {
    dir: tempfile::TempDir,
}

impl StandIn {
    /// Compiles it, with the compiler that Rust links with. Its GPUs are well.
    pub(crate) fn new() -> Self {
        let stand_in = Self { dir: tempfile::tempdir().expect("a directory") };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvml/stand_in.c");
        let compiling =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(stand_in.path()).arg(source).output();
        let compiled = compiling.expect("cc runs");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        stand_in
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    /// Says what its GPUs do from now on: one command a line, in place of all before.
    pub(crate) fn control(&self, commands: &str) {
        let next = self.dir.path().join("next");
        fs::write(&next, commands).expect("written");
        fs::rename(next, self.dir.path().join("libnvidia-ml.so.1.control")).expect("renamed");
    }
}
