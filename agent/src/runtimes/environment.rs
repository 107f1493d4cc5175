//! What is in a runtime's environment, and what a deployment may not set there.

use std::collections::BTreeMap;

use nebula_core::runtime::Driver;

use super::Unready;
use crate::replica::spec::Spec;

/// What of the agent's own environment every container gets: the way to the network, and the time zone.
const PASSED_ON: [&str; 9] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "TZ",
];
/// And what those get besides whose runtime fetches from the Hugging Face hub.
const PASSED_ON_FOR_HUB: [&str; 2] = ["HF_TOKEN", "HF_ENDPOINT"];

/// What the agent decides: the port, and which GPUs a replica sees.
const DECIDED: [&str; 2] = ["PORT", "CUDA_VISIBLE_DEVICES"];
/// In a container besides: NVIDIA's container runtime obeys these, GPUs of others included, and has let the loader's
/// variables reach programs that it runs outside.
const DECIDED_INSIDE: [&str; 7] = [
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_MIG_CONFIG_DEVICES",
    "NVIDIA_MIG_MONITOR_DEVICES",
    "NVIDIA_IMEX_CHANNELS",
    "LD_PRELOAD",
    "LD_AUDIT",
];

/// Whether the deployment's environment leaves alone what is not its own.
pub(super) fn check(spec: &Spec, driver: Driver) -> Result<(), Unready> {
    let inside: &[&str] = match driver {
        Driver::Docker => &DECIDED_INSIDE,
        Driver::Process => &[],
    };
    let decided = |name: &&String| DECIDED.iter().chain(inside).any(|decided| decided == name);
    match spec.env.keys().find(decided) {
        None => Ok(()),
        Some(name) => Err(Unready(format!(
            "the deployment may not set {name}: the agent decides on ports, GPUs and what keeps containers apart; \
             take it out of its env"
        ))),
    }
}

/// What a container gets of the agent's environment, which `look_up` reads.
pub(super) fn passed_on(hub: bool, look_up: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let for_hub: &[&str] = if hub { &PASSED_ON_FOR_HUB } else { &[] };
    let names = PASSED_ON.iter().chain(for_hub);
    names.filter_map(|name| Some(((*name).to_owned(), look_up(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_what_is_named_is_passed_on() {
        let all = |hub| passed_on(hub, |name| Some(format!("of {name}")));
        assert_eq!(all(true).get("HF_TOKEN").map(String::as_str), Some("of HF_TOKEN"));
        assert!(!all(false).contains_key("HF_TOKEN"));
        for name in ["HTTPS_PROXY", "no_proxy", "TZ"] {
            assert!(all(false).contains_key(name), "{name}");
        }
        let secret = |name: &str| name.starts_with("NEBULA_") || name.starts_with("AWS_") || name == "PATH";
        assert!(!all(true).keys().any(|name| secret(name)));
        assert!(passed_on(true, |_| None).is_empty());
    }
}
