//! What an Engine's error means: for a pull, whether trying again helps; for a start, whose fault it is.

use super::create::StartError;
use super::engine::EngineError;
use crate::runtimes::ContainerPlan;

/// Why an image was not pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The registry has no such image.
    NoImage,
    /// The registry has no such image, or not for us: some do not say which.
    Hidden,
    /// It wants a login, or another one.
    Denied,
    /// What came is not what was named.
    Digest,
    /// There is no room for it.
    DiskFull,
    /// The name is none.
    Name,
    /// There is none for this kind of machine.
    Platform,
    /// The registry's certificate is not trusted, or it has none.
    Tls,
    /// Trying again may help.
    Passing,
}

/// What the Engine says, in small letters, and what that means; the first that fits.
const SIGNS: [(&str, Fault); 24] = [
    ("no space left on device", Fault::DiskFull),
    ("disk quota exceeded", Fault::DiskFull),
    ("verification failed for digest", Fault::Digest),
    ("does not match digest", Fault::Digest),
    ("digest mismatch", Fault::Digest),
    ("pull access denied", Fault::Hidden),
    ("unauthorized", Fault::Denied),
    ("authentication required", Fault::Denied),
    ("no basic auth credentials", Fault::Denied),
    ("incorrect username or password", Fault::Denied),
    ("access to the resource is denied", Fault::Denied),
    ("403 forbidden", Fault::Denied),
    ("invalid reference format", Fault::Name),
    ("repository name must", Fault::Name),
    ("invalid repository name", Fault::Name),
    ("manifest unknown", Fault::NoImage),
    ("name unknown", Fault::NoImage),
    ("repository name not known", Fault::NoImage),
    ("no such image", Fault::NoImage),
    ("no matching manifest", Fault::Platform),
    ("x509:", Fault::Tls),
    ("server gave http response to https client", Fault::Tls),
    ("certificate", Fault::Tls),
    ("blob unknown", Fault::NoImage),
];

/// What an error of a pull means.
pub(super) fn of_pull(error: &EngineError) -> Fault {
    let EngineError::Answered { status, message } = error else { return Fault::Passing };
    let message = message.to_ascii_lowercase();
    let said = SIGNS.iter().find(|(sign, _)| message.contains(sign)).map(|(_, fault)| *fault);
    said.unwrap_or(match status {
        400 => Fault::Name,
        401 | 403 => Fault::Denied,
        404 => Fault::NoImage,
        _ => Fault::Passing,
    })
}

/// What an error of a start means.
pub(super) fn of_start(error: &EngineError, plan: &ContainerPlan) -> StartError {
    let EngineError::Answered { status, message } = error else {
        return StartError::Engine(error.to_string());
    };
    let lower = message.to_ascii_lowercase();
    let says = |sign: &str| lower.contains(sign);
    let port = plan.host_port;
    if says("port is already allocated") || says("address already in use") || says("ports are not available")
    {
        return StartError::PortTaken(format!("port {port} is taken: {message}"));
    }
    if says("could not select device driver") {
        return StartError::Refused(format!(
            "the Docker Engine cannot hand out GPUs: install the NVIDIA container toolkit there and restart Docker ({message})"
        ));
    }
    if *status == 404 && says("no such image") {
        return StartError::Refused(format!("the image {} is gone again: {message}", plan.image));
    }
    StartError::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, message: &str) -> EngineError {
        EngineError::Answered { status, message: message.to_owned() }
    }

    #[test]
    fn what_a_failed_pull_means() {
        for (status, message, fault) in [
            (
                404,
                "manifest for localhost:5000/x:1 not found: manifest unknown: manifest unknown",
                Fault::NoImage,
            ),
            (404, "something of this registry's own", Fault::NoImage),
            (
                404,
                "pull access denied for x, repository does not exist or may require 'docker login'",
                Fault::Hidden,
            ),
            (500, "Head \"http://r/v2/x/manifests/1\": no basic auth credentials", Fault::Denied),
            (500, "unauthorized: authentication required", Fault::Denied),
            (0, "filesystem layer verification failed for digest sha256:00", Fault::Digest),
            (0, "write /var/lib/docker/tmp/GetImageBlob1: no space left on device", Fault::DiskFull),
            (400, "invalid reference format: repository name must be lowercase", Fault::Name),
            (
                400,
                "no such image: X: invalid reference format: repository name must be lowercase",
                Fault::Name,
            ),
            (404, "no matching manifest for linux/arm64 in the manifest list entries", Fault::Platform),
            (500, "Get \"https://r/v2/\": x509: certificate signed by unknown authority", Fault::Tls),
            (500, "Get \"http://r/v2/\": dial tcp 127.0.0.1:9: connect: connection refused", Fault::Passing),
            (500, "received unexpected HTTP status: 503 Service Unavailable", Fault::Passing),
            (500, "toomanyrequests: You have reached your pull rate limit", Fault::Passing),
            (0, "unexpected EOF", Fault::Passing),
        ] {
            assert_eq!(of_pull(&said(status, message)), fault, "{message}");
        }
        let away = EngineError::Absent { host: "h".to_owned(), cause: "reset".to_owned() };
        assert_eq!(of_pull(&away), Fault::Passing);
    }
}
