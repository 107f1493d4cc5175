//! What an operator reads when Caddy is not as it should be. Pure.

use crate::domain::edge::{EdgeError, Trouble};

use super::render::SERVER_ID;

/// Longest text of Caddy's that a message repeats, in characters.
const QUOTE_MAX: usize = 300;

/// The error for a server that is not ours and takes the port.
pub(crate) fn taken(server: &str, listen: &str) -> EdgeError {
    refused(why_taken(server, listen), free_the_port())
}

/// The same as a plain line.
pub(crate) fn why_taken(server: &str, listen: &str) -> String {
    format!("caddy's server \"{}\" already listens on {listen}", quote(server))
}

fn free_the_port() -> String {
    format!(
        "give --caddy-listen another port and proxy to it from that server, or put \"@id\": \"{SERVER_ID}\" on that \
         server to have the routes in it"
    )
}

/// There is a server of our name without our mark.
pub(crate) fn name_taken(server: &str) -> EdgeError {
    refused(
        format!("caddy has a server \"{server}\" that is not marked as nebula's"),
        format!("put \"@id\": \"{SERVER_ID}\" on it, or give it another name"),
    )
}

/// More than one server asks for the routes.
pub(crate) fn adopted_twice(one: &str, other: &str) -> EdgeError {
    refused(
        format!(
            "caddy's servers \"{}\" and \"{}\" both have \"@id\": \"{SERVER_ID}\"",
            quote(one),
            quote(other)
        ),
        "leave it on one of them",
    )
}

/// The server that asks for the routes has a name that no request can name.
pub(crate) fn unaddressable(server: &str) -> EdgeError {
    refused(
        format!("caddy's server \"{}\" has a name that its admin API cannot address", quote(server)),
        "give it a name of letters and digits",
    )
}

/// A write cannot be guarded.
pub(crate) fn no_etag(shown: &str) -> EdgeError {
    refused(
        format!("caddy at {shown} does not say which configuration it has (no ETag)"),
        "Caddy 2.6 or newer is needed, and no proxy on the way that drops HTTP trailers",
    )
}

/// Others change the configuration all the time.
pub(crate) fn overtaken(shown: &str, tries: u32) -> EdgeError {
    EdgeError {
        trouble: Trouble::Busy,
        message: format!(
            "caddy's configuration at {shown} was changed by somebody else {tries} times meanwhile"
        ),
        hint: "look for another program that writes nebula's server".to_owned(),
    }
}

/// It answers, but what is said is not what Caddy says.
pub(crate) fn nonsense(shown: &str, what: &str) -> EdgeError {
    unreachable(
        format!("{shown} answers, but not as caddy's admin API does: {what}"),
        "check --caddy-admin-url: it is Caddy's admin endpoint, not a site that it serves",
    )
}

/// It could not be reached, or did not answer to the end.
pub(crate) fn away(shown: &str, why: &str) -> EdgeError {
    unreachable(
        format!("caddy's admin API at {shown} cannot be reached: {why}"),
        "check that Caddy runs and that --caddy-admin-url is right",
    )
}

/// It answers a reading with an error of its own.
pub(crate) fn unread(shown: &str, status: u16, said: &str) -> EdgeError {
    if status == 401 || status == 403 {
        return unwelcome(shown, status, said);
    }
    unreachable(
        format!("caddy at {shown} does not give its configuration: {status} {}", quote(said)),
        "see the log of Caddy, or of what answers in its place",
    )
}

/// It did not answer a writing in time: the change may have been made.
pub(crate) fn unanswered(shown: &str, why: &str) -> EdgeError {
    EdgeError {
        trouble: Trouble::Busy,
        message: format!("caddy at {shown} was given a change and {why}"),
        hint: "see Caddy's log: it may take long to load its configuration".to_owned(),
    }
}

