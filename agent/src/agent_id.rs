//! The name under which this agent marks what it makes outside of its directory: containers. It stays the same for a
//! data directory, so that two agents on one machine never take up each other's containers.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

const FILE: &str = "agent.id";

/// The id that is kept in the data directory; made when there is none, or none that can be read.
///
/// # Errors
/// When it can neither be read nor made.
pub(crate) fn keep(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) if is_id(text.trim()) => return Ok(text.trim().to_owned()),
        Ok(_) => tracing::warn!(path = %path.display(), "the agent's id is damaged and made anew"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(path = %path.display(), "the agent's id is damaged and made anew");
        }
        Err(error) => return Err(error),
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    let making = data_dir.join(format!("{FILE}.new"));
    let mut file = fs::File::create(&making)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&making, &path)?;
    fs::File::open(data_dir)?.sync_all()?;
    Ok(id)
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_and_is_made_anew_only_when_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = keep(dir.path()).expect("made");
        assert_eq!(keep(dir.path()).expect("read"), first);
        for damage in [&b"short\n"[..], b"", b"\xff\xfe"] {
            fs::write(dir.path().join(FILE), damage).expect("writes");
            let second = keep(dir.path()).expect("made anew");
            assert_ne!(second, first);
            assert_eq!(keep(dir.path()).expect("read"), second);
        }
    }
}
