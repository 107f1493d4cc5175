//! What goes wrong with Route 53, in words, and what to do about it.

use super::diff::brief;
use crate::domain::edge::{EdgeError, Trouble};

/// What was asked of Route 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Records were to be listed.
    Listing,
    /// Records were to be changed.
    Changing,
}

/// What came instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// An error in Route 53's own form.
    Code { status: u16, code: String, text: String },
    /// An HTTP answer that is not in Route 53's form.
    Nonsense { status: u16 },
    /// Nothing in time.
    Timeout,
    /// The connection failed.
    Connection { text: String },
    /// There are no credentials, or they could not be had.
    Credentials { text: String },
    /// The request could not even be made.
    Unmade { text: String },
}

const NO_CREDENTIALS: &str = "give --route53-access-key-id and --route53-secret-access-key (or their environment \
variables), or credentials in the standard AWS chain: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in \
~/.aws, a web identity, or the role of the container or instance";
const KEYS: &str = "check the access key and the secret key";
const CLOCK: &str = "check the secret key and this machine's clock: a signature is good for five minutes";
const EXPIRED: &str = "renew the credentials, and check this machine's clock";
const POLICY: &str = "allow route53:ListResourceRecordSets and route53:ChangeResourceRecordSets on the zone to \
these credentials";
const ZONE: &str =
    "check --route53-hosted-zone-id, and that the zone belongs to the account of these credentials";
const DOMAIN: &str = "--gateway-domain must be the domain of the hosted zone or below it";
const QUOTA: &str = "ask AWS for more records in the zone, or use --route53-wildcard";
const NETWORK: &str = "check the network and --route53-endpoint-url";

impl Failure {
    /// Whether it is sure that nothing was changed.
    pub(super) fn is_certain(&self) -> bool {
        match self {
            Self::Code { status, .. } => *status < 500 || self.is_throttling(),
            Self::Credentials { .. } | Self::Unmade { .. } => true,
            Self::Nonsense { .. } | Self::Timeout | Self::Connection { .. } => false,
        }
    }

    fn is_throttling(&self) -> bool {
        matches!(self, Self::Code { code, .. } if is_throttling(code))
    }

    /// The text of a refusal of a change set because of single records in it: another set may be taken.
    pub(super) fn invalid_batch(&self) -> Option<&str> {
        match self {
            Self::Code { code, text, .. } if code == "InvalidChangeBatch" || code == "InvalidInput" => {
                Some(text).filter(|text| !is_elsewhere(text) && !is_full(text)).map(String::as_str)
            }
            _ => None,
        }
    }

    /// The error as a person is told it. `target` names the zone.
    pub(super) fn explain(&self, target: &str, doing: Doing) -> EdgeError {
        let (trouble, what, hint) = match self {
            Self::Code { status, code, text } => explain_code(*status, code, text, doing),
            Self::Nonsense { status } if *status == 429 => {
                (Trouble::Busy, "too many requests (HTTP 429)".to_owned(), "")
            }
            Self::Nonsense { status } if *status >= 500 => {
                (busy_or_away(doing), format!("HTTP {status}"), "")
            }
            Self::Nonsense { status } => {
                let what = format!("something answers, but not as Route 53 does (HTTP {status})");
                (Trouble::Unreachable, what, NETWORK)
            }
            Self::Timeout => (Trouble::Unreachable, "no answer in time".to_owned(), NETWORK),
            Self::Connection { text } => {
                (Trouble::Unreachable, format!("no connection: {}", brief(text)), NETWORK)
            }
            Self::Credentials { text } => {
                (Trouble::Refused, format!("no AWS credentials: {}", brief(text)), NO_CREDENTIALS)
            }
            Self::Unmade { text } => {
                (Trouble::Refused, format!("the request cannot be made: {}", brief(text)), NETWORK)
            }
        };
        EdgeError { trouble, message: format!("route 53, {target}: {what}"), hint: hint.to_owned() }
    }
}

fn busy_or_away(doing: Doing) -> Trouble {
    match doing {
        Doing::Listing => Trouble::Unreachable,
        Doing::Changing => Trouble::Busy,
    }
}

/// Whether the names are not below the zone's.
fn is_elsewhere(text: &str) -> bool {
    text.contains("not permitted in zone")
}

/// Whether the zone may have no more records.
fn is_full(text: &str) -> bool {
    text.contains("limit of")
}

fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "SlowDown"
            | "PriorRequestNotComplete"
    )
}

