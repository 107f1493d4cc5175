//! The path form `/d/<deployment>/…`.

/// What a path names and what the runtime gets of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Id or name of the deployment.
    pub(super) deployment: String,
    /// The rest, beginning with a slash, with the query.
    pub(super) rest: String,
}

/// Takes `/d/<deployment>` off a path with its query. None: the path has not that form. Percent signs in the
/// deployment's part are decoded, so that `org%2Fname` names `org/name`.
pub(super) fn named(path_and_query: &str) -> Option<Result<Named, NotText>> {
    let after = path_and_query.strip_prefix("/d/")?;
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let (deployment, rest) = after.split_at(end);
    if deployment.is_empty() {
        return None;
    }
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    Some(decode(deployment).map(|deployment| Named { deployment, rest }))
}

/// A part of a path that is no text once it is decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotText;

fn decode(part: &str) -> Result<String, NotText> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => (hex(*high)? * 16 + hex(*low)?, after),
            (b'%', _) => return Err(NotText),
            (byte, after) => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| NotText)
}

fn hex(digit: u8) -> Result<u8, NotText> {
    let value = char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    value.ok_or(NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Option<Result<(String, String), NotText>> {
        named(path).map(|result| result.map(|named| (named.deployment, named.rest)))
    }

    #[test]
    fn the_deployment_is_taken_off_the_path() {
        let ok = |deployment: &str, rest: &str| Some(Ok((deployment.to_owned(), rest.to_owned())));
        assert_eq!(parts("/d/demo/v1/models?x=1"), ok("demo", "/v1/models?x=1"));
        assert_eq!(parts("/d/org%2Fname/v1/a%20b"), ok("org/name", "/v1/a%20b"));
        assert_eq!(parts("/d/demo"), ok("demo", "/"));
        assert_eq!(parts("/d/demo?x"), ok("demo", "/?x"));
        assert_eq!(parts("/v1/models"), None);
        assert_eq!(parts("/d/"), None);
        assert_eq!(parts("/d//x"), None);
        for bad in ["/d/%", "/d/%4", "/d/%zz/x", "/d/%ff/x"] {
            assert_eq!(parts(bad), Some(Err(NotText)), "{bad}");
        }
    }
}
