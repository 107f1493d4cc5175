//! Names of container images, checked before anything is asked to pull them.

/// The longest name of an image, and of its tag, in bytes.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// Digests by their algorithm: how many hex digits they have.
const DIGESTS: [(&str, usize); 2] = [("sha256", 64), ("sha512", 128)];

/// Checks a reference of the form `[host[:port]/]path[:tag][@digest]`.
///
/// # Errors
/// One line that says what is wrong with it.
pub fn check(reference: &str) -> Result<(), String> {
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    let path_at = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest.get(path_at..).and_then(|last| last.split_once(':')) {
        Some((last, tag)) => (rest.get(..path_at + last.len()).unwrap_or_default(), Some(tag)),
        None => (rest, None),
    };
    let wrong = |what: &str| {
        let shown: String = reference.chars().filter(|c| !c.is_control()).take(80).collect();
        Err(format!("image \"{shown}\" {what}"))
    };
    if name.is_empty() {
        return wrong("has no name");
    }
    if name.len() > NAME_MAX {
        return wrong(&format!("is longer than {NAME_MAX} bytes"));
    }
    let path = match name.split_once('/') {
        Some((host, path)) if is_host(host) => path,
        _ => name,
    };
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return wrong("has capital letters; names of images have none");
    }
    if !path.split('/').all(is_part) {
        return wrong("is no name of an image, such as registry.example.com:5000/team/image:tag");
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return wrong("has no valid tag after the colon");
    }
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return wrong("has no valid digest after the @, such as sha256: and 64 hex digits");
    }
    Ok(())
}

/// Whether the first part of a name is a registry's address: it has a dot or a port, or is this machine.
fn is_host(part: &str) -> bool {
    let (host, port) = part.rsplit_once(':').map_or((part, None), |(host, port)| (host, Some(port)));
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    let is_v6 = host.starts_with('[') && host.ends_with(']');
    let is_name = host.bytes().all(legal) && host.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    (part == "localhost" || part.contains(['.', ':']))
        && (is_v6 || is_name)
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Small letters and digits, with single signs only between them.
fn is_part(part: &str) -> bool {
    let inner = |b: u8| matches!(b, b'.' | b'_' | b'-');
    let ends = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    ends(part.bytes().next())
        && ends(part.bytes().last())
        && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || inner(b))
        && !part.contains("..")
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    digest.split_once(':').is_some_and(|(algorithm, digits)| {
        hex(digits) && DIGESTS.iter().any(|(name, length)| *name == algorithm && digits.len() == *length)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_pull_is_taken() {
        let digest = "a".repeat(64);
        for good in [
            "vllm",
            "vllm/vllm-openai",
            "vllm/vllm-openai:v0.10.1_x",
            "ghcr.io/ggml-org/llama.cpp:server",
            "localhost:5000/nebtest",
            "localhost/a",
            "[::1]:5000/a/b__c:1",
            "Registry.example.com/team/image:1",
            &format!("a/b:1@sha256:{digest}"),
            &format!("a@sha256:{digest}"),
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn everything_else_is_refused_in_words() {
        for (bad, why) in [
            ("", "has no name"),
            (":1", "has no name"),
            ("a b", "no name of an image"),
            ("a\nb", "no name of an image"),
            ("/a", "no name of an image"),
            ("a/", "no name of an image"),
            ("a//b", "no name of an image"),
            ("-a", "no name of an image"),
            ("../a", "no name of an image"),
            ("https://ghcr.io/a", "no name of an image"),
            ("a:b:c", "valid tag"),
            ("Team/image", "capital letters"),
            ("a:", "valid tag"),
            ("a:-1", "valid tag"),
            ("a@sha256:12", "valid digest"),
            ("a@latest", "valid digest"),
            ("localhost:99999/a", "no name of an image"),
            (&"a".repeat(256), "longer than 255 bytes"),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.starts_with("image \"") && error.contains(why), "{bad:?}: {error}");
            assert!(!error.contains('\n'), "{bad:?}");
        }
    }
}
