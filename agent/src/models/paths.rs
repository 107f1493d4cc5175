//! Names that come from outside and become paths here.

use std::path::PathBuf;

use super::error::{Kind, ModelError};

/// The longest name, in bytes.
const NAME_MAX: usize = 1_024;
/// The longest part of it that file systems take.
const PART_MAX: usize = 255;

/// A path below some directory and never outside it.
///
/// # Errors
/// When the name is absolute, leads upwards, or has empty parts or characters that no file of a model has.
pub(super) fn below(name: &str) -> Result<PathBuf, ModelError> {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= PART_MAX;
    let is_fine = name.len() <= NAME_MAX
        && !name.contains(|c: char| c.is_control() || c == '\\')
        && name.split('/').all(is_plain);
    if is_fine {
        return Ok(PathBuf::from(name));
    }
    let shown: String = name.chars().take(100).flat_map(char::escape_default).collect();
    Err(ModelError::new(Kind::Invalid, format!("the file name \"{shown}\" leads outside of the model")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_are_kept() {
        for name in ["config.json", "a/b/c.safetensors", ".gitattributes", "..a/b..", "ü/模型.gguf"] {
            assert_eq!(below(name).expect(name), PathBuf::from(name));
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(256);
        for name in
            ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", "a\\b", "a\nb", "a\0b", &long]
        {
            let error = below(name).expect_err(name);
            assert_eq!(error.kind, Kind::Invalid, "{name:?}");
            assert!(!error.message().contains(|c: char| c.is_control()), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_directory(name in "[./a\\\\\n]{0,12}") {
            if let Ok(path) = below(&name) {
                let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
                prop_assert!(plain, "{path:?}");
            }
        }
    }
}