/// What became of a writing that Caddy answered with an error; none: it was overtaken by somebody else's.
pub(crate) fn unwritten(shown: &str, listen: &str, status: u16, said: &str) -> Option<EdgeError> {
    let gone = ["key already exists", "key does not exist", "invalid traversal path"];
    if status == 412 || gone.iter().any(|words| said.contains(words)) {
        return None;
    }
    if status == 401 || status == 403 {
        return Some(unwelcome(shown, status, said));
    }
    if let Some(server) =
        said.split_once("already claimed by server '").and_then(|(_, rest)| rest.split('\'').next())
    {
        return Some(taken(server, listen));
    }
    let said = quote(said);
    let error = if said.contains("listening on ") || said.contains(": bind: ") {
        refused(
            format!("caddy at {shown} cannot listen: {said}"),
            "free the port, let Caddy bind it, or give --caddy-listen another one; beside port 443 Caddy opens its \
             http_port, 80 unless that says otherwise",
        )
    } else if status < 500 || said.contains("loading new config") {
        refused(format!("caddy at {shown} refuses the change: {said}"), "see Caddy's log")
    } else {
        EdgeError {
            trouble: Trouble::Busy,
            message: format!("caddy at {shown} failed to make the change: {status} {said}"),
            hint: "see Caddy's log".to_owned(),
        }
    };
    Some(error)
}

fn unwelcome(shown: &str, status: u16, said: &str) -> EdgeError {
    refused(
        format!("caddy at {shown} does not let nebulad in: {status} {}", quote(said)),
        "name Caddy in --caddy-admin-url as its \"admin\" settings do (\"listen\", \"origins\"), without enforce_origin",
    )
}

fn refused(message: String, hint: impl Into<String>) -> EdgeError {
    EdgeError { trouble: Trouble::Refused, message, hint: hint.into() }
}

fn unreachable(message: String, hint: impl Into<String>) -> EdgeError {
    EdgeError { trouble: Trouble::Unreachable, message, hint: hint.into() }
}

/// Caddy's own words, or a name in its configuration: one line of bounded length.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted: String = text.trim().chars().filter(|c| !c.is_control()).take(QUOTE_MAX).collect();
    if text.trim().chars().count() > QUOTE_MAX {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "http://localhost:2019";

    #[test]
    fn what_caddy_says_to_a_change_is_understood() {
        let claimed = "loading new config: loading http app module: http: invalid configuration: server nebula: \
                       listener address repeated: tcp/:443 (already claimed by server 'srv0')";
        let bind = "loading new config: http app module: start: listening on 8.8.8.8:23081: listen tcp \
                    8.8.8.8:23081: bind: cannot assign requested address";
        let module = "loading new config: loading http app module: unknown module: http.handlers.zz";
        for (status, said, trouble, part) in [
            (500, claimed, Trouble::Refused, "caddy's server \"srv0\" already listens on :443"),
            (500, bind, Trouble::Refused, "cannot listen"),
            (500, module, Trouble::Refused, "unknown module"),
            (400, "something else", Trouble::Refused, "something else"),
            (
                403,
                "host not allowed: x",
                Trouble::Refused,
                "does not let nebulad in: 403 host not allowed: x",
            ),
            (500, "disk on fire", Trouble::Busy, "500 disk on fire"),
            (503, "", Trouble::Busy, "503"),
        ] {
            let error = unwritten(AT, ":443", status, said).expect(said);
            assert_eq!(error.trouble, trouble, "{said}");
            assert!(error.message.contains(part), "{}", error.message);
            assert!(!error.hint.is_empty(), "{said}");
        }
    }

    #[test]
    fn what_somebody_else_changed_is_looked_at_again() {
        for (status, said) in [
            (412, "If-Match header did not match current config hash"),
            (500, "[/config/apps/http/servers/nebula] key already exists: nebula"),
            (500, "[/config/apps/http/servers/a/routes] key does not exist: routes"),
            (404, "invalid traversal path at: config/apps/http/servers/a/routes"),
        ] {
            assert_eq!(unwritten(AT, ":443", status, said), None, "{said}");
        }
    }

    #[test]
    fn messages_are_one_line_of_bounded_length() {
        let error = unread(AT, 500, &format!("a\nb\r{}", "x".repeat(5_000)));
        assert!(error.message.len() < 500 && !error.message.contains(['\n', '\r']), "{}", error.message);
        assert_eq!(unread(AT, 403, "no").trouble, Trouble::Refused);
    }
}