fn explain_code(status: u16, code: &str, text: &str, doing: Doing) -> (Trouble, String, &'static str) {
    let told = if text.is_empty() { brief(code) } else { format!("{}: {}", brief(code), brief(text)) };
    match code {
        "AccessDenied" | "AccessDeniedException" | "NotAuthorized" => (Trouble::Refused, told, POLICY),
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "OptInRequired" => (Trouble::Refused, told, KEYS),
        // The text may repeat what was signed: it stays here.
        "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "RequestTimeTooSkewed" => {
            (Trouble::Refused, format!("{code}: the signature is not accepted"), CLOCK)
        }
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => (Trouble::Refused, told, EXPIRED),
        "NoSuchHostedZone" => (Trouble::Refused, told, ZONE),
        "InvalidChangeBatch" if is_elsewhere(text) => (Trouble::Refused, told, DOMAIN),
        "InvalidChangeBatch" if is_full(text) => (Trouble::Refused, told, QUOTA),
        "LimitsExceeded" => (Trouble::Refused, told, QUOTA),
        "InvalidChangeBatch" => (Trouble::Busy, told, ""),
        code if is_throttling(code) => (Trouble::Busy, told, ""),
        _ if status == 429 => (Trouble::Busy, told, ""),
        _ if status >= 500 => (busy_or_away(doing), told, ""),
        _ => (Trouble::Refused, told, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(status: u16, code: &str, text: &str) -> Failure {
        Failure::Code { status, code: code.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn each_failure_has_its_trouble_and_its_hint() {
        use Doing::{Changing, Listing};
        use Trouble::{Busy, Refused, Unreachable};
        let permitted = "RRSet with DNS name a.b. is not permitted in zone c.";
        let limit = "Number of records limit of 10000 exceeded";
        for (failure, doing, trouble, hint, certain) in [
            (code(403, "AccessDenied", "User x is not authorized"), Listing, Refused, POLICY, true),
            (code(403, "AccessDenied", ""), Changing, Refused, POLICY, true),
            (code(403, "InvalidClientTokenId", "invalid"), Listing, Refused, KEYS, true),
            (code(403, "SignatureDoesNotMatch", "expired"), Listing, Refused, CLOCK, true),
            (code(403, "ExpiredToken", "expired"), Listing, Refused, EXPIRED, true),
            (code(404, "NoSuchHostedZone", "no zone"), Listing, Refused, ZONE, true),
            (code(400, "InvalidInput", "bad"), Listing, Refused, "", true),
            (code(400, "Throttling", "Rate exceeded"), Listing, Busy, "", true),
            (code(400, "Throttling", "Rate exceeded"), Changing, Busy, "", true),
            (code(503, "Throttling", "Rate exceeded"), Changing, Busy, "", true),
            (code(400, "PriorRequestNotComplete", "still"), Changing, Busy, "", true),
            (code(400, "InvalidChangeBatch", "exists"), Changing, Busy, "", true),
            (code(400, "InvalidChangeBatch", permitted), Changing, Refused, DOMAIN, true),
            (code(400, "InvalidChangeBatch", limit), Changing, Refused, QUOTA, true),
            (code(500, "InternalFailure", ""), Changing, Busy, "", false),
            (code(503, "ServiceUnavailable", ""), Listing, Unreachable, "", false),
            (Failure::Nonsense { status: 502 }, Listing, Unreachable, "", false),
            (Failure::Nonsense { status: 502 }, Changing, Busy, "", false),
            (Failure::Nonsense { status: 429 }, Listing, Busy, "", false),
            (Failure::Nonsense { status: 200 }, Listing, Unreachable, NETWORK, false),
            (Failure::Timeout, Listing, Unreachable, NETWORK, false),
            (Failure::Timeout, Changing, Unreachable, NETWORK, false),
            (Failure::Connection { text: "refused".into() }, Changing, Unreachable, NETWORK, false),
            (Failure::Credentials { text: "none".into() }, Listing, Refused, NO_CREDENTIALS, true),
            (Failure::Unmade { text: "x".into() }, Listing, Refused, NETWORK, true),
        ] {
            let error = failure.explain("zone Z1", doing);
            assert_eq!((error.trouble, error.hint.as_str()), (trouble, hint), "{failure:?} {doing:?}");
            assert_eq!(failure.is_certain(), certain, "{failure:?}");
            assert!(error.message.starts_with("route 53, zone Z1: "), "{}", error.message);
        }
    }

    #[test]
    fn foreign_text_is_one_short_line_and_what_was_signed_is_left_out() {
        let long = format!("first line\n\tsecond \u{7} {}", "x".repeat(5_000));
        let error = code(400, "InvalidInput", &long).explain("zone Z1", Doing::Listing);
        assert!(error.message.contains("InvalidInput: first line second xxx"), "{}", error.message);
        assert!(error.message.chars().count() < 300 && !error.message.contains(char::is_control));
        let signed = "The Canonical String should have been x-amz-security-token:SESSION";
        let error = code(403, "SignatureDoesNotMatch", signed).explain("zone Z1", Doing::Listing);
        assert_eq!(error.message, "route 53, zone Z1: SignatureDoesNotMatch: the signature is not accepted");
    }
}
